"""JPEG (ISO/IEC 10918-1) through Pillow, that is libjpeg-turbo, or through jpeglib's libraries."""

from __future__ import annotations

import io
import struct
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL
from PIL import Image as PilImage
from PIL import ImageFile, features

from imagecompression.codec import (
    MAX_PIXELS,
    Codec,
    CodecError,
    CodecUnavailableError,
    Extras,
    Image,
    Knob,
    check_image,
    check_size,
)
from imagecompression.embedded_size import jpeg_frame
from imagecompression.pillow_image import extras_of, gray_or_rgb, open_checked
from imagecompression.quantisation_tables import SCHOOLS, quantisation_tables

SUBSAMPLINGS = {
    "4:4:4": (1, 1),
    "4:2:2": (2, 1),
    "4:2:0": (2, 2),
    "4:1:1": (4, 1),
    "4:4:0": (1, 2),
}
"""Luminance samples for a chrominance sample, across and down."""

ENCODERS = {
    "libjpeg-turbo": None,
    "libjpeg-turbo-2.1.0": "turbo210",
    "libjpeg-6b": "6b",
    "libjpeg-8d": "8d",
    "libjpeg-9e": "9e",
    "mozjpeg-3.0.0": "mozjpeg300",
    "mozjpeg-4.0.3": "mozjpeg403",
}
"""jpeglib's name of each library; None is the one inside Pillow."""

_PILLOW = "libjpeg-turbo"
_PILLOW_SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}  # its "4:1:1" writes 4:2:0
_ARITHMETIC = ("libjpeg-turbo-2.1.0", "libjpeg-8d", "libjpeg-9e")
_MOST_IN_SEGMENT = 65_533
_MOST_RESTART = 65_535  # DRI holds 16 bits
_MOST_SCANNED = 100 * MAX_PIXELS
"""Pixels times scans: a small file of many empty scans would keep a decoder busy for hours."""
_ENCODE_LOCK = threading.Lock()


