"""What a JPEG file itself shows (ITU-T T.81 and T.871; application segments by their makers)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from imagecompression.evidence.jpeg_huffman import standard_name
from imagecompression.evidence.jpeg_stream import (
    FRAMES,
    LOSSLESS_FRAMES,
    Frame,
    JpegStream,
    Segment,
    parse_jpeg,
)
from imagecompression.evidence.metadata import (
    quality_finding,
    read_exif,
    read_icc,
    read_photoshop,
    read_xmp,
)
from imagecompression.evidence.record import Record, text
from imagecompression.jpeg import SUBSAMPLINGS

_COM, _SOS, _SOF55 = 0xFE, 0xDA, 0xF7
_APPLICATION = range(0xE0, 0xF0)
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_ICC, _PHOTOSHOP, _ADOBE = b"ICC_PROFILE\0", b"Photoshop 3.0\0", b"Adobe"
_IDENTIFIERS = {
    b"JFIF\0": "JFIF",
    b"JFXX\0": "JFXX",
    b"Exif\0": "Exif",
    _XMP: "XMP",
    b"http://ns.adobe.com/xmp/extension/\0": "extended XMP",
    _ICC: "ICC",
    b"MPF\0": "MPF",
    b"FPXR\0": "FlashPix",
    b"Ducky": "Ducky",
    _PHOTOSHOP: "Photoshop",
    _ADOBE: "Adobe",
}
_TRANSFORMS = {0: "none", 1: "YCbCr", 2: "YCCK"}
_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"PK\x03\x04": "ZIP",
    b"\x89PNG": "PNG",
    b"Rar!": "RAR",
    b"%PDF": "PDF",
}
TRAILING_SHOWN = 16
"""Bytes after the end that are shown."""


def read(data: bytes, record: Record) -> None:
    """Add all findings of a JPEG file."""
    stream = parse_jpeg(data)
    for offset, problem in stream.damage:
        record.damaged(offset, problem)
    record.observed("segments", [_segment_facts(segment) for segment in stream.segments])
    record.codec = stream_codec(stream)
    read_stream(record, stream)
    _read_applications(record, stream)
    if stream.end is not None:
        _read_trailing(record, data, stream.end)


def read_stream(record: Record, stream: JpegStream) -> None:
    """Add what frame, tables and scans show."""
    if stream.frame is None:
        record.not_available("process", "the file holds no frame header")
    else:
        _read_frame(record, stream, stream.frame)
    _read_tables(record, stream)
    record.observed("restart_interval", stream.restart_interval, "in MCUs; 0 is none")
    record.observed("scans", stream.scans)


def _read_tables(record: Record, stream: JpegStream) -> None:
    """Add what the quantisation and Huffman tables show."""
    tables = [
        {"table": number, "bits": bits, "steps": steps.tolist()}
        for number, bits, steps in stream.tables
    ]
    record.observed("quantisation_tables", tables, "rows in natural order" if tables else "")
    if stream.frame is None or stream.frame.marker not in LOSSLESS_FRAMES:
        quality_finding(record, stream, "jpeg_quality")
    huffman = [
        {
            "class": "AC" if table.kind else "DC",
            "table": table.number,
            "symbols": len(table.code) - 16,
            "annex_k": standard_name(table),
        }
        for table in stream.huffman
    ]
    if huffman:
        record.observed("huffman_tables", huffman)
        standard = all(table["annex_k"] for table in huffman)
        record.derived("huffman", "standard" if standard else "optimised")
    else:
        record.not_available("huffman", "the file holds no Huffman table")


def stream_codec(stream: JpegStream) -> str | None:
    """``"jpeg"``, ``"uncompressed"`` for a lossless process that drops no bit, None if unknown."""
    frame = stream.frame
    if frame is None:
        return None
    if frame.marker not in LOSSLESS_FRAMES:
        return "jpeg"
    lossless = stream.scans and all(_dropped(scan, frame.marker) == 0 for scan in stream.scans)
    return "uncompressed" if lossless else None


def _dropped(scan: dict[str, Any], marker: int) -> int | None:
    """What a scan of a lossless process may lose; None where its header is cut off.

    JPEG-LS allows errors up to NEAR (T.87, C.2.3); the point transform drops bits (T.81, H.1.2).
    """
    numbers = scan["spectral"][:1] if marker == _SOF55 else scan["approximation"][1:]
    return int(numbers[0]) if numbers else None


def subsampling(frame: Frame) -> str | None:
    """``4:2:0`` and so on, None for gray or other sampling factors."""
    if len(frame.components) < 3:
        return None
    (_, across, down, _), *others = frame.components[:3]
    if {(h, v) for _, h, v, _ in others} != {(1, 1)}:
        common = {(h, v) for _, h, v, _ in frame.components[:3]}
        return "4:4:4" if len(common) == 1 else None
    return next((name for name, pair in SUBSAMPLINGS.items() if pair == (across, down)), None)


def _segment_facts(segment: Segment) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "marker": segment.name,
        "offset": segment.offset,
        "length": len(segment.content),
    }
    if segment.marker == _SOS:
        facts["scan_bytes"] = segment.scan_bytes
    return facts


def _read_frame(record: Record, stream: JpegStream, frame: Frame) -> None:
    record.observed("process", FRAMES[frame.marker], f"marker FF{frame.marker:02X}")
    record.observed("size", {"width": frame.width, "height": frame.height})
    record.observed("precision", frame.precision, "bits a sample")
    record.observed(
        "components",
        [
            {"id": identifier, "sampling": [across, down], "table": table}
            for identifier, across, down, table in frame.components
        ],
    )
    if len(frame.components) >= 3:
        name = subsampling(frame)
        if name is None:
            record.not_available("subsampling", "sampling factors without a common name")
        else:
            record.derived("subsampling", name)
    record.derived("colour_model", _colour_model(stream, frame), "by libjpeg's rules")
    if stream.frames > 1:
        record.observed("frames", stream.frames)


def _colour_model(stream: JpegStream, frame: Frame) -> str:
    """What the components mean: libjpeg's default_decompress_parms (jdapimin.c)."""
    count = len(frame.components)
    if count < 3:
        return "gray" if count == 1 else f"{count} components"
    adobe = _adobe_transform(stream)
    if count == 3:
        if any(segment.content[:5] == b"JFIF\0" for segment in stream.of(0xE0)):
            return "YCbCr"
        if adobe is not None:
            return "RGB" if adobe == 0 else "YCbCr"
        return "RGB" if bytes(each[0] for each in frame.components) == b"RGB" else "YCbCr"
    if count == 4:
        return "YCCK" if adobe == 2 else "CMYK"
    return f"{count} components"


