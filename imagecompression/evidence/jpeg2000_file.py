"""What a JPEG 2000 file itself shows (sections of ISO/IEC 15444-1 in parentheses)."""

from __future__ import annotations

from typing import Any

from imagecompression.evidence.box import first, read_boxes
from imagecompression.evidence.metadata import read_exif, read_icc, read_xmp
from imagecompression.evidence.record import DamageError, Record, text, unpack
from imagecompression.jpeg2000 import PROGRESSIONS

MAX_SEGMENTS = 10_000
MAX_TILE_PARTS = 200_000

_START = b"\xff\x4f\xff\x51"
_XMP_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_EXIF_UUID = b"JpgTiffExif->JP2"
_COLOUR_SPACES = {12: "CMYK", 16: "sRGB", 17: "gray", 18: "sYCC"}
_NAMES = {
    0xFF4F: "SOC",
    0xFF50: "CAP",
    0xFF51: "SIZ",
    0xFF52: "COD",
    0xFF53: "COC",
    0xFF55: "TLM",
    0xFF57: "PLM",
    0xFF58: "PLT",
    0xFF5C: "QCD",
    0xFF5D: "QCC",
    0xFF5E: "RGN",
    0xFF5F: "POC",
    0xFF60: "PPM",
    0xFF61: "PPT",
    0xFF63: "CRG",
    0xFF64: "COM",
    0xFF90: "SOT",
    0xFFD9: "EOC",
}
_SOT, _EOC = 0xFF90, 0xFFD9
_QUANTISATIONS = ("none", "derived", "expounded")


def read(data: bytes, record: Record) -> None:
    """Add all findings of a JP2 file or a bare codestream."""
    if data[:4] == _START:
        read_codestream(data, 0, len(data), record)
        return
    boxes = read_boxes(data, 0, len(data), record)
    record.observed("boxes", [box.to_json() for box in boxes])
    kind = first(boxes, b"ftyp")
    if kind is not None:
        record.observed("brand", text(data[kind.start : kind.start + 4]))
    header = first(boxes, b"jp2h")
    if header is not None:
        _read_header(data, header.start, header.end, record)
    for box in boxes:
        if box.kind == b"uuid":
            content = data[box.start : box.end]
            if content[:16] == _XMP_UUID:
                read_xmp(record, content[16:])
            elif content[:16] == _EXIF_UUID:
                read_exif(record, content[16:], box.start + 16)
    codestream = first(boxes, b"jp2c")
    if codestream is None:
        record.not_available("codestream", "the file holds no codestream box")
    else:
        read_codestream(data, codestream.start, codestream.end, record)


def _read_header(data: bytes, start: int, end: int, record: Record) -> None:
    """Add what the boxes of the JP2 header say (I.5.3)."""
    inner = read_boxes(data, start, end, record)
    record.observed("header_boxes", [text(box.kind) for box in inner])
    colour = first(inner, b"colr")
    if colour is not None:
        method = data[colour.start : colour.start + 1]
        if method == b"\1":
            number = int.from_bytes(data[colour.start + 3 : min(colour.start + 7, end)], "big")
            record.observed("colour_space", _COLOUR_SPACES.get(number, str(number)))
        elif method in (b"\2", b"\3"):
            read_icc(record, data[colour.start + 3 : colour.end])
    palette = first(inner, b"pclr")
    if palette is not None:
        entries = int.from_bytes(data[palette.start : palette.start + 2], "big")
        record.observed("palette_entries", entries)


def read_codestream(data: bytes, start: int, end: int, record: Record) -> None:
    """Add what a codestream's main header and tile-parts say (Annex A).

    A reversible codestream may have been cut down to any rate afterwards, so `record.codec` is
    jpeg2000 for it, too.

    Raises:
        DamageError: Where it ends early.
    """
    if data[start : start + 4] != _START:
        raise DamageError(start, "the codestream does not begin with SOC and SIZ")
    record.codec = "jpeg2000"
    segments: list[dict[str, Any]] = []
    comments: list[str] = []
    at = start + 2
    record.observed("segments", segments)
    for _ in range(MAX_SEGMENTS):
        marker, length = unpack(">HH", data, at, "the main header", end)
        if marker in (_SOT, _EOC):
            break
        segments.append(
            {"marker": _NAMES.get(marker, f"{marker:04X}"), "offset": at, "length": length}
        )
        if length < 2 or at + 2 + length > end:
            raise DamageError(at, f"a marker segment of {length} bytes in the main header")
        place = (data, at + 4, at + 2 + length, record)
        if marker == 0xFF51:
            _read_size(*place)
        elif marker == 0xFF52:
            _read_coding(*place)
        elif marker == 0xFF5C:
            _read_quantisation(*place)
        elif marker == 0xFF50:
            record.observed("high_throughput", True, "a CAP segment: Part 15, or another part")
        elif marker == 0xFF64:
            comments.append(text(data[at + 6 : at + 2 + length]))
        at += 2 + length
    else:
        raise DamageError(at, f"not read on after {MAX_SEGMENTS} marker segments")
    record.observed("comments", comments, "encoders name themselves here")
    _read_tile_parts(data, at, end, record)


