"""BPG (Better Portable Graphics, 0.9.8): x265 and FFmpeg's HEVC decoder through PyAV."""

from __future__ import annotations

import functools
import importlib
import itertools
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from imagecompression.bpg_container import (
    ALPHA_NONE,
    ALPHA_PREMULTIPLIED,
    ALPHA_STRAIGHT,
    CHROMA_FORMAT_IDC,
    MAGIC,
    MPEG2_SITED,
    BpgFile,
    build_bpg,
    parse_bpg,
)
from imagecompression.codec import (
    Codec,
    CodecError,
    CodecUnavailableError,
    Image,
    Knob,
    check_image,
    check_size,
)
from imagecompression.hevc import (
    START_CODE,
    SequenceHeader,
    build_vps,
    first_picture,
    split_nals,
)
from imagecompression.ycbcr import Plane, halve_chroma, rgb_to_ycbcr, ycbcr_to_rgb

PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
)

PIXEL_FORMATS = {"4:2:0": 1, "4:2:2": 2, "4:4:4": 3}
"""BPG's pixel_format by chroma subsampling, JPEG-sited."""

AV_PIXEL_FORMATS = ("gray", "yuv420p", "yuv422p", "yuv444p")
"""FFmpeg's 8-bit pixel format by chroma_format_idc; more bits add `10le` or `12le`."""

DECODED_BIT_DEPTHS = (8, 10, 12)
"""Those that FFmpeg's HEVC decoder has."""

SLICE_TAIL = b"\xa5" * 64
"""Bytes put after a slice to see whether the decoder still wanted some."""


