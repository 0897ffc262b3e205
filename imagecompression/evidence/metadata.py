"""EXIF, ICC, XMP and Photoshop blocks, wherever a format keeps them."""

from __future__ import annotations

import re
from typing import Any

from imagecompression.evidence.directory import Directory, byte_order, read_directory
from imagecompression.evidence.jpeg_quality import fit_tables
from imagecompression.evidence.jpeg_stream import JpegStream, StepTable, parse_jpeg
from imagecompression.evidence.record import DamageError, Record, text

MAX_BLOCK = 1 << 20
"""Bytes of a block that are looked at."""

# Tags of Exif 3.0 (CIPA DC-008), sections 4.6.5 and 4.6.6.
_MAIN = {271: "make", 272: "model", 305: "software", 306: "date", 315: "artist", 11: "processing"}
_PHOTO = {36867: "taken", 36868: "digitised", 42036: "lens", 42033: "body_serial"}
_ORIENTATION, _EXIF_IFD, _GPS_IFD, _MAKER_NOTE = 274, 34665, 34853, 37500
_WIDTH, _HEIGHT, _COLOR_SPACE = 40962, 40963, 40961
_THUMBNAIL, _THUMBNAIL_BYTES = 513, 514

_CREATOR = re.compile(rb"""CreatorTool(?:>|\s*=\s*["'])([^<"']{1,400})""")
_PHOTOSHOP_QUALITY, _PHOTOSHOP_THUMBNAIL = 0x0406, (0x0409, 0x040C)
_MAX_RESOURCES = 1000


def read_exif(record: Record, block: bytes, offset: int) -> None:
    """Add ``exif`` and ``thumbnail`` from an EXIF block that begins with its TIFF header.

    Args:
        record: What the findings are added to.
        block: The block, without ``Exif\\0\\0``.
        offset: Where it stands in the file, to say where damage is.
    """
    try:
        order = byte_order(block)
        if order is None:
            raise DamageError(0, "the EXIF block has no TIFF header")
        first = int.from_bytes(block[4:8], "little" if order[0] == "<" else "big")
        main = read_directory(block, first, order[0])
        _note_damage(record, main, offset + first)
        facts = directory_texts(main)
        orientation = main.number(_ORIENTATION)
        facts |= {} if orientation is None else {"orientation": orientation}
        facts |= {"gps": True} if _GPS_IFD in main.entries else {}
        at = main.number(_EXIF_IFD)
        if at is not None:
            facts |= _photo_facts(record, block, at, order[0], offset)
        record.observed("exif", facts)
        if main.following:
            small = read_directory(block, main.following, order[0])
            _note_damage(record, small, offset + main.following)
            start, count = small.number(_THUMBNAIL), small.number(_THUMBNAIL_BYTES)
            if start is not None and count is not None and start >= 0 < count:
                _read_thumbnail(record, block[start : start + count])
    except DamageError as error:
        record.damaged(offset + error.offset, f"EXIF: {error.problem}")


def directory_texts(directory: Directory) -> dict[str, Any]:
    """Make, model, software, date and the like of a TIFF directory, those that are there."""
    return {
        name: text(content)
        for tag, name in _MAIN.items()
        if (content := directory.text(tag)) is not None
    }


def _photo_facts(record: Record, block: bytes, at: int, order: str, offset: int) -> dict[str, Any]:
    photo = read_directory(block, at, order)
    _note_damage(record, photo, offset + at)
    facts: dict[str, Any] = {
        name: text(content)
        for tag, name in _PHOTO.items()
        if (content := photo.text(tag)) is not None
    }
    for tag, name in ((_WIDTH, "width"), (_HEIGHT, "height"), (_COLOR_SPACE, "color_space")):
        number = photo.number(tag)
        facts |= {} if number is None else {name: number}
    if _MAKER_NOTE in photo.entries:
        facts["maker_note_bytes"] = photo.entries[_MAKER_NOTE].bytes_announced
    return facts


def _note_damage(record: Record, directory: Directory, offset: int) -> None:
    if directory.damage:
        record.damaged(offset, f"EXIF: {directory.damage}")


def _read_thumbnail(record: Record, data: bytes) -> None:
    """Add ``thumbnail`` and the fit of its own tables."""
    if data[:2] != b"\xff\xd8":
        record.observed("thumbnail", {"bytes": len(data)}, "not a JPEG stream")
        return
    stream = parse_jpeg(data)
    frame = stream.frame
    size = {} if frame is None else {"width": frame.width, "height": frame.height}
    record.observed("thumbnail", {"bytes": len(data), **size})
    quality_finding(record, stream, "thumbnail_quality")


