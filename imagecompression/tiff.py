"""Reading TIFF 6.0, BigTIFF and the usual extensions from untrusted bytes.

The header is judged first: what cannot be shown as 8-bit gray or RGB without guessing, and what
would decode to more than `MAX_DECODED_BYTES`, is refused before a decoder sees a byte of it.
"""

from __future__ import annotations

import io
import logging
import math
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage
from PIL import ImageCms, TiffImagePlugin

from imagecompression.bit_depth import by_rows, to_8_bits
from imagecompression.codec import CodecError, Image, check_size
from imagecompression.embedded_size import (
    jpeg2000_size,
    jpeg_size,
    jpegxr_size,
    lerc_size,
    png_size,
    webp_size,
)

MAX_DECODED_BYTES = 1 << 30
"""No page is decoded whose strips or tiles unpack to more bytes than this."""

MAX_SEGMENTS = 500_000
"""Largest number of strips or tiles; 100 million pixels in 16×16 tiles make 390,625."""

MAX_PAGES = 10_000
"""Where the walk along the list of pages ends."""

_LIBTIFF_LOCK = threading.Lock()
_NONE, _RLE, _FAX3, _FAX4, _LZW, _OJPEG, _JPEG = 1, 2, 3, 4, 5, 6, 7
_DEFLATE, _PACKBITS, _OLD_DEFLATE, _JPEG2000, _LOSSY_JPEG = 8, 32773, 32946, 34712, 34892
_LERC, _LZMA, _PNG, _JPEGXR, _ZSTD, _WEBP = 34887, 34925, 34933, 34934, 50000, 50001

# Decoders which stop at the number of bytes or rows that the TIFF header announces.
_BOUNDED = {
    _NONE,
    _RLE,
    _FAX3,
    _FAX4,
    _LZW,
    _OJPEG,
    _DEFLATE,
    _PACKBITS,
    _OLD_DEFLATE,
    _LZMA,
    _ZSTD,
}
# Compression → (codec name, what a note says, whether the method always loses something).
_LOSSY = {
    _OJPEG: ("jpeg", "old-style JPEG", True),
    _JPEG: ("jpeg", "JPEG", True),
    _LOSSY_JPEG: ("jpeg", "JPEG", True),
    _JPEG2000: ("jpeg2000", "JPEG 2000", False),
    _JPEGXR: ("jpegxr", "JPEG XR", False),
    _WEBP: ("webp", "WebP", False),
    _LERC: ("lerc", "LERC", False),
}
# Readers of the inner header; the other compressions' decoders might allocate anything.
_INNER_SIZE: dict[int, Callable[[bytes], tuple[int, int]]] = {
    _JPEG: jpeg_size,
    _LOSSY_JPEG: jpeg_size,
    _JPEG2000: jpeg2000_size,
    _PNG: png_size,
    _JPEGXR: jpegxr_size,
    _WEBP: webp_size,
    _LERC: lerc_size,
}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE = 0, 1, 2, 3
_CMYK, _YCBCR, _CIELAB, _ICCLAB = 5, 6, 8, 9
_COLOUR_SAMPLES = {
    _WHITE_IS_ZERO: 1,
    _BLACK_IS_ZERO: 1,
    _RGB: 3,
    _PALETTE: 1,
    _CMYK: 4,
    _YCBCR: 3,
    _CIELAB: 3,
    _ICCLAB: 3,
}
_SUPPORTED = (
    "Allowed: gray, RGB, palette, CMYK, YCbCr or 8-bit CIELab of 1 to 16 unsigned bits a sample. "
    "Save the picture as 8- or 16-bit gray or RGB."
)


@dataclass(frozen=True, eq=False)
class TiffPicture:
    """One decoded page of a TIFF file.

    Attributes:
        pixels: The contract array, see `imagecompression.codec.Image`.
        notes: What was done to the stored samples, one phrase each.
        bit_depth: Bits a sample in the file.
        inner_codec: Name of the possibly lossy codec of the strips or tiles, or None.
    """

    pixels: Image
    notes: tuple[str, ...]
    bit_depth: int
    inner_codec: str | None


