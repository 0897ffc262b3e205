"""Cross-validation: how much the accuracy depends on which pictures were trained on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import KFold

from datasets.patches import load_patches
from datasets.sources import csv_bytes
from imagecompression.atomic_file import write_bytes_atomic, write_json_atomic
from train.evaluator import evaluate
from train.examples import gather, resplit
from train.provenance import claim, describe
from train.run import RunError
from train.settings import TrainConfig, TrainError
from train.trainer import split_batches, train

FOLDS_FILE = "folds.csv"
SUMMARY_FILE = "summary.json"
SCORE_FILE = "score.json"


@dataclass(frozen=True)
class Fold:
    """One fold: the accuracy on pictures that its training has not seen in any way.

    Attributes:
        fold: From 1.
        sources: Pictures it was judged on.
        patches: Their patches.
        patch_accuracy: Share of the patches that were named rightly.
        image_accuracy: Share of the encoded pictures that were.
        epochs: Trained.
    """

    fold: int
    sources: int
    patches: int
    patch_accuracy: float
    image_accuracy: float
    epochs: int


@dataclass(frozen=True)
class CrossValidation:
    """All folds; means over them, and sample standard deviations (n - 1)."""

    folds: tuple[Fold, ...]
    patch_accuracy_mean: float
    patch_accuracy_std: float
    image_accuracy_mean: float
    image_accuracy_std: float


def cross_validate(
    dataset: Path,
    out: Path,
    config: TrainConfig,
    folds: int = 5,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> CrossValidation:
    """Train once for each fold of the source groups and judge each run on its own fold.

    The groups of the dataset's train and val splits are dealt out at random (`config.seed`); its
    test split is left alone. Fold i is what run i is judged on, the next fold chooses its best
    epoch, and it learns from all others: were the epoch chosen by the fold that is judged, the
    result would flatter. Leaves in `out` a run directory for each fold (``fold-1``, …),
    ``folds.csv`` and ``summary.json``. The same call goes on with what was killed.

    Args:
        dataset: The dataset folder.
        out: New folder, or that of the same call.
        config: Settings of every run.
        folds: At least 3, and at most the number of groups.
        progress: Called with the events of `train` and, as ``fold``, the number of the fold.

    Raises:
        TrainError: Too few groups, nothing to train with, or `out` holds another work.
    """
    patches = load_patches(dataset)
    assigned = fold_splits(
        patches.table["group"].to_pylist(), patches.table["split"].to_pylist(), folds, config.seed
    )
    first = resplit(patches, assigned[0])
    training = split_batches(gather([first]), config)[0]
    claim(out, {**describe([dataset], [first], config, training, assigned[0]), "folds": folds})
    scores = []
    for number, splits in enumerate(assigned, start=1):

        def report(event: dict[str, Any], number: int = number) -> None:
            if progress is not None:
                progress({**event, "fold": number})

        folder = out / f"fold-{number}"
        run = train(dataset, folder, config, report, splits=splits)
        path = folder / SCORE_FILE
        if not path.is_file():
            judged = evaluate(run.predict, resplit(patches, splits), "test", labels=run.labels)
            score = Fold(
                number,
                judged.sources,
                judged.patches,
                judged.patch.accuracy,
                judged.image.accuracy,
                len(run.history),
            )
            write_json_atomic(path, dataclasses.asdict(score))
        scores.append(_read_score(path))
    result = _summary(scores)
    write_bytes_atomic(out / FOLDS_FILE, csv_bytes([dataclasses.asdict(s) for s in scores]))
    write_json_atomic(out / SUMMARY_FILE, dataclasses.asdict(result))
    return result


def fold_splits(
    groups: Sequence[str], splits: Sequence[str], folds: int, seed: int
) -> list[dict[str, str]]:
    """For each fold, the split of every group: "test" is the fold that is judged.

    Args:
        groups: Group of each patch.
        splits: Split of each patch; groups in "test" become "unused".
        folds: Number of folds.
        seed: Fixes which group is in which fold.

    Raises:
        TrainError: Fewer than 3 folds, or fewer groups than folds.
    """
    home = dict(zip(groups, splits, strict=True))
    names = np.array(sorted(group for group, split in home.items() if split != "test"), object)
    if not 3 <= folds <= len(names):
        raise TrainError(
            "folds must be at least 3 (one to judge by, one to choose the epoch, one to learn "
            f"from) and at most the number of source groups outside the test split, {len(names)}. "
            f"Received: {folds}"
        )
    dealt = KFold(folds, shuffle=True, random_state=seed).split(names)
    members = [set(names[held_out]) for _, held_out in dealt]
    assigned = []
    for number in range(folds):
        judged, choosing = members[number], members[(number + 1) % folds]
        assigned.append(
            {
                group: "unused"
                if split == "test"
                else "test"
                if group in judged
                else "val"
                if group in choosing
                else "train"
                for group, split in home.items()
            }
        )
    return assigned


def _read_score(path: Path) -> Fold:
    try:
        return Fold(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path}: cannot be read: {error}. Delete it to judge anew.") from error


def _summary(scores: Sequence[Fold]) -> CrossValidation:
    patch = np.array([score.patch_accuracy for score in scores])
    image = np.array([score.image_accuracy for score in scores])
    return CrossValidation(
        tuple(scores),
        float(patch.mean()),
        float(patch.std(ddof=1)),
        float(image.mean()),
        float(image.std(ddof=1)),
    )
