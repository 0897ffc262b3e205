"""What an AVIF or HEIC file itself shows (ISO/IEC 14496-12 and 23008-12; AV1-ISOBMFF; 14496-15)."""

from __future__ import annotations

from dataclasses import dataclass, field

from imagecompression.codec import CodecError
from imagecompression.evidence.box import Box, first, read_boxes
from imagecompression.evidence.encoder_text import encoder_texts
from imagecompression.evidence.hevc_header import (
    CHROMA_FORMATS,
    PictureFacts,
    SequenceFacts,
    read_picture,
    read_sequence,
    slice_qp,
)
from imagecompression.evidence.metadata import read_exif, read_icc
from imagecompression.evidence.record import DamageError, Record, text, unpack
from imagecompression.hevc import NAL_PPS, NAL_SPS, SLICES, nal_type
from imagecompression.isobmff import brands

MAX_ITEMS = 2000
MAX_PROPERTIES = 1000
_MAX_UNITS = 100

CODED = {
    b"av01": "avif",
    b"hvc1": "heic",
    b"hev1": "heic",
    b"jpeg": "jpeg",
    b"j2k1": "jpeg2000",
    b"unci": "uncompressed",
}
"""Codec by the type of an item that is a picture of its own."""

_DERIVED = (b"grid", b"iden", b"iovl", b"tmap")


@dataclass
class _Item:
    """An item of the meta box: type, name, and where its first extent is."""

    kind: bytes = b""
    name: bytes = b""
    place: tuple[int, int] | None = None
    properties: list[int] = field(default_factory=list)


def read(data: bytes, record: Record) -> None:
    """Add all findings of an AVIF, HEIC or other ISO media file."""
    record.observed("brands", [text(brand) for brand in brands(data[: 1 << 16])])
    boxes = read_boxes(data, 0, len(data), record)
    record.observed("boxes", [box.to_json() for box in boxes])
    meta = first(boxes, b"meta")
    if meta is None:
        record.not_available("items", "the file holds no meta box")
    else:
        _read_meta(data, meta, record)
    texts = encoder_texts(data)
    if texts:
        record.observed("encoder_texts", texts)
    else:
        record.not_available("encoder_texts", "no encoder names itself in the file")


def _read_meta(data: bytes, meta: Box, record: Record) -> None:
    inner = read_boxes(data, meta.start + 4, meta.end, record)
    items: dict[int, _Item] = {}
    readers = {b"iinf": _read_item_infos, b"iloc": _read_locations}
    for kind, reader in readers.items():
        box = first(inner, kind)
        if box is not None:
            try:
                reader(data, box, items, record)
            except DamageError as error:
                record.damaged(error.offset, error.problem)
    container = first(inner, b"iprp")
    properties: list[Box] = []
    if container is not None:
        parts = read_boxes(data, container.start, container.end, record)
        held = first(parts, b"ipco")
        if held is not None:
            properties = read_boxes(data, held.start, held.end, record)[:MAX_PROPERTIES]
        assignment = first(parts, b"ipma")
        if assignment is not None:
            try:
                _read_assignment(data, assignment, items, record)
            except DamageError as error:
                record.damaged(error.offset, error.problem)
    kinds: dict[str, int] = {}
    for item in items.values():
        kinds[text(item.kind)] = kinds.get(text(item.kind), 0) + 1
    record.observed("item_types", kinds)
    primary = _primary(data, first(inner, b"pitm"), items, record)
    coded = _coded_item(primary, items)
    if coded is not None:
        record.codec = CODED[coded.kind]
        record.derived("coding", text(coded.kind), "of the primary item or the first tile of it")
    record.observed("properties", [text(box.kind) for box in properties])
    _read_properties(data, properties, primary, coded, record)
    for item in items.values():
        if item.kind == b"Exif" and item.place is not None:
            start, count = item.place
            (skipped,) = unpack(">I", data, start, "the EXIF item")
            read_exif(record, data[start + 4 + skipped : start + count], start + 4 + skipped)
            break


def _read_item_infos(data: bytes, box: Box, items: dict[int, _Item], record: Record) -> None:
    """Item types and names (8.11.6)."""
    (version,) = unpack(">B", data, box.start, "the iinf box", box.end)
    for info in read_boxes(data, box.start + (8 if version else 6), box.end, record)[:MAX_ITEMS]:
        if info.kind != b"infe":
            continue
        (form,) = unpack(">B", data, info.start, "an infe box", info.end)
        if form < 2:
            continue
        layout = ">HH4s" if form == 2 else ">IH4s"
        number, _, kind = unpack(layout, data, info.start + 4, "an infe box", info.end)
        name_at = info.start + (12 if form == 2 else 14)
        items.setdefault(number, _Item()).kind = kind
        items[number].name = data[name_at : min(info.end, name_at + 100)].split(b"\0")[0]


