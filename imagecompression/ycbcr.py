"""RGB to luma and chroma and back, and chroma resampling, in the integer arithmetic of libbpg.

Integers make the result the same on every machine, and equal to the reference decoder's. All
filters replicate the edge samples. Work is done in bands of rows, so that intermediate arrays
stay small for pictures of any size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from imagecompression.codec import Image

Plane = npt.NDArray[np.unsignedinteger[Any]]
"""Samples of one component: `uint8` or `uint16`, `(H, W)`, of a stated bit depth."""

BAND_ROWS = 128
"""Rows converted at a time; even, so that a band begins with a chroma row of 4:2:0."""

HALVING_TAPS = (2, -4, -8, 17, 57, 57, 17, -8, -4, 2)
"""Decimation by 2 (sum 128); the new sample lies in the middle of the ten."""

COSITED_HALVING_TAPS = (-1, 0, 4, 0, -11, 0, 40, 64, 40, 0, -11, 0, 4, 0, -1)
"""The same where the new sample lies on an old one (columns of MPEG-2-sited chroma)."""

FIRST_TAP = 3
"""Samples to the left of (above) the current one that a doubling filter reads; 4 to the right."""

CENTRED_TAPS = ((2, -6, 18, 57, -10, 4, -1, 0), (-1, 4, -10, 57, 18, -6, 2, 0))
"""Interpolation by 2 (sum 64), even and odd outputs: chroma lies between two luma samples."""

COSITED_TAPS = ((0, 0, 0, 64, 0, 0, 0, 0), (-1, 4, -11, 40, 40, -11, 4, -1))
"""The same where chroma lies on every second luma sample (columns of MPEG-2-sited chroma)."""


class ColorSpace(IntEnum):
    """What three planes mean; the numbers are BPG's."""

    YCBCR_BT601 = 0
    RGB = 1  # planes in the order G, B, R
    YCGCO = 2
    YCBCR_BT709 = 3
    YCBCR_BT2020 = 4


RED_BLUE_WEIGHTS = {
    ColorSpace.YCBCR_BT601: (0.299, 0.114),
    ColorSpace.YCBCR_BT709: (0.2126, 0.0722),
    ColorSpace.YCBCR_BT2020: (0.2627, 0.0593),
}
"""Shares of red and blue in luma."""


def rgb_to_ycbcr(
    image: Image,
    bit_depth: int,
    *,
    color_space: ColorSpace = ColorSpace.YCBCR_BT601,
    limited_range: bool = False,
) -> list[Plane]:
    """Three planes `(H, W)` of an RGB image in `color_space`; one luma plane of a gray image.

    Args:
        image: `(H, W, 3)` or `(H, W)`, `uint8`.
        bit_depth: Bits of the result, 8 … 12: `uint8` for 8, else `uint16`.
        color_space: What the planes of an RGB image mean.
        limited_range: Luma is 16 … 235 and chroma 16 … 240 (at 8 bits), not the full range.
    """
    shift = 31 - bit_depth
    half = 1 << (shift - 1)
    full = (1 << bit_depth) - 1
    luma_span = 219 << (bit_depth - 8) if limited_range else full
    chroma_span = 224 << (bit_depth - 8) if limited_range else full
    luma_scale, chroma_scale = (span * (1 << shift) / 255 for span in (luma_span, chroma_span))
    lowest = 16 << (bit_depth - 8) if limited_range else 0
    zeros = [lowest, 1 << (bit_depth - 1), 1 << (bit_depth - 1)]
    if image.ndim == 2:
        matrix, zeros = [[round(luma_scale)]], [lowest]
    elif color_space == ColorSpace.RGB:
        one = round(luma_scale)
        matrix, zeros = [[0, one, 0], [0, 0, one], [one, 0, 0]], [lowest] * 3
    elif color_space == ColorSpace.YCGCO:
        # Also in the limited range libbpg gives the chroma of YCgCo the scale of luma.
        two, one = round(0.5 * luma_scale), round(0.25 * luma_scale)
        matrix = [[one, two, one], [-one, two, -one], [two, 0, -two]]
    else:
        red, blue = RED_BLUE_WEIGHTS[color_space]
        green = 1 - red - blue
        weights = [
            [red, green, blue],
            [-0.5 * red / (1 - blue), -0.5 * green / (1 - blue), 0.5],
            [0.5, -0.5 * green / (1 - red), -0.5 * blue / (1 - red)],
        ]
        scales = (luma_scale, chroma_scale, chroma_scale)
        matrix = [
            [round(weight * scale) for weight in row]
            for row, scale in zip(weights, scales, strict=True)
        ]
    planes = [np.empty(image.shape[:2], _sample_type(bit_depth)) for _ in matrix]
    for band in _bands(image.shape[0]):
        part = image[band].reshape(-1, image.shape[1], len(matrix))
        channels = [part[..., index].astype(np.int32) for index in range(len(matrix))]
        for plane, row, zero in zip(planes, matrix, zeros, strict=True):
            # 255 * scale + half stays under 2^31 for every depth.
            mixed = (_weighted_sum(channels, row, half) >> shift) + zero
            plane[band] = mixed.clip(0, full)
    return planes


