"""Writing small indexed PNG files (ISO/IEC 15948, colour type 3).

Several ways to store the same pixels are tried: palettes by lightness or by neighbourhood, with
and without row filters, several pixels a byte or one. libdeflate packs the best; it works on the
calling thread alone. (oxipng has a pool of threads that hangs in a forked process.)
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from imagecompression.codec import CodecUnavailableError, Image
from imagecompression.color_space import Colors

_LEVEL = 12
"""libdeflate's strongest."""
_TRIAL_LEVEL = 10
"""Its quickest that looks for the best of all matches; others favour filters too much."""
_TRIAL_PIXELS = 2**17
_TRIAL_BAND = 16
"""The ways are compared on so many pixels, in bands of so many rows all over the picture."""
_BLOCK_PIXELS = 2**20
_LUMA = np.array([0.2126, 0.7152, 0.0722])

Order = npt.NDArray[np.intp]


def palette_png(indices: Image, palette: Colors, texts: dict[str, str]) -> bytes:
    """An indexed PNG.

    Args:
        indices: Row of `palette` of each pixel, uint8 `(H, W)`.
        palette: uint8 `(K, 3)`, K from 1 to 256. The file may hold it in another order.
        texts: tEXt chunks by keyword, Latin-1.

    Raises:
        CodecUnavailableError: imagecodecs is missing.
    """
    height, width = indices.shape
    sample = _sample(indices)
    by_lightness = np.argsort(palette @ _LUMA, kind="stable")
    by_neighbours = neighbour_order(indices, len(palette))
    fewest = _fewest_bits(palette)
    ways = [
        (order, bits, filtered)
        for bits in sorted({8, fewest})
        for order in (by_lightness, by_neighbours)
        for filtered in (False, True)
    ]
    sizes = [len(_deflated(_stream(sample, *way), _TRIAL_LEVEL)) for way in ways]
    order, bits, filtered = ways[sizes.index(min(sizes))]
    packed = _deflated(_stream(indices, order, bits, filtered), _LEVEL)
    header = struct.pack(">IIBBBBB", width, height, bits, 3, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", palette[order].tobytes())]
    for keyword, text in texts.items():
        chunks.append((b"tEXt", keyword.encode("latin-1") + b"\0" + text.encode("latin-1")))
    # A chunk's length has 31 bits.
    for start in range(0, len(packed), 2**30):
        chunks.append((b"IDAT", packed[start : start + 2**30]))
    chunks.append((b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def estimated_png_bytes(indices: Image, palette: Colors) -> int:
    """Size that `palette_png` will come near, by one try on a part of the picture."""
    sample = _sample(indices)
    order = np.argsort(palette @ _LUMA, kind="stable")
    tried = len(_deflated(_stream(sample, order, _fewest_bits(palette), False), _TRIAL_LEVEL))
    return 60 + palette.size + tried * indices.size // sample.size


def _fewest_bits(palette: Colors) -> int:
    return next(bits for bits in (1, 2, 4, 8) if len(palette) <= 2**bits)


def _sample(indices: Image) -> Image:
    """Bands of rows at equal distances, with about `_TRIAL_PIXELS` pixels; or all rows."""
    height, width = indices.shape
    bands = max(1, _TRIAL_PIXELS // (_TRIAL_BAND * width))
    if height <= bands * _TRIAL_BAND:
        return indices
    tops = np.arange(bands) * (height - _TRIAL_BAND) // max(1, bands - 1)
    return np.concatenate([indices[top : top + _TRIAL_BAND] for top in tops])


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def neighbour_order(indices: Image, count: int) -> Order:
    """Palette rows in an order in which rows that are often neighbours in the picture are near.

    Greedy: the row with most neighbours among those already placed goes to the end that suits it
    better. W. Zeng, J. Li, S. Lei, "An efficient color re-indexing scheme for palette-based
    compression", ICIP 2000, with the weights of A. J. Pinho, A. J. R. Neves, "A note on Zeng's
    technique for color re-indexing of palette-based images", IEEE Signal Processing Letters, 2004.
    """
    height, width = indices.shape
    pairs = np.zeros(count * count, np.int64)
    step = max(1, _BLOCK_PIXELS // width)
    for top in range(0, height, step):
        rows = indices[top : top + step + 1].astype(np.intp)
        beside = rows[:step, 1:] * count + rows[:step, :-1]
        below = rows[1:] * count + rows[:-1]
        pairs += np.bincount(beside.ravel(), minlength=count * count)
        pairs += np.bincount(below.ravel(), minlength=count * count)
    meetings = pairs.reshape(count, count)
    meetings = meetings + meetings.T
    np.fill_diagonal(meetings, 0)
    first = int(meetings.sum(axis=1).argmax())
    order = [first]
    left = np.ones(count, bool)
    left[first] = False
    total = meetings[first].copy()
    for placed in range(1, count):
        row = int(np.where(left, total, -1).argmax())
        weights = placed - 1 - 2 * np.arange(placed)
        if (weights * meetings[row, order]).sum() > 0:
            order.insert(0, row)
        else:
            order.append(row)
        left[row] = False
        total += meetings[row]
    return np.array(order, np.intp)


def _stream(indices: Image, order: Order, bits: int, filtered: bool) -> bytes:
    """What is deflated: rows of `bits` a pixel, each behind the number of its filter."""
    height, width = indices.shape
    places = np.empty(len(order), np.uint8)
    places[order] = np.arange(len(order), dtype=np.uint8)
    row_bytes = (width * bits + 7) // 8
    stream = np.zeros((height, 1 + row_bytes), np.uint8)
    step = max(1, _BLOCK_PIXELS // width)
    above = np.zeros((1, row_bytes), np.uint8)
    for top in range(0, height, step):
        rows = slice(top, top + step)
        block = _packed(places[indices[rows]], bits)
        if filtered:
            stream[rows] = _filtered(block, np.concatenate([above, block[:-1]]))
            above = block[-1:]
        else:
            stream[rows, 1:] = block
    return stream.tobytes()


def _packed(rows: Image, bits: int) -> Image:
    """Rows with 8 / `bits` pixels a byte, the first in the highest bits."""
    if bits == 8:
        return rows
    each = 8 // bits
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % each)))
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    parts = rows.reshape(len(rows), -1, each) << shifts
    return np.bitwise_or.reduce(parts, axis=2)


def _filtered(rows: Image, above: Image) -> Image:
    """Each row by that of PNG's five filters which leaves the least entropy, its number first."""
    left = np.zeros_like(rows)
    left[:, 1:] = rows[:, :-1]
    corner = np.zeros_like(rows)
    corner[:, 1:] = above[:, :-1]
    a, b, c = (part.astype(np.int16) for part in (left, above, corner))
    from_a, from_b, from_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    paeth = np.where(
        (from_a <= from_b) & (from_a <= from_c), left, np.where(from_b <= from_c, above, corner)
    )
    average = ((a + b) >> 1).astype(np.uint8)
    # uint8 differences wrap round, as the filters do.
    ways = [rows, rows - left, rows - above, rows - average, rows - paeth]
    every = np.arange(len(rows))[:, None] * 256
    entropy = []
    for way in ways:
        counts = np.bincount((every + way).ravel(), minlength=256 * len(rows)).reshape(-1, 256)
        # A row's entropy but for what all its filters share; summed in whole steps of 2⁻¹⁶, so
        # that ties are ties on every machine.
        bits = np.rint(counts * np.log2(np.maximum(counts, 1)) * 65536).astype(np.int64)
        entropy.append(-bits.sum(axis=1))
    best = np.argmin(entropy, axis=0).astype(np.uint8)
    result = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
    result[:, 0] = best
    for number, way in enumerate(ways):
        result[best == number, 1:] = way[best == number]
    return result


def _deflated(stream: bytes, level: int) -> bytes:
    """A zlib stream by libdeflate."""
    return bytes(_imagecodecs().deflate_encode(stream, level, raw=False))


def _imagecodecs() -> Any:
    """The imagecodecs module, imported late because that takes a noticeable time."""
    try:
        import imagecodecs
    except ImportError as error:
        raise CodecUnavailableError(
            f"Indexed PNG needs imagecodecs (pip install imagecodecs): {error}"
        ) from error
    return imagecodecs


def version() -> str:
    """Name and version of the packing library."""
    return str(_imagecodecs().deflate_version())
