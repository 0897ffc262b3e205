"""JPEG XR (ISO/IEC 29199-2, ITU-T T.832) by jxrlib, Microsoft's reference encoder.

Encoding goes to jxrlib itself, to the copy that imagecodecs' Linux and macOS wheels bring along.
imagecodecs' own ``jpegxr_encode`` sets the quality alone: at quality 50 and above it writes no
overlap at all, where jxrlib's command line writes one level, so its files are not those that are
met in the wild. Decoding is imagecodecs'.

What jxrlib picks where `JpegXr` says ``"auto"`` or -1, as read from the headers of its files:

| quality | overlap | chroma | quantisers |
|---|---|---|---|
| 1 … under 50 | 2, but 1 where the picture is under 32 pixels wide | 4:2:0 | table for 4:2:0 |
| 50 … 99 | 1 | 4:4:4 | table for 4:4:4 |

What cannot be set, and why: hard tiles (jxrlib cannot read some of its own such files), quantisers
that vary inside a picture (its encoder has none), scaled arithmetic (always on when lossy), windows
and rotations (they change no coefficient), and alpha (its quantiser lies outside the interface that
jxrlib checks, so alpha would be as lossy as luma).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import os
import struct
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from imagecompression.bundled_library import bundled_library
from imagecompression.codec import (
    Codec,
    CodecError,
    CodecUnavailableError,
    Image,
    Knob,
    check_image,
    check_size,
)

_FORMAT, _WIDTH, _HEIGHT, _OFFSET, _BYTE_COUNT = 0xBC01, 0xBC80, 0xBC81, 0xBCC0, 0xBCC1
_MACROBLOCK = 16
_MAX_TILES = 4096
_HALF = 50.0

SUBSAMPLINGS = ("4:0:0", "4:2:0", "4:2:2", "4:4:4")
"""Chroma formats by their number in the bitstream; 4:0:0 is gray."""

BANDS = ("all", "no flexbits", "no highpass", "dc only")
"""Which bands are in a file, by their number in the bitstream."""

# Quantiser indices of luma, Cg and Co in the DC and lowpass bands, then in the highpass band, at
# quality 0, 10, 20, … percent: jxrlib's quality scale, without which its files cannot be matched.
# 8 bits a sample. The second table has one step more, see `_quantisers`.
_QUANTISERS_SUBSAMPLED = (
    (66, 65, 70, 72, 72, 77), (59, 58, 63, 64, 63, 68), (52, 51, 57, 56, 56, 61),
    (48, 48, 54, 51, 50, 55), (43, 44, 48, 46, 46, 49), (37, 37, 42, 38, 38, 43),
    (26, 28, 31, 27, 28, 31), (16, 17, 22, 16, 17, 21), (10, 11, 13, 10, 10, 13),
    (5, 5, 6, 5, 5, 6), (2, 2, 3, 2, 2, 2),
)  # fmt: skip
_QUANTISERS_FULL = (
    (67, 79, 86, 72, 90, 98), (59, 74, 80, 64, 83, 89), (53, 68, 75, 57, 76, 83),
    (49, 64, 71, 53, 70, 77), (45, 60, 67, 48, 67, 74), (40, 56, 62, 42, 59, 66),
    (33, 49, 55, 35, 51, 58), (27, 44, 49, 28, 45, 50), (20, 36, 42, 20, 38, 44),
    (13, 27, 34, 13, 28, 34), (7, 17, 21, 8, 17, 21), (2, 5, 6, 2, 5, 6),
)  # fmt: skip


@dataclass(frozen=True)
class JpegXr(Codec):
    """JPEG XR with jxrlib's options; the defaults are those of its command line, ``-q`` alone.

    Attributes:
        quality: 1 … 99 in percent of jxrlib's scale, higher is better. 100 would mean lossless
            and is refused: this class is the lossy codec.
        overlap: Levels of the overlap transform, 0, 1 or 2; -1 for jxrlib's rule by quality.
            Subsampled, 2 is lowered to 1 in pictures up to 16 pixels wide, which jxrlib refuses.
        subsampling: Chroma of colour pictures, ``"4:2:0"``, ``"4:2:2"`` or ``"4:4:4"``;
            ``"auto"`` for jxrlib's rule by quality. It also chooses between two tables of
            quantisers, for gray too.
        bands: ``"all"``, or less: ``"no flexbits"``, ``"no highpass"``, ``"dc only"``.
        trim_flexbits: Lowest bits of the flexbits left out, 0 … 15. Without effect where all the
            flexbits are, and beyond the bits that there are.
        tile: Side of the tiles in pixels, 16 … 65520 in steps of 16, or 0 for one tile. Tiles are
            soft: they change no pixel.
        frequency_order: True for one stretch of the file a band, jxrlib's default; False for all
            bands of a macroblock together. No pixel depends on it.

    >>> import numpy as np
    >>> JpegXr.decode(JpegXr(quality=80).encode(np.zeros((8, 8, 3), np.uint8))).shape
    (8, 8, 3)
    """

    quality: float = 80.0
    overlap: int = -1
    subsampling: str = "auto"
    bands: str = "all"
    trim_flexbits: int = 0
    tile: int = 0
    frequency_order: bool = True

    name: ClassVar[str] = "jpegxr"
    suffix: ClassVar[str] = ".jxr"
    other_suffixes: ClassVar[tuple[str, ...]] = (".wdp", ".hdp")
    knob: ClassVar[Knob] = Knob("quality", 1, 99, 0.25, rises_with_size=True)
    ratio_tolerance: ClassVar[float] = 0.05
    ssim_tolerance: ClassVar[float] = 0.01

    def __post_init__(self) -> None:
        self._check_range("quality", 1, 99, integer=False)
        self._check_choice("overlap", (-1, 0, 1, 2))
        self._check_choice("subsampling", ("auto", *SUBSAMPLINGS[1:]))
        self._check_choice("bands", BANDS)
        self._check_range("trim_flexbits", 0, 15)
        self._check_range("tile", 0, 0xFFFF)
        self._check_choice("frequency_order", (False, True))
        if self.tile % _MACROBLOCK:
            raise CodecError(
                f"jpegxr tile must be a multiple of {_MACROBLOCK}, or 0 for one tile. "
                f"Received: tile={self.tile}"
            )

    def encode(self, image: Image) -> bytes:
        image = check_image(image)
        height, width = image.shape[:2]
        subsampling = self._subsampling()
        settings = _Settings(
            verbose=0,
            color_format=SUBSAMPLINGS.index(subsampling),
            bit_depth=1,  # 32-bit arithmetic, the only one there is
            overlap=self._overlap(width, subsampling),
            frequency_order=self.frequency_order,
            progressive=self.frequency_order,
            bands=BANDS.index(self.bands),
            trim_flexbits=self.trim_flexbits,
        )
        names = ("qp", "qp_u", "qp_v", "qp_yhp", "qp_uhp", "qp_vhp")
        for name, index in zip(names, _quantisers(self.quality, subsampling), strict=True):
            setattr(settings, name, index)
        if self.tile:
            settings.columns = self._tiles(width, settings.column_widths)
            settings.rows = self._tiles(height, settings.row_heights)
        return _encode(image, settings)

    def _subsampling(self) -> str:
        if self.subsampling != "auto":
            return self.subsampling
        return "4:4:4" if self.quality >= _HALF else "4:2:0"

    def _overlap(self, width: int, subsampling: str) -> int:
        overlap = self.overlap
        if overlap < 0:
            overlap = 1 if self.quality >= _HALF or width < 2 * _MACROBLOCK else 2
        return min(overlap, 1) if subsampling != "4:4:4" and width <= _MACROBLOCK else overlap

    def _tiles(self, side: int, sizes: ctypes.Array[ctypes.c_uint32]) -> int:
        """Fill in the tile sizes along one side in macroblocks; the number of tiles minus 1."""
        tiles = -(-side // self.tile)
        if tiles > _MAX_TILES:
            raise CodecError(
                f"JPEG XR has room for {_MAX_TILES} tiles a side. "
                f"Received: tile={self.tile} for {side} pixels"
            )
        sizes[:tiles] = [self.tile // _MACROBLOCK] * tiles
        return tiles - 1

    @classmethod
    def decode(cls, data: bytes) -> Image:
        imagecodecs = _imagecodecs()
        header = parse_header(data)
        end = header.picture.stop
        if end > len(data):
            # jxrlib itself decodes a truncated file to noise without complaint.
            raise CodecError(
                f"Not a readable JPEG XR file: truncated to {len(data)} of {end} bytes"
            )
        try:
            pixels = np.asarray(imagecodecs.jpegxr_decode(_plain_file(data, header)))
        except Exception as error:  # jxrlib reports every fault through one private class
            raise CodecError(f"Not a readable JPEG XR file: {error}") from error
        if pixels.dtype != np.uint8:
            raise CodecError(
                f"Only 8-bit JPEG XR is supported. Received: dtype={pixels.dtype}, "
                f"shape={pixels.shape}"
            )
        return check_image(pixels if pixels.ndim == 2 else pixels[:, :, :3])

    @classmethod
    def matches(cls, data: bytes) -> bool:
        return data[:3] == b"II\xbc"

    @classmethod
    def version(cls) -> str:
        _jxrlib()
        imagecodecs = _imagecodecs()
        return f"{imagecodecs.jpegxr_version()} (imagecodecs {imagecodecs.__version__})"

    @classmethod
    def variants(cls) -> tuple[Codec, ...]:
        # jxrlib's rule and what comes near it are the bulk; then each overlap with each chroma.
        overlaps = (-1, 0, 1, 2)
        return (
            *(cls(overlap=overlap) for overlap in overlaps),
            *(cls(frequency_order=False, overlap=overlap) for overlap in overlaps),
            cls(tile=256),
            cls(tile=512, frequency_order=False),
            *(cls(subsampling="4:4:4", overlap=overlap) for overlap in overlaps),
            *(cls(subsampling="4:2:0", overlap=overlap) for overlap in overlaps),
            cls(subsampling="4:2:2"),
        )


@dataclass(frozen=True)
class Header:
    """What a JPEG XR file says of itself (T.832: Annex A, 8.3 and 8.4).

    Attributes:
        width: In pixels.
        height: In pixels.
        overlap: Levels of the overlap transform, 0 … 2.
        subsampling: An entry of `SUBSAMPLINGS`.
        bands: An entry of `BANDS`.
        flexbits_trimmed: Whether each tile says how many flexbits are left out.
        frequency_order: Whether the bands lie one after the other.
        columns: Tiles along a row.
        rows: Tiles along a column.
        gray: Whether the picture was gray, not RGB.
        alpha_interleaved: Whether alpha is inside the picture, not a plane of its own or none.
        picture: Where the picture's bytes are in the file.
    """

    width: int
    height: int
    overlap: int
    subsampling: str
    bands: str
    flexbits_trimmed: bool
    frequency_order: bool
    columns: int
    rows: int
    gray: bool
    alpha_interleaved: bool
    picture: slice


def parse_header(data: bytes) -> Header:
    """The header of a JPEG XR file.

    Raises:
        CodecError: Damaged data, a pixel format that is no 8-bit gray or RGB, or more than
            `MAX_PIXELS` pixels.
    """
    facts = _directory(data)
    check_size(facts[_WIDTH], facts[_HEIGHT])
    pixel_format = data[facts[_FORMAT] : facts[_FORMAT] + 16]
    at = facts[_OFFSET]
    try:
        signature, _, layout, flags, source = struct.unpack_from(">8s4B", data, at)
        short = bool(flags & 0x80)
        at += 12
        width, height = (
            side + 1 for side in struct.unpack_from(">HH" if short else ">II", data, at)
        )
        at += 4 if short else 8
        columns = rows = 1
        if layout & 0x80:
            counts = int.from_bytes(struct.unpack_from(">3s", data, at)[0], "big")
            columns, rows = (counts >> 12) + 1, (counts & 0xFFF) + 1
            at += 3 + (columns - 1 + rows - 1) * (1 if short else 2)
        at += 3 if flags & 0x20 else 0  # the window: four times six bits
        (plane,) = struct.unpack_from(">B", data, at)
    except struct.error as error:
        raise CodecError(f"Not a readable JPEG XR file: {error}") from error
    if signature != b"WMPHOTO\0":
        raise CodecError("Not a readable JPEG XR file: its picture has no signature")
    # The decoder allocates by the picture's own header, whatever the directory announces.
    check_size(width, height)
    gray = (pixel_format, source, flags & 0x01) == (_GRAY, _SOURCE_GRAY, 0)
    if not gray and not (pixel_format in _COLOURS and source == _SOURCE_RGB):
        raise CodecError(
            "Only JPEG XR of 8-bit gray or RGB is supported. "
            f"Received: pixel format {pixel_format.hex()}, source format {source:#04x}"
        )
    color, bands, overlap = plane >> 5, plane & 0x0F, layout & 0x03
    if bands >= len(BANDS) or overlap > 2 or color >= len(SUBSAMPLINGS):
        raise CodecError(
            f"Not a readable JPEG XR file: bands {bands}, overlap {overlap}, chroma {color}"
        )
    if max((columns - 1) * _MACROBLOCK - width, (rows - 1) * _MACROBLOCK - height) >= 0:
        raise CodecError(
            f"Not a readable JPEG XR file: {columns}×{rows} tiles for {width}×{height} pixels"
        )
    return Header(
        width=width,
        height=height,
        overlap=overlap,
        subsampling=SUBSAMPLINGS[color],
        bands=BANDS[bands],
        flexbits_trimmed=bool(flags & 0x10),
        frequency_order=bool(layout & 0x40),
        columns=columns,
        rows=rows,
        gray=gray,
        alpha_interleaved=bool(flags & 0x01),
        picture=slice(facts[_OFFSET], facts[_OFFSET] + facts[_BYTE_COUNT]),
    )


# Pixel formats (T.832, table A.6) of 8-bit gray and RGB; most differ in their last byte alone. They
# name the order of channels in memory, padding and alpha: the picture's own bytes are the same.
_FORMAT_FAMILY = bytes.fromhex("24c3dd6f034efe4bb1853d77768dc9")
_GRAY, _RGB = _FORMAT_FAMILY + b"\x08", _FORMAT_FAMILY + b"\x0d"
_RGBA = bytes.fromhex("2dadc7f58d6add43a7a8a29935261ae9")
_COLOURS = {
    _RGB,
    _RGBA,
    *(_FORMAT_FAMILY + bytes([last]) for last in (0x0C, 0x0E, 0x0F, 0x10)),  # blue first
    bytes.fromhex("956b8cd9fe3ed647bb25eb1748ab0cf1"),  # padded
    bytes.fromhex("50a6c43c27a5374da9163142c7ebedba"),  # premultiplied, and so remain the colours
}
_SOURCE_GRAY, _SOURCE_RGB = 0x01, 0x71


def _plain_file(data: bytes, header: Header) -> bytes:
    """The picture alone in a new file, without planar alpha and whatever else the directory holds.

    jxrlib reports unknown entries on standard error, and trusts those that it knows.
    """
    # Alpha that is inside the picture comes out as a fourth channel.
    pixel_format = _RGBA if header.alpha_interleaved else _GRAY if header.gray else _RGB
    picture = data[header.picture]
    entries = (
        (_FORMAT, 1, 16, 8),  # 16 bytes, at byte 8
        (_WIDTH, 4, 1, header.width),
        (_HEIGHT, 4, 1, header.height),
        (_OFFSET, 4, 1, 32 + 2 + 5 * 12 + 4),
        (_BYTE_COUNT, 4, 1, len(picture)),
    )
    return b"".join(
        (
            b"II\xbc\x01" + struct.pack("<I", 32),
            pixel_format.ljust(24, b"\0"),
            struct.pack("<H", len(entries)),
            *(struct.pack("<HHII", *entry) for entry in entries),
            bytes(4),  # no further directory
            picture,
        )
    )


def _directory(data: bytes) -> dict[int, int]:
    """Values of the file's directory by tag (Annex A: 12-byte entries); the wanted ones are there.

    Raises:
        CodecError: Damaged data, or a wanted tag is missing.
    """
    wanted = (_FORMAT, _WIDTH, _HEIGHT, _OFFSET, _BYTE_COUNT)
    facts: dict[int, int] = {}
    try:
        (offset,) = struct.unpack_from("<I", data, 4)
        (count,) = struct.unpack_from("<H", data, offset)
        for entry in range(count):
            at = offset + 2 + 12 * entry
            tag, kind, items = struct.unpack_from("<HHI", data, at)
            if tag in wanted:
                # Several bytes, such as the pixel format's, lie elsewhere.
                layout = {1: "<B", 3: "<H"}.get(kind, "<I") if items == 1 else "<I"
                (facts[tag],) = struct.unpack_from(layout, data, at + 8)
    except struct.error as error:
        raise CodecError(f"Not a readable JPEG XR file: {error}") from error
    missing = [hex(tag) for tag in wanted if tag not in facts]
    if missing:
        raise CodecError(f"Not a readable JPEG XR file: its directory lacks {', '.join(missing)}")
    return facts


def _quantisers(quality: float, subsampling: str) -> list[int]:
    """Quantiser indices 1 … 255 in the order of the tables, interpolated at `quality` percent."""
    # jxrlib's command line holds the quality in single precision.
    tenths = 10.0 * float(np.float32(quality / 100.0))
    table: tuple[tuple[int, ...], ...] = _QUANTISERS_SUBSAMPLED
    if subsampling == "4:4:4":
        table = _QUANTISERS_FULL
        # The table's last two steps, to 110 %, are stretched over 80 … 100 %.
        tenths = 8.0 + (tenths - 8.0) * 1.5 if tenths > 8.0 else tenths
    step = int(tenths)
    part = tenths - step
    pairs = zip(table[step], table[step + 1], strict=True)
    return [int(low * (1.0 - part) + high * part + 0.5) for low, high in pairs]


def _imagecodecs():  # type: ignore[no-untyped-def]
    """The imagecodecs module, or `CodecUnavailableError` where its jxrlib is missing."""
    try:
        import imagecodecs

        imagecodecs.jpegxr_version()
    except (ImportError, RuntimeError) as error:
        raise CodecUnavailableError(
            f"JPEG XR needs imagecodecs built with jxrlib (pip install imagecodecs): {error}"
        ) from error
    return imagecodecs


class _Settings(ctypes.Structure):
    """jxrlib's encoder parameters; jxrlib checks their size. Zero means: as jxrlib has it."""

    _fields_ = (
        ("verbose", ctypes.c_int),
        *((name, ctypes.c_uint8) for name in (
            "qp", "qp_ylp", "qp_yhp", "qp_u", "qp_ulp", "qp_uhp", "qp_v", "qp_vlp", "qp_vhp",
            "qp_alpha",
        )),
        *((name, ctypes.c_int) for name in (
            "color_format", "bit_depth", "overlap", "frequency_order",
        )),
        ("channels", ctypes.c_size_t),
        ("alpha_mode", ctypes.c_uint8),
        ("bands", ctypes.c_int),
        ("trim_flexbits", ctypes.c_uint8),
        ("stream", ctypes.c_void_p),
        ("stream_bytes", ctypes.c_size_t),
        ("columns", ctypes.c_uint32),
        ("column_widths", ctypes.c_uint32 * _MAX_TILES),
        ("rows", ctypes.c_uint32),
        ("row_heights", ctypes.c_uint32 * _MAX_TILES),
        ("mantissa_bits", ctypes.c_uint8),
        ("exponent_bias", ctypes.c_int8),
        *((name, ctypes.c_int) for name in (
            "black_is_one", "hard_tiles", "progressive", "planes_given", "unscaled", "timed",
        )),
    )  # fmt: skip


