"""The comb of a truncated SVD of blocks: multiples of one step in the picture's own transform.

The codec `svd` quantises the coefficients of its blocks in the basis of their own singular vectors.
Those of the decoded picture's blocks are nearly the same ones, so on the codec's grid the
coefficients in them have teeth. It takes a few thousand blocks to know the basis well enough: a
third of a megapixel shows it clearly, 256×256 pixels now and then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from imagecompression.codec import Image
from imagecompression.evidence.comb import Comb, CombSearch
from imagecompression.evidence.jpeg_history import Plane, luma_of

PERIOD = 8
"""Side of the blocks, the codec's default, in pixels."""

MIN_SIDE = 256

_SEARCH = CombSearch(low=0.7, high=24.0, count=220, teeth=6, largest=128)
_PIXELS = 1 << 19
"""Of larger pictures, rows of blocks evenly over the picture: the basis is that of all of it."""

_COUNTED = 2048
"""Blocks whose coefficients are counted; all that are looked at have a part in the basis."""


@dataclass(frozen=True)
class OwnComb(Comb):
    """The clearest comb on a grid of 8×8 pixels.

    A decisive one shows an SVD of blocks; some JPEGs have it too, and signs of their own.
    """

    STRENGTH: ClassVar[float] = 7.0
    LEAD: ClassVar[float] = 2.0

    @property
    def reason(self) -> str:
        """A sentence on what a decisive comb shows."""
        return (
            "Was a truncated SVD of blocks of 8×8: in the transform that the picture's own blocks "
            f"give, coefficients are multiples of {self.step:.1f} gray levels, on the grid that "
            f"starts at row {self.row}, column {self.column}."
        )


def own_comb(image: Image) -> OwnComb:
    """The clearest comb in a picture.

    Args:
        image: `uint8` `(H, W)` or `(H, W, 3)`, sides at least `MIN_SIDE`.
    """
    apart = PERIOD * -(-image.shape[0] * image.shape[1] // _PIXELS)
    height = 2 * PERIOD - 1  # holds a row of blocks at every position
    starts = range(0, image.shape[0] - height + 1, apart)
    strips = np.rint(np.stack([luma_of(image[start : start + height]) for start in starts]))
    strips -= strips.mean()
    tables = [
        _histogram(_blocks(strips, top, left)) for top in range(PERIOD) for left in range(PERIOD)
    ]
    found = _SEARCH.clearest(_SEARCH.strengths(np.stack(tables, axis=1)), PERIOD)
    return OwnComb(**vars(found))


def _blocks(strips: Plane, top: int, left: int) -> Plane:
    """The blocks from one position on as rows, `(n, 64)`; the same n at every position."""
    columns = (strips.shape[2] - PERIOD + 1) // PERIOD
    part = strips[:, top : top + PERIOD, left : left + columns * PERIOD]
    return part.reshape(-1, PERIOD, columns, PERIOD).swapaxes(1, 2).reshape(-1, PERIOD**2)


def _histogram(blocks: Plane) -> npt.NDArray[np.intp]:
    """Histogram of the sizes of all coefficients but the first, in the blocks' own basis."""
    _, vectors = np.linalg.eigh((blocks.T @ blocks).astype(np.float64))
    some = blocks[:: -(-len(blocks) // _COUNTED)]
    return _SEARCH.histogram(some @ vectors[:, :-1].astype(np.float32))
