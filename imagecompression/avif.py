"""AVIF (AV1 Image File Format, version 1.2) through Pillow, that is libavif with libaom."""

from __future__ import annotations

import importlib.metadata
import io
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import PIL
from PIL import Image as PilImage
from PIL import features

from imagecompression.bit_depth import to_8_bits
from imagecompression.codec import (
    Codec,
    CodecError,
    CodecUnavailableError,
    Image,
    Knob,
    check_image,
    check_size,
)
from imagecompression.isobmff import brands
from imagecompression.libavif import encode_10_bits
from imagecompression.pillow_image import gray_or_rgb, open_checked

BRANDS = (b"avif", b"avis")
SUBSAMPLINGS = ("4:2:0", "4:2:2", "4:4:4")
TUNES = ("iq", "ssim", "psnr")
_USUAL_STRENGTH = 100
MAX_SIDE = 32768
"""libavif reads no longer side, though AV1 goes to 65536."""


@dataclass(frozen=True)
class Avif(Codec):
    """AVIF with one AV1 picture in one tile, YCbCr BT.601; gray pictures become monochrome.

    Attributes:
        quality: 0 … 99, higher is better. libavif maps it to AV1's 64 quantisers, so some
            neighbours give the same file. 100 would turn on AV1's lossless coding and is refused.
        subsampling: Chroma format, ``"4:2:0"``, ``"4:2:2"`` or ``"4:4:4"``; unused for gray.
        speed: 0 … 10 from thorough to fast; 6 is avifenc's and Pillow's default.
        tune: What libaom optimises for: ``"iq"`` (perceived quality, quantisation matrices;
            libavif's choice since 1.4), ``"ssim"`` (its choice before) or ``"psnr"``.
        full_range: Luma of 0 … 255 instead of the limited 16 … 235.
        bit_depth: Bits a sample that are coded, 8 or 10; the picture itself has 8. 10 bits give up
            to 0.7 dB more at equal size, for less is lost in the colour conversion.
        deltaq_strength: 0 … 100 % of the bits that libaom's tune ``"iq"`` gives to flat blocks in
            addition; avifenc has it as ``-a deltaq-strength=…``. 100 with the other tunes.

    >>> import numpy as np
    >>> Avif.decode(Avif(quality=80).encode(np.zeros((8, 8, 3), np.uint8))).shape
    (8, 8, 3)
    """

    quality: int = 75
    subsampling: str = "4:2:0"
    speed: int = 6
    tune: str = "iq"
    full_range: bool = True
    bit_depth: int = 8
    deltaq_strength: int = _USUAL_STRENGTH

    name: ClassVar[str] = "avif"
    suffix: ClassVar[str] = ".avif"
    other_suffixes: ClassVar[tuple[str, ...]] = (".avifs",)
    knob: ClassVar[Knob] = Knob("quality", 0, 99, 1, rises_with_size=True)
    fine_knob: ClassVar[Knob | None] = Knob("deltaq_strength", 5, 100, 1, rises_with_size=True)
    """With tune ``"iq"`` alone: others have none."""
    ratio_tolerance: ClassVar[float] = 0.02
    ssim_tolerance: ClassVar[float] = 0.003

    def __post_init__(self) -> None:
        self._check_range("quality", 0, 99)
        self._check_choice("subsampling", SUBSAMPLINGS)
        self._check_range("speed", 0, 10)
        self._check_choice("tune", TUNES)
        self._check_choice("full_range", (False, True))
        self._check_choice("bit_depth", (8, 10))
        self._check_range("deltaq_strength", 0, 100)
        if self.tune != "iq":
            object.__setattr__(self, "fine_knob", None)
            object.__setattr__(self, "ratio_tolerance", 0.07)
            object.__setattr__(self, "ssim_tolerance", 0.007)
            if self.deltaq_strength != _USUAL_STRENGTH:
                raise CodecError(
                    f'{self.name} deltaq_strength acts with tune "iq" only. '
                    f"Received: deltaq_strength={self.deltaq_strength}, tune={self.tune!r}"
                )

    def encode(self, image: Image) -> bytes:
        image = check_image(image)
        height, width = image.shape[:2]
        if max(height, width) > MAX_SIDE:
            raise CodecError(
                f"AVIF sides are at most {MAX_SIDE} pixels. Received: {width}×{height}"
            )
        try:
            if self.bit_depth == 8:
                return self._encode_8_bits(image)
            return encode_10_bits(
                image,
                quality=self.quality,
                subsampling=self.subsampling,
                speed=self.speed,
                full_range=self.full_range,
                options=self._options(),
            )
        except CodecError:
            raise
        except (RuntimeError, OSError, ValueError, MemoryError) as error:
            raise CodecError(
                f"libavif could not encode {width}×{height} pixels: {error}"
            ) from error

    def _encode_8_bits(self, image: Image) -> bytes:
        out = io.BytesIO()
        PilImage.fromarray(image).save(
            out,
            "AVIF",
            quality=self.quality,
            subsampling=self.subsampling if image.ndim == 3 else "4:0:0",
            speed=self.speed,
            range="full" if self.full_range else "limited",
            codec="aom",
            max_threads=1,  # the bytes depend on it
            autotiling=False,
            advanced=self._options(),
        )
        return out.getvalue()

    def _options(self) -> dict[str, str]:
        """libaom's own options."""
        options = {"tune": self.tune}
        if self.deltaq_strength != _USUAL_STRENGTH:
            options["deltaq-strength"] = str(self.deltaq_strength)
        return options

    @classmethod
    def decode(cls, data: bytes) -> Image:
        """Decode the (first) picture; transparency is dropped, 10 and 12 bits are rounded to 8.

        As Pillow does, the file's rotation and mirroring are left to the viewer. Gray with
        transparency comes back as RGB.
        """
        if not cls.matches(data):
            raise CodecError("Not a readable AVIF file: no AVIF brand in its first box.")
        try:
            if _is_deep(data):
                return _decode_deep(data)
            with open_checked(data, "AVIF") as picture:
                return gray_or_rgb(picture)
        except (RuntimeError, MemoryError) as error:  # libavif's faults in the pixels
            raise CodecError(f"Not a readable AVIF file: {error}") from error

    @classmethod
    def matches(cls, data: bytes) -> bool:
        return any(brand in BRANDS for brand in brands(data))

    @classmethod
    def version(cls) -> str:
        found = features.version("avif")
        if found is None:
            raise CodecUnavailableError(
                "AVIF needs Pillow with libavif, as in Pillow's own wheels (pip install pillow)."
            )
        deep = importlib.metadata.version("imagecodecs")
        return f"libavif {found} (Pillow {PIL.__version__}; 10 bit: imagecodecs {deep})"

    @classmethod
    def variants(cls) -> tuple[Codec, ...]:
        """4:2:0 above all, at the speeds and tunings that avifenc, Squoosh and libvips use."""
        return (
            *(cls(speed=speed, tune=tune) for speed in (6, 8) for tune in TUNES),
            cls(speed=5, tune="ssim", full_range=False),
            cls(speed=9, tune="ssim"),
            *(cls(speed=speed, bit_depth=10) for speed in (6, 8)),
            cls(tune="ssim", bit_depth=10),
            cls(subsampling="4:4:4", bit_depth=10),
            *(cls(subsampling="4:4:4", tune=tune) for tune in TUNES),
            cls(subsampling="4:2:2", tune="ssim"),
        )


