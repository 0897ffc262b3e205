"""The comb of JPEG XR: coefficients of its own lapped transform that are multiples of one step.

JPEG XR filters over the borders of its blocks before it transforms them, so that a block DCT shows
none of its quantisation. Its own transform does: all coefficients of the highest band have one
step. They are looked at in each of the 16 positions of a grid of 4×4 pixels; in the picture's own
their histogram has teeth, and in no other. Strong compression leaves too few coefficients for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from imagecompression.codec import Image
from imagecompression.evidence.comb import Comb, CombSearch, Reals, grid_positions
from imagecompression.evidence.dct import dct_basis
from imagecompression.evidence.jpeg_history import Plane

YCOCG_LUMA = np.array([0.25, 0.5, 0.25])
"""Luma of JPEG XR's colour transform (ITU-T T.832, YCoCg)."""

PERIOD = 4
"""Of the grid, in pixels."""

MIN_SIDE = 32

LEAD_OF_BLOCKS = 1.5
"""Least ratio of a comb's strength to that of a plain block DCT, which WebP leaves."""

_SCALE = 0.827
"""By how much the pre-filter lowers what is even about a block's border."""

_SEARCH = CombSearch(low=1.0, high=24.0, count=160, teeth=8, largest=128)


@dataclass(frozen=True)
class LappedComb(Comb):
    """The clearest comb on a grid of 4×4 pixels.

    Attributes:
        block_strength: The greatest of a plain DCT of 4×4 blocks: WebP's transform.
    """

    STRENGTH: ClassVar[float] = 8.0
    LEAD: ClassVar[float] = 3.0

    block_strength: float

    @property
    def decisive(self) -> bool:
        """Whether it shows JPEG XR. Of JPEGs, which have signs of their own, 1 in 200 has it."""
        return super().decisive and self.strength >= LEAD_OF_BLOCKS * self.block_strength

    @property
    def reason(self) -> str:
        """A sentence on what a decisive comb shows."""
        return (
            "Was a JPEG XR: the coefficients of its lapped transform are multiples of "
            f"{self.step:.1f} gray levels, on the 4×4 grid that starts at row {self.row}, column "
            f"{self.column}."
        )


def lapped_basis() -> Reals:
    """Rows of JPEG XR's first-stage analysis in one dimension, `(4, 8)`.

    A filter over each border between two blocks (even parts scaled by 0.827, odd ones by its
    inverse and turned by π/8), then a DCT of four samples (ITU-T T.832; Tu et al., SPIE 2008). In
    real numbers; the standard's lifting steps approximate it. Two samples on each side belong to
    the neighbours.
    """
    mirror = np.block([[np.eye(2), np.eye(2)[::-1]], [np.eye(2)[::-1], -np.eye(2)]]) / np.sqrt(2)
    cos, sin = np.cos(np.pi / 8), np.sin(np.pi / 8)
    # After the mirror the odd parts stand inner sample first.
    middle = np.zeros((4, 4))
    middle[:2, :2] = _SCALE * np.eye(2)
    middle[2:, 2:] = np.array([[cos, sin], [-sin, cos]]) / _SCALE
    border = mirror @ middle @ mirror
    both = np.kron(np.eye(2), border)  # (8, 8): over the left and the right border
    return _block_basis() @ both


def _block_basis() -> Reals:
    """Rows of a DCT of four samples in the middle of eight, `(4, 8)`."""
    return np.pad(dct_basis(4), ((0, 0), (2, 2)))


def lapped_comb(windows: Sequence[Image]) -> LappedComb:
    """The clearest comb in windows `uint8` `(H, W)` or `(H, W, 3)` of one grid position.

    Args:
        windows: Sides at least `MIN_SIDE`.
    """
    lumas = [_luma(window) for window in windows]
    found = _SEARCH.clearest(_strengths(lumas, lapped_basis()), grid_positions(PERIOD))
    block_strength = float(_strengths(lumas, _block_basis()).max())
    return LappedComb(**vars(found), block_strength=block_strength)


def _strengths(lumas: Sequence[Plane], basis: Reals) -> Reals:
    """`Comb.strength` of each step and position, `(steps, 16)`."""
    tables = np.sum([_histograms(luma, basis.astype(np.float32)) for luma in lumas], axis=0)
    return _SEARCH.strengths(tables)


def _luma(window: Image) -> Plane:
    if window.ndim == 2:
        return window.astype(np.float32)
    return np.asarray(window @ YCOCG_LUMA.astype(np.float32))


def _histograms(luma: Plane, basis: Plane) -> npt.NDArray[np.intp]:
    """Histogram of the sizes of the coefficients at each position, `(bins, 16)`.

    Of frequencies 1 and 2 in both directions: those that one direction lacks are predicted from
    other blocks in part.
    """
    rows, columns = (length - 7 - (length - 7) % PERIOD for length in luma.shape)
    planes = []
    for down in basis[1:3]:
        filtered = sum(tap * luma[k : k + rows] for k, tap in enumerate(down))
        for across in basis[1:3]:
            planes.append(sum(tap * filtered[:, k : k + columns] for k, tap in enumerate(across)))
    coefficients = np.stack(planes)
    tables = []
    for position in grid_positions(PERIOD):
        # The first coefficient's block begins two samples after the filter does.
        top, left = ((start - 2) % PERIOD for start in position)
        tables.append(_SEARCH.histogram(coefficients[:, top::PERIOD, left::PERIOD]))
    return np.stack(tables, axis=1)
