"""What a camera does to a picture before any codec: one colour a pixel, noise, interpolation."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from datasets.step import Step, one_of, rounded
from imagecompression import Image

PATTERNS = ("rggb", "bggr", "grbg", "gbrg")
METHODS = ("bilinear", "malvar")

_GAMMA = 2.2
_Reals = npt.NDArray[np.float32]
_Kernel = list[list[float]]

# Malvar, He and Cutler, High-quality linear interpolation for demosaicing (ICASSP 2004), figure 2.
_GREEN: _Kernel = [
    [0, 0, -1, 0, 0],
    [0, 0, 2, 0, 0],
    [-1, 2, 4, 2, -1],
    [0, 0, 2, 0, 0],
    [0, 0, -1, 0, 0],
]
_ALONG: _Kernel = [
    [0, 0, 0.5, 0, 0],
    [0, -1, 0, -1, 0],
    [-1, 4, 5, 4, -1],
    [0, -1, 0, -1, 0],
    [0, 0, 0.5, 0, 0],
]
_ACROSS: _Kernel = [
    [0, 0, -1.5, 0, 0],
    [0, 2, 0, 2, 0],
    [-1.5, 0, 6, 0, -1.5],
    [0, 2, 0, 2, 0],
    [0, 0, -1.5, 0, 0],
]


@dataclass(frozen=True)
class Demosaic(Step):
    """A picture taken by a sensor with one colour a pixel (Bayer); gray passes unchanged.

    The picture is made linear (gamma 2.2), one colour of each pixel is kept, noise is added as
    sensors have it (a part that grows with the light, Foi et al. 2008, and a part that does not),
    the missing colours are interpolated, and gamma is applied again.

    Attributes:
        patterns: Colours of the first 2×2 pixels, among `PATTERNS`.
        methods: Interpolations among `METHODS`: of the same colour's neighbours alone, or with the
            other colours' gradients (Malvar, He and Cutler 2004).
        shot: Lowest and highest variance of the noise at full light, of a range of 1.
        read: Lowest and highest standard deviation of the constant noise.
    """

    kind: ClassVar[str] = "demosaic"
    patterns: tuple[str, ...] = PATTERNS
    methods: tuple[str, ...] = METHODS
    shot: tuple[float, float] = (0.0, 1e-3)
    read: tuple[float, float] = (0.0, 4e-3)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_names("patterns", PATTERNS)
        self._check_names("methods", METHODS)
        self._check_range("shot", 0, 0.1)
        self._check_range("read", 0, 0.2)

    def apply(self, image: Image, rng: np.random.Generator) -> tuple[Image, dict[str, Any]]:
        pattern, method = one_of(rng, self.patterns), one_of(rng, self.methods)
        shot, read = float(rng.uniform(*self.shot)), float(rng.uniform(*self.read))
        seed = int(rng.integers(2**63))
        done = {"step": self.kind, "pattern": pattern, "method": method}
        done |= {"shot": shot, "read": read, "seed": seed}
        if image.ndim == 2 or min(image.shape[:2]) < 4:
            return image, done
        mosaic, sites = _mosaic(image, pattern)
        grain = np.random.default_rng(seed).standard_normal(mosaic.shape, np.float32)
        mosaic += grain * np.sqrt(np.float32(shot) * mosaic + np.float32(read) ** 2)
        linear = _bilinear(mosaic, sites) if method == "bilinear" else _malvar(mosaic, sites)
        light = np.maximum(linear, 0) ** np.float32(1 / _GAMMA)
        return rounded(255 * light), done


@functools.cache
def _light() -> _Reals:
    """Linear light 0 … 1 of each level."""
    return ((np.arange(256) / 255) ** _GAMMA).astype(np.float32)


def _mosaic(image: Image, pattern: str) -> tuple[_Reals, npt.NDArray[np.bool_]]:
    """Linear samples `(H, W)` and whether each is of each colour, `(3, H, W)`."""
    sites = np.zeros((3, *image.shape[:2]), bool)
    for place, color in enumerate(pattern):
        sites["rgb".index(color), place // 2 :: 2, place % 2 :: 2] = True
    linear = _light()[image]
    mosaic = np.zeros(image.shape[:2], np.float32)
    for channel in range(3):
        mosaic[sites[channel]] = linear[..., channel][sites[channel]]
    return mosaic, sites


def _filtered(samples: _Reals, kernel: _Kernel) -> _Reals:
    from scipy.ndimage import correlate

    # Mirrored without repeating the border keeps each colour on its own sites.
    return np.asarray(correlate(samples, np.array(kernel, np.float32), mode="mirror"))


def _bilinear(mosaic: _Reals, sites: npt.NDArray[np.bool_]) -> _Reals:
    """Missing colours as means of the nearest samples of the same colour, `(H, W, 3)`."""
    cross: _Kernel = [[0, 0.25, 0], [0.25, 1, 0.25], [0, 0.25, 0]]
    square: _Kernel = [[0.25, 0.5, 0.25], [0.5, 1, 0.5], [0.25, 0.5, 0.25]]
    colors = [
        _filtered(np.where(sites[color], mosaic, np.float32(0)), cross if color == 1 else square)
        for color in range(3)
    ]
    return np.stack(colors, axis=-1)


def _malvar(mosaic: _Reals, sites: npt.NDArray[np.bool_]) -> _Reals:
    """Missing colours by the 5×5 filters of Malvar, He and Cutler, `(H, W, 3)`."""
    eighth = mosaic / np.float32(8)
    green = np.where(sites[1], mosaic, _filtered(eighth, _GREEN))
    along = _filtered(eighth, _ALONG)
    down = _filtered(eighth, [list(column) for column in zip(*_ALONG, strict=True)])
    across = _filtered(eighth, _ACROSS)
    colors = [green, green, green]
    for color, other in ((0, 2), (2, 0)):
        # A green pixel's row has the colour beside it, or above and below it.
        in_row = sites[color].any(axis=1)[:, None]
        missing = np.where(sites[other], across, np.where(in_row, along, down))
        colors[color] = np.where(sites[color], mosaic, missing)
    return np.stack(colors, axis=-1)
