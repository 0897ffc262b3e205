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
    ALPHA_PREMULTIPLIED,
    ALPHA_STRAIGHT,
    ALPHA_W_PLANE,
    CHROMA_FORMAT_IDC,
    EXTENSION_TAGS,
    GRAY,
    MAGIC,
    MAX_SIDE,
    MPEG2_SITED,
    YUV_420,
    YUV_420_VIDEO,
    YUV_422,
    YUV_422_VIDEO,
    YUV_444,
    BpgFile,
    build_bpg,
    parse_bpg,
)
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
from imagecompression.hevc import (
    START_CODE,
    SequenceHeader,
    build_vps,
    first_picture,
    split_nals,
    with_last_block,
)
from imagecompression.x265 import PRESETS, mixed_qps
from imagecompression.ycbcr import ColorSpace, Plane, halve_chroma, rgb_to_ycbcr, ycbcr_to_rgb

PIXEL_FORMATS = {
    "4:2:0": YUV_420,
    "4:2:2": YUV_422,
    "4:4:4": YUV_444,
    "4:2:0-video": YUV_420_VIDEO,
    "4:2:2-video": YUV_422_VIDEO,
}
"""BPG's pixel_format by chroma subsampling."""

COLOR_SPACES = {
    "ycbcr": ColorSpace.YCBCR_BT601,
    "bt709": ColorSpace.YCBCR_BT709,
    "bt2020": ColorSpace.YCBCR_BT2020,
    "ycgco": ColorSpace.YCGCO,
    "rgb": ColorSpace.RGB,
}
"""BPG's color_space by bpgenc's name of it."""

AV_PIXEL_FORMATS = ("gray", "yuv420p", "yuv422p", "yuv444p")
"""FFmpeg's 8-bit pixel format by chroma_format_idc; more bits add `10le` or `12le`."""

DECODED_BIT_DEPTHS = (8, 10, 12)
"""Those that FFmpeg's HEVC decoder has."""

FIRST_PIXELS = 1 << 20
"""A larger picture is decoded in part first, to see whether its data are there."""

SLICE_TAIL = b"\xa5" * 64
"""Bytes put after a slice to see whether the decoder still wanted some."""


