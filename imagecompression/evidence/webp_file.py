"""What a WebP file itself shows (RFC 9649; RFC 6386 for its lossy pictures)."""

from __future__ import annotations

from typing import Any

from imagecompression.evidence.metadata import read_exif, read_icc, read_xmp
from imagecompression.evidence.record import DamageError, Record, text, unpack
from imagecompression.evidence.vp8_header import read_vp8_header

MAX_CHUNKS = 5000
_FLAGS = {32: "ICC", 16: "alpha", 8: "EXIF", 4: "XMP", 2: "animation"}
_FRAME_HEADER = 16


def read(data: bytes, record: Record) -> None:
    """Add all findings of a WebP file."""
    (size,) = unpack("<I", data, 4, "the RIFF header")
    record.observed("riff_bytes", size + 8)
    chunks: list[dict[str, Any]] = []
    pictures: list[bytes] = []
    record.observed("chunks", chunks)
    _walk(data, 12, min(len(data), size + 8), chunks, pictures, record)
    if size + 8 < len(data):
        record.observed("trailing_bytes", {"count": len(data) - size - 8, "offset": size + 8})
    elif size + 8 > len(data):
        record.damaged(len(data), f"{size + 8 - len(data)} bytes are missing")
    if b"VP8 " in pictures:
        record.codec = "webp"
    elif pictures:
        record.codec = "uncompressed"
        record.derived("lossless", True, "every picture is a VP8L stream")
    else:
        record.not_available("coding", "the file holds no picture chunk")


def _walk(
    data: bytes,
    at: int,
    end: int,
    chunks: list[dict[str, Any]],
    pictures: list[bytes],
    record: Record,
    *,
    inside: bool = False,
) -> None:
    """Walk the chunks from `at` to `end`, and those inside frames of an animation."""
    while at + 8 <= end:
        if len(chunks) >= MAX_CHUNKS:
            record.damaged(at, f"not read on after {MAX_CHUNKS} chunks")
            return
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        start, stop = at + 8, min(at + 8 + size, end)
        chunks.append({"type": text(kind), "offset": at, "bytes": size})
        if at + 8 + size > end:
            record.damaged(
                at, f"chunk {text(kind)!r} of {size} bytes ends {start + size - end} late"
            )
        try:
            _read_chunk(kind, data, start, stop, pictures, record)
        except DamageError as error:
            record.damaged(error.offset or start, error.problem)
        if kind == b"ANMF" and not inside:
            _walk(data, start + _FRAME_HEADER, stop, chunks, pictures, record, inside=True)
        at = start + size + size % 2
    if end - at > 0:
        record.damaged(at, f"{end - at} bytes are too few for a chunk")


def _read_chunk(
    kind: bytes, data: bytes, start: int, stop: int, pictures: list[bytes], record: Record
) -> None:
    if kind == b"VP8X":
        flags, *sides = unpack("<B3xHBHB", data, start, "the VP8X chunk", stop)
        record.observed("features", [name for bit, name in _FLAGS.items() if flags & bit])
        width, height = (low + (high << 16) + 1 for low, high in (sides[:2], sides[2:]))
        record.observed("canvas", {"width": width, "height": height})
    elif kind == b"VP8 ":
        pictures.append(kind)
        _read_lossy(data, start, stop, record)
    elif kind == b"VP8L":
        pictures.append(kind)
        signature, bits = unpack("<BI", data, start, "the VP8L header", stop)
        if signature != 0x2F:
            raise DamageError(start, f"a VP8L stream that begins with {signature:02X}")
        size = {"width": (bits & 0x3FFF) + 1, "height": (bits >> 14 & 0x3FFF) + 1}
        record.observed("size", size)
        record.observed("alpha", bool(bits >> 28 & 1), "whether it is used")
    elif kind == b"ALPH":
        (flags,) = unpack("<B", data, start, "the ALPH chunk", stop)
        levels = "reduced" if flags >> 4 & 3 else "as they were"
        record.observed("alpha_levels", levels, "whether they were quantised before coding")
    elif kind == b"EXIF":
        skipped = 6 if data[start : start + 6] == b"Exif\0\0" else 0
        read_exif(record, data[start + skipped : stop], start + skipped)
    elif kind == b"ICCP":
        read_icc(record, data[start:stop])
    elif kind == b"XMP ":
        read_xmp(record, data[start:stop])


def _read_lossy(data: bytes, start: int, stop: int, record: Record) -> None:
    """A VP8 key frame (RFC 6386, 9.1 and 9.2)."""
    low, high, code, width, height = unpack("<BH3sHH", data, start, "a VP8 frame", stop)
    if low & 1 or code != b"\x9d\x01\x2a":
        raise DamageError(start, "a VP8 stream that does not begin with a key frame")
    record.observed("size", {"width": width & 0x3FFF, "height": height & 0x3FFF})
    record.observed("vp8_version", low >> 1 & 7)
    record.observed("first_partition_bytes", (high << 8 | low) >> 5)
    header = read_vp8_header(data[start + 10 : min(stop, start + 1000)])
    record.observed("quantiser", header.quantiser, "base index, 0 (finest) to 127")
    if header.segment_quantisers:
        kind = "in place of" if header.segments_are_absolute else "added to"
        record.observed("segment_quantisers", list(header.segment_quantisers), f"{kind} the base")
    record.observed(
        "loop_filter",
        {
            "type": "simple" if header.filter_type else "normal",
            "level": header.filter_level,
            "sharpness": header.sharpness,
        },
    )
    record.observed("partitions", header.partitions)
