"""Judging a classifier: scores over patches and over images, by strength.

Takes a `predict` function, not a model, so that a network, an ensemble, a baseline on hand-made
features and a fake are judged by the same code. Each score has a 95 % interval over source pictures
(`train.bootstrap`); both its ends are None where there are fewer than two sources.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datasets.patches import PatchSet, load_patches
from imagecompression.errors import ImageCompressionError
from train.bootstrap import intervals, lowest, quotient, share_interval, sums_by_source
from train.run import Predict, Run
from train.verdict import pooled_probabilities

SPLITS = ("train", "val", "test", "all")
UNCOMPRESSED = "uncompressed"
"""The class that has no strength: left out of the bands and of the compressed scores."""

RATIO_EDGES = (0.0, 7.5, 15.0, 30.0, 60.0, math.inf)
SSIM_EDGES = (0.0, 0.7, 0.85, 0.93, 0.97, 1.0)

_CHUNK = 1024


class EvaluationError(ImageCompressionError):
    """An evaluation that is impossible, or that would be worth nothing."""


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class; `support` counts the items that truly are of the class."""

    label: str
    support: int
    precision: float
    precision_low: float | None
    precision_high: float | None
    recall: float
    recall_low: float | None
    recall_high: float | None
    f1: float
    f1_low: float | None
    f1_high: float | None


@dataclass(frozen=True)
class Scores:
    """Scores over items: patches, or whole images, each with the ends of its interval.

    Attributes:
        count: Number of items.
        accuracy: Share named rightly.
        log_loss: Mean negative natural logarithm of the probability of the true class.
        macro_f1: Mean F1 of the classes that occur.
        worst_recall: The lowest recall of the classes that occur.
        compressed_count: Items that are of a compressed class.
        compressed_accuracy: Share of those named rightly; None without any.
        per_class: The classes that the classifier knows, in its order.
        confusion: Counts; rows are the truth, columns the answer, both in that order.
    """

    count: int
    accuracy: float
    accuracy_low: float | None
    accuracy_high: float | None
    log_loss: float
    log_loss_low: float | None
    log_loss_high: float | None
    macro_f1: float
    macro_f1_low: float | None
    macro_f1_high: float | None
    worst_recall: float
    worst_recall_low: float | None
    worst_recall_high: float | None
    compressed_count: int
    compressed_accuracy: float | None
    compressed_accuracy_low: float | None
    compressed_accuracy_high: float | None
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Band:
    """Accuracy at one strength: items of `label` ("compressed" for all) with low ≤ value < high."""

    level: str
    measure: str
    low: float
    high: float
    label: str
    count: int
    accuracy: float
    accuracy_low: float | None
    accuracy_high: float | None


