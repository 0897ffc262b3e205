"""A JPEG stream taken apart: marker segments, frame, tables and scans (ITU-T T.81, Annex B).

Nothing is judged here: `imagecompression.evidence.jpeg_file` does that. Damage is noted and, where
the next marker can be found, read past, as decoders do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_SEGMENTS = 10_000
"""Marker segments that are walked; real files have tens."""

MAX_TABLES = 64
"""Quantisation tables, and Huffman tables, that are kept of a stream."""

StepTable = npt.NDArray[np.int64]
"""`(8, 8)` quantisation steps in natural order, 0 … 65535."""

FRAMES = {
    0xC0: "baseline",
    0xC1: "extended sequential",
    0xC2: "progressive",
    0xC3: "lossless",
    0xC5: "differential sequential",
    0xC6: "differential progressive",
    0xC7: "differential lossless",
    0xC9: "extended sequential, arithmetic",
    0xCA: "progressive, arithmetic",
    0xCB: "lossless, arithmetic",
    0xCD: "differential sequential, arithmetic",
    0xCE: "differential progressive, arithmetic",
    0xCF: "differential lossless, arithmetic",
    0xF7: "JPEG-LS",
}
"""Process by start-of-frame marker (table B.1); F7 is ITU-T T.87."""

LOSSLESS_FRAMES = frozenset((0xC3, 0xC7, 0xCB, 0xCF, 0xF7))

_NAMES = {
    **{marker: f"SOF{marker - 0xC0}" for marker in FRAMES if marker != 0xF7},
    **{0xD0 + number: f"RST{number}" for number in range(8)},
    **{0xE0 + number: f"APP{number}" for number in range(16)},
    0x01: "TEM",
    0xC4: "DHT",
    0xC8: "JPG",
    0xCC: "DAC",
    0xD8: "SOI",
    0xD9: "EOI",
    0xDA: "SOS",
    0xDB: "DQT",
    0xDC: "DNL",
    0xDD: "DRI",
    0xDE: "DHP",
    0xDF: "EXP",
    0xF7: "SOF55",
    0xF8: "LSE",
    0xFE: "COM",
}
_SOI, _EOI, _SOS, _DQT, _DHT, _DRI, _SOF55 = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD, 0xF7
_ALONE = frozenset((0x01, _SOI, _EOI, *range(0xD0, 0xD8)))
# The next marker that is no restart, no stuffed zero and no fill byte.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
# JPEG-LS stuffs a zero bit behind FF, so that its data hold FF 00 … FF 7F (T.87, A.1).
_LS_MARKER = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")


def _zigzag() -> npt.NDArray[np.int64]:
    """Natural index of each place in zigzag order (figure A.6)."""
    places = sorted(
        (row + column, (row if (row + column) % 2 else column), row * 8 + column)
        for row in range(8)
        for column in range(8)
    )
    return np.array([natural for _, _, natural in places])


ZIGZAG = _zigzag()


@dataclass(frozen=True)
class Segment:
    """One marker segment.

    Attributes:
        marker: Second byte of the marker.
        offset: Of the marker in the stream.
        content: What follows the length field.
        scan_bytes: For SOS, the entropy-coded bytes behind it.
    """

    marker: int
    offset: int
    content: bytes
    scan_bytes: int = 0

    @property
    def name(self) -> str:
        """The marker's symbol in table B.1."""
        return _NAMES.get(self.marker, f"FF{self.marker:02X}")


@dataclass(frozen=True)
class Frame:
    """A frame header (B.2.2).

    Attributes:
        marker: One of `FRAMES`.
        precision: Bits a sample.
        width, height: In pixels; the height may be 0 until a DNL segment.
        components: Identifier, horizontal and vertical sampling factor, number of the
            quantisation table.
    """

    marker: int
    precision: int
    width: int
    height: int
    components: tuple[tuple[int, int, int, int], ...]


@dataclass(frozen=True)
class HuffmanTable:
    """A Huffman table as it is coded (B.2.4.2): class 0 DC or 1 AC, number, 16 counts, symbols."""

    kind: int
    number: int
    code: bytes


@dataclass
class JpegStream:
    """What a stream holds, in its order.

    Attributes:
        segments: All marker segments.
        frame: The first frame header, None where there is none.
        frames: Number of frame headers.
        tables: Quantisation tables: number, bits of an entry (8 or 16), steps.
        huffman: Huffman tables.
        restart_interval: In MCUs; 0 is none.
        scans: Scan headers: components, spectral selection, successive approximation.
        end: Offset behind the EOI marker, or None where none was reached.
        damage: Offset and problem of each fault.
    """

    segments: list[Segment] = field(default_factory=list)
    frame: Frame | None = None
    frames: int = 0
    tables: list[tuple[int, int, StepTable]] = field(default_factory=list)
    huffman: list[HuffmanTable] = field(default_factory=list)
    restart_interval: int = 0
    scans: list[dict[str, Any]] = field(default_factory=list)
    end: int | None = None
    damage: list[tuple[int, str]] = field(default_factory=list)

    def of(self, marker: int) -> list[Segment]:
        """All segments of a marker."""
        return [segment for segment in self.segments if segment.marker == marker]

    def table(self, number: int) -> StepTable | None:
        """The first table of a number: what the first scan is coded with."""
        return next((steps for own, _, steps in self.tables if own == number), None)


