"""JPEG XR (ISO/IEC 29199-2) through imagecodecs, that is jxrlib."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from imagecompression.codec import (
    Codec,
    CodecError,
    CodecUnavailableError,
    Image,
    Knob,
    check_image,
    check_size,
)

_WIDTH, _HEIGHT, _OFFSET, _BYTE_COUNT = 0xBC80, 0xBC81, 0xBCC0, 0xBCC1
_NARROW, _NARROW_QUALITY = 16, 50


@dataclass(frozen=True)
class JpegXr(Codec):
    """JPEG XR with jxrlib's defaults: one overlap level, 4:4:4 at high quality, 4:2:0 below.

    Attributes:
        quality: 1 … 99 in percent of jxrlib's scale, higher is better. 100 would mean lossless
            and is refused: this class is the lossy codec.

    >>> import numpy as np
    >>> JpegXr.decode(JpegXr(quality=80).encode(np.zeros((8, 8, 3), np.uint8))).shape
    (8, 8, 3)
    """

    quality: float = 80.0

    name: ClassVar[str] = "jpegxr"
    suffix: ClassVar[str] = ".jxr"
    other_suffixes: ClassVar[tuple[str, ...]] = (".wdp", ".hdp")
    knob: ClassVar[Knob] = Knob("quality", 1, 99, 0.25, rises_with_size=True)
    ratio_tolerance: ClassVar[float] = 0.05
    ssim_tolerance: ClassVar[float] = 0.01

    def __post_init__(self) -> None:
        self._check_range("quality", 1, 99, integer=False)

    def encode(self, image: Image) -> bytes:
        image = check_image(image)
        imagecodecs = _imagecodecs()
        height, width = image.shape[:2]
        if width <= _NARROW and self.quality < _NARROW_QUALITY:
            # jxrlib would subsample chroma, refuse, and say so on standard output.
            raise CodecError(
                f"JPEG XR under quality {_NARROW_QUALITY} needs more than {_NARROW} pixels of "
                f"width. Received: quality={self.quality:g}, {width}×{height}"
            )
        try:
            # imagecodecs takes a level under 1 as a fraction; 0 and 1 would be lossless.
            return bytes(imagecodecs.jpegxr_encode(image, level=self.quality / 100.0))
        except Exception as error:  # jxrlib reports every fault through one private class
            raise CodecError(f"jxrlib could not encode {width}×{height} pixels: {error}") from error

    @classmethod
    def decode(cls, data: bytes) -> Image:
        imagecodecs = _imagecodecs()
        facts = _directory(data)
        check_size(facts[_WIDTH], facts[_HEIGHT])
        if facts[_OFFSET] + facts[_BYTE_COUNT] > len(data):
            # jxrlib itself decodes a truncated file to noise without complaint.
            raise CodecError(
                f"Not a readable JPEG XR file: truncated to {len(data)} of "
                f"{facts[_OFFSET] + facts[_BYTE_COUNT]} bytes"
            )
        try:
            pixels = np.asarray(imagecodecs.jpegxr_decode(data))
        except Exception as error:  # jxrlib reports every fault through one private class
            raise CodecError(f"Not a readable JPEG XR file: {error}") from error
        if pixels.dtype != np.uint8:
            raise CodecError(
                f"Only 8-bit JPEG XR is supported. Received: dtype={pixels.dtype}, "
                f"shape={pixels.shape}"
            )
        if pixels.ndim == 3 and pixels.shape[2] == 4:
            pixels = pixels[:, :, :3]
        return check_image(pixels)

    @classmethod
    def matches(cls, data: bytes) -> bool:
        return data[:3] == b"II\xbc"

    @classmethod
    def version(cls) -> str:
        imagecodecs = _imagecodecs()
        return f"{imagecodecs.jpegxr_version()} (imagecodecs {imagecodecs.__version__})"


def _imagecodecs():  # type: ignore[no-untyped-def]
    """The imagecodecs module, or `CodecUnavailableError` where its jxrlib is missing."""
    try:
        import imagecodecs

        imagecodecs.jpegxr_version()
    except (ImportError, RuntimeError) as error:
        raise CodecUnavailableError(
            f"JPEG XR needs imagecodecs built with jxrlib (pip install imagecodecs): {error}"
        ) from error
    return imagecodecs


def _directory(data: bytes) -> dict[int, int]:
    """Size, offset and byte count from the file's directory (Annex A: 12-byte entries)."""
    wanted = (_WIDTH, _HEIGHT, _OFFSET, _BYTE_COUNT)
    facts: dict[int, int] = {}
    try:
        (offset,) = struct.unpack_from("<I", data, 4)
        (count,) = struct.unpack_from("<H", data, offset)
        for entry in range(count):
            at = offset + 2 + 12 * entry
            tag, kind = struct.unpack_from("<HH", data, at)
            if tag in wanted:
                (facts[tag],) = struct.unpack_from({1: "<B", 3: "<H"}.get(kind, "<I"), data, at + 8)
    except struct.error as error:
        raise CodecError(f"Not a readable JPEG XR file: {error}") from error
    missing = [hex(tag) for tag in wanted if tag not in facts]
    if missing:
        raise CodecError(f"Not a readable JPEG XR file: its directory lacks {', '.join(missing)}")
    return facts