def _adobe_transform(stream: JpegStream) -> int | None:
    for segment in stream.of(0xEE):
        if segment.content[:5] == _ADOBE and len(segment.content) >= 12:
            return segment.content[11]
    return None


def _read_applications(record: Record, stream: JpegStream) -> None:
    """Add what application segments and comments say."""
    segments = [segment for segment in stream.segments if segment.marker in _APPLICATION]
    record.observed(
        "applications",
        [
            {"marker": each.name, "identifier": _identifier(each), "bytes": len(each.content)}
            for each in segments
        ],
    )
    record.observed("comments", [text(segment.content) for segment in stream.of(_COM)])
    transform = _adobe_transform(stream)
    if transform is not None:
        record.observed("adobe_transform", _TRANSFORMS.get(transform, str(transform)))
    _read_first(segments, 0xE1, _EXIF, lambda found, at: read_exif(record, found, at))
    _read_first(segments, 0xE1, _XMP, lambda found, at: read_xmp(record, found))
    _read_first(segments, 0xED, _PHOTOSHOP, lambda found, at: read_photoshop(record, found))
    _read_first(segments, 0xEC, b"Ducky", functools.partial(_read_ducky, record))
    parts = [each.content[14:] for each in segments if each.content.startswith(_ICC)]
    if parts:
        read_icc(record, b"".join(parts[:255]))


def _read_first(
    segments: list[Segment], marker: int, signature: bytes, reader: Callable[[bytes, int], None]
) -> None:
    """Hand the first segment with a signature to `reader`, with its place in the file."""
    for segment in segments:
        if segment.marker == marker and segment.content.startswith(signature):
            reader(segment.content[len(signature) :], segment.offset + 4 + len(signature))
            return


def _read_ducky(record: Record, content: bytes, offset: int) -> None:
    """Photoshop's "save for web" quality, tag 1 of APP12 (as ExifTool reads it)."""
    if content[:4] == b"\0\1\0\4" and len(content) >= 8:
        record.observed("save_for_web_quality", int.from_bytes(content[4:8], "big"))


def _identifier(segment: Segment) -> str:
    content = segment.content
    if segment.marker == 0xEB and content[:2] == b"JP" and content[12:16] == b"jumb":
        return "JUMBF, C2PA" if b"c2pa" in content[:200] else "JUMBF"
    for signature, name in _IDENTIFIERS.items():
        if content.startswith(signature):
            return name
    return text(content[:32].split(b"\0")[0])


def _read_trailing(record: Record, data: bytes, end: int) -> None:
    """Add what stands behind the end of the picture."""
    count = len(data) - end
    facts: dict[str, Any] = {"count": count}
    if count:
        first = data[end : end + TRAILING_SHOWN]
        facts |= {"offset": end, "begins_with": first.hex(" ")}
        kind = next((name for magic, name in _MAGIC.items() if first.startswith(magic)), None)
        kind = "ISO media file" if first[4:8] == b"ftyp" else kind
        facts |= {} if kind is None else {"kind": kind}
    record.observed("trailing_bytes", facts)
