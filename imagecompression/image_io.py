"""Picture files to and from the contract array: TIFF, PNG and every registered codec's files.

Files are told apart by their first bytes, never by their suffix: evidence is often misnamed. What
had to be converted on the way is reported in `LoadedImage.notes`.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image as PilImage
from PIL import ImageCms

from imagecompression.atomic_file import write_bytes_atomic
from imagecompression.bit_depth import by_rows, to_8_bits
from imagecompression.codec import (
    Codec,
    CodecError,
    CodecUnavailableError,
    Extras,
    Image,
    check_image,
    check_size,
)
from imagecompression.jpeg2000 import sample_bits
from imagecompression.lossless import Lossless
from imagecompression.pillow_image import extras_of, open_checked
from imagecompression.tiff import TiffPicture, matches_tiff, read_tiff

MAX_FILE_BYTES = 1 << 30
"""Larger files are refused before they are read."""

WRITE_SUFFIXES = (".png", ".tif", ".tiff")
"""What `write_image` writes: lossless formats only."""

SRGB_TOLERANCE = 2
"""A profile that moves no colour by more than this many levels of 255 is sRGB by another name."""

_PROFILE_IDLE = "ICC profile present, not applied"
_EXTRA_SAMPLES, _XMP = 338, 700
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_GRAY, _RGB, _PALETTE, _GRAY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_PNG_SAMPLES = {_GRAY: 1, _RGB: 3, _PALETTE: 1, _GRAY_ALPHA: 2, _RGB_ALPHA: 4}


class ImageReadError(CodecError):
    """A file that cannot be read as a picture; the message names it and says what to do."""


class UnknownFormatError(CodecError):
    """Bytes that are no picture of a known kind."""


class ImageWriteError(CodecError):
    """A file name under which no picture can be written."""


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """A picture read from a file, with what happened on the way.

    Attributes:
        pixels: `uint8` (H, W) gray or (H, W, 3) RGB, C-contiguous.
        notes: One phrase for each conversion, in order; empty when the samples are as stored.
        format: ``"tiff"``, ``"png"`` or the name of a codec of `imagecompression.CODECS`.
        bit_depth: Bits a sample in the file, as far as its header tells; else 8.
        sha256: Hexadecimal SHA-256 of the file's bytes.
        inner_codec: For TIFF, the name of the (possibly) lossy codec of its strips or tiles.
    """

    pixels: Image
    notes: tuple[str, ...]
    format: str
    bit_depth: int
    sha256: str
    inner_codec: str | None = None


def read_image(path: str | os.PathLike[str], *, page: int = 0) -> Image:
    """Pixels of a picture file as `uint8` (H, W) gray or (H, W, 3) RGB; see `load_image`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_image(Path(folder, "a.tif"), np.full((2, 3), 7, np.uint8))
    ...     read_image(Path(folder, "a.tif")).tolist()
    [[7, 7, 7], [7, 7, 7]]

    Raises:
        ImageReadError: See `load_image`.
        CodecUnavailableError: The codec of the file cannot be used on this machine.
    """
    return load_image(path, page=page).pixels


def load_image(path: str | os.PathLike[str], *, page: int = 0) -> LoadedImage:
    """Read TIFF, PNG or a codec's file, told apart by its first bytes, and note every conversion.

    16-bit samples are scaled to 8, alpha is dropped, palettes, CMYK and CIELab become RGB, and a
    TIFF's orientation is applied. A JPEG's or PNG's EXIF orientation is only noted: turning the
    pixels would move the block grid that forensics looks for. RGB and gray ICC profiles are noted
    and not applied, since that would blur the traces of a codec; see `load_srgb`.

    Args:
        path: The file; its suffix does not matter.
        page: Page of a multi-page TIFF, from 0.

    Raises:
        ImageReadError: Missing, unreadable, empty, damaged, too large, not a picture of a known
            kind, or without such a page.
        CodecUnavailableError: The codec of the file cannot be used on this machine.
    """
    return decode_image(read_bytes(path), os.fspath(path), page=page)


def decode_image(data: bytes, name: str, *, page: int = 0) -> LoadedImage:
    """`load_image` of a file's bytes that are in memory already.

    Args:
        data: The whole file.
        name: What messages call it.
        page: Page of a multi-page TIFF, from 0.

    Raises:
        ImageReadError: See `load_image`.
        CodecUnavailableError: See `load_image`.
    """
    try:
        return _load(data, page)
    except CodecUnavailableError as error:
        raise CodecUnavailableError(f"Cannot read {name!r}: {error}") from error
    except CodecError as error:
        raise ImageReadError(f"Cannot read {name!r}: {error}") from error
    except Exception as error:  # decoders of untrusted data: MemoryError, RecursionError, anything
        raise ImageReadError(
            f"Cannot read {name!r}: damaged ({type(error).__name__}: {str(error)[:200]})"
        ) from error


def load_srgb(path: str | os.PathLike[str]) -> tuple[LoadedImage, LoadedImage]:
    """A picture as stored and the same in sRGB, for pictures that are to be looked at or encoded.

    The second has its RGB or gray samples taken through their embedded ICC profile to sRGB:
    relative colorimetric with black point compensation, as photo editors do it; colours outside
    sRGB are clipped. 16-bit samples are reduced to 8 bits first, as `load_image` does it. The
    samples stay as they are where there is no profile, where it means sRGB (to `SRGB_TOLERANCE`
    levels), and where it cannot be used. The notes say which of these it was.

    Raises:
        ImageReadError: See `load_image`.
        CodecUnavailableError: See `load_image`.
    """
    loaded = load_image(path)
    if _PROFILE_IDLE not in loaded.notes:
        return loaded, loaded
    try:
        with PilImage.open(path, formats=["TIFF", "PNG"]) as picture:  # reads the header alone
            profile = picture.info["icc_profile"]
        pixels, note = _through_profile(loaded.pixels, profile)
    except Exception:  # the profile is untrusted, and the pixels serve without it
        pixels, note = loaded.pixels, "embedded ICC profile unusable, not applied"
    notes = tuple(note if each == _PROFILE_IDLE else each for each in loaded.notes)
    return loaded, replace(loaded, pixels=pixels, notes=notes)


def load_extras(path: str | os.PathLike[str]) -> Extras:
    """Alpha and metadata of the file whose colours `load_image` reads.

    Alpha that the colours are multiplied with, and profiles of other colours than the RGB or gray
    that `load_image` gives, are left out. A TIFF's EXIF directories are not read.

    Raises:
        ImageReadError: The file cannot be read.
        CodecUnavailableError: The codec of the file cannot be used on this machine.
    """
    return decode_extras(read_bytes(path), os.fspath(path))


def decode_extras(data: bytes, name: str) -> Extras:
    """`load_extras` of a file's bytes that are in memory already.

    Args:
        data: The whole file.
        name: What messages call it.

    Raises:
        ImageReadError: See `load_extras`.
        CodecUnavailableError: See `load_extras`.
    """
    try:
        if matches_tiff(data):
            with open_checked(data, "TIFF") as picture:
                extras = extras_of(picture)
                straight = 1 not in (getattr(picture, "tag_v2", {}).get(_EXTRA_SAMPLES) or ())
            return extras if straight else extras.only(frozenset({"icc", "xmp"}))
        if data[:8] == _PNG_MAGIC:  # with a palette, too
            return Lossless.decode_with(data)[1]
        codec = next((codec for codec in _codecs().values() if codec.matches(data)), None)
        return Extras() if codec is None else codec.decode_with(data)[1]
    except CodecUnavailableError:
        raise
    except Exception as error:  # decoders of untrusted data
        raise ImageReadError(
            f"Cannot read alpha and metadata of {name!r}: {str(error)[:200]}"
        ) from error


def write_image(path: str | os.PathLike[str], image: Image, extras: Extras | None = None) -> None:
    """Write `image` without loss as PNG or Deflate-compressed TIFF, by the suffix of `path`.

    The file appears complete or not at all. PNG takes all extras, TIFF all but EXIF.

    Raises:
        ImageWriteError: Another suffix.
        CodecError: The image is outside the contract.
        OSError: The file cannot be written.
    """
    image = check_image(image)
    extras = Extras() if extras is None else extras
    suffix = Path(path).suffix.lower()
    if suffix == ".png":
        write_bytes_atomic(path, Lossless().encode_with(image, extras))
    elif suffix in (".tif", ".tiff"):
        import tifffile  # slow to import

        out = io.BytesIO()
        kind = "minisblack" if image.ndim == 2 else "rgb"
        samples, kinds, tags = image, None, []
        if extras.alpha is not None:
            samples, kinds = np.dstack((image, extras.alpha)), ["unassalpha"]
        if extras.xmp is not None:
            tags.append((_XMP, 1, len(extras.xmp), extras.xmp, True))
        tifffile.imwrite(
            out, samples, photometric=kind, planarconfig="contig", extrasamples=kinds,
            compression="zlib", predictor=True, iccprofile=extras.icc, extratags=tags,
            metadata=None,
        )  # fmt: skip
        write_bytes_atomic(path, out.getvalue())
    else:
        raise ImageWriteError(
            f"Pictures are written as {', '.join(WRITE_SUFFIXES)}; use a codec's encode for its "
            f"own format. Received: {os.fspath(path)!r}"
        )


def suffix_codec(path: str | os.PathLike[str]) -> str | None:
    """Name of the codec that uses the suffix of `path`, or None; the file is not looked at.

    >>> suffix_codec("holiday.JPEG")
    'jpeg'
    """
    suffix = Path(path).suffix.lower()
    for name, codec in _codecs().items():
        if suffix in (codec.suffix, *codec.other_suffixes):
            return name
    return None


def _codecs() -> dict[str, type[Codec]]:
    """The registry, imported late because it imports the codecs, and `imagecompression` this."""
    from imagecompression import CODECS

    return CODECS


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a regular file of 1 … `MAX_FILE_BYTES` bytes.

    Raises:
        ImageReadError: Missing, unreadable, empty, too large, a folder or a special file.
    """
    name = repr(os.fspath(path))
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe or device could wait forever
            kind = "folder" if stat.S_ISDIR(status.st_mode) else "special file"
            raise ImageReadError(f"Cannot read {name}: it is a {kind}. Give one picture file.")
        if status.st_size > MAX_FILE_BYTES:
            raise ImageReadError(
                f"Cannot read {name}: the file is too large. Received: {status.st_size:,} bytes. "
                f"Allowed: {MAX_FILE_BYTES:,}."
            )
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, ImageReadError):
            raise
        raise ImageReadError(
            f"Cannot read {name}: {getattr(error, 'strerror', None) or error}. Check the path and "
            "the permissions."
        ) from error
    if not data:
        raise ImageReadError(f"Cannot read {name}: the file is empty. Get an intact copy.")
    return data


