"""Training: a dataset's patches in, a run directory out; a killed run goes on where it was."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow.parquet as pq

from datasets.patches import PatchSet, load_patches
from imagecompression.atomic_file import write_bytes_atomic, write_json_atomic
from imagecompression.errors import ImageCompressionError
from train.batches import PatchBatches
from train.models import MODELS
from train.run import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    HISTORY_FILE,
    LABELS_FILE,
    MANIFEST_HEAD_FILE,
    MODEL_FILE,
    SOURCES_FILE,
    Run,
    RunError,
)

Progress = Callable[[dict[str, Any]], None]
"""Called with an event: see `train`."""

CHECKPOINT_FOLDER = "checkpoint"
TENSORBOARD_FOLDER = "tensorboard"
STATE_FILE = "state.json"
BEST_FILE = "best.keras"
HEAD_ROWS = 20
WARM_UP = 0.04
"""Share of the schedule in which the learning rate rises to its full value."""

_PACKAGES = ("keras", "tensorflow", "numpy", "pyarrow", "scikit-learn", "imagecodecs", "av")


class TrainError(ImageCompressionError):
    """Settings or a dataset that nothing can be trained with."""


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training.

    Attributes:
        model: A name in `MODELS`.
        epochs: Passes over the training patches, at most.
        batch_size: Patches a step.
        learning_rate: Peak of the schedule: a short warm-up, then half a cosine down to zero.
        weight_decay: Of AdamW.
        width: The model builder's `width`; None for its default.
        dropout: The model builder's `dropout`; None for its default.
        seed: Of the weights, the order of the patches, their turns, and the dropout.
        patience: Epochs without a better validation loss after which training stops.
        minutes: Wall-clock budget, or None. The schedule then anneals over whichever ends first,
            the epochs or the minutes, and stops there; the last validation comes on top.
    """

    model: str = "residual"
    epochs: int = 8
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    width: int | None = None
    dropout: float | None = None
    seed: int = 0
    patience: int = 5
    minutes: float | None = None

    def __post_init__(self) -> None:
        """Raise `TrainError` for settings that cannot work."""
        if self.model not in MODELS:
            raise TrainError(f"model must be one of {', '.join(MODELS)}. Received: {self.model!r}")
        for name in ("epochs", "batch_size", "learning_rate", "patience"):
            if not getattr(self, name) > 0:
                raise TrainError(f"{name} must be positive. Received: {getattr(self, name)}")
        if self.minutes is not None and not self.minutes > 0:
            raise TrainError(f"minutes must be positive or None. Received: {self.minutes}")


def train(dataset: Path, out: Path, config: TrainConfig, progress: Progress | None = None) -> Run:
    """Train on the patches of the dataset folder and leave a run directory in `out`.

    After every epoch the model, the optimizer and the history are saved, so that the same call
    after a kill goes on from there and ends as it would have. A finished run is returned as it is.
    The model that is kept is that of the epoch with the lowest validation loss; where the dataset
    has no validation patch, that of the last epoch (`Run.chosen_by` says which), and patience
    counts epochs without a lower training loss.

    Args:
        dataset: Folder with ``dataset.json``, ``manifest.parquet`` and ``patches/``.
        out: The run directory: new, or that of the same training.
        config: All settings.
        progress: Called with a dict after every batch, ``event`` "batch": ``epoch`` and ``batch``
            (from 1), ``epochs``, ``batches``, ``loss``, ``accuracy`` (means over the epoch so
            far), ``share`` (of the whole schedule, 0 to 1); and after every epoch, ``event``
            "epoch": a row of the history. An exception raised here ends the training; a later
            call resumes it.

    Raises:
        TrainError: No training patches, a single class, or `out` holds another training.
    """
    patches = load_patches(dataset)
    training, validation = split_batches(patches, config)
    description = describe(dataset, patches, config)
    claim(out, description)
    if (out / MODEL_FILE).is_file():
        return Run.load(out)

    keras.utils.set_random_seed(config.seed)
    _write_facts(dataset, out, patches)
    checkpoints = out / CHECKPOINT_FOLDER
    state = _load_state(checkpoints)
    if state.last is None:
        model = compiled_model(config, patches)
    else:
        model = keras.saving.load_model(checkpoints / state.last, safe_mode=True)
    if state.epoch < config.epochs and not state.stopped:
        schedule = Schedule(config, len(training), state.epoch, state.seconds)
        callbacks = [
            EpochSeeds(training, config.seed),
            schedule,
            keras.callbacks.TensorBoard(out / TENSORBOARD_FOLDER, write_graph=False),
            Keeper(out, state, schedule, config),
        ]
        if progress is not None:
            callbacks.append(_Reporter(progress, schedule, config, state))
        model.fit(
            training,
            validation_data=validation,
            initial_epoch=state.epoch,
            epochs=config.epochs,
            callbacks=callbacks,
            shuffle=False,  # PatchBatches shuffles; Keras would shuffle again, without a seed
            verbose=0,
        )
    (checkpoints / BEST_FILE).replace(out / MODEL_FILE)
    for left in checkpoints.iterdir():
        left.unlink()
    checkpoints.rmdir()
    return Run.load(out)


