"""Other decoders: the same file comes to other pixels where others decode it.

Decoders differ in how they bring chroma back to full resolution and round on the way to RGB. A
classifier that has seen one decoder's pixels only learns that decoder.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from datasets.chroma import MATRICES, SCALINGS, scaled_plane
from datasets.step import Step, one_of
from imagecompression import Image
from imagecompression.bpg import decode_planes
from imagecompression.bpg_container import parse_bpg
from imagecompression.errors import ImageCompressionError
from imagecompression.metrics import psnr
from imagecompression.ycbcr import ColorSpace, Plane, ycbcr_to_rgb

OWN = "own"
"""Means the codec's own `decode`."""

_LEAST_PSNR = 26.0
"""Another decoder's picture that is farther than this from the codec's own is not taken."""

_FORMAT = re.compile(r"yuvj?4(?:20|22|44|40|11)p(?:(10|12)le)?")


@dataclass(frozen=True)
class YcbcrPicture:
    """Planes as a decoder leaves them: luma, and two of chroma of any size.

    Attributes:
        planes: `uint8` or `uint16` `(H, W)`.
        bit_depth: Bits of the samples.
        color_space: What they mean.
        limited_range: Whether luma is 16 … 235 (at 8 bits).
        spacing: Rows and columns of luma for each chroma sample.
    """

    planes: Sequence[Plane]
    bit_depth: int
    color_space: ColorSpace
    limited_range: bool
    spacing: tuple[int, int]

    def to_rgb(self, scaling: str) -> Image:
        """RGB `(H, W, 3)` with chroma scaled by a filter of `SCALINGS`."""
        luma, *chroma = self.planes
        covered = (luma.shape[0] / self.spacing[0], luma.shape[1] / self.spacing[1])
        if self.spacing != (1, 1):
            chroma = [
                scaled_plane(plane, luma.shape, scaling, covered, self.bit_depth)
                for plane in chroma
            ]
        return ycbcr_to_rgb(
            [luma, *chroma],
            self.bit_depth,
            color_space=self.color_space,
            limited_range=self.limited_range,
        )


def _bpg_planes(data: bytes) -> YcbcrPicture | None:
    file = parse_bpg(data)
    planes = decode_planes(file)
    if len(planes) != 3 or file.color_space not in MATRICES.values() or file.alpha_header:
        return None
    spacing = _spacing(planes)
    return YcbcrPicture(planes, file.bit_depth, file.color_space, file.limited_range, spacing)


def _ffmpeg_planes(data: bytes) -> YcbcrPicture | None:
    """What FFmpeg's decoders make of a file."""
    import av

    with av.open(io.BytesIO(data), "r") as container:
        frame = next(container.decode(video=0))
        found = _FORMAT.fullmatch(frame.format.name)
        if found is None:
            return None
        bit_depth = int(found[1] or 8)
        kind: Any = np.uint8 if bit_depth == 8 else np.dtype("<u2")
        planes: list[Plane] = []
        for plane in frame.planes:
            rows: Plane = np.frombuffer(bytes(plane), kind).reshape(plane.height, -1)
            planes.append(rows[:, : plane.width])
        limited = frame.color_range != 2 and not frame.format.name.startswith("yuvj")
        space = ColorSpace.YCBCR_BT709 if frame.colorspace == 1 else ColorSpace.YCBCR_BT601
    return YcbcrPicture(planes, bit_depth, space, limited, _spacing(planes))


PLANES: dict[str, Callable[[bytes], YcbcrPicture | None]] = {
    "jpeg": _ffmpeg_planes,
    "bpg": _bpg_planes,
    "webp": _ffmpeg_planes,
    "avif": _ffmpeg_planes,
    "heic": _ffmpeg_planes,
}
"""How the planes of a codec's files are had; None for a file that has none of YCbCr."""


@dataclass(frozen=True)
class Decode(Step):
    """Decode the labelled file by another decoder; stands first among the steps after the encode.

    Codecs without chroma planes, gray pictures, and files that the other decoder does not
    understand keep their own decoder's picture; the chain says which it was.

    Attributes:
        decoders: ``own`` and filters that scale chroma, among `SCALINGS`, to draw from.
    """

    kind: ClassVar[str] = "decode"
    decoders: tuple[str, ...] = (OWN, "nearest", "bilinear", "bicubic")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_names("decoders", (OWN, *SCALINGS))

    def apply(self, image: Image, rng: np.random.Generator) -> tuple[Image, dict[str, Any]]:
        """The picture as it is: there is no file here that could be decoded otherwise."""
        return image, {"step": self.kind, "decoder": OWN}

    def decode(
        self, data: bytes, codec: str, image: Image, rng: np.random.Generator
    ) -> tuple[Image, dict[str, Any]]:
        """The picture in `data`, and what was done.

        Args:
            data: A file of `codec`.
            codec: Name in `CODECS`.
            image: What the codec's own decoder makes of it.
            rng: As for `apply`.
        """
        drawn = one_of(rng, self.decoders)
        if drawn != OWN and codec in PLANES and image.ndim == 3:
            other = _decoded(data, codec, drawn)
            if other is not None:
                height, width = image.shape[:2]
                other = np.ascontiguousarray(other[:height, :width])  # odd sides are coded even
                if other.shape == image.shape and psnr(image, other) >= _LEAST_PSNR:
                    return other, {"step": self.kind, "decoder": drawn}
        return image, {"step": self.kind, "decoder": OWN}


def _decoded(data: bytes, codec: str, scaling: str) -> Image | None:
    from av.error import FFmpegError

    try:
        picture = PLANES[codec](data)
    except (FFmpegError, StopIteration, ImageCompressionError):
        return None
    return None if picture is None else picture.to_rgb(scaling)


def _spacing(planes: Sequence[Plane]) -> tuple[int, int]:
    """Rows and columns of luma for each chroma sample; sides are rounded up."""
    luma, chroma = planes[0], planes[1]
    return round(luma.shape[0] / chroma.shape[0]), round(luma.shape[1] / chroma.shape[1])