def halve_chroma(plane: Plane, bit_depth: int, *, rows: bool, cosited: bool = False) -> Plane:
    """Every second column, and with `rows` every second row, filtered: 4:2:2 or 4:2:0.

    The new samples lie between the old ones (JPEG siting), or with `cosited` on every second
    column (MPEG-2 siting; new rows lie between the old ones all the same). Odd sides are rounded
    up.
    """
    # Two passes keep 14 bits and a sign in between, as libbpg does.
    first_shift = bit_depth - 7 if rows else 7
    taps = COSITED_HALVING_TAPS if cosited else HALVING_TAPS
    mixed = _halve(plane.astype(np.int32), taps, first_shift, axis=1)
    if rows:
        mixed = _halve(mixed, HALVING_TAPS, 21 - bit_depth, axis=0)
    return mixed.clip(0, (1 << bit_depth) - 1).astype(_sample_type(bit_depth))


def ycbcr_to_rgb(
    planes: Sequence[Plane],
    bit_depth: int,
    *,
    color_space: ColorSpace = ColorSpace.YCBCR_BT601,
    limited_range: bool = False,
    cosited: bool = False,
) -> Image:
    """8-bit image of one luma plane (to `(H, W)`) or of three planes (to `(H, W, 3)`).

    Args:
        planes: Luma `(H, W)` and, unless gray, two chroma planes of the same or the halved
            (rounded up) height and width.
        bit_depth: Bits of the samples, 8 … 12.
        color_space: What the planes mean.
        limited_range: Luma is 16 … 235 and chroma 16 … 240 (at 8 bits), not the full range.
        cosited: Halved columns lie on luma columns (MPEG-2) and not between them (JPEG).
    """
    luma, *chroma = planes
    height, width = luma.shape
    image = np.empty((height, width, 3) if chroma else (height, width), np.uint8)
    taps = COSITED_TAPS if cosited else CENTRED_TAPS
    # Limited range reaches past 2^31 where samples lie outside their range.
    wide = np.int64 if limited_range else np.int32
    for band in _bands(height):
        channels = [luma[band]] + [
            _chroma_band(plane, band, (height, width), bit_depth, taps) for plane in chroma
        ]
        mixed = _mix_to_rgb(
            [channel.astype(wide, copy=False) for channel in channels],
            bit_depth,
            color_space,
            limited_range,
        )
        for index, channel in enumerate(mixed):
            target = image[band][..., index] if chroma else image[band]
            target[...] = channel.clip(0, 255)
    return image


def _mix_to_rgb(
    channels: list[npt.NDArray[Any]], bit_depth: int, color_space: ColorSpace, limited_range: bool
) -> list[npt.NDArray[Any]]:
    """Planes of equal size to R, G, B (or gray) in 8 bits, not yet clipped."""
    shift = 30 - 8
    scale = 255 * (1 << shift)
    full = (1 << bit_depth) - 1
    luma_scale = scale / (219 << (bit_depth - 8) if limited_range else full)
    chroma_scale = scale / (224 << (bit_depth - 8) if limited_range else full)
    one = round(luma_scale)
    offset = (1 << (shift - 1)) - (one * (16 << (bit_depth - 8)) if limited_range else 0)
    if len(channels) == 1 or color_space == ColorSpace.RGB:
        order = (0,) if len(channels) == 1 else (2, 0, 1)
        return [(channels[index] * one + offset) >> shift for index in order]
    luma = channels[0] * one + offset
    first, second = (channel - (1 << (bit_depth - 1)) for channel in channels[1:])
    if color_space == ColorSpace.YCGCO:
        # Also in the limited range libbpg gives the chroma of YCgCo the scale of luma.
        green, orange = first * one, second * one
        rest = luma - green
        mixed = [rest + orange, luma + green, rest - orange]
    else:
        red, blue = RED_BLUE_WEIGHTS[color_space]
        red_gain, blue_gain = 2 * (1 - red), 2 * (1 - blue)
        share = chroma_scale / (1 - red - blue)
        mixed = [
            luma + second * round(red_gain * chroma_scale),
            luma - first * round(blue * blue_gain * share) - second * round(red * red_gain * share),
            luma + first * round(blue_gain * chroma_scale),
        ]
    return [channel >> shift for channel in mixed]


