"""AV1's intra prediction of a block of 8×8 luma samples, as matrices, and how what it leaves is
quantised (AV1 specification, 7.11.2).

A block is predicted by a mean, smoothly from two borders, along one of 56 directions, or by the
nearest sample. Samples along slanted directions are filtered, or doubled in
number, as angle, size and neighbours ask for. Samples that are not decoded yet are replaced by the
last that is. All but the nearest sample is linear but for roundings.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imagecompression.evidence.dct import dct_basis
from imagecompression.evidence.intra_coding import BlockCoding, IntraCoding

Reals = npt.NDArray[np.float64]
Edge = Mapping[int, Reals]  # samples along one border by their place, the corner at -1

STEPS = 2.0 ** (np.arange(50) / 12)
"""Steps looked for, in gray levels of an orthonormal transform: an eighth of the specification's,
which are spaced more closely."""

SIDE = 8
"""Of the blocks, in samples. Blocks of 4×4 are rarer, and WebP's are like them."""

_AROUND = 4 * SIDE + 1
_CORNER = 2 * SIDE
_SMOOTH_WEIGHTS = (255, 197, 146, 105, 73, 50, 37, 32)  # of 256
_SLOPES = {3: 1023, 6: 547, 9: 372, 14: 273, 17: 215, 20: 178, 23: 151, 26: 132, 29: 116, 32: 102}
_SLOPES |= {36: 90, 39: 80, 42: 71, 45: 64, 48: 57, 51: 51, 54: 45, 58: 40, 61: 35, 64: 31, 67: 27}
_SLOPES |= {70: 23, 73: 19, 76: 15, 81: 11, 84: 7, 87: 3}  # Dr_Intra_Derivative, by degrees
_DIRECTIONS = (45, 67, 90, 113, 135, 157, 180, 203)
_TURNS = (-9, -6, -3, 0, 3, 6, 9)  # degrees from a direction
_KERNELS = {1: (4, 8, 4), 2: (5, 6, 5)}  # Intra_Edge_Kernel, of 16


@functools.cache
def _block_coding(side: int) -> BlockCoding:
    return BlockCoding(
        np.stack(list(_different(_predictions()))).astype(np.float32),
        [dct_basis(side), _sine_basis(side)],
        usual=len(list(_different(_usual_predictions()))),
        nearest=True,
        own_step_of_first=True,
    )


AV1_INTRA = IntraCoding("avif", (SIDE,), STEPS, _block_coding)


def _sine_basis(side: int) -> Reals:
    """Rows of the asymmetric sine transform of 8 or 16 samples (7.13.2.7)."""
    row, place = np.arange(side)[:, None], np.arange(side)
    basis = np.sin(np.pi * (2 * row + 1) * (2 * place + 1) / (4 * side))
    return np.asarray(np.sqrt(2 / side) * basis)


def _different(matrices: Iterable[Reals]) -> Iterator[Reals]:
    """All different ones `(64, 33)`."""
    seen = set()
    for matrix in matrices:
        key = np.rint(matrix * 2**16).astype(np.int32).tobytes()
        if key not in seen:
            seen.add(key)
            yield matrix.reshape(SIDE**2, _AROUND)


def _usual_predictions() -> Iterator[Reals]:
    """The mean first."""
    whole = _Borders.of()
    yield whole.mean()
    yield from whole.smooth()
    for angle in _DIRECTIONS:
        yield whole.direction(angle)


def _predictions() -> Iterator[Reals]:
    """The usual ones first. Directions that look to the right of the block, or below, come in a
    second variant."""
    yield from _usual_predictions()
    whole, short = _Borders.of(), _Borders.of(decoded=False)
    for middle in _DIRECTIONS:
        for turn in _TURNS:
            angle = middle + turn
            for borders in (whole,) if 90 <= angle <= 180 else (whole, short):
                yield borders.direction(angle)
                yield borders.direction(angle, beside_smooth=True)


