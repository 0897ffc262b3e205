"""Boxes of JP2 (ISO/IEC 15444-1, Annex I) and of ISO media files (ISO/IEC 14496-12), told apart.

`imagecompression.isobmff.boxes` ends silently at damage; evidence says where that is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from imagecompression.evidence.record import Record, text

MAX_BOXES = 2000


@dataclass(frozen=True)
class Box:
    """A box: its type, its place, and the place of its content."""

    kind: bytes
    offset: int
    start: int
    end: int

    def to_json(self) -> dict[str, Any]:
        """Type, offset and size of the whole box."""
        return {
            "type": text(self.kind),
            "offset": self.offset,
            "bytes": self.end - self.offset,
        }


def read_boxes(data: bytes, start: int, end: int, record: Record) -> list[Box]:
    """The boxes from `start` to `end`; what is damaged or cut off is noted in `record`."""
    found: list[Box] = []
    at = start
    while at + 8 <= end:
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        header = 8
        if size == 1 and at + 16 <= end:  # a 64-bit size follows
            size, header = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        elif size == 0:  # up to the end
            size = end - at
        if size < header:
            record.damaged(at, f"box {text(kind)!r} has the impossible size {size}")
            return found
        found.append(Box(kind, at, at + header, min(at + size, end)))
        if at + size > end:
            record.damaged(at, f"box {text(kind)!r} of {size} bytes ends {at + size - end} late")
            return found
        if len(found) == MAX_BOXES:
            record.damaged(at + size, f"not read on after {MAX_BOXES} boxes")
            return found
        at += size
    if at < end:
        record.damaged(at, f"{end - at} bytes are too few for a box")
    return found


def first(found: list[Box], kind: bytes) -> Box | None:
    """The first box of a type, or None."""
    return next((box for box in found if box.kind == kind), None)
