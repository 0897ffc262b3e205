"""The comb of intra coding (HEVC in BPG and HEIC, AV1 in AVIF): what prediction leaves is multiples
of one step.

Both predict a block from the pixels around it, in one of many ways, and quantise the transform of
what is left. A decoded picture still holds the block and the pixels around it, so all predictions
can be made again. At one of 64 positions of the grid, in blocks of 4×4 and 8×8 whose transform has
that size, what the right one leaves lies on multiples of the quantiser's step. With mild
quantisers, where a picture shows little else, that is hundreds of nats.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from imagecompression.codec import Image
from imagecompression.evidence.av1_intra import AV1_INTRA
from imagecompression.evidence.comb import Reals, grid_positions
from imagecompression.evidence.hevc_intra import HEVC, HEVC_INTRA, quantiser_of
from imagecompression.evidence.intra_coding import ALL, USUAL, IntraCoding
from imagecompression.evidence.jpeg_history import Plane, luma_of

PERIOD = 8
"""Of the grid, in pixels."""

MIN_SIDE = 64

NATS = 50.0
"""Least evidence of a decisive comb, and least lead over other positions."""

LEAD_OF_POSITION = 5.0
"""Least ratio to the evidence at ordinary positions: of mosaics and palettes, which have few
different values, all positions show some."""

LEAD_OF_CODING = 2.0
"""Least ratio to the evidence for the other coding: some predictions of both are alike."""

CODINGS = (HEVC_INTRA, AV1_INTRA)

_SIDES = sorted({side for coding in CODINGS for side in coding.sides})

_TEETH = 10
_SHARES = (0.0, 0.01, 0.05, 0.3)  # of blocks whose transform has this size, rightly predicted
_PLAIN_SHARES = (0.0, 0.3)  # of blocks that are on multiples without any prediction
_LEAST_VARIANCE = 1.0
_BEST = 3  # positions, by each kind of evidence
_ORDINARY = slice(20, 23)  # positions, in the order of their evidence
_FIRST_LEAD = 1.0  # nats over all but the best at the first look, to look again
_FIRST_LOOK = ({4: 128, 8: 64}, 2)  # blocks at every position, predictions of each that leave least
_SECOND_LOOK = ({4: 256, 8: 128}, 2)  # at the best positions, if that is worth it
_LOOK = ({4: 1536, 8: 768}, 4)  # at the very best and at ordinary ones
_NOISE = {True: 0.31, False: 0.44}  # standard deviation of coefficients, exact or not
_MOST = 60.0  # nats of one block
_PLACES = 32  # of coefficients in a gray level

Position = tuple[int, int]
Look = tuple[Mapping[int, int], int]


@dataclass(frozen=True)
class IntraComb:
    """The grid position where predictions leave the clearest comb.

    Attributes:
        opinion: `HEVC`, or "avif" for AV1.
        row: Where the grid starts, from 0; where only blocks of 4×4 show it, known modulo 4.
        column: The same.
        step: Of the quantiser that explains most, in gray levels.
        nats: Evidence for the comb: by how much predictions explain the picture better than
            multiples without any, which other codecs leave too.
        other_nats: The greatest at ordinary positions.
        rival_nats: Those of the other coding, at its best position.
        plain_nats: Evidence for multiples without any prediction.
        blocks: Number of blocks looked at.
        exact: Whether 8 bit are assumed, where predictions are known to the last bit; else more.
        varied: Whether different blocks have different steps, as adaptive quantisers choose.
    """

    opinion: str
    row: int
    column: int
    step: float
    nats: float
    other_nats: float
    rival_nats: float
    plain_nats: float
    blocks: int
    exact: bool
    varied: bool

    @property
    def quantiser(self) -> int | None:
        """HEVC's quantiser parameter; None for AV1."""
        return quantiser_of(self.step) if self.opinion == HEVC else None

    @property
    def decisive(self) -> bool:
        """Whether it shows the coding."""
        return (
            self.nats >= NATS
            and self.nats - self.other_nats >= NATS
            and self.nats >= LEAD_OF_POSITION * self.other_nats
            and self.nats >= LEAD_OF_CODING * self.rival_nats
        )

    @property
    def reason(self) -> str:
        """A sentence on what a decisive comb shows."""
        who = "HEVC, as BPG and HEIC are" if self.opinion == HEVC else "AV1, as AVIF is"
        step = f"{self.step:.1f} gray levels"
        if self.quantiser is not None:
            step = f"quantiser {self.quantiser}"
        which = f"steps that vary from block to block (about {step})"
        if not self.varied:
            which = f"one step ({step})"
        return (
            f"Was coded with {who}: what its intra prediction leaves is multiples of {which}, on "
            f"the grid that starts at row {self.row}, column {self.column}."
        )


