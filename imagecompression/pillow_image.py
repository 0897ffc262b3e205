"""Opening untrusted bytes with Pillow: one format only, size checked before pixels are read."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image as PilImage
from PIL import UnidentifiedImageError

from imagecompression.codec import CodecError, Extras, Image, check_size


def gray_or_rgb(picture: PilImage.Image) -> Image:
    """The picture's samples: `(H, W)` for gray, else `(H, W, 3)` RGB; alpha is dropped."""
    return np.array(picture.convert("L" if picture.mode in ("L", "LA") else "RGB"))


def extras_of(picture: PilImage.Image) -> Extras:
    """What goes along with the colours of an opened picture.

    An ICC profile counts only where it is one of the samples that `gray_or_rgb` gives: a CMYK
    picture's is not.
    """
    info = picture.info
    alpha = None
    if picture.has_transparency_data:
        alpha = np.array(picture.convert("RGBA").getchannel("A"))
    icc, space = info.get("icc_profile"), b"GRAY" if picture.mode in ("L", "LA") else b"RGB "
    exif, xmp = info.get("exif"), info.get("xmp")
    return Extras(
        alpha=alpha,
        exif=exif.removeprefix(b"Exif\0\0") if exif else None,
        icc=icc if icc and icc[16:20] == space else None,
        xmp=xmp.encode() if isinstance(xmp, str) else xmp or None,
    )


@contextmanager
def open_checked(data: bytes, pillow_format: str) -> Iterator[PilImage.Image]:
    """Open `data` as `pillow_format`, refuse it by its header's size, then load its pixels.

    Raises:
        CodecError: Another format, damaged or truncated data, or over `MAX_PIXELS` pixels.
    """
    try:
        with warnings.catch_warnings():
            # check_size is the limit here, and odd metadata is no reason to refuse the pixels.
            warnings.simplefilter("ignore")
            with PilImage.open(io.BytesIO(data), formats=[pillow_format]) as picture:
                check_size(*picture.size)
                picture.load()
                yield picture
    except CodecError:
        raise
    except (
        UnidentifiedImageError,
        PilImage.DecompressionBombError,
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        IndexError,
        struct.error,
        zlib.error,
    ) as error:
        raise CodecError(f"Not a readable {pillow_format} file: {error}") from error