def parse_jpeg(data: bytes) -> JpegStream:
    """Take a stream apart that begins with SOI; never raises. Reads no entropy-coded data."""
    stream = JpegStream()
    at = 0
    while stream.end is None:
        if len(stream.segments) >= MAX_SEGMENTS:
            stream.damage.append((at, f"not read on after {MAX_SEGMENTS} marker segments"))
            break
        found = _MARKER.search(data, at)
        if found is None:
            stream.damage.append((len(data), "the file ends without an EOI marker"))
            break
        if found.start() > at and data[at : found.start()].strip(b"\xff"):
            stream.damage.append((at, f"{found.start() - at} bytes outside any marker segment"))
        at = found.start()
        marker = data[at + 1]
        if marker in _ALONE:
            stream.segments.append(Segment(marker, at, b""))
            at += 2
            if marker == _EOI:
                stream.end = at
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        end = at + 2 + length
        content = data[at + 4 : end]
        if length < 2 or end > len(data):
            name = Segment(marker, at, b"").name
            fault = "is cut off" if length >= 2 else f"has the impossible length {length}"
            stream.damage.append((at, f"the {name} segment {fault}"))
        scan_bytes = 0
        if marker == _SOS:
            is_ls = stream.frame is not None and stream.frame.marker == _SOF55
            following = (_LS_MARKER if is_ls else _MARKER).search(data, end)
            scan_bytes = (following.start() if following else len(data)) - end
            scan_bytes = max(scan_bytes, 0)
        segment = Segment(marker, at, content, scan_bytes)
        stream.segments.append(segment)
        _read_segment(stream, segment)
        at = max(end, at + 4) + scan_bytes
    return stream


def _read_segment(stream: JpegStream, segment: Segment) -> None:
    """Take in what a segment says; a short one says as much as is there."""
    content, marker = segment.content, segment.marker
    if marker == _DQT:
        _read_quantisation(stream, segment)
    elif marker == _DHT:
        _read_huffman(stream, segment)
    elif marker == _DRI and len(content) >= 2:
        stream.restart_interval = int.from_bytes(content[:2], "big")
    elif marker in FRAMES:
        stream.frames += 1
        if stream.frame is None and len(content) >= 6:
            stream.frame = _frame(marker, content)
    elif marker == _SOS and content:
        count = content[0]
        tail = content[1 + 2 * count : 4 + 2 * count]
        stream.scans.append(
            {
                "components": list(content[1 : 1 + 2 * count : 2]),
                "spectral": list(tail[:2]),
                "approximation": [tail[2] >> 4, tail[2] & 15] if len(tail) == 3 else [],
            }
        )


def _frame(marker: int, content: bytes) -> Frame:
    parts = (content[at : at + 3] for at in range(6, 6 + 3 * content[5], 3))
    return Frame(
        marker,
        content[0],
        int.from_bytes(content[3:5], "big"),
        int.from_bytes(content[1:3], "big"),
        tuple((part[0], part[1] >> 4, part[1] & 15, part[2]) for part in parts if len(part) == 3),
    )


def _read_quantisation(stream: JpegStream, segment: Segment) -> None:
    content, at = segment.content, 0
    while at < len(content) and len(stream.tables) < MAX_TABLES:
        wide, number = content[at] >> 4, content[at] & 15
        size = 128 if wide else 64
        coded = content[at + 1 : at + 1 + size]
        if wide > 1 or len(coded) < size:
            fault = "is cut off" if wide <= 1 else f"has the impossible precision {wide}"
            stream.damage.append((segment.offset, f"a quantisation table {fault}"))
            return
        natural = np.empty(64, np.int64)
        natural[ZIGZAG] = np.frombuffer(coded, ">u2" if wide else np.uint8)
        stream.tables.append((number, 16 if wide else 8, natural.reshape(8, 8)))
        at += 1 + size


def _read_huffman(stream: JpegStream, segment: Segment) -> None:
    content, at = segment.content, 0
    while at < len(content) and len(stream.huffman) < MAX_TABLES:
        counts = content[at + 1 : at + 17]
        code = counts + content[at + 17 : at + 17 + sum(counts)]
        if len(counts) < 16 or len(code) < 16 + sum(counts):
            stream.damage.append((segment.offset, "a Huffman table is cut off"))
            return
        stream.huffman.append(HuffmanTable(content[at] >> 4, content[at] & 15, code))
        at += 1 + len(code)
