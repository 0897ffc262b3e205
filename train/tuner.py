"""Search for good training settings with keras-tuner; every trial is a run directory."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import inspect
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import keras_tuner

from datasets.patches import load_patches
from imagecompression.atomic_file import write_bytes_atomic, write_json_atomic
from train.examples import gather
from train.models import MODELS
from train.provenance import claim, describe
from train.settings import TrainConfig, TrainError
from train.trainer import Progress, split_batches, train

Method = Literal["random", "bayesian", "hyperband"]

BEST_FILE = "best.json"
TRIALS_FILE = "trials.csv"
TUNED = (
    "model",
    "width",
    "dropout",
    "learning_rate",
    "weight_decay",
    "batch_size",
    "label_smoothing",
)
"""The fields of `TrainConfig` that are searched over."""

DEFAULT_TRIALS = 12
FACTOR = 3
"""Hyperband keeps one of so many trials for the next round, which trains so many times longer."""


class _RunTrials(keras_tuner.Tuner):
    """For a class of tuners: a trial is a call of `train`, so that it can be resumed and kept."""

    def __init__(
        self, dataset: Path, out: Path, base: TrainConfig, progress: Progress | None, **options: Any
    ) -> None:
        self._dataset = dataset
        self._out = out
        self._base = base
        self._progress = progress
        super().__init__(directory=str(out), project_name="search", **options)

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Train with the trial's settings; the lowest validation loss is what it is judged by.

        A trial of a later Hyperband round trains anew: the learning rate is annealed over the
        epochs of a round, so that an earlier round's weights are at the end of their schedule.
        """
        config = _config(trial, self._base)
        name = trial.trial_id

        def report(event: dict[str, Any]) -> None:
            if self._progress is not None:
                self._progress({**event, "trial": name})

        run = train(self._dataset, self._out / "runs" / name, config, report)
        best = min(run.history, key=lambda row: row.get("val_loss", row["loss"]))
        return {
            "loss_to_choose_by": best.get("val_loss", best["loss"]),
            "accuracy_then": best.get("val_accuracy", best["accuracy"]),
        }


class _Random(_RunTrials, keras_tuner.RandomSearch):
    """Settings drawn at random."""


class _Bayesian(_RunTrials, keras_tuner.BayesianOptimization):
    """Settings where a Gaussian process, fitted to the trials so far, hopes for the best."""


class _Hyperband(_RunTrials, keras_tuner.Hyperband):
    """Many short trainings, of which the best go on to longer ones (Li et al., JMLR 2018)."""


_TUNERS = {"random": _Random, "bayesian": _Bayesian, "hyperband": _Hyperband}


def tune(
    dataset: Path,
    out: Path,
    *,
    method: Method = "random",
    max_trials: int | None = None,
    models: Sequence[str] | None = None,
    base: TrainConfig | None = None,
    progress: Progress | None = None,
) -> TrainConfig:
    """Try settings and return the best.

    Searched are the fields `TUNED`; all else, the seed among it, is taken from `base`. Leaves in
    `out` a run directory for each trial (``runs/00``, …), ``trials.csv``, the best first, and
    ``best.json``, which `train.settings.read_config` reads. The same call goes on with a search
    that was killed, and more trials can be added to a finished one.

    Args:
        dataset: The dataset folder.
        out: Folder of the search.
        method: "random", "bayesian" or "hyperband".
        max_trials: Number of trials, those done before included; by default `DEFAULT_TRIALS`.
            None for Hyperband, whose number of trials follows from the epochs.
        models: Names in `MODELS` to choose from; by default that of `base` alone.
        base: The settings that are not searched over; by default short trainings of three epochs.
            For Hyperband its epochs are those of the longest trial.
        progress: Called with the events of `train` and, as ``trial``, the name of the trial.

    Raises:
        TrainError: Nothing to train with, settings that cannot work, or `out` holds another
            search.
    """
    base = TrainConfig(epochs=3) if base is None else base
    models = [base.model] if models is None else list(models)
    _check(method, max_trials, models, base)
    patches = load_patches(dataset)
    # keras-tuner would try three times what cannot work
    training = split_batches(gather([patches]), base)[0]
    description = describe([dataset], [patches], base, training)
    claim(out, {**description, "tuned": list(TUNED), "method": method, "models": models})
    options: dict[str, Any] = {"max_trials": max_trials or DEFAULT_TRIALS}
    if method == "hyperband":
        options = {"max_epochs": base.epochs, "factor": FACTOR}
    # keras-tuner prints that it goes on with an earlier search, and the traceback of a trial that
    # failed, whatever its verbosity.
    with contextlib.redirect_stdout(io.StringIO()):
        search = _TUNERS[method](
            dataset,
            out,
            base,
            progress,
            objective=keras_tuner.Objective("loss_to_choose_by", "min"),
            seed=base.seed,
            hyperparameters=_space(models, base),
            **options,
        )
        search.search(verbose=0)
    trials = search.oracle.get_best_trials(len(search.oracle.trials))
    if not trials:
        raise TrainError(f"{out}: no trial succeeded")
    _write_trials(out / TRIALS_FILE, trials, base)
    best = dataclasses.replace(_config(trials[0], base), epochs=base.epochs)
    write_json_atomic(out / BEST_FILE, dataclasses.asdict(best))
    return best