def _chroma_band(
    plane: Plane,
    band: slice,
    luma_shape: tuple[int, int],
    bit_depth: int,
    taps: tuple[tuple[int, ...], tuple[int, ...]],
) -> npt.NDArray[np.int32]:
    """The rows `band` (of luma) of a chroma plane, doubled where it is smaller than luma."""
    height, width = luma_shape
    rows, columns = band.stop - band.start, width
    if plane.shape == luma_shape:
        return plane[band].astype(np.int32)
    if plane.shape[0] == height:
        part, shift = plane[band].astype(np.int32), 6
    else:
        # Rows first and into 14 bits and a sign, then columns from these: libbpg's order.
        first = band.start // 2
        count = (rows + 1) // 2
        near = np.arange(first - FIRST_TAP, first + count + 4).clip(0, plane.shape[0] - 1)
        part = _double(plane[near].astype(np.int32), CENTRED_TAPS, bit_depth - 8, axis=0)[:rows]
        shift = 20 - bit_depth
    padded = np.pad(part, ((0, 0), (FIRST_TAP, 4)), "edge")
    doubled = _double(padded, taps, shift, axis=1)[:, :columns]
    return doubled.clip(0, (1 << bit_depth) - 1)


def _double(
    samples: npt.NDArray[np.int32],
    taps: tuple[tuple[int, ...], tuple[int, ...]],
    shift: int,
    axis: int,
) -> npt.NDArray[np.int32]:
    """Twice the samples along `axis`, divided by `2**shift`, rounded.

    `samples` has `FIRST_TAP` samples more before the first and four more after the last.
    """
    count = samples.shape[axis] - FIRST_TAP - 4
    shape = list(samples.shape)
    shape[axis] = 2 * count
    doubled = np.empty(shape, np.int32)
    half = (1 << shift) >> 1
    for parity, weights in enumerate(taps):
        terms = [samples[_along(axis, start, start + count)] for start in range(len(weights))]
        doubled[_along(axis, parity, None, 2)] = _weighted_sum(terms, weights, half) >> shift
    return doubled


def _halve(
    samples: npt.NDArray[np.int32], taps: tuple[int, ...], shift: int, axis: int
) -> npt.NDArray[np.int32]:
    """Half the samples (rounded up) along `axis` by `taps`, divided by `2**shift`, rounded."""
    length = samples.shape[axis]
    count = (length + 1) // 2
    before = (len(taps) - 1) // 2
    padding = [(0, 0), (0, 0)]
    padding[axis] = (before, 2 * count - 2 - before + len(taps) - length)
    padded = np.pad(samples, padding, "edge")
    terms = [padded[_along(axis, start, start + 2 * count - 1, 2)] for start in range(len(taps))]
    return _weighted_sum(terms, taps, 1 << (shift - 1)) >> shift


def _along(axis: int, start: int, stop: int | None, step: int = 1) -> tuple[slice, ...]:
    """Index of `start:stop:step` along axis 0 or 1."""
    return (*[slice(None)] * axis, slice(start, stop, step))


def _weighted_sum(
    terms: Sequence[npt.NDArray[Any]], weights: Sequence[int], offset: int
) -> npt.NDArray[Any]:
    """`offset` plus the sum of each term times its weight, in the terms' type."""
    total = np.full(terms[0].shape, offset, terms[0].dtype)
    for term, weight in zip(terms, weights, strict=True):
        if weight:
            total += term * weight
    return total


def _bands(height: int) -> Iterator[slice]:
    for start in range(0, height, BAND_ROWS):
        yield slice(start, min(start + BAND_ROWS, height))


def _sample_type(bit_depth: int) -> type[np.uint8] | type[np.uint16]:
    return np.uint8 if bit_depth == 8 else np.uint16
