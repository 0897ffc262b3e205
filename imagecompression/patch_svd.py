"""The patch mode of the SVD codec: singular value decomposition of a plane's blocks.

A plane of samples, less its mean, is cut into blocks of P×P samples, and each block is a row of an
N×P² matrix X = U S Vᵀ. The rows of Vᵀ are the picture's own transform (its Karhunen-Loève
transform), X V = U S are the coefficients. Kept are the K terms worth their bits, strongest first.
All goes through `imagecompression.range_coding`; the functions here walk the format once for
encoder and decoder (`LevelCoder`).

The order of a plane (all arithmetic in integers; // and >> round down):

1. The number K of terms, 0 … P². Nothing follows for K = 0.
2. The precision bᵢ of each term's basis vector, as differences.
3. The basis vectors: P² levels each in units of 2^-bᵢ, in the domain of the two-dimensional DCT,
   in zigzag order. The vectors are the picture's own; the DCT only makes their entries sparse.
   Equal precision of all sᵢvᵢ makes weak vectors coarse.
4. The class of each term's mean magnitude, as differences.
5. The first term's coefficients, from a coarse lattice of blocks to a fine one, each as the
   difference from the mean of its known neighbours (interpolation in closed loop).
6. One flag a term: predicted from the first term or not.
7. Each further term's coefficients in four passes over the lattice of blocks. If flagged, as
   differences from what a smooth surface through the first term's neighbours would have.

The magnitude expected of a level is a weighted sum of known magnitudes: of the same term in
neighbouring blocks, of stronger terms in the same and in neighbouring blocks, of the co-located
block in planes that came before.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from imagecompression.codec import CodecError
from imagecompression.range_coding import UNIT, Integers, LevelCoder, LevelTables

Reals = npt.NDArray[np.float32]
Samples = npt.NDArray[np.int16]

STEP_UNIT = 1024
"""Quantiser steps and coefficients are whole numbers of 1/1024 grey level."""

SAMPLE_UNIT = 64
"""Samples are whole numbers of 1/64 grey level."""

_VECTOR_BITS = 13
"""Finest precision of a basis vector's entries, and the precision of the cosines."""
_BASIS_BITS = 14
"""Fixed point of the basis in the sample domain."""
_MAX_COEFFICIENT = 2**23
"""Bound of a coefficient; 2¹² grey levels are the largest that P = 16 needs. With 256 basis
entries below 2¹⁵ all sums stay below 2⁵³, so that float64 holds them exactly, in any order."""
_MAX_ACTIVITY = 2**16
_CAP = 15
"""Magnitudes above it say no more about their neighbourhood."""

_CLASSES = 44
"""Classes of mean magnitudes, half an octave apart from 1/256 on."""
_BASIS_STEP = 2.0
"""Step of the entries of sᵢvᵢ in steps of the coefficients (measured: flat from 1 to 4)."""
_VECTOR_PRICE = 60.0
"""Bits that a basis vector of 64 entries is taken to cost where the number of terms is chosen."""

# Weights in 1/256, fitted by maximum likelihood on photographs (not those of any test set), for
# the first pass, the second (diagonal neighbours known) and the last two (all four known):
# same term's neighbours, stronger terms in the block, and around it, other planes.
_LUMA_WEIGHTS = ((0, 153, 100, 0), (72, 180, 5, 0), (128, 133, 0, 0))
_CHROMA_WEIGHTS = ((0, 72, 148, 36), (90, 146, 7, 24), (128, 123, 0, 20))
_LATTICE = ((0, 0), (1, 1), (0, 1), (1, 0))
_CORNERS = ((0, 0), (0, 2), (2, 0), (2, 2))
_CROSS = ((0, 1), (1, 0), (1, 2), (2, 1))
_FADING = 27
"""What remains of older terms' magnitudes at each new term, in 1/32."""

