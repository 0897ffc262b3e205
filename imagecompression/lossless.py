"""PNG (ISO/IEC 15948) as the lossless path: the class *uncompressed* is made like all others."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import ClassVar

import PIL
from PIL import Image as PilImage
from PIL import PngImagePlugin, features

from imagecompression.codec import Codec, Extras, Image, check_image
from imagecompression.pillow_image import extras_of, gray_or_rgb, open_checked


@dataclass(frozen=True)
class Lossless(Codec):
    """PNG without loss: 8-bit gray or RGB, so that decoding gives the very samples encoded.

    >>> import numpy as np
    >>> int(Lossless.decode(Lossless().encode(np.full((2, 3), 7, np.uint8)))[1, 2])
    7
    """

    name: ClassVar[str] = "uncompressed"
    suffix: ClassVar[str] = ".png"
    keeps: ClassVar[frozenset[str]] = frozenset({"alpha", "exif", "icc", "xmp"})

    def encode(self, image: Image) -> bytes:
        return self.encode_with(image, Extras())

    def encode_with(self, image: Image, extras: Extras) -> bytes:
        picture = PilImage.fromarray(check_image(image))
        self._check_extras(image, extras)
        if extras.alpha is not None:
            picture.putalpha(PilImage.fromarray(extras.alpha))
        chunks = PngImagePlugin.PngInfo()
        if extras.xmp is not None:
            chunks.add_itxt("XML:com.adobe.xmp", extras.xmp.decode("utf-8", "replace"))
        out = io.BytesIO()
        picture.save(out, "PNG", pnginfo=chunks, exif=extras.exif, icc_profile=extras.icc)
        return out.getvalue()

    @classmethod
    def decode(cls, data: bytes) -> Image:
        with open_checked(data, "PNG") as picture:
            return gray_or_rgb(picture)

    @classmethod
    def decode_with(cls, data: bytes) -> tuple[Image, Extras]:
        with open_checked(data, "PNG") as picture:
            return gray_or_rgb(picture), extras_of(picture)

    @classmethod
    def matches(cls, data: bytes) -> bool:
        """True for PNG with samples; a PNG with a palette (colour type 3) is `kmeans`."""
        return data[:8] == b"\x89PNG\r\n\x1a\n" and data[25:26] != b"\x03"

    @classmethod
    def version(cls) -> str:
        return f"zlib {features.version('zlib')} (Pillow {PIL.__version__})"
