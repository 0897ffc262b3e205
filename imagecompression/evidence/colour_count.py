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

MIN_PIXELS = 64 * 64
"""Smaller pictures have few colours anyway."""

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
        gray: Whether the windows hold nothing but grays.
        pixels: Of the picture.
    """

    colours: int
    exact: bool
    tile: float
    evenness: float
    gray: bool
    pixels: int

    @property
    def decisive(self) -> bool:
        """Whether it shows a palette that was made for the picture."""
        few = 2 <= self.colours <= (MOST_GRAYS if self.gray else PALETTE)
        return few and self.exact and self.evenness >= EVENNESS and self.pixels >= MIN_PIXELS

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
    found, number = np.unique(packed, return_counts=True)
    shares = number / number.sum()
    entropy = float(-(shares * np.log(shares)).sum())
    colours, exact = len(found), len(windows) == 1
    if not exact and colours <= PALETTE:
        exact, seen = True, np.zeros(1 << 24, bool)
        lines = max(1, _BAND_PIXELS // image.shape[1])
        for top in range(0, len(image), lines):
            seen[_packed(image[top : top + lines])] = True
        colours = int(np.count_nonzero(seen))
    tiles = [
        len(np.unique(_packed(window[top : top + _TILE, left : left + _TILE])))
        for window in windows
        for top in range(0, max(1, window.shape[0] - _TILE + 1), 2 * _TILE)
        for left in range(0, max(1, window.shape[1] - _TILE + 1), 2 * _TILE)
    ]
    return ColourCount(
        colours=colours,
        exact=exact,
        tile=float(np.median(tiles)),
        evenness=entropy / float(np.log(len(shares))) if len(shares) > 1 else 0.0,
        gray=all(window.ndim == 2 or np.ptp(window, axis=2).max() == 0 for window in windows),
        pixels=image.shape[0] * image.shape[1],
    )


def _packed(image: Image) -> npt.NDArray[np.int64]:
    """A number for each pixel's colour, under 2²⁴."""
    if image.ndim == 2:
        return image.astype(np.int64)
    return image.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
