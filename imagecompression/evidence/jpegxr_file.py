"""What a JPEG XR file itself shows (ITU-T T.832; sections in parentheses)."""

from __future__ import annotations

from dataclasses import dataclass

from imagecompression.codec import CodecError
from imagecompression.evidence.directory import read_directory
from imagecompression.evidence.metadata import directory_texts
from imagecompression.evidence.record import DamageError, Record, text, unpack
from imagecompression.hevc import BitReader
from imagecompression.jpegxr import BANDS, SUBSAMPLINGS

_FORMAT, _WIDTH, _HEIGHT, _OFFSET, _BYTE_COUNT = 0xBC01, 0xBC80, 0xBC81, 0xBCC0, 0xBCC1
_ALPHA_OFFSET = 0xBCC2
_BITDEPTHS = {0: "1", 1: "8", 2: "16", 3: "16 signed", 4: "16 float", 6: "32 signed", 7: "32 float"}
_BITDEPTHS |= {8: "5", 9: "10", 10: "5-6-5", 15: "1"}
_OUTPUT_FORMATS = {0: "gray", 1: "YUV 4:2:0", 2: "YUV 4:2:2", 3: "YUV 4:4:4", 4: "CMYK"}
_OUTPUT_FORMATS |= {5: "CMYK direct", 6: "n components", 7: "RGB", 8: "RGBE"}
_INTERNAL_FORMATS = {**dict(enumerate(SUBSAMPLINGS)), 4: "YUVK", 6: "n components"}
_ALL_BANDS, _NO_HIGHPASS, _DC_ONLY = 0, 2, 3
_EXACT_DEPTHS = ("1", "8", "16")
_LARGEST_STEP_1 = 4  # the last index that means a step of 1 without scaled arithmetic
_MAX_PLANE_BYTES = 4096


@dataclass(frozen=True)
class _Plane:
    """An image plane header (8.4): quantiser indices by band; None where they vary by tile."""

    internal_format: int
    scaled: bool
    bands: int
    quantisers: dict[str, list[int] | None]


def read(data: bytes, record: Record) -> None:
    """Add all findings of a JPEG XR file.

    Raises:
        DamageError: Where it ends early.
    """
    (at,) = unpack("<I", data, 4, "the file header")
    directory = read_directory(data, at, "<")
    if directory.damage:
        record.damaged(at, directory.damage)
    record.observed(
        "entries",
        [
            {"tag": f"{tag:04X}", "type": entry.kind, "count": entry.count, "value": entry.number()}
            for tag, entry in directory.entries.items()
        ],
    )
    texts = directory_texts(directory)
    if texts:
        record.observed("texts", texts)
    if _FORMAT in directory.entries:
        record.observed("pixel_format", directory.entries[_FORMAT].content[:16].hex())
    size = {"width": directory.number(_WIDTH), "height": directory.number(_HEIGHT)}
    record.observed("size", size)
    record.observed("alpha_plane", _ALPHA_OFFSET in directory.entries)
    start, count = directory.number(_OFFSET), directory.number(_BYTE_COUNT)
    if start is None or start < 0:
        raise DamageError(at, "the directory does not say where the picture is")
    if count is not None and start + count > len(data):
        record.damaged(len(data), f"{start + count - len(data)} bytes of the picture are missing")
    read_picture(data, start, record)


