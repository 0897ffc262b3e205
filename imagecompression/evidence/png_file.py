"""What a PNG file itself shows (ISO/IEC 15948 and its extensions)."""

from __future__ import annotations

import zlib
from typing import Any

from imagecompression.evidence.metadata import read_exif, read_icc, read_xmp
from imagecompression.evidence.record import DamageError, Record, text, unpack

MAX_CHUNKS = 200_000
MAX_OF_A_KIND = 100
"""Chunks of one type that are looked into; texts may be compressed, and inflating takes time."""

MAX_INFLATED = 1 << 20
"""Bytes that a compressed text or profile is unpacked to."""

_COLOUR_TYPES = {0: "gray", 2: "RGB", 3: "palette", 4: "gray and alpha", 6: "RGB and alpha"}
_LEVELS = ("fastest", "fast", "usual", "best")
_INTENTS = ("perceptual", "relative colorimetric", "saturation", "absolute colorimetric")


def read(data: bytes, record: Record) -> None:
    """Add all findings of a PNG file."""
    chunks: list[dict[str, Any]] = []
    texts: dict[str, str] = {}
    wrong: list[str] = []
    seen: dict[bytes, int] = {}
    record.observed("chunks", chunks, "data chunks in a row count as one entry")
    at, ended = 8, False
    for _ in range(MAX_CHUNKS):
        if at + 12 > len(data):
            break
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        start, stop = at + 8, at + 8 + size
        _note_chunk(chunks, kind, at, size)
        if stop + 4 > len(data):
            record.damaged(at, f"chunk {text(kind)!r} of {size} bytes is cut off")
            return
        content = data[start:stop]
        if zlib.crc32(content, zlib.crc32(kind)) != int.from_bytes(data[stop : stop + 4], "big"):
            wrong.append(text(kind))
        seen[kind] = seen.get(kind, 0) + 1
        try:
            if seen[kind] <= MAX_OF_A_KIND:
                _read_chunk(kind, content, start, texts, record)
        except DamageError as error:
            record.damaged(start + error.offset, f"chunk {text(kind)!r}: {error.problem}")
        at = stop + 4
        if kind == b"IEND":
            ended = True
            break
    if texts:
        record.observed("texts", texts)
    record.derived("wrong_checksums", wrong, "types of chunks whose CRC does not fit")
    if ended:
        trailing: dict[str, Any] = {"count": len(data) - at}
        if at < len(data):
            trailing |= {"offset": at, "begins_with": data[at : at + 16].hex(" ")}
        record.observed("trailing_bytes", trailing)
    else:
        record.damaged(at, "the file ends without an IEND chunk")


def _note_chunk(chunks: list[dict[str, Any]], kind: bytes, at: int, size: int) -> None:
    """Write down a chunk, with the data chunk before it where both are of one kind."""
    name = text(kind)
    if chunks and name in ("IDAT", "fdAT") and chunks[-1]["type"] == name:
        chunks[-1]["count"] += 1
        chunks[-1]["bytes"] += size
    else:
        chunks.append({"type": name, "offset": at, "bytes": size, "count": 1})


def _read_chunk(
    kind: bytes, content: bytes, start: int, texts: dict[str, str], record: Record
) -> None:
    if kind == b"IHDR":
        _read_header(content, record)
    elif kind == b"PLTE":
        record.observed("palette_entries", len(content) // 3)
    elif kind == b"IDAT":
        if len(content) >= 2:
            level = _LEVELS[content[1] >> 6]
            record.observed("deflate_level", level, "as the encoder claims, FLEVEL of RFC 1950")
    elif kind == b"tRNS":
        record.observed("transparency", True)
    elif kind == b"gAMA":
        (gamma,) = unpack(">I", content, 0, "the chunk")
        record.observed("gamma", gamma / 100_000)
    elif kind == b"cHRM":
        values = unpack(">8I", content, 0, "the chunk")
        record.observed("chromaticities", [value / 100_000 for value in values])
    elif kind == b"sRGB":
        (intent,) = unpack(">B", content, 0, "the chunk")
        record.observed("srgb", _INTENTS[intent] if intent < 4 else str(intent))
    elif kind == b"iCCP":
        name, _, rest = content.partition(b"\0")
        record.observed("icc_name", text(name))
        read_icc(record, _inflated(rest[1:]))
    elif kind == b"eXIf":
        read_exif(record, content, start)
    elif kind == b"acTL":
        (frames,) = unpack(">I", content, 0, "the chunk")
        record.observed("frames", frames, "an animation")
    elif kind in (b"tEXt", b"zTXt", b"iTXt"):
        _read_text(kind, content, texts, record)
    elif kind == b"pHYs":
        across, down, unit = unpack(">IIB", content, 0, "the chunk")
        record.observed("density", {"x": across, "y": down, "per_metre": unit == 1})
    elif kind == b"tIME":
        moment = unpack(">H5B", content, 0, "the chunk")
        record.observed("modified", "{:04}-{:02}-{:02} {:02}:{:02}:{:02}".format(*moment))
    elif kind == b"caBX":
        record.observed("c2pa", {"bytes": len(content)})


def _read_header(content: bytes, record: Record) -> None:
    """IHDR, and what it says of the codec."""
    width, height, depth, kind, interlaced = unpack(">IIBB2xB", content, 0, "the chunk")
    record.observed("size", {"width": width, "height": height})
    record.observed("colour_type", _COLOUR_TYPES.get(kind, str(kind)))
    record.observed("precision", depth, "bits a sample, or of an index")
    record.observed("interlaced", bool(interlaced))
    if kind == 3:
        record.codec = "kmeans"
        record.inferred(
            "palette",
            "kmeans",
            "a photograph with a palette was quantised to it; a drawing may have lost nothing",
        )
    elif kind in _COLOUR_TYPES:
        record.codec = "uncompressed"
        record.derived("lossless", True, "PNG keeps samples as they were given to it")


def _read_text(kind: bytes, content: bytes, texts: dict[str, str], record: Record) -> None:
    """A keyword and its text; XMP is read as such."""
    keyword, _, rest = content.partition(b"\0")
    if kind == b"zTXt":
        rest = _inflated(rest[1:])
    elif kind == b"iTXt":
        is_compressed = rest[:1] == b"\1"
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]  # after language and translation
        rest = _inflated(rest) if is_compressed else rest
    if keyword == b"XML:com.adobe.xmp":
        read_xmp(record, rest)
    else:
        texts.setdefault(text(keyword), text(rest))


def _inflated(content: bytes) -> bytes:
    """The first `MAX_INFLATED` bytes of a zlib stream.

    Raises:
        DamageError: The stream is damaged.
    """
    try:
        return zlib.decompressobj().decompress(content, MAX_INFLATED)
    except zlib.error as error:
        raise DamageError(0, f"compressed data are damaged ({error})") from error
