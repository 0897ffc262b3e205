"""Hand-made features, the baseline on them, and the leaderboard of all models."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from fake_patches import LABELS, fake_dataset
from typer.testing import CliRunner

from datasets.patches import load_patches
from main import app
from train.baseline import BaselineConfig, fit_baseline
from train.evaluator import evaluate
from train.features import FEATURE_NAMES, features
from train.leaderboard import benchmark_models
from train.run import Run
from train.settings import TrainError

SMALL = BaselineConfig(iterations=10, leaves=4, seed=1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fake") / "dataset"
    return fake_dataset(folder, splits=("train",) * 6 + ("val", "test"), patches=8)


def _named(pixels: np.ndarray) -> dict[str, float]:
    found = features(pixels[None])[0]
    return dict(zip(FEATURE_NAMES, found.tolist(), strict=True))


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


# Features.


def test_features_of_any_size() -> None:
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES)
    for height, width in ((32, 32), (45, 39)):
        pixels = _noise(70, height, width, 3)
        found = features(pixels)
        assert found.shape == (70, len(FEATURE_NAMES))
        assert found.dtype == np.float32
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found[66:], features(pixels[66:]), rtol=1e-3, atol=1e-4)
    assert np.isfinite(features(np.zeros((1, 32, 32, 3), np.uint8))).all()
    assert features(_noise(0, 32, 32, 3)).shape == (0, len(FEATURE_NAMES))
    for wrong in (_noise(32, 32, 3), _noise(1, 31, 40, 3), _noise(1, 32, 32, 3).astype(float)):
        with pytest.raises(ValueError, match="Received"):
            features(wrong)


def test_a_block_grid_shows_wherever_it_starts() -> None:
    blocks = _noise(10, 10, 3).repeat(8, axis=0).repeat(8, axis=1)
    plain = _named(_noise(64, 64, 3))
    for top, left in ((0, 0), (3, 6)):
        found = _named(blocks[top : top + 64, left : left + 64])
        assert found["dct_zeros_1"] == pytest.approx(1)
        assert found["dct_zeros_over_mean_1"] > 0.5
        assert found["blockiness_luma_across_8"] > 2 > plain["blockiness_luma_across_8"]
        assert found["blockiness_luma_down_8"] > 2 > plain["blockiness_luma_down_8"]
        assert found["blocks_beyond_1"] < -10  # all blocks are multiples of one
        assert found["blockiness_luma_across_8"] > found["blockiness_luma_across_7"]
    assert plain["dct_zeros_1"] < 0.1
    assert plain["blocks_beyond_1"] > -1


def test_colours_and_chroma() -> None:
    pixels = _noise(64, 64, 3)
    colours = {tuple(colour) for colour in pixels.reshape(-1, 3).tolist()}
    found = _named(pixels)
    assert found["colours"] == pytest.approx(np.log(len(colours)), rel=1e-4)
    assert found["levels_green"] == pytest.approx(np.log(len(np.unique(pixels[..., 1]))), rel=1e-4)
    few = _named(pixels // 64 * 64)
    assert few["colours"] == pytest.approx(np.log(64), rel=1e-4)
    gray = _named(np.repeat(pixels[..., :1], 3, axis=2))
    assert gray["cb_difference_across_1"] < -5 < found["cb_difference_across_1"]
    assert gray["levels_red"] == gray["levels_blue"]


def test_smooth_pictures_have_zero_wavelet_coefficients() -> None:
    place = np.arange(64)
    ramp = (place[:, None] + place)[..., None].repeat(3, axis=2).astype(np.uint8)
    found, plain = _named(ramp), _named(_noise(64, 64, 3))
    for name in (n for n in FEATURE_NAMES if n.startswith("wavelet") and "over" not in n):
        assert found[name] == pytest.approx(1)
        assert plain[name] < 0.2


# The baseline.


def test_the_baseline_learns_what_it_is_shown(dataset: Path) -> None:
    patches = load_patches(dataset)
    done: list[tuple[int, int]] = []
    baseline = fit_baseline(patches, SMALL, lambda *at: done.append(at))
    assert baseline.patches == 6 * 8 * 3
    assert done[-1] == (144, 144)
    report = evaluate(baseline.predict, patches, "test", labels=baseline.labels)
    assert report.patch.accuracy > 0.9
    assert baseline.predict(patches.pixels[:0]).shape == (0, 3)
    again = fit_baseline(patches, SMALL)
    np.testing.assert_array_equal(
        again.predict(patches.pixels[:9]), baseline.predict(patches.pixels[:9])
    )
    few = fit_baseline(patches, BaselineConfig(patches=30, iterations=1))
    assert few.patches == 30


def test_a_class_without_training_patches_has_no_probability(tmp_path: Path) -> None:
    folder = fake_dataset(tmp_path / "dataset", labels=["jpeg", "kmeans"], patches=12)
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "labels": LABELS}))
    patches = load_patches(folder)
    answer = fit_baseline(patches, SMALL).predict(patches.pixels[:5])
    np.testing.assert_array_equal(answer[:, 0], 0)
    np.testing.assert_allclose(answer.sum(axis=1), 1)
    single = load_patches(fake_dataset(tmp_path / "single", labels=["jpeg"]))
    with pytest.raises(TrainError, match="two classes"):
        fit_baseline(single)


# The leaderboard.


def test_leaderboard(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "board"
    events: list[dict] = []
    first = benchmark_models(dataset, out, models=["lenet"], minutes=0.02, progress=events.append)
    assert [entry.model for entry in first] == ["lenet"]
    assert {event["model"] for event in events} == {"lenet"}
    run = Run.load(out / "lenet")
    patches = load_patches(dataset)
    assert first[0].test_accuracy == pytest.approx(
        evaluate(run.predict, patches, "test").patch.accuracy
    )
    assert first[0].val_accuracy == pytest.approx(
        evaluate(run.predict, patches, "val").patch.accuracy
    )
    assert first[0].parameters == run.model.count_params()
    # More models join; what is done is neither trained nor judged again.
    events.clear()
    both = benchmark_models(
        dataset, out, models=["lenet", "baseline"], minutes=0.02, progress=events.append
    )
    assert {event["model"] for event in events} == {"baseline"}
    assert first[0] in both
    assert [entry.val_accuracy for entry in both] == sorted(
        (entry.val_accuracy for entry in both), reverse=True
    )
    content = json.loads((out / "leaderboard.json").read_text())["models"]
    assert [row["model"] for row in content] == [entry.model for entry in both]
    with (out / "leaderboard.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["test_image_accuracy"]) for row in rows] == [
        entry.test_image_accuracy for entry in both
    ]
    with pytest.raises(TrainError, match="other settings"):
        benchmark_models(dataset, out, models=["lenet"], minutes=1)


def test_what_has_no_leaderboard(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="among residual,"):
        benchmark_models(dataset, tmp_path / "board", models=["vgg"])
    untested = fake_dataset(tmp_path / "untested", splits=("train", "val"))
    with pytest.raises(TrainError, match="Received: train, val"):
        benchmark_models(untested, tmp_path / "board")
    assert not (tmp_path / "board").exists()


def test_command_line(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "board"
    command = ["benchmark-models", str(dataset), "--out", str(out), "--models", "lenet"]
    command += ["--minutes", "0.01"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    assert "lenet" in result.stdout
    assert "model lenet" in result.stderr
    again = CliRunner().invoke(app, [*command, "--json"])
    assert json.loads(again.stdout) == json.loads((out / "leaderboard.json").read_text())
    wrong = CliRunner().invoke(app, [*command[:-4], "--models", "vgg"])
    assert wrong.exit_code == 2
    assert "Received: ['vgg']" in wrong.stderr
