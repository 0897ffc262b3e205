"""Confidence intervals by resampling source pictures.

Patches of one source are no independent witnesses, so whole sources are drawn, with replacement:
the cluster bootstrap with percentile intervals (Davison and Hinkley, *Bootstrap Methods and their
Application*, 1997, sections 3.8 and 5.3). A resample is a row of weights, how often each source was
drawn; with sums by source (right answers, all answers) its score costs one matrix product.

Where every source gives the same score the interval has no width: the resamples cannot show what
no source shows. Read it beside the number of sources.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
CONFIDENCE = 0.95

Statistic = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
"""Sums over sources `(R, K)` to scores `(R, M)`; NaN where a resample has nothing to score."""


@dataclass(frozen=True)
class Interval:
    """The ends of a confidence interval; None where there are fewer than two sources to draw."""

    low: float | None
    high: float | None


@functools.lru_cache(maxsize=16)
def resample_weights(
    sources: int, seed: int = 0, resamples: int = RESAMPLES
) -> npt.NDArray[np.float64]:
    """How often each resample holds each source: whole numbers, `float64` `(R, S)`, read-only.

    Each row sums to `sources`.
    """
    rng = np.random.default_rng([seed, sources])
    drawn = rng.multinomial(sources, np.full(sources, 1.0 / sources), resamples)
    weights = drawn.astype(np.float64)  # the product of integer matrices is slow
    weights.flags.writeable = False
    return weights


def intervals(sums: npt.ArrayLike, statistic: Statistic, seed: int = 0) -> list[Interval]:
    """Percentile intervals of M scores that follow from sums over sources.

    Args:
        sums: What each source adds, `(S, K)`.
        statistic: See `Statistic`.
        seed: Of the resamples.

    Returns:
        M intervals. A resample without anything to score counts for none.
    """
    each = np.asarray(sums, np.float64)
    count = statistic(each.sum(axis=0, keepdims=True)).shape[1]
    if len(each) < 2:
        return [Interval(None, None)] * count
    drawn = statistic(resample_weights(len(each), seed) @ each)
    tail = 50.0 * (1.0 - CONFIDENCE)
    ends = []
    for scores in drawn.T:
        known = scores[~np.isnan(scores)]
        if len(known) == 0:
            ends.append(Interval(None, None))
        else:
            low, high = np.percentile(known, [tail, 100.0 - tail])
            ends.append(Interval(float(low), float(high)))
    return ends


def share_interval(right: npt.ArrayLike, total: npt.ArrayLike, seed: int = 0) -> Interval:
    """The interval of a share, such as an accuracy, from counts by source `(S,)`.

    >>> share_interval([9, 10, 2], [10, 10, 10])
    Interval(low=0.2, high=1.0)
    """
    return intervals(np.stack([right, total], axis=1), _share, seed)[0]


def worst_share_interval(right: npt.ArrayLike, total: npt.ArrayLike, seed: int = 0) -> Interval:
    """The interval of the lowest of C shares, such as the worst recall, from counts `(S, C)`."""
    return intervals(np.concatenate([right, total], axis=1), _worst_share, seed)[0]


def sums_by_source(values: npt.ArrayLike, sources: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Sums `(S, K)` of item values `(N, K)` over the S different sources, sorted by name.

    >>> sums_by_source([[1, 0], [1, 1], [0, 1]], ["oak", "elm", "oak"]).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    names, member = np.unique(np.asarray(sources, dtype=str), return_inverse=True)
    items = np.asarray(values, np.float64)
    sums = np.zeros((len(names), items.shape[1]))
    np.add.at(sums, member, items)
    return sums


def quotient(
    numerator: npt.NDArray[np.float64], denominator: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Element by element; NaN where the denominator is 0."""
    nothing = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    return np.divide(numerator, denominator, out=nothing, where=denominator != 0)


def lowest(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The least along the last axis; NaN is passed over, and comes out where there is no other."""
    least = np.where(np.isnan(shares), np.inf, shares).min(axis=-1)
    return np.where(np.isinf(least), np.nan, least)


def _share(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return quotient(sums[:, :1], sums[:, 1:])


def _worst_share(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    classes = sums.shape[1] // 2
    return lowest(quotient(sums[:, :classes], sums[:, classes:]))[:, np.newaxis]
