"""A run as the page *Datasets and runs* shows it: curves and what evaluations found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from desk.app.folders import read_json
from desk.app.settings import AppError
from train.run import Run

REPORT_FILE = "report.json"

QUICKSTART_EVALUATION = "evaluation"

MAX_CLASSES = 100

LEVELS = ("patch", "image")


@dataclass(frozen=True, eq=False)
class EvaluationView:
    """What an evaluation found.

    Attributes:
        labels: The C classes.
        facts: Split, and numbers of sources, samples and patches.
        accuracy: By level, "patch" and "image".
        confusion: Counts `(C, C)` by level; rows are the truth.
        bands: A row for each level, measure, class and band: accuracy with its interval.
    """

    labels: tuple[str, ...]
    facts: dict[str, Any]
    accuracy: dict[str, float]
    confusion: dict[str, npt.NDArray[np.int64]]
    bands: list[dict[str, Any]]


def read_run(folder: Path) -> Run:
    """The run in a folder; its model is not loaded.

    Raises:
        RunError: It is unfinished or damaged.
    """
    return Run.load(folder)


def find_evaluations(root: Path, run: Path) -> dict[str, Path]:
    """Folders of evaluations inside a run's folder by their name, sorted.

    The quick start lays its one beside the run's folder, as ``evaluation``; it comes last.

    Args:
        root: Of the app; beside it nothing is looked for.
        run: A folder of `desk.app.folders.find_runs`.
    """
    found = {path.parent.name: path.parent for path in sorted(run.glob(f"*/{REPORT_FILE}"))}
    beside = run.parent / QUICKSTART_EVALUATION
    if run != root and (beside / REPORT_FILE).is_file():
        found.setdefault(beside.name, beside)
    return found


def read_evaluation(folder: Path) -> EvaluationView:
    """An evaluation.

    Args:
        folder: Of `find_evaluations`.

    Raises:
        AppError: Missing or damaged, or a link to elsewhere.
    """
    content = read_json(folder.parent, folder.name, REPORT_FILE)
    try:
        labels = tuple(str(label) for label in content["labels"])
        if not 0 < len(labels) <= MAX_CLASSES:
            raise ValueError(f"{len(labels)} classes")
        confusion = {level: np.array(content[level]["confusion"], np.int64) for level in LEVELS}
        if any(counts.shape != (len(labels), len(labels)) for counts in confusion.values()):
            raise ValueError("a confusion matrix of another shape")
        return EvaluationView(
            labels,
            {key: content[key] for key in ("split", "sources", "samples", "patches")},
            {level: float(content[level]["accuracy"]) for level in LEVELS},
            confusion,
            [_band(row) for row in content["bands"]],
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise AppError(f"{folder.name}/{REPORT_FILE} is no evaluation report ({error}).") from error


def _band(row: dict[str, Any]) -> dict[str, Any]:
    low, high = float(row["low"]), row["high"]
    return {
        "level": str(row["level"]),
        "measure": str(row["measure"]),
        "band": f"≥ {low:g}" if high is None else f"{low:g}–{float(high):g}",
        "class": str(row["label"]),
        "count": int(row["count"]),
        "accuracy": float(row["accuracy"]),
        "low": row["accuracy_low"],
        "high": row["accuracy_high"],
    }
