"""JPEG XL (ISO/IEC 18181), lossy, through imagecodecs, that is libjxl."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from imagecompression.bit_depth import to_8_bits
from imagecompression.bundled_library import bundled_library
from imagecompression.codec import (
    Codec,
    CodecError,
    CodecUnavailableError,
    Image,
    Knob,
    check_image,
    check_size,
)
from imagecompression.isobmff import boxes

CODESTREAM = b"\xff\x0a"
CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
HEADER_BYTES = 128
"""More than the size and metadata headers take up to the fields that are read here."""
MAX_EXTRA_CHANNELS = 4
SIDE_BITS = (9, 13, 18, 30)
ASPECT_RATIOS = (None, (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


@dataclass(frozen=True)
class JpegXl(Codec):
    """Lossy JPEG XL as a bare codestream, in the XYB colour space.

    Attributes:
        distance: Butteraugli distance asked of the encoder, 0.1 … 25, lower is better; 1 is
            about where differences become visible, and cjxl's default.
        effort: 1 … 9 from fast to thorough; 7 is cjxl's default, 8 and 9 take far longer.
        modular: False for DCT of variable size (VarDCT), True for the modular mode, whose lossy
            form quantises a Haar-like transform (squeeze).
        decoding_speed: 0 … 4; each step leaves out coding tools that slow decoding down.

    >>> import numpy as np
    >>> JpegXl.decode(JpegXl(distance=2).encode(np.zeros((8, 8, 3), np.uint8))).shape
    (8, 8, 3)
    """

    distance: float = 1.0
    effort: int = 7
    modular: bool = False
    decoding_speed: int = 0

    name: ClassVar[str] = "jpegxl"
    suffix: ClassVar[str] = ".jxl"
    knob: ClassVar[Knob] = Knob("distance", 0.1, 25, 0.01, rises_with_size=False, logarithmic=True)
    ratio_tolerance: ClassVar[float] = 0.03
    ssim_tolerance: ClassVar[float] = 0.002

    def __post_init__(self) -> None:
        self._check_range("distance", 0.1, 25, integer=False)
        self._check_range("effort", 1, 9)
        self._check_choice("modular", (False, True))
        self._check_range("decoding_speed", 0, 4)

    def encode(self, image: Image) -> bytes:
        image = check_image(image)
        imagecodecs = _imagecodecs()
        if self.modular:
            return _encode_directly(image, self)
        try:
            return bytes(
                imagecodecs.jpegxl_encode(
                    image,
                    distance=self.distance,
                    lossless=False,
                    effort=self.effort,
                    decodingspeed=self.decoding_speed,
                    usecontainer=False,
                    numthreads=1,
                )
            )
        except Exception as error:  # libjxl reports every fault through one private class
            raise CodecError(
                f"libjxl could not encode {image.shape[1]}×{image.shape[0]} pixels: {error}"
            ) from error

    @classmethod
    def decode(cls, data: bytes) -> Image:
        """Decode the (first) picture; alpha and further channels are dropped.

        Samples of up to 16 bits are rounded to 8; floating-point ones are refused. As libjxl
        does, the file's own rotation and mirroring are applied.
        """
        imagecodecs = _imagecodecs()
        header = Header(data)
        check_size(header.width, header.height)
        if header.extra_channels > MAX_EXTRA_CHANNELS:
            raise CodecError(
                f"JPEG XL is read with at most {MAX_EXTRA_CHANNELS} channels beside colour. "
                f"Received: {header.extra_channels}"
            )
        if header.is_float or header.bits > 16:
            kind = "floating-point" if header.is_float else "integer"
            raise CodecError(
                "JPEG XL is read with integer samples of up to 16 bits. "
                f"Received: {header.bits} bits, {kind}"
            )
        try:
            samples = np.asarray(imagecodecs.jpegxl_decode(data, index=0, numthreads=1))
        except Exception as error:  # libjxl reports every fault through one private class
            raise CodecError(f"Not a readable JPEG XL file: {error}") from error
        if samples.ndim == 3:
            sides = {header.width, header.height}
            if set(samples.shape[:2]) == sides:  # gray with alpha, or colour
                samples = samples[:, :, 0] if samples.shape[2] == 2 else samples[:, :, :3]
            else:  # planes of gray and of further channels
                samples = samples[0]
        return check_image(to_8_bits(samples, header.bits))

    @classmethod
    def matches(cls, data: bytes) -> bool:
        return data[:2] == CODESTREAM or data[:12] == CONTAINER

    @classmethod
    def version(cls) -> str:
        imagecodecs = _imagecodecs()
        return f"{imagecodecs.jpegxl_version()} (imagecodecs {imagecodecs.__version__})"

    @classmethod
    def variants(cls) -> tuple[Codec, ...]:
        """cjxl's default effort and its neighbours; from effort 5 on filters change the pixels."""
        return (
            *(cls(effort=effort) for effort in (7, 6, 5, 4, 3, 8)),
            *(cls(decoding_speed=speed) for speed in (1, 3)),
            *(cls(modular=True, effort=effort) for effort in (7, 4)),
        )


