"""JPEG 2000 (ISO/IEC 15444-1) through glymur, that is OpenJPEG.

Sections in parentheses are those of ISO/IEC 15444-1. OpenJPEG's quantiser steps and its two guard
bits cannot be set. Left out are regions of interest, the marker segments PLT and TLM and the modes
of code blocks: glymur has them, but no pixel depends on them at full resolution and ratio.
"""

from __future__ import annotations

import ctypes.util
import dataclasses
import functools
import os
import struct
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

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
from imagecompression.pillow_image import gray_or_rgb, open_checked

_LEAST_BYTES = 256
_IMPORT_LOCK = threading.Lock()

PROGRESSIONS = ("LRCP", "RLCP", "RPCL", "PCRL", "CPRL")
"""Orders of the packets (B.12), by their number in the codestream."""

_SIDES = tuple(1 << power for power in range(2, 11))
_CODE_BLOCK_SAMPLES = 4096
_PRECINCTS = tuple(1 << power for power in range(3, 16))
_MAX_TILES = 65535
_LEAST_PSNR = 20.0
_LAYER_DB = 3.0


@dataclass(frozen=True)
class Jpeg2000(Codec):
    """JPEG 2000 with OpenJPEG's rate control.

    `ratio` 1 with `reversible` is lossless. A `psnr_db` other than 0 takes the place of the ratio,
    which is then without effect; setting the knob takes the ratio back, as rate control must.

    Attributes:
        ratio: Compression ratio asked of the encoder, 1 … 1000; 20 means 20:1, 1 all that the
            quantiser leaves. Lowered for tiny pictures, so that the file may always take 256 bytes.
        psnr_db: 0, or the PSNR in dB asked of the encoder, 20 … 100. OpenJPEG estimates it on
            wavelet coefficients: up to 40 dB what comes out lies about 0.1 … 0.5 dB lower, above
            that by more, as nothing exceeds the quantiser (some 51 dB with the 9/7 wavelet).
        reversible: False for the irreversible 9/7 wavelet, True for the reversible 5/3.
        resolutions: Number of resolution levels, 1 … 33, lowered where a side is too short.
        layers: Number of quality layers, 1 … 32. Each has twice the bytes of the one before, or
            3 dB more. Layers of less than 256 bytes or 20 dB are left out.
        tile: Side of the square tiles in pixels, 16 … 65535, or 0 for one tile. Tiles are cut to
            the picture where they are larger.
        precinct: Side of the precincts at every resolution, a power of two from 8 to 32768 and at
            least twice either side of the code blocks, or 0 for the largest.
        code_block_width: A power of two from 4 to 1024.
        code_block_height: The same; no more than 4096 samples a code block.
        progression: Order of the packets, one of `PROGRESSIONS`.
        mct: Multiple component transform, RGB to luma and chroma (G.2, G.3); unused for gray.
        sop: Whether a marker precedes each packet (A.8.1).
        eph: Whether a marker ends each packet's header (A.8.2).

    >>> import numpy as np
    >>> Jpeg2000.decode(Jpeg2000(ratio=10).encode(np.zeros((8, 8, 3), np.uint8))).shape
    (8, 8, 3)
    """

    ratio: float = 20.0
    psnr_db: float = 0.0
    reversible: bool = False
    resolutions: int = 6
    layers: int = 1
    tile: int = 0
    precinct: int = 0
    code_block_width: int = 64
    code_block_height: int = 64
    progression: str = "LRCP"
    mct: bool = True
    sop: bool = False
    eph: bool = False

    name: ClassVar[str] = "jpeg2000"
    suffix: ClassVar[str] = ".jp2"
    other_suffixes: ClassVar[tuple[str, ...]] = (".j2k", ".j2c", ".jpx", ".jpf")
    knob: ClassVar[Knob] = Knob("ratio", 1, 1000, 0.005, rises_with_size=False, logarithmic=True)
    ratio_tolerance: ClassVar[float] = 0.02
    ssim_tolerance: ClassVar[float] = 0.005

    def __post_init__(self) -> None:
        self._check_range("ratio", 1, 1000, integer=False)
        self._check_range("psnr_db", 0, 100, integer=False)
        for field in ("reversible", "mct", "sop", "eph"):
            self._check_choice(field, (False, True))
        self._check_range("resolutions", 1, 33)
        self._check_range("layers", 1, 32)
        self._check_range("tile", 0, 65535)
        self._check_choice("precinct", (0, *_PRECINCTS))
        self._check_choice("code_block_width", _SIDES)
        self._check_choice("code_block_height", _SIDES)
        self._check_choice("progression", PROGRESSIONS)
        width, height = self.code_block_width, self.code_block_height
        if 0 < self.psnr_db < _LEAST_PSNR:
            raise CodecError(
                f"jpeg2000 psnr_db must be 0 (none asked) or {_LEAST_PSNR:g} … 100. "
                f"Received: psnr_db={self.psnr_db:g}"
            )
        if 0 < self.tile < 16:
            raise CodecError(
                f"jpeg2000 tile must be 0 (one tile) or 16 … 65535. Received: tile={self.tile}"
            )
        if width * height > _CODE_BLOCK_SAMPLES:
            raise CodecError(
                f"jpeg2000 code blocks have at most {_CODE_BLOCK_SAMPLES} samples. "
                f"Received: code_block_width={width}, code_block_height={height}"
            )
        if 0 < self.precinct < 2 * max(width, height):
            raise CodecError(
                "jpeg2000 precinct must be 0 (the largest) or at least twice the sides of the code "
                f"blocks. Received: precinct={self.precinct}, code blocks of {width}×{height}"
            )

    def with_knob(self, value: float) -> Self:
        """A copy that asks for the ratio `value`, and for no PSNR."""
        return dataclasses.replace(self, ratio=value, psnr_db=0.0)

    def encode(self, image: Image) -> bytes:
        image = check_image(image)
        glymur = _glymur()
        height, width = image.shape[:2]
        tile_height, tile_width = (min(self.tile or side, side) for side in (height, width))
        tiles = -(-height // tile_height) * -(-width // tile_width)
        if tiles > _MAX_TILES:
            raise CodecError(
                f"JPEG 2000 has room for {_MAX_TILES} tiles. "
                f"Received: tile={self.tile} for {width}×{height} pixels, that is {tiles} tiles"
            )
        # The 2-D wavelet halves both sides at each level; OpenJPEG refuses more levels than that.
        resolutions = min(self.resolutions, min(tile_height, tile_width).bit_length())
        options: dict[str, Any] = {
            "irreversible": not self.reversible,
            "numres": resolutions,
            "cbsize": (self.code_block_height, self.code_block_width),
            "prog": self.progression,
            "mct": self.mct if image.ndim == 3 else None,
            "sop": self.sop,
            "eph": self.eph,
        }
        if self.psnr_db:
            options["psnr"] = self._layer_psnrs()
        else:
            options["cratios"] = self._layer_ratios(image.size)
        if tiles > 1:
            options["tilesize"] = (tile_height, tile_width)
        if self.precinct:
            options["psizes"] = [(self.precinct, self.precinct)] * resolutions
        with tempfile.TemporaryDirectory(prefix="imagecompression-") as folder:
            path = Path(folder) / "picture.jp2"
            try:
                glymur.Jp2k(path, data=image, **options)
            except (glymur.lib.openjp2.OpenJPEGLibraryError, RuntimeError) as error:
                raise CodecError(
                    f"OpenJPEG could not encode {width}×{height} pixels: {error}"
                ) from error
            return path.read_bytes()

    def _layer_ratios(self, samples: int) -> list[float]:
        """Falling compression ratios, one a layer, for a picture of `samples` bytes."""
        # Headers count, too: a picture of a few bytes would be left with headers alone.
        most = max(1.0, samples / _LEAST_BYTES)
        last = min(self.ratio, most)
        ratios = (last * 2.0**layer for layer in range(self.layers - 1, 0, -1))
        return [*(ratio for ratio in ratios if ratio <= most), last]

    def _layer_psnrs(self) -> list[float]:
        """Rising PSNRs in dB, one a layer."""
        psnrs = (self.psnr_db - _LAYER_DB * layer for layer in range(self.layers - 1, 0, -1))
        return [*(psnr for psnr in psnrs if psnr >= _LEAST_PSNR), self.psnr_db]

    @classmethod
    def decode(cls, data: bytes) -> Image:
        bits, plain = _check_codestream(data)
        if bits == 8 and plain:
            with open_checked(data, "JPEG2000") as picture:
                return gray_or_rgb(picture)
        return _decode_by_imagecodecs(data, bits)

    @classmethod
    def matches(cls, data: bytes) -> bool:
        """True for the JP2 signature box or a bare codestream (SOC and SIZ markers)."""
        return data[:12] == _SIGNATURE or data[:4] == _START

    @classmethod
    def version(cls) -> str:
        glymur = _glymur()
        return f"OpenJPEG {glymur.version.openjpeg_version} (glymur {glymur.__version__})"

    @classmethod
    def variants(cls) -> tuple[Codec, ...]:
        # Most files met have five wavelet levels, 64×64 code blocks, the 9/7 wavelet and no tiles;
        # they differ in layers and progression.
        usual = ((1, "LRCP"), (1, "RPCL"), (1, "RLCP"), (6, "LRCP"), (6, "RPCL"), (12, "LRCP"))
        others: tuple[dict[str, Any], ...] = (
            {"resolutions": 5},
            {"resolutions": 7},
            {"code_block_width": 32, "code_block_height": 32},
            {"precinct": 256, "progression": "RPCL", "layers": 12},
            {"precinct": 128, "progression": "PCRL"},
            {"tile": 1024, "progression": "RPCL"},
            {"tile": 512},
            {"tile": 256, "progression": "CPRL"},
            {"mct": False},
        )
        return (
            *(cls(layers=layers, progression=progression) for layers, progression in usual),
            *(
                cls(layers=layers, progression=progression, reversible=True)
                for layers, progression in usual[::2]
            ),
            *(cls(**other) for other in others),
            *(cls(**other, reversible=True) for other in others[::2]),
        )


_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
_START = b"\xff\x4f\xff\x51"
_TILE_PART, _END = 0xFF90, 0xFFD9
_MAX_COMPONENTS = 4


def sample_bits(data: bytes) -> int:
    """Bits a sample: of the palette, or of the first component (A.5.1), or 8 where none is."""
    at = _codestream(data)
    bits = _palette_bits(data)
    if bits is None:
        bits = (data[at + 42] & 0x7F) + 1 if 0 <= at < len(data) - 42 else 8
    return bits


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the content of each box (I.4) from `at` to `end`."""
    while at + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, at)
        header = 8
        if length == 1 and at + 16 <= end:
            (length,) = struct.unpack_from(">Q", data, at + 8)
            header = 16
        elif length == 0:  # the last box, up to the end
            length = end - at
        if length < header:
            return
        yield kind, at + header, min(at + length, end)
        at += length


def _codestream(data: bytes) -> int:
    """Where the codestream starts in a JP2 file or bare codestream, or -1."""
    found = 0
    if data[:4] != _START:
        boxes = _boxes(data, 0, len(data))
        found = next((start for kind, start, _ in boxes if kind == b"jp2c"), -1)
    return found if found >= 0 and data[found : found + 4] == _START else -1


def _palette_bits(data: bytes) -> int | None:
    """Bits of the entries of a JP2 file's palette (I.5.3.4), or None where it has none."""
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == b"jp2h":
            for inner, at, inner_end in _boxes(data, start, end):
                if inner == b"pclr" and at + 3 < inner_end:
                    return (data[at + 3] & 0x7F) + 1
    return None


def _check_codestream(data: bytes) -> tuple[int, bool]:
    """Bits of the samples by the SIZ marker segment (A.5.1), and whether Pillow reads it well.

    The JP2 header around it can say anything; OpenJPEG allocates by this.

    Raises:
        CodecError: Damaged, over `MAX_PIXELS` pixels, too many tiles or components, or signed.
    """
    at = _codestream(data)
    try:
        if at < 0:
            raise CodecError("Not a readable JPEG 2000 file: it has no codestream")
        right, bottom, left, top, *tiling, components = struct.unpack_from(">8IH", data, at + 8)
        if not 1 <= components <= _MAX_COMPONENTS:
            raise CodecError(
                f"JPEG 2000 is read with 1 … {_MAX_COMPONENTS} components. Received: {components}"
            )
        kinds = struct.unpack_from(f">{3 * components}B", data, at + 42)
    except struct.error as error:
        raise CodecError(f"Not a readable JPEG 2000 file: {error}") from error
    check_size(right - left, bottom - top)
    tile_width, tile_height, tile_left, tile_top = tiling
    if min(tile_width, tile_height, left - tile_left + 1, top - tile_top + 1) < 1:
        raise CodecError(f"Not a readable JPEG 2000 file: tiles {tiling}")
    tiles = -((tile_left - right) // tile_width) * -((tile_top - bottom) // tile_height)
    if tiles > _MAX_TILES:
        raise CodecError(f"JPEG 2000 has at most {_MAX_TILES} tiles. Received: {tiles}")
    if any(kind & 0x80 for kind in kinds[::3]):
        raise CodecError("JPEG 2000 samples must be unsigned. Received: signed samples")
    colours = kinds[:9:3] if components >= 3 else kinds[:1]  # alpha may have other bits
    depths = {(kind & 0x7F) + 1 for kind in colours}
    if len(depths) > 1 or max(depths) > 16:
        raise CodecError(
            "JPEG 2000 is read up to 16 bits a sample, the same for each colour. "
            f"Received: {', '.join(map(str, sorted(depths)))} bits"
        )
    present = _tiles_present(data, at)
    if present < tiles:
        # OpenJPEG itself would leave the others gray without complaint.
        raise CodecError(
            f"Not a readable JPEG 2000 file: truncated to {present} of its {tiles} tiles"
        )
    # Pillow mixes up subsampled components of odd sides, and refuses some gray with alpha.
    subsampled = any(step != 1 for step in kinds[1::3] + kinds[2::3])
    palette_bits = _palette_bits(data)
    bits = depths.pop() if palette_bits is None else palette_bits
    return bits, palette_bits is None and components != 2 and not subsampled


def _tiles_present(data: bytes, start: int) -> int:
    """Number of tiles whose tile-parts (A.4.2) are all whole, in the codestream at `start`."""
    found: set[int] = set()
    at = start + 2
    try:
        while True:
            marker, length = struct.unpack_from(">HH", data, at)
            if marker == _TILE_PART:
                tile, part_bytes = struct.unpack_from(">HI", data, at + 4)
                found.add(tile)
                if part_bytes == 0:  # the last one, up to the end
                    return len(found)
                if part_bytes < 14 or at + part_bytes > len(data):
                    return len(found) - 1
                at += part_bytes
            elif marker == _END or length < 2:
                return len(found)
            else:
                at += 2 + length
    except struct.error:
        return len(found)


def _decode_by_imagecodecs(data: bytes, bits: int) -> Image:
    """What Pillow gets wrong: 1 … 7 and 9 … 16 bits, scaled to 8, and kinds that are not plain."""
    import imagecodecs  # slow to import

    try:
        pixels = np.asarray(imagecodecs.jpeg2k_decode(data, numthreads=1))
    except Exception as error:  # OpenJPEG reports every fault through one private class
        raise CodecError(f"Not a readable JPEG 2000 file: {error}") from error
    if pixels.ndim == 3:
        pixels = pixels[:, :, 0] if pixels.shape[2] <= 2 else pixels[:, :, :3]
    if pixels.dtype != (np.uint8 if bits <= 8 else np.uint16) or pixels.max() >> bits:
        raise CodecError(
            f"Not a readable JPEG 2000 file: samples of {pixels.dtype} up to {pixels.max()} for "
            f"{bits} bits"
        )
    return check_image(to_8_bits(pixels, bits))


@functools.cache
def _bundled_openjpeg() -> str | None:
    """Path of the OpenJPEG library inside the wheel of Pillow or imagecodecs, if one is there."""
    packages = ("PIL", "imagecodecs")
    found = (bundled_library(package, "*openjp2*") for package in packages)
    return next((os.fspath(path) for path in found if path is not None), None)


@functools.cache
def _glymur() -> Any:
    """The glymur module with an OpenJPEG library loaded.

    glymur's wheel holds no OpenJPEG and looks for one only while it is imported, so the copy
    inside Pillow's or imagecodecs' wheel is offered at that moment. The system's is second choice:
    no constraints pin its version, and another makes other bytes.

    Raises:
        CodecUnavailableError: glymur is missing, or no OpenJPEG library can be found.
    """
    find_library = ctypes.util.find_library

    def find_openjpeg(name: str) -> str | None:
        bundled = _bundled_openjpeg() if name == "openjp2" else None
        return bundled or find_library(name)

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
