"""The unknown: strangeness of patches, the threshold, and how well a codec left out is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from scipy.stats import entropy
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from train.outputs import Outputs
from train.unknown import (
    FALSE_REJECTION,
    METHODS,
    UNKNOWN_FILE,
    EmbeddingDensity,
    Rejection,
    UnknownError,
    fit_density,
    fit_rejection,
    leave_one_out_auroc,
    method_aurocs,
    rejection_threshold,
    strangeness,
)

CLASSES, FEATURES = 4, 12
RNG = np.random.default_rng(0)
CENTRES = RNG.normal(0, 2, (CLASSES + 1, FEATURES))
MIXING = RNG.normal(0, 1, (FEATURES, FEATURES)) * np.logspace(-2, 1, FEATURES)


def embeddings(number: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Patches of one class; the last class is the one that was left out of training."""
    return ((CENTRES[number] + rng.normal(0, 1, (count, FEATURES))) @ MIXING).astype(np.float32)


def outputs(embedding: np.ndarray) -> Outputs:
    """What a network sure of itself would answer: the class whose centre lies nearest."""
    place = np.asarray(embedding @ np.linalg.inv(MIXING), np.float64)
    logits = 3 * place @ CENTRES[:CLASSES].T - 1.5 * (CENTRES[:CLASSES] ** 2).sum(axis=1)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    return Outputs(probabilities.astype(np.float32), logits.astype(np.float32), embedding)


def images(number: int, count: int, seed: int) -> list[Outputs]:
    rng = np.random.default_rng(seed)
    return [outputs(embeddings(number, 6, rng)) for _ in range(count)]


@pytest.fixture(scope="module")
def density() -> EmbeddingDensity:
    rng = np.random.default_rng(1)
    points = [embeddings(number, 300, rng) for number in range(CLASSES)]
    return fit_density(np.concatenate(points), np.repeat(range(CLASSES), 300))


def known_images(count: int, seed: int) -> list[Outputs]:
    return [image for number in range(CLASSES) for image in images(number, count, seed + number)]


def test_distances_against_a_second_way(density: EmbeddingDensity) -> None:
    rng = np.random.default_rng(1)
    points = np.concatenate([embeddings(number, 300, rng) for number in range(CLASSES)]).astype(
        float
    )
    classes = np.repeat(range(CLASSES), 300)
    means = np.stack([points[classes == number].mean(axis=0) for number in range(CLASSES)])
    inside = points - means[classes]
    spread = inside.std(axis=0)
    precision = LedoitWolf(assume_centered=True).fit(inside / spread).precision_
    some = embeddings(4, 5, rng).astype(float)
    wanted = [
        min(mahalanobis(x / spread, mean / spread, precision) for mean in means) ** 2 for x in some
    ]
    # Of one patch chance's share is not seen; unit covariance has as much as there are features.
    assert [density.distance(x[np.newaxis]) + FEATURES for x in some] == pytest.approx(wanted)
    middle = some.mean(axis=0) / spread
    own = np.cov((some / spread).T) / len(some)
    least = min(mahalanobis(middle, mean / spread, precision) for mean in means) ** 2
    assert density.distance(some) == pytest.approx(least - np.trace(own @ precision))


def test_the_number_of_patches_makes_no_picture_stranger(density: EmbeddingDensity) -> None:
    rng = np.random.default_rng(7)
    for number, (low, high) in {0: (-2.0, 2.0), CLASSES: (5.0, 1000.0)}.items():
        few, many = (
            [density.distance(embeddings(number, count, rng)) for _ in range(400)]
            for count in (3, 30)
        )
        assert low < np.mean(few) < high
        assert np.mean(few) == pytest.approx(np.mean(many), rel=0.1, abs=1.0)


def test_strangeness_is_what_the_papers_say(density: EmbeddingDensity) -> None:
    answers = outputs(embeddings(0, 7, np.random.default_rng(2)))
    free = -np.log(np.exp(answers.logits.astype(float)).sum(axis=1)).mean()
    assert strangeness("energy", answers) == pytest.approx(free)
    # A constant added to the logits does not change probabilities, but does change the energy.
    moved = answers._replace(logits=answers.logits - 5)
    assert strangeness("energy", moved) == pytest.approx(free + 5, rel=1e-4)
    pooled = np.exp(np.log(answers.probabilities.clip(1e-7)).mean(axis=0))
    wanted = entropy(pooled / pooled.sum())
    assert strangeness("entropy", answers) == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    sure = strangeness("max_softmax", answers)
    assert sure == pytest.approx(1 - answers.probabilities.max(axis=1).mean())
    with pytest.raises(UnknownError, match="Received: 'odin'"):
        strangeness("odin", answers, density)
    with pytest.raises(UnknownError, match="with a density"):
        strangeness("distance", answers)


def test_auroc_against_a_second_way() -> None:
    rng = np.random.default_rng(3)
    known, left_out = rng.integers(0, 10, 80), rng.integers(3, 12, 50)
    truth = np.repeat([0, 1], [80, 50])
    wanted = roc_auc_score(truth, np.concatenate([known, left_out]))
    assert leave_one_out_auroc(known, left_out) == pytest.approx(wanted)
    assert leave_one_out_auroc([1, 2], [3, 4]) == 1
    assert leave_one_out_auroc([1, 1], [1, 1]) == 0.5