def _load(data: bytes, page: int) -> LoadedImage:
    """Dispatch on the magic bytes; raises `CodecError` without the file's name."""
    sha256 = hashlib.sha256(data).hexdigest()
    if matches_tiff(data):
        tiff = read_tiff(data, page)
        return LoadedImage(
            tiff.pixels, tiff.notes, "tiff", tiff.bit_depth, sha256, tiff.inner_codec
        )
    codec = next((codec for codec in _codecs().values() if codec.matches(data)), None)
    if codec is None and data[:8] != _PNG_MAGIC:
        raise UnknownFormatError(
            f"not a picture of a known kind. Received: a file that starts with {data[:8]!r}. "
            f"Allowed: TIFF, PNG and the codecs {', '.join(_codecs())}."
        )
    if page != 0:
        raise CodecError(
            f"only TIFF files have pages. Received: page={page}. Allowed: 0 for this file."
        )
    if data[:8] == _PNG_MAGIC:
        png = _read_png(data, codec)
        name = "png" if codec is None else codec.name
        return LoadedImage(png.pixels, png.notes, name, png.bit_depth, sha256)
    assert codec is not None
    pixels = check_image(codec.decode(data))
    notes = _header_notes(data, "JPEG") if codec.name == "jpeg" else []
    bit_depth = sample_bits(data) if codec.name == "jpeg2000" else 8
    if bit_depth > 8:
        notes.append(f"{bit_depth} bit reduced to 8")
    return LoadedImage(pixels, tuple(notes), codec.name, bit_depth, sha256)


