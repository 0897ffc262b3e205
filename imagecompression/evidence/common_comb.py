"""The comb of one step for all frequencies: BPG, HEIC, AVIF, JPEG XL and others that quantise so.

These codecs predict a block from its surroundings and quantise what is left, with one step. Where
the prediction was smooth the decoded block's high frequencies are multiples of that step, so the
histogram of all of them together has teeth, on the grid of 8×8 pixels that transforms keep to. It
is a weak sign in a block and a clear one in a picture, most of all in mildly compressed ones, which
show little else. It does not tell these codecs apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from imagecompression.evidence.jpeg_history import DCT, Plane

PERIOD = 8
"""Of the grid, in pixels."""

MIN_SIDE = 32

PIXELS = 1 << 18
"""Of larger pictures, windows of so many pixels are looked at: a fifth of a second."""

STRENGTH = 7.0
"""Least strength of a comb, in standard errors; pictures without a codec reach 5.5."""

LEAD = 1.5
"""Least ratio of that to the strength at any other position of the grid."""

SOME_CODEC = "lossy"
"""The opinion where a lossy codec was at work that the signs do not name."""

_LOWEST = 2
"""Lower frequencies, in either direction, hold the prediction."""

_STEPS = np.geomspace(0.7, 16.0, 200)  # in gray levels; 1.6 % apart
_BINS_A_UNIT, _LARGEST = 16, 64
_TEETH = 6
_LEAST_COEFFICIENTS = 200


@dataclass(frozen=True)
class CommonComb:
    """The position and step with the clearest comb.

    Attributes:
        row: Where the grid of 8×8 pixels starts, 0 to 7.
        column: The same.
        step: In gray levels.
        strength: Mean cosine of the coefficients' place between two teeth above what other
            positions have, in standard errors of chance.
        other_strength: The greatest at another position, at any step.
    """

    row: int
    column: int
    step: float
    strength: float
    other_strength: float

    @property
    def decisive(self) -> bool:
        """Whether it shows that a lossy codec was at work."""
        return self.strength >= STRENGTH and self.strength >= LEAD * self.other_strength

    @property
    def reason(self) -> str:
        """A sentence on what a decisive comb shows."""
        return (
            "Was compressed by a codec with one quantiser step for all frequencies, as AVIF, BPG, "
            f"HEIC and JPEG XL have: high frequencies are multiples of {self.step:.1f} gray "
            f"levels, on the 8×8 grid that starts at row {self.row}, column {self.column}."
        )


def common_comb(lumas: Sequence[Plane]) -> CommonComb:
    """The clearest comb in windows of luma `float32` `(H, W)`, of one grid position.

    Luma is rounded first: the decoder's own had whole numbers.

    Args:
        lumas: Sides at least `MIN_SIDE`.
    """
    tables = np.sum([_histograms(np.rint(luma)) for luma in lumas], axis=0)
    cosine, counts = _teeth()
    number = counts @ tables
    means = (cosine @ tables) / np.maximum(number, 1)
    above = means - np.median(means, axis=1, keepdims=True)
    strengths = np.where(number >= _LEAST_COEFFICIENTS, above * np.sqrt(2 * number), 0.0)
    best = strengths.max(axis=0)
    place = int(best.argmax())
    row, column = divmod(place, PERIOD)
    return CommonComb(
        row,
        column,
        step=float(_STEPS[strengths[:, place].argmax()]),
        strength=float(best[place]),
        other_strength=float(np.delete(best, place).max()),
    )


def _histograms(luma: Plane) -> npt.NDArray[np.float64]:
    """Histogram of the sizes of the high coefficients of blocks at each position, `(bins, 64)`."""
    basis = DCT[_LOWEST:] * np.float32(_BINS_A_UNIT)
    height, width = ((length - PERIOD + 1) // PERIOD for length in luma.shape)
    tables = np.zeros((_BINS_A_UNIT * _LARGEST, PERIOD**2))
    for top in range(PERIOD):
        rows = luma[top : top + height * PERIOD].reshape(height, PERIOD, -1)
        filtered = np.matmul(DCT[_LOWEST:], rows)
        for left in range(PERIOD):
            part = filtered[..., left : left + width * PERIOD].reshape(-1, PERIOD)
            sizes = np.minimum(np.abs(part @ basis.T) + np.float32(0.5), len(tables) - 1)
            bins = np.bincount(sizes.ravel().astype(np.intp), minlength=len(tables))
            tables[:, top * PERIOD + left] = bins
    return tables


@cache
def _teeth() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Weights of a histogram's bins for each step: cosine and count, `(steps, bins)`."""
    values = np.arange(_BINS_A_UNIT * _LARGEST) / _BINS_A_UNIT
    steps = _STEPS[:, None]
    counts = ((values >= steps / 2) & (values < (_TEETH + 0.5) * steps)).astype(np.float64)
    counts[:, -1] = 0  # holds all that are larger
    return np.cos(2 * np.pi * values / steps) * counts, counts
