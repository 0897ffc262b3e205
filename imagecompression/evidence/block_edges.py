"""Blockiness: how much stronger differences are at every n-th row or column.

Many codecs leave it, and none alone: deblocking filters remove it, and the block grid of one codec
is that of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imagecompression.evidence.jpeg_history import Plane

PERIODS = (8, 16)

MIN_SIDE = 48
"""Three of the largest period."""

_OFFSET = 0.1  # gray levels; keeps flat areas from giving ratios of nothing


@dataclass(frozen=True)
class BlockEdges:
    """Strength of the strongest position of one period.

    Attributes:
        period: In pixels.
        down: Mean third difference down at the strongest rows, over the mean of all rows; 1 is no
            blockiness.
        row: First row of a block there, 0 … period − 1.
        across: The same of columns.
        column: First column of a block there.
    """

    period: int
    down: float
    row: int
    across: float
    column: int


def block_edges(lumas: Sequence[Plane], period: int) -> BlockEdges:
    """Measure one period.

    Args:
        lumas: Windows `float32` `(H, W)`, sides at least `MIN_SIDE`, that begin at multiples of 16
            pixels.
        period: One of `PERIODS`.
    """
    strengths = [_strengths(lumas, period, axis) for axis in (0, 1)]
    (down, row), (across, column) = (
        (float(found.max() / found.mean()), int(found.argmax())) for found in strengths
    )
    return BlockEdges(period, down, row, across, column)


def _strengths(lumas: Sequence[Plane], period: int, axis: int) -> npt.NDArray[np.float64]:
    """Mean strength of an edge before each position, `(period,)`."""
    total, number = np.zeros(period), np.zeros(period)
    for luma in lumas:
        # Third differences: a slope of the picture is no edge of a block. The one at i is that of
        # samples i … i + 3, with the edge before i + 2.
        steps = np.abs(np.diff(luma, n=3, axis=axis)).mean(axis=1 - axis)
        positions = (np.arange(len(steps)) + 2) % period
        total += np.bincount(positions, steps, minlength=period)
        number += np.bincount(positions, minlength=period)
    return total / np.maximum(number, 1) + _OFFSET
