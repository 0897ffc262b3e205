"""The container of BPG (specification 0.9.8): numbers, header, extensions, picture data."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from imagecompression.codec import CodecError, check_size
from imagecompression.hevc import (
    NAL_SPS,
    NAL_VPS,
    START_CODE,
    SequenceHeader,
    nal_type,
    split_nals,
)
from imagecompression.ycbcr import ColorSpace

MAGIC = b"BPG\xfb"

UE7_MAX = 2**30 - 1
"""Largest number that libbpg keeps and that is read here."""

MAX_SIDE = 65535
"""Longer pictures are refused: no encoder makes them, and FFmpeg takes seconds to see damage."""

ALPHA_NONE, ALPHA_W_PLANE, ALPHA_STRAIGHT, ALPHA_PREMULTIPLIED = 0b00, 0b01, 0b10, 0b11
"""The flags alpha1 and alpha2 as one number: what the second, gray picture of a file means."""

EXTENSION_TAGS = {"exif": 1, "icc": 2, "xmp": 3}
"""Tags of the extension block by the field of `Extras` that they hold."""

CHROMA_FORMAT_IDC = (0, 1, 2, 3, 1, 2)
"""HEVC's chroma_format_idc (0 gray, 1 4:2:0, 2 4:2:2, 3 4:4:4) by BPG's pixel_format."""

GRAY, YUV_420, YUV_422, YUV_444, YUV_420_VIDEO, YUV_422_VIDEO = range(6)
"""BPG's pixel_format; the last two are MPEG-2-sited, as in video."""

MPEG2_SITED = (YUV_420_VIDEO, YUV_422_VIDEO)
"""The pixel formats whose chroma samples lie on luma columns instead of between them."""


@dataclass(frozen=True)
class BpgFile:
    """A parsed BPG file.

    Attributes:
        width: True width in pixels.
        height: True height in pixels.
        pixel_format: 0 gray, 1 4:2:0, 2 4:2:2, 3 4:4:4, 4 and 5 as 1 and 2 but MPEG-2-sited.
        bit_depth: 8 … 14 bits a sample.
        color_space: What the planes mean.
        limited_range: Luma is 16 … 235 and chroma 16 … 240, scaled by the bit depth.
        alpha: One of the `ALPHA_` constants.
        extensions: Extension tags and their bytes, in file order.
        alpha_header: HEVC header of the alpha or W plane, None without one.
        header: HEVC header of the colour picture.
        hevc_data: Annex B stream without its first start code, VPS and SPS.
    """

    width: int
    height: int
    pixel_format: int
    bit_depth: int
    color_space: ColorSpace
    limited_range: bool
    alpha: int
    extensions: tuple[tuple[int, bytes], ...]
    alpha_header: SequenceHeader | None
    header: SequenceHeader
    hevc_data: bytes


def encode_ue7(value: int) -> bytes:
    """`value` in groups of seven bits, most significant first, bit 7 set on all but the last.

    >>> encode_ue7(512).hex(" ")
    '84 00'
    """
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(0x80 | (value & 0x7F))
    return bytes(reversed(groups))


