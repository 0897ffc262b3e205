"""HEVC's intra prediction of a block of luma samples, as matrices (ITU-T H.265, 8.4.4.2), and how
what it leaves is quantised.

A block of `side`×`side` samples is predicted from the 4·`side` + 1 around it: as a plane, by their
mean, or along one of 33 directions. Samples that are not decoded yet, below and to the right, are
replaced by the last that is, so most predictions come in several variants. All are linear but for
the last rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imagecompression.evidence.intra_coding import BlockCoding, IntraCoding

Reals = npt.NDArray[np.float64]

PLANAR, MEAN, ACROSS, DOWN = 0, 1, 10, 26
"""Modes that are no slanted direction; 2 to 34 are directions, from the lower left clockwise."""

QUANTISERS = range(3, 30)
"""Quantiser parameters looked for: steps of 0.9 to 18 gray levels."""

_SCALES = np.array([40, 45, 51, 57, 64, 72]) / 64  # levelScale (8.6.3)
STEPS = np.array([_SCALES[qp % 6] * 2.0 ** (qp // 6) for qp in QUANTISERS])
"""The step of each of `QUANTISERS`, in gray levels of an orthonormal transform."""

_TRANSFORMS = {
    4: np.array([[29, 55, 74, 84], [74, 74, 0, -74], [84, -29, -74, 55], [55, -84, 74, -29]]) / 128,
    8: np.array(
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
    )
    / (64 * np.sqrt(8)),
}
"""The sine transform of blocks of 4×4 and the cosine transform of others (8.6.4.2)."""

_STRAIGHT = {4: 10, 8: 7}  # modes from ACROSS or DOWN up to which samples are not smoothed
_ANGLES = (32, 26, 21, 17, 13, 9, 5, 2, 0, -2, -5, -9, -13, -17, -21, -26, -32)  # modes 2 to 18
_INVERSE_ANGLES = {2: 4096, 5: 1638, 9: 910, 13: 630, 17: 482, 21: 390, 26: 315, 32: 256}


HEVC = "HEVC intra"
"""The opinion where a codec of this family was at work: BPG or HEIC."""


def quantiser_of(step: float) -> int:
    """The quantiser parameter of a step.

    >>> quantiser_of(1.25)
    6
    """
    return round(4 + 6 * np.log2(step))


@functools.cache
def _block_coding(side: int) -> BlockCoding:
    return BlockCoding(np.stack(list(_different(side))).astype(np.float32), [_TRANSFORMS[side]])


HEVC_INTRA = IntraCoding(HEVC, (4, 8), STEPS, _block_coding)


def prediction(mode: int, side: int) -> Reals:
    """The matrix `(side², 4·side + 1)` of a mode where all samples around are there, after their
    filter.

    >>> prediction(MEAN, 8)[9, :8].tolist()  # an inner sample does not see the lower left
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    block = _Block(side)
    if mode == PLANAR:
        matrix = block.planar()
    elif mode == MEAN:
        matrix = block.mean()
    else:
        matrix = block.direction(mode)
    matrix = matrix.reshape(side * side, block.around)
    return matrix @ block.smoothing() if _smoothed(mode, side) else matrix


def _smoothed(mode: int, side: int) -> bool:
    """Whether the samples around are filtered before (8.4.4.2.3)."""
    if mode == MEAN:
        return False
    if mode == PLANAR:
        return side > 4
    return min(abs(mode - ACROSS), abs(mode - DOWN)) > _STRAIGHT[side]


def _different(side: int) -> Iterator[Reals]:
    """All different predictions: those that missing samples do not change come once."""
    around = 4 * side + 1
    below, right = np.eye(around), np.eye(around)
    below[:side] = below[side]
    right[3 * side + 1 :] = right[3 * side]
    for mode in range(35):
        seen: list[Reals] = []
        for missing in (np.eye(around), below, right, below @ right):
            matrix = prediction(mode, side) @ missing
            if not any(np.array_equal(matrix, one) for one in seen):
                seen.append(matrix)
                yield matrix


@dataclass(frozen=True)
class _Block:
    """The predictions of a block, before any filter of the samples around."""

    side: int

    @property
    def around(self) -> int:
        return 4 * self.side + 1

    @property
    def corner(self) -> int:
        return 2 * self.side

    def left(self, row: int) -> int:
        """Place of the sample left of a row; of the corner for row -1."""
        return self.corner - 1 - row

    def top(self, column: int) -> int:
        """Place of the sample above a column; of the corner for column -1."""
        return self.corner + 1 + column

    def planar(self) -> Reals:
        side = self.side
        matrix = np.zeros((side, side, self.around))
        for row, column in np.ndindex(side, side):
            for place, weight in (
                (self.left(row), side - 1 - column),
                (self.top(side), column + 1),
                (self.top(column), side - 1 - row),
                (self.left(side), row + 1),
            ):
                matrix[row, column, place] += weight / (2 * side)
        return matrix

    def mean(self) -> Reals:
        side = self.side
        mean = np.zeros(self.around)
        mean[self.left(side - 1) : self.corner] = 1 / (2 * side)
        mean[self.top(0) : self.top(side)] = 1 / (2 * side)
        matrix = np.tile(mean, (side, side, 1))
        matrix[0], matrix[1:, 0] = 0.75 * matrix[0], 0.75 * matrix[1:, 0]
        matrix[0, 0] = mean / 2
        for place in range(side):
            matrix[0, place, self.top(place)] += 0.25
            matrix[place, 0, self.left(place)] += 0.25
        return matrix

    def direction(self, mode: int) -> Reals:
        from_top = mode >= 18
        main, other = (self.top, self.left) if from_top else (self.left, self.top)
        angle = _ANGLES[36 - mode - 2 if from_top else mode - 2]

        def place(offset: int) -> int:
            """Of the reference sample: on the main side, or projected from the other one."""
            if offset >= 0:
                return main(offset - 1)
            return other(((-offset * _INVERSE_ANGLES[-angle] + 128) >> 8) - 1)

        matrix = np.zeros((self.side, self.side, self.around))
        for away, along in np.ndindex(self.side, self.side):
            whole, part = divmod((away + 1) * angle, 32)
            at = (away, along) if from_top else (along, away)
            matrix[*at, place(along + whole + 1)] += 1 - part / 32
            if part:
                matrix[*at, place(along + whole + 2)] += part / 32
        if angle == 0:  # the border along the direction follows the samples beside it
            for along in range(self.side):
                at = (along, 0) if from_top else (0, along)
                matrix[*at, other(along)] += 0.5
                matrix[*at, self.corner] -= 0.5
        return matrix

    def smoothing(self) -> Reals:
        """The filter (1, 2, 1)/4 along the samples around; both ends stay."""
        matrix = np.eye(self.around) / 2
        matrix += np.eye(self.around, k=1) / 4 + np.eye(self.around, k=-1) / 4
        matrix[[0, -1]] = np.eye(self.around)[[0, -1]]
        return matrix
