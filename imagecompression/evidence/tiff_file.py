"""What a TIFF file itself shows (TIFF 6.0, BigTIFF, and what is usual beyond them)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from imagecompression.evidence import jpeg2000_file, jpeg_file, jpegxr_file, webp_file
from imagecompression.evidence.directory import Directory, byte_order, read_directory
from imagecompression.evidence.jpeg_stream import parse_jpeg
from imagecompression.evidence.metadata import (
    directory_texts,
    read_icc,
    read_photoshop,
    read_xmp,
)
from imagecompression.evidence.record import DamageError, Record
from imagecompression.tiff import page_offsets

MAX_PAGES = 500
"""Pages of which the facts are told."""

_MAX_SUB_PAGES = 50
_MAX_INSIDE = 16  # pages whose first strip or tile is looked into
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_STRIPS, _STRIP_BYTES, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES = 273, 279, 322, 323, 324, 325
_SAMPLES, _ROWS, _PREDICTOR, _SUB_PAGES, _JPEG_TABLES, _SUBSAMPLING = 277, 278, 317, 330, 347, 530
_XMP, _PHOTOSHOP, _ICC = 700, 34377, 34675
_PROCESS, _BASELINE = 512, 1  # of old-style JPEG
_NO_COMPRESSION, _LOSSY_DNG = 1, 34892
_PALETTE, _YCBCR = 3, 6
_MAX_STRIPS = 100_000
_LOSSLESS = frozenset((1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 34933, 50000))
_JPEGS = (6, 7, 34892)
_INNER: dict[int, Callable[[bytes, Record], None]] = {
    **dict.fromkeys((33003, 33004, 33005, 34712), jpeg2000_file.read),
    **dict.fromkeys((22610, 34934), jpegxr_file.read),
    **dict.fromkeys((34927, 50001), webp_file.read),
}
_MAX_INNER_BYTES = 1 << 24


@dataclass(frozen=True)
class _Page:
    """A page's facts, the codec that it shows, and what its first strip or tile shows."""

    facts: dict[str, Any]
    codec: str | None
    reduced: bool
    inner: Record


def read(data: bytes, record: Record) -> None:
    """Add all findings of a TIFF or BigTIFF file.

    `record.codec` is that of the first page that is no reduced version of another.
    """
    order = byte_order(data)
    assert order is not None  # the magic bytes were looked at
    record.observed("byte_order", "little" if order[0] == "<" else "big")
    record.observed("big_tiff", order[1])
    offsets = page_offsets(data)
    if not offsets:
        raise DamageError(4, "the list of pages is empty or damaged")
    pages: list[_Page] = []
    for offset, directory in _directories(data, offsets, order, record):
        if directory.damage:
            record.damaged(offset, directory.damage)
        look_inside = len(pages) < _MAX_INSIDE
        missing = _missing_bytes(data, directory) if look_inside else 0
        if missing:
            record.damaged(len(data), f"{missing} bytes of strips or tiles are missing")
        if not pages:
            _read_metadata(directory, record)
        pages.append(_read_page(data, offset, directory, look_inside))
    record.observed("pages", [page.facts for page in pages])
    if len(offsets) > MAX_PAGES:
        record.damaged(offsets[MAX_PAGES], f"{len(offsets)} pages, of which {MAX_PAGES} are told")
    main = next((number for number, page in enumerate(pages) if not page.reduced), 0)
    record.codec = pages[main].codec
    for finding in pages[main].inner.findings():
        record.adopt(f"inner_{finding.name}", finding)


def _directories(
    data: bytes, offsets: list[int], order: tuple[str, bool], record: Record
) -> Iterator[tuple[int, Directory]]:
    """The pages and, after each, the pages below it; at most `MAX_PAGES`."""
    count = 0
    for offset in offsets:
        directory = read_directory(data, offset, *order)
        subs = directory.entries.get(_SUB_PAGES)
        yield offset, directory
        count += 1
        for sub in () if subs is None else subs.numbers(_MAX_SUB_PAGES):
            if count < MAX_PAGES:
                try:
                    yield sub, read_directory(data, sub, *order)
                except DamageError as error:
                    record.damaged(error.offset, error.problem)
                count += 1
        if count >= MAX_PAGES:
            return


