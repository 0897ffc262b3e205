"""HEIC (HEIF, ISO/IEC 23008-12, of HEVC) through pillow_heif: libheif with x265 and libde265."""

from __future__ import annotations

import dataclasses
import io
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

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
from imagecompression.x265 import PRESETS, fractional_crf, mixed_qps

BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
SUBSAMPLINGS = ("4:2:0", "4:2:2", "4:4:4")
TUNES = ("ssim", "psnr", "grain", "fastdecode")
ADAPTIVE_TUNES = ("ssim", "fastdecode")
"""Those that leave x265's adaptive quantisation on."""
ONE_THREAD = {"x265:pools": "none", "x265:frame-threads": "1", "x265:wpp": "0"}
"""Threads would cost speed only, but wave fronts change the bytes."""


@dataclass(frozen=True)
class Heic(Codec):
    """HEIC with one HEVC intra picture, YCbCr BT.601 full range; gray becomes monochrome.

    Attributes:
        quality: 0 … 100, higher is better; lossy at 100, too. x265 is asked for the constant rate
            factor (100 − quality) / 2. libheif rounds it down and so has the even values alone;
            those between are x265's own, and with tune ``"grain"`` like the next even one. All
            from 96 on are alike.
        subsampling: Chroma format, ``"4:2:0"``, ``"4:2:2"`` or ``"4:4:4"``; unused for gray.
        preset: x265's preset, ``"ultrafast"`` … ``"placebo"``; libheif's default is
            ``"slow"``, x265's ``"medium"`` is faster.
        tune: What x265 optimises for: ``"ssim"`` (libheif's default), ``"psnr"``, ``"grain"`` or
            ``"fastdecode"``.
        bit_depth: Bits a sample that are coded, 8 or 10; the picture itself has 8.

    >>> import numpy as np
    >>> Heic.decode(Heic(quality=80).encode(np.zeros((8, 8, 3), np.uint8))).shape
    (8, 8, 3)
    """

    quality: float = 50.0
    subsampling: str = "4:2:0"
    preset: str = "medium"
    tune: str = "ssim"
    bit_depth: int = 8

    name: ClassVar[str] = "heic"
    suffix: ClassVar[str] = ".heic"
    other_suffixes: ClassVar[tuple[str, ...]] = (".heif", ".hif")
    knob: ClassVar[Knob] = Knob("quality", 0, 100, 0.25, rises_with_size=True)
    ratio_tolerance: ClassVar[float] = 0.02
    ssim_tolerance: ClassVar[float] = 0.003

    def __post_init__(self) -> None:
        self._check_range("quality", 0, 100, integer=False)
        self._check_choice("subsampling", SUBSAMPLINGS)
        self._check_choice("preset", PRESETS)
        self._check_choice("tune", TUNES)
        self._check_choice("bit_depth", (8, 10))
        if self.tune == "grain":
            # Its rate control takes whole rate factors alone.
            object.__setattr__(self, "knob", dataclasses.replace(self.knob, step=2))
            object.__setattr__(self, "ratio_tolerance", 0.08)
            object.__setattr__(self, "ssim_tolerance", 0.012)

    def encode(self, image: Image) -> bytes:
        image = check_image(image)
        pillow_heif = _pillow_heif()
        height, width = image.shape[:2]
        mode, samples = ("L" if image.ndim == 2 else "RGB"), image
        if self.bit_depth == 10:
            mode, samples = f"{mode};16", image * np.uint16(257)
        chroma = {"subsampling": self.subsampling} if image.ndim == 3 else {}
        out = io.BytesIO()
        try:
            pillow_heif.encode(
                mode,
                (width, height),
                samples.tobytes(),
                out,
                quality=math.ceil(self.quality),
                bit_depth=self.bit_depth,
                tile_size=0,
                enc_params={"preset": self.preset, "tune": self.tune, **ONE_THREAD, **self._rate()},
                **chroma,
            )
        except (RuntimeError, OSError, ValueError, MemoryError) as error:
            raise CodecError(
                f"libheif could not encode the picture (x265 takes no long and narrow ones): "
                f"{error}. Received: {width}×{height} pixels"
            ) from error
        return out.getvalue()

    def _rate(self) -> dict[str, str]:
        """x265's options for a constant rate factor that libheif cannot ask for."""
        crf = (100.0 - self.quality) / 2.0
        whole = int(crf)
        if crf == whole or self.tune == "grain":
            return {}
        if self.tune in ADAPTIVE_TUNES:
            options = fractional_crf(crf)
        else:
            options = mixed_qps(whole, crf - whole)
        return {f"x265:{name}": value for name, value in options.items()}

    @classmethod
    def decode(cls, data: bytes) -> Image:
        """Decode the primary picture; transparency is dropped, 10 and 12 bits are rounded to 8.

        As libheif does, the file's own cropping, rotation and mirroring are applied. Gray with
        transparency comes back as RGB.
        """
        pillow_heif = _pillow_heif()
        if not cls.matches(data):
            raise CodecError("Not a readable HEIC file: no HEVC brand in its first box.")
        try:
            file = pillow_heif.open_heif(
                io.BytesIO(data), convert_hdr_to_8bit=False, hdr_to_16bit=False
            )
            picture = file[file.primary_index]
            check_size(*picture.size)  # the header's; the pixels are decoded on demand
            samples = np.array(picture)
            bits = 8 if samples.dtype == np.uint8 else int(picture.info["bit_depth"])
        except CodecError:
            raise
        except Exception as error:  # libheif's faults come as any of six exceptions
            raise CodecError(f"Not a readable HEIC file: {str(error).strip()}") from error
        if samples.ndim == 3:
            samples = samples[:, :, :3]
        return check_image(to_8_bits(samples, bits))

    @classmethod
    def matches(cls, data: bytes) -> bool:
        return any(brand in BRANDS for brand in brands(data))

    @classmethod
    def version(cls) -> str:
        pillow_heif = _pillow_heif()
        found = pillow_heif.libheif_info()
        return (
            f"libheif {found['libheif']}, {found['HEIF']} (pillow_heif {pillow_heif.__version__})"
        )

    @classmethod
    def variants(cls) -> tuple[Codec, ...]:
        """libheif's default and its neighbours; phones write 4:2:0 in 8 and 10 bits."""
        return (
            *(cls(preset=preset) for preset in ("slow", "medium", "fast", "ultrafast")),
            *(cls(preset=preset, tune="psnr") for preset in ("slow", "medium")),
            cls(tune="grain"),
            *(cls(preset=preset, bit_depth=10) for preset in ("slow", "medium")),
            *(cls(subsampling="4:4:4", preset=preset) for preset in ("slow", "medium")),
            cls(subsampling="4:4:4", bit_depth=10),
            cls(subsampling="4:2:2"),
        )


def _pillow_heif() -> Any:
    """The pillow_heif module, or `CodecUnavailableError` where it or its x265 is missing.

    Its Pillow plugin is not registered: that would change what Pillow opens everywhere.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise CodecUnavailableError(
            f"HEIC needs pillow_heif (pip install pillow-heif): {error}"
        ) from error
    if not pillow_heif.libheif_info()["HEIF"]:
        raise CodecUnavailableError(
            "HEIC needs pillow_heif with x265, as in its own wheels (pip install pillow-heif)."
        )
    return pillow_heif
