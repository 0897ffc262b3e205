"""What a codec's curves are expected to be: near the truth, and nearer with each encode."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import photograph_like

from imagecompression import CODECS, Jpeg, Jpeg2000, KMeans, RateSearch, RatioTarget, SsimTarget
from imagecompression.rate_model import (
    FEATURES,
    KINDS,
    CurveModel,
    CurvePrediction,
    Seen,
    picture_features,
    setting_names,
)

LOSSY = [name for name, codec in CODECS.items() if codec.knob is not None]


@pytest.mark.parametrize("name", LOSSY)
def test_each_codec_has_numbers_that_fit_together(name: str) -> None:
    codec = CODECS[name]()
    model = CurveModel.of(codec)
    assert codec.knob is not None
    ends = (codec.knob.coordinate(0), codec.knob.coordinate(codec.knob.last_index))
    assert model.coordinates[[0, -1]] == pytest.approx(ends, abs=1e-3), "fit the models again"
    assert (np.diff(model.coordinates) > 0).all()
    assert (np.diff(model.knots) > 0).all()
    assert model.reference.shape == (2, len(model.coordinates))
    count = len(model.knots)
    assert model.mean.shape == (2, count)
    assert model.by_feature.shape == (FEATURES, 2, count)
    assert model.components.shape[1:] == (2, count)
    assert (model.noise > 0).all()
    # Every setting that dataset builds draw is known.
    drawn = {each for variant in codec.variants() for each in setting_names(variant)}
    assert drawn <= set(model.by_setting) | set(setting_names(codec)), "fit the models again"


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (7, 300), (9, 8, 3), (64, 64, 3)])
def test_features_of_any_picture(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    for picture in (
        np.zeros(shape, np.uint8),
        np.full(shape, 255, np.uint8),
        rng.integers(0, 256, shape, np.uint8),
    ):
        features = picture_features(picture)
        assert features.shape == (FEATURES,)
        assert np.isfinite(features).all()


def test_one_encode_tells_the_other_sizes() -> None:
    picture, codec = photograph_like(192, 256, 3), Jpeg()
    prediction = CurvePrediction(picture, codec)
    true = {q: -math.log(picture.size / len(Jpeg(quality=q).encode(picture))) for q in (30, 50, 85)}

    def error(seen: list[Seen]) -> float:
        guess, _ = prediction.curve("ratio", seen)([29, 49, 84])
        return float(np.abs(guess - list(true.values())).max())

    blind, informed = error([]), error([Seen("ratio", 49, true[50])])
    assert blind < 0.7
    assert informed < 0.2
    assert informed < blind


def test_a_measured_point_is_believed() -> None:
    picture = photograph_like(64, 64, 3)
    prediction = CurvePrediction(picture, Jpeg2000())
    for kind in KINDS:
        (blind,), (wide,) = prediction.curve(kind, [])([9000])
        truth = float(blind) + 0.5 * float(wide)
        (value,), (deviation,) = prediction.curve(kind, [Seen(kind, 9000, truth)])([9000])
        assert value == pytest.approx(truth, abs=0.02)
        assert deviation < 0.5 * wide
        (doubted,), _ = prediction.curve(kind, [Seen(kind, 9000, truth, error=100.0)])([9000])
        assert doubted == pytest.approx(float(blind), abs=0.01)


def test_an_unknown_setting_is_no_obstacle() -> None:
    picture = photograph_like(128, 128, 3)
    found = RateSearch(picture, KMeans(dithering=0.123)).to(RatioTarget(8))
    assert found.encodes <= 6


def test_few_encodes_for_many_targets() -> None:
    picture = photograph_like(256, 384, 3)
    search = RateSearch(picture, Jpeg())
    targets = [*map(RatioTarget, (12, 5, 40, 8, 20)), *map(SsimTarget, (0.95, 0.9))]
    assert sum(search.to(target).encodes for target in targets) <= 2 * len(targets)
