"""Training: patches of datasets in, a run directory out; a killed run goes on where it was."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from datasets.patches import PatchSet, load_patches
from train.averaging import Weights, averaged, momentum_at
from train.batches import PatchBatches
from train.checkpoint import Checkpoint, State
from train.curves import draw_confusion, draw_curves
from train.distribution import Distribution
from train.examples import Examples, gather, resplit
from train.models import MODELS
from train.provenance import claim, describe, write_facts, write_history
from train.run import HISTORY_FILE, MODEL_FILE, Run
from train.schedule import PLATEAU_EPOCHS, schedule_factor
from train.settings import TrainConfig, TrainError
from train.step import prediction, restart_random, training_step

Progress = Callable[[dict[str, Any]], None]
"""Called with an event: see `train`."""

CHECKPOINT_FOLDER = "checkpoint"
CHECKPOINT_FILE = "checkpoint.npz"
BEST_FILE = "best.keras"
TENSORBOARD_FOLDER = "tensorboard"
CURVES_FILE = "curves.png"
CONFUSION_FILE = "confusion_val.png"


def train(
    datasets: Path | Sequence[Path],
    out: Path,
    config: TrainConfig,
    progress: Progress | None = None,
    *,
    splits: Mapping[str, str] | None = None,
    start: Run | None = None,
) -> Run:
    """Train on the patches of dataset folders and leave a run directory in `out`.

    After every epoch, and every `checkpoint_minutes` within one, all that the training needs is
    saved, so that the same call after a kill goes on from there and ends with the very weights it
    would have had. A finished run is returned as it is. The model that is kept is that of the
    epoch with the lowest validation loss; where there is no validation patch, that of the last
    epoch (`Run.chosen_by` says which), and patience counts epochs without a lower training loss.

    Args:
        datasets: Folder with ``dataset.json``, ``manifest.parquet`` and ``patches/``, or several,
            whose patches may differ in size and whose splits must agree.
        out: The run directory: new, or that of the same training.
        config: All settings.
        progress: Called with a dict after every batch, ``event`` "batch": ``epoch`` and ``batch``
            (from 1), ``epochs``, ``batches``, ``loss``, ``accuracy`` (means over the epoch so
            far), ``share`` (of the whole schedule, 0 to 1); and after every epoch, ``event``
            "epoch": a row of the history. An exception raised here ends the training; a later
            call resumes it.
        splits: The split of every group, in place of the datasets' own; only groups in "train"
            and "val" are used.
        start: A run whose weights to begin with instead of new ones.

    Raises:
        TrainError: No training patches, a single class, datasets whose splits differ, settings
            that do not fit the patches, `out` holds another training, or `start` has another
            network or was trained on what would validate.
    """
    folders = [datasets] if isinstance(datasets, Path) else list(datasets)
    distribution = Distribution(config.strategy)
    parts = [load_patches(folder) for folder in folders]
    if splits is not None:
        parts = [resplit(one, splits) for one in parts]
    examples = gather(parts)
    if start is not None:
        _check_start(start, config, examples.labels, parts)
    training, validation = split_batches(examples, config)
    if training.smallest_batch < distribution.replicas:
        raise TrainError(
            f"A batch of {training.smallest_batch} patches cannot be shared by "
            f"{distribution.replicas} devices; choose a larger batch_size."
        )
    if distribution.is_chief:
        claim(out, describe(folders, parts, config, training, splits, start))
    distribution.wait()
    if (out / MODEL_FILE).is_file():
        return Run.load(out)
    if distribution.is_chief:
        write_facts(folders, parts, examples.labels, out, start)
        (out / CHECKPOINT_FOLDER).mkdir(exist_ok=True)
    try:
        work = _Training(out, config, examples.labels, training, validation, distribution, start)
        work.run(progress)
        if distribution.is_chief:
            _finish(out, examples.labels, validation)
        distribution.wait()
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        raise TrainError(
            f"Another worker was lost: {error.message}. Start all workers again; they go on from "
            "the last checkpoint."
        ) from error
    return Run.load(out)


def split_batches(
    examples: Examples, config: TrainConfig
) -> tuple[PatchBatches, PatchBatches | None]:
    """Training batches and validation batches; None where there is no validation patch.

    Raises:
        TrainError: No training patches, fewer than two classes among them, or sizes that do not
            fit.
    """
    rows = examples.rows("train")
    if len(rows) == 0:
        raise TrainError(
            "The dataset has no patch in the train split. Add sources, or build it with another "
            "split."
        )
    present = [examples.labels[place] for place in np.unique(examples.classes[rows])]
    if len(present) < 2:
        raise TrainError(
            f"A classifier needs at least two classes in the train split. Received: {present}"
        )
    size, sizes, balance = config.batch_size, config.patch_sizes, config.balance
    training = PatchBatches(
        examples,
        rows,
        size,
        training=True,
        seed=config.seed,
        patch_sizes=sizes,
        balance=balance,
        grayscale=config.grayscale,
    )
    rows = examples.rows("val")
    if len(rows) == 0:
        return training, None
    return training, PatchBatches(examples, rows, 2 * size, patch_sizes=sizes, balance=balance)


def _check_start(
    start: Run, config: TrainConfig, labels: list[str], parts: Sequence[PatchSet]
) -> None:
    """Raise `TrainError` where a run's weights cannot be begun with."""
    model = new_model(config, len(labels))
    shapes = [[one.shape for one in each.get_weights()] for each in (start.model, model)]
    if start.labels != labels or shapes[0] != shapes[1]:
        raise TrainError(
            f"{start.path}: begin with a run of the same network and classes. Received: "
            f"{start.config.get('train', {}).get('model')} for {', '.join(start.labels)}"
        )
    known = set(start.sources.get("train", []))
    for one in parts:
        rows = one.table.select(["split", "source_sha256"]).to_pylist()
        if any(row["split"] == "val" and row["source_sha256"] in known for row in rows):
            raise TrainError(
                f"{start.path}: was trained on pictures that would validate here. Build the "
                "datasets with the seed of its own, so that the splits agree."
            )


