"""Combs: how far coefficients keep to multiples of one step, at each position of a grid.

Quantised coefficients are multiples of a step, so their histogram has teeth. The mean cosine of the
coefficients' place between two teeth is the histogram's Fourier sum at that step, 1 for a perfect
comb and near 0 for none (Z. Fan, R. de Queiroz, IEEE TIP 2003, look for JPEG's steps so). A codec's
own grid position has the comb, all others have not: so what they have is taken off, whatever the
picture's statistics are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]

_BINS_A_UNIT = 16
_LEAST_COEFFICIENTS = 200


def grid_positions(period: int) -> list[tuple[int, int]]:
    """Rows and columns where a grid may start."""
    return [(row, column) for row in range(period) for column in range(period)]


def medians(values: Reals) -> Reals:
    """Of each row `(R, N)`, as `np.median`, which imports masked arrays first: that takes longer
    than the sorting."""
    ordered = np.sort(values, axis=1)
    count = values.shape[1]
    return np.asarray((ordered[:, (count - 1) // 2] + ordered[:, count // 2]) / 2)


def tooth_spectrum(
    sizes: npt.NDArray[np.float32], smallest: float, largest: int
) -> npt.NDArray[np.complex128]:
    """Fourier sums of the histogram of sizes, in standard errors of chance.

    At k the sum is that of steps of 2·largest/k, real where teeth stand at multiples of the step.
    Small sizes, which are many whatever the step, are faded out around `smallest`, and so is the
    last quarter before `largest`: an edge in the histogram would ring.

    Args:
        sizes: `(N,)`, at least 0; those from `largest` on are left out.
        smallest: Where half of them count.
        largest: In the same unit.
    """
    bins = largest * _BINS_A_UNIT
    counts = np.bincount((sizes[sizes < largest] * _BINS_A_UNIT).astype(np.intp), minlength=bins)[
        :bins
    ]
    values = (np.arange(bins) + 0.5) / _BINS_A_UNIT
    fade = _ramp(values / smallest - 0.5) * _ramp((largest - values) / (largest / 4))
    weighted = counts * fade
    sums = np.fft.rfft(weighted, 2 * bins)
    middle = np.exp(-1j * np.pi * np.arange(len(sums)) / (2 * bins))  # of a bin, not its start
    return np.asarray(sums * middle / np.sqrt(max((weighted * fade).sum() / 2, 1.0)))


def _ramp(values: Reals) -> Reals:
    """From 0 at 0 to 1 at 1."""
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * np.clip(values, 0, 1)))


@dataclass(frozen=True)
class Comb:
    """The position and step with the clearest comb.

    Attributes:
        row: Where the grid starts, from 0.
        column: The same.
        step: In gray levels.
        strength: Mean cosine of the coefficients' place between two teeth above what other
            positions have, in standard errors of chance.
        other_strength: The greatest at another position, at any step.
        STRENGTH: The least strength of a decisive comb.
        LEAD: The least ratio of that to `other_strength`.
    """

    STRENGTH: ClassVar[float]
    LEAD: ClassVar[float]

    row: int
    column: int
    step: float
    strength: float
    other_strength: float

    @property
    def decisive(self) -> bool:
        """Whether it shows its codec; the limits are those of each kind of comb."""
        return self.strength >= self.STRENGTH and self.strength >= self.LEAD * self.other_strength

    @property
    def reason(self) -> str:
        """A sentence on what a decisive comb shows."""
        raise NotImplementedError


@dataclass(frozen=True)
class CombSearch:
    """What steps are looked for, and where.

    Attributes:
        low: The smallest step, in gray levels.
        high: The largest.
        count: Number of steps, evenly apart on a logarithmic scale.
        teeth: Multiples of a step that are looked at: the larger, the less its place is known. Zero
            is not: there are many zeros at every position.
        largest: Greatest coefficient looked at, in gray levels.
    """

    low: float
    high: float
    count: int
    teeth: int
    largest: int

    @cached_property
    def steps(self) -> Reals:
        """The steps, ascending, `(S,)`."""
        return np.geomspace(self.low, self.high, self.count)

    def histogram(self, coefficients: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
        """Counts of the coefficients' sizes, `(bins,)`, of the same length for all."""
        bins = _BINS_A_UNIT * self.largest
        sizes = np.abs(coefficients) * np.float32(_BINS_A_UNIT) + np.float32(0.5)
        return np.bincount(np.minimum(sizes, bins - 1).ravel().astype(np.intp), minlength=bins)

    def strengths(self, tables: npt.NDArray[np.intp]) -> Reals:
        """`Comb.strength` of each step and position `(S, N)`, from histograms `(bins, N)`."""
        cosine, counts = self._teeth
        number = counts @ tables
        means = (cosine @ tables) / np.maximum(number, 1)
        above = means - medians(means)[:, np.newaxis]
        return np.where(number >= _LEAST_COEFFICIENTS, above * np.sqrt(2 * number), 0.0)

    def clearest(self, strengths: Reals, positions: Sequence[tuple[int, int]]) -> Comb:
        """The clearest of `(S, N)`, at N positions (row, column), at least two."""
        best = strengths.max(axis=0)
        place = int(best.argmax())
        row, column = positions[place]
        step = float(self.steps[strengths[:, place].argmax()])
        return Comb(row, column, step, float(best[place]), float(np.delete(best, place).max()))

    @cached_property
    def _teeth(self) -> tuple[Reals, Reals]:
        """Weights of a histogram's bins for each step: cosine and count, `(S, bins)`."""
        values = np.arange(_BINS_A_UNIT * self.largest) / _BINS_A_UNIT
        steps = self.steps[:, None]
        counts = (values >= steps / 2) & (values < (self.teeth + 0.5) * steps)
        counts[:, -1] = False  # holds all that are larger
        return np.cos(2 * np.pi * values / steps) * counts, counts.astype(np.float64)
