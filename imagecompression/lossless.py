"""PNG (ISO/IEC 15948) as the lossless path: the class *uncompressed* is made like all others."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import ClassVar

import PIL
from PIL import Image as PilImage
from PIL import features

from imagecompression.codec import Codec, Image, check_image
from imagecompression.pillow_image import gray_or_rgb, open_checked


@dataclass(frozen=True)
class Lossless(Codec):
    """PNG without loss: 8-bit gray or RGB, so that decoding gives the very samples encoded.

    >>> import numpy as np
    >>> int(Lossless.decode(Lossless().encode(np.full((2, 3), 7, np.uint8)))[1, 2])
    7
    """

    name: ClassVar[str] = "uncompressed"
    suffix: ClassVar[str] = ".png"

    def encode(self, image: Image) -> bytes:
        out = io.BytesIO()
        PilImage.fromarray(check_image(image)).save(out, "PNG")
        return out.getvalue()

    @classmethod
    def decode(cls, data: bytes) -> Image:
        with open_checked(data, "PNG") as picture:
            return gray_or_rgb(picture)

    @classmethod
    def matches(cls, data: bytes) -> bool:
        """True for PNG with samples; a PNG with a palette (colour type 3) is `kmeans`."""
        return data[:8] == b"\x89PNG\r\n\x1a\n" and data[25:26] != b"\x03"

    @classmethod
    def version(cls) -> str:
        return f"zlib {features.version('zlib')} (Pillow {PIL.__version__})"
