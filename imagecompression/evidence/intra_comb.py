"""The comb of HEVC intra coding (BPG, HEIC): what its prediction leaves is multiples of one step.

HEVC predicts a block from the pixels around it, in one of 35 ways, and quantises the transform of
what is left (ITU-T H.265, 8.4.4.2 and 8.6). A decoded picture still holds the block and the pixels
around it, so all predictions can be made again. At one of 64 positions of the grid, in blocks of
8×8 whose transform has that size, what the right one leaves lies on multiples of the quantiser's
step. With mild quantisers, where a picture shows little else, that is hundreds of nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imagecompression.codec import Image
from imagecompression.evidence.comb import Reals, grid_positions
from imagecompression.evidence.intra_prediction import (
    AROUND,
    SIDE,
    flat_predictions,
    predictions,
)
from imagecompression.evidence.jpeg_history import Plane, luma_of

HEVC = "HEVC intra"
"""The opinion where a codec of this family was at work: BPG or HEIC."""

PERIOD = SIDE
"""Of the grid, and side of the blocks that are looked at, in pixels."""

MIN_SIDE = 64

NATS = 30.0
"""Least evidence of a decisive comb, and least lead over other positions."""

LEAD_A_BLOCK = 0.25
"""Least such lead for each block, in nats: AV1 has predictions that are alike, and one step."""

SHARE_OF_PREDICTION = 0.5
"""Least share of the evidence that flat predictions do not give: other codecs with blocks of 8×8
have those too."""

QUANTISERS = range(6, 30)
"""Quantiser parameters looked for: steps of 1.25 to 18 gray levels."""

_SCALES = np.array([40, 45, 51, 57, 64, 72]) / 64  # levelScale (H.265, 8.6.3)
STEPS = np.array([_SCALES[qp % 6] * 2.0 ** (qp // 6) for qp in QUANTISERS])
"""The step of each of `QUANTISERS`, in gray levels of an orthonormal transform."""

_TRANSFORM = np.array(
    [
        [64, 64, 64, 64, 64, 64, 64, 64],
        [89, 75, 50, 18, -18, -50, -75, -89],
        [83, 36, -36, -83, -83, -36, 36, 83],
        [75, -18, -89, -50, 50, 89, 18, -75],
        [64, -64, -64, 64, 64, -64, -64, 64],
        [50, -89, 18, 75, -75, -18, 89, -50],
        [36, -83, 83, -36, -36, 83, -83, 36],
        [18, -50, 75, -89, 89, -75, 50, -18],
    ]
) / (64 * np.sqrt(8))  # transMatrix for 8 samples (H.265, 8.6.4.2)

_TEETH = 10
_RIGHT_SHARE = 0.3  # of blocks whose transform has this size, before any is looked at
_LEAST_VARIANCE = 1.0
_BEST = 2  # positions, by each kind of evidence
_ORDINARY = slice(20, 23)  # positions, in the order of their evidence
_FIRST_LEAD = 2.0  # nats over all but the best at the first look, to look again
_FIRST_LOOK = (64, 2)  # blocks at every position, predictions of each that leave least
_LOOK = (384, 4)  # at the best positions and at ordinary ones, if that is worth it
_NOISE = {True: 0.34, False: 0.44}  # standard deviation of coefficients, exact or not
_MOST = 60.0  # nats of one block


@dataclass(frozen=True)
class IntraComb:
    """The grid position where predictions leave the clearest comb.

    Attributes:
        row: Where the grid starts, from 0.
        column: The same.
        quantiser: HEVC's quantiser parameter that explains most.
        nats: Evidence for the comb against none, where `varied` the mean over all quantisers in
            each block.
        other_nats: The greatest at ordinary positions.
        flat_nats: What predictions that are the same along rows or columns give.
        blocks: Number of blocks looked at.
        exact: Whether 8 bit are assumed, where predictions are known to the last bit; else more.
        varied: Whether different blocks have different quantisers, as adaptive ones choose.
    """

    row: int
    column: int
    quantiser: int
    nats: float
    other_nats: float
    flat_nats: float
    blocks: int
    exact: bool
    varied: bool

    @property
    def decisive(self) -> bool:
        """Whether it shows HEVC."""
        return (
            self.nats >= NATS
            and self.nats - self.other_nats >= max(NATS, LEAD_A_BLOCK * self.blocks)
            and self.nats - self.flat_nats >= SHARE_OF_PREDICTION * self.nats
        )

    @property
    def reason(self) -> str:
        """A sentence on what a decisive comb shows."""
        which = (
            f"steps that vary from block to block (quantiser about {self.quantiser})"
            if self.varied
            else f"one step (quantiser {self.quantiser})"
        )
        return (
            "Was coded with HEVC, as BPG and HEIC are: what its intra prediction leaves is "
            f"multiples of {which}, on the 8×8 grid that starts at row {self.row}, column "
            f"{self.column}."
        )


def intra_comb(windows: Sequence[Image]) -> IntraComb:
    """The clearest comb in windows `uint8` `(H, W)` or `(H, W, 3)` that begin at one grid position.

    Blocks with the most texture and without clipped pixels are looked at: some at every position,
    more at the few that this makes likely and at ordinary ones.

    Args:
        windows: Sides at least `MIN_SIDE`.
    """
    search = _Search([_Window.of(window) for window in windows])
    positions = grid_positions(PERIOD)
    first = [search.evidence(position, _FIRST_LOOK, exact=False) for position in positions]
    nats = np.array([[one.nats(varied) for one in first] for varied in (False, True)])
    order = np.argsort(-nats, axis=1, kind="stable")
    ranked = np.take_along_axis(nats, order, axis=1)
    worth = bool(np.any(ranked[:, 0] - ranked[:, _BEST] >= _FIRST_LEAD))

    def look(place: int, exact: bool) -> _Evidence:
        return search.evidence(positions[place], _LOOK, exact=exact) if worth else first[place]

    best = sorted({*order[:, :_BEST].ravel().tolist()})
    looked = [
        (look(place, exact), place, exact)
        for place in best
        for exact in ((True, False) if worth else (False,))
    ]
    evidence, place, exact, varied = max(
        ((*one, varied) for one in looked for varied in (False, True)),
        key=lambda one: one[0].nats(one[3]),
    )
    others = [place for place in order[1, _ORDINARY].tolist() if place not in best]
    flat = search.evidence(
        positions[place], _LOOK if worth else _FIRST_LOOK, exact=exact, flat=True
    )
    return IntraComb(
        *positions[place],
        QUANTISERS[int(evidence.shared.argmax())],
        evidence.nats(varied),
        max(look(other, exact).nats(varied) for other in others),
        flat.nats(varied),
        evidence.blocks,
        exact,
        varied,
    )


@dataclass(frozen=True)
class _Evidence:
    """Nats at one position: for each quantiser shared by all blocks `(Q,)`, and for free ones."""

    blocks: int
    shared: Reals
    free: float

    def nats(self, varied: bool) -> float:
        return self.free if varied else float(self.shared.max())


@dataclass(frozen=True, eq=False)
class _Window:
    """Luma of a window, as it is and rounded, and the variance of the block that begins at each
    pixel; -1 where it cannot be looked at."""

    luma: Plane
    rounded: Plane
    variance: Plane

    @classmethod
    def of(cls, window: Image) -> _Window:
        luma = luma_of(window)
        clipped = (window == 0) | (window == 255)
        if clipped.ndim == 3:
            clipped = clipped.any(axis=-1)
        mean = _box_sums(luma) / SIDE**2
        variance = _box_sums(luma.astype(np.float64) ** 2) / SIDE**2 - mean**2
        variance[_box_sums(clipped) > 0] = -1
        variance[0], variance[:, 0] = -1, -1  # samples around the block
        variance[-SIDE:], variance[:, -SIDE:] = -1, -1
        # Halves of luma go up for certain, see `train.layers.rounded_luma`.
        return cls(luma, np.floor(luma + np.float32(0.5005)), variance.astype(np.float32))


class _Search:
    """Evidence in the blocks of several windows with the most texture."""

    def __init__(self, windows: Sequence[_Window]) -> None:
        self._windows = windows
        inverse = np.linalg.inv(_TRANSFORM.T)
        self._transform = np.kron(inverse, inverse).astype(np.float32).T
        self._all = self._spectra(predictions())
        self._flat = self._spectra(predictions()[flat_predictions()])

    def _spectra(self, matrices: Plane) -> tuple[Plane, Plane]:
        """Predictions, and the coefficients of all of them `(33, V·64)`."""
        return matrices, (matrices.transpose(2, 0, 1) @ self._transform).reshape(AROUND, -1)

    def evidence(
        self,
        position: tuple[int, int],
        look: tuple[int, int],
        *,
        exact: bool,
        flat: bool = False,
    ) -> _Evidence:
        """Of up to so many blocks at a position, and so many predictions of each."""
        count, kept = look
        share = -(-count // len(self._windows))
        parts = [_blocks(window, position, share, exact) for window in self._windows]
        blocks, around = (np.concatenate(part) for part in zip(*parts, strict=True))
        ratios = _log_ratios(self._residuals(blocks, around, kept, exact, flat), exact)
        blockwise = np.exp(np.minimum(ratios, _MOST)).mean(axis=1)  # over predictions: (N, Q)
        wrong = 1 - _RIGHT_SHARE
        return _Evidence(
            len(blocks),
            np.log(wrong + _RIGHT_SHARE * blockwise).sum(axis=0),
            float(np.log(wrong + _RIGHT_SHARE * blockwise.mean(axis=1)).sum()),
        )

    def _residuals(self, blocks: Plane, around: Plane, kept: int, exact: bool, flat: bool) -> Plane:
        """Coefficients `(N, K, 64)` of what K predictions leave of N blocks: those with least."""
        matrices, spectra = self._flat if flat else self._all
        guesses = (around @ spectra).reshape(-1, len(matrices), SIDE * SIDE)
        coefficients = (blocks @ self._transform)[:, None] - guesses
        sizes = np.abs(coefficients).sum(axis=-1)
        kept = min(kept, len(matrices))
        best = np.argpartition(sizes, kept - 1, axis=1)[:, :kept]
        if not exact:
            return np.take_along_axis(coefficients, best[..., None], axis=1)
        guesses = (matrices[best] @ around[:, None, :, None])[..., 0]
        return (blocks[:, None] - np.floor(guesses + np.float32(0.5))) @ self._transform


def _box_sums(values: npt.NDArray[np.generic]) -> Reals:
    """Sums over the block that begins at each pixel."""
    sums = np.pad(values.astype(np.float64), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    return sums[SIDE:, SIDE:] - sums[:-SIDE, SIDE:] - sums[SIDE:, :-SIDE] + sums[:-SIDE, :-SIDE]


def _blocks(
    window: _Window, position: tuple[int, int], count: int, exact: bool
) -> tuple[Plane, Plane]:
    """Up to `count` blocks `(N, 64)` at a position and the samples around them `(N, 33)`."""
    row, column = position
    variance = window.variance[row::PERIOD, column::PERIOD]
    most = np.argsort(-variance, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(most[variance.ravel()[most] > _LEAST_VARIANCE], variance.shape)
    tops, lefts = row + PERIOD * rows[:, None], column + PERIOD * columns[:, None]
    luma, inside, along = window.rounded if exact else window.luma, np.arange(SIDE), np.arange(16)
    blocks = luma[tops[..., None] + inside[:, None], lefts[..., None] + inside]
    around = (
        luma[tops + along[::-1], lefts - 1],
        luma[tops - 1, lefts - 1],
        luma[tops - 1, lefts + along],
    )
    return blocks.reshape(-1, SIDE * SIDE), np.concatenate(around, axis=1)


def _log_ratios(coefficients: Plane, exact: bool) -> Reals:
    """Log likelihood ratios of multiples of each step against none `(..., Q)`, of `(..., 64)`.

    The place between two teeth is von Mises distributed, with the concentration that the noise of
    rounding gives; coefficients that are nearest to zero are many in any case, and do not count.
    """
    sizes = np.abs(coefficients)
    noise = 2 * np.pi * _NOISE[exact] / STEPS
    length = np.exp(-(noise**2) / 2)
    concentration = np.clip(length * (2 - length**2) / (1 - length**2), 1e-3, 30.0)
    expected = np.log(np.i0(concentration))
    ratios = np.empty((*sizes.shape[:-1], len(STEPS)))
    for octave in range(6):
        cosine = None
        for place in range(len(STEPS) - 6 + octave, -1, -6):  # a step is half of the one before
            turns = np.float32(2 * np.pi / STEPS[place])
            cosine = np.cos(sizes * turns) if cosine is None else 2 * cosine * cosine - 1
            step = np.float32(STEPS[place])
            counted = (sizes > step / 2) & (sizes < (_TEETH + 0.5) * step)
            ratios[..., place] = concentration[place] * (cosine * counted).sum(axis=-1) - expected[
                place
            ] * counted.sum(axis=-1)
    return ratios
