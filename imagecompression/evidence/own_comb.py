"""The comb of a truncated SVD of blocks: multiples of one step in the picture's own transform.

The codec `svd` quantises the coefficients of its blocks in the basis of their own singular vectors.
Those of the decoded picture's blocks are nearly the same ones, so on the codec's grid the
coefficients in them have teeth. It takes a few thousand blocks to know the basis well enough: a
third of a megapixel shows it clearly, 256×256 pixels now and then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from imagecompression.codec import Image
from imagecompression.evidence.comb import Comb, CombSearch, grid_positions
from imagecompression.evidence.dct import dct_basis
from imagecompression.evidence.jpeg_history import Plane, luma_of

LEADS = {8: 2.0, 4: 3.0}
"""Least ratio of a decisive comb to any other position's, by side of the blocks in pixels, the
codec's default first. Blocks of 4×4 are many, so that what little else is periodic shows too. Those
of 16×16 are too few: in half a megapixel their basis is not known well enough."""

MIN_SIDE = 256

_SEARCH = CombSearch(low=0.7, high=24.0, count=220, teeth=6, largest=128)
_PIXELS = 1 << 19
"""Of larger pictures, rows of blocks evenly over the picture: the basis is that of all of it."""

_COEFFICIENTS = 1 << 17
"""Coefficients that are counted at a position; all blocks have a part in the basis."""

_LEAD_OF_DCT = 1.5
"""Least ratio to the comb in the DCT, which the basis of WebP's blocks is near."""


@dataclass(frozen=True)
class OwnComb(Comb):
    """The clearest comb on a grid of blocks.

    A decisive one shows an SVD of blocks; some JPEGs have it too, and signs of their own.

    Attributes:
        block: Side of the blocks in pixels.
        dct_strength: The greatest strength in the DCT of such blocks, at any position and step;
            None where the comb is not decisive anyway.
    """

    STRENGTH: ClassVar[float] = 7.0
    LEAD: ClassVar[float] = min(LEADS.values())

    block: int
    dct_strength: float | None = None

    @property
    def decisive(self) -> bool:
        """Whether it shows an SVD of blocks."""
        least = max(
            LEADS[self.block] * self.other_strength, _LEAD_OF_DCT * (self.dct_strength or 0.0)
        )
        return super().decisive and self.strength >= least

    @property
    def reason(self) -> str:
        """A sentence on what a decisive comb shows."""
        return (
            f"Was a truncated SVD of blocks of {self.block}×{self.block}: in the transform that "
            "the picture's own blocks give, coefficients are multiples of "
            f"{self.step:.1f} gray levels, on the grid that starts at row {self.row}, column "
            f"{self.column}."
        )


def own_comb(image: Image) -> OwnComb:
    """The clearest comb in a picture: the first decisive one of `LEADS`, or else the strongest.

    Args:
        image: `uint8` `(H, W)` or `(H, W, 3)`, sides at least `MIN_SIDE`.
    """
    found = []
    for block in LEADS:
        found.append(_comb(image, block))
        if found[-1].decisive:
            return found[-1]
    return max(found, key=lambda comb: comb.strength)


def _comb(image: Image, block: int) -> OwnComb:
    apart = block * -(-image.shape[0] * image.shape[1] // _PIXELS)
    height = 2 * block - 1  # holds a row of blocks at every position
    starts = range(0, image.shape[0] - height + 1, apart)
    strips = np.rint(np.stack([luma_of(image[start : start + height]) for start in starts]))
    strips -= strips.mean()
    found = _clearest(strips, block, _own_basis)
    comb = OwnComb(**vars(found), block=block)
    if not comb.decisive:
        return comb
    dct = np.kron(dct_basis(block), dct_basis(block))[1:].T.astype(np.float32)
    plain = _clearest(strips, block, lambda blocks: dct)
    return dataclasses.replace(comb, dct_strength=plain.strength)


def _clearest(strips: Plane, block: int, basis: Callable[[Plane], Plane]) -> Comb:
    """The clearest comb of the blocks' coefficients in a basis, which has vectors as columns."""
    tables = []
    for top, left in grid_positions(block):
        blocks = _blocks(strips, block, top, left)
        some = blocks[:: -(-blocks.size // _COEFFICIENTS)]
        tables.append(_SEARCH.histogram(some @ basis(blocks)))
    strengths = _SEARCH.strengths(np.stack(tables, axis=1))
    return _SEARCH.clearest(strengths, grid_positions(block))


def _blocks(strips: Plane, block: int, top: int, left: int) -> Plane:
    """The blocks from one position on as rows, `(n, block²)`; the same n at every position."""
    columns = (strips.shape[2] - block + 1) // block
    part = strips[:, top : top + block, left : left + columns * block]
    return part.reshape(-1, block, columns, block).swapaxes(1, 2).reshape(-1, block**2)


def _own_basis(blocks: Plane) -> Plane:
    """All singular vectors of the matrix of blocks but the strongest, as columns."""
    _, vectors = np.linalg.eigh((blocks.T @ blocks).astype(np.float64))
    return np.asarray(vectors[:, :-1].astype(np.float32))
