"""Models, batches, training, runs and the search for settings."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from fake_patches import LABELS, fake_dataset

from datasets.patches import load_patches
from train.batches import PatchBatches, turned
from train.layers import HighPassResiduals, residual_kernel
from train.models import MODELS
from train.run import Run, RunError
from train.trainer import TrainConfig, TrainError, split_batches, train
from train.tuner import tune

SMALL = TrainConfig(epochs=3, batch_size=8, width=6, dropout=0.3, seed=3)


class Killed(Exception):
    """What the tests throw from a progress function to end a training."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_dataset(tmp_path_factory.mktemp("fake") / "dataset")


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An uninterrupted training at the settings `SMALL`."""
    return train(dataset, tmp_path_factory.mktemp("whole") / "run", SMALL)


# Models: every builder through one harness.


@pytest.mark.parametrize("name", MODELS)
def test_builder_contract(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for size in (32, 47):
        model = MODELS[name]((size, size, 3), 5, width=6, dropout=0.5)
        pixels = rng.integers(0, 256, (3, size, size, 3), np.uint8)
        before = pixels.copy()
        answer = model.predict_on_batch(pixels)
        assert answer.shape == (3, 5)
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(answer, model.predict_on_batch(pixels.astype(np.float32)))
        np.testing.assert_array_equal(pixels, before)
    assert not model.compiled
    assert model.name == name
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True, compile=False)
    np.testing.assert_array_equal(loaded.predict_on_batch(pixels), answer)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("shape", "classes"), [((31, 31, 3), 2), ((32, 32, 1), 2), ((32, 32, 3), 1)]
)
def test_builders_refuse_what_cannot_work(
    name: str, shape: tuple[int, int, int], classes: int
) -> None:
    with pytest.raises(ValueError, match="Received"):
        MODELS[name](shape, classes)


def test_default_model_is_compact() -> None:
    model = MODELS["residual"]((64, 64, 3), 7)
    assert 100_000 < model.count_params() < 250_000


def test_residuals_are_high_pass_and_grid_free() -> None:
    kernel = residual_kernel()
    np.testing.assert_allclose(kernel.sum(axis=(0, 1)), 0, atol=1e-6)
    layer = HighPassResiduals()
    flat = np.full((1, 40, 40, 3), 77, np.uint8)
    np.testing.assert_allclose(np.asarray(layer(flat)), 0, atol=1e-5)
    assert tuple(layer(flat).shape) == layer.compute_output_shape(flat.shape) == (1, 36, 36, 36)
    noise = np.random.default_rng(0).integers(0, 256, (1, 40, 40, 3), np.uint8)
    moved = np.asarray(layer(noise[:, 1:, 3:]))
    np.testing.assert_allclose(moved, np.asarray(layer(noise))[:, 1:, 3:], atol=1e-5)
    # First channel: horizontal difference of Y at tanh(r / 4).
    luma = noise[0].astype(float) @ [0.299, 0.587, 0.114]
    expected = np.tanh((luma[2:-2, 2:-2] - luma[2:-2, 1:-3]) / 4)
    np.testing.assert_allclose(np.asarray(layer(noise))[0, ..., 0], expected, atol=1e-3)
    with pytest.raises(ValueError, match="RGB"):
        layer.build((None, 40, 40, 1))


# Batches.


def _batches(**options: object) -> PatchBatches:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), np.uint8)
    rows = np.arange(5, 47)
    classes = (rows % 7 == 0).astype(np.int32)
    return PatchBatches(pixels, rows, classes, 10, **options)  # type: ignore[arg-type]


def test_batches_follow_from_seed_and_epoch() -> None:
    one, two = _batches(training=True, seed=1), _batches(training=True, seed=1)
    first = [one[i] for i in range(len(one))]
    one.epoch = 1
    second = [one[i] for i in range(len(one))]
    two.epoch = 1
    for kept, again in zip(second, [two[i] for i in range(len(two))], strict=True):
        for a, b in zip(kept, again, strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0][0], second[0][0])
    assert not np.array_equal(first[0][0], _batches(training=True, seed=2)[0][0])


def test_batches_hold_every_row_once_and_only_turn_it() -> None:
    plain, training = _batches(), _batches(training=True)

    def patches(batches: PatchBatches) -> list[np.ndarray]:
        return [patch for i in range(len(batches)) for patch in batches[i][0]]

    def name(patch: np.ndarray) -> bytes:  # the same for all turns of a patch
        return min(turned(patch, turn).tobytes() for turn in range(8))

    assert sorted(map(name, patches(plain))) == sorted(map(name, patches(training)))
    assert {len(plain[i][0]) for i in range(len(plain))} <= {8, 9}
    assert len(patches(plain)) == 42
    before, after = ({name(p): p.tobytes() for p in patches(b)} for b in (plain, training))
    assert sum(before[key] != after[key] for key in before) > 30
    assert len({turned(patches(plain)[0], turn).tobytes() for turn in range(8)}) == 8


def test_classes_weigh_the_same() -> None:
    batches = _batches()
    classes = np.concatenate([batches[i][1] for i in range(len(batches))])
    weights = np.concatenate([batches[i][2] for i in range(len(batches))])
    assert weights[classes == 0].sum() == pytest.approx(weights[classes == 1].sum())
    assert weights.mean() == pytest.approx(1)


# Training.


def test_run_directory(whole: Run, dataset: Path) -> None:
    names = {path.name for path in whole.path.iterdir()}
    assert names == {
        "config.json",
        "environment.json",
        "history.csv",
        "labels.json",
        "manifest_head.json",
        "model.keras",
        "sources.json",
        "tensorboard",
    }
    assert [row["epoch"] for row in whole.history] == [1, 2, 3]
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "seconds"} <= set(whole.history[0])
    assert (whole.labels, whole.patch_size) == (LABELS, 32)
    table = load_patches(dataset).table.to_pylist()
    assert set(whole.sources["train"]) == {
        row["source_sha256"] for row in table if row["split"] == "train"
    }
    assert len(whole.sources["val"]) == 1
    assert whole.chosen_by == "val_loss"
    text = "".join(path.read_text() for path in whole.path.glob("*.json"))
    assert str(dataset.parent) not in text
    assert str(Path.cwd()) not in text
    loaded = Run.load(whole.path)
    assert loaded.config["train"]["width"] == 6
    pixels = load_patches(dataset).pixels[:5]
    np.testing.assert_array_equal(loaded.predict(pixels), whole.predict(pixels))
    assert loaded.predict(pixels[:0]).shape == (0, 3)
    # A finished run is returned as it is, and not trained over.
    assert train(dataset, whole.path, SMALL).history == whole.history


def test_a_killed_run_ends_as_an_uninterrupted_one(
    whole: Run, dataset: Path, tmp_path: Path
) -> None:
    def kill(event: dict) -> None:
        if event["epoch"] == 2 and event["event"] == "batch" and event["batch"] == 3:
            raise Killed

    with pytest.raises(Killed):
        train(dataset, tmp_path / "run", SMALL, kill)
    with pytest.raises(RunError, match="not finished"):
        Run.load(tmp_path / "run")
    events: list[dict] = []
    run = train(dataset, tmp_path / "run", SMALL, events.append)
    assert events[0]["epoch"] == 2
    assert events[-1]["share"] == pytest.approx(1)
    for resumed, straight in zip(run.history, whole.history, strict=True):
        for name in set(straight) - {"seconds"}:
            assert resumed[name] == pytest.approx(straight[name], rel=1e-3, abs=1e-4), name
    for mine, other in zip(run.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-3)


def test_a_tiny_set_is_memorised(tmp_path: Path) -> None:
    """Without validation patches, so that the last epoch is kept."""
    dataset = fake_dataset(tmp_path / "dataset", splits=("train", "train"), patches=16)
    config = TrainConfig(
        epochs=10, batch_size=8, width=8, dropout=0.0, learning_rate=5e-3, patience=10
    )
    run = train(dataset, tmp_path / "run", config)
    patches = load_patches(dataset)
    truth = [LABELS.index(label) for label in patches.table["label"].to_pylist()]
    assert np.mean(run.predict(patches.pixels).argmax(axis=1) == truth) == 1
    assert "val_loss" not in run.history[0]
    assert run.sources["val"] == []
    assert run.chosen_by == "last epoch"


def test_the_minutes_end_a_training(dataset: Path, tmp_path: Path) -> None:
    config = TrainConfig(model="lenet", epochs=100_000, patience=100_000, minutes=0.02)
    run = train(dataset, tmp_path / "run", config)
    assert run.history[-1]["seconds"] < 30
    assert run.history[-1]["learning_rate"] == pytest.approx(0, abs=1e-6)


def test_what_cannot_be_trained(dataset: Path, tmp_path: Path, whole: Run) -> None:
    single = fake_dataset(tmp_path / "single", labels=["jpeg"])
    with pytest.raises(TrainError, match="two classes"):
        train(single, tmp_path / "run", SMALL)
    untrained = fake_dataset(tmp_path / "untrained", splits=("val", "test"))
    with pytest.raises(TrainError, match="no patch in the train split"):
        train(untrained, tmp_path / "run", SMALL)
    assert not (tmp_path / "run").exists()
    with pytest.raises(TrainError, match="other settings"):
        train(dataset, whole.path, TrainConfig())
    with pytest.raises(TrainError, match="not empty"):
        train(dataset, dataset, SMALL)
    for wrong in ({"model": "vgg"}, {"epochs": 0}, {"learning_rate": -1.0}, {"minutes": 0.0}):
        with pytest.raises(TrainError, match="Received"):
            TrainConfig(**wrong)  # type: ignore[arg-type]


def test_no_validation_patches_means_none(tmp_path: Path) -> None:
    patches = load_patches(fake_dataset(tmp_path / "dataset", splits=("train",)))
    assert split_batches(patches, SMALL)[1] is None


def test_broken_runs_are_explained(whole: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run directory"):
        Run.load(tmp_path)
    for name in ("config.json", "labels.json", "sources.json", "history.csv"):
        (tmp_path / name).write_bytes((whole.path / name).read_bytes())
    (tmp_path / "model.keras").write_bytes(b"no model")
    with pytest.raises(RunError, match="cannot be loaded"):
        _ = Run.load(tmp_path).model
    (tmp_path / "model.keras").write_bytes((whole.path / "model.keras").read_bytes())
    (tmp_path / "labels.json").write_text(json.dumps(["jpeg", "bpg"]))
    with pytest.raises(RunError, match="3 outputs"):
        _ = Run.load(tmp_path).model
    (tmp_path / "labels.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        Run.load(tmp_path)


def test_search_for_settings(dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    base = TrainConfig(model="lenet", epochs=1, batch_size=16)
    trials: set[str] = set()
    best = tune(
        dataset,
        tmp_path / "search",
        max_trials=2,
        base=base,
        progress=lambda event: trials.add(event["trial"]),
    )
    assert len(trials) == 2
    losses = {
        path.name: min(row["val_loss"] for row in Run.load(path).history)
        for path in (tmp_path / "search" / "runs").iterdir()
    }
    config = Run.load(tmp_path / "search" / "runs" / min(losses, key=losses.__getitem__)).config
    assert TrainConfig(**config["train"]) == best
    assert json.loads((tmp_path / "search" / "best.json").read_text()) == config["train"]
    assert len((tmp_path / "search" / "trials.csv").read_text().splitlines()) == 3
    # The same call again trains nothing and finds the same.
    trials.clear()
    assert tune(dataset, tmp_path / "search", max_trials=2, base=base) == best
    assert not trials
    assert capfd.readouterr().out == ""
    with pytest.raises(TrainError, match="other settings"):
        tune(dataset, tmp_path / "search", max_trials=2)