# DCT coefficients of a smooth surface, from sums over the 3×3 neighbouring coefficients of the
# first term: row and column in the block, weight in 1/1024, the nine signs. By least squares on
# photographs; the same for block sizes 4, 8 and 16 (cf. the AC prediction of JPEG's annex K.8).
_SURFACE = (
    (0, 1, 184, ((0, 0, 0), (1, 0, -1), (0, 0, 0))),
    (1, 0, 184, ((0, 1, 0), (0, 0, 0), (0, -1, 0))),
    (0, 2, 74, ((0, 0, 0), (1, -2, 1), (0, 0, 0))),
    (2, 0, 74, ((0, 1, 0), (0, -2, 0), (0, 1, 0))),
    (1, 1, 37, ((1, 0, -1), (0, 0, 0), (-1, 0, 1))),
    (1, 2, 14, ((1, -2, 1), (0, 0, 0), (-1, 2, -1))),
    (2, 1, 14, ((1, 0, -1), (-2, 0, 2), (1, 0, -1))),
    (0, 3, 18, ((0, 0, 0), (1, 0, -1), (0, 0, 0))),
    (3, 0, 18, ((0, 1, 0), (0, 0, 0), (0, -1, 0))),
)


@dataclass(frozen=True, eq=False)
class Decomposition:
    """A plane's terms, strongest first; what the encoder knows and the decoder does not.

    Attributes:
        coefficients: U S, float32 `(N, P²)`, in grey levels.
        vectors: Vᵀ in the DCT domain, float64 `(P², P²)`, one vector a row.
        strengths: Singular values, float64 `(P²,)`, falling.
    """

    coefficients: Reals
    vectors: npt.NDArray[np.float64]
    strengths: npt.NDArray[np.float64]