def split_batches(
    patches: PatchSet, config: TrainConfig
) -> tuple[PatchBatches, PatchBatches | None]:
    """Training batches and validation batches; None where there is no validation patch.

    Raises:
        TrainError: No training patches, or fewer than two classes among them.
    """
    splits = np.array(patches.table["split"].to_pylist(), dtype=object)
    labels = patches.table["label"].to_pylist()
    number = {label: place for place, label in enumerate(patches.labels)}
    classes = np.array([number[label] for label in labels], np.int32)
    rows = np.flatnonzero(splits == "train")
    if len(rows) == 0:
        raise TrainError(
            "The dataset has no patch in the train split. Add sources, or build it with another "
            "split."
        )
    present = sorted({labels[row] for row in rows})
    if len(present) < 2:
        raise TrainError(
            f"A classifier needs at least two classes in the train split. Received: {present}"
        )
    training = PatchBatches(
        patches.pixels, rows, classes[rows], config.batch_size, training=True, seed=config.seed
    )
    rows = np.flatnonzero(splits == "val")
    if len(rows) == 0:
        return training, None
    return training, PatchBatches(patches.pixels, rows, classes[rows], 2 * config.batch_size)


def compiled_model(config: TrainConfig, patches: PatchSet) -> keras.Model:
    """A new model for the patches, ready to train."""
    options = {"width": config.width, "dropout": config.dropout}
    size = patches.patch_size
    model = MODELS[config.model](
        (size, size, 3),
        len(patches.labels),
        **{name: value for name, value in options.items() if value is not None},
    )
    model.compile(
        keras.optimizers.AdamW(config.learning_rate, weight_decay=config.weight_decay),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,  # measured: XLA is a third slower here on a CPU
    )
    return model


class EpochSeeds(keras.callbacks.Callback):
    """Makes the order, the turns and the dropout of an epoch depend on seed and epoch alone."""

    def __init__(self, batches: PatchBatches, seed: int) -> None:
        super().__init__()
        self._batches = batches
        self._seed = seed

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Set the epoch of the batches, and restart the layers' random generators."""
        self._batches.epoch = epoch
        for layer in self.model.layers:
            generator = getattr(layer, "seed_generator", None)
            if generator is not None:
                generator.state.assign([self._seed % 2**31, epoch * 1_000_000])


class Schedule(keras.callbacks.Callback):
    """Learning rate by the share of the training that is done; stops when all is.

    Attributes:
        share: Done of the epochs or of the minutes, whichever is further, 0 to 1.
    """

    def __init__(self, config: TrainConfig, batches: int, epoch: int, seconds: float) -> None:
        """`epoch` and `seconds` are those done before, by a run that is resumed."""
        super().__init__()
        self._config = config
        self._step = epoch * batches
        self._steps = config.epochs * batches
        self._started = time.monotonic() - seconds
        self.share = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before a resume included."""
        return time.monotonic() - self._started

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Set the learning rate of the step."""
        self._step += 1
        self.share = self._step / self._steps
        if self._config.minutes is not None:
            self.share = min(1.0, max(self.share, self.seconds / (60 * self._config.minutes)))
        self.model.optimizer.learning_rate.assign(
            self._config.learning_rate * schedule_factor(self.share)
        )

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Stop when the minutes are over."""
        if self.share >= 1.0:
            self.model.stop_training = True


def schedule_factor(share: float) -> float:
    """Learning rate, relative to its peak, when `share` (0 to 1) of the training is done.

    >>> [round(schedule_factor(share), 2) for share in (0.02, 0.04, 0.52, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if share < WARM_UP:
        return share / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))


@dataclass
class _State:
    """What a resumed run must know beside the model; `Keeper` saves it after every epoch."""

    epoch: int = 0
    last: str | None = None
    best: float = math.inf
    waited: int = 0
    seconds: float = 0.0
    stopped: bool = False
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)


