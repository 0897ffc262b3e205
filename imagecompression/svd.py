"""Singular value decomposition of a picture's blocks, or of the whole picture.

Both modes decompose the planes Y, Cb and Cr (full-range BT.601), chroma at full or halved
resolution: `imagecompression.patch_svd` the matrix of a plane's blocks, `imagecompression.
global_svd` the plane itself. Both quantise with one step and code with
`imagecompression.range_coding`.

The container, version 2, little-endian:

    offset  bytes
    0       4      magic 8F 53 56 44
    4       1      version of the container, 2
    5       1      block size 4, 8 or 16 of the patch mode; 0 for the global mode
    6       1      number of planes P: 1 (gray) or 3 (Y, Cb, Cr)
    7       1      1 when chroma has half the width and height (rounded up), else 0
    8       2      width
    10      2      height
    12      4      quantiser step of luma in 1/1024 grey level, uint32
    16      4      quantiser step of chroma, the same; 0 for gray
    20      2·P    mean of each plane in 1/64 grey level, int16
    …       4      CRC-32 of all other bytes
    …       rest   the payload: one range-coded stream of all planes, and zeros

A payload has at least a byte for each `_PIXELS_PER_BYTE` pixels beyond `_FREE_PIXELS`, and for
each `WORK_PER_BYTE` levels (`imagecompression.range_coding`); zeros fill it up. Decoders refuse
files that claim more, so a small file never takes long or much memory.

The decoded samples, with their mean and in 1/64 grey level, become RGB in integers: halved chroma
is doubled with the weights 3/4 and 1/4 (rows and columns at once, rounded to nearest, edges
replicated), then mixed with the weights of `_mix` in 1/2¹⁴ and rounded to nearest.
"""

from __future__ import annotations

import functools
import importlib.metadata
import math
import struct
import zlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from imagecompression import global_svd, patch_svd
from imagecompression.codec import (
    Codec,
    CodecError,
    CodecUnavailableError,
    Image,
    Knob,
    check_image,
    check_size,
)
from imagecompression.draft import Draft
from imagecompression.patch_svd import SAMPLE_UNIT, STEP_UNIT, Reals, Samples
from imagecompression.range_coding import (
    Integers,
    LevelCoder,
    LevelDecoder,
    LevelEncoder,
    LevelTables,
)
from imagecompression.svd_version_1 import decode_version_1
from imagecompression.thread_limit import one_thread

_MAGIC = b"\x8fSVD"
_VERSION = 2
_HEADER = struct.Struct("<4sBBBBHHII")
_MAX_SIDE = 65535
_MAX_STEP = 2**22
_FREE_PIXELS = 2**16
_PIXELS_PER_BYTE = 2048
_RATE_WEIGHT = 0.08
"""Squared quantiser steps that a bit may cost. Measured on photographs: the PSNR at equal size is
within 0.05 dB of its maximum from 0.05 to 0.1."""
_DRAFT_CORRECTION = (0.072, 0.102, -0.056)
"""Logarithm of file size over `patch_svd.estimated_bits`, by powers of its log bits a pixel; fitted
on photographs, within some 4 %."""
_MAX_CACHED_PIXELS = 2**24
_BLOCKS = (4, 8, 16)
_SUBSAMPLINGS = ("4:4:4", "4:2:0")

Terms = patch_svd.Decomposition | global_svd.Terms


