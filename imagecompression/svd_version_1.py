"""Decoder of version 1 of the SVD container; `imagecompression.svd` writes version 2.

The container, version 1, little-endian:

    offset  bytes
    0       4      magic 8F 53 56 44
    4       1      version of the container, 1
    5       1      number of planes P: 1 (gray) or 3 (Y, Cb, Cr)
    6       2      width
    8       2      height
    10      4      quantiser step, float32, in grey levels
    14      2·P    number of terms of each plane, uint16
    …       4      CRC-32 of all other bytes
    …       rest   the payload through raw LZMA2 (lc = lp = pb = 0, 64 KiB dictionary)

The payload holds one section a plane (`_unpack`): the singular values sₖ (float32), a flag a term
(packed bits, most significant first, set when the term is stored as differences), the high bytes
and then the low bytes of the quantised factors. A term is the column sₖuₖ (height) followed by
the row sₖvₖ (width), divided by the step, rounded, in differences from the previous entry if
flagged, and mapped to unsigned by 0, -1, 1, -2, 2 … → 0, 1, 2, 3, 4 …
"""

from __future__ import annotations

import lzma
import math
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from imagecompression.codec import CodecError, Image, check_size

_HEADER = struct.Struct("<4sBBHHf")
_MAX_RANK = 1024
_MAX_LEVELS = 2**25
"""Most quantised factor entries of a picture (over all planes)."""
_MAX_LEVEL = 2**14 - 1
_MIN_STEP = 1.0
_UNIT = 2.0**24
"""Fixed-point one of the decoder's rows."""

# LZMA2 expands up to 7000 times, and a flat picture's factors do so. So that a small file cannot
# take long, its claims may exceed these only in proportion to the payload's bytes; a file of
# natural content holds tens of entries a byte, and tens of thousands of products.
_FREE_ENTRIES, _ENTRIES_PER_BYTE = 2**18, 512
_FREE_PIXELS, _PIXELS_PER_BYTE = 2**22, 1024
_FREE_PRODUCTS, _PRODUCTS_PER_BYTE = 2**30, 2**18

_LZMA_FILTERS: list[dict[str, Any]] = [
    {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 16, "lc": 0, "lp": 0, "pb": 0}
]

Levels = npt.NDArray[np.int32]
Factors = npt.NDArray[np.float32]


def decode_version_1(data: bytes) -> Image:
    """Decode a complete file of version 1, whose magic bytes and version have been checked.

    Raises:
        CodecError: Damaged or truncated data, more pixels than `MAX_PIXELS`, or claims out of
            proportion to the file's size.
    """
    try:
        _, _, count, width, height, step = _HEADER.unpack_from(data)
        if count not in (1, 3):
            raise CodecError(f"An SVD file must have 1 or 3 planes. Received: {count} planes")
        *ranks, checksum = struct.unpack_from(f"<{count}HI", data, _HEADER.size)
    except struct.error as error:
        raise CodecError(f"The SVD file is truncated: only {len(data)} bytes") from error
    end = _HEADER.size + 2 * count
    payload = data[end + 4 :]
    if zlib.crc32(payload, zlib.crc32(data[:end])) != checksum:
        raise CodecError("The SVD file is damaged or truncated: its checksum does not fit")
    check_size(width, height)
    if max(ranks) > min(_MAX_RANK, width, height):
        raise CodecError(f"An SVD file of {width}×{height} pixels cannot have ranks {ranks}")
    _check_claims(ranks, width, height, len(payload))
    if not _MIN_STEP <= step < math.inf:
        raise CodecError(f"The SVD file's step must be {_MIN_STEP} or more. Received: {step}")

    sizes = [_section_size(rank, width, height) for rank in ranks]
    stream = memoryview(_decompress(payload, sum(sizes)))
    planes = []
    for rank, size in zip(ranks, sizes, strict=True):
        levels, strengths = _unpack(stream[:size], rank, width + height)
        planes.append(_fixed_point(levels, strengths, height, step))
        stream = stream[size:]
    return _picture(planes, width, height, step)


