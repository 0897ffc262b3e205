"""Boxes of the ISO base media file format (ISO/IEC 14496-12), the container of AVIF and HEIC."""

from __future__ import annotations

from collections.abc import Iterator


def boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of the content of each outermost box; ends at the first damaged one."""
    at = 0
    while at + 8 <= len(data):
        size, kind, header = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if size == 1:  # a 64-bit size follows
            size, header = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        end = at + size if size else len(data)  # 0: up to the end of the file
        if end < at + header or end > len(data):
            return
        yield kind, at + header, end
        at = end


def brands(data: bytes) -> tuple[bytes, ...]:
    """Major and compatible brands of a file, major first; () where it starts with no `ftyp`.

    >>> brands(bytes.fromhex("00000014 66747970 61766966 00000000 6d696631"))
    (b'avif', b'mif1')
    """
    if data[4:8] != b"ftyp":
        return ()
    end = min(int.from_bytes(data[:4], "big"), len(data))
    return (data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4)))