def intra_combs(windows: Sequence[Image]) -> tuple[IntraComb, ...]:
    """The clearest comb of each coding, in the order of `CODINGS`.

    Blocks with the most texture and without clipped pixels are looked at: some at every position,
    more at the few that this makes likely and at ordinary ones.

    Args:
        windows: `uint8` `(H, W)` or `(H, W, 3)`, sides at least `MIN_SIDE`, that begin at one grid
            position.
    """
    prepared = [_Window.of(window) for window in windows]
    with ThreadPoolExecutor(len(CODINGS)) as beside:
        combs = list(beside.map(lambda coding: _clearest(_Search(prepared, coding)), CODINGS))
    return tuple(
        replace(one, rival_nats=max(other.nats for other in combs if other is not one))
        for one in combs
    )


def _clearest(search: _Search) -> IntraComb:
    """The clearest comb, its rival not known yet."""
    positions = grid_positions(PERIOD)
    first = search.first_look(positions)
    nats = np.array([[one.nats(varied) for one in first] for varied in (False, True)])
    order = np.argsort(-nats, axis=1, kind="stable")
    least = search.coding.sides[0]  # what these blocks do not tell apart is a part of positions
    parts = np.array([row % least * least + column % least for row, column in positions])
    by_part = np.sort([[one[parts == part].max() for part in range(least**2)] for one in nats])
    worth = bool(np.any(by_part[:, -1] - by_part[:, -3] >= _FIRST_LEAD))

    best = sorted({*order[:, :_BEST].ravel().tolist()})

    def second_look(place: int) -> float:
        return search.evidence(positions[place], _SECOND_LOOK, kind=USUAL).most

    place = max(best, key=second_look if worth else lambda place: first[place].most)
    others = [other for other in order[1].tolist() if parts[other] != parts[place]][_ORDINARY]
    looks = {False: first[place]}
    if worth:
        looks = {one: search.evidence(positions[place], _LOOK, exact=one) for one in (True, False)}
    evidence, exact, varied = max(
        ((one, exact, varied) for exact, one in looks.items() for varied in (False, True)),
        key=lambda one: one[0].nats(one[2]),
    )
    ordinary = [
        search.evidence(positions[other], _LOOK, exact=exact) if worth else first[other]
        for other in others
    ]
    row, column = positions[place]
    return IntraComb(
        search.coding.opinion,
        row,
        column,
        step=float(search.coding.steps[evidence.shared_step]),
        nats=evidence.nats(varied),
        other_nats=max(one.nats(varied) for one in ordinary),
        rival_nats=0.0,
        plain_nats=evidence.plain(varied),
        blocks=evidence.blocks,
        exact=exact,
        varied=varied,
    )