@dataclass(frozen=True)
class Report:
    """The result of an evaluation.

    Attributes:
        split: Which split was judged.
        labels: The classes that the classifier knows.
        sources: Number of different source pictures.
        samples: Number of encoded pictures.
        patches: Number of patches.
        validation_sources: How many of the sources had chosen the model's best epoch; such
            pictures flatter a little.
        patch: Scores over patches.
        image: Scores over encoded pictures, by the mean log-probability of their patches.
        bands: Accuracy by compression ratio and by SSIM, over the compressed classes.
    """

    split: str
    labels: tuple[str, ...]
    sources: int
    samples: int
    patches: int
    validation_sources: int
    patch: Scores
    image: Scores
    bands: tuple[Band, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON-ready dict; an open end of a band is None."""
        content = dataclasses.asdict(self)
        for band in content["bands"]:
            band["high"] = None if math.isinf(band["high"]) else band["high"]
        return content


def evaluate(
    predict: Predict,
    patches: PatchSet,
    split: str = "test",
    *,
    labels: Sequence[str] | None = None,
    validation_sources: Iterable[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Judge `predict` on a split of `patches`.

    Args:
        predict: Patches `uint8` `(N, P, P, 3)` to probabilities `(N, C)`.
        patches: The patches; their labels must be among `labels`.
        split: "train", "val", "test" or "all".
        labels: The C classes in the order of the probabilities; those of `patches` by default.
        validation_sources: SHA-256 of sources that helped to choose the model; only counted.
        progress: Called with the patches done and the patches in all.

    Raises:
        EvaluationError: An unknown split or label, or no patch to judge.
    """
    if split not in SPLITS:
        raise EvaluationError(f"split must be one of {', '.join(SPLITS)}. Received: {split!r}")
    names = list(patches.labels if labels is None else labels)
    table = patches.table
    rows = _rows(patches, split)
    truth_names = [table["label"][row].as_py() for row in rows]
    unknown = sorted(set(truth_names) - set(names))
    if unknown:
        raise EvaluationError(
            f"The dataset has classes that the classifier does not know: {', '.join(unknown)}. "
            f"It knows: {', '.join(names)}"
        )
    truth = np.array([names.index(name) for name in truth_names])
    probabilities = _predictions(predict, patches.pixels, rows, len(names), progress)

    def column(name: str) -> list[Any]:
        values: list[Any] = table[name].take(rows).to_pylist()
        return values

    ratio = np.array(column("ratio"), np.float64)  # None becomes NaN and falls into no band
    ssim = np.array(column("ssim"), np.float64)
    samples = np.array(column("sample_id"), dtype=object)
    sources = np.array(column("source_sha256"), dtype=object)
    different = set(sources.tolist())
    _, first, member = np.unique(samples, return_index=True, return_inverse=True)
    pooled = np.stack(
        [pooled_probabilities(probabilities[member == image]) for image in range(len(first))]
    )
    bands: list[Band] = []
    for level, chosen, answered in (
        ("patch", slice(None), probabilities),
        ("image", first, pooled),
    ):
        answer = answered.argmax(axis=1)
        for measure, edges, values in (
            ("ratio", RATIO_EDGES, ratio), ("ssim", SSIM_EDGES, ssim),
        ):  # fmt: skip
            items = (values[chosen], truth[chosen], answer, sources[chosen])
            bands += _bands(level, measure, edges, *items, names)
    return Report(
        split=split,
        labels=tuple(names),
        sources=len(different),
        samples=len(first),
        patches=len(rows),
        validation_sources=len(different & set(validation_sources)),
        patch=scores(truth, probabilities, names, sources.tolist()),
        image=scores(truth[first], pooled, names, sources[first].tolist()),
        bands=tuple(bands),
    )


def evaluate_run(
    run: Run,
    dataset: Path,
    split: str = "test",
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Judge a run on a split of the dataset folder `dataset`.

    Raises:
        EvaluationError: The run was trained on a source that would be judged (unless the split is
            "train", where that is the point), or the labels do not fit, or the patch size does not
            and the network takes one size only.
        RunError: The model cannot be loaded.
    """
    patches = load_patches(dataset)
    if patches.patch_size != run.patch_size and run.model.input_shape[1] is not None:
        raise EvaluationError(
            f"{run.path} takes patches of {run.patch_size} pixels. Received: {patches.patch_size} "
            f"in {dataset}. Build the dataset with --patch-size {run.patch_size}."
        )
    if split in SPLITS and split != "train":
        judged = set(patches.table["source_sha256"].take(_rows(patches, split)).to_pylist())
        refuse_trained_on(judged, run.sources.get("train", []), f"split {split!r} in {dataset}")
    return evaluate(
        run.predict,
        patches,
        split,
        labels=run.labels,
        validation_sources=run.sources.get("val", []),
        progress=progress,
    )


def refuse_trained_on(judged: set[str], trained_on: Iterable[str], where: str) -> None:
    """Raise `EvaluationError` if a source to be judged, by its SHA-256, was trained on."""
    seen = judged & set(trained_on)
    if seen:
        raise EvaluationError(
            f"The classifier was trained on {len(seen)} of the {len(judged)} source pictures of "
            f"{where}: the result would be worth nothing. Judge it on the split 'test', or on a "
            "dataset of other pictures."
        )


def scores(
    truth: npt.NDArray[np.integer[Any]],
    probabilities: npt.NDArray[np.floating[Any]],
    labels: Sequence[str],
    sources: Sequence[str] | None = None,
) -> Scores:
    """Scores of `probabilities` `(N, C)` against class numbers `truth` `(N,)`, N at least 1.

    Args:
        truth: The true classes.
        probabilities: The answers.
        labels: The C classes.
        sources: The source picture of each item, which the intervals are over; None takes every
            item for a source of its own.
    """
    answer = probabilities.argmax(axis=1)
    classes = len(labels)
    everyone = np.arange(len(truth)).astype(str) if sources is None else np.asarray(sources, str)
    names, member = np.unique(everyone, return_inverse=True)
    by_source = np.zeros((len(names), classes, classes))
    np.add.at(by_source, (member, truth, answer), 1)
    compressed = np.array([name != UNCOMPRESSED for name in labels])

    def statistic(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        found = confusion_scores(sums.reshape(-1, classes, classes), compressed)
        return np.stack(list(found.values()), axis=1)

    # Single precision leaves sums that are off by 1e-7.
    sure = np.asarray(probabilities, np.float64)
    sure = sure[np.arange(len(truth)), truth] / sure.sum(axis=1)
    losses = -np.log(np.clip(sure, np.finfo(np.float64).eps, 1.0))
    loss_sums = sums_by_source(np.stack([losses, np.ones(len(truth))], axis=1), names[member])
    found = confusion_scores(by_source.sum(axis=0, keepdims=True), compressed)
    ends = dict(zip(found, intervals(by_source.reshape(len(names), -1), statistic), strict=True))
    found["log_loss", None] = np.array([losses.mean()])
    ends["log_loss", None] = intervals(loss_sums, lambda s: quotient(s[:, :1], s[:, 1:]))[0]

    def told(score: str, place: int | None = None, nothing: float | None = None) -> dict[str, Any]:
        value, interval = float(found[score, place][0]), ends[score, place]
        return {
            score: nothing if math.isnan(value) else value,
            f"{score}_low": interval.low,
            f"{score}_high": interval.high,
        }

    support = by_source.sum(axis=(0, 2))
    return Scores(
        count=len(truth),
        **told("accuracy"),
        **told("log_loss"),
        **told("macro_f1"),
        **told("worst_recall"),
        compressed_count=int(support[compressed].sum()),
        **told("compressed_accuracy"),
        per_class=tuple(
            ClassScore(
                name,
                int(support[place]),
                **told("precision", place, 0.0),
                **told("recall", place, 0.0),
                **told("f1", place, 0.0),
            )
            for place, name in enumerate(labels)
        ),
        confusion=tuple(tuple(int(n) for n in row) for row in by_source.sum(axis=0)),
    )


def confusion_scores(
    confusions: npt.NDArray[np.float64], compressed: npt.NDArray[np.bool_]
) -> dict[tuple[str, int | None], npt.NDArray[np.float64]]:
    """Scores `(R,)` of confusion matrices `(R, C, C)`, rows the truth, by name and class.

    Precision, recall and F1 are of one class each, all others of None. NaN where there is nothing
    to score; the precision and F1 of a class that occurs and is never answered are 0.

    Args:
        confusions: Counts.
        compressed: Which of the C classes are compressed, `(C,)`.
    """
    right = np.diagonal(confusions, axis1=1, axis2=2)
    truths, answers = confusions.sum(axis=2), confusions.sum(axis=1)
    recall = quotient(right, truths)
    f1 = np.where(truths > 0, quotient(2.0 * right, truths + answers), np.nan)
    precision = np.where(answers > 0, quotient(right, answers), np.where(truths > 0, 0.0, np.nan))
    found: dict[tuple[str, int | None], npt.NDArray[np.float64]] = {
        ("accuracy", None): quotient(right.sum(axis=1), truths.sum(axis=1)),
        ("macro_f1", None): quotient(np.nansum(f1, axis=1), (truths > 0).sum(axis=1)),
        ("worst_recall", None): lowest(recall),
        ("compressed_accuracy", None): quotient(
            right[:, compressed].sum(axis=1), truths[:, compressed].sum(axis=1)
        ),
    }
    for place in range(len(compressed)):
        found["precision", place] = precision[:, place]
        found["recall", place] = recall[:, place]
        found["f1", place] = f1[:, place]
    return found


def _rows(patches: PatchSet, split: str) -> npt.NDArray[np.int64]:
    """Numbers of the rows of a split, at least one."""
    splits = np.array(patches.table["split"].to_pylist(), dtype=object)
    rows = np.arange(len(splits)) if split == "all" else np.flatnonzero(splits == split)
    if len(rows) == 0:
        raise EvaluationError(f"The dataset has no patch in the split {split!r}")
    return rows


def _predictions(
    predict: Predict,
    pixels: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64],
    classes: int,
    progress: Callable[[int, int], None] | None,
) -> npt.NDArray[np.float64]:
    """Probabilities `(N, C)` of the rows, asked for in chunks that fit in memory."""
    parts = []
    for start in range(0, len(rows), _CHUNK):
        chunk = np.asarray(pixels[rows[start : start + _CHUNK]])
        part = np.asarray(predict(chunk), np.float64)
        if part.shape != (len(chunk), classes):
            raise EvaluationError(
                f"predict must answer {(len(chunk), classes)} probabilities for {len(chunk)} "
                f"patches and {classes} classes. Received: shape={part.shape}"
            )
        parts.append(part)
        if progress is not None:
            progress(start + len(chunk), len(rows))
    return np.concatenate(parts)


def _bands(
    level: str,
    measure: str,
    edges: Sequence[float],
    values: npt.NDArray[np.float64],
    truth: npt.NDArray[np.integer[Any]],
    answer: npt.NDArray[np.integer[Any]],
    sources: npt.NDArray[np.object_],
    labels: Sequence[str],
) -> list[Band]:
    """A band for every interval and every compressed class in it, and one for all of them."""
    found = []
    compressed = [place for place, name in enumerate(labels) if name != UNCOMPRESSED]
    values = np.clip(values, edges[0], None)  # SSIM can be a little below 0
    for low, high in itertools.pairwise(edges):
        below = values <= high if high == edges[-1] else values < high
        inside = (values >= low) & below
        groups = [("compressed", compressed), *((labels[place], [place]) for place in compressed)]
        for name, members in groups:
            chosen = inside & np.isin(truth, members)
            if chosen.any():
                right = truth[chosen] == answer[chosen]
                sums = sums_by_source(np.stack([right, right | True], axis=1), sources[chosen])
                ends = share_interval(*sums.T)
                count, accuracy = len(right), float(right.mean())
                found.append(
                    Band(level, measure, low, high, name, count, accuracy, ends.low, ends.high)
                )
    return found