@dataclass(frozen=True)
class Jpeg(Codec):
    """JPEG with 8 bits per sample and 8-bit quantisation tables.

    The defaults are those of Pillow's `Image.save(quality=…)`, to the byte.

    Attributes:
        quality: 1 … 100, higher is better.
        subsampling: Chroma format, one of `SUBSAMPLINGS`; unused for gray. ``4:1:1`` and ``4:4:0``
            need one of jpeglib's encoders.
        progressive: Spectral selection and successive approximation instead of one scan.
        optimize: Huffman tables made for the picture instead of the standard's. Progressive
            Huffman files always have them, so `progressive` sets it.
        tables: School of the quantisation tables, see `quantisation_tables`.
        restart_blocks: Restart interval in MCUs; 0 is none. `encoder` ``libjpeg-turbo`` only.
        restart_rows: The same in rows of MCUs (65535 MCUs at most).
        arithmetic: Arithmetic instead of Huffman coding.
        encoder: One of `ENCODERS`; all but ``libjpeg-turbo`` need jpeglib. MozJPEG (trellis
            quantisation, optimised scans, 'deringing') writes progressive files only. libjpeg from
            version 7 on halves chroma in the DCT domain; at 4:4:4, and in version 6b always, its
            pixels are libjpeg-turbo's.

    >>> import numpy as np
    >>> Jpeg.decode(Jpeg(quality=90).encode(np.zeros((8, 8, 3), np.uint8))).shape
    (8, 8, 3)
    """

    quality: int = 75
    subsampling: str = "4:2:0"
    progressive: bool = False
    optimize: bool = False
    tables: str = "standard"
    restart_blocks: int = 0
    restart_rows: int = 0
    arithmetic: bool = False
    encoder: str = _PILLOW

    name: ClassVar[str] = "jpeg"
    suffix: ClassVar[str] = ".jpg"
    other_suffixes: ClassVar[tuple[str, ...]] = (".jpeg", ".jpe")
    knob: ClassVar[Knob] = Knob("quality", 1, 100, 1, rises_with_size=True)
    ratio_tolerance: ClassVar[float] = 0.05
    ssim_tolerance: ClassVar[float] = 0.01
    keeps: ClassVar[frozenset[str]] = frozenset({"exif", "icc", "xmp"})

    def __post_init__(self) -> None:
        self._check_range("quality", 1, 100)
        self._check_choice("subsampling", tuple(SUBSAMPLINGS))
        self._check_choice("progressive", (False, True))
        self._check_choice("optimize", (False, True))
        self._check_choice("tables", SCHOOLS)
        self._check_range("restart_blocks", 0, _MOST_RESTART)
        self._check_range("restart_rows", 0, _MOST_RESTART)
        self._check_choice("arithmetic", (False, True))
        self._check_choice("encoder", tuple(ENCODERS))
        self._check_combinations()
        if self.progressive and not self.arithmetic:
            object.__setattr__(self, "optimize", True)

    def _check_combinations(self) -> None:
        """Raise `CodecError` where the encoder would ignore or refuse one of the parameters."""
        if self.encoder == _PILLOW and self.subsampling not in _PILLOW_SUBSAMPLINGS:
            raise CodecError(
                f"Encoder {_PILLOW} writes {', '.join(_PILLOW_SUBSAMPLINGS)}; choose another "
                f"encoder, such as libjpeg-turbo-2.1.0. Received: subsampling={self.subsampling!r}"
            )
        restarts = (self.restart_blocks, self.restart_rows)
        if any(restarts) and (all(restarts) or self.encoder != _PILLOW):
            raise CodecError(
                f"One of restart_blocks and restart_rows can be set, with encoder {_PILLOW}. "
                f"Received: restart_blocks={self.restart_blocks}, "
                f"restart_rows={self.restart_rows}, encoder={self.encoder!r}"
            )
        if self.arithmetic and (self.encoder not in _ARITHMETIC or self.optimize):
            raise CodecError(
                f"Arithmetic coding needs encoder {' or '.join(_ARITHMETIC)} and has no Huffman "
                f"tables to optimize. Received: encoder={self.encoder!r}, optimize={self.optimize}"
            )
        if self.encoder.startswith("mozjpeg") and not self.progressive:
            raise CodecError(
                "MozJPEG is run with its defaults, which make progressive files: set "
                f"progressive=True. Received: encoder={self.encoder!r}, progressive=False"
            )

    def encode(self, image: Image) -> bytes:
        image = check_image(image)
        if max(image.shape[:2]) > 65_500:
            raise CodecError(
                f"JPEG sides are at most 65500 pixels. Received: {image.shape[1]}×{image.shape[0]}"
            )
        with _ENCODE_LOCK:
            if self.encoder == _PILLOW:
                return self._encode_by_pillow(image)
            return self._encode_by_jpeglib(image)

    def encode_with(self, image: Image, extras: Extras) -> bytes:
        self._check_extras(image, extras)
        return _with_segments(self.encode(image), extras)

    def _encode_by_pillow(self, image: Image) -> bytes:
        options: dict[str, Any] = {}
        if image.ndim == 3:
            options["subsampling"] = _PILLOW_SUBSAMPLINGS[self.subsampling]
        if self.tables == "standard":
            options["quality"] = self.quality
        else:
            tables = quantisation_tables(self.tables, self.quality)
            used = tables if image.ndim == 3 else tables[:1]
            options["qtables"] = [table.ravel().tolist() for table in used]
        out = io.BytesIO()
        # Pillow's buffer is too small for optimised scans of noise; libjpeg then gives up.
        usual, ImageFile.MAXBLOCK = ImageFile.MAXBLOCK, 2 * image.size + 65_536
        try:
            PilImage.fromarray(image).save(
                out,
                "JPEG",
                progressive=self.progressive,
                optimize=self.optimize,
                restart_marker_blocks=self.restart_blocks,
                restart_marker_rows=self.restart_rows,
                **options,
            )
        finally:
            ImageFile.MAXBLOCK = usual
        return out.getvalue()

    def _encode_by_jpeglib(self, image: Image) -> bytes:
        try:
            import jpeglib
        except ImportError as error:
            raise CodecUnavailableError(
                "Encoders other than libjpeg-turbo need jpeglib: "
                f"pip install 'imagecompression[encoders]'. Received: encoder={self.encoder!r}"
            ) from error
        flags = ["+OPTIMIZE_CODING" if self.optimize else "-OPTIMIZE_CODING"]
        if self.arithmetic:
            flags = ["+ARITH_CODE"]
        tables = np.stack(quantisation_tables(self.tables, self.quality))
        # The library is chosen globally, so the lock of `encode` is held and the choice undone.
        with tempfile.TemporaryDirectory() as folder, jpeglib.version(ENCODERS[self.encoder]):
            picture = jpeglib.from_spatial(image.reshape(*image.shape[:2], -1))
            picture.progressive_mode = self.progressive
            if image.ndim == 3:
                across, down = SUBSAMPLINGS[self.subsampling]
                picture.samp_factor = np.array([[down, across], [1, 1], [1, 1]])
            path = Path(folder) / "picture.jpg"
            try:
                # Four entries: jpeglib reads one for each possible component.
                picture.write_spatial(
                    str(path), qt=tables, quant_tbl_no=np.array([0, 1, 1, 1]), flags=flags
                )
                return path.read_bytes()
            except OSError as error:
                raise CodecError(f"{self.encoder} could not write the picture: {error}") from error

    @classmethod
    def decode(cls, data: bytes) -> Image:
        return cls.decode_with(data)[0]

    @classmethod
    def decode_with(cls, data: bytes) -> tuple[Image, Extras]:
        _check_frame(data)
        with open_checked(data, "JPEG") as picture:
            return gray_or_rgb(picture), extras_of(picture)

    @classmethod
    def matches(cls, data: bytes) -> bool:
        return data[:3] == b"\xff\xd8\xff"

    @classmethod
    def version(cls) -> str:
        return f"libjpeg-turbo {features.version('libjpeg_turbo')} (Pillow {PIL.__version__})"

    @classmethod
    def variants(cls) -> tuple[Codec, ...]:
        """Mostly the standard's tables by libjpeg-turbo; never arithmetic coding.

        Some need jpeglib to encode.
        """
        usual = ("4:2:0", "4:2:2", "4:4:4")
        standard = [
            cls(subsampling=subsampling, optimize=optimize, progressive=progressive)
            for subsampling in usual
            for optimize, progressive in ((False, False), (True, False), (True, True))
        ]
        photoshop = [
            cls(tables="photoshop", subsampling=subsampling, optimize=True, progressive=progressive)
            for subsampling in ("4:2:0", "4:4:4")
            for progressive in (False, True)
        ]
        cameras = [
            cls(tables=maker, subsampling="4:2:2") for maker in ("canon", "casio", "panasonic")
        ]
        cameras += [cls(tables="sony", subsampling=each) for each in ("4:2:2", "4:2:0")]
        restarts = [cls(restart_rows=1), cls(subsampling="4:2:2", restart_blocks=4)]
        old = [
            cls(encoder="libjpeg-6b"),
            cls(encoder="libjpeg-8d"),
            cls(encoder="libjpeg-8d", subsampling="4:2:2"),
            cls(encoder="libjpeg-9e"),
            cls(encoder="libjpeg-9e", progressive=True),
        ]
        mozjpeg = [
            cls(encoder="mozjpeg-4.0.3", progressive=True, tables="mozjpeg", subsampling=each)
            for each in usual
        ]
        mozjpeg += [
            cls(encoder="mozjpeg-4.0.3", progressive=True),
            cls(encoder="mozjpeg-4.0.3", progressive=True, tables="psnr_hvs"),
            cls(encoder="mozjpeg-3.0.0", progressive=True, tables="mozjpeg"),
        ]
        rare = [
            cls(tables="mozjpeg"),
            cls(subsampling="4:1:1", encoder="libjpeg-turbo-2.1.0"),
            cls(subsampling="4:4:0", encoder="libjpeg-turbo-2.1.0"),
        ]
        return (*standard, *photoshop, *cameras, *restarts, *old, *mozjpeg, *rare)


