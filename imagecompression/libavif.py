"""AVIF of 10 bits through libavif's C interface, in the copy inside imagecodecs' wheel.

Pillow codes 8 bits alone, and imagecodecs' own function leaves range and tuning as they are. The
structures begin as in libavif 1.0.0; later versions only add to their ends.
"""

from __future__ import annotations

import ctypes
import functools

import numpy as np

from imagecompression.bundled_library import bundled_library
from imagecompression.codec import CodecError, CodecUnavailableError, Image

_FORMATS = {"4:4:4": 1, "4:2:2": 2, "4:2:0": 3, "4:0:0": 4}
_RGB = 0
_AOM = 1
_BT709, _SRGB, _BT601 = 1, 13, 6
"""Primaries, transfer and matrix that Pillow and avifenc write (CICP, ITU-T H.273)."""


class _Data(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Picture(ctypes.Structure):
    """The beginning of avifImage."""

    _fields_ = (
        ("width", ctypes.c_uint32),
        ("height", ctypes.c_uint32),
        ("depth", ctypes.c_uint32),
        ("format", ctypes.c_int),
        ("full_range", ctypes.c_int),
        ("chroma_position", ctypes.c_int),
        ("planes", ctypes.c_void_p * 3),
        ("row_bytes", ctypes.c_uint32 * 3),
        ("owns_planes", ctypes.c_int),
        ("alpha", ctypes.c_void_p),
        ("alpha_row_bytes", ctypes.c_uint32),
        ("owns_alpha", ctypes.c_int),
        ("premultiplied", ctypes.c_int),
        ("icc", _Data),
        ("primaries", ctypes.c_uint16),
        ("transfer", ctypes.c_uint16),
        ("matrix", ctypes.c_uint16),
    )


class _RgbPicture(ctypes.Structure):
    """avifRGBImage, with room for what later versions add."""

    _fields_ = (
        ("width", ctypes.c_uint32),
        ("height", ctypes.c_uint32),
        ("depth", ctypes.c_uint32),
        ("format", ctypes.c_int),
        ("upsampling", ctypes.c_int),
        ("downsampling", ctypes.c_int),
        ("avoid_libyuv", ctypes.c_int),
        ("ignore_alpha", ctypes.c_int),
        ("premultiplied", ctypes.c_int),
        ("is_float", ctypes.c_int),
        ("threads", ctypes.c_int),
        ("pixels", ctypes.c_void_p),
        ("row_bytes", ctypes.c_uint32),
        ("room", ctypes.c_uint8 * 256),
    )


class _Encoder(ctypes.Structure):
    """The beginning of avifEncoder."""

    _fields_ = (
        ("codec", ctypes.c_int),
        ("threads", ctypes.c_int),
        ("speed", ctypes.c_int),
        ("keyframe_interval", ctypes.c_int),
        ("timescale", ctypes.c_uint64),
        ("repetitions", ctypes.c_int),
        ("extra_layers", ctypes.c_uint32),
        ("quality", ctypes.c_int),
    )


def encode_10_bits(
    image: Image,
    *,
    quality: int,
    subsampling: str,
    speed: int,
    full_range: bool,
    options: dict[str, str],
) -> bytes:
    """An AVIF file of one 10-bit picture, coded by libaom on one thread.

    Args:
        image: uint8 `(H, W)` or `(H, W, 3)`, C-contiguous; gray becomes monochrome.
        quality: 0 … 99.
        subsampling: ``"4:4:4"``, ``"4:2:2"`` or ``"4:2:0"``.
        speed: 0 … 10.
        full_range: Luma of 0 … 1023 instead of 64 … 940.
        options: Values of libaom's own options by name.

    Raises:
        CodecError: libavif refuses the picture.
        CodecUnavailableError: There is no libavif to load.
    """
    library = _libavif()
    height, width = image.shape[:2]
    samples = np.ascontiguousarray(
        np.broadcast_to(image.reshape(height, width, -1), (height, width, 3))
    )

    def call(function: str, *arguments: object) -> None:
        status = getattr(library, function)(*arguments)
        if status != 0:
            reason = library.avifResultToString(status).decode("ascii", "replace")
            raise CodecError(f"libavif could not encode {width}×{height} pixels: {reason}")

    picture = library.avifImageCreate(
        width, height, 10, _FORMATS[subsampling if image.ndim == 3 else "4:0:0"]
    )
    encoder = library.avifEncoderCreate()
    output = _Data()
    try:
        if not picture or not encoder:
            raise CodecError(f"libavif has no memory for {width}×{height} pixels")
        picture.contents.full_range = int(full_range)
        picture.contents.primaries = _BT709
        picture.contents.transfer = _SRGB
        picture.contents.matrix = _BT601
        rgb = _RgbPicture()
        library.avifRGBImageSetDefaults(ctypes.byref(rgb), picture)
        rgb.depth, rgb.format = 8, _RGB
        rgb.pixels, rgb.row_bytes = samples.ctypes.data, samples.strides[0]
        call("avifImageRGBToYUV", picture, ctypes.byref(rgb))
        settings = encoder.contents
        settings.codec, settings.threads = _AOM, 1  # the bytes depend on the threads
        settings.speed, settings.quality = speed, quality
        for name, value in options.items():
            call("avifEncoderSetCodecSpecificOption", encoder, name.encode(), value.encode())
        call("avifEncoderWrite", encoder, picture, ctypes.byref(output))
        return ctypes.string_at(output.data, output.size)
    finally:
        library.avifRWDataFree(ctypes.byref(output))
        if encoder:
            library.avifEncoderDestroy(encoder)
        if picture:
            library.avifImageDestroy(picture)


@functools.cache
def _libavif() -> ctypes.CDLL:
    """The libavif inside imagecodecs' wheel, with its functions' types.

    Raises:
        CodecUnavailableError: imagecodecs is missing, or has libavif linked in.
    """
    try:
        import imagecodecs  # slow to import

        imagecodecs.avif_version()  # loads the libraries that libavif needs
        path = bundled_library("imagecodecs", "libavif[-.]*")
        if path is None:
            raise OSError("There is none in it.")
        library = ctypes.CDLL(str(path))
    except (ImportError, RuntimeError, OSError) as error:
        raise CodecUnavailableError(
            "AVIF of 10 bits needs libavif as a shared library inside imagecodecs' wheel, as on "
            f"Linux and macOS. Install imagecodecs from a wheel, or take bit_depth=8. {error}"
        ) from error
    picture, encoder = ctypes.POINTER(_Picture), ctypes.POINTER(_Encoder)
    rgb, data = ctypes.POINTER(_RgbPicture), ctypes.POINTER(_Data)
    number, text = ctypes.c_uint32, ctypes.c_char_p
    for name, result, arguments in (
        ("avifVersion", text, []),
        ("avifResultToString", text, [ctypes.c_int]),
        ("avifImageCreate", picture, [number, number, number, ctypes.c_int]),
        ("avifImageDestroy", None, [picture]),
        ("avifImageRGBToYUV", ctypes.c_int, [picture, rgb]),
        ("avifRGBImageSetDefaults", None, [rgb, picture]),
        ("avifEncoderCreate", encoder, []),
        ("avifEncoderDestroy", None, [encoder]),
        ("avifEncoderSetCodecSpecificOption", ctypes.c_int, [encoder, text, text]),
        ("avifEncoderWrite", ctypes.c_int, [encoder, picture, data]),
        ("avifRWDataFree", None, [data]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    if not library.avifVersion().startswith(b"1."):
        raise CodecUnavailableError(
            "AVIF of 10 bits needs libavif 1. "
            f"Received: {library.avifVersion().decode('ascii', 'replace')} inside imagecodecs"
        )
    return library