def _is_deep(data: bytes) -> bool:
    """Whether the first AV1 configuration box says 10 or 12 bits (AV1-ISOBMFF, 2.3.3)."""
    at = data.find(b"av1C")
    return 0 <= at < len(data) - 6 and bool(data[at + 6] & 0x40)


def _decode_deep(data: bytes) -> Image:
    """A picture of 10 or 12 bits, rounded; Pillow's 8 bits of it are off by half a level."""
    import imagecodecs  # slow to import

    bits = 12 if data[data.find(b"av1C") + 6] & 0x20 else 10
    try:
        with PilImage.open(io.BytesIO(data), formats=["AVIF"]) as picture:
            check_size(*picture.size)
            gray = picture.mode in ("L", "LA")
        samples = np.asarray(imagecodecs.avif_decode(data, index=0, numthreads=1))
        if samples.ndim == 3:
            samples = samples[:, :, 0] if gray else samples[:, :, :3]
        if samples.dtype == np.uint16:
            samples = to_8_bits(np.minimum(samples, (1 << bits) - 1), bits)
        return check_image(np.ascontiguousarray(samples))
    except CodecError:
        raise
    except Exception as error:  # libavif's faults come as any of several exceptions
        raise CodecError(f"Not a readable AVIF file: {error}") from error