@dataclass(frozen=True)
class Bpg(Codec):
    """BPG as bpgenc writes it: one x265 intra picture, constant QP.

    x265 codes an intra picture about 3 QP finer than asked (its I-frame factor of 1.4), in
    bpgenc as here. Alpha is a second picture at the same settings.

    Attributes:
        qp: Quantisation parameter asked of x265, 0 … 51; lower is better, bpgenc's default is 29.
        subsampling: Chroma subsampling, ``"4:2:0"``, ``"4:2:2"`` or ``"4:4:4"``, and with chroma
            on luma columns (MPEG-2) ``"4:2:0-video"`` or ``"4:2:2-video"``; nothing for gray.
        bit_depth: Bits a sample that are coded, 8, 10 or 12; the picture itself has 8.
        preset: x265's preset, ``"ultrafast"`` … ``"placebo"``.
        color_space: ``"ycbcr"`` (BT.601), ``"bt709"``, ``"bt2020"``, ``"ycgco"`` or ``"rgb"``;
            nothing for gray. RGB is never subsampled: the default ``"4:2:0"`` becomes ``"4:4:4"``.
        limited_range: Luma is coded as 16 … 235 and chroma as 16 … 240, not 0 … 255.
        lossless: The decoded picture equals the encoded one. This is RGB of 8 bits and full range:
            `color_space` and `subsampling` become ``"rgb"`` and ``"4:4:4"``, and a `qp` other than
            the default is refused.
        qp_fraction: 0 … 1, how much of the picture is coded with `qp` + 1 in place of `qp`: from
            0, none, as bpgenc, to 1, nearly all. x265's adaptive quantisation picks the blocks,
            the busy ones first. 0 at `qp` 51.

    >>> import numpy as np
    >>> Bpg(qp=20).encode(np.zeros((9, 5, 3), np.uint8))[:4]
    b'BPG\\xfb'
    """

    qp: int = 29
    subsampling: str = "4:2:0"
    bit_depth: int = 8
    preset: str = "medium"
    color_space: str = "ycbcr"
    limited_range: bool = False
    lossless: bool = False
    qp_fraction: float = 0.0

    name: ClassVar[str] = "bpg"
    suffix: ClassVar[str] = ".bpg"
    knob: ClassVar[Knob] = Knob("qp", 0, 51, 1, rises_with_size=False)
    fine_knob: ClassVar[Knob] = Knob("qp_fraction", 0, 1, 0.01, rises_with_size=False)
    ratio_tolerance: ClassVar[float] = 0.05
    ssim_tolerance: ClassVar[float] = 0.008
    keeps: ClassVar[frozenset[str]] = frozenset({"alpha", *EXTENSION_TAGS})

    def __post_init__(self) -> None:
        self._check_range("qp", 0, 51)
        self._check_choice("subsampling", tuple(PIXEL_FORMATS))
        self._check_choice("bit_depth", (8, 10, 12))
        self._check_choice("preset", PRESETS)
        self._check_choice("color_space", tuple(COLOR_SPACES))
        self._check_choice("limited_range", (False, True))
        self._check_choice("lossless", (False, True))
        self._check_range("qp_fraction", 0, 1, integer=False)
        if self.qp == 51 and self.qp_fraction:
            raise CodecError(
                f"{self.name} qp_fraction must be 0 at qp=51: there is no coarser QP to mix in. "
                f"Received: qp_fraction={self.qp_fraction}"
            )
        if self.lossless:
            self._imply("lossless", "color_space", "rgb")
            for field in ("qp", "bit_depth", "limited_range", "qp_fraction"):
                self._imply("lossless", field, getattr(Bpg, field))
        if self.color_space == "rgb":
            self._imply("lossless" if self.lossless else "rgb", "subsampling", "4:4:4")

    def _imply(self, cause: str, field: str, value: Any) -> None:
        """Set a field that holds its default to the only `value` that goes with `cause`."""
        given = getattr(self, field)
        if given not in (value, getattr(Bpg, field)):
            raise CodecError(
                f"{cause} {self.name} files have {field}={value!r} only: leave it out. "
                f"Received: {field}={given!r}"
            )
        object.__setattr__(self, field, value)

    def encode(self, image: Image) -> bytes:
        return self.encode_with(image, Extras())

    def encode_with(self, image: Image, extras: Extras) -> bytes:
        image = check_image(image)
        self._check_extras(image, extras)
        if max(image.shape[:2]) > MAX_SIDE:
            raise CodecError(
                f"BPG sides are at most {MAX_SIDE} pixels. "
                f"Received: {image.shape[1]}×{image.shape[0]}"
            )
        color_space = COLOR_SPACES[self.color_space]
        pixel_format = PIXEL_FORMATS[self.subsampling] if image.ndim == 3 else GRAY
        planes = coded_planes(
            image, self.bit_depth, pixel_format, color_space, limited_range=self.limited_range
        )
        height, width = image.shape[:2]
        alpha_stream = None
        if extras.alpha is not None:
            # Alpha is always full range.
            alpha_stream = self._encode_planes(rgb_to_ycbcr(extras.alpha, self.bit_depth), GRAY)
        return build_bpg(
            self._encode_planes(planes, pixel_format),
            width,
            height,
            pixel_format,
            self.bit_depth,
            color_space=ColorSpace.YCBCR_BT601 if pixel_format == GRAY else color_space,
            limited_range=self.limited_range,
            alpha_stream=alpha_stream,
            extensions=[
                (tag, content)
                for name, tag in EXTENSION_TAGS.items()
                if (content := getattr(extras, name)) is not None
            ],
        )

    def _encode_planes(self, planes: list[Plane], pixel_format: int) -> bytes:
        """One picture as an Annex B stream."""
        height, width = planes[0].shape
        block = self._block_side(width, height)
        size = (-(-width // block) * block, -(-height // block) * block)
        options = f"min-cu-size={block}:{self._quantiser()}"
        if self.preset == "placebo" and min(size) < 32:
            # Tree blocks of 16 pixels have no room for the preset's four levels of transforms.
            options += ":tu-intra-depth=3:tu-inter-depth=3"
        pixel_format_name = _av_pixel_format(CHROMA_FORMAT_IDC[pixel_format], self.bit_depth)
        return _encode_hevc(planes, size, pixel_format_name, self.preset, options)

    def _quantiser(self) -> str:
        """x265's options for the quantisation."""
        if self.lossless:
            return "lossless=1"
        if not self.qp_fraction:
            return f"qp={self.qp}"
        return ":".join(
            f"{name}={value}" for name, value in mixed_qps(self.qp, self.qp_fraction).items()
        )

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
        return _decode_picture(_parse_decodable(data), with_alpha=False)[0]

    @classmethod
    def decode_with(cls, data: bytes) -> tuple[Image, Extras]:
        """As `decode`, with alpha in 8 bits; of several blocks of a kind the first counts."""
        file = _parse_decodable(data)
        image, alpha = _decode_picture(file, with_alpha=True)
        blocks = dict(reversed(file.extensions))
        held = {name: blocks.get(tag) for name, tag in EXTENSION_TAGS.items()}
        return image, Extras(alpha=alpha, **held)

    @classmethod
    def matches(cls, data: bytes) -> bool:
        """True for the magic bytes 42 50 47 FB."""
        return data[:4] == MAGIC

    @classmethod
    def version(cls) -> str:
        return _version()

    @classmethod
    def variants(cls) -> tuple[Codec, ...]:
        """Half is 4:2:0 as bpgenc writes it by default; the rest shows each other mode."""
        common = itertools.product((8, 10), ("superfast", "fast", "medium", "slow", "slower"))
        rare: tuple[dict[str, Any], ...] = (
            {"preset": "veryslow"},
            {"subsampling": "4:4:4"},
            {"subsampling": "4:4:4", "preset": "slow"},
            {"subsampling": "4:4:4", "bit_depth": 10},
            {"subsampling": "4:2:2"},
            {"subsampling": "4:2:2", "bit_depth": 10},
            {"bit_depth": 12},
            {"subsampling": "4:2:0-video"},
            {"subsampling": "4:2:2-video"},
            {"limited_range": True},
            {"color_space": "bt709"},
            {"color_space": "bt709", "limited_range": True, "subsampling": "4:2:0-video"},
        )
        return (
            *(cls(bit_depth=bit_depth, preset=preset) for bit_depth, preset in common),
            *(cls(**fields) for fields in rare),
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


def coded_planes(
    image: Image,
    bit_depth: int,
    pixel_format: int,
    color_space: ColorSpace,
    *,
    limited_range: bool,
) -> list[Plane]:
    """The planes that bpgenc codes of an image, not yet padded; see `BpgFile` for the fields."""
    luma, *chroma = rgb_to_ycbcr(
        image, bit_depth, color_space=color_space, limited_range=limited_range
    )
    if pixel_format not in (GRAY, YUV_444):
        rows, cosited = CHROMA_FORMAT_IDC[pixel_format] == 1, pixel_format in MPEG2_SITED
        chroma = [halve_chroma(plane, bit_depth, rows=rows, cosited=cosited) for plane in chroma]
    return [luma, *chroma]


def _parse_decodable(data: bytes) -> BpgFile:
    """The parsed file, refused where FFmpeg does not decode its bit depth."""
    file = parse_bpg(data)
    if file.bit_depth not in DECODED_BIT_DEPTHS:
        raise CodecError(
            f"BPG of {file.bit_depth} bits a sample is not supported; allowed: "
            f"{', '.join(map(str, DECODED_BIT_DEPTHS))}."
        )
    return file


def _decode_picture(file: BpgFile, *, with_alpha: bool) -> tuple[Image, Image | None]:
    """Colours, not premultiplied, and alpha, None where there is none or it is not wanted."""
    image = ycbcr_to_rgb(
        decode_planes(file),
        file.bit_depth,
        color_space=file.color_space,
        limited_range=file.limited_range,
        cosited=file.pixel_format in MPEG2_SITED,
    )
    if file.alpha_header is None or (file.alpha == ALPHA_STRAIGHT and not with_alpha):
        return image, None
    # Alpha is always full range.
    alpha = ycbcr_to_rgb(_decode_layer(file, file.alpha_header, 0, layer=1), file.bit_depth)
    if file.alpha == ALPHA_W_PLANE:
        return _scaled(image, alpha), None
    return _divided(image, alpha) if file.alpha == ALPHA_PREMULTIPLIED else image, alpha


def decode_planes(file: BpgFile) -> list[Plane]:
    """The colour picture's planes as they are coded: luma, or luma and chroma, or G, B, R.

    Raises:
        CodecError: The data are damaged, or the decoder's picture is not as the header says.
    """
    return _decode_layer(file, file.header, CHROMA_FORMAT_IDC[file.pixel_format], layer=0)


def _decode_layer(
    file: BpgFile, header: SequenceHeader, chroma_format_idc: int, layer: int
) -> list[Plane]:
    """The planes of the first picture in a layer, cropped to the picture's size."""
    width, height = header.coded_side(file.width), header.coded_side(file.height)
    # Each tree block takes a bit at least (its prediction mode is coded without a model), so a
    # small file that claims a huge picture is refused before memory is taken for it.
    if header.tree_blocks(width, height) > 8 * len(file.hevc_data):
        raise CodecError(
            "Damaged or truncated BPG file: too few data for its picture. "
            f"Received: {len(file.hevc_data)} bytes for {file.width}×{file.height} pixels"
        )
    units = first_picture(split_nals(file.hevc_data), layer)
    for rows in (*header.growing_heights(width, height, FIRST_PIXELS), height):
        sps = header.to_sps(width, rows, chroma_format_idc, file.bit_depth)
        frame = _decode_hevc([build_vps(), sps, *units])
        expected = (width, rows, _av_pixel_format(chroma_format_idc, file.bit_depth))
        if (frame.width, frame.height, frame.format.name) != expected:
            raise CodecError(
                f"Damaged BPG file: its header says {expected}. "
                f"Received: {(frame.width, frame.height, frame.format.name)}"
            )
        planes = _cropped_planes(frame, file, chroma_format_idc)
        # FFmpeg reads past the end of a truncated slice without an error. A whole slice gives
        # the same picture whatever follows it.
        others = _decode_hevc([build_vps(), sps, *units[:-1], units[-1] + SLICE_TAIL])
        if not all(map(np.array_equal, planes, _cropped_planes(others, file, chroma_format_idc))):
            raise CodecError("Truncated BPG file: its picture goes on after the file's end.")
        # FFmpeg leaves the rest of a picture black where its slices end too early.
        tree_blocks = header.tree_blocks(width, rows)
        extended = with_last_block(units, tree_blocks) if tree_blocks > 1 else None
        if extended:
            _decode_hevc([build_vps(), sps, *extended])
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
    """Colours or gray that were premultiplied by `alpha` `(H, W)`; white where it is 0."""
    divisor = alpha.astype(np.uint32)
    # libbpg's 16-bit reciprocal, for the same rounding.
    reciprocal = ((255 << 16) + divisor // 2 + 128) // np.maximum(divisor, 1)
    if image.ndim == 3:
        divisor, reciprocal = divisor[..., None], reciprocal[..., None]
    quotient = (image * reciprocal + (1 << 15)) >> 16
    return np.where(image >= divisor, 255, quotient).astype(np.uint8)


def _scaled(image: Image, factor: Image) -> Image:
    """Colours `(H, W, 3)` times `factor / 255` `(H, W)`, rounded."""
    product = image.astype(np.uint32) * factor[..., None] + 128
    return ((product + (product >> 8)) >> 8).astype(np.uint8)
