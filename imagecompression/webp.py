"""WebP (RFC 9649), lossy, through Pillow, that is libwebp."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import PIL
from PIL import ExifTags, features
from PIL import Image as PilImage

from imagecompression.codec import (
    Codec,
    CodecError,
    CodecUnavailableError,
    Extras,
    Image,
    Knob,
    check_image,
    check_size,
)
from imagecompression.embedded_size import webp_size
from imagecompression.pillow_image import extras_of, gray_or_rgb, open_checked

MAX_SIDE = 16383
BLACK_IS_ZERO = 1
"""EXIF's PhotometricInterpretation of gray samples (TIFF 6.0, section 4)."""


@dataclass(frozen=True)
class WebP(Codec):
    """Lossy WebP, one VP8 key frame in 4:2:0; never the lossless VP8L.

    WebP has no gray pictures: one is encoded as RGB and marked gray in the file's EXIF block.

    Attributes:
        quality: 0 … 100, higher is better; 100 is lossy, too.
        method: 0 … 6, from fast to thorough; cwebp's and Pillow's default is 4.

    >>> import numpy as np
    >>> WebP.decode(WebP(quality=90).encode(np.zeros((8, 8), np.uint8))).shape
    (8, 8)
    """

    quality: float = 75.0
    method: int = 4

    name: ClassVar[str] = "webp"
    suffix: ClassVar[str] = ".webp"
    knob: ClassVar[Knob] = Knob("quality", 0, 100, 0.5, rises_with_size=True)
    ratio_tolerance: ClassVar[float] = 0.05
    ssim_tolerance: ClassVar[float] = 0.01
    keeps: ClassVar[frozenset[str]] = frozenset({"alpha", "exif", "icc", "xmp"})

    def __post_init__(self) -> None:
        self._check_range("quality", 0, 100, integer=False)
        self._check_range("method", 0, 6)

    def encode(self, image: Image) -> bytes:
        return self.encode_with(image, Extras())

    def encode_with(self, image: Image, extras: Extras) -> bytes:
        """Encode colours with loss and alpha without."""
        image = check_image(image)
        self._check_extras(image, extras)
        if max(image.shape[:2]) > MAX_SIDE:
            raise CodecError(
                f"WebP sides are at most {MAX_SIDE} pixels. "
                f"Received: {image.shape[1]}×{image.shape[0]}"
            )
        picture = PilImage.fromarray(image).convert("RGB")
        if extras.alpha is not None:
            picture.putalpha(PilImage.fromarray(extras.alpha))
        exif = PilImage.Exif()
        if extras.exif is not None:
            exif.load(extras.exif)
        if image.ndim == 2:
            exif[ExifTags.Base.PhotometricInterpretation] = BLACK_IS_ZERO
        out = io.BytesIO()
        picture.save(
            out,
            "WEBP",
            lossless=False,
            quality=self.quality,
            method=self.method,
            # Colours under full transparency are part of the picture, too.
            exact=True,
            exif=exif.tobytes() if image.ndim == 2 else extras.exif or b"",
            icc_profile=extras.icc,
            xmp=extras.xmp or b"",
        )
        return out.getvalue()

    @classmethod
    def decode(cls, data: bytes) -> Image:
        """Decode the (first) picture; transparency is dropped."""
        return cls.decode_with(data)[0]

    @classmethod
    def decode_with(cls, data: bytes) -> tuple[Image, Extras]:
        check_size(*webp_size(data))  # Pillow takes memory for it when it opens the file
        with open_checked(data, "WEBP") as picture:
            pixels = gray_or_rgb(picture)
            photometric = picture.getexif().get(ExifTags.Base.PhotometricInterpretation)
            if photometric == BLACK_IS_ZERO:
                pixels = np.ascontiguousarray(pixels[..., 1])
            return pixels, extras_of(picture)

    @classmethod
    def matches(cls, data: bytes) -> bool:
        return data[:4] == b"RIFF" and data[8:12] == b"WEBP"

    @classmethod
    def version(cls) -> str:
        found = features.version("webp")
        if found is None:
            raise CodecUnavailableError(
                "WebP needs Pillow with libwebp, as in Pillow's own wheels (pip install pillow)."
            )
        return f"libwebp {found} (Pillow {PIL.__version__})"

    @classmethod
    def variants(cls) -> tuple[Codec, ...]:
        return tuple(cls(method=method) for method in (4, 6, 2, 0))
