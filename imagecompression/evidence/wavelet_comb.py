"""The comb of JPEG 2000: multiples of one step in its own wavelet transform.

The coefficients of the 9/7 wavelet's first level are quantised with one step for both bands that
are high in one direction, and decoded to the middle of their interval. So their sizes have teeth a
step apart, which need not stand at multiples of it. Each of four positions where the transform may
begin is the others' background. Even 64×64 pixels show it, and the mildest files show it best. The
5/3 wavelet's band that is high in both directions has teeth too, mostly (ISO/IEC 15444-1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from imagecompression.evidence.comb import Comb, Reals, grid_positions, tooth_spectrum
from imagecompression.evidence.jpeg_history import Plane
from imagecompression.evidence.wavelet_zeros import MARGIN, WAVELETS, Wavelet, wavelet_bands

PERIOD = 2
"""Of the grid, in pixels."""

MIN_SIDE = 64

MOST_STEP = 7.0
"""Of a decisive comb, in gray levels: what is found at the end of the search has no place."""

LEAST_SHARE = 0.5
"""Of a decisive comb in what its position has at that step, which a smooth histogram has too: where
a sensor's colours were interpolated, the four positions differ by up to a third of that without a
comb."""

_LOW, _HIGH = 0.8, 8.0  # steps looked for, in gray levels; coarse files have zeros instead
_LARGEST = 128  # coefficient looked at, in gray levels
_SMALLEST = 1.2  # below, there are many whatever the step


@dataclass(frozen=True)
class WaveletComb(Comb):
    """The clearest comb on a grid of 2×2 pixels; a decisive one shows JPEG 2000.

    Attributes:
        wavelet: Of the transform that shows it.
        background: What the other positions have at that step, at most, in the unit of `strength`.
    """

    STRENGTH: ClassVar[float] = 8.0  # pictures without it reach 5
    LEAD: ClassVar[float] = 3.0

    wavelet: Wavelet
    background: float

    @property
    def decisive(self) -> bool:
        """Whether it shows JPEG 2000."""
        clear = self.strength >= LEAST_SHARE * (self.strength + self.background)
        return super().decisive and clear and self.step <= MOST_STEP

    @property
    def reason(self) -> str:
        """A sentence on what a decisive comb shows."""
        return (
            f"Was a JPEG 2000: sizes of the coefficients of its {self.wavelet} wavelet are "
            f"{self.step:.1f} gray levels apart, where the transform begins at row {self.row}, "
            f"column {self.column}."
        )


def wavelet_comb(lumas: Sequence[Plane]) -> WaveletComb:
    """The clearest comb in windows of luma `float32` `(H, W)` that begin at the same position.

    Args:
        lumas: Sides at least `MIN_SIDE`.
    """
    found = [_comb(lumas, wavelet) for wavelet in WAVELETS]
    return max(found, key=lambda comb: comb.strength)


def _comb(lumas: Sequence[Plane], wavelet: Wavelet) -> WaveletComb:
    positions = grid_positions(PERIOD)
    first, last = int(2 * _LARGEST / _HIGH), int(2 * _LARGEST / _LOW)
    spectra = np.stack([_spectrum(lumas, position, wavelet) for position in positions])
    spectra = spectra[:, first : last + 1]
    strengths = np.stack(
        [own - np.delete(spectra, place, axis=0).max(axis=0) for place, own in enumerate(spectra)]
    )
    best = strengths.max(axis=1)
    place = int(best.argmax())
    row, column = positions[place]
    at = int(strengths[place].argmax())
    step = 2 * _LARGEST / (first + at)
    other = float(np.delete(best, place).max())
    background = float(spectra[place, at] - best[place])
    return WaveletComb(row, column, step, float(best[place]), other, wavelet, background)


def _spectrum(lumas: Sequence[Plane], position: tuple[int, int], wavelet: Wavelet) -> Reals:
    """How clear teeth are at each frequency, wherever they stand, in standard errors of chance."""
    coefficients = []
    for luma in lumas:
        _, low_high, high_low, high_high = wavelet_bands(luma, position, wavelet)
        bands = (low_high, high_low) if wavelet == "9/7" else (high_high,)
        coefficients += [band[MARGIN:-MARGIN, MARGIN:-MARGIN].ravel() for band in bands]
    return np.abs(tooth_spectrum(np.abs(np.concatenate(coefficients)), _SMALLEST, _LARGEST))