def read_picture(data: bytes, at: int, record: Record) -> None:
    """Add what the image header (8.3) and the header of its first plane (8.4) say.

    Raises:
        DamageError: They are damaged.
    """
    signature, _, layout, flags, source = unpack(">8s4B", data, at, "the image header")
    if signature != b"WMPHOTO\0":
        raise DamageError(at, f"a picture that begins with {text(signature)!r}")
    record.codec = "jpegxr"
    depth = _BITDEPTHS.get(source & 15, str(source & 15))
    record.observed("colour_format", _OUTPUT_FORMATS.get(source >> 4, str(source >> 4)))
    record.observed("precision", depth, "bits a sample")
    record.observed("overlap", layout & 3, "levels of the overlap transform")
    record.observed("frequency_order", bool(layout & 0x40))
    trimmed = bool(flags & 0x10)
    record.observed("flexbits_trimmed", trimmed, "whether each tile says how many are left out")
    short = bool(flags & 0x80)
    at += 12
    width, height = unpack(">HH" if short else ">II", data, at, "the image header")
    record.observed("coded_size", {"width": width + 1, "height": height + 1})
    at += 4 if short else 8
    columns = rows = 1
    if layout & 0x80:
        counts = int.from_bytes(unpack(">3s", data, at, "the image header")[0], "big")
        columns, rows = (counts >> 12) + 1, (counts & 0xFFF) + 1
        at += 3 + (columns + rows - 2) * (1 if short else 2)
    record.observed("tiles", {"columns": columns, "rows": rows})
    at += 3 if flags & 0x20 else 0  # the window: four times six bits
    try:
        plane = _plane(data[at : at + _MAX_PLANE_BYTES], depth)
    except CodecError as error:
        raise DamageError(at, "the file ends within the image plane header") from error
    _add_plane(plane, record)
    indices = [index for band in plane.quantisers.values() for index in band or (None,)]
    whole = plane.bands == _ALL_BANDS and not trimmed and plane.internal_format in (0, 3)
    if whole and not plane.scaled and depth in _EXACT_DEPTHS and set(indices) <= {0, 1}:
        record.codec = "uncompressed"
        record.derived(
            "lossless", True, "all quantisers are 0 or 1, a step of 1, and nothing is left out"
        )
    elif plane.bands != _ALL_BANDS or any((index or 0) > _LARGEST_STEP_1 for index in indices):
        record.derived("lossless", False, "a quantiser's step is over 1, or bands are left out")
    else:
        record.not_available("lossless", "the headers do not tell it")


def _add_plane(plane: _Plane, record: Record) -> None:
    internal = _INTERNAL_FORMATS.get(plane.internal_format, str(plane.internal_format))
    record.observed("subsampling", internal, "of the coded planes")
    bands = BANDS[plane.bands] if plane.bands < len(BANDS) else str(plane.bands)
    record.observed("bands", bands)
    record.observed("scaled", plane.scaled, "whether arithmetic has three more bits")
    record.observed(
        "quantisers", plane.quantisers, "indices 0 … 255 by component; null: tile by tile"
    )


def _plane(header: bytes, depth: str) -> _Plane:
    """Parse an image plane header.

    Raises:
        CodecError: It is cut off.
    """
    reader = BitReader(header)
    internal, scaled, bands = reader.bits(3), reader.flag(), reader.bits(4)
    components = {0: 1, 1: 3, 2: 3, 3: 3, 4: 4}.get(internal, 1)
    if internal in (1, 2, 3):
        reader.bits(8)  # siting of chroma
    elif internal == 6:
        count = reader.bits(4)
        components = 1 + (count if count < 15 else 15 + reader.bits(12))
        reader.bits(4 if count < 15 else 0)
    if depth.startswith(("16", "32")):
        reader.bits(16 if depth == "32 float" else 8)  # shift, or mantissa and exponent
    quantisers: dict[str, list[int] | None] = {}
    quantisers["dc"] = _quantiser(reader, components)
    if bands < _DC_ONLY:
        reader.bits(1)
        quantisers["lowpass"] = _quantiser(reader, components)
        if bands < _NO_HIGHPASS:
            reader.bits(1)
            quantisers["highpass"] = _quantiser(reader, components)
    return _Plane(internal, scaled, bands, quantisers)


def _quantiser(reader: BitReader, components: int) -> list[int] | None:
    """DC_QP, LP_QP or HP_QP (8.4.20 and on) of a uniform plane; None where it is not uniform."""
    if not reader.flag():
        return None
    mode = reader.bits(2) if components > 1 else 0
    count = 1 if mode == 0 else 2 if mode == 1 else min(components, 16)
    return [reader.bits(8) for _ in range(count)]
