"""The comb of a truncated SVD of the whole picture: multiples of one step in its own factors.

The codec `svd` quantises the columns s·u and the rows s·v of a picture's singular terms, in its
global mode. The strongest terms of the decoded picture are nearly the same ones, so that their
entries have teeth. A crop mixes the terms and has none; what is left in it is its rank
(`imagecompression.evidence.low_rank`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imagecompression.codec import Image
from imagecompression.evidence.comb import medians, tooth_spectrum
from imagecompression.evidence.dct import dct_basis
from imagecompression.evidence.jpeg_history import Plane, luma_of

MIN_SIDE = 128

MAX_PIXELS = 1 << 22
"""Larger pictures are not looked at: it would take seconds."""

STRENGTH = 7.0
"""Least strength of a decisive comb; a few dark pictures without one reach 8, at many steps."""

LEAD = 2.0
"""Least ratio of that to `FactorComb.other_strength`."""

_TERMS = 20
_MORE_TERMS = 20  # followed beside those, which makes them exact sooner
_ROUNDS = 6
_LOW, _HIGH = 0.7, 12.0  # steps looked for, in gray levels; multiples of 20 are some of 10 too
_LARGEST = 1024  # entry looked at, in gray levels
_SMALLEST = 6.0  # below, there are many whatever the step
_SMOOTH = 60  # frequencies on either side of one that give its background
_APART = 40  # frequencies around a multiple of the comb's that belong to it


@dataclass(frozen=True)
class FactorComb:
    """The clearest comb in the entries of a picture's strongest singular terms.

    Attributes:
        step: In gray levels.
        strength: Mean cosine of the entries' place between two teeth above that of steps nearby, in
            standard errors of chance.
        other_strength: The greatest at a step that has nothing to do with that one.
    """

    step: float
    strength: float
    other_strength: float

    @property
    def decisive(self) -> bool:
        """Whether it shows an SVD of the whole picture."""
        return self.strength >= STRENGTH and self.strength >= LEAD * self.other_strength

    @property
    def reason(self) -> str:
        """A sentence on what a decisive comb shows."""
        return (
            "Was a truncated SVD of the whole picture: the entries of its strongest singular terms "
            f"are multiples of {self.step:.1f} gray levels."
        )


def factor_comb(image: Image) -> FactorComb:
    """The clearest comb in a picture.

    Args:
        image: The whole picture, `uint8` `(H, W)` or `(H, W, 3)`, sides at least `MIN_SIDE`, at
            most `MAX_PIXELS`.
    """
    luma = luma_of(image)
    luma = luma - np.float32(luma.mean(dtype=np.float64))
    wide = luma if luma.shape[0] <= luma.shape[1] else luma.T
    spectrum = tooth_spectrum(_entries(wide), _SMALLEST, _LARGEST).real
    # Frequencies are k to 2·_LARGEST gray levels.
    first, last = int(2 * _LARGEST / _HIGH), int(2 * _LARGEST / _LOW)
    padded = np.pad(spectrum[: last + 1 + _SMOOTH], (_SMOOTH, 0), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * _SMOOTH + 1)
    above = (spectrum[: last + 1] - medians(windows))[first:]
    best = first + int(above.argmax())
    places = np.arange(first, last + 1)
    other = np.abs(places - np.rint(places / best) * best) > _APART
    return FactorComb(2 * _LARGEST / best, float(above.max()), float(above[other].max()))


def _entries(wide: Plane) -> Plane:
    """Sizes of the entries of the strongest terms' columns and rows, each with its term's strength.

    By subspace iteration from smooth vectors, which the strongest terms of pictures are near.
    """
    basis = dct_basis(len(wide))[: _TERMS + _MORE_TERMS].T.astype(np.float32)
    for _ in range(_ROUNDS):
        basis, _ = np.linalg.qr(wide @ (wide.T @ basis))
    rows = basis.T @ wide
    squares, turn = np.linalg.eigh((rows @ rows.T).astype(np.float64))
    turn = turn[:, -_TERMS:].astype(np.float32)
    strengths = np.sqrt(np.maximum(squares[-_TERMS:], 0)).astype(np.float32)
    columns = basis @ turn * strengths
    return np.abs(np.concatenate([columns.ravel(), (turn.T @ rows).ravel()]))