class _PixelFormat(ctypes.Structure):
    """A pixel format's identifier, as the library exports it."""

    _fields_ = (
        ("first", ctypes.c_uint32),
        ("second", ctypes.c_uint16),
        ("third", ctypes.c_uint16),
        ("rest", ctypes.c_uint8 * 8),
    )


def _encode(image: Image, settings: _Settings) -> bytes:
    """A JPEG XR file by jxrlib's own interface (JXRGlue.h).

    Raises:
        CodecError: jxrlib refuses the picture.
    """
    stream_library, library = _jxrlib()
    height, width = image.shape[:2]
    colour = "24bppRGB" if image.ndim == 3 else "8bppGray"
    pixel_format = _PixelFormat.in_dll(library, f"GUID_PKPixelFormat{colour}")
    # The largest files are those of noise, which need little more than its samples.
    room = np.zeros(3 * image.nbytes + (1 << 16), np.uint8)
    stream, encoder = ctypes.c_void_p(), ctypes.c_void_p()

    def call(function: str, *arguments: object, where: ctypes.CDLL = library) -> None:
        status = getattr(where, function)(*arguments)
        if status < 0:
            raise CodecError(
                f"jxrlib could not encode {width}×{height} pixels: {function} {status}"
            )

    call("CreateWS_Memory", ctypes.byref(stream), room.ctypes.data, room.nbytes,
         where=stream_library)  # fmt: skip
    call("PKImageEncode_Create_WMP", ctypes.byref(encoder))
    try:
        call("PKImageEncode_Initialize_WMP", encoder, stream, ctypes.byref(settings),
             ctypes.sizeof(settings))  # fmt: skip
        call("PKImageEncode_SetPixelFormat", encoder, pixel_format)
        call("PKImageEncode_SetSize", encoder, width, height)
        call("PKImageEncode_SetResolution", encoder, 96.0, 96.0)
        call("PKImageEncode_WritePixels_WMP", encoder, height, image.ctypes.data, image.strides[0])
    finally:
        library.PKImageEncode_Release(ctypes.byref(encoder))  # and the stream with it
    return room[: parse_header(room[: 1 << 16].tobytes()).picture.stop].tobytes()