@dataclass(frozen=True)
class _Borders:
    """Samples around a block, each as a row of what it is made of `(33,)`."""

    upper: Edge
    left: Edge

    @classmethod
    def of(cls, *, decoded: bool = True) -> _Borders:
        """Those around a block, where samples below it and to its right are decoded or not."""
        samples = np.eye(_AROUND)
        upper, left = {-1: samples[_CORNER]}, {-1: samples[_CORNER]}
        for place in range(2 * SIDE):
            away = 1 + (place if decoded else min(place, SIDE - 1))
            upper[place], left[place] = samples[_CORNER + away], samples[_CORNER - away]
        return cls(upper, left)

    def mean(self) -> Reals:
        places = range(SIDE)
        mean = sum(self.upper[place] + self.left[place] for place in places) / (2 * SIDE)
        return np.tile(mean, (SIDE, SIDE, 1))

    def smooth(self) -> Iterator[Reals]:
        """Between both borders, and down or across alone (7.11.2.6)."""
        weights = np.array(_SMOOTH_WEIGHTS)[:, None, None] / 256
        upper, left = self._inner(self.upper)[None], self._inner(self.left)[:, None]
        down = weights * upper + (1 - weights) * left[-1:]
        weights = weights.swapaxes(0, 1)
        across = weights * left + (1 - weights) * upper[:, -1:]
        yield (down + across) / 2
        yield down
        yield across

    def _inner(self, edge: Edge) -> Reals:
        return np.stack([edge[place] for place in range(SIDE)])

    def direction(self, angle: int, *, beside_smooth: bool = False) -> Reals:
        """Along an angle in degrees: 90 is down, 180 to the right (7.11.2.4).

        Args:
            angle: Over 0, under 270.
            beside_smooth: Whether a neighbour is predicted smoothly, which filters samples more.
        """
        upper, upper_doubled = self._prepared(
            self.upper, angle - 90, beside_smooth, longer=angle < 90
        )
        left, left_doubled = self._prepared(
            self.left, angle - 180, beside_smooth, longer=angle > 180
        )
        matrix = np.empty((SIDE, SIDE, _AROUND))
        for row, column in np.ndindex(SIDE, SIDE):
            if angle < 90:
                along = (row + 1) * _SLOPES[angle]
                sample = self._between(upper, column << 6, along, upper_doubled)
            elif angle == 90:
                sample = upper[column]
            elif angle < 180:
                along = -(row + 1) * _SLOPES[180 - angle]
                sample = self._between(upper, column << 6, along, upper_doubled)
                if sample is None:
                    along = -(column + 1) * _SLOPES[angle - 90]
                    sample = self._between(left, row << 6, along, left_doubled)
            elif angle == 180:
                sample = left[row]
            else:
                along = (column + 1) * _SLOPES[270 - angle]
                sample = self._between(left, row << 6, along, left_doubled)
            matrix[row, column] = sample
        return matrix

    def _between(self, edge: Edge, start: int, along: int, doubled: bool) -> Reals | None:
        """The sample so many 64ths along an edge; None before the corner."""
        place = (start + along) >> (6 - doubled)
        last = (2 * SIDE - 1) << doubled
        if place < -1 - doubled:
            return None
        if place >= last:
            return edge[last]
        part = (((start + along) << doubled) >> 1) & 31
        return np.asarray((edge[place] * (32 - part) + edge[place + 1] * part) / 32)

    def _prepared(
        self, edge: Edge, angle: int, beside_smooth: bool, *, longer: bool
    ) -> tuple[Edge, bool]:
        """An edge after its filter and doubling, and whether it was doubled (7.11.2.9 to 12).

        Args:
            edge: Samples of one side.
            angle: Between the direction and that which leaves this side straight.
            beside_smooth: See `direction`.
            longer: Whether samples beyond the block are needed.
        """
        angle = abs(angle)
        if angle == 0:
            return edge, False
        count = 2 * SIDE if longer else SIDE
        strength = (angle >= 20) + (angle >= 48) if beside_smooth else int(angle >= 40)
        if strength:
            edge = _filtered(edge, count, _KERNELS[strength])
        if angle < 40 and not beside_smooth:
            return _doubled(edge, count), True
        return edge, False


def _filtered(edge: Edge, count: int, kernel: tuple[int, ...]) -> Edge:
    """An edge after its filter (7.11.2.12); the corner stays, the last is repeated."""
    filtered = dict(edge)
    for place in range(count):
        places = (place - 1, place, min(place + 1, count - 1))
        samples = zip(kernel, (edge[one] for one in places), strict=True)
        filtered[place] = np.asarray(sum(weight * sample for weight, sample in samples) / 16)
    return filtered


def _doubled(edge: Edge, count: int) -> Edge:
    """Samples at halves between those of an edge (7.11.2.11), which are then at even places."""
    samples = [edge[-1], *(edge[place] for place in range(-1, count)), edge[count - 1]]
    doubled = {-2: samples[0]}
    for place in range(count):
        before, one, other, after = samples[place : place + 4]
        doubled[2 * place - 1] = (9 * (one + other) - before - after) / 16
        doubled[2 * place] = other
    return doubled
