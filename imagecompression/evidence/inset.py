"""A picture within a picture: the photograph in a screenshot, on a page or between bars.

What a program has drawn around it (windows, letters, bars) was through no picture codec and holds
no evidence, but it spoils that of the photograph: grids, sizes and sums are the photograph's own.
Drawn areas have a few colours exactly, but for thin strokes, and a photograph has next to nothing
of these. So what has other colours fills a photograph's rectangle; an opening takes away whatever
is thin (J. Serra, Image Analysis and Mathematical Morphology, 1982).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from imagecompression.codec import Image

MIN_SIDE = 128
"""Of an inset, in pixels."""

LEAST_AROUND = 0.1
"""Least share of the picture's area that is drawn around an inset."""

BACKGROUNDS = 8
"""Most colours that drawn areas are taken to have."""

LEAST_BACKGROUND = 0.01
"""Least share of the picture of each of them."""

LEAST_DRAWN = 0.6
"""Least share of the pixels around an inset that have one of them; the others are strokes."""

CELL = 4
"""Side in pixels of the squares that are drawn, or are not, by what most of their pixels are."""

STROKE = 9
"""Cells of a square that must not be drawn all together: more than lines of text are high."""

LEAST_FILL = 0.7
"""Least share of an inset's cells that are not drawn."""

LEAST_EDGE = 0.5
"""By how much the share of pixels that are not drawn rises at an inset's edge, at least. That of a
photograph with a blank background rises little by little."""

LEAST_COLOURS = 64
"""Of an inset; pictures of small palettes are like drawings."""

MOST_ALIKE = 0.3
"""Greatest share of an inset's pixels of one colour: letters have more."""

_SAMPLES = 1 << 16
_REACH = 48  # pixels around the end of its cells in which an inset's edge is looked for
_CANDIDATES = 16
_ROWS_AT_ONCE = 256
_BESIDE = 8  # lines on either side of an edge that are compared

Colours = npt.NDArray[np.uint32]
Pixel = TypeVar("Pixel", bound=np.generic)
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Inset:
    """Where the photograph is.

    Attributes:
        top: Its first row.
        left: Its first column.
        height: In pixels.
        width: In pixels.
    """

    top: int
    left: int
    height: int
    width: int

    @property
    def reason(self) -> str:
        """A sentence on it."""
        return (
            f"Signs and verdict are of {self.width}×{self.height} pixels from row {self.top}, "
            f"column {self.left} on: what is around them is blank or drawn."
        )

    def cut(self, plane: npt.NDArray[Pixel]) -> npt.NDArray[Pixel]:
        """The inset out of the picture that it was found in, or out of a mask of it."""
        rows = slice(self.top, self.top + self.height)
        return np.ascontiguousarray(plane[rows, self.left : self.left + self.width])


def find_inset(image: Image) -> Inset | None:
    """The largest inset; None where the picture is a photograph itself, or holds none.

    Args:
        image: `uint8` `(H, W)` or `(H, W, 3)`; in others none is looked for.
    """
    fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if not fits or image.dtype != np.uint8 or min(image.shape[:2]) < MIN_SIDE:
        return None
    step = max(1, math.isqrt(image.shape[0] * image.shape[1] // _SAMPLES))
    colours, shares = _colours(_packed(image[::step, ::step]))
    background = colours[:BACKGROUNDS][shares[:BACKGROUNDS] >= LEAST_BACKGROUND]
    if shares[: len(background)].sum() < LEAST_AROUND * LEAST_DRAWN:
        return None  # most photographs, at little cost
    other = np.empty(image.shape[:2], np.bool_)
    for start in range(0, len(image), _ROWS_AT_ONCE):  # all in 32 bits would need gigabytes
        rows = slice(start, start + _ROWS_AT_ONCE)
        other[rows] = ~np.isin(_packed(image[rows]), background)
    for top, left, bottom, right in _rectangles(other):
        down = _ends(other[:, left:right].mean(axis=1), top, bottom)
        across = _ends(other[top:bottom].mean(axis=0), left, right)
        if down is None or across is None:
            continue
        inset = Inset(down[0], across[0], down[1] - down[0], across[1] - across[0])
        if min(inset.height, inset.width) >= MIN_SIDE and _is_framed(image, other, inset):
            return inset
    return None


def _packed(image: Image) -> Colours:
    """One number for each colour, `(H, W)`."""
    if image.ndim == 2:
        return image.astype(np.uint32)
    red, green, blue = (image[..., channel].astype(np.uint32) for channel in range(3))
    return np.asarray(red << 16 | green << 8 | blue)


def _rectangles(other: Mask) -> list[tuple[int, int, int, int]]:
    """Tops, lefts, bottoms and rights of the largest filled rectangles of cells, in pixels."""
    from scipy import ndimage  # slow to import

    rows, columns = (length // CELL for length in other.shape)
    squares = other[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL)
    cells = squares.mean((1, 3)) >= 0.5
    found = []
    # A photograph may have a background's colour in places; these filled, so is a framed window.
    for filled in (cells, ndimage.binary_fill_holes(cells)):
        thick = ndimage.binary_opening(filled, np.ones((STROKE, STROKE), np.bool_))
        numbers, _ = ndimage.label(thick)
        for number, (down, across) in enumerate(ndimage.find_objects(numbers), 1):
            inside = numbers[down, across] == number
            if inside.mean() >= LEAST_FILL:
                ends = (down.start, across.start, down.stop, across.stop)
                found.append((inside.size, tuple(CELL * end for end in ends)))
    return [ends for _, ends in sorted(found, reverse=True)[:_CANDIDATES]]


def _ends(profile: npt.NDArray[np.float64], first: int, last: int) -> tuple[int, int] | None:
    """Where the lines of an inset begin and end, from those of its cells; None if not sharply.

    Args:
        profile: Of each line, the share of its pixels that have no background's colour.
        first: First line of its cells.
        last: The line after them.
    """
    end = len(profile)
    first, clear = _edge(profile, first)
    last, clear_too = _edge(profile[::-1], end - last)
    return (first, end - last) if min(clear, clear_too) >= LEAST_EDGE else None


def _edge(profile: npt.NDArray[np.float64], near: int) -> tuple[int, float]:
    """The line near one from which on most more pixels have other colours, and how many more."""
    sums = np.concatenate([np.zeros(_BESIDE), np.cumsum(np.pad(profile, (1, _BESIDE)))[:-1]])
    lines = np.arange(max(0, near - _REACH), min(len(profile), near + _REACH))
    # sums[line + _BESIDE] is that of all lines before.
    inside = sums[lines + 2 * _BESIDE] - sums[lines + _BESIDE]
    before = sums[lines + _BESIDE] - sums[lines]
    best = int((inside - before).argmax())
    return int(lines[best]), float(inside[best] - before[best]) / _BESIDE


def _is_framed(image: Image, other: Mask, inset: Inset) -> bool:
    """Whether it is a photograph in a drawing."""
    drawn = ~other
    inside = inset.cut(drawn)
    around = drawn.size - inside.size
    if around < LEAST_AROUND * drawn.size or drawn.sum() - inside.sum() < LEAST_DRAWN * around:
        return False
    step = max(1, math.isqrt(inside.size // _SAMPLES))
    colours, shares = _colours(_packed(inset.cut(image)[::step, ::step]))
    return len(colours) >= LEAST_COLOURS and shares[0] <= MOST_ALIKE


def _colours(packed: Colours) -> tuple[Colours, npt.NDArray[np.float64]]:
    """The colours and their shares of the pixels, the greatest first."""
    colours, counts = np.unique(packed, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return colours[order], counts[order] / packed.size