@functools.cache
def _jxrlib() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """jxrlib's two libraries, for streams and for files: imagecodecs' copies, or the system's.

    Raises:
        CodecUnavailableError: They are nowhere to be found.
    """
    try:
        libraries = tuple(ctypes.CDLL(_library_path(name)) for name in ("jpegxr", "jxrglue"))
    except OSError as error:
        raise CodecUnavailableError(
            "JPEG XR is encoded by the jxrlib inside imagecodecs' wheels for Linux and macOS, or "
            f"by the system's libjxrglue; Windows' wheels keep theirs to themselves. {error}"
        ) from error
    stream_library, library = libraries
    pointer, size, u32, i32 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32, ctypes.c_int32
    signatures = {
        "PKImageEncode_Create_WMP": [pointer],
        "PKImageEncode_Initialize_WMP": [pointer, pointer, pointer, size],
        "PKImageEncode_SetPixelFormat": [pointer, _PixelFormat],
        "PKImageEncode_SetSize": [pointer, i32, i32],
        "PKImageEncode_SetResolution": [pointer, ctypes.c_float, ctypes.c_float],
        "PKImageEncode_WritePixels_WMP": [pointer, u32, pointer, u32],
        "PKImageEncode_Release": [pointer],
    }
    for name, arguments in signatures.items():
        getattr(library, name).argtypes = arguments
        getattr(library, name).restype = ctypes.c_long
    stream_library.CreateWS_Memory.argtypes = [pointer, pointer, size]
    stream_library.CreateWS_Memory.restype = ctypes.c_long
    return stream_library, library


def _library_path(name: str) -> str:
    """Path of one of jxrlib's libraries, or a name that the loader will not find."""
    found = bundled_library("imagecodecs", f"lib{name}[-.]*")
    if found is not None:
        return os.fspath(found)
    return ctypes.util.find_library(name) or f"lib{name}"