def _through_profile(pixels: Image, profile: bytes) -> tuple[Image, str]:
    """Pixels in sRGB and a note; raises anything on a profile that is damaged or of other colours.

    Littlecms is asked for all 256 grays, or a lattice of colours, to see whether anything changes.
    """
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    name = "".join(filter(str.isprintable, ImageCms.getProfileDescription(source)))[:60]
    gray = pixels.ndim == 2
    transform = ImageCms.buildTransform(
        source, ImageCms.createProfile("sRGB"), "L" if gray else "RGB", "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )  # fmt: skip

    def to_srgb(rows: Image) -> Image:
        converted = np.asarray(ImageCms.applyTransform(PilImage.fromarray(rows), transform))
        return converted[:, :, 1] if gray else converted  # grays have three equal samples

    if gray:
        probe = np.arange(256, dtype=np.uint8)[None]
    else:
        levels = np.linspace(0, 255, 18).astype(np.uint8)
        probe = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    change = np.abs(to_srgb(probe).astype(int) - probe).max()
    if change <= SRGB_TOLERANCE:
        return pixels, f"ICC profile {name!r} is sRGB"
    return by_rows(pixels, to_srgb, pixels.shape[2:]), f"ICC profile {name!r} converted to sRGB"


def _read_png(data: bytes, codec: type[Codec] | None) -> TiffPicture:
    """Decode PNG of any kind; palette pictures by their codec, where one claims them."""
    try:
        width, height, bits, kind = struct.unpack_from(">IIBB", data, 16)
    except struct.error as error:
        raise CodecError("truncated PNG: the header is cut off. Get an intact copy.") from error
    check_size(width, height)
    if data[12:16] != b"IHDR" or kind not in _PNG_SAMPLES:
        raise CodecError(f"damaged PNG header. Received: colour type {kind}. Get an intact copy.")
    notes = _header_notes(data, "PNG")
    if bits == 16:
        import imagecodecs  # slow to import

        # Pillow cuts 16-bit RGB down to its high bytes; this keeps all 16 bits to be rounded.
        with open_checked(data, "PNG"):  # checks the chunks' CRCs and that all data is there
            pass
        pixels = np.asarray(imagecodecs.png_decode(data))
        pixels = pixels.reshape(height, width, -1)[:, :, : 3 if kind in (_RGB, _RGB_ALPHA) else 1]
        pixels = to_8_bits(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, 16)
        notes.insert(0, "16 bit reduced to 8")
    elif kind == _PALETTE and codec is not None:
        pixels = codec.decode(data)
        notes.insert(0, "palette expanded")
    else:
        with open_checked(data, "PNG") as picture:
            pixels = np.array(picture.convert("L" if kind in (_GRAY, _GRAY_ALPHA) else "RGB"))
        if kind == _PALETTE:
            notes.insert(0, "palette expanded")
        elif bits < 8:
            notes.insert(0, f"{bits} bit expanded to 8")
    if kind in (_GRAY_ALPHA, _RGB_ALPHA):
        notes.append("alpha dropped")
    return TiffPicture(check_image(pixels), tuple(notes), bits, None)


def _header_notes(data: bytes, pillow_format: str) -> list[str]:
    """Notes on what a JPEG or PNG header says and the decoded pixels do not show."""
    notes = []
    try:
        with PilImage.open(io.BytesIO(data), formats=[pillow_format]) as picture:
            if picture.mode == "CMYK":
                notes.append("CMYK converted to RGB without a profile")
            if "transparency" in picture.info:
                notes.append("transparent colour dropped")
            if picture.info.get("icc_profile"):
                notes.append(_PROFILE_IDLE)
            if getattr(picture, "is_animated", False):
                notes.append("first picture of several read")
            orientation = picture.getexif().get(0x0112, 1)
            if orientation in range(2, 9):
                notes.append(f"EXIF orientation {orientation} not applied")
    except Exception:  # optional metadata, damaged in any way; the pixels are judged elsewhere
        notes.append("unreadable metadata")
    return notes