def _with_segments(data: bytes, extras: Extras) -> bytes:
    """A JPEG file with metadata as application segments, after the one of JFIF where there is one.

    EXIF and XMP are APP1, an ICC profile is APP2 in parts (ICC.1, annex B.4).

    Raises:
        CodecError: EXIF or XMP over what a segment can hold.
    """
    segments = []
    for name, signature in (("exif", b"Exif\0\0"), ("xmp", b"http://ns.adobe.com/xap/1.0/\0")):
        content = getattr(extras, name)
        if content is not None:
            if len(signature + content) > _MOST_IN_SEGMENT:
                raise CodecError(
                    f"JPEG holds up to {_MOST_IN_SEGMENT - len(signature)} bytes of {name}. "
                    f"Received: {len(content)}"
                )
            segments.append((0xE1, signature + content))
    if extras.icc is not None:
        room = _MOST_IN_SEGMENT - 14
        parts = [extras.icc[at : at + room] for at in range(0, len(extras.icc), room)]
        if len(parts) > 255:
            raise CodecError(
                f"JPEG holds up to {255 * room} bytes of ICC profile. Received: {len(extras.icc)}"
            )
        for number, part in enumerate(parts, start=1):
            segments.append((0xE2, b"ICC_PROFILE\0" + bytes((number, len(parts))) + part))
    at = 2
    if data[2:4] == b"\xff\xe0":
        at += 2 + int.from_bytes(data[4:6], "big")
    written = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
        for marker, content in segments
    )
    return data[:at] + written + data[at:]


def _check_frame(data: bytes) -> None:
    """Raise `CodecError` by the first frame header, where there is one, before Pillow reads it.

    Raises:
        CodecError: Samples of other than 8 bits, over `MAX_PIXELS` pixels, or more scans than a
            picture of that size can need.
    """
    frame = jpeg_frame(data)
    if frame is None:
        return
    bits, width, height = frame
    if bits != 8:
        raise CodecError(
            "Only JPEG files with 8 bits per sample are read; convert the file with a "
            f"program that reads others. Received: {bits} bits"
        )
    check_size(width, height)
    scans = data.count(b"\xff\xda")
    if scans * width * height > _MOST_SCANNED:
        raise CodecError(
            f"A JPEG file may have at most {_MOST_SCANNED:,} pixels times scans. "
            f"Received: {width}×{height} pixels, {scans} scans"
        )