def grid_shape(height: int, width: int, block: int) -> tuple[int, int]:
    """Rows and columns of blocks that cover a plane."""
    return -(-height // block), -(-width // block)


def decompose(plane: Reals, block: int) -> Decomposition:
    """Terms of a `(H, W)` plane that has zero mean; its edges are replicated to full blocks."""
    rows, columns = grid_shape(plane.shape[0], plane.shape[1], block)
    padded = np.pad(
        plane,
        ((0, rows * block - plane.shape[0]), (0, columns * block - plane.shape[1])),
        mode="edge",
    )
    cosines = _cosines(block).astype(np.float32)
    matrix = np.empty((rows, columns, block * block), np.float32)
    for row in range(rows):
        line = padded[row * block : (row + 1) * block].reshape(block, columns, block)
        matrix[row] = (cosines @ line.transpose(1, 0, 2) @ cosines.T).reshape(columns, -1)
    flat = matrix.reshape(rows * columns, -1)
    moments = np.zeros((block * block, block * block))
    for start in range(0, len(flat), 2**14):
        part = flat[start : start + 2**14].astype(np.float64)
        moments += part.T @ part
    squares, vectors = np.linalg.eigh(moments)
    vectors = vectors.T[::-1]
    # Singular vectors are unique up to their sign only: the largest entry is made positive.
    peaks = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
    vectors = vectors * np.where(peaks < 0, -1.0, 1.0)
    strengths = np.sqrt(np.maximum(squares[::-1], 0))
    return Decomposition(flat @ vectors.T.astype(np.float32), vectors, strengths)


def code_plane(
    coder: LevelCoder,
    terms: Decomposition | None,
    shape: tuple[int, int],
    block: int,
    step: int,
    max_terms: int,
    tables: LevelTables,
    other: Integers | None,
    rate_weight: float = 0.0,
) -> tuple[Samples, Integers]:
    """Code a plane; for the encoder `terms` is given, for the decoder None.

    Args:
        coder: Where the levels go to or come from.
        terms: Of a plane with zero mean.
        shape: Height and width of the plane.
        block: Side of the blocks, 4, 8 or 16.
        step: Quantiser step in 1/`STEP_UNIT`.
        max_terms: Most terms that the encoder keeps.
        tables: Tables of the coefficients' levels.
        other: Activity of the planes coded before, on this plane's grid, in 1/`UNIT`; None for
            the first.
        rate_weight: As for `LevelEncoder`.

    Returns:
        The decoded samples less their mean, int16 in 1/`SAMPLE_UNIT`, and the plane's activity:
        the magnitudes of each block relative to their mean, in 1/`UNIT`, of the grid's shape.

    Raises:
        CodecError: Decoder: the stream is damaged.
    """
    grid = grid_shape(*shape, block)
    wanted, used = None, np.zeros(0, np.int64)
    if terms is not None:
        used = _useful_terms(terms, block, step, max_terms, rate_weight)
        wanted = len(used)
    count = coder.number(wanted, min(block * block, grid[0] * grid[1]) + 1)
    if count == 0:
        return np.zeros(shape, np.int16), np.full(grid, UNIT, np.int64)
    side = LevelTables()
    strengths = None if terms is None else terms.strengths[used] * (STEP_UNIT / step)
    bits = _code_precisions(coder, side, strengths, count, block)
    vectors = _code_vectors(coder, None if terms is None else terms.vectors[used], bits, block)
    targets = None
    if terms is not None:
        targets = _fit(terms, vectors) * np.float32(STEP_UNIT / step)
    coefficients, activity = _code_coefficients(
        coder, side, targets, vectors, grid, step, tables, other
    )
    return _samples(coefficients, vectors, shape, block), activity


def estimated_bits(terms: Decomposition, step: int) -> float:
    """Entropy of a plane's levels, each given the magnitude of its block, with their signs.

    That is near what `code_plane` will take for them, in a tenth of the time.

    Args:
        terms: Of a plane with zero mean.
        step: Quantiser step in 1/`STEP_UNIT`.
    """
    scaled = np.abs(terms.coefficients) * np.float32(STEP_UNIT / step)
    used = int((scaled.max(axis=0) > 0.73).sum())
    if used == 0:
        return 0.0
    levels = np.minimum(np.floor(scaled[:, :used] + np.float32(0.27)), 63).astype(np.int64)
    around = np.ceil(np.log2(1 + levels[:, 1:].sum(axis=1))).astype(np.int64)
    context = np.minimum(around, 7)
    bits = float(np.count_nonzero(levels))
    for term in levels.T:
        counts = np.bincount(term * 8 + context, minlength=512).reshape(64, 8)
        total = counts.sum(axis=0)
        bits += sum(n * math.log2(n) for n in total.tolist() if n)
        bits -= sum(n * math.log2(n) for n in counts.ravel().tolist() if n)
    return bits


# --- side information ------------------------------------------------------------------------


def _useful_terms(
    terms: Decomposition, block: int, step: int, max_terms: int, rate_weight: float
) -> Integers:
    """Indices of the terms that are worth their bits: that lower the Lagrangian cost."""
    price = rate_weight * _VECTOR_PRICE * block * block / 64
    useful = []
    for index in range(min(max_terms, block * block, len(terms.coefficients))):
        sizes = np.abs(terms.coefficients[:, index]) * np.float32(STEP_UNIT / step)
        sizes = sizes[sizes > 0.65]
        levels = np.rint(sizes)
        bits = 7 + 2 * np.log2(levels)
        gain = (sizes**2 - (sizes - levels) ** 2 - rate_weight * bits).sum()
        if gain > price:
            useful.append(index)
    return np.array(useful, np.int64)


def _code_precisions(
    coder: LevelCoder,
    side: LevelTables,
    strengths: npt.NDArray[np.float64] | None,
    count: int,
    block: int,
) -> Integers:
    """Precision of each basis vector in bits, `(count,)`; `strengths` are in steps.

    The largest of P² entries of a unit vector is at least 1/P, so log2 P bits leave no vector
    without a level.
    """
    low = block.bit_length() - 1
    differences = None
    if strengths is not None:
        bits = (
            np.rint(np.log2(np.maximum(strengths / _BASIS_STEP, 1)))
            .astype(np.int64)
            .clip(low, _VECTOR_BITS)
        )
        differences = np.diff(bits, prepend=_VECTOR_BITS)
    differences = coder.levels(side, np.full(count, UNIT // 2), differences)
    bits = _VECTOR_BITS + np.cumsum(differences)
    if bits.min() < low or bits.max() > _VECTOR_BITS:
        raise CodecError("The precision of a basis vector is out of range: damaged data")
    return bits


def _code_vectors(
    coder: LevelCoder, exact: npt.NDArray[np.float64] | None, bits: Integers, block: int
) -> Integers:
    """Basis vectors in the DCT domain, in 2^-`_VECTOR_BITS`, `(terms, P²)`.

    All vectors of an orthonormal basis together have energy 1 at each frequency. What the
    vectors before left of it bounds an entry, and vectors take low frequencies first.
    """
    one = 1 << _VECTOR_BITS
    order = _zigzag(block)
    left = np.full(block * block, one * one, np.int64)
    tables = LevelTables()
    vectors = np.zeros((len(bits), block * block), np.int64)
    for index, precision in enumerate(bits.tolist()):
        values = None
        if exact is not None:
            values = np.rint(exact[index, order] * 2.0**precision).astype(np.int64)
        energy = np.maximum(left[order], 0)
        # Exact: a whole number below 2^53 has a correctly rounded root.
        amplitude = np.sqrt(energy.astype(np.float64)).astype(np.int64)
        ahead = (np.cumsum(energy) - energy) * 8 // (one * one)
        damping = np.maximum(205 - 8 * ahead, 5)
        expected = (amplitude << precision) * damping >> _VECTOR_BITS
        levels = coder.levels(tables, expected, values)
        vectors[index, order] = np.clip(levels << (_VECTOR_BITS - precision), -2 * one, 2 * one)
        left -= vectors[index] ** 2
    return vectors


def _fit(terms: Decomposition, vectors: Integers) -> Reals:
    """Coefficients `(N, K)` that best reproduce the blocks from the quantised vectors."""
    quantised = vectors / float(1 << _VECTOR_BITS)
    gram = quantised @ quantised.T + 1e-6 * np.eye(len(vectors))
    change = np.linalg.solve(gram, quantised @ terms.vectors.T)
    return terms.coefficients @ change.T.astype(np.float32)


# --- coefficients ----------------------------------------------------------------------------


def _code_coefficients(
    coder: LevelCoder,
    side: LevelTables,
    targets: Reals | None,
    vectors: Integers,
    grid: tuple[int, int],
    step: int,
    tables: LevelTables,
    other: Integers | None,
) -> tuple[npt.NDArray[np.int32], Integers]:
    """All terms' coefficients, int32 `(K, rows * columns)` in 1/`STEP_UNIT`, and the activity.

    `targets` are the encoder's coefficients `(N, K)` in steps.
    """
    count = len(vectors)
    planes = None if targets is None else np.ascontiguousarray(targets.T).reshape(count, *grid)
    sizes = None
    if planes is not None:
        sizes = np.floor(np.abs(planes) + np.float32(0.3)).mean(axis=(1, 2))
    means = code_classes(coder, side, sizes, count)
    coefficients = np.empty((count, *grid), np.int32)
    first, magnitudes = _code_first(
        coder, None if planes is None else planes[0], grid, step, int(means[0])
    )
    coefficients[0] = first
    surface = _surface(first, math.isqrt(vectors.shape[1]))
    flags = None
    if planes is not None:
        flags = np.zeros(count, np.int64)
        for index in range(1, count):
            flat = planes[index] - _predicted(surface, vectors[index]) / np.float32(step)
            flags[index] = (flat**2).sum() < (planes[index] ** 2).sum()
    flags = coder.bits(flags, count)
    history = magnitudes * UNIT
    for index in range(1, count):
        total = max(int(history.sum()), 1)
        ratio = np.minimum(history * UNIT * history.size // total, _MAX_ACTIVITY)
        predicted = _predicted(surface, vectors[index]) if flags[index] else None
        target = None if planes is None else planes[index]
        if predicted is not None and target is not None:
            target = target - predicted / np.float32(step)
        levels, magnitudes = _code_term(coder, target, ratio, int(means[index]), tables, other)
        values = levels * step
        if predicted is not None:
            values += predicted
        coefficients[index] = np.clip(values, -_MAX_COEFFICIENT, _MAX_COEFFICIENT)
        history = (history * _FADING >> 5) + magnitudes * UNIT
    total = max(int(history.sum()), 1)
    activity = np.minimum(history * UNIT * history.size // total, _MAX_ACTIVITY)
    return coefficients.reshape(count, -1), activity


def code_classes(
    coder: LevelCoder, side: LevelTables, means: npt.NDArray[Any] | None, count: int
) -> Integers:
    """Mean magnitudes of `count` terms' levels, to half an octave, in 1/`UNIT`.

    Raises:
        CodecError: Decoder: the stream is damaged.
    """
    differences = None
    if means is not None:
        classes = np.rint(2 * np.log2(np.maximum(means, 2.0**-8))).astype(np.int64) + 16
        differences = np.diff(classes.clip(0, _CLASSES - 1), prepend=16)
    classes = 16 + np.cumsum(coder.levels(side, np.full(count, UNIT), differences))
    if classes.min() < 0 or classes.max() >= _CLASSES:
        raise CodecError("The mean magnitude of a term is out of range: damaged data")
    octaves = np.where(classes % 2, 181, 128) << (classes // 2)
    return octaves >> 7


def _code_first(
    coder: LevelCoder, target: Reals | None, grid: tuple[int, int], step: int, mean: int
) -> tuple[Integers, Integers]:
    """The first term's coefficients in 1/`STEP_UNIT` and its levels' magnitudes, `grid`-shaped."""
    rows, columns = grid
    tables = LevelTables()
    values = np.zeros(grid, np.int64)
    magnitudes = np.zeros(grid, np.int64)

    def visit(
        top: int, left: int, spacing: int, neighbours: tuple[tuple[int, int], ...], weight: int
    ) -> None:
        down, right = np.arange(top, rows, spacing), np.arange(left, columns, spacing)
        if not (down.size and right.size):
            return
        predicted, spread, known = _neighbourhood(values, down, right, neighbours)
        expected = np.where(known > 1, spread * weight // step + UNIT // 20, mean)
        lattice = np.ix_(down, right)
        wanted = None
        if target is not None:
            wanted = (target[lattice] - predicted / np.float32(step)).ravel()
        levels = coder.levels(tables, expected.ravel(), wanted, choose=True)
        levels = levels.reshape(predicted.shape)
        values[lattice] = np.clip(predicted + levels * step, -_MAX_COEFFICIENT, _MAX_COEFFICIENT)
        magnitudes[lattice] = np.minimum(np.abs(levels), _CAP)

    spacing = 1 << (max(grid) - 1).bit_length()
    visit(0, 0, spacing, (), 0)
    while spacing > 1:
        half = spacing // 2
        diagonal = ((-half, -half), (-half, half), (half, -half), (half, half))
        straight = ((-half, 0), (half, 0), (0, -half), (0, half))
        visit(half, half, spacing, diagonal, UNIT // 4)
        visit(0, half, spacing, straight, UNIT * 7 // 32)
        visit(half, 0, spacing, straight, UNIT * 7 // 32)
        spacing = half
    return values, magnitudes


def _neighbourhood(
    values: Integers, down: Integers, right: Integers, offsets: tuple[tuple[int, int], ...]
) -> tuple[Integers, Integers, Integers]:
    """Mean, spread (largest less smallest) and number of the neighbours inside the grid."""
    shape = (len(down), len(right))
    total, known = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    low = np.full(shape, _MAX_COEFFICIENT)
    high = -low
    for vertical, horizontal in offsets:
        y, x = down + vertical, right + horizontal
        inside = ((y >= 0) & (y < values.shape[0]))[:, None] & ((x >= 0) & (x < values.shape[1]))
        value = values[np.ix_(y.clip(0, values.shape[0] - 1), x.clip(0, values.shape[1] - 1))]
        total += np.where(inside, value, 0)
        known += inside
        low = np.where(inside, np.minimum(low, value), low)
        high = np.where(inside, np.maximum(high, value), high)
    return total // np.maximum(known, 1), high - low, known


def _surface(first: Integers, block: int) -> dict[int, Integers]:
    """DCT coefficients of a smooth surface, in 1/1024 of `first`'s unit, by their index."""
    padded = np.pad(first, 1, mode="edge")
    rows, columns = first.shape
    surface = {}
    for row, column, weight, signs in _SURFACE:
        total = np.zeros_like(first)
        for vertical, line in enumerate(signs):
            for horizontal, sign in enumerate(line):
                if sign:
                    total += sign * padded[vertical : vertical + rows, horizontal:][:, :columns]
        surface[row * block + column] = total * weight
    return surface


def _predicted(surface: dict[int, Integers], vector: Integers) -> Integers:
    """What a smooth surface gives for a term: in `first`'s unit, `grid`-shaped."""
    total = sum(values * vector[index] for index, values in surface.items())
    return np.asarray(total) >> (_VECTOR_BITS + 10)


def _code_term(
    coder: LevelCoder,
    target: Reals | None,
    ratio: Integers,
    mean: int,
    tables: LevelTables,
    other: Integers | None,
) -> tuple[Integers, Integers]:
    """Levels of a further term and their capped magnitudes, both `grid`-shaped.

    Args:
        target: The encoder's coefficients in steps.
        ratio: Magnitudes of the stronger terms relative to their mean, in 1/`UNIT`.
        mean: This term's mean magnitude in 1/`UNIT`.
    """
    rows, columns = ratio.shape
    levels = np.zeros((rows, columns), np.int64)
    # A border of one block, so that neighbours of border blocks exist.
    magnitudes = np.zeros((rows + 2, columns + 2), np.int64)
    inner = magnitudes[1:-1, 1:-1]
    around = _box(ratio) // 9
    for number, (top, left) in enumerate(_LATTICE):
        kind = min(number, 2)
        same, inside, outside, planes = (_LUMA_WEIGHTS if other is None else _CHROMA_WEIGHTS)[kind]
        lattice = np.s_[top::2, left::2]
        expected = ratio[lattice] * inside + around[lattice] * outside
        if other is not None:
            expected += other[lattice] * planes
        expected = (expected * mean >> 8) + 1
        if same:
            magnitudes[[0, -1]] = magnitudes[[1, -2]]
            magnitudes[:, [0, -1]] = magnitudes[:, [1, -2]]
            offsets = _CORNERS if kind == 1 else _CROSS
            near = sum(
                magnitudes[top + y : rows + y : 2, left + x : columns + x : 2] for y, x in offsets
            )
            expected += near * (same * UNIT // 4)
        expected >>= 8
        wanted = None if target is None else target[lattice].ravel()
        coded = coder.levels(tables, expected.ravel(), wanted, choose=True)
        levels[lattice] = coded.reshape(expected.shape)
        inner[lattice] = np.minimum(np.abs(levels[lattice]), _CAP)
    return levels, inner.copy()


def _box(values: Integers) -> Integers:
    """Sums over 3×3 blocks, the border replicated."""
    padded = np.pad(values, 1, mode="edge")
    lines = padded[:-2] + padded[1:-1] + padded[2:]
    return lines[:, :-2] + lines[:, 1:-1] + lines[:, 2:]


# --- samples ---------------------------------------------------------------------------------


def _samples(
    coefficients: npt.NDArray[np.int32],
    vectors: Integers,
    shape: tuple[int, int],
    block: int,
) -> Samples:
    """Samples `shape` in 1/`SAMPLE_UNIT` from coefficients `(K, N)` and DCT-domain vectors."""
    cosines = np.rint(_cosines(block) * (1 << _VECTOR_BITS)).astype(np.int64)
    patterns = cosines.T @ vectors.reshape(-1, block, block) @ cosines
    shift = 3 * _VECTOR_BITS - _BASIS_BITS
    patterns = (patterns + (1 << (shift - 1))) >> shift
    basis = patterns.reshape(len(vectors), -1).astype(np.float64)
    rows, columns = grid_shape(*shape, block)
    samples = np.empty((rows * block, columns * block), np.int16)
    scale = SAMPLE_UNIT / (STEP_UNIT * 2.0**_BASIS_BITS)  # a power of two: exact
    lines = max(1, 2**18 // (columns * block * block))
    for top in range(0, rows, lines):
        part = coefficients[:, top * columns : (top + lines) * columns].astype(np.float64)
        pixels = np.rint(part.T @ basis * scale)
        np.clip(pixels, -32768, 32767, out=pixels)
        tiles = pixels.astype(np.int16).reshape(-1, columns, block, block)
        band = samples[top * block : (top + lines) * block]
        band[...] = tiles.transpose(0, 2, 1, 3).reshape(band.shape)
    return samples[: shape[0], : shape[1]]


@functools.cache
def _cosines(block: int) -> npt.NDArray[np.float64]:
    """The orthonormal DCT-II matrix `(P, P)`, one cosine a row."""
    frequencies, positions = np.mgrid[0:block, 0:block]
    matrix = np.cos(np.pi * (2 * positions + 1) * frequencies / (2 * block))
    matrix[0] /= math.sqrt(2)
    return matrix * math.sqrt(2 / block)


@functools.cache
def _zigzag(block: int) -> Integers:
    """Indices of the P² frequencies, low ones first, along alternating diagonals."""
    places = [(row, column) for row in range(block) for column in range(block)]
    places.sort(key=lambda place: (sum(place), place[sum(place) % 2]))
    return np.array([row * block + column for row, column in places])
