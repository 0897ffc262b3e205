"""Search for good training settings with keras-tuner; every trial is a run directory."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import inspect
import io
from pathlib import Path
from typing import Any

import keras_tuner

from datasets.patches import load_patches
from imagecompression.atomic_file import write_json_atomic
from train.models import MODELS
from train.trainer import (
    Progress,
    TrainConfig,
    TrainError,
    claim,
    describe,
    split_batches,
    train,
)

BEST_FILE = "best.json"
TRIALS_FILE = "trials.csv"
TUNED = ("learning_rate", "width", "dropout")
"""The fields of `TrainConfig` that are searched over."""


class _RunSearch(keras_tuner.RandomSearch):
    """Random search in which a trial is a call of `train`, so that it can be resumed and kept."""

    def __init__(
        self, dataset: Path, out: Path, base: TrainConfig, progress: Progress | None, **options: Any
    ) -> None:
        self._dataset = dataset
        self._out = out
        self._base = base
        self._progress = progress
        super().__init__(directory=str(out), project_name="search", **options)

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> float:
        """Train with the trial's settings; the lowest validation loss is what it is judged by."""
        config = dataclasses.replace(self._base, **_chosen(trial))
        name = trial.trial_id

        def report(event: dict[str, Any]) -> None:
            if self._progress is not None:
                self._progress({**event, "trial": name})

        run = train(self._dataset, self._out / "runs" / name, config, report)
        return min(row.get("val_loss", row["loss"]) for row in run.history)


def tune(
    dataset: Path,
    out: Path,
    *,
    max_trials: int = 12,
    base: TrainConfig | None = None,
    progress: Progress | None = None,
) -> TrainConfig:
    """Try settings at random and return the best.

    Searched are the learning rate, the model's width and its dropout; all else, the number of
    epochs and the seed among it, is taken from `base`. Leaves in `out` a run directory for each
    trial (``runs/00``, …), ``trials.csv`` and ``best.json``. The same call goes on with a search
    that was killed, and more trials can be added to a finished one.

    Args:
        dataset: The dataset folder.
        out: Folder of the search.
        max_trials: Number of trials, those done before included.
        base: The settings that are not searched over; by default short trainings of three epochs.
        progress: Called with the events of `train` and, as ``trial``, the name of the trial.

    Raises:
        TrainError: Nothing to train with, or `out` holds another search.
    """
    base = TrainConfig(epochs=3) if base is None else base
    if max_trials < 1:
        raise TrainError(f"max_trials must be at least 1. Received: {max_trials}")
    patches = load_patches(dataset)
    split_batches(patches, base)  # keras-tuner would try three times what cannot work
    claim(out, {**describe(dataset, patches, base), "tuned": list(TUNED)})
    # keras-tuner prints that it goes on with an earlier search, whatever its verbosity.
    with contextlib.redirect_stdout(io.StringIO()):
        search = _RunSearch(
            dataset,
            out,
            base,
            progress,
            objective=keras_tuner.Objective("loss_to_choose_by", "min"),
            max_trials=max_trials,
            seed=base.seed,
            hyperparameters=_space(base),
        )
    search.search(verbose=0)
    trials = search.oracle.get_best_trials(max_trials)
    if not trials:
        raise TrainError(f"{out}: no trial succeeded")
    with (out / TRIALS_FILE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trial", *TUNED, "loss"])
        writer.writerows([t.trial_id, *_chosen(t).values(), t.score] for t in trials)
    best = dataclasses.replace(base, **_chosen(trials[0]))
    write_json_atomic(out / BEST_FILE, dataclasses.asdict(best))
    return best


def _space(base: TrainConfig) -> keras_tuner.HyperParameters:
    """The space that is searched: around the model builder's own default width."""
    usual = inspect.signature(MODELS[base.model]).parameters["width"].default
    space = keras_tuner.HyperParameters()
    space.Float("learning_rate", 3e-4, 6e-3, sampling="log")
    space.Choice("width", [max(2, usual // 2), usual, usual * 3 // 2])
    space.Choice("dropout", [0.0, 0.2, 0.4])
    return space


def _chosen(trial: Any) -> dict[str, Any]:
    """The trial's settings by field, in the order of `TUNED`."""
    return {name: trial.hyperparameters.get(name) for name in TUNED}
