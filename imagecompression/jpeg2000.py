"""JPEG 2000 (ISO/IEC 15444-1) through glymur, that is OpenJPEG."""

from __future__ import annotations

import ctypes.util
import functools
import importlib.util
import os
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
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
from imagecompression.embedded_size import jpeg2000_size
from imagecompression.pillow_image import gray_or_rgb, open_checked

_LEAST_BYTES = 256
_IMPORT_LOCK = threading.Lock()


@dataclass(frozen=True)
class Jpeg2000(Codec):
    """JPEG 2000 as one tile with OpenJPEG's rate control.

    Attributes:
        ratio: Compression ratio asked of the encoder, 1 … 1000; 20 means 20:1. Lowered for tiny
            pictures, so that the file may always take 256 bytes.
        reversible: False for the irreversible 9/7 wavelet, True for the reversible 5/3.
        resolutions: Number of resolution levels, 1 … 33, lowered where the picture is too small.

    >>> import numpy as np
    >>> Jpeg2000.decode(Jpeg2000(ratio=10).encode(np.zeros((8, 8, 3), np.uint8))).shape
    (8, 8, 3)
    """

    ratio: float = 20.0
    reversible: bool = False
    resolutions: int = 6

    name: ClassVar[str] = "jpeg2000"
    suffix: ClassVar[str] = ".jp2"
    other_suffixes: ClassVar[tuple[str, ...]] = (".j2k", ".j2c", ".jpx", ".jpf")
    knob: ClassVar[Knob] = Knob("ratio", 1, 1000, 0.05, rises_with_size=False, logarithmic=True)
    ratio_tolerance: ClassVar[float] = 0.02
    ssim_tolerance: ClassVar[float] = 0.005

    def __post_init__(self) -> None:
        self._check_range("ratio", 1, 1000, integer=False)
        self._check_choice("reversible", (False, True))
        self._check_range("resolutions", 1, 33)

    def encode(self, image: Image) -> bytes:
        image = check_image(image)
        glymur = _glymur()
        # The 2-D wavelet halves both sides at each level; OpenJPEG refuses more levels than that.
        deepest = min(image.shape[:2]).bit_length()
        options: dict[str, Any] = {
            # Headers count, too: a picture of a few bytes would be left with headers alone.
            "cratios": [max(1.0, min(self.ratio, image.size / _LEAST_BYTES))],
            "irreversible": not self.reversible,
            "numres": min(self.resolutions, deepest),
        }
        with tempfile.TemporaryDirectory(prefix="imagecompression-") as folder:
            path = Path(folder) / "picture.jp2"
            try:
                glymur.Jp2k(path, data=image, **options)
            except glymur.lib.openjp2.OpenJPEGLibraryError as error:
                raise CodecError(
                    f"OpenJPEG could not encode {image.shape[1]}×{image.shape[0]} pixels: {error}"
                ) from error
            return path.read_bytes()

    @classmethod
    def decode(cls, data: bytes) -> Image:
        bits = sample_bits(data)
        if bits > 8:
            return _decode_deep(data, bits)
        with open_checked(data, "JPEG2000") as picture:
            return gray_or_rgb(picture)

    @classmethod
    def matches(cls, data: bytes) -> bool:
        """True for the JP2 signature box or a bare codestream (SOC and SIZ markers)."""
        return data[:12] == b"\0\0\0\x0cjP  \r\n\x87\n" or data[:4] == b"\xff\x4f\xff\x51"

    @classmethod
    def version(cls) -> str:
        glymur = _glymur()
        return f"OpenJPEG {glymur.version.openjpeg_version} (glymur {glymur.__version__})"

    @classmethod
    def variants(cls) -> tuple[Codec, ...]:
        return tuple(
            cls(reversible=reversible, resolutions=resolutions)
            for reversible in (False, True)
            for resolutions in (6, 5)
        )


def sample_bits(data: bytes) -> int:
    """Bits a sample of the first component, from the SIZ marker (A.5.1), or 8 where none is."""
    at = data.find(b"\xff\x4f\xff\x51")
    return (data[at + 42] & 0x7F) + 1 if 0 <= at < len(data) - 42 else 8


def _decode_deep(data: bytes, bits: int) -> Image:
    """A file of 9 … 16 bits, rounded to 8; Pillow would clip gray at 255."""
    import imagecodecs  # slow to import

    if bits > 16:
        raise CodecError(f"JPEG 2000 is read up to 16 bits a sample. Received: {bits} bits")
    try:
        check_size(*jpeg2000_size(data))
        pixels = np.asarray(imagecodecs.jpeg2k_decode(data))
    except CodecError:
        raise
    except Exception as error:  # OpenJPEG reports every fault through one private class
        raise CodecError(f"Not a readable JPEG 2000 file: {error}") from error
    if pixels.dtype != np.uint16:
        raise CodecError(f"JPEG 2000 samples must be unsigned. Received: {pixels.dtype}")
    if pixels.ndim == 3:
        pixels = pixels[:, :, 0] if pixels.shape[2] <= 2 else pixels[:, :, :3]
    return check_image(to_8_bits(pixels, bits))


@functools.cache
def _bundled_openjpeg() -> str | None:
    """Path of the OpenJPEG library inside the wheel of Pillow or imagecodecs, if one is there."""
    for package in ("PIL", "imagecodecs"):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        site = Path(spec.origin).parent.parent
        folders = [site / f"{name}.libs" for name in ("pillow", "imagecodecs")]
        folders += [Path(spec.origin).parent / ".dylibs"]
        for folder in folders:
            found = sorted(folder.glob("*openjp2*"))
            if found:
                return os.fspath(found[0])
    return None


@functools.cache
def _glymur() -> Any:
    """The glymur module with an OpenJPEG library loaded.

    glymur's wheel holds no OpenJPEG and looks for one only while it is imported, so the copy
    inside Pillow's or imagecodecs' wheel is offered at that moment where the system has none.

    Raises:
        CodecUnavailableError: glymur is missing, or no OpenJPEG library can be found.
    """
    find_library = ctypes.util.find_library

    def find_openjpeg(name: str) -> str | None:
        found = find_library(name)
        return _bundled_openjpeg() if found is None and name == "openjp2" else found

    with _IMPORT_LOCK:
        ctypes.util.find_library = find_openjpeg
        try:
            import glymur
        except ImportError as error:
            raise CodecUnavailableError(
                f"JPEG 2000 needs glymur (pip install glymur): {error}"
            ) from error
        finally:
            ctypes.util.find_library = find_library
    if glymur.version.openjpeg_version == "0.0.0":
        raise CodecUnavailableError(
            "JPEG 2000 needs the OpenJPEG library, and glymur found none when it was imported. "
            "Install Pillow or imagecodecs from a wheel (they bring one) or the system package "
            "libopenjp2, and import imagecompression before glymur."
        )
    return glymur
