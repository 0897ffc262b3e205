"""All models side by side: trained for the same time on the same patches, and judged alike."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.patches import PatchSet, load_patches, patches_sha256
from datasets.sources import csv_bytes
from imagecompression.atomic_file import write_bytes_atomic, write_json_atomic
from imagecompression.thread_limit import one_thread
from train.baseline import BaselineConfig, fit_baseline
from train.evaluator import evaluate
from train.models import MODELS
from train.provenance import claim
from train.run import Predict, RunError
from train.settings import TrainConfig, TrainError
from train.trainer import train

BASELINE = "baseline"
"""Name of the boosted trees on hand-made features among the models."""

ENTRY_FOLDER = "entries"
LEADERBOARD_CSV = "leaderboard.csv"
LEADERBOARD_JSON = "leaderboard.json"

_TIMED_PATCHES = 256


@dataclass(frozen=True)
class Entry:
    """One model's line of the leaderboard.

    Attributes:
        model: A name in `MODELS`, or `BASELINE`.
        parameters: Of the network; None for the baseline.
        seconds: Of training, wall clock.
        patches_per_second: In inference, for each second of one core's time.
        val_accuracy: Share of the validation patches named rightly; what the order is by.
        test_accuracy: Share of the test patches named rightly.
        test_image_accuracy: Share of the encoded test pictures named rightly.
        test_worst_recall: Lowest recall of a class, over test patches.
    """

    model: str
    parameters: int | None
    seconds: float
    patches_per_second: float
    val_accuracy: float
    test_accuracy: float
    test_image_accuracy: float
    test_worst_recall: float


def benchmark_models(
    dataset: Path,
    out: Path,
    *,
    models: Sequence[str] | None = None,
    minutes: float | None = None,
    seed: int = 0,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> list[Entry]:
    """Train and judge models on one dataset, best validation accuracy first.

    Leaves in `out` a run directory for each network (by its name), ``entries/``, and the files
    ``leaderboard.csv`` and ``leaderboard.json`` of all models that were ever asked for there. The
    same call goes on with what was killed; what is done is taken as it is.

    Args:
        dataset: The dataset folder, with patches in all three splits.
        out: New folder, or that of the same benchmark.
        models: Names in `MODELS`, or `BASELINE`; all of them by default.
        minutes: Of training for each network; None for the default epochs.
        seed: Of every training.
        progress: Called with the events of `train` and of the baseline (``event`` "features" with
            ``done`` and ``total``), and before each model ``event`` "model"; all with ``model``.

    Raises:
        TrainError: An unknown model, a split without patches, or `out` holds another benchmark.
    """
    names = [*MODELS, BASELINE] if models is None else list(models)
    unknown = [name for name in names if name not in MODELS and name != BASELINE]
    if unknown or not names:
        raise TrainError(
            f"Models must be among {', '.join([*MODELS, BASELINE])}. Received: {unknown or names}"
        )
    patches = load_patches(dataset)
    present = set(patches.table["split"].to_pylist())
    if not {"train", "val", "test"} <= present:
        raise TrainError(
            "A leaderboard needs patches in the splits train, val and test. "
            f"Received: {', '.join(sorted(present)) or 'none'}"
        )
    identity = {"patches": len(patches.pixels), "patches_sha256": patches_sha256(dataset)}
    claim(out, {"leaderboard": {"minutes": minutes, "seed": seed}, "dataset": identity})
    (out / ENTRY_FOLDER).mkdir(exist_ok=True)
    for name in names:
        path = out / ENTRY_FOLDER / f"{name}.json"
        if path.is_file():
            continue

        def report(event: dict[str, Any], name: str = name) -> None:
            if progress is not None:
                progress({**event, "model": name})

        report({"event": "model"})
        config = None if name == BASELINE else TrainConfig(model=name, minutes=minutes, seed=seed)
        entry = (
            _network_entry(dataset, out, config, patches, report)
            if config is not None
            else _baseline_entry(patches, seed, report)
        )
        write_json_atomic(path, dataclasses.asdict(entry))
    entries = [_read_entry(path) for path in sorted((out / ENTRY_FOLDER).glob("*.json"))]
    entries.sort(key=lambda entry: (-entry.val_accuracy, entry.model))
    _write(out, entries)
    return entries


def _network_entry(
    dataset: Path,
    out: Path,
    config: TrainConfig,
    patches: PatchSet,
    report: Callable[[dict[str, Any]], None],
) -> Entry:
    run = train(dataset, out / config.model, config, report)
    return _entry(
        config.model,
        run.predict,
        patches,
        labels=run.labels,
        parameters=run.model.count_params(),
        seconds=run.history[-1]["seconds"],
    )


def _baseline_entry(
    patches: PatchSet, seed: int, report: Callable[[dict[str, Any]], None]
) -> Entry:
    started = time.monotonic()
    baseline = fit_baseline(
        patches,
        BaselineConfig(seed=seed),
        lambda done, total: report({"event": "features", "done": done, "total": total}),
    )
    seconds = round(time.monotonic() - started, 1)
    return _entry(
        BASELINE,
        baseline.predict,
        patches,
        labels=list(baseline.labels),
        parameters=None,
        seconds=seconds,
    )


def _entry(
    name: str,
    predict: Predict,
    patches: PatchSet,
    *,
    labels: list[str],
    parameters: int | None,
    seconds: float,
) -> Entry:
    """Judge `predict` on the validation and the test split, and time it."""
    val = evaluate(predict, patches, "val", labels=labels)
    test = evaluate(predict, patches, "test", labels=labels)
    return Entry(
        model=name,
        parameters=parameters,
        seconds=seconds,
        patches_per_second=round(_speed(predict, patches), 1),
        val_accuracy=val.patch.accuracy,
        test_accuracy=test.patch.accuracy,
        test_image_accuracy=test.image.accuracy,
        test_worst_recall=test.patch.worst_recall,
    )


def _speed(predict: Predict, patches: PatchSet) -> float:
    """Patches for each second of processor time, over all threads: what one core would do."""
    pixels = np.resize(patches.pixels[:_TIMED_PATCHES], (_TIMED_PATCHES, *patches.pixels.shape[1:]))
    with one_thread():
        predict(pixels)  # the first call compiles
        started = time.process_time()
        predict(pixels)
        return _TIMED_PATCHES / (time.process_time() - started)


def _read_entry(path: Path) -> Entry:
    try:
        return Entry(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path}: cannot be read: {error}. Delete it to judge anew.") from error


def _write(out: Path, entries: Sequence[Entry]) -> None:
    rows = [dataclasses.asdict(entry) for entry in entries]
    write_bytes_atomic(out / LEADERBOARD_CSV, csv_bytes(rows))
    write_json_atomic(out / LEADERBOARD_JSON, {"models": rows})