def _read_locations(data: bytes, box: Box, items: dict[int, _Item], record: Record) -> None:
    """Where the first extent of each item in the file is (8.11.3)."""
    version, sizes, more = unpack(">B3xBB", data, box.start, "the iloc box", box.end)
    offset_size, length_size, base_size = sizes >> 4, sizes & 15, more >> 4
    index_size = more & 15 if version else 0
    at = box.start + 6

    def number(size: int) -> int:
        nonlocal at
        if at + size > box.end:
            raise DamageError(at, "the file ends within the iloc box")
        value = int.from_bytes(data[at : at + size], "big")
        at += size
        return value

    for _ in range(min(number(4 if version == 2 else 2), MAX_ITEMS)):
        identifier = number(4 if version == 2 else 2)
        method = number(2) & 15 if version else 0
        number(2)
        base = number(base_size)
        for extent in range(number(2)):
            number(index_size)
            offset, length = number(offset_size), number(length_size)
            if extent == 0 and method == 0:
                items.setdefault(identifier, _Item()).place = (base + offset, length)
            if not offset_size + length_size + index_size:
                break  # extents without any field take no bytes, however many there are


def _read_assignment(data: bytes, box: Box, items: dict[int, _Item], record: Record) -> None:
    """Numbers of the properties of each item, from 1 (23008-12, 9.3)."""
    version, flags, count = unpack(">B2xBI", data, box.start, "the ipma box", box.end)
    at = box.start + 8
    for _ in range(min(count, MAX_ITEMS)):
        layout = ">IB" if version else ">HB"
        number, properties = unpack(layout, data, at, "the ipma box", box.end)
        at += 5 if version else 3
        size = 2 if flags & 1 else 1
        coded = data[at : min(at + size * properties, box.end)]
        at += size * properties
        values = [int.from_bytes(coded[i : i + size], "big") for i in range(0, len(coded), size)]
        mask = 0x7FFF if size == 2 else 0x7F
        items.setdefault(number, _Item()).properties = [value & mask for value in values]


def _primary(data: bytes, box: Box | None, items: dict[int, _Item], record: Record) -> _Item | None:
    if box is None:
        return None
    (version,) = unpack(">B", data, box.start, "the pitm box", box.end)
    layout = ">I" if version else ">H"
    (number,) = unpack(layout, data, box.start + 4, "the pitm box", box.end)
    item = items.get(number)
    record.observed("primary_item", None if item is None else text(item.kind))
    return item


def _coded_item(primary: _Item | None, items: dict[int, _Item]) -> _Item | None:
    """The primary item where it is coded itself; the first coded one where it is made of others."""
    if primary is not None and primary.kind not in _DERIVED:
        return primary if primary.kind in CODED else None
    return next((item for item in items.values() if item.kind in CODED), None)


def _read_properties(
    data: bytes, properties: list[Box], primary: _Item | None, coded: _Item | None, record: Record
) -> None:
    """Size, colour and coding of the primary item; of its first tile where it has none itself."""
    numbers = [*(primary.properties if primary else []), *(coded.properties if coded else [])]
    own = [properties[number - 1] for number in numbers if 0 < number <= len(properties)]
    for box in own:
        try:
            if box.kind == b"ispe":
                width, height = unpack(">4xII", data, box.start, "the ispe box", box.end)
                record.observed("size", {"width": width, "height": height})
            elif box.kind == b"clap":
                ratios = unpack(">4I", data, box.start, "the clap box", box.end)
                if not ratios[1] or not ratios[3]:
                    raise DamageError(box.start, "a denominator is 0")
                width, height = ratios[0] // ratios[1], ratios[2] // ratios[3]
                record.derived("shown_size", {"width": width, "height": height}, "after cropping")
            elif box.kind == b"pixi":
                (count,) = unpack(">4xB", data, box.start, "the pixi box", box.end)
                bits = data[box.start + 5 : min(box.start + 5 + count, box.end)]
                record.observed("channel_bits", list(bits))
            elif box.kind == b"colr":
                _read_colour(data, box, record)
            elif box.kind == b"av1C":
                _read_av1(data, box, record)
            elif box.kind == b"hvcC":
                _read_hevc(data, box, coded, record)
        except (DamageError, CodecError) as error:
            offset = error.offset if isinstance(error, DamageError) else box.offset
            record.damaged(offset, f"property {text(box.kind)}: {error}")
    alpha = any(b"alpha" in data[box.start : min(box.end, box.start + 100)] for box in properties
                if box.kind == b"auxC")  # fmt: skip
    record.observed("alpha", alpha, "an auxiliary picture of that kind")


