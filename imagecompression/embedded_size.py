"""Width and height of pictures from their own headers, above all inside a TIFF's strips and tiles.

A decoder allocates what the inner header says, whatever the TIFF around it announces. On damaged
bytes these functions raise `CodecError`, `struct.error`, `KeyError` or Pillow's errors.
"""

from __future__ import annotations

import io
import struct

from PIL import Image as PilImage

from imagecompression.codec import CodecError


def jpeg_frame(segment: bytes) -> tuple[int, int, int] | None:
    """Bits a sample, width and height from the first frame header of a JPEG stream, or None."""
    at = 2
    while at + 9 <= len(segment):
        if segment[at] != 0xFF:
            break
        marker = segment[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker == 0xD8 or marker == 0x01 or 0xD0 <= marker <= 0xD7:  # without a length
            at += 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width = struct.unpack_from(">BHH", segment, at + 4)
            return bits, width, height
        else:
            at += 2 + int.from_bytes(segment[at + 2 : at + 4], "big")
    return None


def jpeg_size(segment: bytes) -> tuple[int, int]:
    """Width and height from the first frame header of a JPEG stream."""
    frame = jpeg_frame(segment)
    if frame is None:
        raise CodecError("A strip or tile is not readable JPEG: it has no frame header.")
    return frame[1:]


def jpeg2000_size(segment: bytes) -> tuple[int, int]:
    """Width and height from a JP2 file or a bare codestream."""
    return _pillow_size(segment, "JPEG2000")


def png_size(segment: bytes) -> tuple[int, int]:
    """Width and height from a PNG header."""
    return _pillow_size(segment, "PNG")


def _pillow_size(segment: bytes, pillow_format: str) -> tuple[int, int]:
    with PilImage.open(io.BytesIO(segment), formats=[pillow_format]) as picture:
        return picture.size


def webp_size(segment: bytes) -> tuple[int, int]:
    """Width and height from a WebP header (Pillow would allocate the canvas for it)."""
    kind = segment[12:16]
    if segment[:4] == b"RIFF" and len(segment) >= 30:
        if kind == b"VP8X":
            width = int.from_bytes(segment[24:27], "little") + 1
            return width, int.from_bytes(segment[27:30], "little") + 1
        if kind == b"VP8L":
            bits = int.from_bytes(segment[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        if kind == b"VP8 ":
            width, height = struct.unpack_from("<HH", segment, 26)
            return width & 0x3FFF, height & 0x3FFF
    raise CodecError("A strip or tile is not readable WebP.")


def jpegxr_size(segment: bytes) -> tuple[int, int]:
    """Width and height from the directory of a JPEG XR file (ISO/IEC 29199-2, Annex A)."""
    sides: dict[int, int] = {}
    (offset,) = struct.unpack_from("<I", segment, 4)
    (entries,) = struct.unpack_from("<H", segment, offset)
    for at in range(offset + 2, offset + 2 + 12 * entries, 12):
        tag, kind = struct.unpack_from("<HH", segment, at)
        value = "<H" if kind == 3 else "<I"
        (sides[tag],) = struct.unpack_from(value, segment, at + 8)
    return sides[0xBC80], sides[0xBC81]


def lerc_size(segment: bytes) -> tuple[int, int]:
    """Width and height from a LERC 2 header; version 3 put a checksum before them."""
    if segment[:6] != b"Lerc2 ":
        raise CodecError("A strip or tile is not plain LERC 2.")
    (version,) = struct.unpack_from("<i", segment, 6)
    height, width = struct.unpack_from("<ii", segment, 14 if version >= 3 else 10)
    return width, height
