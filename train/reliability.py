"""How far probabilities can be trusted: calibration error, proper scores, reliability diagram.

Everywhere `probabilities` is `(N, C)` with rows that sum to 1, and `truth` `(N,)` holds the numbers
of the true classes; N is at least 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

BINS = 15
_SMALLEST = 1e-15
"""Probabilities are taken for at least this, as scikit-learn does for the log-loss."""


@dataclass(frozen=True)
class Bin:
    """Items whose highest probability is alike.

    Attributes:
        count: Number of items.
        confidence: Mean highest probability.
        accuracy: Share of them whose most probable class is the true one.
    """

    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Quality:
    """Quality of probabilities; of all four, less is better.

    Attributes:
        log_loss: Mean negative natural logarithm of the probability of the true class.
        brier: Mean squared distance from the one-hot truth, 0 to 2.
        ece: Expected calibration error, bins of equal mass.
        cllr: Log-likelihood-ratio cost in bits; log2 of the number of classes if worth nothing.
    """

    log_loss: float
    brier: float
    ece: float
    cllr: float


def quality(probabilities: npt.ArrayLike, truth: npt.ArrayLike) -> Quality:
    """All scores of `Quality`."""
    return Quality(
        log_loss=log_loss(probabilities, truth),
        brier=brier_score(probabilities, truth),
        ece=expected_calibration_error(probabilities, truth),
        cllr=cllr(probabilities, truth),
    )


def log_loss(probabilities: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Mean negative natural logarithm of the probability of the true class."""
    return float(-np.mean(np.log(_of_truth(probabilities, truth))))


def brier_score(probabilities: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Mean squared distance from the one-hot truth (Brier 1950), 0 to 2.

    >>> brier_score([[0.5, 0.5], [1.0, 0.0]], [0, 1])
    1.25
    """
    array = np.asarray(probabilities, np.float64)
    one_hot = np.eye(array.shape[1])[np.asarray(truth, np.int64)]
    return float(np.mean(np.sum((array - one_hot) ** 2, axis=1)))


def cllr(probabilities: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Log-likelihood-ratio cost of several classes in bits (Brümmer and van Leeuwen 2006).

    The mean over the classes that occur of the mean `-log2` probability of their items, for
    probabilities under equal priors.

    >>> cllr([[0.25, 0.75], [0.5, 0.5], [0.5, 0.5]], [0, 1, 1])
    1.5
    """
    numbers = np.asarray(truth, np.int64)
    costs = -np.log2(_of_truth(probabilities, numbers))
    return float(np.mean([costs[numbers == number].mean() for number in np.unique(numbers)]))


def cllr_against_rest(log10_ratios: npt.ArrayLike, is_class: npt.ArrayLike) -> float:
    """Log-likelihood-ratio cost of one class against the rest, in bits (Brümmer and du Preez 2006).

    1 is worth nothing. Items of both kinds are needed.

    Args:
        log10_ratios: Logarithms `(N,)` of the likelihood ratios for the class.
        is_class: Which items are of the class, `(N,)`.

    >>> cllr_against_rest([0.0, 0.0], [True, False])
    1.0
    """
    logs = np.asarray(log10_ratios, np.float64) * np.log(10)
    own = np.asarray(is_class, np.bool_)
    missed, taken = np.logaddexp(0, -logs[own]), np.logaddexp(0, logs[~own])
    return float((missed.mean() + taken.mean()) / (2 * np.log(2)))


def reliability_table(
    probabilities: npt.ArrayLike,
    truth: npt.ArrayLike,
    bins: int = BINS,
    *,
    equal_width: bool = False,
) -> list[Bin]:
    """Confidence and accuracy of the items by their highest probability, empty bins left out.

    Args:
        probabilities: See the module.
        truth: See the module.
        bins: Most bins.
        equal_width: Bins of equal width in 0 … 1; else of equal numbers of items.
    """
    array = np.asarray(probabilities, np.float64)
    confidence = array.max(axis=1)
    right = array.argmax(axis=1) == np.asarray(truth)
    order = np.argsort(confidence, kind="stable")
    if equal_width:
        cuts = np.searchsorted(confidence[order], np.arange(1, bins) / bins, side="right")
        members = np.split(order, cuts)
    else:
        members = np.array_split(order, bins)
    return [
        Bin(len(here), float(confidence[here].mean()), float(right[here].mean()))
        for here in members
        if len(here)
    ]


def expected_calibration_error(
    probabilities: npt.ArrayLike,
    truth: npt.ArrayLike,
    bins: int = BINS,
    *,
    equal_width: bool = False,
) -> float:
    """Mean distance of confidence from accuracy over the bins of `reliability_table`, by count."""
    table = reliability_table(probabilities, truth, bins, equal_width=equal_width)
    total = sum(bin_.count for bin_ in table)
    return sum(bin_.count * abs(bin_.confidence - bin_.accuracy) for bin_ in table) / total


def draw_reliability(tables: Mapping[str, list[Bin]], path: Path) -> None:
    """Draw accuracy over confidence as PNG, a line for each named table."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="gray", lw=1, ls="--", label="ideal")
    for name, table in tables.items():
        points = [(bin_.confidence, bin_.accuracy) for bin_ in table]
        axes.plot(*zip(*points, strict=True), "o-", ms=4, lw=1, label=name)
    axes.set(xlabel="probability stated", ylabel="share named rightly")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


def _of_truth(probabilities: npt.ArrayLike, truth: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(probabilities, np.float64)
    numbers = np.asarray(truth, np.int64)
    chosen = np.take_along_axis(array, numbers[:, np.newaxis], axis=1)[:, 0]
    return np.clip(chosen, _SMALLEST, 1.0)