class Keeper(keras.callbacks.Callback):
    """Saves model, optimizer and history after every epoch; stops when patience is over."""

    def __init__(self, out: Path, state: _State, schedule: Schedule, config: TrainConfig) -> None:
        super().__init__()
        self._out = out
        self._checkpoints = out / CHECKPOINT_FOLDER
        self._state = state
        self._schedule = schedule
        self._config = config

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Save, in an order in which a kill at any point leaves a state that can be resumed."""
        logs = {} if logs is None else logs
        state = self._state
        row = {
            "epoch": epoch + 1,
            "seconds": round(self._schedule.seconds, 1),
            "learning_rate": float(self.model.optimizer.learning_rate),
            **{name: float(value) for name, value in logs.items()},
        }
        if not math.isfinite(row["loss"]):
            raise TrainError(
                f"The loss became {row['loss']} in epoch {epoch + 1}: try a smaller learning rate"
            )
        self._checkpoints.mkdir(exist_ok=True)
        value = row.get("val_loss", row["loss"])
        better = value < state.best or not state.history
        # The training loss is no ground to choose by: it is taken with the statistics of each
        # batch, so an early epoch can look best whose running statistics are still wrong.
        if better or "val_loss" not in row:
            # What is kept is only asked, never trained on: two thirds of the file are spared.
            _save(self.model, self._checkpoints / BEST_FILE, optimizer=False)
        if better:
            state.best, state.waited = value, 0
        else:
            state.waited += 1
        if state.waited >= self._config.patience:
            self.model.stop_training = True
        before, state.last = state.last, f"epoch-{epoch + 1:04d}.keras"
        _save(self.model, self._checkpoints / state.last)
        state.epoch, state.seconds = epoch + 1, self._schedule.seconds
        state.stopped = bool(self.model.stop_training)
        state.history.append(row)
        write_history(self._out / HISTORY_FILE, state.history)
        write_json_atomic(self._checkpoints / STATE_FILE, dataclasses.asdict(state))
        if before is not None and before != state.last:
            (self._checkpoints / before).unlink(missing_ok=True)


class _Reporter(keras.callbacks.Callback):
    """Turns Keras's callbacks into events for `progress`."""

    def __init__(
        self, progress: Progress, schedule: Schedule, config: TrainConfig, state: _State
    ) -> None:
        super().__init__()
        self._progress = progress
        self._schedule = schedule
        self._epochs = config.epochs
        self._state = state
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Remember the number of the epoch."""
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """A "batch" event."""
        self._progress(
            {
                "event": "batch",
                "epoch": self._epoch,
                "epochs": self._epochs,
                "batch": batch + 1,
                "batches": self.params["steps"],
                "share": self._schedule.share,
                **{name: float(value) for name, value in (logs or {}).items()},
            }
        )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """An "epoch" event; comes after `Keeper` has saved."""
        share = self._schedule.share
        self._progress(
            {"event": "epoch", "epochs": self._epochs, "share": share, **self._state.history[-1]}
        )


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """Write the rows of a history as CSV, replacing the file at once."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(history[0]))
    writer.writeheader()
    writer.writerows(history)
    write_bytes_atomic(path, text.getvalue().encode())


def describe(dataset: Path, patches: PatchSet, config: TrainConfig) -> dict[str, Any]:
    """Contents of ``config.json``: the settings, and what identifies the patches."""
    table = (dataset / "patches" / "patches.parquet").read_bytes()
    return {
        "train": dataclasses.asdict(config),
        "dataset": {
            "patch_size": patches.patch_size,
            "patches": patches.table.num_rows,
            "patches_sha256": hashlib.sha256(table).hexdigest(),
        },
    }


def claim(out: Path, description: dict[str, Any]) -> None:
    """Make `out` the directory of this training, or raise `TrainError` if it is another's."""
    path = out / CONFIG_FILE
    if not path.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise TrainError(f"{out}: the folder is not empty and not a run directory")
        out.mkdir(parents=True, exist_ok=True)
        write_json_atomic(path, description)
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error
    if found != description:
        raise TrainError(
            f"{out}: holds a training with other settings or another dataset (see {CONFIG_FILE}). "
            "Choose a new folder, or use the same settings to go on with it."
        )


def _write_facts(dataset: Path, out: Path, patches: PatchSet) -> None:
    """Labels, sources, environment and the manifest's head: what the run must tell about itself."""
    write_json_atomic(out / LABELS_FILE, patches.labels)
    columns = patches.table.select(["split", "source_sha256"]).to_pylist()
    write_json_atomic(
        out / SOURCES_FILE,
        {
            split: sorted({row["source_sha256"] for row in columns if row["split"] == split})
            for split in ("train", "val")
        },
    )
    write_json_atomic(
        out / ENVIRONMENT_FILE,
        {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "cpu_count": os.cpu_count(),
            "packages": {name: _version(name) for name in _PACKAGES},
        },
    )
    manifest = pq.ParquetFile(dataset / "manifest.parquet")
    head = next(manifest.iter_batches(batch_size=HEAD_ROWS)).to_pylist()
    write_json_atomic(out / MANIFEST_HEAD_FILE, {"rows": manifest.metadata.num_rows, "head": head})


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _load_state(checkpoints: Path) -> _State:
    """The state of an unfinished run, or a fresh one."""
    path = checkpoints / STATE_FILE
    if not path.is_file():
        return _State()
    try:
        return _State(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error


def _save(model: keras.Model, path: Path, *, optimizer: bool = True) -> None:
    """Save so that `path` is the old file or the whole new one, whenever the process is killed."""
    part = path.with_name(f"part-{path.name}")  # Keras insists on the suffix .keras
    model.save(part, include_optimizer=optimizer)
    part.replace(path)
