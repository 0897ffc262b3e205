"""Image file directories as they stand in TIFF, BigTIFF, EXIF and JPEG XR files.

tifffile and Pillow read them too, but for pictures: they fail as a whole on a damaged entry, and
evidence is what is left. Nothing is decoded here; sizes are bounded.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from imagecompression.evidence.record import unpack

MAX_DIRECTORY_ENTRIES = 1000
MAX_VALUE_BYTES = 1 << 20
"""Of a value in a directory, such as an ICC profile or the offsets of strips."""

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}
_LAYOUTS = {1: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q"}
_LAYOUTS |= {18: "Q"}


@dataclass(frozen=True, eq=False, slots=True)
class Entry:
    """A value of a directory.

    Attributes:
        kind: Field type (TIFF 6.0, section 2).
        count: Number of values as announced.
        offset: Where the values begin.
        order: ``"<"`` or ``">"``.
        file: The bytes that the directory stands in.
    """

    kind: int
    count: int
    offset: int
    order: str
    file: bytes

    @property
    def bytes_announced(self) -> int:
        """Bytes of all values."""
        return self.count * _SIZES.get(self.kind, 1)

    @property
    def content(self) -> bytes:
        """The values' bytes, at most `MAX_VALUE_BYTES`, fewer where the file ends."""
        return self.file[self.offset : self.offset + min(self.bytes_announced, MAX_VALUE_BYTES)]

    def numbers(self, most: int = 64) -> tuple[int, ...]:
        """The first values as integers; () for types that hold none."""
        layout = _LAYOUTS.get(self.kind)
        if layout is None:
            return ()
        size = _SIZES[self.kind]
        content = self.file[self.offset : self.offset + min(self.count, most) * size]
        return struct.unpack_from(f"{self.order}{len(content) // size}{layout}", content)

    def number(self) -> int | None:
        """The first value as an integer, or None."""
        return next(iter(self.numbers(1)), None)


@dataclass(frozen=True)
class Directory:
    """A directory: its entries by tag, and where the next one is (0: nowhere).

    Attributes:
        entries: By tag; the first of equal tags.
        following: Offset of the next directory.
        damage: What is wrong with it, or "".
    """

    entries: dict[int, Entry]
    following: int
    damage: str

    def number(self, tag: int, default: int | None = None) -> int | None:
        """The first number of a tag, or `default`."""
        found = self.entries[tag].number() if tag in self.entries else None
        return default if found is None else found

    def text(self, tag: int) -> bytes | None:
        """The bytes of a tag, for a text, or None."""
        return self.entries[tag].content if tag in self.entries else None


def read_directory(data: bytes, at: int, order: str, big: bool = False) -> Directory:
    """The directory at `at` of the file or block `data`, whose entries may be damaged.

    Raises:
        DamageError: There is no directory at `at`.
    """
    count_layout, offset_layout, size = ("Q", "Q", 20) if big else ("H", "I", 12)
    (count,) = unpack(order + count_layout, data, at, "the number of a directory's entries")
    first = at + struct.calcsize(count_layout)
    entries: dict[int, Entry] = {}
    if count > MAX_DIRECTORY_ENTRIES:
        problem = f"a directory of {count} entries; {MAX_DIRECTORY_ENTRIES} are read"
        damage, count, end = problem, MAX_DIRECTORY_ENTRIES, len(data)
    else:
        damage, end = "", first + count * size
    for place in range(first, first + count * size, size):
        if place + size > len(data):
            damage = damage or f"the directory is cut off after {len(entries)} of {count} entries"
            break
        layout = f"{order}HH{offset_layout}{offset_layout}"
        tag, kind, values, where = struct.unpack_from(layout, data, place)
        if values * _SIZES.get(kind, 1) <= struct.calcsize(offset_layout):
            where = place + size - struct.calcsize(offset_layout)
        entry = Entry(kind, values, where, order, data)
        if where + entry.bytes_announced > len(data):
            damage = damage or f"the value of tag {tag} lies beyond the end"
        entries.setdefault(tag, entry)
    following = 0
    if end + struct.calcsize(offset_layout) <= len(data):
        (following,) = struct.unpack_from(order + offset_layout, data, end)
    return Directory(entries, following, damage)


def byte_order(data: bytes) -> tuple[str, bool] | None:
    """Byte order of a TIFF header and whether it is BigTIFF's; None where it is no TIFF header."""
    known = {b"II*\0": ("<", False), b"MM\0*": (">", False)}
    known |= {b"II+\0": ("<", True), b"MM\0+": (">", True)}
    return known.get(data[:4])
