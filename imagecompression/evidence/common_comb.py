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
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from imagecompression.evidence.comb import Comb, CombSearch, grid_positions
from imagecompression.evidence.jpeg_history import DCT, Plane

PERIOD = 8
"""Of the grid, in pixels."""

MIN_SIDE = 32

PIXELS = 1 << 18
"""Of larger pictures, windows of about so many pixels are looked at, to bound the time."""

SOME_CODEC = "lossy"
"""The opinion where a lossy codec was at work that the signs do not name."""

LEAST_STEP = 1.05
"""Of a decisive comb, in gray levels; BPG's quantiser 8 has 1.1."""

_LOWEST = 2
"""Lower frequencies, in either direction, hold the prediction."""

_SEARCH = CombSearch(low=0.7, high=16.0, count=200, teeth=6, largest=64)


@dataclass(frozen=True)
class CommonComb(Comb):
    """The clearest comb on a grid of 8×8 pixels; a decisive one shows some lossy codec."""

    STRENGTH: ClassVar[float] = 7.0  # pictures without a codec reach 5.5
    LEAD: ClassVar[float] = 1.5

    @property
    def decisive(self) -> bool:
        """Whether it shows some codec; not at the end of the search, where mosaics have a rise."""
        return super().decisive and self.step >= LEAST_STEP

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
    found = _SEARCH.clearest(_SEARCH.strengths(tables), grid_positions(PERIOD))
    return CommonComb(**vars(found))


def _histograms(luma: Plane) -> npt.NDArray[np.intp]:
    """Histogram of the sizes of the high coefficients of blocks at each position, `(bins, 64)`."""
    basis = DCT[_LOWEST:]
    height, width = ((length - PERIOD + 1) // PERIOD for length in luma.shape)
    tables = []
    for top in range(PERIOD):
        rows = luma[top : top + height * PERIOD].reshape(height, PERIOD, -1)
        filtered = np.matmul(basis, rows)
        for left in range(PERIOD):
            part = filtered[..., left : left + width * PERIOD].reshape(-1, PERIOD)
            tables.append(_SEARCH.histogram(part @ basis.T))
    return np.stack(tables, axis=1)