def quality_finding(record: Record, stream: JpegStream, name: str) -> None:
    """Add the quality of a stream's tables under `name`, and their school under ``…_school``."""
    tables, note = _roles(stream)
    fit = None if tables is None else fit_tables(*tables)
    if fit is None:
        why = "the tables are those of no known school at any quality"
        record.not_available(name, why if tables is not None else note)
        return
    note = "; ".join(filter(None, (fit.note(), note)))
    add = record.derived if fit.exact else record.inferred
    add(f"{name}_school", fit.to_json(), note)
    if fit.quality is None:
        record.not_available(name, note)
    else:
        add(name, fit.quality, note)


def _roles(stream: JpegStream) -> tuple[tuple[StepTable, StepTable | None] | None, str]:
    """The luminance and chrominance table (None: the same one) of a stream, and a note.

    The first is None where no table can have such a role; the note then says why.
    """
    if stream.frame is None:  # the tables of a TIFF file stand alone
        numbers = sorted({number for number, _, _ in stream.tables})
    else:
        numbers = [component[3] for component in stream.frame.components]
    tables = [table for number in numbers if (table := stream.table(number)) is not None]
    if not tables or len(tables) < len(numbers):
        return None, "the quantisation table of a component is missing"
    if len(set(numbers)) == 1:
        return (tables[0], None), "one table for all components" if len(numbers) > 1 else ""
    luminance, chrominance, *others = tables
    if any((table != chrominance).any() for table in others[:1]) or any(
        (table != luminance).any() and (table != chrominance).any() for table in others[1:]
    ):
        return None, "the components have more than two quantisation tables, as in no known school"
    return (luminance, chrominance), ""


def read_icc(record: Record, profile: bytes) -> None:
    """Add ``icc_profile``: size, class, colour space and description (ICC.1:2022, section 7)."""
    facts: dict[str, Any] = {"bytes": len(profile)}
    if profile[36:40] == b"acsp":
        facts |= {"class": text(profile[12:16]), "colour_space": text(profile[16:20])}
        facts["made_by"] = text(profile[4:8])
        description = _icc_description(profile)
        facts |= {} if description is None else {"description": description}
    record.observed("icc_profile", facts)


def _icc_description(profile: bytes) -> str | None:
    """The text of tag ``desc``, of version 2 (ASCII) or 4 (the first of several languages)."""
    count = min(int.from_bytes(profile[128:132], "big"), 100)
    for at in range(132, 132 + 12 * count, 12):
        if profile[at : at + 4] == b"desc":
            start = int.from_bytes(profile[at + 4 : at + 8], "big")
            content = profile[
                start : start + min(int.from_bytes(profile[at + 8 : at + 12], "big"), 4096)
            ]
            if content[:4] == b"desc":
                return text(content[12 : 12 + int.from_bytes(content[8:12], "big")])
            if content[:4] == b"mluc":
                length = int.from_bytes(content[20:24], "big")
                place = int.from_bytes(content[24:28], "big")
                return text(content[place : place + length].decode("utf-16-be", "replace"))
    return None


def read_xmp(record: Record, packet: bytes) -> None:
    """Add ``xmp``: its size and the program that it names."""
    facts: dict[str, Any] = {"bytes": len(packet)}
    found = _CREATOR.search(packet[:MAX_BLOCK])
    if found:
        facts["creator_tool"] = text(found[1])
    record.observed("xmp", facts)


def read_photoshop(record: Record, block: bytes) -> None:
    """Add ``photoshop`` from image resource blocks: their numbers, and JPEG quality where kept.

    Adobe Photoshop File Formats Specification, Image Resource Blocks. Resource 1030 holds the
    quality less 4 as a signed number; Photoshop shows 0 … 12.
    """
    resources: list[int] = []
    facts: dict[str, Any] = {"resources": resources}
    at = 0
    while block[at : at + 4] == b"8BIM" and len(resources) < _MAX_RESOURCES:
        name_bytes = (block[at + 6] if at + 6 < len(block) else 0) // 2 * 2 + 2
        start = at + 6 + name_bytes + 4
        length = int.from_bytes(block[start - 4 : start], "big")
        number = int.from_bytes(block[at + 4 : at + 6], "big")
        resources.append(number)
        if number == _PHOTOSHOP_QUALITY and length >= 2:
            facts["quality"] = 4 + int.from_bytes(block[start : start + 2], "big", signed=True)
        if number in _PHOTOSHOP_THUMBNAIL:
            facts["thumbnail_bytes"] = length
        at = start + length + length % 2
    record.observed("photoshop", facts)