def matches_tiff(data: bytes) -> bool:
    """True when `data` starts with the magic bytes of TIFF or BigTIFF, either byte order."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_tiff(data: bytes, page: int = 0) -> TiffPicture:
    """Decode page number `page` (from 0) of a TIFF file.

    Raises:
        CodecError: Damaged, truncated or too large, no such page, or a kind of picture that has
            no one right rendering in 8 bits (floats, signed or 32-bit samples, volumes).
    """
    import tifffile  # slow to import, and most files are not TIFF

    try:
        offsets = page_offsets(data)
        if not offsets:
            raise CodecError("The TIFF file holds no page: its list of pages is empty or damaged.")
        if not 0 <= page < len(offsets):
            raise CodecError(
                f"The file has {len(offsets)} page{'s' if len(offsets) > 1 else ''}, counted from "
                f"0. Received: page={page}. Allowed: 0 to {len(offsets) - 1}."
            )
        # The vendor formats' own page lists are read at once, without limits; plain TIFF is enough.
        vendors: Any = {"is_lsm": False, "is_scanimage": False, "is_ndpi": False, "is_stk": False}
        with _quiet(), tifffile.TiffFile(io.BytesIO(data), **vendors) as file:
            file.filehandle.seek(offsets[page])
            ifd = tifffile.TiffPage(file, index=page)
            picture = _decode(data, ifd, page)
        if len(offsets) > 1:
            note = f"page {page} of {len(offsets)} read, counted from 0"
            picture = TiffPicture(
                picture.pixels, (note, *picture.notes), picture.bit_depth, picture.inner_codec
            )
        return picture
    except CodecError:
        raise
    except Exception as error:  # tifffile and the decoders raise anything on damaged data
        reason = str(error).splitlines()[0][:200] if str(error) else ""
        raise CodecError(
            f"The TIFF file is damaged or of an unsupported kind ({type(error).__name__}: "
            f"{reason}). Get an intact copy, or save the picture as 8-bit gray or RGB."
        ) from error


def page_offsets(data: bytes) -> list[int]:
    """Offsets of the pages (image file directories), at most `MAX_PAGES`; loops are cut.

    tifffile walks the same list but notices loops of some lengths only.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    count_format, entry_bytes, offset_format = ("Q", 20, "Q") if big else ("H", 12, "I")
    found: dict[int, None] = {}
    at = 8 if big else 4
    while len(found) < MAX_PAGES:
        try:
            (offset,) = struct.unpack_from(order + offset_format, data, at)
            if offset == 0 or offset in found:
                break
            (entries,) = struct.unpack_from(order + count_format, data, offset)
        except (struct.error, OverflowError):  # beyond the end of the file
            break
        found[offset] = None
        at = offset + struct.calcsize(count_format) + entries * entry_bytes
    return list(found)