def _read_colour(data: bytes, box: Box, record: Record) -> None:
    """CICP numbers (ITU-T H.273) or an ICC profile."""
    kind = data[box.start : box.start + 4]
    if kind == b"nclx":
        primaries, transfer, matrix, full = unpack(
            ">HHHB", data, box.start + 4, "the colr box", box.end
        )
        note = "matrix 0 keeps RGB as it is, which lossless files need" if matrix == 0 else ""
        record.observed(
            "colour",
            {
                "primaries": primaries,
                "transfer": transfer,
                "matrix": matrix,
                "full_range": full >= 0x80,
            },
            note,
        )
    elif kind in (b"prof", b"rICC"):
        read_icc(record, data[box.start + 4 : box.end])


def _read_av1(data: bytes, box: Box, record: Record) -> None:
    """av1C (AV1-ISOBMFF, 2.3)."""
    profile, flags = unpack(">xBB", data, box.start, "the av1C box", box.end)
    bits = 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
    subsampled = "4:2:0" if flags & 0x0C == 0x0C else "4:2:2" if flags & 0x08 else "4:4:4"
    record.observed(
        "coding_parameters",
        {
            "profile": profile >> 5,
            "level": profile & 31,
            "bits": bits,
            "subsampling": "4:0:0" if flags & 0x10 else subsampled,
            "sample_position": flags & 3,
        },
    )


def _read_hevc(data: bytes, box: Box, coded: _Item | None, record: Record) -> None:
    """hvcC (14496-15, 8.3.3), its parameter sets, and the first slice's quantiser."""
    profile, chroma, luma_bits, chroma_bits, last, arrays = unpack(
        ">xB14xBBB2xBB", data, box.start, "the hvcC box", box.end
    )
    record.observed(
        "coding_parameters",
        {
            "profile": profile & 31,
            "subsampling": CHROMA_FORMATS[chroma & 3],
            "bits": 8 + (luma_bits & 7),
            "chroma_bits": 8 + (chroma_bits & 7),
        },
    )
    sequence: SequenceFacts | None = None
    picture: PictureFacts | None = None
    at = box.start + 23
    for _ in range(arrays):
        kind, count = unpack(">BH", data, at, "the hvcC box", box.end)
        at += 3
        for _ in range(min(count, _MAX_UNITS)):
            (length,) = unpack(">H", data, at, "the hvcC box", box.end)
            unit = data[at + 2 : min(at + 2 + length, box.end)]
            at += 2 + length
            if kind & 63 == NAL_SPS and sequence is None:
                sequence = read_sequence(unit)
                record.observed("sequence", sequence.to_json(), "sides in pixels")
                record.derived("coding_tree_block", sequence.coding_blocks[1], "side in pixels")
            elif kind & 63 == NAL_PPS and picture is None:
                picture = read_picture(unit)
                record.observed("picture_parameters", picture.to_json())
    if picture is not None and picture.bypass:
        record.not_available("lossless", "blocks may be lossless; which are is inside the data")
    if sequence is None or picture is None or coded is None or coded.place is None:
        return
    if sequence.sample_adaptive_offset is not None:
        _read_slice(data, coded.place, 1 + (last & 3), sequence, picture, record)


def _read_slice(
    data: bytes,
    place: tuple[int, int],
    length_bytes: int,
    sequence: SequenceFacts,
    picture: PictureFacts,
    record: Record,
) -> None:
    """The quantiser of the first slice among the units of an item."""
    at, end = place[0], min(sum(place), len(data))
    for _ in range(_MAX_UNITS):
        if at + length_bytes >= end:
            return
        length = int.from_bytes(data[at : at + length_bytes], "big")
        at += length_bytes
        unit = data[at : min(at + min(length, 4096), end)]
        if len(unit) > 2 and nal_type(unit) in SLICES:
            chroma = sequence.chroma_format not in ("4:0:0", None)
            qp = slice_qp(unit, picture, chroma, bool(sequence.sample_adaptive_offset))
            if qp is not None:
                record.derived("slice_qp", qp, "of the first slice; blocks may differ")
            return
        at += length