@dataclass(frozen=True)
class Bpg(Codec):
    """BPG as bpgenc writes it: one x265 intra picture, constant QP, YCbCr BT.601 full range.

    x265 codes an intra picture about 3 QP finer than asked (its I-frame factor of 1.4), in
    bpgenc as here.

    Attributes:
        qp: Quantisation parameter asked of x265, 0 … 51; lower is better, bpgenc's default is 29.
        subsampling: Chroma subsampling, ``"4:2:0"``, ``"4:2:2"`` or ``"4:4:4"``; nothing for gray.
        bit_depth: Bits a sample that are coded, 8 or 10; the picture itself has 8.
        preset: x265's preset, ``"ultrafast"`` … ``"placebo"``.

    >>> import numpy as np
    >>> Bpg(qp=20).encode(np.zeros((9, 5, 3), np.uint8))[:4]
    b'BPG\\xfb'
    """

    qp: int = 29
    subsampling: str = "4:2:0"
    bit_depth: int = 8
    preset: str = "medium"

    name: ClassVar[str] = "bpg"
    suffix: ClassVar[str] = ".bpg"
    knob: ClassVar[Knob] = Knob("qp", 0, 51, 1, rises_with_size=False)
    ratio_tolerance: ClassVar[float] = 0.1
    ssim_tolerance: ClassVar[float] = 0.015

    def __post_init__(self) -> None:
        self._check_range("qp", 0, 51)
        self._check_choice("subsampling", tuple(PIXEL_FORMATS))
        self._check_choice("bit_depth", (8, 10))
        self._check_choice("preset", PRESETS)

    def encode(self, image: Image) -> bytes:
        image = check_image(image)
        height, width = image.shape[:2]
        planes = rgb_to_ycbcr(image, self.bit_depth)
        pixel_format = PIXEL_FORMATS[self.subsampling] if len(planes) == 3 else 0
        if pixel_format in (1, 2):
            rows = pixel_format == 1
            planes[1:] = [halve_chroma(plane, self.bit_depth, rows=rows) for plane in planes[1:]]
        block = self._block_side(width, height)
        stream = _encode_hevc(
            planes,
            (-(-width // block) * block, -(-height // block) * block),
            _av_pixel_format(CHROMA_FORMAT_IDC[pixel_format], self.bit_depth),
            self.preset,
            f"qp={self.qp}:min-cu-size={block}",
        )
        return build_bpg(stream, width, height, pixel_format, self.bit_depth)

    def _block_side(self, width: int, height: int) -> int:
        """Side in pixels of the smallest coding block, to whose multiple the picture is padded.

        The padding must come from it, because BPG allows no cropping: x265 takes no side under
        16 pixels, and from HEVC's level 5 on (sides over 4222) no tree blocks under 32, which
        must fit into the picture.
        """
        short, long = sorted((width, height))
        if short <= 24 and long > 4096:
            return 32
        return 16 if short <= 16 or self.preset == "ultrafast" else 8

    @classmethod
    def decode(cls, data: bytes) -> Image:
        """Decode the colours of the (first) picture; transparency is dropped.

        Premultiplied colours are divided by their alpha, and CMYK's W plane is multiplied in.
        Pictures of 9, 11, 13 and 14 bits are refused: FFmpeg does not decode them.
        """
        file = parse_bpg(data)
        if file.bit_depth not in DECODED_BIT_DEPTHS:
            raise CodecError(
                f"BPG of {file.bit_depth} bits a sample is not supported; allowed: "
                f"{', '.join(map(str, DECODED_BIT_DEPTHS))}."
            )
        planes = _decode_planes(file, file.header, CHROMA_FORMAT_IDC[file.pixel_format], layer=0)
        image = ycbcr_to_rgb(
            planes,
            file.bit_depth,
            color_space=file.color_space,
            limited_range=file.limited_range,
            cosited=file.pixel_format in MPEG2_SITED,
        )
        if file.alpha in (ALPHA_NONE, ALPHA_STRAIGHT) or file.alpha_header is None:
            return image
        # Alpha is always full range.
        alpha = ycbcr_to_rgb(_decode_planes(file, file.alpha_header, 0, layer=1), file.bit_depth)
        restore = _divided if file.alpha == ALPHA_PREMULTIPLIED else _scaled
        return restore(image, alpha)

    @classmethod
    def matches(cls, data: bytes) -> bool:
        """True for the magic bytes 42 50 47 FB."""
        return data[:4] == MAGIC

    @classmethod
    def version(cls) -> str:
        return _version()

    @classmethod
    def variants(cls) -> tuple[Codec, ...]:
        """4:2:0 in every preset and depth that matters, and 4:4:4 for a third of the files."""
        common = itertools.product(("4:2:0",), (8, 10), ("superfast", "medium", "slow"))
        rare = (("4:4:4", 8, "medium"), ("4:4:4", 8, "slow"), ("4:4:4", 10, "medium"))
        return tuple(
            cls(subsampling=subsampling, bit_depth=bit_depth, preset=preset)
            for subsampling, bit_depth, preset in (*common, *rare)
        )


@functools.cache
def _av() -> Any:
    """The PyAV module, with an x265 encoder and an HEVC decoder in it.

    Imported on first use: it loads all of FFmpeg.

    Raises:
        CodecUnavailableError: PyAV is missing or lacks one of the two.
    """
    try:
        av = importlib.import_module("av")
        av.Codec("libx265", "w")
        av.Codec("hevc", "r")
    except ImportError as error:
        raise CodecUnavailableError(f"BPG needs PyAV (pip install av): {error}") from error
    except ValueError as error:  # av.codec.codec.UnknownCodecError
        raise CodecUnavailableError(
            "BPG needs PyAV with libx265 and an HEVC decoder, as in PyAV's own wheels "
            f"(pip install --force-reinstall av). Missing: {error}"
        ) from error
    return av


@functools.cache
def _version() -> str:
    """Versions of x265 (as it writes it into a stream), libavcodec and PyAV."""
    gray = [np.zeros((16, 16), np.uint8)]
    stream = _encode_hevc(gray, (16, 16), "gray", "ultrafast", "min-cu-size=16:info=1")
    found = re.search(rb"x265 \(build \d+\) - ([^:\s]+)", stream)
    av = _av()
    x265 = found[1].decode("ascii", "replace") if found else "of unknown version"
    libavcodec = ".".join(map(str, av.library_versions["libavcodec"]))
    return f"x265 {x265} (libavcodec {libavcodec}, PyAV {av.__version__})"


def _av_pixel_format(chroma_format_idc: int, bit_depth: int) -> str:
    """FFmpeg's name of a planar pixel format."""
    return AV_PIXEL_FORMATS[chroma_format_idc] + ("" if bit_depth == 8 else f"{bit_depth}le")


def _encode_hevc(
    planes: list[Plane], size: tuple[int, int], pixel_format: str, preset: str, options: str
) -> bytes:
    """One intra picture as an Annex B stream, with bpgenc's x265 settings and `options`.

    The planes' edges are replicated up to `size`, the coded width and height in luma pixels.
    """
    av = _av()
    width, height = size
    check_size(width, height)
    encoder = av.CodecContext.create("libx265", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, pixel_format
    encoder.time_base = Fraction(1, 25)
    encoder.options = {
        "preset": preset,
        "tune": "ssim",
        # One thread of each kind: the bytes of a stream depend on the threads.
        "x265-params": "keyint=1:min-keyint=1:bframes=0:repeat-headers=1:annexb=1:rect=1:amp=1:"
        f"info=0:log-level=none:frame-threads=1:pools=1:wpp=0:{options}",
    }
    frame = av.VideoFrame(width, height, pixel_format)
    for target, plane in zip(frame.planes, planes, strict=True):
        growth = ((0, target.height - plane.shape[0]), (0, target.width - plane.shape[1]))
        _samples(target, plane.dtype)[:, : target.width] = np.pad(plane, growth, "edge")
    frame.pts = 0
    try:
        packets = [*encoder.encode(frame), *encoder.encode(None)]
    except av.FFmpegError as error:
        raise CodecError(
            f"x265 could not encode {width}×{height} pixels: {error.strerror}"
        ) from error
    return b"".join(bytes(packet) for packet in packets)


def _decode_planes(
    file: BpgFile, header: SequenceHeader, chroma_format_idc: int, layer: int
) -> list[Plane]:
    """Luma and chroma of the first picture in a layer, cropped to the picture's size.

    Raises:
        CodecError: The data are damaged, or the decoder's picture is not as the header says.
    """
    width, height = header.coded_side(file.width), header.coded_side(file.height)
    sps = header.to_sps(width, height, chroma_format_idc, file.bit_depth)
    units = [build_vps(), sps, *first_picture(split_nals(file.hevc_data), layer)]
    # Each tree block takes a bit at least (its prediction mode is coded without a model), so a
    # small file that claims a huge picture is refused before memory is taken for it.
    if header.tree_blocks(width, height) > 8 * len(file.hevc_data):
        raise CodecError(
            "Damaged or truncated BPG file: too few data for its picture. "
            f"Received: {len(file.hevc_data)} bytes for {file.width}×{file.height} pixels"
        )
    frame = _decode_hevc(units)
    expected = (width, height, _av_pixel_format(chroma_format_idc, file.bit_depth))
    if (frame.width, frame.height, frame.format.name) != expected:
        raise CodecError(
            f"Damaged BPG file: its header says {expected}. "
            f"Received: {(frame.width, frame.height, frame.format.name)}"
        )
    planes = _cropped_planes(frame, file, chroma_format_idc)
    if not file.length_known:
        # FFmpeg reads past the end of a truncated slice without an error. A whole slice gives
        # the same picture whatever follows it.
        units[-1] += SLICE_TAIL
        others = _cropped_planes(_decode_hevc(units), file, chroma_format_idc)
        if not all(map(np.array_equal, planes, others)):
            raise CodecError("Truncated BPG file: its picture goes on after the file's end.")
    return planes


def _decode_hevc(units: list[bytes]) -> Any:
    """The PyAV frame of the NAL units of one picture."""
    av = _av()
    decoder = av.CodecContext.create("hevc", "r")
    decoder.thread_count = 1
    decoder.options = {"err_detect": "explode"}
    try:
        packet = av.Packet(b"".join(START_CODE + unit for unit in units))
        frames = [*decoder.decode(packet), *decoder.decode(None)]
    except av.FFmpegError as error:
        raise CodecError(
            f"Damaged or truncated BPG file: its HEVC data cannot be decoded: {error.strerror}"
        ) from error
    if not frames:
        raise CodecError("Damaged or truncated BPG file: its HEVC data give no picture.")
    return frames[0]


def _cropped_planes(frame: Any, file: BpgFile, chroma_format_idc: int) -> list[Plane]:
    """Views of a frame's planes without the padding of the coded size."""
    sample_type = np.dtype(np.uint8 if file.bit_depth == 8 else np.uint16)
    chroma_rows = -(-file.height // 2) if chroma_format_idc == 1 else file.height
    chroma_columns = -(-file.width // 2) if chroma_format_idc in (1, 2) else file.width
    planes = []
    for index, plane in enumerate(frame.planes):
        rows, columns = (chroma_rows, chroma_columns) if index else (file.height, file.width)
        planes.append(_samples(plane, sample_type)[:rows, :columns])
    return planes


def _samples(plane: Any, sample_type: np.dtype[Any]) -> npt.NDArray[Any]:
    """A writable view of a PyAV plane, `(H, line)` with padding at the end of lines."""
    samples = np.frombuffer(plane, sample_type)
    return samples.reshape(-1, plane.line_size // sample_type.itemsize)[: plane.height]


def _divided(image: Image, alpha: Image) -> Image:
    """Colours `(H, W, 3)` that were premultiplied by `alpha` `(H, W)`; white where it is 0."""
    divisor = alpha[..., None].astype(np.uint32)
    # libbpg's 16-bit reciprocal, for the same rounding.
    reciprocal = ((255 << 16) + divisor // 2 + 128) // np.maximum(divisor, 1)
    quotient = (image * reciprocal + (1 << 15)) >> 16
    return np.where(image >= alpha[..., None], 255, quotient).astype(np.uint8)


def _scaled(image: Image, factor: Image) -> Image:
    """Colours `(H, W, 3)` times `factor / 255` `(H, W)`, rounded."""
    product = image.astype(np.uint32) * factor[..., None] + 128
    return ((product + (product >> 8)) >> 8).astype(np.uint8)