def _imagecodecs():  # type: ignore[no-untyped-def]
    """The imagecodecs module, or `CodecUnavailableError` where its libjxl is missing."""
    try:
        import imagecodecs

        imagecodecs.jpegxl_version()
    except (ImportError, RuntimeError) as error:
        raise CodecUnavailableError(
            f"JPEG XL needs imagecodecs built with libjxl (pip install imagecodecs): {error}"
        ) from error
    return imagecodecs


class Header:
    """Size, sample depth and channel count at the start of a codestream.

    Annex D of ISO/IEC 18181-1: SizeHeader, then ImageMetadata up to `num_extra_channels`, in bits
    from the least significant one on.

    Attributes:
        width, height: As coded, before the orientation is applied.
        bits: Bits a sample.
        is_float: Floating-point samples.
        extra_channels: Number of channels beside colour.
        xyb_encoded: Whether the colours are XYB, which is lossy; None behind extra channels.

    Raises:
        CodecError: The data are not JPEG XL, or end within the header.
    """

    def __init__(self, data: bytes) -> None:
        start = _codestream_start(data)
        if start[:2] != CODESTREAM:
            raise CodecError("Not a readable JPEG XL file: it holds no codestream.")
        self._value = int.from_bytes(start[2:], "little")
        self._left = 8 * len(start[2:])
        self.width, self.height = self._size()
        self.bits, self.is_float, self.extra_channels = 8, False, 0
        self.xyb_encoded: bool | None = True
        if self._bits(1):  # all the metadata have their defaults
            return
        if self._bits(1):
            self._bits(3)  # orientation
            if self._bits(1):
                self._size()  # intrinsic size
            if self._bits(1):
                self._preview_size()
            if self._bits(1):
                self._animation()
        self.is_float = bool(self._bits(1))
        if self.is_float:
            self.bits = self._choice((32, 0), (16, 0), (24, 0), (1, 6))
            self._bits(4)  # bits of the exponent
        else:
            self.bits = self._choice((8, 0), (10, 0), (12, 0), (1, 6))
        self._bits(1)  # whether 16-bit buffers suffice
        self.extra_channels = self._choice((0, 0), (1, 0), (2, 4), (1, 12))
        self.xyb_encoded = None if self.extra_channels else bool(self._bits(1))

    def _bits(self, count: int) -> int:
        if count > self._left:
            raise CodecError("Truncated JPEG XL file: it ends within its header.")
        value = self._value & ((1 << count) - 1)
        self._value >>= count
        self._left -= count
        return value

    def _choice(self, *distributions: tuple[int, int]) -> int:
        """U32: two bits choose an offset and a number of bits that are added to it."""
        offset, count = distributions[self._bits(2)]
        return offset + self._bits(count)

    def _size(self) -> tuple[int, int]:
        """SizeHeader: width and height."""
        small = self._bits(1)

        def side() -> int:
            if small:
                return 8 * (self._bits(5) + 1)
            return self._choice(*((1, count) for count in SIDE_BITS))

        height = side()
        ratio = ASPECT_RATIOS[self._bits(3)]
        return (side() if ratio is None else height * ratio[0] // ratio[1]), height

    def _preview_size(self) -> None:
        """PreviewHeader, unused."""
        in_blocks = self._bits(1)

        def side() -> int:
            if in_blocks:
                return 8 * self._choice((16, 0), (32, 0), (1, 5), (33, 9))
            return self._choice((1, 6), (65, 8), (321, 10), (1345, 12))

        side()
        if ASPECT_RATIOS[self._bits(3)] is None:
            side()

    def _animation(self) -> None:
        """AnimationHeader, unused."""
        self._choice((100, 0), (1000, 0), (1, 10), (1, 30))
        self._choice((1, 0), (1001, 0), (1, 8), (1, 10))
        self._choice((0, 0), (0, 3), (0, 16), (0, 32))
        self._bits(1)


def _codestream_start(data: bytes) -> bytes:
    """The first `HEADER_BYTES` bytes of the codestream, also where a container cuts it up."""
    if data[:12] != CONTAINER:
        return data[:HEADER_BYTES]
    start = b""
    for kind, begin, end in boxes(data):
        if kind == b"jxlc":
            return data[begin : min(end, begin + HEADER_BYTES)]
        if kind == b"jxlp":  # a part, after its number
            start += data[begin + 4 : min(end, begin + 4 + HEADER_BYTES)]
            if len(start) >= HEADER_BYTES:
                break
    return start[:HEADER_BYTES]


# imagecodecs has no switch for the modular mode. Its wheels hold libjxl as a shared library, whose
# C interface (jxl/encode.h) is called directly for that.

_EFFORT, _DECODING_SPEED, _MODULAR = 0, 1, 11
"""Values of JxlEncoderFrameSettingId."""
_SUCCESS, _NEED_MORE_OUTPUT = 0, 2
"""Values of JxlEncoderStatus."""
_UINT8 = 2
"""A value of JxlDataType."""
_OUTPUT_BYTES = 1 << 18


class _PixelFormat(ctypes.Structure):
    """JxlPixelFormat of jxl/types.h."""

    _fields_ = [
        ("num_channels", ctypes.c_uint32),
        ("data_type", ctypes.c_int),
        ("endianness", ctypes.c_int),
        ("align", ctypes.c_size_t),
    ]


class _BasicInfo(ctypes.Structure):
    """JxlBasicInfo of jxl/codestream_header.h up to the fields that are set, and room beyond."""

    _fields_ = [
        ("have_container", ctypes.c_int),
        ("xsize", ctypes.c_uint32),
        ("ysize", ctypes.c_uint32),
        ("bits_per_sample", ctypes.c_uint32),
        ("exponent_bits_per_sample", ctypes.c_uint32),
        ("intensity_target", ctypes.c_float),
        ("min_nits", ctypes.c_float),
        ("relative_to_max_display", ctypes.c_int),
        ("linear_below", ctypes.c_float),
        ("uses_original_profile", ctypes.c_int),
        ("have_preview", ctypes.c_int),
        ("have_animation", ctypes.c_int),
        ("orientation", ctypes.c_int),
        ("num_color_channels", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 512),
    ]


@functools.cache
def _libjxl() -> Any:
    """The libjxl inside imagecodecs' wheel, with the result types that are not int.

    Raises:
        CodecUnavailableError: imagecodecs has it linked in, or lies elsewhere.
    """
    _imagecodecs()
    path = bundled_library("imagecodecs", "libjxl-*", "libjxl.*")
    if path is None:
        raise CodecUnavailableError(
            "Lossy modular JPEG XL needs libjxl as a shared library inside imagecodecs' wheel, as "
            "on Linux and macOS. Install imagecodecs from a wheel, or take modular=False."
        )
    library = ctypes.CDLL(str(path))
    for function in ("JxlEncoderCreate", "JxlEncoderFrameSettingsCreate"):
        getattr(library, function).restype = ctypes.c_void_p
    return library


def _encode_directly(image: Image, codec: JpegXl) -> bytes:
    """A codestream by libjxl's own interface, on the calling thread."""
    libjxl = _libjxl()
    encoder = ctypes.c_void_p(libjxl.JxlEncoderCreate(None))
    if not encoder:
        raise CodecError("libjxl could not make an encoder: no memory.")

    def check(status: int, step: str) -> None:
        if status != _SUCCESS:
            raise CodecError(
                f"libjxl could not encode {image.shape[1]}×{image.shape[0]} pixels: {step} "
                f"failed with error {libjxl.JxlEncoderGetError(encoder)}"
            )

    try:
        info = _BasicInfo()
        libjxl.JxlEncoderInitBasicInfo(ctypes.byref(info))
        info.ysize, info.xsize = image.shape[:2]
        info.num_color_channels = channels = 1 if image.ndim == 2 else 3
        info.uses_original_profile = False  # XYB, as VarDCT
        check(libjxl.JxlEncoderSetBasicInfo(encoder, ctypes.byref(info)), "SetBasicInfo")
        color = ctypes.create_string_buffer(512)  # a JxlColorEncoding and room beyond
        libjxl.JxlColorEncodingSetToSRGB(color, int(channels == 1))
        check(libjxl.JxlEncoderSetColorEncoding(encoder, color), "SetColorEncoding")

        settings = ctypes.c_void_p(libjxl.JxlEncoderFrameSettingsCreate(encoder, None))
        options = {
            _EFFORT: codec.effort,
            _DECODING_SPEED: codec.decoding_speed,
            _MODULAR: int(codec.modular),
        }
        for option, value in options.items():
            status = libjxl.JxlEncoderFrameSettingsSetOption(
                settings, option, ctypes.c_int64(value)
            )
            check(status, f"option {option}={value}")
        distance = ctypes.c_float(codec.distance)
        check(libjxl.JxlEncoderSetFrameDistance(settings, distance), "SetFrameDistance")
        status = libjxl.JxlEncoderAddImageFrame(
            settings,
            ctypes.byref(_PixelFormat(channels, _UINT8, 0, 0)),
            image.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_size_t(image.nbytes),
        )
        check(status, "AddImageFrame")
        libjxl.JxlEncoderCloseInput(encoder)
        parts = []
        buffer = ctypes.create_string_buffer(_OUTPUT_BYTES)
        status = _NEED_MORE_OUTPUT
        while status == _NEED_MORE_OUTPUT:
            end = ctypes.cast(buffer, ctypes.c_void_p)
            left = ctypes.c_size_t(_OUTPUT_BYTES)
            status = libjxl.JxlEncoderProcessOutput(encoder, ctypes.byref(end), ctypes.byref(left))
            parts.append(buffer.raw[: _OUTPUT_BYTES - left.value])
        check(status, "ProcessOutput")
        return b"".join(parts)
    finally:
        libjxl.JxlEncoderDestroy(encoder)
