"""Zeros in wavelet bands: the sign of JPEG 2000, found at any crop.

JPEG 2000 leaves most coefficients of its own wavelet transform zero. A transform that begins one
row or column off mixes them, and its bands hold fewer zeros. Other codecs, and pictures that were
never compressed, have about equally many at all positions. Each level halves the sides and has four
positions; the next level goes on from the best one's low band (ISO/IEC 15444-1, annex F).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from imagecompression.evidence.jpeg_history import Plane

LEVELS = 3

MIN_SIDE = 96
"""Smaller windows leave too few coefficients at the last level."""

DECISIVE_SIDE = 192
"""In smaller windows chance may look like JPEG 2000."""

ZERO = 0.7
"""Coefficients below this, in gray levels, count as zero: rounding to 8 bits moves them by 0.35."""

FIRST_LEAD = 0.1
"""Least lead of zeros at the first level for JPEG 2000.

Colours interpolated from a sensor's grid lead by up to 0.05 there, though not at the second.
"""

MOST_ZEROS = 0.9
"""Greatest share of zeros at the first level where that is enough: samples put in the middle
between all others, as by enlarging by two, leave nothing but zeros there, and no second lead."""

TWO_LEADS = 0.02
"""The same at each of the first two levels, which is enough too."""

COARSE_CONTRAST = 0.08
"""Least contrast of zeros at all levels but the first, which is enough too."""

Wavelet = Literal["9/7", "5/3"]
WAVELETS: tuple[Wavelet, ...] = ("9/7", "5/3")
_POSITIONS = ((0, 0), (0, 1), (1, 0), (1, 1))
MARGIN = 4
"""Coefficients at the border, which the reflection there falsifies."""

# Lifting steps (annex F.3.8.2 and F.3.8.1), odd samples first, and the Euclidean norms that they
# leave to the low and the high band's filters.
_LIFTING: dict[Wavelet, tuple[float, ...]] = {
    "9/7": (-1.586134342, -0.052980118, 0.882911075, 0.443506852),
    "5/3": (-0.5, 0.25),
}
_NORMS: dict[Wavelet, tuple[float, float]] = {
    "9/7": (0.887287, 1.139744),
    "5/3": (0.847791, 1.224745),
}


@dataclass(frozen=True)
class LevelZeros:
    """Zeros of one level.

    Attributes:
        position: Row and column, 0 or 1 each, where the transform begins at which most are zero.
        share: Share of zeros there, 0 … 1, mean of the three high bands.
        contrast: How much that is above the mean of the other three positions.
        lead: How much it is above the next best.
    """

    position: tuple[int, int]
    share: float
    contrast: float
    lead: float


def wavelet_zeros(lumas: Sequence[Plane], wavelet: Wavelet) -> tuple[LevelZeros, ...]:
    """Zeros at `LEVELS` levels, finest first.

    Args:
        lumas: Windows `float32` `(H, W)` in gray levels, sides at least `MIN_SIDE`, that begin at
            the same position of a grid of 8×8 pixels.
    """
    found = []
    lows = list(lumas)
    for _ in range(LEVELS):
        shares, bands = {}, {}
        for position in _POSITIONS:
            bands[position], shares[position] = _transformed(lows, position, wavelet)
        best = max(_POSITIONS, key=lambda position: shares[position])
        others = [share for position, share in shares.items() if position != best]
        contrast = shares[best] - float(np.mean(others))
        found.append(LevelZeros(best, shares[best], contrast, shares[best] - max(others)))
        lows = bands[best]
    return tuple(found)


def decisive(found: Iterable[Sequence[LevelZeros]]) -> bool:
    """Whether the levels of some wavelets, finest first, show JPEG 2000."""
    wavelets = list(found)
    leads = np.max([[level.lead for level in levels] for levels in wavelets], axis=0)
    contrasts = np.max([[level.contrast for level in levels] for levels in wavelets], axis=0)
    first_alone = leads[0] >= FIRST_LEAD and max(one[0].share for one in wavelets) <= MOST_ZEROS
    return bool(first_alone or min(leads[:2]) >= TWO_LEADS or min(contrasts[1:]) >= COARSE_CONTRAST)


def _transformed(
    planes: Sequence[Plane], position: tuple[int, int], wavelet: Wavelet
) -> tuple[list[Plane], float]:
    """One level from `position` on: the low bands, and the share of zeros in the others."""
    lows, zeros, number = [], 0, 0
    for plane in planes:
        low, *high = wavelet_bands(plane, position, wavelet)
        lows.append(low)
        for band in high:
            inner = band[MARGIN:-MARGIN, MARGIN:-MARGIN]
            zeros += int(np.count_nonzero(np.abs(inner) < ZERO))
            number += inner.size
    return lows, zeros / number


def wavelet_bands(
    plane: Plane, position: tuple[int, int], wavelet: Wavelet
) -> tuple[Plane, Plane, Plane, Plane]:
    """One level of `(H, W)` from row and column 0 or 1 on, by filters of norm 1.

    Returns:
        The bands that are low in both directions, high across, high down, and high in both, each of
        about half the sides. `MARGIN` coefficients at their borders are falsified.
    """
    low, high = _halves(plane[position[0] :], wavelet)
    return (*_across(low[:, position[1] :], wavelet), *_across(high[:, position[1] :], wavelet))


def _across(plane: Plane, wavelet: Wavelet) -> tuple[Plane, Plane]:
    """`_halves` of the columns."""
    low, high = _halves(plane.T, wavelet)
    return low.T, high.T


def _halves(plane: Plane, wavelet: Wavelet) -> tuple[Plane, Plane]:
    """Low and high band of the rows of `(H, W)`, `(H // 2, W)` each, by filters of norm 1."""
    rows = len(plane) // 2 * 2
    low, high = plane[0:rows:2].copy(), plane[1:rows:2].copy()
    for step, weight in enumerate(_LIFTING[wavelet]):
        changed, other = (high, low) if step % 2 == 0 else (low, high)
        if step % 2 == 0:
            changed[:-1] += np.float32(weight) * (other[:-1] + other[1:])
            changed[-1] += np.float32(2 * weight) * other[-1]
        else:
            changed[1:] += np.float32(weight) * (other[:-1] + other[1:])
            changed[0] += np.float32(2 * weight) * other[0]
    low_norm, high_norm = _NORMS[wavelet]
    return low / np.float32(low_norm), high / np.float32(high_norm)
