"""Examples, batches, training and runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from fake_patches import LABELS, fake_dataset

from datasets.patches import PatchSet, load_patches
from train.averaging import averaged
from train.batches import PatchBatches, balanced_weights, turned
from train.checkpoint import Checkpoint
from train.examples import Examples, gather
from train.run import Run, RunError
from train.settings import TrainConfig, TrainError, read_config
from train.step import training_step
from train.trainer import new_model, split_batches, train

SMALL = TrainConfig(
    epochs=3,
    batch_size=8,
    width=4,
    dropout=0.3,
    seed=3,
    patch_sizes=(32, 40),
    balance="class-band",
    label_smoothing=0.1,
    average=0.9,
    checkpoint_minutes=1e-9,  # after every batch
)
QUICK = TrainConfig(model="lenet", epochs=1, batch_size=16)


class Killed(Exception):
    """What the tests throw from a progress function to end a training."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_dataset(tmp_path_factory.mktemp("fake") / "dataset", size=40)


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An uninterrupted training at the settings `SMALL`."""
    return train(dataset, tmp_path_factory.mktemp("whole") / "run", SMALL)


# Examples and batches.


def _patches(count: int, size: int, seed: int, labels: list[str] = LABELS) -> PatchSet:
    """Noise patches of a source each, all in the split train."""
    rng = np.random.default_rng(seed)
    table = pa.table(
        {
            "label": [labels[place % len(labels)] for place in range(count)],
            "ratio": rng.uniform(1, 80, count),
            "split": ["train"] * count,
            "group": [f"group{seed}-{place}" for place in range(count)],
            "source_sha256": [f"source{seed}-{place}" for place in range(count)],
        }
    )
    return PatchSet(rng.integers(0, 256, (count, size, size, 3), np.uint8), table, labels, size)


def _batches(examples: Examples | None = None, **options: object) -> PatchBatches:
    if examples is None:
        examples = gather([_patches(23, 40, 0), _patches(27, 32, 1), _patches(10, 40, 2)])
    rows = np.arange(5, len(examples.classes))
    return PatchBatches(examples, rows, 10, **options)  # type: ignore[arg-type]


def _name(patch: np.ndarray) -> bytes:
    """The same for all turns of a patch."""
    return min(turned(patch, turn).tobytes() for turn in range(8))


def test_batches_follow_from_seed_and_epoch() -> None:
    one, two = (_batches(training=True, seed=1, patch_sizes=(32, 36, 40)) for _ in range(2))
    first = list(one.from_batch())
    one.epoch = two.epoch = 1
    second = list(one.from_batch())
    for kept, again in zip(second[2:], two.from_batch(2), strict=True):
        for a, b in zip(kept, again, strict=True):
            np.testing.assert_array_equal(a, b)
    assert list(two.from_batch(len(two))) == []
    assert not np.array_equal(first[0][1], second[0][1])
    assert not np.array_equal(first[0][1], _batches(training=True, seed=2)[0][1])


def test_batches_hold_every_row_once_and_only_turn_it() -> None:
    plain, training = _batches(), _batches(training=True)

    def patches(batches: PatchBatches) -> dict[bytes, bytes]:
        return {_name(p): p.tobytes() for batch in batches.from_batch() for p in batch[0]}

    before, after = patches(plain), patches(training)
    assert before.keys() == after.keys()
    assert len(before) == 55
    assert sum(before[key] != after[key] for key in before) > 40
    # Two sizes, each in equal batches, in mixed order.
    sizes = [batch[0].shape[:2] for batch in training.from_batch()]
    assert sorted(sizes) == [(9, 32)] * 3 + [(9, 40)] * 2 + [(10, 40)]
    assert training.smallest_batch == 9
    patch = next(plain.from_batch())[0][0]
    assert len({turned(patch, turn).tobytes() for turn in range(8)}) == 8


def test_crops_are_pixels_of_their_patch_at_all_phases() -> None:
    size, stored = 32, 40
    pixels = np.zeros((800, stored, stored, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.indices((stored, stored))
    examples = gather([dataclasses.replace(_patches(800, stored, 0), pixels=pixels)])
    found = set()
    for training in (False, True):
        for batch, _, _ in _batches(examples, training=training, patch_sizes=(size,)).from_batch():
            for patch in batch.astype(int):
                top, left = patch[..., 0].min(), patch[..., 1].min()
                found.add((top, left))
                expected = pixels[0, top : top + size, left : left + size]
                assert any(np.array_equal(turned(expected, turn), patch) for turn in range(8))
    assert len(found) == 81
    assert _batches(patch_sizes=(32, 36)).largest_size == 36
    for sizes in ((36,), (32, 48)):  # larger than the patches of 32, larger than all
        with pytest.raises(TrainError, match="must fit"):
            _batches(patch_sizes=sizes)


def test_a_share_of_the_patches_is_shown_without_colour() -> None:
    batches = _batches(training=True, seed=1, grayscale=0.4)
    shares = []
    for batches.epoch in range(6):
        gray = [
            np.ptp(p.astype(int), axis=2).max() == 0 for b in batches.from_batch() for p in b[0]
        ]
        shares.append(np.mean(gray))
    assert 0.25 < np.mean(shares) < 0.55 and len(set(shares)) > 1
    # The same patches in the same places, of which some have lost their colour.
    coloured = _batches(training=True, seed=1)
    for one, other in zip(
        _batches(training=True, seed=1, grayscale=1.0).from_batch(),
        coloured.from_batch(),
        strict=True,
    ):
        luma = other[0] @ np.array([0.299, 0.587, 0.114])
        np.testing.assert_allclose(one[0][..., 1], luma, atol=0.51)
    still = _batches(grayscale=1.0)[0][0]
    assert np.ptp(still, axis=3).max() > 0, "validation patches keep their colour"


def test_classes_and_bands_weigh_the_same() -> None:
    rng = np.random.default_rng(0)
    classes = rng.choice(4, 300, p=[0.6, 0.2, 0.0, 0.2]).astype(np.int32)
    bands = np.where(classes == 0, 0, rng.choice(3, 300, p=[0.7, 0.2, 0.1])).astype(np.int32)
    for balance, groups in (("class", classes), ("class-band", classes * 3 + bands)):
        weights = balanced_weights(classes, bands, balance)  # type: ignore[arg-type]
        assert weights.mean() == pytest.approx(1, rel=1e-5)
        for one in (0, 1, 3):
            assert weights[classes == one].sum() == pytest.approx(100, rel=1e-4)
            shares = [weights[groups == g].sum() for g in np.unique(groups[classes == one])]
            assert shares == pytest.approx([100 / len(shares)] * len(shares), rel=1e-4)
    assert set(balanced_weights(classes, bands, "none")) == {1.0}
    examples = gather([_patches(60, 32, 0)])
    assert set(examples.bands[examples.classes == 0]) == {0}
    assert set(examples.bands[examples.classes == 1]) <= set(range(5))
    assert len(set(examples.bands)) > 2


def test_datasets_that_share_a_picture_must_agree() -> None:
    one, two = _patches(6, 32, 0), _patches(6, 40, 1)
    for column, noun in (("source_sha256", "source picture"), ("group", "group")):
        value = one.table[column][0].as_py()
        for split, refused in (("train", False), ("val", True), ("test", True)):
            rows = two.table.to_pylist()
            rows[3] |= {column: value, "split": split}
            changed = dataclasses.replace(two, table=pa.Table.from_pylist(rows))
            if refused:
                with pytest.raises(TrainError, match=f"The {noun} {value} is in the split"):
                    gather([one, changed])
            else:
                assert len(gather([one, changed]).classes) == 12
    with pytest.raises(TrainError, match="at least one"):
        gather([])


# The step.


def test_the_loss_is_the_weighted_smoothed_cross_entropy() -> None:
    model = new_model(QUICK, 3)
    optimizer = keras.optimizers.SGD(0.0)
    strategy = tf.distribute.get_strategy()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (7, 32, 32, 3), np.uint8)
    classes, weights = rng.integers(0, 3, 7, np.int32), rng.uniform(0, 2, 7).astype(np.float32)
    answers = np.asarray(model(pixels, training=False), np.float64)
    for smoothing in (0.0, 0.2):
        step = training_step(model, optimizer, strategy, smoothing)
        loss, right = step(pixels, classes, weights)
        truth = np.eye(3)[classes] * (1 - smoothing) + smoothing / 3
        expected = -np.mean(weights * np.sum(truth * np.log(answers), axis=1))
        assert float(loss) == pytest.approx(expected, rel=1e-4)
        assert int(right) == np.sum(answers.argmax(axis=1) == classes)


# Training.


def test_run_directory(whole: Run, dataset: Path) -> None:
    names = {path.name for path in whole.path.iterdir()}
    assert names == {
        "config.json",
        "confusion_val.png",
        "curves.png",
        "environment.json",
        "labels.json",
        "manifest_head.json",
        "model.keras",
        "results.csv",
        "sources.json",
        "tensorboard",
    }
    assert {path.name for path in (whole.path / "tensorboard").iterdir()} == {"train", "validation"}
    for picture in whole.path.glob("*.png"):
        assert picture.read_bytes()[:4] == b"\x89PNG"
    assert [row["epoch"] for row in whole.history] == [1, 2, 3]
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "seconds"} <= set(whole.history[0])
    assert (whole.labels, whole.patch_size) == (LABELS, 40)
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
    assert loaded.config["train"]["width"] == 4
    pixels = load_patches(dataset).pixels[:5]
    np.testing.assert_array_equal(loaded.predict(pixels), whole.predict(pixels))
    assert loaded.predict(pixels[:0]).shape == (0, 3)
    # A finished run is returned as it is, and not trained over.
    assert train(dataset, whole.path, SMALL).history == whole.history


def test_a_killed_run_ends_as_an_uninterrupted_one(
    whole: Run, dataset: Path, tmp_path: Path
) -> None:
    """Bit for bit: in the middle of an epoch, with averaged weights, crops and dropout."""

    def kill(event: dict) -> None:
        if event["epoch"] == 2 and event["event"] == "batch" and event["batch"] == 3:
            raise Killed

    with pytest.raises(Killed):
        train(dataset, tmp_path / "run", SMALL, kill)
    with pytest.raises(RunError, match="not finished"):
        Run.load(tmp_path / "run")
    events: list[dict] = []
    run = train(dataset, tmp_path / "run", SMALL, events.append)
    assert (events[0]["epoch"], events[0]["batch"]) == (2, 3)
    assert events[-1]["share"] == pytest.approx(1)
    for resumed, straight in zip(run.history, whole.history, strict=True):
        assert {**resumed, "seconds": 0} == {**straight, "seconds": 0}
    for mine, other in zip(run.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_the_average_is_what_is_validated_and_kept(dataset: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(QUICK, average=0.99, checkpoint_minutes=1e-9)
    seen: list[list[np.ndarray]] = []

    def collect(event: dict) -> None:
        path = tmp_path / "averaged" / "checkpoint" / "checkpoint.npz"
        if path.is_file():
            seen.append(Checkpoint.load(path).weights)

    run = train(dataset, tmp_path / "averaged", config, collect)
    plain = train(dataset, tmp_path / "plain", QUICK)
    assert run.history[0]["loss"] == plain.history[0]["loss"]
    assert run.history[0]["val_loss"] != plain.history[0]["val_loss"]
    # After one batch, two, three: the average, computed once more.
    average: list[np.ndarray] = []
    for step, weights in enumerate(seen):
        average = averaged(average, weights, (1 + step) / (10 + step))
    for mine, other in zip(run.model.get_weights(), average, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-6)
    patches = load_patches(dataset)
    rows = [place for place, row in enumerate(patches.table.to_pylist()) if row["split"] == "val"]
    truth = [LABELS.index(patches.table["label"][row].as_py()) for row in rows]
    answers = run.predict(patches.pixels[rows])
    losses = -np.log(answers[np.arange(len(rows)), truth])
    assert run.history[0]["val_loss"] == pytest.approx(losses.mean(), rel=1e-4)


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
    assert not (run.path / "confusion_val.png").exists()


def test_several_datasets(dataset: Path, tmp_path: Path) -> None:
    """Of two patch sizes and different classes."""
    other = fake_dataset(tmp_path / "other", labels=["uncompressed", "bpg"], seed=1)
    run = train([dataset, other], tmp_path / "run", QUICK)
    assert run.labels == ["uncompressed", "jpeg", "bpg", "kmeans"]
    alone = [train(one, tmp_path / f"of-{one.name}", QUICK) for one in (dataset, other)]
    for split in ("train", "val"):
        assert run.sources[split] == sorted(alone[0].sources[split] + alone[1].sources[split])
    assert run.config["dataset"]["patch_size"] == 40
    assert run.predict(load_patches(other).pixels[:2]).shape == (2, 4)
    assert json.loads((run.path / "manifest_head.json").read_text())["rows"] == 18 + 12
    twin = fake_dataset(tmp_path / "twin", splits=("val", "train"))
    with pytest.raises(TrainError, match="is in the split train of one dataset and in val"):
        train([dataset, twin], tmp_path / "leak", QUICK)
    assert not (tmp_path / "leak").exists()


def test_training_goes_on_from_another_run(whole: Run, dataset: Path, tmp_path: Path) -> None:
    """With a rate at which no weight changes, the first epoch ends where the other run ended."""
    still = dataclasses.replace(SMALL, epochs=1, learning_rate=1e-30, average=0.0, dropout=None)
    other = fake_dataset(tmp_path / "other", size=40, seed=7)
    run = train([dataset, other], tmp_path / "run", still, start=whole)
    for mine, first in zip(run.model.trainable_weights, whole.model.trainable_weights, strict=True):
        np.testing.assert_array_equal(mine, first)
    assert run.config["dataset"]["start_model_sha256"] == whole.model_sha256
    alone = train(other, tmp_path / "alone", still, start=whole)
    assert set(whole.sources["train"]) < set(alone.sources["train"])  # stays learned
    with pytest.raises(TrainError, match="other settings"):
        train(other, tmp_path / "alone", still)
    twin = fake_dataset(tmp_path / "twin", splits=("val", "train"), size=40)
    with pytest.raises(TrainError, match="pictures that would validate"):
        train(twin, tmp_path / "leak", still, start=whole)
    with pytest.raises(TrainError, match="same network and classes"):
        train(dataset, tmp_path / "narrow", dataclasses.replace(still, width=3), start=whole)


def test_the_rate_is_halved_on_a_plateau(dataset: Path, tmp_path: Path) -> None:
    """At a rate of which no weight changes, no epoch is better than the first."""
    config = dataclasses.replace(QUICK, epochs=6, schedule="plateau", learning_rate=1e-30)
    run = train(dataset, tmp_path / "run", config)
    rates = [row["learning_rate"] / 1e-30 for row in run.history]
    assert rates == pytest.approx([1, 1, 1, 0.5, 0.5, 0.25], rel=1e-3)


def test_the_minutes_end_a_training(dataset: Path, tmp_path: Path) -> None:
    config = TrainConfig(model="lenet", epochs=100_000, patience=100_000, minutes=0.02)
    run = train(dataset, tmp_path / "run", config)
    assert len(run.history) < 100_000
    assert run.history[-1]["learning_rate"] == pytest.approx(0, abs=1e-6)


def test_what_cannot_be_trained(dataset: Path, tmp_path: Path, whole: Run) -> None:
    single = fake_dataset(tmp_path / "single", labels=["jpeg"])
    with pytest.raises(TrainError, match="two classes"):
        train(single, tmp_path / "run", QUICK)
    untrained = fake_dataset(tmp_path / "untrained", splits=("val", "test"))
    with pytest.raises(TrainError, match="no patch in the train split"):
        train(untrained, tmp_path / "run", QUICK)
    assert not (tmp_path / "run").exists()
    with pytest.raises(TrainError, match="other settings"):
        train(dataset, whole.path, TrainConfig())
    with pytest.raises(TrainError, match="not empty"):
        train(dataset, dataset, QUICK)
    for wrong in (
        {"model": "vgg"},
        {"epochs": 0},
        {"learning_rate": -1.0},
        {"minutes": 0.0},
        {"balance": "source"},
        {"schedule": "step"},
        {"strategy": "tpu"},
        {"label_smoothing": 1.0},
        {"average": -0.1},
        {"patch_sizes": (16,)},
        {"patch_sizes": ()},
        {"minutes": 1.0, "strategy": "multi-worker"},
    ):
        with pytest.raises(TrainError, match="Received"):
            TrainConfig(**wrong)  # type: ignore[arg-type]


def test_settings_in_files(whole: Run, tmp_path: Path) -> None:
    assert read_config(whole.path / "config.json") == SMALL
    path = tmp_path / "settings.json"
    path.write_text('{"epochs": 2, "width": 5}')
    assert read_config(path, width=7) == TrainConfig(epochs=2, width=7)
    for content in ('{"depth": 2}', "[1]", "{", '{"epochs": "two"}'):
        path.write_text(content)
        with pytest.raises(TrainError, match=r"settings\.json"):
            read_config(path)
    with pytest.raises(TrainError, match="cannot be read"):
        read_config(tmp_path / "absent.json")


def test_no_validation_patches_means_none(tmp_path: Path) -> None:
    patches = load_patches(fake_dataset(tmp_path / "dataset", splits=("train",)))
    assert split_batches(gather([patches]), QUICK)[1] is None


def test_broken_runs_are_explained(whole: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run directory"):
        Run.load(tmp_path)
    for name in ("config.json", "labels.json", "sources.json"):
        (tmp_path / name).write_bytes((whole.path / name).read_bytes())
    # Earlier versions called the history otherwise.
    (tmp_path / "history.csv").write_bytes((whole.path / "results.csv").read_bytes())
    (tmp_path / "model.keras").write_bytes(b"no model")
    assert Run.load(tmp_path).history == whole.history
    with pytest.raises(RunError, match="cannot be loaded"):
        _ = Run.load(tmp_path).model
    (tmp_path / "model.keras").write_bytes((whole.path / "model.keras").read_bytes())
    (tmp_path / "labels.json").write_text(json.dumps(["jpeg", "bpg"]))
    with pytest.raises(RunError, match="3 outputs"):
        _ = Run.load(tmp_path).model
    (tmp_path / "labels.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        Run.load(tmp_path)


def test_damaged_checkpoints_are_explained(dataset: Path, tmp_path: Path) -> None:
    def kill(event: dict) -> None:
        if event["event"] == "epoch":
            raise Killed

    with pytest.raises(Killed):
        train(dataset, tmp_path / "run", QUICK, kill)
    path = tmp_path / "run" / "checkpoint" / "checkpoint.npz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunError, match="checkpoint cannot be read"):
        train(dataset, tmp_path / "run", QUICK)