def test_a_codec_left_out_is_told_by_its_distance(density: EmbeddingDensity) -> None:
    aurocs = method_aurocs(density, known_images(40, 10), images(CLASSES, 60, 20))
    assert set(aurocs) == set(METHODS)
    assert aurocs["distance"] > 0.95
    assert aurocs["distance"] >= aurocs["max_softmax"]
    known, left_out = (
        [strangeness("energy", image) for image in group]
        for group in (known_images(40, 10), images(CLASSES, 60, 20))
    )
    assert aurocs["energy"] == pytest.approx(leave_one_out_auroc(known, left_out))


def test_known_pictures_are_kept(density: EmbeddingDensity) -> None:
    validation = known_images(100, 30)
    rejection = fit_rejection(density, validation)
    rejected = [bool(rejection.reason(image)) for image in validation]
    assert 0 < np.mean(rejected) <= FALSE_REJECTION
    fresh = [bool(rejection.reason(image)) for image in known_images(100, 40)]
    assert np.mean(fresh) < 3 * FALSE_REJECTION


def test_unknown_pictures_are_told_with_a_reason(density: EmbeddingDensity) -> None:
    rejection = fit_rejection(density, known_images(50, 30))
    reasons = [rejection.reason(image) for image in images(CLASSES, 50, 50)]
    assert np.mean([bool(reason) for reason in reasons]) > 0.8
    assert "no class explains it" in max(reasons)


def test_scores_add_up_in_their_own_units(density: EmbeddingDensity) -> None:
    rejection = Rejection({"distance": (1.0, 2.0), "entropy": (0.3, 0.4)}, 0.0, density)
    image = images(0, 1, 3)[0]
    distance, undecided = (strangeness(method, image, density) for method in rejection.units)
    assert rejection.score(image) == pytest.approx((distance - 1) / 2 + (undecided - 0.3) / 0.4)


def test_threshold_gives_up_at_most_its_share() -> None:
    for count in (1, 7, 19, 20, 21, 400):
        scores = np.random.default_rng(count).normal(size=count)
        threshold = rejection_threshold(scores)
        assert np.mean(scores > threshold) <= FALSE_REJECTION < np.mean(scores >= threshold)


def test_file_keeps_the_rejection(density: EmbeddingDensity, tmp_path: Path) -> None:
    assert Rejection.load(tmp_path) is None
    rejection = fit_rejection(density, known_images(5, 30), model_sha256="ab")
    rejection.save(tmp_path)
    data = (tmp_path / UNKNOWN_FILE).read_bytes()
    found = Rejection.load(tmp_path)
    assert found is not None
    assert found.threshold == rejection.threshold
    assert found.model_sha256 == "ab"
    image = images(CLASSES, 1, 50)[0]
    assert found.score(image) == rejection.score(image)
    found.save(tmp_path)
    assert (tmp_path / UNKNOWN_FILE).read_bytes() == data


FACTS = {
    "units": {"distance": [0.0, 1.0], "entropy": [0.0, 1.0]},
    "threshold": 1.0,
    "model_sha256": "",
}


@pytest.mark.parametrize(
    "change",
    [
        {"facts": np.array(json.dumps(FACTS | {"units": {"odin": [0, 1]}}))},
        {"facts": np.array(json.dumps(FACTS | {"units": {"energy": [0, 1], "distance": [0, 1]}}))},
        {"facts": np.array(json.dumps(FACTS | {"units": {"distance": [0, 0], "entropy": [0, 1]}}))},
        {"facts": np.array(json.dumps(FACTS | {"units": {}}))},
        {"facts": np.array(json.dumps(FACTS | {"threshold": float("nan")}))},
        {"facts": np.array("{")},
        {"facts": np.array("[]")},
        {"means": np.full((CLASSES, FEATURES), np.nan)},
        {"whitening": np.eye(3)},
        {"means": np.array([{}], dtype=object)},  # pickled: never read
    ],
)
def test_damaged_files_are_explained(
    density: EmbeddingDensity, tmp_path: Path, change: dict[str, np.ndarray]
) -> None:
    fit_rejection(density, known_images(5, 30)).save(tmp_path)
    with np.load(tmp_path / UNKNOWN_FILE) as content:
        arrays = dict(content)
    np.savez(tmp_path / UNKNOWN_FILE, **(arrays | change))
    with pytest.raises(UnknownError, match=r"impossible|cannot be read|calibrate anew"):
        Rejection.load(tmp_path)
    (tmp_path / UNKNOWN_FILE).write_bytes(b"PK no archive")
    with pytest.raises(UnknownError, match="cannot be read"):
        Rejection.load(tmp_path)


def test_what_cannot_be_fitted(density: EmbeddingDensity) -> None:
    with pytest.raises(UnknownError, match="more patches than classes"):
        fit_density(np.zeros((2, 3)), [0, 1])
    with pytest.raises(UnknownError, match="at least one"):
        fit_rejection(density, [])
    # Features that never change are no reason to fail.
    points = np.random.default_rng(0).normal(size=(30, 3)) * [1, 0, 1] + [0, 7, 0]
    assert np.isfinite(fit_density(points, np.arange(30) % 2).distance(points))