def _check_claims(ranks: list[int], width: int, height: int, size: int) -> None:
    """Raise `CodecError` when a header claims more than a payload of `size` bytes can hold."""
    claims = (
        ("factor entries", sum(ranks) * (width + height), _FREE_ENTRIES, _ENTRIES_PER_BYTE),
        ("pixels", width * height, _FREE_PIXELS, _PIXELS_PER_BYTE),
        ("products", sum(ranks) * width * height, _FREE_PRODUCTS, _PRODUCTS_PER_BYTE),
    )
    for noun, count, free, each in claims:
        limit = free + each * size
        if noun == "factor entries":
            limit = min(limit, _MAX_LEVELS)
        if count > limit:
            raise CodecError(
                f"An SVD file with {size:,} bytes of payload may have up to {limit:,} {noun}. "
                f"Received: {count:,} for ranks {ranks} at {width}×{height}"
            )


def _decompress(payload: bytes, size: int) -> bytes:
    """Undo the entropy coding; never makes more than `size` + 1 bytes.

    Raises:
        CodecError: The payload is damaged, or does not hold exactly `size` bytes.
    """
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA_FILTERS)
    try:
        stream = decompressor.decompress(payload, max_length=size + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise CodecError(f"The SVD file's payload is damaged: {error}") from error
    if len(stream) != size or not decompressor.eof or decompressor.unused_data:
        raise CodecError(f"The SVD file's payload does not hold the {size:,} bytes it should")
    return stream


def _section_size(rank: int, width: int, height: int) -> int:
    """Bytes of a plane's section in the payload."""
    return 4 * rank + (rank + 7) // 8 + 2 * rank * (width + height)


def _unpack(section: memoryview, rank: int, length: int) -> tuple[Levels, Factors]:
    """A plane's section: levels `(rank, length)` and singular values `(rank,)`.

    Raises:
        CodecError: A singular value is not a positive number, or a level is out of range.
    """
    strengths = np.frombuffer(section, "<f4", rank)
    smooth = np.unpackbits(np.frombuffer(section[4 * rank :], np.uint8, (rank + 7) // 8))
    planes = np.frombuffer(section[4 * rank + (rank + 7) // 8 :], np.uint8).reshape(2, rank, length)
    folded = planes[1].astype(np.uint16)
    folded |= planes[0].astype(np.uint16) << 8
    levels = (folded >> 1).astype(np.int32)
    levels ^= -(folded & 1).astype(np.int32)
    flagged = np.flatnonzero(smooth[:rank])
    # Sums in 64 bits: a damaged row of up to 10⁸ differences must not wrap around into range.
    for row in flagged:
        sums = np.cumsum(levels[row], dtype=np.int64)
        levels[row] = np.clip(sums, -_MAX_LEVEL - 1, _MAX_LEVEL + 1)
    too_large = levels.size and max(levels.max(), -levels.min()) > _MAX_LEVEL
    if too_large or not (np.isfinite(strengths) & (strengths > 0)).all():
        raise CodecError("The SVD file holds a factor or singular value out of range")
    return levels, strengths


def _fixed_point(
    levels: Levels, strengths: Factors, height: int, step: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Columns `(height, rank)` in steps and rows `(rank, width)` in 1/`_UNIT`, both whole numbers.

    Whole numbers make the decoder exact: each product of a column and a row entry, and any sum of
    1024 of them, stays below 2⁵³ and so has no rounding error in float64, whatever the order in
    which a BLAS library adds. Equal files decode to equal pixels on all machines.

    Raises:
        CodecError: A row entry exceeds 2, while those of unit vectors cannot exceed 1.
    """
    scale = step / strengths.astype(np.float64)
    rows = levels[:, height:] * (scale * _UNIT)[:, None]
    np.rint(rows, out=rows)
    if rows.size and max(rows.max(), -rows.min()) > 2 * _UNIT:
        raise CodecError("The SVD file's singular values do not fit its factors")
    return levels[:, :height].T.astype(np.float64), rows


def _picture(
    planes: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]],
    width: int,
    height: int,
    step: float,
) -> Image:
    """Multiply the factors of `_fixed_point` and convert to gray or RGB, in blocks of lines."""
    out = np.empty((height, width) if len(planes) == 1 else (height, width, 3), np.uint8)
    lines = max(1, 2**20 // width)
    for top in range(0, height, lines):
        block = slice(top, top + lines)
        luma, *chroma = (columns[block] @ rows * (step / _UNIT) for columns, rows in planes)
        luma += 128
        if not chroma:
            out[block] = np.clip(np.rint(luma), 0, 255)
            continue
        blue, red = luma + 1.772 * chroma[0], luma + 1.402 * chroma[1]
        green = (luma - 0.299 * red - 0.114 * blue) / 0.587
        for channel, values in enumerate((red, green, blue)):
            out[block, :, channel] = np.clip(np.rint(values), 0, 255)
    return out
