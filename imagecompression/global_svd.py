"""The global mode of the SVD codec: a truncated singular value decomposition of a whole plane.

The mode of the literature (Andrews and Patterson, "Singular value decomposition (SVD) image
coding", IEEE Transactions on Communications 24(4), 1976): a plane of samples, less its mean, is
approximated by the strongest terms of A = Σ sₖ uₖ vₖᵀ. A term is stored as the column sₖuₖ and the
row sₖvₖ, whose entries all terms quantise with one step: weak terms take few levels, and every
entry adds the same error.

The order of a plane (integers; / and >> round down), through `imagecompression.range_coding`:

1. The number K of terms; nothing follows for K = 0.
2. The singular values as float32, each as its high and its low 16 bits.
3. One flag a term, smooth or not, and the class of its mean magnitude (as differences).
4. The levels of all columns, then of all rows, from a coarse lattice of positions to a fine one.
   Smooth terms hold differences from the mean of the two neighbours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from imagecompression.codec import CodecError
from imagecompression.patch_svd import SAMPLE_UNIT, STEP_UNIT, Reals, Samples, code_classes
from imagecompression.range_coding import UNIT, Integers, LevelCoder, LevelTables

MAX_TERMS = 1024
MAX_ENTRIES = 2**25
"""Most quantised factor entries of a plane; bounds memory."""

_TRUNCATION = 1.5
"""A term is kept when the root mean square entry of its longer factor exceeds step / 1.5: finer
quantisation than the truncation would be wasted, and the other way round."""
_MAX_COLUMN = 2**18
_ROW_BITS = 20
"""Fixed point of the decoder's rows. The product of a column entry (below 2^18) with a row entry
(below 2^21) and any sum of 1024 of them stays below 2^53: float64 holds all of them exactly,
whatever the order in which a BLAS library adds."""
_PRODUCTS_PER_LEVEL = 512
"""Multiplications that take about as long as decoding one level."""

# What neighbours make one expect of a level, in 1/`UNIT`: shares of the difference of two levels
# around a smooth term's, of the sum of two magnitudes around another's, and of the term's mean.
_SMOOTH_WEIGHT, _ROUGH_WEIGHT, _MEAN_WEIGHT = UNIT // 6, UNIT // 4, UNIT // 2


@dataclass(frozen=True, eq=False)
class Terms:
    """A plane's terms, strongest first.

    Attributes:
        factors: float32 `(terms, H + W)`: in row k the column sₖuₖ, then the row sₖvₖ.
        strengths: Singular values, float32 `(terms,)`, falling.
    """

    factors: Reals
    strengths: Reals


def decompose(plane: Reals) -> Terms:
    """The strongest `MAX_TERMS` singular terms of a `(H, W)` plane.

    The eigenvectors of A·Aᵀ on the shorter side are the singular vectors of that side, and their
    products with A are the other side's times sₖ. This takes half the time of an SVD; the
    precision it loses concerns singular values under 10⁻⁷ of the first, far below the step.
    """
    values = plane.astype(np.float64)
    wide = values if plane.shape[0] <= plane.shape[1] else values.T
    _, vectors = np.linalg.eigh(wide @ wide.T)
    short = vectors.T[::-1][:MAX_TERMS]
    # Eigenvectors are unique up to their sign only: the largest component is made positive.
    peaks = np.take_along_axis(short, np.abs(short).argmax(axis=1)[:, None], axis=1)
    short = short * np.where(peaks < 0, -1.0, 1.0)
    long = short @ wide
    strengths = np.sqrt((long * long).sum(axis=1))
    order = np.argsort(-strengths, kind="stable")
    short, long, strengths = short[order], long[order], strengths[order]
    scaled = short * strengths[:, None]
    pair = (scaled, long) if wide is values else (long, scaled)
    return Terms(np.concatenate(pair, axis=1, dtype=np.float32), strengths.astype(np.float32))


def code_plane(
    coder: LevelCoder, terms: Terms | None, shape: tuple[int, int], step: int, max_terms: int
) -> Samples:
    """Code a plane; for the encoder `terms` is given, for the decoder None.

    Args:
        coder: Where the levels go to or come from.
        terms: Of a plane with zero mean.
        shape: Height and width of the plane.
        step: Quantiser step in 1/`STEP_UNIT`.
        max_terms: Most terms that the encoder keeps.

    Returns:
        The decoded samples less their mean, int16 in 1/`SAMPLE_UNIT`.

    Raises:
        CodecError: Decoder: the stream is damaged. Encoder: more entries than `MAX_ENTRIES`.
    """
    height, width = shape
    count = coder.number(
        None if terms is None else _useful_terms(terms, shape, step, max_terms),
        min(MAX_TERMS, height, width) + 1,
    )
    if count == 0:
        return np.zeros(shape, np.int16)
    if count * (height + width) > MAX_ENTRIES:
        raise CodecError(
            f"SVD factors may have up to {MAX_ENTRIES:,} entries a plane. Received: "
            f"{count} terms of {width}×{height}; a larger step or a smaller rank is needed"
        )
    # Before anything is allocated, so the entries count twice: once here, once as levels.
    coder.claim(count * (height + width) + count * height * width // _PRODUCTS_PER_LEVEL)
    strengths = _code_strengths(coder, None if terms is None else terms.strengths[:count], count)
    targets = None
    if terms is not None:
        targets = terms.factors[:count] * np.float32(STEP_UNIT / step)
    parts = (slice(0, height), slice(height, None))
    lines = [
        _code_lines(coder, None if targets is None else targets[:, part], (count, length))
        for part, length in zip(parts, shape, strict=True)
    ]
    return _samples(lines[0], lines[1], strengths, step)


def _useful_terms(terms: Terms, shape: tuple[int, int], step: int, max_terms: int) -> int:
    """How many terms are strong enough for the step."""
    weakest = step / STEP_UNIT / _TRUNCATION * math.sqrt(max(shape))
    return min(max_terms, int((terms.strengths > weakest).sum()))


def _code_strengths(coder: LevelCoder, strengths: Reals | None, count: int) -> Reals:
    """The singular values, bit by bit."""
    words: list[int | None] = [None] * (2 * count)
    if strengths is not None:
        words = strengths.astype("<f4").view("<u2").tolist()
    coded = [coder.number(word, 2**16) for word in words]
    strengths = np.array(coded, "<u2").view("<f4").astype(np.float32)
    if not (np.isfinite(strengths) & (strengths > 0)).all():
        raise CodecError("The SVD file holds a singular value out of range: damaged data")
    return strengths


def _code_lines(coder: LevelCoder, targets: Reals | None, shape: tuple[int, int]) -> Integers:
    """Levels of one side's factors, `(terms, length)`; `targets` are in steps.

    The first entry is coded alone, then those in the middle of known ones: at half, a quarter … of
    the smallest power of two that holds the length. Smooth terms have tables of their own.
    """
    count, length = shape
    smooth, differences = None, None
    if targets is not None:
        middle = np.pad(targets, ((0, 0), (1, 1)), mode="edge")
        residual = np.abs(targets - (middle[:, :-2] + middle[:, 2:]) / 2)
        smooth = (residual.sum(axis=1) < np.abs(targets).sum(axis=1)).astype(np.int64)
        differences = np.where(smooth[:, None], residual, np.abs(targets)).mean(axis=1)
    smooth = coder.bits(smooth, count)[:, None]
    means = code_classes(coder, LevelTables(), differences, count)[:, None]
    tables = (LevelTables(), LevelTables())
    levels = np.zeros(shape, np.int64)

    def visit(places: Integers, left: Integers, right: Integers) -> None:
        near, far = levels[:, left], levels[:, right]
        predicted = np.where(smooth, (near + far) >> 1, 0)
        spread = np.where(smooth, np.abs(near - far), np.abs(near) + np.abs(far))
        weight = np.where(smooth, _SMOOTH_WEIGHT, _ROUGH_WEIGHT)
        expected = (spread * weight + means * _MEAN_WEIGHT // UNIT + 1).ravel()
        wanted = None if targets is None else (targets[:, places] - predicted).ravel()
        coded = np.empty(expected.size, np.int64)
        for table, kind in zip(tables, (0, 1), strict=True):
            chosen = np.flatnonzero(np.repeat(smooth.ravel() == kind, len(places)))
            coded[chosen] = coder.levels(
                table, expected[chosen], None if wanted is None else wanted[chosen], choose=True
            )
        levels[:, places] = predicted + coded.reshape(count, len(places))

    spacing = 1 << (length - 1).bit_length()
    visit(np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64))
    while spacing > 1:
        half = spacing // 2
        places = np.arange(half, length, spacing)
        if len(places):
            visit(
                places,
                places - half,
                np.where(places + half < length, places + half, places - half),
            )
        spacing = half
    if np.abs(levels).max() > _MAX_COLUMN:
        raise CodecError("The SVD file holds a factor out of range: damaged data")
    return levels


def _samples(columns: Integers, rows: Integers, strengths: Reals, step: int) -> Samples:
    """Samples `(H, W)` in 1/`SAMPLE_UNIT` from levels `(terms, H)` and `(terms, W)`.

    Raises:
        CodecError: A row entry exceeds 2, while those of unit vectors cannot exceed 1.
    """
    scale = step / STEP_UNIT / strengths.astype(np.float64)
    right = np.rint(rows * (scale * (1 << _ROW_BITS))[:, None])
    if np.abs(right).max() > 2 << _ROW_BITS:
        raise CodecError("The SVD file's singular values do not fit its factors: damaged data")
    left = columns.T.astype(np.float64)
    samples = np.empty((columns.shape[1], rows.shape[1]), np.int16)
    unit = step * SAMPLE_UNIT / (STEP_UNIT * 2.0**_ROW_BITS)
    lines = max(1, 2**18 // rows.shape[1])
    for top in range(0, len(samples), lines):
        band = slice(top, top + lines)
        samples[band] = np.clip(np.rint(left[band] @ right * unit), -32768, 32767)
    return samples
