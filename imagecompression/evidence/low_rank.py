"""Numerical rank: the sign of a codec that keeps few singular terms.

The matrix is the picture's luma, or that of its blocks, one block a row. A truncated singular value
decomposition leaves K strong singular values, and then nothing but the rounding to 8 bits, so that
the values fall steeply between two of them. Those of other pictures fall gently. Any rows and
columns of a matrix of rank K have rank K at most, so that a part of the picture is enough. Enlarged
and blurred pictures have a low rank too, but half of their rows have half of it; half of the rows
of a truncated decomposition have all of its rank, or all that so many rows can have.

JPEG drops whole frequencies of its blocks too, but those of the DCT: a codec with a transform of
the picture's own drops more than any frequencies account for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from imagecompression.codec import Image
from imagecompression.evidence.dct import dct_basis
from imagecompression.evidence.jpeg_history import Plane, luma_of

MIN_SIDE = 64

ROUNDING = 0.35
"""Standard deviation of the error of luma, in gray levels: rounded itself, and then as RGB."""

PICTURE_DROP = 2.0
"""Least ratio of two singular values of the picture that follow each other, for SVD."""

AFTER_DROP = 0.1
"""Greatest share of the values that lie after the drop and yet above rounding errors."""

LEAST_FULL = 128
"""Fewest values that a drop among them tells something of."""

HALF_RANK = 0.65
"""Least share of the rank that half of the rows have; of an enlarged picture's it is half."""

_MOST_ROWS, _MOST_COLUMNS = 512, 2048
_MOST_BLOCKS = 3000
_FIRST = 4  # the first values of any picture fall steeply
_LAST = 8  # those of a square matrix of noise fall steeply at the end
_EXACT = 0.05  # of the rounding errors: below, rows or columns were repeated, not rounded

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PictureRank:
    """Rank of luma as a matrix.

    Attributes:
        rank: Singular values above what rounding errors alone have.
        full: How many there are.
        drop: Largest ratio of two that follow each other, both above or near the rounding errors.
        before: How many lie before that drop.
        half_rank: `rank` of the first half of the rows.
    """

    rank: int
    full: int
    drop: float
    before: int
    half_rank: int

    @property
    def decisive(self) -> bool:
        """Whether it shows an SVD of the whole picture."""
        down_to_rounding = self.rank - self.before <= AFTER_DROP * self.full
        half = self.full // 2
        if self.rank <= half:
            unlike_enlarged = self.half_rank >= HALF_RANK * self.rank
        else:
            missing, missing_in_half = 1 - self.rank / self.full, 1 - self.half_rank / half
            unlike_enlarged = missing_in_half <= missing / 2
        clear = self.drop >= PICTURE_DROP and self.full >= LEAST_FULL
        return clear and down_to_rounding and unlike_enlarged

    @property
    def reason(self) -> str:
        """A sentence on what a decisive drop shows."""
        return (
            f"Was a truncated SVD of the whole picture: after {self.before} singular values the "
            f"next is {self.drop:.1f} times smaller."
        )


@dataclass(frozen=True)
class BlockRank:
    """Rank of the matrix of a picture's blocks, at the grid position of the steepest drop.

    Attributes:
        block: Side of the blocks.
        position: Row and column of that grid, 0 … block − 1.
        rank: Directions before the drop.
        full: Directions in all, block².
        drop: Ratio of the variances around the drop.
        other_drop: The largest at any other grid position.
        floor: Variance after the drop, in squared gray levels; rounding leaves about 0.12.
        empty_frequencies: Frequencies of the blocks' DCT on the far side of the drop.
    """

    block: int
    position: tuple[int, int]
    rank: int
    full: int
    drop: float
    other_drop: float
    floor: float
    empty_frequencies: int


def picture_rank(image: Image) -> PictureRank:
    """Rank of evenly spread rows and columns of a picture's luma.

    Args:
        image: The whole picture, `uint8` `(H, W)` or `(H, W, 3)`, sides at least `MIN_SIDE`.
    """
    wide = image if image.shape[0] <= image.shape[1] else image.swapaxes(0, 1)
    rows, columns = (
        np.linspace(0, side - 1, min(side, most)).astype(int)
        for side, most in zip(wide.shape[:2], (_MOST_ROWS, _MOST_COLUMNS), strict=True)
    )
    matrix = luma_of(wide[np.ix_(rows, columns)]).astype(np.float64)
    matrix -= matrix.mean()
    values, errors = _singular_values(matrix)
    half_values, half_errors = _singular_values(matrix[: len(matrix) // 2])
    drops = values[:-1] / np.maximum(values[1:], 1e-9)
    usable = (values[:-1] > 0.8 * errors) & (values[1:] > _EXACT * errors)
    usable[:_FIRST] = False
    usable[-_LAST:] = False
    drops = np.where(usable, drops, 1.0)
    return PictureRank(
        rank=int((values > errors).sum()),
        full=len(values),
        drop=float(drops.max()),
        before=int(drops.argmax()) + 1,
        half_rank=int((half_values > half_errors).sum()),
    )


def _singular_values(matrix: Reals) -> tuple[Reals, float]:
    """Singular values, falling, of no more rows than columns; and the largest of errors alone."""
    squares = np.linalg.eigvalsh(matrix @ matrix.T)[::-1]
    errors = ROUNDING * (matrix.shape[0] ** 0.5 + matrix.shape[1] ** 0.5)
    return np.sqrt(np.maximum(squares, 0)), errors


def block_rank(luma: Plane, block: int) -> BlockRank:
    """Rank of the matrix of evenly spread blocks, at all positions of their grid.

    Args:
        luma: `float32` `(H, W)`, sides at least `MIN_SIDE`.
        block: Side of the blocks, 4 or 8.
    """
    found = []
    for position, matrix in _block_matrices(luma, block):
        variances = np.linalg.eigvalsh(matrix.T @ matrix / len(matrix))[::-1]
        variances = np.maximum(variances, _EXACT)
        drops = variances[:-1] / variances[1:]
        drops[:_FIRST] = 1.0
        rank = int(drops.argmax()) + 1
        found.append((float(drops.max()), rank, float(variances[rank]), position))
    found.sort(reverse=True)
    drop, rank, floor, position = found[0]
    matrix = next(matrix for place, matrix in _block_matrices(luma, block) if place == position)
    frequencies = ((matrix @ _cosines(block).T) ** 2).mean(axis=0)
    return BlockRank(
        block=block,
        position=position,
        rank=rank,
        full=block * block,
        drop=drop,
        other_drop=found[1][0],
        floor=floor,
        empty_frequencies=int((frequencies < floor * drop**0.5).sum()),
    )


def _block_matrices(luma: Plane, block: int) -> Iterator[tuple[tuple[int, int], Reals]]:
    """Blocks as rows `(N, block²)`, less their mean, by the position of the grid."""
    rows, columns = (side // block - 1 for side in luma.shape)
    chosen = np.linspace(0, rows * columns - 1, min(rows * columns, _MOST_BLOCKS)).astype(int)
    down, across = np.divmod(chosen, columns)
    inside = np.arange(block)
    for top in range(block):
        for left in range(block):
            at_rows = (down * block + top)[:, None, None] + inside[:, None]
            at_columns = (across * block + left)[:, None, None] + inside
            matrix = luma[at_rows, at_columns].reshape(len(chosen), -1).astype(np.float64)
            yield (top, left), matrix - matrix.mean()


@cache
def _cosines(block: int) -> Reals:
    """The two-dimensional DCT-II as a matrix `(block², block²)`, one frequency a row."""
    return np.asarray(np.kron(dct_basis(block), dct_basis(block)))