class ByteReader:
    """Reads bytes and ue7 numbers of an untrusted file; past the end is a `CodecError`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        end = self._position + count
        if end > len(self._data):
            raise CodecError(
                f"Truncated BPG file: it needs {end} bytes or more. Received: {len(self._data)}"
            )
        piece = self._data[self._position : end]
        self._position = end
        return piece

    def ue7(self) -> int:
        """The next number, 0 … `UE7_MAX`.

        >>> ByteReader(bytes([0x84, 0x1E])).ue7()
        542
        """
        value = byte = self.take(1)[0]
        if byte == 0x80:
            raise CodecError("Damaged BPG file: a number begins with the illegal byte 80.")
        value &= 0x7F
        while byte & 0x80:
            byte = self.take(1)[0]
            value = value << 7 | (byte & 0x7F)
            if value > UE7_MAX:
                raise CodecError(f"Damaged BPG file: a number is over {UE7_MAX}.")
        return value

    def rest(self) -> bytes:
        """All bytes not yet read."""
        return self._data[self._position :]


def parse_bpg(data: bytes) -> BpgFile:
    """Parse and check everything but the HEVC data, which is untouched.

    Raises:
        CodecError: Damaged, truncated or unknown, or the coded picture is over `MAX_PIXELS`.
    """
    reader = ByteReader(data)
    if reader.take(4) != MAGIC:
        raise CodecError("Not a BPG file: it does not begin with 42 50 47 FB.")
    first, second = reader.take(2)
    pixel_format, bit_depth = first >> 5, 8 + (first & 15)
    alpha = (first >> 3) & 2 | (second >> 2) & 1
    color_space = second >> 4
    if pixel_format >= len(CHROMA_FORMAT_IDC) or bit_depth > 14 or color_space >= len(ColorSpace):
        raise CodecError(
            "Damaged or unknown kind of BPG file. Received: "
            f"pixel format {pixel_format}, bit depth {bit_depth}, color space {color_space}"
        )
    if pixel_format == 0 and (color_space or alpha == ALPHA_W_PLANE):
        raise CodecError(
            "Damaged BPG file: a gray picture has no color space and no W plane. "
            f"Received: color space {color_space}, alpha flags {alpha:02b}"
        )
    width, height = reader.ue7(), reader.ue7()
    check_size(width, height)
    if max(width, height) > MAX_SIDE:
        raise CodecError(f"BPG sides are read up to {MAX_SIDE} pixels. Received: {width}×{height}")
    data_length = reader.ue7()
    extensions = _parse_extensions(reader.take(reader.ue7())) if second & 8 else ()
    if data_length:
        reader = ByteReader(reader.take(data_length))
    alpha_header = SequenceHeader.from_bpg(reader.take(reader.ue7())) if alpha else None
    header = SequenceHeader.from_bpg(reader.take(reader.ue7()))
    for coded in (header, alpha_header):
        if coded is not None:
            check_size(coded.coded_side(width), coded.coded_side(height))
    return BpgFile(
        width=width,
        height=height,
        pixel_format=pixel_format,
        bit_depth=bit_depth,
        color_space=ColorSpace(color_space),
        limited_range=bool(second & 2),
        alpha=alpha,
        extensions=extensions,
        alpha_header=alpha_header,
        header=header,
        hevc_data=reader.rest(),
    )


def build_bpg(
    stream: bytes,
    width: int,
    height: int,
    pixel_format: int,
    bit_depth: int,
    *,
    color_space: ColorSpace = ColorSpace.YCBCR_BT601,
    limited_range: bool = False,
    alpha_stream: bytes | None = None,
    extensions: Sequence[tuple[int, bytes]] = (),
) -> bytes:
    """Wrap an encoder's Annex B `stream` of one picture.

    The data length is written although bpgenc leaves it 0 (to the end of the file), so that a
    truncated file is noticed.

    Args:
        stream: The colours.
        width: True width in pixels.
        height: True height in pixels.
        pixel_format: One of 0 … 5, as in `BpgFile`.
        bit_depth: 8 … 14 bits a sample.
        color_space: What the planes mean.
        limited_range: Luma is 16 … 235 and chroma 16 … 240, scaled by the bit depth.
        alpha_stream: A gray picture of the same size and depth, full range: straight alpha.
        extensions: Extension tags and their bytes.

    Raises:
        CodecError: BPG cannot hold a stream, or its size does not fit `width` × `height`.
    """
    header, units = _shortened(stream, width, height)
    alpha = ALPHA_NONE
    if alpha_stream is not None:
        alpha = ALPHA_STRAIGHT
        alpha_header, alpha_units = _shortened(alpha_stream, width, height)
        header = alpha_header + header
        # Alternating, alpha first, as bpgenc does; alpha is layer 1.
        moved = [bytes([unit[0], unit[1] | 8]) + unit[2:] for unit in alpha_units]
        pairs = itertools.zip_longest(moved, units)
        units = [unit for pair in pairs for unit in pair if unit is not None]
    body = header + START_CODE.join(units)
    block = b"".join(
        encode_ue7(tag) + encode_ue7(len(content)) + content for tag, content in extensions
    )
    kind = bytes(
        [
            pixel_format << 5 | (alpha >> 1) << 4 | bit_depth - 8,
            color_space << 4 | bool(block) << 3 | (alpha & 1) << 2 | limited_range << 1,
        ]
    )
    size = encode_ue7(width) + encode_ue7(height) + encode_ue7(len(body))
    return MAGIC + kind + size + (encode_ue7(len(block)) + block if block else b"") + body


def _shortened(stream: bytes, width: int, height: int) -> tuple[bytes, list[bytes]]:
    """BPG's header of an Annex B stream, with its length before it, and the other NAL units."""
    nals = list(split_nals(stream))
    types = [nal_type(nal) for nal in nals[:2]]
    if types != [NAL_VPS, NAL_SPS]:
        raise CodecError(
            f"The HEVC stream must begin with VPS and SPS. Received: NAL types {types}"
        )
    header, coded_width, coded_height = SequenceHeader.from_sps(nals[1])
    if (coded_width, coded_height) != (header.coded_side(width), header.coded_side(height)):
        raise CodecError(
            f"The HEVC stream's {coded_width}×{coded_height} pixels do not fit a picture of "
            f"{width}×{height}."
        )
    header_bytes = header.to_bpg()
    return encode_ue7(len(header_bytes)) + header_bytes, nals[2:]


def _parse_extensions(block: bytes) -> tuple[tuple[int, bytes], ...]:
    extensions = []
    reader = ByteReader(block)
    while reader.rest():
        tag = reader.ue7()
        extensions.append((tag, reader.take(reader.ue7())))
    return tuple(extensions)
