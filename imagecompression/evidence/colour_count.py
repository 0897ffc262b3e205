"""Number of colours: the sign of a palette.

A palette of up to 256 colours that was made for a picture is used evenly, because populous colours
are split. Drawings have few colours too, but one of them, or a few, fill most of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imagecompression.codec import Image

PALETTE = 256
"""Most colours of a palette."""

EVENNESS = 0.5
"""Least evenness of the colours for a palette that was made for the picture."""

MOST_GRAYS = 64
"""Most levels of a gray picture for a palette; any has 256 at most."""

MIN_PIXELS = 1 << 16
"""Smaller pictures have few colours anyway."""

CROWDED = 0.5
"""Most of a palette's colours with a neighbour; a dark or smooth picture's few have one each."""

_TILE = 64
_BAND_PIXELS = 1 << 20


@dataclass(frozen=True)
class ColourCount:
    """Colours of a picture.

    Attributes:
        colours: Different colours. Exact up to `PALETTE`; beyond, those of the windows alone.
        exact: Whether all pixels were looked at.
        tile: Median number of different colours in tiles of 64×64 pixels.
        evenness: Entropy of the shares of the colours over that of equal shares, 0 … 1.
        crowded: Share of the colours with a neighbour that differs by one level of one channel (of
            gray, by one level); 0 where there are over `PALETTE`.
        gray: Whether the windows hold nothing but grays.
        pixels: Of the picture.
    """

    colours: int
    exact: bool
    tile: float
    evenness: float
    crowded: float
    gray: bool
    pixels: int

    @property
    def decisive(self) -> bool:
        """Whether it shows a palette that was made for the picture."""
        few = 2 <= self.colours <= (MOST_GRAYS if self.gray else PALETTE)
        made = self.evenness >= EVENNESS and self.crowded <= CROWDED
        return few and self.exact and made and self.pixels >= MIN_PIXELS

    @property
    def reason(self) -> str:
        """A sentence on what a decisive count shows."""
        return f"Has a palette: only {self.colours} colours, evenly used."


def colour_count(image: Image, windows: Sequence[Image]) -> ColourCount:
    """Count colours, in the windows first, and in the whole picture where these have few.

    Args:
        image: `uint8` `(H, W)` or `(H, W, 3)`.
        windows: Parts of it, or itself.
    """
    packed = np.concatenate([_packed(window).ravel() for window in windows])
    found, number = _counted(packed)
    shares = number / number.sum()
    entropy = float(-(shares * np.log(shares)).sum())
    exact = len(windows) == 1
    evenness = entropy / float(np.log(len(shares))) if len(shares) > 1 else 0.0
    if not exact and len(found) <= PALETTE:
        exact, seen = True, np.zeros(1 << 24, bool)
        lines = max(1, _BAND_PIXELS // image.shape[1])
        for top in range(0, len(image), lines):
            seen[_packed(image[top : top + lines])] = True
        found = np.flatnonzero(seen)
    tiles = [
        len(_counted(_packed(window[top : top + _TILE, left : left + _TILE]).ravel())[0])
        for window in windows
        for top in range(0, max(1, window.shape[0] - _TILE + 1), 2 * _TILE)
        for left in range(0, max(1, window.shape[1] - _TILE + 1), 2 * _TILE)
    ]
    gray = all(window.ndim == 2 or np.ptp(window, axis=2).max() == 0 for window in windows)
    return ColourCount(
        colours=len(found),
        exact=exact,
        tile=float(np.median(tiles)),
        evenness=evenness,
        crowded=_crowded(found, gray and image.ndim == 3) if len(found) <= PALETTE else 0.0,
        gray=gray,
        pixels=image.shape[0] * image.shape[1],
    )


def _counted(packed: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.intp]]:
    """Different values, ascending, and how often they are there.

    As `np.unique`, which imports masked arrays first: that takes longer than the counting.
    """
    ordered = np.sort(packed)
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return ordered[starts], np.diff(starts, append=len(ordered))


def _crowded(colours: npt.NDArray[np.int64], gray_in_three: bool) -> float:
    """Share of colours, ascending as packed, with a neighbour one level away."""
    crowded = np.zeros(len(colours), np.bool_)
    for away in (0x010101,) if gray_in_three else (1 << 16, 1 << 8, 1):
        above = np.isin(colours + away, colours)
        crowded |= above | np.isin(colours - away, colours)
    return float(crowded.mean())


def _packed(image: Image) -> npt.NDArray[np.int64]:
    """A number for each pixel's colour, under 2²⁴."""
    if image.ndim == 2:
        return image.astype(np.int64)
    return image.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
