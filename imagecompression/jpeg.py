"""JPEG (ISO/IEC 10918-1) through Pillow, that is libjpeg-turbo."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from typing import ClassVar

import PIL
from PIL import Image as PilImage
from PIL import ImageFile, features

from imagecompression.codec import Codec, CodecError, Image, Knob, check_image
from imagecompression.pillow_image import gray_or_rgb, open_checked

SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}
_BUFFER_LOCK = threading.Lock()


@dataclass(frozen=True)
class Jpeg(Codec):
    """JPEG with the standard's example tables scaled by `quality`, as libjpeg does.

    Attributes:
        quality: 1 … 100, higher is better.
        subsampling: Chroma format, one of ``4:4:4``, ``4:2:2``, ``4:2:0``; unused for gray.
        progressive: Spectral selection and successive approximation instead of one scan.
        optimize: Huffman tables made for the picture instead of the standard's.

    >>> import numpy as np
    >>> Jpeg.decode(Jpeg(quality=90).encode(np.zeros((8, 8, 3), np.uint8))).shape
    (8, 8, 3)
    """

    quality: int = 75
    subsampling: str = "4:2:0"
    progressive: bool = False
    optimize: bool = False

    name: ClassVar[str] = "jpeg"
    suffix: ClassVar[str] = ".jpg"
    other_suffixes: ClassVar[tuple[str, ...]] = (".jpeg", ".jpe")
    knob: ClassVar[Knob] = Knob("quality", 1, 100, 1, rises_with_size=True)
    ratio_tolerance: ClassVar[float] = 0.05
    ssim_tolerance: ClassVar[float] = 0.01

    def __post_init__(self) -> None:
        self._check_range("quality", 1, 100)
        self._check_choice("subsampling", tuple(SUBSAMPLINGS))
        self._check_choice("progressive", (False, True))
        self._check_choice("optimize", (False, True))

    def encode(self, image: Image) -> bytes:
        image = check_image(image)
        if max(image.shape[:2]) > 65_500:
            raise CodecError(
                f"JPEG sides are at most 65500 pixels. Received: {image.shape[1]}×{image.shape[0]}"
            )
        out = io.BytesIO()
        chroma = {"subsampling": SUBSAMPLINGS[self.subsampling]} if image.ndim == 3 else {}
        with _BUFFER_LOCK:
            # Pillow's buffer is too small for optimised scans of noise; libjpeg then gives up.
            usual, ImageFile.MAXBLOCK = ImageFile.MAXBLOCK, 2 * image.size + 65_536
            try:
                PilImage.fromarray(image).save(
                    out,
                    "JPEG",
                    quality=self.quality,
                    progressive=self.progressive,
                    optimize=self.optimize,
                    **chroma,
                )
            finally:
                ImageFile.MAXBLOCK = usual
        return out.getvalue()

    @classmethod
    def decode(cls, data: bytes) -> Image:
        with open_checked(data, "JPEG") as picture:
            return gray_or_rgb(picture)

    @classmethod
    def matches(cls, data: bytes) -> bool:
        return data[:3] == b"\xff\xd8\xff"

    @classmethod
    def version(cls) -> str:
        return f"libjpeg-turbo {features.version('libjpeg_turbo')} (Pillow {PIL.__version__})"

    @classmethod
    def variants(cls) -> tuple[Codec, ...]:
        return tuple(
            cls(subsampling=subsampling, progressive=progressive, optimize=progressive)
            for subsampling in SUBSAMPLINGS
            for progressive in (False, True)
        )
