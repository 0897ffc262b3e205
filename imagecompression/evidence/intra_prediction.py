"""HEVC's intra prediction of a block of 8×8 luma samples, as matrices (ITU-T H.265, 8.4.4.2).

A block is predicted from the 33 samples around it: as a plane, by their mean, or along one of 33
directions. Samples that are not decoded yet, below and to the right, are replaced by the last that
is, so most predictions come in several variants. All are linear but for the last rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]

SIDE = 8
"""Of the block, in samples."""

AROUND = 4 * SIDE + 1
"""Samples around it, from its lower left upwards to its corner, and on to its upper right."""

PLANAR, MEAN, ACROSS, DOWN = 0, 1, 10, 26
"""Modes that are no slanted direction; 2 to 34 are directions, from the lower left clockwise."""

_SMOOTHED = (PLANAR, 2, 18, 34)  # the plane and the diagonals, for blocks of this size
_CORNER = 2 * SIDE
_ANGLES = (32, 26, 21, 17, 13, 9, 5, 2, 0, -2, -5, -9, -13, -17, -21, -26, -32)  # modes 2 to 18
_INVERSE_ANGLES = {2: 4096, 5: 1638, 9: 910, 13: 630, 17: 482, 21: 390, 26: 315, 32: 256}


@functools.cache
def predictions() -> npt.NDArray[np.float32]:
    """All different predictions, `(V, 64, 33)`: samples of the block from those around it."""
    return np.stack([matrix for _, matrix in _variants()]).astype(np.float32)


@functools.cache
def flat_predictions() -> npt.NDArray[np.intp]:
    """Places in `predictions` of those that are constant along rows or columns but for one border:
    mean, across and down. Nothing in them is HEVC's own."""
    flat = (MEAN, ACROSS, DOWN)
    return np.flatnonzero([mode in flat for mode, _ in _variants()])


def prediction(mode: int) -> Reals:
    """The matrix `(64, 33)` of a mode where all samples around are there, after their filter.

    >>> prediction(MEAN)[9, :8].tolist()  # an inner sample does not see the lower left
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    if mode == PLANAR:
        matrix = _planar()
    elif mode == MEAN:
        matrix = _mean()
    else:
        matrix = _direction(mode)
    matrix = matrix.reshape(SIDE * SIDE, AROUND)
    return matrix @ _smoothing() if mode in _SMOOTHED else matrix


def _variants() -> Iterator[tuple[int, Reals]]:
    """Modes and matrices; those that missing samples do not change come once."""
    below, right = np.eye(AROUND), np.eye(AROUND)
    below[:SIDE] = below[SIDE]
    right[_CORNER + SIDE + 1 :] = right[_CORNER + SIDE]
    for mode in range(35):
        seen: list[Reals] = []
        for missing in (np.eye(AROUND), below, right, below @ right):
            matrix = prediction(mode) @ missing
            if not any(np.array_equal(matrix, one) for one in seen):
                seen.append(matrix)
                yield mode, matrix


def _left(row: int) -> int:
    """Place of the sample left of a row; of the corner for row -1."""
    return _CORNER - 1 - row


def _top(column: int) -> int:
    """Place of the sample above a column; of the corner for column -1."""
    return _CORNER + 1 + column


def _planar() -> Reals:
    matrix = np.zeros((SIDE, SIDE, AROUND))
    for row, column in np.ndindex(SIDE, SIDE):
        for place, weight in (
            (_left(row), SIDE - 1 - column),
            (_top(SIDE), column + 1),
            (_top(column), SIDE - 1 - row),
            (_left(SIDE), row + 1),
        ):
            matrix[row, column, place] += weight / (2 * SIDE)
    return matrix


def _mean() -> Reals:
    mean = np.zeros(AROUND)
    mean[_left(SIDE - 1) : _CORNER] = mean[_top(0) : _top(SIDE)] = 1 / (2 * SIDE)
    matrix = np.tile(mean, (SIDE, SIDE, 1))
    matrix[0], matrix[1:, 0] = 0.75 * matrix[0], 0.75 * matrix[1:, 0]
    matrix[0, 0] = mean / 2
    for place in range(SIDE):
        matrix[0, place, _top(place)] += 0.25
        matrix[place, 0, _left(place)] += 0.25
    return matrix


def _direction(mode: int) -> Reals:
    from_top = mode >= 18
    main, side = (_top, _left) if from_top else (_left, _top)
    angle = _ANGLES[36 - mode - 2 if from_top else mode - 2]

    def place(offset: int) -> int:
        """Of the reference sample: on the main side, or projected from the other one."""
        if offset >= 0:
            return main(offset - 1)
        return side(((-offset * _INVERSE_ANGLES[-angle] + 128) >> 8) - 1)

    matrix = np.zeros((SIDE, SIDE, AROUND))
    for away, along in np.ndindex(SIDE, SIDE):
        whole, part = divmod((away + 1) * angle, 32)
        at = (away, along) if from_top else (along, away)
        matrix[*at, place(along + whole + 1)] += 1 - part / 32
        if part:
            matrix[*at, place(along + whole + 2)] += part / 32
    if angle == 0:  # the border along the direction follows the samples beside it
        for along in range(SIDE):
            at = (along, 0) if from_top else (0, along)
            matrix[*at, side(along)] += 0.5
            matrix[*at, _CORNER] -= 0.5
    return matrix


def _smoothing() -> Reals:
    """The filter (1, 2, 1)/4 along the samples around; both ends stay."""
    matrix = np.eye(AROUND) / 2 + np.eye(AROUND, k=1) / 4 + np.eye(AROUND, k=-1) / 4
    matrix[[0, -1]] = np.eye(AROUND)[[0, -1]]
    return matrix