class _Mute(logging.Filter):
    """Lets no record through."""

    def filter(self, record: logging.LogRecord) -> bool:
        return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what tifffile and Pillow log and warn about odd files off the user's terminal."""
    mute = _Mute()
    loggers = [logging.getLogger(name) for name in ("tifffile", "PIL.TiffImagePlugin")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.addFilter(mute)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(mute)


def _decode(data: bytes, ifd: Any, page: int) -> TiffPicture:
    """Check, decode and convert one tifffile page."""
    _check_kind(ifd)
    _check_amounts(data, ifd)
    notes: list[str] = []
    inner_codec = None
    if ifd.compression in _LOSSY:
        inner_codec, label, always = _LOSSY[ifd.compression]
        notes.append(f"{'' if always else 'possibly '}lossy data inside: {label}")
    if ifd.subfiletype & 1:
        notes.append("this page is a reduced-size version of another picture")

    if _needs_pillow(ifd):
        pixels = _decode_with_pillow(data, page, notes)
    else:
        samples = ifd.asarray(squeeze=False, maxworkers=1, buffersize=1 << 24)
        if samples.dtype not in (np.bool_, np.uint8, np.uint16):
            raise CodecError(f"The strips hold {samples.dtype} samples. {_SUPPORTED}")
        # (plane, depth 1, H, W, sample) with either one plane or one sample
        samples = np.moveaxis(samples[:, 0, :, :, 0], 0, -1) if len(samples) > 1 else samples[0, 0]
        pixels = _convert(samples, ifd, notes)
    if ifd.photometric == _YCBCR and ifd.compression not in (_JPEG, _OJPEG):
        factors = "×".join(str(int(factor)) for factor in ifd.subsampling or (2, 2))
        notes.append(f"YCbCr with chroma subsampling {factors} converted to RGB")
    if 34675 in ifd.tags and not any("ICC" in note for note in notes):
        notes.append("ICC profile present, not applied")
    pixels = _oriented(pixels, ifd.tags.valueof(274), notes)
    return TiffPicture(np.ascontiguousarray(pixels), tuple(notes), ifd.bitspersample, inner_codec)


def _check_kind(ifd: Any) -> None:
    """Raise `CodecError` for pages that the conversions here cannot render rightly."""
    bits, samples = ifd.bitspersample, ifd.samplesperpixel
    check_size(int(ifd.imagewidth), int(ifd.imagelength))
    if ifd.imagedepth != 1:
        raise CodecError(
            f"The page is a volume of {ifd.imagedepth} planes. Allowed: flat pages. Save the "
            "planes as separate pages."
        )
    if not isinstance(bits, int) or ifd.sampleformat not in (1, 4) or not 1 <= bits <= 16:
        kind = {1: "unsigned", 2: "signed", 3: "float", 5: "complex", 6: "complex"}.get(
            ifd.sampleformat if isinstance(ifd.sampleformat, int) else 0, "unknown"
        )
        raise CodecError(
            f"Samples of this kind have no fixed range to show. Received: {kind}, bits={bits}. "
            f"{_SUPPORTED}"
        )
    name = getattr(ifd.photometric, "name", ifd.photometric)
    if ifd.photometric not in _COLOUR_SAMPLES:
        raise CodecError(f"Unsupported colour model. Received: {name}. {_SUPPORTED}")
    colours = _COLOUR_SAMPLES[ifd.photometric]
    if samples < colours or (colours == 1 and samples > 2):
        raise CodecError(
            f"{name} needs {colours} sample{'s' if colours > 1 else ''} a pixel and at most "
            f"some alpha. Received: {samples} samples. {_SUPPORTED}"
        )
    if ifd.photometric in (_CIELAB, _ICCLAB) and bits != 8:
        raise CodecError(f"CIELab of {bits} bits is not supported. {_SUPPORTED}")
    ink_set = ifd.tags.valueof(332)
    if ifd.photometric == _CMYK and ink_set not in (None, 1):
        raise CodecError(f"The inks are not CMYK. Received: InkSet={ink_set}. {_SUPPORTED}")


def _check_amounts(data: bytes, ifd: Any) -> None:
    """Raise `CodecError` when strips or tiles are missing, cut off, too many or unpack too large.

    Small files can announce huge tiles, point thousands of strips at the same bytes, or hold
    pictures in their strips that are far larger than the page.
    """
    width, height, samples = int(ifd.imagewidth), int(ifd.imagelength), int(ifd.samplesperpixel)
    sample_bytes = 2 if ifd.bitspersample > 8 else 1
    if ifd.is_tiled:
        side, rows = int(ifd.tilewidth), int(ifd.tilelength)
        if min(side, rows) < 1:
            raise CodecError(f"Damaged TIFF: tiles of {side}×{rows} pixels. Get an intact copy.")
        count = math.ceil(width / side) * math.ceil(height / rows)
    else:
        side, rows = width, max(1, min(int(ifd.rowsperstrip), height))
        count = math.ceil(height / rows)
    planes = samples if ifd.planarconfig == 2 else 1
    count *= planes
    segment_bytes = side * rows * (samples // planes) * sample_bytes
    if count > MAX_SEGMENTS:
        raise CodecError(f"The page has {count:,} strips or tiles. Allowed: {MAX_SEGMENTS:,}.")
    if max(count * segment_bytes, width * height * samples * sample_bytes) > MAX_DECODED_BYTES:
        raise CodecError(
            f"The page would unpack to {count * segment_bytes:,} bytes ({count:,} strips or tiles "
            f"of {side}×{rows}). Allowed: {MAX_DECODED_BYTES:,}."
        )

    starts = np.asarray(ifd.dataoffsets, np.float64)[:count]
    sizes = np.asarray(ifd.databytecounts, np.float64)[:count]
    if len(starts) < count or len(sizes) < count or (starts <= 0).any() or (sizes <= 0).any():
        raise CodecError(
            f"Strips or tiles are missing: the page needs {count:,}, and the file does not say "
            "where all of them are. The file is damaged or sparse; get an intact copy."
        )
    if ifd.compression == _NONE:
        # Some writers overstate the sizes of plain strips, which follow from the picture's size.
        sizes = np.minimum(sizes, segment_bytes)
    if (starts + sizes).max() > len(data):
        end = int((starts + sizes).max())
        raise CodecError(
            f"The file is truncated: its picture data ends at byte {end:,}. "
            f"Received: {len(data):,} bytes. Get an intact copy."
        )
    if sizes.sum() > MAX_DECODED_BYTES:
        raise CodecError(
            f"Strips or tiles share bytes and add up to {int(sizes.sum()):,}. "
            f"Allowed: {MAX_DECODED_BYTES:,}."
        )

    if ifd.compression in _BOUNDED:
        return
    if ifd.compression not in _INNER_SIZE:
        name = getattr(ifd.compression, "name", ifd.compression)
        raise CodecError(
            f"Unsupported TIFF compression. Received: {name}. Save the picture with LZW, Deflate "
            "or no compression."
        )
    # A picture within the picture brings its own header, which decides what is allocated.
    unpacked = 0
    for start, size in zip(starts.astype(int).tolist(), sizes.astype(int).tolist(), strict=True):
        inner_width, inner_height = _INNER_SIZE[ifd.compression](data[start : start + size])
        check_size(inner_width, inner_height)
        unpacked += inner_width * inner_height * max(3, samples) * 2
        if unpacked > 2 * MAX_DECODED_BYTES:
            raise CodecError(
                f"The pictures inside the strips or tiles unpack to over {MAX_DECODED_BYTES:,} "
                "samples, more than is allowed."
            )


def _needs_pillow(ifd: Any) -> bool:
    """True where tifffile has no decoder or returns YCbCr as it is, and libtiff does the job."""
    if ifd.compression == _OJPEG:
        return True
    return bool(ifd.photometric == _YCBCR and (ifd.compression != _JPEG or ifd.planarconfig == 2))


def _decode_with_pillow(data: bytes, page: int, notes: list[str]) -> Image:
    """Decode through Pillow's libtiff, which converts YCbCr; gray or RGB of 8 bits, as stored."""
    with _LIBTIFF_LOCK:
        # Pillow's own reader of uncompressed pictures knows no chroma subsampling.
        usual, TiffImagePlugin.READ_LIBTIFF = TiffImagePlugin.READ_LIBTIFF, True
        try:
            with PilImage.open(io.BytesIO(data), formats=["TIFF"]) as picture:
                picture.seek(page)
                check_size(*picture.size)
                picture.load()
                gray = picture.mode in ("1", "L")
                if not gray and picture.mode not in ("RGB", "RGBX", "RGBA"):
                    raise CodecError(f"Unsupported TIFF picture of Pillow mode {picture.mode}.")
                if picture.mode == "RGBA":
                    notes.append("alpha dropped")
                return np.array(picture.convert("L" if gray else "RGB"))
        finally:
            TiffImagePlugin.READ_LIBTIFF = usual


def _convert(samples: npt.NDArray[Any], ifd: Any, notes: list[str]) -> Image:
    """Decoded samples (H, W, S) to the contract array, with a note for every change."""
    bits, photometric = ifd.bitspersample, ifd.photometric
    colours = _COLOUR_SAMPLES[photometric]
    _note_extra_samples(ifd, colours, notes)
    samples = samples[:, :, :colours]
    if photometric == _PALETTE:
        return _expand_palette(samples[:, :, 0], ifd, notes)
    if bits != 8:
        notes.append(f"{bits} bit {'reduced' if bits > 8 else 'expanded'} to 8")
    if photometric in (_BLACK_IS_ZERO, _WHITE_IS_ZERO):
        gray = to_8_bits(samples[:, :, 0], bits)
        if photometric == _WHITE_IS_ZERO:
            notes.append("min-is-white inverted")
            gray = 255 - gray
        return gray
    if photometric in (_RGB, _YCBCR):
        return to_8_bits(samples, bits)
    if photometric == _CMYK:
        to_rgb = _cmyk_converter(ifd.tags.valueof(34675), notes)
        return by_rows(samples, lambda rows: to_rgb(to_8_bits(rows, bits)), (3,))
    notes.append("CIELab converted to sRGB")
    signed = photometric == _CIELAB
    transform = ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )
    return by_rows(samples, lambda rows: _lab_to_rgb(rows, transform, signed), (3,))


def _note_extra_samples(ifd: Any, colours: int, notes: list[str]) -> None:
    """Say which samples beyond the colours are dropped."""
    extra = ifd.samplesperpixel - colours
    kinds = [int(kind) for kind in ifd.extrasamples][:extra]
    if 1 in kinds:
        notes.append("associated alpha dropped, colours left premultiplied")
    elif 2 in kinds:
        notes.append("alpha dropped")
    elif extra > 0:
        notes.append(f"{extra} extra sample{'s' if extra > 1 else ''} of unknown meaning dropped")
    if (1 in kinds or 2 in kinds) and extra > 1:
        notes.append(f"{extra - 1} further extra sample{'s' if extra > 2 else ''} dropped")


def _expand_palette(indices: npt.NDArray[Any], ifd: Any, notes: list[str]) -> Image:
    """Palette indices (H, W) to RGB (H, W, 3)."""
    colormap = ifd.tags.valueof(320)
    if colormap is None:
        raise CodecError("The palette is missing: the file has no ColorMap tag.")
    colors = np.asarray(colormap, np.uint16).reshape(3, -1).T
    # Writers scale palettes by 256 or by 257, and careless ones not at all; the high byte is right
    # for both of the first.
    table = (colors >> 8 if colors.max() > 255 else colors).astype(np.uint8)
    if int(indices.max()) >= len(table):
        raise CodecError(
            f"Damaged palette picture: index {int(indices.max())} of {len(table)} colours."
        )
    notes.append(f"palette of {len(table)} colours expanded")
    if colors.max() <= 255 < len(colors):
        notes.append("palette taken as 8 bit")
    return by_rows(indices, lambda rows: table[rows.astype(np.uint16)], (3,))


def _cmyk_converter(profile: Any, notes: list[str]) -> Callable[[Image], Image]:
    """Function from CMYK (h, W, 4) to RGB (h, W, 3), by the ICC profile where one serves."""
    transform = None
    if isinstance(profile, bytes):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            transform = ImageCms.buildTransform(
                source, ImageCms.createProfile("sRGB"), "CMYK", "RGB"
            )
            notes.append("CMYK converted to sRGB by the embedded ICC profile")
        except (OSError, ImageCms.PyCMSError, TypeError, ValueError):
            notes.append("embedded ICC profile unusable; CMYK converted to RGB without a profile")
    else:
        notes.append("CMYK converted to RGB without a profile")

    def to_rgb(rows: Image) -> Image:
        height, width = rows.shape[:2]
        picture = PilImage.frombytes("CMYK", (width, height), rows.tobytes())
        if transform is None:
            return np.asarray(picture.convert("RGB"))
        return np.asarray(ImageCms.applyTransform(picture, transform))

    return to_rgb


def _lab_to_rgb(rows: npt.NDArray[Any], transform: Any, signed: bool) -> Image:
    """8-bit CIELab (h, W, 3) to sRGB; Pillow's LAB bytes have a* and b* signed, ICC's plus 128."""
    bytes_ = (rows if signed else rows ^ np.array([0, 128, 128], np.uint8)).tobytes()
    picture = PilImage.frombytes("LAB", (rows.shape[1], rows.shape[0]), bytes_)
    return np.asarray(ImageCms.applyTransform(picture, transform))


def _oriented(pixels: Image, orientation: Any, notes: list[str]) -> Image:
    """Pixels turned so that row 0 is the visual top (TIFF 6.0, tag 274)."""
    if orientation in (None, 0, 1):
        return pixels
    if orientation not in range(2, 9):
        notes.append(f"unknown orientation {orientation!r:.20} ignored")
        return pixels
    notes.append(f"orientation {int(orientation)} applied")
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