def _read_page(data: bytes, offset: int, directory: Directory, look_inside: bool) -> _Page:
    import tifffile  # slow to import

    compression = directory.number(_COMPRESSION, _NO_COMPRESSION) or _NO_COMPRESSION
    facts: dict[str, Any] = {
        "offset": offset,
        "width": directory.number(_WIDTH),
        "height": directory.number(_HEIGHT),
        "bits": list(directory.entries[_BITS].numbers(8)) if _BITS in directory.entries else [1],
        "samples": directory.number(_SAMPLES, 1),
        "compression": _name(tifffile.COMPRESSION, compression),
        "photometric": _name(tifffile.PHOTOMETRIC, directory.number(_PHOTOMETRIC)),
        "predictor": directory.number(_PREDICTOR, 1),
    }
    if _TILES in directory.entries:
        sides = {"width": directory.number(_TILE_WIDTH), "height": directory.number(_TILE_HEIGHT)}
        facts["tiles"] = {"count": directory.entries[_TILES].count, **sides}
    elif _STRIPS in directory.entries:
        rows = directory.number(_ROWS)
        facts["strips"] = {"count": directory.entries[_STRIPS].count, "rows": rows}
    if _SUBSAMPLING in directory.entries:
        facts["subsampling"] = list(directory.entries[_SUBSAMPLING].numbers(2))
    reduced = bool((directory.number(_SUBFILE, 0) or 0) & 1)
    facts["reduced"] = reduced
    inner = _read_inner(data, directory, compression) if look_inside else Record()
    codec = inner.codec
    if compression in _LOSSLESS:
        codec = None if _has_lost(directory) else "uncompressed"
    elif compression == _LOSSY_DNG or directory.number(_PROCESS) == _BASELINE:
        codec = "jpeg"
    undecided = codec is None or any(finding.name == "lossless" for finding in inner.findings())
    facts["lossy"] = "no" if codec == "uncompressed" else "possibly" if undecided else "yes"
    return _Page(facts, codec, reduced, inner)


def _has_lost(directory: Directory) -> bool:
    """Whether samples may have been lost before packing: by a palette, or by halved chroma."""
    photometric = directory.number(_PHOTOMETRIC)
    factors = directory.entries.get(_SUBSAMPLING)
    halved = factors is None or factors.numbers(2) != (1, 1)  # the default is 2, 2
    return photometric == _PALETTE or (photometric == _YCBCR and halved)


def _missing_bytes(data: bytes, directory: Directory) -> int:
    """How far the strips or tiles reach beyond the end of the file."""
    tags = (_TILES, _TILE_BYTES) if _TILES in directory.entries else (_STRIPS, _STRIP_BYTES)
    found = [
        directory.entries[tag].numbers(_MAX_STRIPS) for tag in tags if tag in directory.entries
    ]
    if len(found) < 2:
        return 0
    ends = (start + size for start, size in zip(*found, strict=False))
    return max(max(ends, default=0) - len(data), 0)


def _read_inner(data: bytes, directory: Directory, compression: int) -> Record:
    """What the first strip or tile shows where it is a stream of another format."""
    inner = Record()
    places, sizes = (
        (_TILES, _TILE_BYTES) if _TILES in directory.entries else (_STRIPS, _STRIP_BYTES)
    )
    start, size = directory.number(places), directory.number(sizes)
    stream = b""
    if start is not None and size is not None and start >= 0 < size:
        stream = data[start : start + min(size, _MAX_INNER_BYTES)]
    try:
        if compression in _JPEGS:
            tables = directory.entries.get(_JPEG_TABLES)
            _read_jpeg(stream, b"" if tables is None else tables.content, inner)
        elif compression in _INNER and stream:
            _INNER[compression](stream, inner)
    except DamageError as error:
        inner.damaged(error.offset, error.problem)
    return inner


def _read_jpeg(stream: bytes, tables: bytes, inner: Record) -> None:
    """A JPEG strip, whose tables may stand in a tag (TIFF Technical Note 2)."""
    parsed = parse_jpeg(stream) if stream[:2] == b"\xff\xd8" else None
    if parsed is None:
        inner.not_available("stream", "the first strip or tile is no JPEG stream of its own")
        return
    if tables[:2] == b"\xff\xd8":
        shared = parse_jpeg(tables)
        parsed.tables = [*parsed.tables, *shared.tables]
        parsed.huffman = [*parsed.huffman, *shared.huffman]
    for offset, problem in parsed.damage:
        inner.damaged(offset, problem)
    inner.codec = jpeg_file.stream_codec(parsed)
    jpeg_file.read_stream(inner, parsed)


def _read_metadata(directory: Directory, record: Record) -> None:
    texts = directory_texts(directory)
    if texts:
        record.observed("texts", texts)
    for tag, reader in ((_XMP, read_xmp), (_PHOTOSHOP, read_photoshop), (_ICC, read_icc)):
        if tag in directory.entries:
            reader(record, directory.entries[tag].content)


def _name(names: Any, number: int | None) -> str | None:
    """The name of a tag's value, or the number itself."""
    if number is None:
        return None
    try:
        return str(names(number).name)
    except ValueError:
        return str(number)
