"""Colour spaces in which the distance of two colours is measured: sRGB, CIELAB, Oklab.

sRGB: IEC 61966-2-1:1999. CIELAB: CIE 15:2004, with the white that the matrix's row sums give
(D65), so that gray has a* = b* = 0. Oklab: B. Ottosson, "A perceptual color space for image
processing", 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Colors = npt.NDArray[np.uint8]
"""sRGB colours, `(N, 3)`."""
Points = npt.NDArray[np.float32]
"""The same in a colour space, `(N, 3)`."""

_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_TO_XYZ /= _TO_XYZ.sum(axis=1, keepdims=True)
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_LEVELS = np.arange(256) / 255
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4)
_KNEE = 6 / 29


def srgb_to_lab(colors: Colors) -> Points:
    """CIELAB (D65) of uint8 sRGB colours `(N, 3)`: float32 L* in 0 … 100, a*, b*.

    >>> import numpy as np
    >>> srgb_to_lab(np.array([[255, 255, 255]], np.uint8)).round(2).tolist()
    [[100.0, 0.0, 0.0]]
    """
    linear = _LINEAR.astype(np.float32)[colors]
    ratio = [linear @ row for row in _TO_XYZ.astype(np.float32)]
    x, y, z = (
        np.where(t > _KNEE**3, np.cbrt(t), t / (3 * _KNEE**2) + 4 / 29).astype(np.float32)
        for t in ratio
    )
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def lab_to_srgb(lab: Points) -> Colors:
    """The nearest uint8 sRGB colours to CIELAB values `(N, 3)`; colours outside are clipped."""
    values = np.asarray(lab, np.float64)
    y = (values[:, 0] + 16) / 116
    curve = np.stack([y + values[:, 1] / 500, y, y - values[:, 2] / 200], axis=1)
    ratio = np.where(curve > _KNEE, curve**3, 3 * _KNEE**2 * (curve - 4 / 29))
    return _encoded(ratio @ np.linalg.inv(_TO_XYZ).T)


def srgb_to_oklab(colors: Colors) -> Points:
    """Oklab of uint8 sRGB colours `(N, 3)`: float32 L in 0 … 1, a, b.

    >>> import numpy as np
    >>> srgb_to_oklab(np.array([[255, 0, 0]], np.uint8)).round(3).tolist()
    [[0.628000020980835, 0.22499999403953552, 0.12600000202655792]]
    """
    linear = _LINEAR.astype(np.float32)[colors]
    cones = np.cbrt(linear @ _TO_CONES.T.astype(np.float32))
    return cones @ _TO_OKLAB.T.astype(np.float32)


def oklab_to_srgb(oklab: Points) -> Colors:
    """The nearest uint8 sRGB colours to Oklab values `(N, 3)`; colours outside are clipped."""
    cones = (np.asarray(oklab, np.float64) @ np.linalg.inv(_TO_OKLAB).T) ** 3
    return _encoded(cones @ np.linalg.inv(_TO_CONES).T)


def _encoded(linear: npt.NDArray[np.float64]) -> Colors:
    """uint8 sRGB samples of linear ones, clipped to 0 … 1."""
    linear = np.clip(linear, 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * curved).astype(np.uint8)


class ColorSpace(NamedTuple):
    """A way to place sRGB colours so that Euclidean distance is their difference.

    Attributes:
        of_srgb: uint8 sRGB `(N, 3)` to float32 `(N, 3)`.
        to_srgb: The nearest uint8 sRGB colours to points of the space.
    """

    of_srgb: Callable[[Colors], Points]
    to_srgb: Callable[[Points], Colors]


COLOR_SPACES: dict[str, ColorSpace] = {
    "rgb": ColorSpace(
        lambda colors: colors.astype(np.float32),
        lambda points: np.rint(np.clip(points, 0, 255)).astype(np.uint8),
    ),
    "lab": ColorSpace(srgb_to_lab, lab_to_srgb),
    "oklab": ColorSpace(srgb_to_oklab, oklab_to_srgb),
}
"""Every colour space by the name that `KMeans.space` takes."""
