"""How a JPEG was quantised, from decoded pixels: steps of each frequency, quality, subsampling.

`imagecompression.evidence.jpeg_history` finds the grid. On it, every coefficient of a JPEG lies
near a multiple of its frequency's quantisation step; rounding to 8 bits moves it a little. A model
of this gives each step a likelihood: the probabilities of the multiples fall geometrically, but for
zero, which has its own, and around each lies a normal error. In this model a step's divisors lose
because they would leave teeth empty, and its multiples because they would put coefficients between
teeth. The likelihoods of all frequencies together give the quality (cf. Z. Fan, R. de Queiroz,
"Identification of bitmap compression history", IEEE TIP 2003; R. Neelamani et al., "JPEG
compression history estimation for color images", IEEE TIP 2006).

Chroma at half resolution is brought back by the inverse of libjpeg's "fancy" upsampling, a triangle
filter with the weights 3/4 and 1/4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from imagecompression.codec import Image
from imagecompression.evidence.jpeg_history import (
    DCT,
    GRID_RATIO,
    JpegHistory,
    Plane,
    jpeg_history,
    luma_of,
    windows_of,
)
from imagecompression.quantisation_tables import SCHOOLS, quantisation_tables

Mask = npt.NDArray[np.bool_]
LUMINANCE, CHROMINANCE = 0, 1

DECISIVE_GAIN = 100.0
"""Nats by which a known table must beat a plane without steps for the picture to have been a JPEG,
on a grid of at least `GRID_RATIO`. Those train pictures and crops that reach 10, on the best of
their grids, have ratios under 1.1."""

MIN_GAIN = 30.0
"""The same for a quality to be told."""

MIN_FIT = 0.85
"""Least share of the free steps' gain that a table must reach to be taken for the file's. Train
pictures through JPEG have 0.9 and more, also crops of 256×256 pixels."""

MIN_MEAN_STEP = 2.0
"""Tables of a smaller mean (libjpeg's from quality 99 on) hardly quantise: JPEG XL, rounded in
another way, fits them too."""

SCHOOL_LEAD = 20.0
"""Nats by which another school's table must beat libjpeg's to be named."""

SURE = 5.0
"""Nats by which a step or a quality must beat another to rule it out."""

_LARGEST_STEP = 255
_BINS_A_UNIT, _LARGEST = 8, 512
_LARGEST_ERROR, _MIN_COEFFICIENTS = 3, 4
# Small steps leave a quarter of the coefficients beyond rounding errors. Under a few of a hundred
# they are odd errors among zeros, of a large step (train pictures: 2 %).
_SMALL_STEP, _LEAST_SHARE = 4, 0.05
_CHROMA_PIXELS = 1 << 19
_INVERSE_TAPS = 8
_MOST_AGAINST = 20.0  # nats that one frequency may speak against a table
_APART = 2  # qualities of luma and chroma: a little colour gives its own to within this

# Rounding errors of neighbours are independent only where the samples change: in a band of sky all
# samples of a row are rounded alike, and one coefficient has all their errors.
_CHANGE = 0.5
_CHANGING_SHARE = 0.3

# Shares and standard deviations of the errors; the rest is anywhere. Luma is rounded, and RGB
# again: √(0.29² + 0.19²). Chroma that was at half resolution has more, and coherent ones.
_Noise = tuple[tuple[float, float], ...]
_LUMA_NOISE: _Noise = ((0.95, 0.4),)
_CHROMA_NOISE: _Noise = ((0.89, 0.4), (0.1, 1.2))


@dataclass(frozen=True, eq=False)
class Quantisation:
    """The quantisation of one plane, as its coefficients show it.

    Attributes:
        steps: Likeliest step of each frequency, int64 `(8, 8)`, 1 … 255 in natural order. DC
            (`[0, 0]`), which is not looked at, and frequencies with fewer than four coefficients
            beyond rounding errors have 0.
        lead: Nats by which the step beats the second best, float64 `(8, 8)`, 0 upwards; from
            `SURE` on it is sure. 0 where a small step would explain no more than odd errors.
        gain: Nats by which the best known table beats a plane without steps, 0 upwards.
        fit: That over what free steps of each frequency would gain, 0 … 1.
        quality: 1 … 100, of that table on its school's scale; None where no known table explains
            the coefficients.
        qualities: Lowest and highest quality that explain them as well, within `SURE` nats.
        school: Whose table it is, one of `imagecompression.quantisation_tables.SCHOOLS`;
            ``"standard"`` is libjpeg's.
    """

    steps: npt.NDArray[np.int64]
    lead: npt.NDArray[np.float64]
    gain: float
    fit: float
    quality: int | None
    qualities: tuple[int, int] | None
    school: str | None


@dataclass(frozen=True, eq=False)
class JpegGrid:
    """What pixels tell about an earlier JPEG compression.

    Attributes:
        history: The grid, and the two signs of it.
        found: Whether there is a sign of a JPEG. AVIF and others with transforms of 8×8 leave it
            too, where not `decisive`.
        decisive: Whether luma is quantised by a known table of JPEG, on a grid that stands out.
            Tables of one step for all frequencies do not count: AVIF's is one.
        luma: Quantisation of luma on that grid; None where no grid stands out.
        chroma: The same of Cb and Cr together. None where it cannot be told: of gray pictures, of
            little colour, or where its table is not of luma's school and quality.
        subsampling: ``"4:4:4"``, ``"4:2:2"`` or ``"4:2:0"``; None like `chroma`.
    """

    history: JpegHistory
    found: bool
    decisive: bool
    luma: Quantisation | None
    chroma: Quantisation | None
    subsampling: str | None


def jpeg_grid(image: Image) -> JpegGrid:
    """Look for an earlier JPEG compression, and estimate how it was quantised.

    Args:
        image: As for `jpeg_history`.
    """
    history = jpeg_history(image)
    if not history.found and history.vote_ratio < GRID_RATIO:
        return JpegGrid(history, False, False, None, None, None)
    windows = list(windows_of(image))
    luma = _luma_quantisation(windows, history)
    decisive = (
        luma.quality is not None and luma.gain >= DECISIVE_GAIN and history.vote_ratio >= GRID_RATIO
    )
    chroma, subsampling = None, None
    if decisive and image.ndim == 3:
        # Luma's grid has a period of 8 pixels, chroma's of 16.
        fewer = list(windows_of(image, _CHROMA_PIXELS, multiple=16))
        for name, planes in _chroma_planes(fewer, history.top, history.left):
            found = _quantisation(planes, CHROMINANCE, _CHROMA_NOISE, beside=luma)
            if found.quality is not None and (chroma is None or found.gain > chroma.gain):
                chroma, subsampling = found, name
    return JpegGrid(history, history.found or decisive, decisive, luma, chroma, subsampling)


def _luma_quantisation(windows: Sequence[Image], history: JpegHistory) -> Quantisation:
    """From the best blocks; where these are too few for a quality, from more."""
    on_grid = np.s_[history.top :, history.left :]
    lumas = [luma_of(window)[on_grid] for window in windows]
    clipped = [_clipped(window)[on_grid] for window in windows]
    # In saturated colours one channel is clipped everywhere, and does little harm.
    ends = [(luma < 0.5) | (luma > 254.5) for luma in lumas]
    for masks, share in ((clipped, _CHANGING_SHARE), (clipped, 0.0), (ends, 0.0)):
        planes = list(zip(lumas, masks, strict=True))
        luma = _quantisation(planes, LUMINANCE, _LUMA_NOISE, share)
        if luma.quality is not None:
            break
    return luma


def _clipped(image: Image) -> Mask:
    """Where a sample is 0 or 255: there the decoder may have cut off what the steps gave."""
    clipped = (image == 0) | (image == 255)
    return np.asarray(clipped if image.ndim == 2 else clipped.any(axis=2))


def _histogram(plane: Plane, clipped: Mask, changing_share: float) -> npt.NDArray[np.int64]:
    """Histograms of the absolute DCT coefficients of the blocks, `(64, bins)`.

    Clipped blocks are left out, and those that hardly change down or across.
    """
    samples = _blocks(plane)
    usable = ~_blocks(clipped).any(axis=(1, 2))
    for axis in (1, 2):
        changes = np.abs(np.diff(samples, axis=axis)) > _CHANGE
        usable &= changes.mean(axis=(1, 2)) > changing_share
    coefficients = np.abs(DCT @ samples[usable] @ DCT.T).reshape(-1, 64)
    bins = _BINS_A_UNIT * _LARGEST
    found = np.minimum((coefficients * _BINS_A_UNIT).astype(np.int64), bins)
    found += np.arange(64) * (bins + 1)
    return np.bincount(found.ravel(), minlength=64 * (bins + 1)).reshape(64, -1)[:, :-1]


def _blocks(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`(N, 8, 8)` from `(H, W)`."""
    height, width = (side // 8 * 8 for side in values.shape)
    rows = values[:height, :width].reshape(height // 8, 8, width // 8, 8)
    return rows.swapaxes(1, 2).reshape(-1, 8, 8)


def _chroma_planes(
    windows: Sequence[Image], top: int, left: int
) -> Iterator[tuple[str, list[tuple[Plane, Mask]]]]:
    """Cb and Cr from the first block on, by subsampling and place of the blocks among luma's."""
    planes = [(plane, _clipped(window)) for window in windows for plane in _chroma_of(window)]
    for name, down, across in (("4:4:4", 1, 1), ("4:2:2", 1, 2), ("4:2:0", 2, 2)):
        first = np.s_[top % down :, left % across :]
        reduced = [
            (
                _restored(_restored(plane[first], 0, down), 1, across),
                _any_of(clipped[first], down, across),
            )
            for plane, clipped in planes
        ]
        for row in range(down):
            for column in range(across):
                # A chroma block spans `down` × `across` of luma's, and may begin with any of them.
                start = np.s_[(top + 8 * row) // down :, (left + 8 * column) // across :]
                yield name, [(plane[start], clipped[start]) for plane, clipped in reduced]


def _chroma_of(image: Image) -> tuple[Plane, Plane]:
    luma = luma_of(image)
    red, blue = image[..., 0].astype(np.float32), image[..., 2].astype(np.float32)
    return (blue - luma) / np.float32(1.772), (red - luma) / np.float32(1.402)


def _any_of(mask: Mask, down: int, across: int) -> Mask:
    height, width = mask.shape[0] // down, mask.shape[1] // across
    cut = mask[: height * down, : width * across]
    return np.asarray(cut.reshape(height, down, width, across).any(axis=(1, 3)))


def _restored(plane: Plane, axis: int, factor: int) -> Plane:
    """The samples before fancy upsampling along an axis, by the inverse filter.

    The mean of two upsampled neighbours is (1, 6, 1) / 8 of the samples; its inverse falls off by
    r = 2√2 − 3 a sample.
    """
    from scipy.ndimage import convolve1d  # slow to import

    if factor == 1:
        return plane
    count = plane.shape[axis] // 2
    pairs = plane.take(range(2 * count), axis=axis)
    shape = (count, 2, plane.shape[1]) if axis == 0 else (plane.shape[0], count, 2)
    means = pairs.reshape(shape).mean(axis=axis + 1)
    if count == 0:
        return means
    distance = np.abs(np.arange(-_INVERSE_TAPS, _INVERSE_TAPS + 1))
    taps = np.sqrt(2) * (2 * np.sqrt(2) - 3) ** distance
    return np.asarray(convolve1d(means, taps, axis=axis, mode="nearest"))


@cache
def _cells(noise: _Noise) -> tuple[Plane, Plane, Plane]:
    """Of each step and bin `(255, bins)`: log density around its tooth, tooth, whether not zero."""
    value = ((np.arange(_BINS_A_UNIT * _LARGEST) + 0.5) / _BINS_A_UNIT).astype(np.float32)
    step = np.arange(1, _LARGEST_STEP + 1, dtype=np.float32)[:, None]
    tooth = np.rint(value / step)
    error = value - tooth * step
    density = np.broadcast_to((1 - sum(share for share, _ in noise)) / step, error.shape)
    for share, deviation in noise:
        for wrap in (-1, 0, 1):
            normal = np.exp(-(((error + wrap * step) / deviation) ** 2) / 2)
            density = density + share / (deviation * np.sqrt(2 * np.pi)) * normal
    return np.log(density).astype(np.float32), tooth, (tooth > 0).astype(np.float32)


def _log_likelihoods(histogram: npt.NDArray[np.int64], noise: _Noise) -> npt.NDArray[np.float64]:
    """Of each step and frequency, `(255, 64)`, over that of step 1."""
    density, tooth, nonzero = _cells(noise)
    counts = histogram.T.astype(np.float32)
    errors = (density @ counts).astype(np.float64)
    total = counts.sum(axis=0, dtype=np.float64)
    teeth = (tooth @ counts).astype(np.float64)
    beyond = (nonzero @ counts).astype(np.float64)
    # P(0) = p and P(k) = (1 − p)(1 − t)t^(k − 1), p and t by maximum likelihood.
    zero = (total - beyond + 0.5) / (total + 1)
    fall = (teeth - beyond + 0.5) / (teeth + 1)
    numbers = (
        (total - beyond) * np.log(zero)
        + beyond * np.log((1 - zero) * (1 - fall))
        + (teeth - beyond) * np.log(fall)
    )
    likelihoods = errors + numbers
    return likelihoods - likelihoods[0]


@cache
def _tables(component: int) -> tuple[npt.NDArray[np.int64], Mask]:
    """Every school's table of every quality, `(schools, 100, 64)`, and which may be told."""
    tables = np.array(
        [
            [quantisation_tables(school, quality)[component].ravel() for quality in range(1, 101)]
            for school in SCHOOLS
        ],
        np.int64,
    )
    return tables, (tables.mean(axis=2) >= MIN_MEAN_STEP) & (np.ptp(tables, axis=2) > 0)


def _quantisation(
    planes: Sequence[tuple[Plane, Mask]],
    component: int,
    noise: _Noise,
    changing_share: float = _CHANGING_SHARE,
    beside: Quantisation | None = None,
) -> Quantisation:
    """Steps and table of planes that begin with a block; where given, of the table `beside`."""
    histogram = sum(
        (_histogram(plane, clipped, changing_share) for plane, clipped in planes),
        np.zeros((64, _BINS_A_UNIT * _LARGEST), np.int64),
    )
    likelihoods = _log_likelihoods(histogram, noise)
    # A few errors around zero look like small steps. DC has teeth wherever levels are missing.
    silent = histogram[:, _LARGEST_ERROR * _BINS_A_UNIT :].sum(axis=1) < _MIN_COEFFICIENTS
    silent[0] = True
    likelihoods[:, silent] = 0.0
    second, best = np.sort(likelihoods, axis=0)[-2:]
    steps = likelihoods.argmax(axis=0) + 1
    steps[silent] = 0
    lead = best - second
    few = histogram[:, _BINS_A_UNIT:].sum(axis=1) < _LEAST_SHARE * histogram.sum(axis=1)
    lead[few & (steps <= _SMALL_STEP)] = 0.0
    bounded = np.maximum(likelihoods, -_MOST_AGAINST)
    tables, allowed = _tables(component)
    gains = bounded[tables - 1, np.arange(64)].sum(axis=2)
    gains[1:] -= SCHOOL_LEAD
    if beside is not None and beside.school is not None and beside.quality is not None:
        near = np.zeros(gains.shape, bool)
        first, last = beside.quality - _APART, beside.quality + _APART
        near[SCHOOLS.index(beside.school), max(0, first - 1) : last] = True
        allowed = allowed & near
    gains = np.where(allowed, gains, -np.inf)
    school, at = np.unravel_index(gains.argmax(), gains.shape)
    gain = max(float(gains[school, at]), 0.0)
    fit = gain / max(float(best.sum()), 1.0)
    known = gain >= MIN_GAIN and fit >= MIN_FIT
    alike = np.flatnonzero(gains[school] > gain - SURE) + 1
    return Quantisation(
        steps=steps.reshape(8, 8),
        lead=lead.reshape(8, 8),
        gain=gain,
        fit=fit,
        quality=int(at) + 1 if known else None,
        qualities=(int(alike[0]), int(alike[-1])) if known else None,
        school=SCHOOLS[school] if known else None,
    )