def _read_size(data: bytes, at: int, end: int, record: Record) -> None:
    """SIZ (A.5.1)."""
    _, right, bottom, left, top, *tiling, count = unpack(">H8IH", data, at, "the SIZ segment", end)
    record.observed("size", {"width": right - left, "height": bottom - top})
    tile_width, tile_height, tile_left, tile_top = tiling
    record.observed("tile_size", {"width": tile_width, "height": tile_height})
    if tile_width and tile_height:
        across = -((tile_left - right) // tile_width)
        record.derived("tiles", across * -((tile_top - bottom) // tile_height))
    kinds = data[at + 36 : min(at + 36 + 3 * count, end)]
    record.observed(
        "components",
        [
            {
                "bits": (kinds[place] & 0x7F) + 1,
                "signed": kinds[place] >= 0x80,
                "subsampling": list(kinds[place + 1 : place + 3]),
            }
            for place in range(0, len(kinds) - 2, 3)
        ],
    )


def _read_coding(data: bytes, at: int, end: int, record: Record) -> None:
    """COD (A.6.1)."""
    style, progression, layers, mct, levels, width, height, block_style, wavelet = unpack(
        ">BBHBBBBBB", data, at, "the COD segment", end
    )
    known = progression < len(PROGRESSIONS)
    record.observed("progression", PROGRESSIONS[progression] if known else str(progression))
    record.observed("layers", layers)
    record.observed("levels", levels, "wavelet decompositions")
    record.observed(
        "code_block", {"width": 4 << (width & 15), "height": 4 << (height & 15)}, "samples"
    )
    record.observed("code_block_style", block_style)
    record.observed("precincts", bool(style & 1), "whether their sizes are given")
    record.observed("sop", bool(style & 2))
    record.observed("eph", bool(style & 4))
    record.observed("component_transform", bool(mct))
    names = {0: "9/7 irreversible", 1: "5/3 reversible"}
    record.observed("wavelet", names.get(wavelet, str(wavelet)))
    if wavelet == 1:
        record.not_available(
            "lossless",
            "the transform is reversible, but layers or bit planes may have been left out",
        )


def _read_quantisation(data: bytes, at: int, end: int, record: Record) -> None:
    """QCD (A.6.4): exponents, and mantissas where steps are quantised."""
    (style,) = unpack(">B", data, at, "the QCD segment", end)
    kind, guard = style & 31, style >> 5
    name = _QUANTISATIONS[kind] if kind < len(_QUANTISATIONS) else str(kind)
    record.observed("quantisation", name)
    record.observed("guard_bits", guard)
    if kind == 0:
        record.observed("step_exponents", [byte >> 3 for byte in data[at + 1 : end]])
    else:
        coded = [
            int.from_bytes(data[place : place + 2], "big") for place in range(at + 1, end - 1, 2)
        ]
        record.derived(
            "steps",
            [2.0 ** -(value >> 11) * (1 + (value & 0x7FF) / 2048) for value in coded],
            "of each subband, relative to its nominal range (E-3)",
        )


def _read_tile_parts(data: bytes, at: int, end: int, record: Record) -> None:
    """Walk the tile-parts (A.4.2) to the end of the codestream."""
    tiles: set[int] = set()
    parts = 0
    while parts < MAX_TILE_PARTS:
        (marker,) = unpack(">H", data, at, "the codestream, before its EOC marker", end)
        if marker == _EOC:
            break
        if marker != _SOT:
            record.damaged(at, f"marker {marker:04X} where a tile-part should begin")
            break
        tile, length = unpack(">HI", data, at + 4, "the header of a tile-part", end)
        tiles.add(tile)
        parts += 1
        if length == 0:  # up to EOC, which ends the codestream
            at = end - 2
        elif length < 14:
            record.damaged(at, f"a tile-part of {length} bytes")
            break
        elif at + length > end:
            record.damaged(at, f"the codestream ends {at + length - end} bytes within a tile-part")
            break
        else:
            at += length
    record.observed("tile_parts", {"parts": parts, "tiles": len(tiles)})