def new_model(config: TrainConfig, classes: int) -> keras.Model:
    """A new model for patches of any size, with the weights that the seed gives."""
    keras.utils.set_random_seed(config.seed)
    options = {"width": config.width, "dropout": config.dropout}
    return MODELS[config.model](
        (None, None, 3),
        classes,
        **{name: value for name, value in options.items() if value is not None},
    )


class _Training:
    """A training under way: the model, where it stands, and what is done with each epoch."""

    def __init__(
        self,
        out: Path,
        config: TrainConfig,
        labels: list[str],
        training: PatchBatches,
        validation: PatchBatches | None,
        distribution: Distribution,
        start: Run | None = None,
    ) -> None:
        """Begin anew, with the weights of `start`, or where the run directory's checkpoint is."""
        self._out = out
        self._config = config
        self._training = training
        self._validation = validation
        self._distribution = distribution
        with distribution.strategy.scope():
            self._model = new_model(config, len(labels))
            if start is not None:
                self._model.set_weights(start.model.get_weights())
            self._optimizer = keras.optimizers.AdamW(
                config.learning_rate, weight_decay=config.weight_decay
            )
            self._optimizer.build(self._model.trainable_variables)
        self._state = State()
        self._average: Weights = []
        self._checkpoint = out / CHECKPOINT_FOLDER / CHECKPOINT_FILE
        if self._checkpoint.is_file():
            found = Checkpoint.load(self._checkpoint)
            self._state, self._average = found.state, found.average
            self._model.set_weights(found.weights)
            for variable, value in zip(self._optimizer.variables, found.optimizer, strict=True):
                variable.assign(value)
        self._saved = time.monotonic()
        self._started = time.monotonic() - self._state.seconds
        self._step = training_step(
            self._model, self._optimizer, distribution.strategy, config.label_smoothing
        )
        self._predict = prediction(self._model)

    def run(self, progress: Progress | None) -> None:
        """Train until the epochs, the minutes or the patience are over."""
        report = progress if progress is not None else lambda event: None
        state, config = self._state, self._config
        folder = self._out / TENSORBOARD_FOLDER
        boards = {}
        if self._distribution.is_chief:
            boards = {
                name: tf.summary.create_file_writer(str(folder / name))
                for name in ("train", "validation")[: 1 if self._validation is None else 2]
            }
        while state.epoch < config.epochs and not state.stopped:
            self._train_epoch(report)
            row = self._end_epoch()
            for name, board in boards.items():
                _log(board, row, "" if name == "train" else "val_")
            report({"event": "epoch", "epochs": config.epochs, "share": self._share(), **row})
        for board in boards.values():
            board.close()

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def _share(self) -> float:
        """Share of the schedule that is done with the batches so far."""
        state, config, batches = self._state, self._config, len(self._training)
        share = (state.epoch * batches + state.batch) / (config.epochs * batches)
        if config.minutes is not None:
            share = max(share, self._seconds / (60 * config.minutes))
        return min(1.0, share)

    def _train_epoch(self, report: Progress) -> None:
        """The batches of an epoch that are still to be done."""
        state, config, batches = self._state, self._config, len(self._training)
        self._training.epoch = state.epoch
        for pixels, classes, weights in self._training.from_batch(state.batch):
            step = state.epoch * batches + state.batch
            state.batch += 1
            share = self._share()
            factor = schedule_factor(share, config.schedule, state.halvings)
            self._optimizer.learning_rate.assign(config.learning_rate * factor)
            restart_random(self._model, config.seed, step)
            loss, right = self._step(pixels, classes, weights)
            if config.average:
                momentum = momentum_at(step, config.average)
                self._average = averaged(self._average, self._model.get_weights(), momentum)
            state.loss += float(loss) * len(classes)
            state.right += int(right)
            state.patches += len(classes)
            report(
                {
                    "event": "batch",
                    "epoch": state.epoch + 1,
                    "epochs": config.epochs,
                    "batch": state.batch,
                    "batches": batches,
                    "share": share,
                    "loss": state.loss / state.patches,
                    "accuracy": state.right / state.patches,
                }
            )
            if share >= 1.0:
                state.stopped = True
                return
            if time.monotonic() - self._saved > 60 * config.checkpoint_minutes:
                self._save()

    def _end_epoch(self) -> dict[str, float]:
        """Validate, keep the model if it is the best, and save; answers the history's row.

        All is saved in an order in which a kill at any point leaves a state that can be resumed.
        """
        state, config, chief = self._state, self._config, self._distribution.is_chief
        row = {
            "epoch": state.epoch + 1,
            "seconds": round(self._seconds, 1),
            "learning_rate": float(self._optimizer.learning_rate.numpy()),
            "accuracy": state.right / state.patches,
            "loss": state.loss / state.patches,
        }
        if not math.isfinite(row["loss"]):
            raise TrainError(
                f"The loss became {row['loss']} in epoch {state.epoch + 1}: try a smaller "
                "learning rate"
            )
        current = self._model.get_weights()
        if self._average:
            self._model.set_weights(self._average)
        if self._validation is not None:
            row |= self._validate(self._validation)
        value = row.get("val_loss", row["loss"])
        better = value < state.best or not state.history
        # The training loss is no ground to choose by: it is taken with the statistics of each
        # batch, so an early epoch can look best whose running statistics are still wrong.
        if chief and (better or self._validation is None):
            _save_model(self._model, self._out / CHECKPOINT_FOLDER / BEST_FILE)
        self._model.set_weights(current)
        if better:
            state.best, state.waited, state.flat = value, 0, 0
        else:
            state.waited, state.flat = state.waited + 1, state.flat + 1
        if state.flat >= PLATEAU_EPOCHS:
            state.halvings, state.flat = state.halvings + 1, 0
        state.stopped |= state.waited >= config.patience
        state.epoch, state.batch = state.epoch + 1, 0
        state.loss, state.right, state.patches = 0.0, 0, 0
        state.history.append(row)
        if chief:
            write_history(self._out / HISTORY_FILE, state.history)
            draw_curves(state.history, self._out / CURVES_FILE)
        self._save()
        return row

    def _validate(self, batches: PatchBatches) -> dict[str, float]:
        """Weighted log loss in nats, and the share of patches named rightly."""
        loss, right, count = 0.0, 0, 0
        for pixels, classes, weights in batches.from_batch():
            answers = np.asarray(self._predict(pixels), np.float64)
            truth = np.maximum(answers[np.arange(len(classes)), classes], 1e-7)
            loss -= float(np.sum(weights * np.log(truth)))
            right += int(np.sum(answers.argmax(axis=1) == classes))
            count += len(classes)
        agreed = self._distribution.agreed
        return {"val_accuracy": right / count, "val_loss": agreed(loss / count)}

    def _save(self) -> None:
        self._saved = time.monotonic()
        self._state.seconds = self._seconds
        if self._distribution.is_chief:
            optimizer = [variable.numpy() for variable in self._optimizer.variables]
            weights = self._model.get_weights()
            Checkpoint(self._state, weights, optimizer, self._average).save(self._checkpoint)