@dataclass(frozen=True)
class _Evidence:
    """Log likelihood ratios at one position.

    Attributes:
        blocks: Number of blocks.
        shared: By shares of blocks in `_PLAIN_SHARES` and `_SHARES`, `(P, S, Q)` for each step that
            all blocks share.
        free: The same where each block has its own step, `(P, S)`.
    """

    blocks: int
    shared: Reals
    free: Reals

    def __add__(self, other: _Evidence) -> _Evidence:
        return _Evidence(
            self.blocks + other.blocks, self.shared + other.shared, self.free + other.free
        )

    def nats(self, varied: bool) -> float:
        """What predictions add, where all shares are as likely."""
        ratios = self.free if varied else self.shared
        return float(_mean_of(ratios[:, 1:]).max()) - self.plain(varied)

    def plain(self, varied: bool) -> float:
        """What blocks show without any prediction."""
        ratios = self.free if varied else self.shared
        return float(_mean_of(ratios[:, :1]).max())

    @property
    def most(self) -> float:
        """The greater of both kinds."""
        return max(self.nats(False), self.nats(True))

    @property
    def shared_step(self) -> int:
        """Place of the step that explains most."""
        return int(_mean_of(self.shared[:, 1:]).argmax())


def _mean_of(logarithms: Reals) -> Reals:
    """Logarithms of the means over the first two axes."""
    first, second = logarithms.shape[:2]
    sums = np.logaddexp.reduce(np.logaddexp.reduce(logarithms, axis=0), axis=0)
    return np.asarray(sums - np.log(first * second))


@dataclass(frozen=True, eq=False)
class _Window:
    """Luma of a window, as it is and rounded, and the variance of the block that begins at each
    pixel by the side of blocks; -1 where it cannot be looked at."""

    luma: Plane
    rounded: Plane
    variance: Mapping[int, Plane]

    @classmethod
    def of(cls, window: Image) -> _Window:
        luma = luma_of(window)
        clipped = (window == 0) | (window == 255)
        if clipped.ndim == 3:
            clipped = clipped.any(axis=-1)
        # Halves of luma go up for certain, see `train.layers.rounded_luma`.
        rounded = np.floor(luma + np.float32(0.5005))
        return cls(luma, rounded, {side: _variance(luma, clipped, side) for side in _SIDES})


def _variance(luma: Plane, clipped: npt.NDArray[np.bool_], side: int) -> Plane:
    mean = _box_sums(luma, side) / side**2
    variance = _box_sums(luma.astype(np.float64) ** 2, side) / side**2 - mean**2
    variance[_box_sums(clipped, side) > 0] = -1
    variance[0], variance[:, 0] = -1, -1  # samples around the block
    variance[-side:], variance[:, -side:] = -1, -1
    return variance.astype(np.float32)