def _check(method: str, max_trials: int | None, models: list[str], base: TrainConfig) -> None:
    """Raise `TrainError` for arguments that cannot work."""
    if method not in get_args(Method):
        raise TrainError(
            f"method must be one of {', '.join(get_args(Method))}. Received: {method!r}"
        )
    if not models or set(models) - set(MODELS):
        raise TrainError(f"models must be among {', '.join(MODELS)}. Received: {models}")
    if base.strategy == "multi-worker":
        raise TrainError("The search runs in one process; use the strategy none or mirrored.")
    if method == "hyperband":
        if max_trials is not None:
            raise TrainError(
                "max_trials has no meaning for hyperband, whose number of trials follows from the "
                f"epochs; set those. Received: {max_trials}"
            )
    elif max_trials is not None and max_trials < 1:
        raise TrainError(f"max_trials must be at least 1. Received: {max_trials}")


def _space(models: list[str], base: TrainConfig) -> keras_tuner.HyperParameters:
    """The space that is searched; widths are relative to the builder's own default."""
    space = keras_tuner.HyperParameters()
    if len(models) == 1:
        space.Fixed("model", models[0])
    else:
        space.Choice("model", models)
    space.Choice("relative_width", [0.5, 1.0, 1.5])
    space.Choice("dropout", [0.0, 0.2, 0.4])
    space.Float("learning_rate", 3e-4, 6e-3, sampling="log")
    space.Float("weight_decay", 1e-5, 1e-2, sampling="log")
    space.Choice("batch_size", sorted({max(1, base.batch_size // 2), base.batch_size}))
    space.Choice("label_smoothing", [0.0, 0.05, 0.1])
    return space


def _config(trial: Any, base: TrainConfig) -> TrainConfig:
    """The settings of a trial."""
    values = dict(trial.hyperparameters.values)
    parameters = inspect.signature(MODELS[values["model"]]).parameters
    chosen = {name: values[name] for name in TUNED if name in values}
    if "width" in parameters:
        usual = parameters["width"].default
        chosen["width"] = max(2, round(values["relative_width"] * usual))
    if "dropout" not in parameters:
        del chosen["dropout"]
    if "tuner/epochs" in values:  # the length of a Hyperband round
        chosen["epochs"] = int(values["tuner/epochs"])
    return dataclasses.replace(base, **chosen)


def _write_trials(path: Path, trials: Sequence[Any], base: TrainConfig) -> None:
    """The leaderboard: a line for each trial, the best first."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", *TUNED, "epochs", "loss", "accuracy"])
    for trial in trials:
        config = _config(trial, base)
        settings = [getattr(config, name) for name in (*TUNED, "epochs")]
        accuracy = trial.metrics.get_best_value("accuracy_then")
        writer.writerow([trial.trial_id, *settings, trial.score, accuracy])
    write_bytes_atomic(path, text.getvalue().encode())