@dataclass(frozen=True)
class Svd(Codec):
    """Truncated SVD of the blocks or of the whole of the picture's Y, Cb and Cr planes.

    Attributes:
        mode: ``"patch"``: each plane's blocks are the rows of a matrix whose right singular
            vectors are the picture's own transform. ``"global"``: each plane is the matrix.
        step: Quantiser step of all coefficients (patch) or factor entries (global), in grey
            levels, 0.5 … 512. It decides which terms are kept: the patch mode's worth their bits,
            the global mode's whose singular value exceeds (step / 1.5)·√(longer side).
        rank: Most terms kept of a plane, 1 … 1024. 1024 keeps all that `step` asks for.
        block: Side of the patch mode's blocks in samples, 4, 8 or 16; unused in global mode.
        subsampling: Chroma resolution, ``"4:4:4"`` or ``"4:2:0"`` (halved by the mean of 2×2
            samples, with half the step: a sample then counts for four); unused for gray.
        chroma_step: Chroma's step as a multiple of luma's, 0.25 … 8; unused for gray.

    >>> import numpy as np
    >>> Svd.decode(Svd(step=30).encode(np.zeros((8, 8, 3), np.uint8))).shape
    (8, 8, 3)
    """

    mode: str = "patch"
    step: float = 20.0
    rank: int = global_svd.MAX_TERMS
    block: int = 8
    subsampling: str = "4:4:4"
    chroma_step: float = 1.0

    name: ClassVar[str] = "svd"
    suffix: ClassVar[str] = ".svd"
    knob: ClassVar[Knob] = Knob("step", 0.5, 512, 0.02, rises_with_size=False, logarithmic=True)
    ratio_tolerance: ClassVar[float] = 0.02
    ssim_tolerance: ClassVar[float] = 0.005

    def __post_init__(self) -> None:
        self._check_choice("mode", ("patch", "global"))
        self._check_range("step", self.knob.low, self.knob.high, integer=False)
        self._check_range("rank", 1, global_svd.MAX_TERMS)
        self._check_choice("block", _BLOCKS)
        self._check_choice("subsampling", _SUBSAMPLINGS)
        self._check_range("chroma_step", 0.25, 8, integer=False)

    def encode(self, image: Image) -> bytes:
        image = check_image(image)
        height, width = image.shape[:2]
        block, halved, steps = self._layout(image)
        coder = LevelEncoder(_RATE_WEIGHT)
        with one_thread():
            means, terms = self._terms(image)
            shapes = _plane_shapes(height, width, len(terms), halved)
            _code_planes(coder, terms, shapes, block, steps, self.rank)
        header = _HEADER.pack(_MAGIC, _VERSION, block, len(means), halved, width, height, *steps)
        header += struct.pack(f"<{len(means)}h", *means)
        least = -(-(height * width - _FREE_PIXELS) // _PIXELS_PER_BYTE)
        payload = coder.data().ljust(least, b"\0")
        return header + struct.pack("<I", zlib.crc32(payload, zlib.crc32(header))) + payload

    def draft(self, image: Image) -> Draft | None:
        """An estimate of the file's size from the decomposition; None in global mode."""
        if self.mode == "global":
            return None
        image = check_image(image)
        steps = self._layout(image)[2]
        with one_thread():
            _, terms = self._terms(image)
            bits = 0.0
            for index, plane in enumerate(terms):
                assert isinstance(plane, patch_svd.Decomposition)
                bits += patch_svd.estimated_bits(plane, steps[min(index, 1)])
        rate = math.log(max(bits / (image.shape[0] * image.shape[1]), 0.1))
        constant, slope, bend = _DRAFT_CORRECTION
        file_bytes = bits / 8 * math.exp(constant + (slope + bend * rate) * rate)
        return Draft(_HEADER.size + round(file_bytes), None, lambda: self.encode(image))

    def _layout(self, image: Image) -> tuple[int, bool, list[int]]:
        """Block size (0 in global mode), whether chroma is halved, and the steps in the file."""
        halved = image.ndim == 3 and self.subsampling == "4:2:0"
        steps = [round(self.step * STEP_UNIT), 0]
        if image.ndim == 3:
            steps[1] = round(self.step * self.chroma_step * STEP_UNIT / (2 if halved else 1))
        return self.block if self.mode == "patch" else 0, halved, steps

    def _terms(self, image: Image) -> tuple[list[int], list[Terms]]:
        """Mean and terms of each plane."""
        height, width = image.shape[:2]
        if max(height, width) > _MAX_SIDE:
            raise CodecError(
                f"SVD sides are at most {_MAX_SIDE} pixels. Received: {width}×{height}"
            )
        block, halved, _ = self._layout(image)
        decompose = _decompose if height * width <= _MAX_CACHED_PIXELS else _decompose.__wrapped__
        means, terms = decompose(image.tobytes(), image.shape, halved, block)
        return means, terms

    @classmethod
    def decode(cls, data: bytes) -> Image:
        if not cls.matches(data):
            raise CodecError(f"Not an SVD file. Received: magic bytes {data[:4].hex(' ')}")
        if data[4:5] == b"\1":
            return decode_version_1(data)
        try:
            _, version, block, count, halved, width, height, *steps = _HEADER.unpack_from(data)
            if version != _VERSION or count not in (1, 3):
                raise CodecError(
                    f"An SVD file must have version 1 or {_VERSION} and 1 or 3 planes. "
                    f"Received: version {version}, {count} planes"
                )
            *means, checksum = struct.unpack_from(f"<{count}hI", data, _HEADER.size)
        except struct.error as error:
            raise CodecError(f"The SVD file is truncated: only {len(data)} bytes") from error
        end = _HEADER.size + 2 * count
        payload = data[end + 4 :]
        if zlib.crc32(payload, zlib.crc32(data[:end])) != checksum:
            raise CodecError("The SVD file is damaged or truncated: its checksum does not fit")
        check_size(width, height)
        if width * height > _FREE_PIXELS + _PIXELS_PER_BYTE * len(payload):
            raise CodecError(
                f"An SVD file of {width}×{height} pixels cannot have a payload of only "
                f"{len(payload)} bytes"
            )
        if block not in (0, *_BLOCKS) or halved > (count == 3):
            raise CodecError(f"An SVD file cannot have blocks of {block} or halving {halved}")
        if not all(1 <= step <= _MAX_STEP for step in steps[: (count + 1) // 2]):
            raise CodecError(f"SVD steps must be 1 … {_MAX_STEP} in 1/1024. Received: {steps}")
        shapes = _plane_shapes(height, width, count, bool(halved))
        planes = _code_planes(LevelDecoder(payload), None, shapes, block, steps, 0)
        return _picture(planes, means, bool(halved))

    @classmethod
    def matches(cls, data: bytes) -> bool:
        return data[:4] == _MAGIC

    @classmethod
    def version(cls) -> str:
        try:
            coder = importlib.metadata.version("constriction")
        except importlib.metadata.PackageNotFoundError as error:
            raise CodecUnavailableError(
                "The range coder constriction is missing. Install it: pip install constriction"
            ) from error
        return f"svd container {_VERSION} (constriction {coder}, numpy {np.__version__})"

    @classmethod
    def variants(cls) -> tuple[Codec, ...]:
        whole = (
            cls(mode="global", subsampling=subsampling, chroma_step=chroma_step)
            for subsampling in _SUBSAMPLINGS
            for chroma_step in (1.0, 2.0, 4.0)
        )
        blocks = (
            cls(block=block, subsampling=subsampling)
            for subsampling in _SUBSAMPLINGS
            for block in (8, 16, 4)
        )
        return (*whole, *blocks)


def _plane_shapes(height: int, width: int, count: int, halved: bool) -> list[tuple[int, int]]:
    """Height and width of each plane."""
    chroma = (-(-height // 2), -(-width // 2)) if halved else (height, width)
    return [(height, width), chroma, chroma][:count]


def _code_planes(
    coder: LevelCoder,
    terms: list[Terms] | None,
    shapes: list[tuple[int, int]],
    block: int,
    steps: list[int],
    max_terms: int,
) -> list[Samples]:
    """Code all planes; `terms` is the encoder's. Returns the decoded samples less their means."""
    planes = []
    tables = LevelTables()
    other: Integers | None = None
    for index, shape in enumerate(shapes):
        plane = None if terms is None else terms[index]
        step = steps[min(index, 1)]
        if block == 0:
            assert not isinstance(plane, patch_svd.Decomposition)
            planes.append(global_svd.code_plane(coder, plane, shape, step, max_terms))
            continue
        assert not isinstance(plane, global_svd.Terms)
        if index == 1:
            tables = LevelTables()
            assert other is not None
            other = _on_grid(other, patch_svd.grid_shape(*shape, block))
        samples, activity = patch_svd.code_plane(
            coder, plane, shape, block, step, max_terms, tables, other, _RATE_WEIGHT
        )
        planes.append(samples)
        other = activity if other is None else (other + activity) >> 1
    return planes


def _on_grid(activity: Integers, grid: tuple[int, int]) -> Integers:
    """Luma's activity on chroma's grid of blocks, of equal or half the size."""
    if activity.shape == grid:
        return activity
    rows, columns = grid
    padding = ((0, 2 * rows - activity.shape[0]), (0, 2 * columns - activity.shape[1]))
    padded = np.pad(activity, padding, mode="edge")
    return padded.reshape(rows, 2, columns, 2).sum(axis=(1, 3)) >> 2


# --- colour ----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _decompose(
    pixels: bytes, shape: tuple[int, ...], halved: bool, block: int
) -> tuple[list[int], list[Terms]]:
    """Mean (in 1/`SAMPLE_UNIT`) and terms of each plane, kept for the next encode of a picture."""
    means: list[int] = []
    terms: list[Terms] = []
    for plane in _planes(np.frombuffer(pixels, np.uint8).reshape(shape), halved):
        mean = round(float(plane.mean(dtype=np.float64)) * SAMPLE_UNIT)
        plane -= np.float32(mean / SAMPLE_UNIT)
        means.append(mean)
        terms.append(patch_svd.decompose(plane, block) if block else global_svd.decompose(plane))
    return means, terms


def _planes(image: Image, halved: bool) -> list[Reals]:
    """Y, Cb, Cr (or Y alone) in grey levels, chroma around 0, float32."""
    if image.ndim == 2:
        return [image.astype(np.float32)]
    red, green, blue = (image[..., channel].astype(np.float32) for channel in range(3))
    luma = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    chroma = [(blue - luma) / np.float32(1.772), (red - luma) / np.float32(1.402)]
    return [luma, *(_halve(plane) if halved else plane for plane in chroma)]


def _halve(plane: Reals) -> Reals:
    """Means of 2×2 samples; odd sides are replicated."""
    height, width = plane.shape
    padded = np.pad(plane, ((0, height % 2), (0, width % 2)), mode="edge")
    rows = padded[0::2] + padded[1::2]
    return (rows[:, 0::2] + rows[:, 1::2]) * np.float32(0.25)


def _picture(planes: list[Samples], means: list[int], halved: bool) -> Image:
    """Gray or RGB from samples less their means, in bands of rows."""
    height, width = planes[0].shape
    out = np.empty((height, width, 3) if len(planes) == 3 else (height, width), np.uint8)
    lines = max(2, 2**18 // width // 2 * 2)
    for top in range(0, height, lines):
        band = slice(top, min(top + lines, height))
        luma = planes[0][band].astype(np.int32) + means[0]
        if len(planes) == 1:
            out[band] = np.clip((luma + SAMPLE_UNIT // 2) // SAMPLE_UNIT, 0, 255)
            continue
        blue, red = (
            (_doubled(plane, band, width) if halved else plane[band].astype(np.int32)) + mean
            for plane, mean in zip(planes[1:], means[1:], strict=True)
        )
        out[band] = _mix(luma, blue, red)
    return out


def _doubled(plane: Samples, band: slice, width: int) -> npt.NDArray[np.int32]:
    """Rows `band` (from an even one on) of a halved chroma plane, at full resolution."""
    lines = np.arange(band.start // 2 - 1, (band.stop + 1) // 2 + 1)
    columns = np.arange(-1, plane.shape[1] + 1)
    padded = plane[lines.clip(0, len(plane) - 1)][:, columns.clip(0, plane.shape[1] - 1)]
    full = padded.astype(np.int32)
    for _ in range(2):  # rows, then columns, transposed twice
        both = np.empty((2 * len(full) - 4, full.shape[1]), np.int32)
        both[0::2] = 3 * full[1:-1] + full[:-2]
        both[1::2] = 3 * full[1:-1] + full[2:]
        full = both.T
    return (full[: band.stop - band.start, :width] + 8) >> 4


def _mix(
    luma: npt.NDArray[np.int32], blue: npt.NDArray[np.int32], red: npt.NDArray[np.int32]
) -> Image:
    """RGB of Y, Cb, Cr in 1/`SAMPLE_UNIT`; clipped to 16 bits, so that no sum reaches 2³¹."""
    luma, blue, red = (np.clip(plane, -32768, 32767) for plane in (luma, blue, red))
    luma = (luma << 14) + (SAMPLE_UNIT << 13)
    sums = (luma + 22970 * red, luma - 5638 * blue - 11700 * red, luma + 29032 * blue)
    return np.stack([np.clip(each >> 20, 0, 255) for each in sums], axis=-1).astype(np.uint8)