def _log(board: Any, row: dict[str, float], prefix: str) -> None:
    """Write an epoch for TensorBoard, under the names that Keras gives."""
    with board.as_default(step=int(row["epoch"]) - 1):
        for name in ("loss", "accuracy"):
            tf.summary.scalar(f"epoch_{name}", row[f"{prefix}{name}"])
        if not prefix:
            tf.summary.scalar("epoch_learning_rate", row["learning_rate"])
    board.flush()


def _save_model(model: keras.Model, path: Path) -> None:
    """Save so that `path` is the old file or the whole new one, whenever the process is killed."""
    part = path.with_name(f"part-{path.name}")  # Keras insists on the suffix .keras
    model.save(part)
    part.replace(path)


def _finish(out: Path, labels: list[str], validation: PatchBatches | None) -> None:
    """Draw the kept model's confusion and put the model in its place: the run is finished."""
    best = out / CHECKPOINT_FOLDER / BEST_FILE
    if validation is not None:
        predict = prediction(keras.saving.load_model(best, compile=False, safe_mode=True))
        counts = np.zeros((len(labels), len(labels)), np.int64)
        for pixels, classes, _ in validation.from_batch():
            answers: npt.NDArray[np.int64] = np.asarray(predict(pixels)).argmax(axis=1)
            np.add.at(counts, (classes, answers), 1)
        draw_confusion(counts, labels, out / CONFUSION_FILE)
    best.replace(out / MODEL_FILE)
    shutil.rmtree(out / CHECKPOINT_FOLDER)
