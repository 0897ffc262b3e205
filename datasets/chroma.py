"""Chroma without a codec: the conversions that pictures pass through on their way to pixels.

Scanners, cameras and video chains store colour differences at half the resolution, in one of
several matrices, ranges and depths. That leaves traces that a codec's own conversion leaves too,
and that must not be taken for the codec's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from datasets.step import Step, one_of, rounded
from imagecompression import Image
from imagecompression.ycbcr import ColorSpace, Plane, rgb_to_ycbcr, ycbcr_to_rgb

MATRICES = {"bt601": ColorSpace.YCBCR_BT601, "bt709": ColorSpace.YCBCR_BT709}
PHOTOYCC = "photoycc"
"""The colours of Kodak's Photo CD; its range and its 8 bits belong to it."""

RANGES = ("full", "limited")
SUBSAMPLINGS = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2), "4:1:1": (1, 4)}
"""Rows and columns of luma for each chroma sample."""

SCALINGS = ("nearest", "box", "bilinear", "bicubic", "lanczos")
"""Filters that scale a plane, as Pillow makes them."""

COSITED = "cosited"
"""Each sample of chroma lies on a pixel, and those between are means of their neighbours, as Photo
CD and JPEG XR have it."""


@dataclass(frozen=True)
class ChromaPath(Step):
    """To YCbCr, chroma down and up again, and back to RGB; gray pictures pass unchanged.

    Attributes:
        matrices: Among `MATRICES`, and `PHOTOYCC`.
        ranges: ``full`` (0 … 255) or ``limited`` (luma 16 … 235).
        bit_depths: Bits of the samples on the way, 8 … 12.
        subsamplings: Among `SUBSAMPLINGS`.
        down: Filters by which chroma is made smaller, among `SCALINGS`.
        up: Filters by which it is made larger again, among `SCALINGS`, and `COSITED`.
    """

    kind: ClassVar[str] = "chroma"
    matrices: tuple[str, ...] = (*MATRICES, PHOTOYCC)
    ranges: tuple[str, ...] = RANGES
    bit_depths: tuple[int, ...] = (8, 10)
    subsamplings: tuple[str, ...] = ("4:4:4", "4:2:2", "4:2:0")
    down: tuple[str, ...] = ("box", "bilinear", "lanczos")
    up: tuple[str, ...] = ("nearest", "bilinear", "bicubic", "lanczos")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_names("matrices", (*MATRICES, PHOTOYCC))
        self._check_names("ranges", RANGES)
        self._check_names("bit_depths", (8, 10, 12))
        self._check_names("subsamplings", tuple(SUBSAMPLINGS))
        self._check_names("down", SCALINGS)
        self._check_names("up", (*SCALINGS, COSITED))

    def apply(self, image: Image, rng: np.random.Generator) -> tuple[Image, dict[str, Any]]:
        drawn = {
            "matrix": one_of(rng, self.matrices),
            "range": one_of(rng, self.ranges),
            "bit_depth": one_of(rng, self.bit_depths),
            "subsampling": one_of(rng, self.subsamplings),
            "down": one_of(rng, self.down),
            "up": one_of(rng, self.up),
        }
        photo = drawn["matrix"] == PHOTOYCC
        if photo:
            drawn |= {"range": "full", "bit_depth": 8}
        done = {"step": self.kind, **drawn}
        if image.ndim == 2:
            return image, done
        meaning: dict[str, Any] = {
            "color_space": MATRICES.get(drawn["matrix"]),
            "limited_range": drawn["range"] == "limited",
        }
        depth = drawn["bit_depth"]
        planes = rgb_to_photoycc(image) if photo else rgb_to_ycbcr(image, depth, **meaning)
        luma, *chroma = planes
        rows, columns = SUBSAMPLINGS[drawn["subsampling"]]
        height, width = luma.shape
        small = (-(-height // rows), -(-width // columns))
        if small != luma.shape:
            source = (small[0] * rows, small[1] * columns)
            chroma = [scaled_plane(plane, small, drawn["down"], source, depth) for plane in chroma]
            covered = (height / rows, width / columns)
            if drawn["up"] == COSITED:
                chroma = [between(plane, (rows, columns))[:height, :width] for plane in chroma]
            else:
                chroma = [
                    scaled_plane(plane, luma.shape, drawn["up"], covered, depth) for plane in chroma
                ]
        planes = [luma, *chroma]
        changed = photoycc_to_rgb(planes) if photo else ycbcr_to_rgb(planes, depth, **meaning)
        return changed, done


_PHOTOYCC_SCALES = (255 / 1.402, 111.40, 135.64)
_PHOTOYCC_ZEROS = (0.0, 156.0, 137.0)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def rgb_to_photoycc(image: Image) -> list[Plane]:
    """Luma and the differences of blue and red from it in 8 bits, as Photo CD stores them.

    Photo CD keeps room for highlights over white: luma of ordinary pictures has 182 levels. From
    Eastman Kodak, Fully Utilizing Photo CD Images (PhotoYCC Color Encoding, 1993).

    Args:
        image: `(H, W, 3)`, `uint8`.
    """
    samples = image.astype(np.float32) / 255
    luma = samples @ _LUMA
    parts = (luma, samples[..., 2] - luma, samples[..., 0] - luma)
    scaled = zip(parts, _PHOTOYCC_SCALES, _PHOTOYCC_ZEROS, strict=True)
    return [rounded(part * scale + zero) for part, scale, zero in scaled]


def photoycc_to_rgb(planes: Sequence[Plane]) -> Image:
    """The inverse of `rgb_to_photoycc`, up to rounding; what lies over white is clipped."""
    scaled = zip(planes, _PHOTOYCC_SCALES, _PHOTOYCC_ZEROS, strict=True)
    luma, blue, red = ((plane - np.float32(zero)) / scale for plane, scale, zero in scaled)
    green = luma - (_LUMA[2] * blue + _LUMA[0] * red) / _LUMA[1]
    return rounded(255 * np.stack([luma + red, green, luma + blue], axis=-1))


def scaled_plane(
    plane: Plane, shape: tuple[int, ...], scaling: str, covered: tuple[float, float], bit_depth: int
) -> Plane:
    """`plane` scaled to `shape` (rows, columns) so that pixel centres stay where they are.

    Args:
        plane: Samples of `bit_depth` bits.
        shape: Of the result.
        scaling: Among `SCALINGS`.
        covered: Rows and columns of `plane` that the result shows; beyond `plane`'s own size its
            last row and column are repeated.
        bit_depth: 8 … 16.
    """
    from PIL import Image as PilImage

    missing = [max(0, int(np.ceil(c)) - side) for c, side in zip(covered, plane.shape, strict=True)]
    padded = np.pad(plane, [(0, gap) for gap in missing], mode="edge")
    picture = PilImage.fromarray(padded.astype(np.float32))
    method = PilImage.Resampling[scaling.upper()]
    box = (0.0, 0.0, float(covered[1]), float(covered[0]))
    scaled: npt.NDArray[np.float32] = np.array(
        picture.resize((shape[1], shape[0]), method, box=box)
    )
    return np.clip(np.rint(scaled), 0, (1 << bit_depth) - 1).astype(plane.dtype)


def between(plane: Plane, factors: tuple[int, int]) -> Plane:
    """`plane` with samples put between its own by linear interpolation, rounded half up.

    >>> between(np.array([[0, 10]], np.uint8), (1, 2)).tolist()
    [[0, 5, 10, 10]]

    Args:
        plane: Samples that lie on the first pixel of each `factors` rows and columns.
        factors: Rows and columns for each sample.
    """
    for axis, factor in enumerate(factors):
        last = np.take(plane, [-1], axis)
        following = np.concatenate([np.delete(plane, 0, axis), last], axis).astype(np.int64)
        parts = [
            (plane.astype(np.int64) * (factor - k) + following * k + factor // 2) // factor
            for k in range(factor)
        ]
        shape = list(plane.shape)
        shape[axis] *= factor
        plane = np.stack(parts, axis + 1).reshape(shape).astype(plane.dtype)
    return plane