class _Search:
    """Evidence in the blocks of several windows with the most texture."""

    def __init__(self, windows: Sequence[_Window], coding: IntraCoding) -> None:
        self._windows = windows
        self.coding = coding

    def first_look(self, positions: Sequence[Position]) -> list[_Evidence]:
        """At all positions of the grid, of which the smaller blocks know a part."""
        found = {
            (side, position): self._of_size(side, position, _FIRST_LOOK, kind=USUAL)
            for side in self.coding.sides
            for position in grid_positions(side)
        }
        return [
            _sum(found[side, (row % side, column % side)] for side in self.coding.sides)
            for row, column in positions
        ]

    def evidence(
        self, position: Position, look: Look, *, exact: bool = False, kind: str = ALL
    ) -> _Evidence:
        """Of up to so many blocks of each size at a position, and so many predictions of each."""
        row, column = position
        return _sum(
            self._of_size(side, (row % side, column % side), look, exact=exact, kind=kind)
            for side in self.coding.sides
        )

    def _of_size(
        self, side: int, position: Position, look: Look, *, exact: bool = False, kind: str
    ) -> _Evidence:
        counts, kept = look
        share = -(-counts[side] // len(self._windows))
        parts = [_blocks(window, position, side, share, exact) for window in self._windows]
        blocks, around = (np.concatenate(part) for part in zip(*parts, strict=True))
        coding = self.coding.block(side)
        left = coding.residuals(blocks, around, kept, exact=exact, kind=kind)
        predicted = self._likelihoods(left, exact).mean(axis=1)  # over predictions: (N, Q)
        plain = self._likelihoods(coding.spectra(blocks), exact)

        def ratios(predicted: Reals, plain: Reals) -> Reals:
            return np.stack(
                [
                    [
                        np.log(1 + p * (plain - 1) + of * (predicted - 1)).sum(axis=0)
                        for of in _SHARES
                    ]
                    for p in _PLAIN_SHARES
                ]
            )

        return _Evidence(
            len(blocks),
            ratios(predicted, plain),
            ratios(predicted.mean(axis=1), plain.mean(axis=1)),
        )

    def _likelihoods(self, coefficients: Plane, exact: bool) -> Reals:
        """Ratios for each step, see `_log_ratios`."""
        return np.exp(np.minimum(_log_ratios(coefficients, self.coding, exact), _MOST))


def _sum(parts: Iterable[_Evidence]) -> _Evidence:
    return functools.reduce(operator.add, parts)


def _box_sums(values: npt.NDArray[np.generic], side: int) -> Reals:
    """Sums over the block that begins at each pixel."""
    sums = np.pad(values.astype(np.float64), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    return sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]


def _blocks(
    window: _Window, position: Position, side: int, count: int, exact: bool
) -> tuple[Plane, Plane]:
    """Up to `count` blocks `(N, side²)` at a position and the samples around them
    `(N, 4·side + 1)`."""
    row, column = position
    variance = window.variance[side][row::side, column::side]
    most = np.arange(variance.size)
    if count < variance.size:
        most = np.argpartition(-variance, count, axis=None)[:count]
    rows, columns = np.unravel_index(most[variance.ravel()[most] > _LEAST_VARIANCE], variance.shape)
    tops, lefts = row + side * rows[:, None], column + side * columns[:, None]
    luma, inside = window.rounded if exact else window.luma, np.arange(side)
    along = np.arange(2 * side)
    blocks = luma[tops[..., None] + inside[:, None], lefts[..., None] + inside]
    around = (
        luma[tops + along[::-1], lefts - 1],
        luma[tops - 1, lefts - 1],
        luma[tops - 1, lefts + along],
    )
    return blocks.reshape(-1, side * side), np.concatenate(around, axis=1)


def _log_ratios(coefficients: Plane, coding: IntraCoding, exact: bool) -> Plane:
    """Log likelihood ratios of multiples of each step against none `(..., Q)`, of `(..., C)`."""
    table = _ratio_table(coding, exact)
    places = np.abs(coefficients)
    places *= _PLACES
    places = np.minimum(places + np.float32(0.5), len(table) - 1).astype(np.intp)
    ratios = np.zeros((*places.shape[:-1], table.shape[1]), np.float32)
    for coefficient in range(places.shape[-1]):
        ratios += table[places[..., coefficient]]
    return ratios


@functools.cache
def _ratio_table(coding: IntraCoding, exact: bool) -> Plane:
    """The ratios of one coefficient, by its size in 1/`_PLACES` gray levels and step `(N, Q)`.

    The place between two teeth is von Mises distributed, with the concentration that the noise of
    rounding gives; coefficients that are nearest to zero are many in any case, and do not count,
    nor those beyond so many teeth.
    """
    steps = coding.steps
    noise = 2 * np.pi * _NOISE[exact] / steps
    length = np.exp(-(noise**2) / 2)
    concentration = np.clip(length * (2 - length**2) / (1 - length**2), 1e-3, 30.0)
    last = int((_TEETH + 0.5) * steps[-1] * _PLACES) + 1
    sizes = np.arange(last + 1)[:, None] / _PLACES
    ratios = concentration * np.cos(2 * np.pi * sizes / steps) - np.log(np.i0(concentration))
    counted = (sizes > steps / 2) & (sizes < (_TEETH + 0.5) * steps)
    return np.where(counted, ratios, 0).astype(np.float32)
