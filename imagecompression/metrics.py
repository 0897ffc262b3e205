"""Full-reference quality metrics and size measures.

`reference` is the picture before encoding and `distorted` the one after; both are `Image` arrays
(`uint8`, `(H, W)` or `(H, W, 3)`) of one shape. Colour pictures are compared on RGB samples by
`mse` and `psnr`, and on BT.601 luma by `ssim` and `ms_ssim`, as their authors did.

Who compares several pictures with the same one keeps a `Reference`: half of the work is done once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from imagecompression.codec import Image

LUMA_BT601 = np.array([0.299, 0.587, 0.114])
"""Weights of R, G, B in luma (ITU-R BT.601)."""

_WINDOW_RADIUS, _WINDOW_SIGMA = 5, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW_SIDE = 2 * _WINDOW_RADIUS + 1
_MS_SMALLEST_SIDE = _WINDOW_SIDE * 2 ** (len(_MS_WEIGHTS) - 1)
_STRIP_PIXELS = 1 << 16
"""Pixels worked on at a time, so that all maps of a strip stay in the processor's cache."""

Plane = npt.NDArray[np.float64]
Single = npt.NDArray[np.float32]


def luma(image: Image) -> Plane:
    """BT.601 luma of `image` as `float64` `(H, W)`, 0 … 255, not rounded."""
    if image.ndim == 2:
        return image.astype(np.float64)
    red, green, blue = LUMA_BT601
    return image[:, :, 0] * red + image[:, :, 1] * green + image[:, :, 2] * blue


def mse(reference: Image, distorted: Image) -> float:
    """Mean squared error over all samples, 0 … 65025."""
    _check_pair(reference, distorted)
    cv2 = _opencv()
    if cv2 is not None:
        # The sum is an integer, which OpenCV returns as a square of its square root.
        return round(cv2.norm(reference, distorted, cv2.NORM_L2SQR)) / reference.size
    difference = reference.astype(np.int32) - distorted
    return float(np.mean(np.square(difference), dtype=np.float64))


def psnr(reference: Image, distorted: Image) -> float:
    """Peak signal-to-noise ratio in dB for peak 255; infinite for equal pictures.

    >>> import numpy as np
    >>> round(psnr(np.zeros((4, 4), np.uint8), np.full((4, 4), 5, np.uint8)), 2)
    34.15
    """
    error = mse(reference, distorted)
    return math.inf if error == 0 else 10.0 * math.log10(255.0**2 / error)


def ssim(reference: Image, distorted: Image) -> float:
    """Structural similarity, at most 1, on luma.

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural
    similarity", IEEE TIP 2004: 11×11 Gaussian window of σ 1.5, population covariance, K1 = 0.01,
    K2 = 0.03, mean over the windows that lie inside the picture, no downsampling. scikit-image
    gives the same with ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``. Sides
    under 11 pixels are extended by reflection, since no window would fit.
    """
    return Reference(reference).ssim(distorted)


def ms_ssim(reference: Image, distorted: Image) -> float:
    """Multi-scale structural similarity on luma, at most 1; NaN where a side is under 176 pixels.

    Wang, Simoncelli, Bovik, "Multiscale structural similarity for image quality assessment",
    Asilomar 2003: five scales with 2×2 averaging between them, negative contrast-structure means
    are clipped to 0. 176 = 11·2⁴ pixels are needed for a window at the coarsest scale.
    """
    return Reference(reference).ms_ssim(distorted)


def compression_ratio(image: Image, file_bytes: int) -> float:
    """Uncompressed bytes of `image` (one a sample) ÷ bytes of the file; 20 means 20:1."""
    return image.size / file_bytes


def bits_per_pixel(image: Image, file_bytes: int) -> float:
    """Bits of the file for each pixel of `image`."""
    return 8.0 * file_bytes / (image.shape[0] * image.shape[1])


def measure(reference: Image, distorted: Image, file_bytes: int) -> dict[str, float]:
    """All measures of an encoded picture by name, as manifests and tables hold them.

    Args:
        reference: The picture before encoding.
        distorted: The decoded picture.
        file_bytes: Size of the encoded file.

    Returns:
        ``ratio``, ``bits_per_pixel``, ``psnr_db``, ``ssim``, ``ms_ssim``.
    """
    return Reference(reference).measure(distorted, file_bytes)


class Reference:
    """The picture that distorted ones are compared with, and what depends on it alone.

    Window means and variances of its luma are computed once, those of the coarser scales of
    MS-SSIM when first needed. That is 12 bytes a pixel, 16 with the coarser scales.

    Attributes:
        image: The picture before encoding.
    """

    def __init__(self, image: Image) -> None:
        _check_pair(image, image)
        self.image = image

    def ssim(self, distorted: Image) -> float:
        """Structural similarity of `distorted`; see the function `ssim`."""
        return self._finest.compare(self._difference(distorted))[0]

    def ms_ssim(self, distorted: Image) -> float:
        """Multi-scale structural similarity of `distorted`; see the function `ms_ssim`."""
        if min(self.image.shape[:2]) < _MS_SMALLEST_SIDE:
            return math.nan
        difference = self._difference(distorted)
        return self._over_scales(difference, self._finest.compare(difference)[1])

    def measure(self, distorted: Image, file_bytes: int) -> dict[str, float]:
        """All measures of `distorted`, a decoded file; see the function `measure`.

        SSIM and the first scale of MS-SSIM share their maps, so this costs half more than `ssim`.
        """
        difference = self._difference(distorted)
        similarity, contrast = self._finest.compare(difference)
        return {
            "ratio": compression_ratio(self.image, file_bytes),
            "bits_per_pixel": bits_per_pixel(self.image, file_bytes),
            "psnr_db": psnr(self.image, distorted),
            "ssim": similarity,
            "ms_ssim": self._over_scales(difference, contrast),
        }

    def _difference(self, distorted: Image) -> Single:
        _check_pair(self.image, distorted)
        return self._finest.plane - _single_luma(distorted)

    def _over_scales(self, difference: Single, contrast: float) -> float:
        """MS-SSIM, given the luma difference and the contrast-structure mean at the first scale."""
        if min(self.image.shape[:2]) < _MS_SMALLEST_SIDE:
            return math.nan
        product = max(contrast, 0.0) ** _MS_WEIGHTS[0]
        for scale, weight in zip(self._coarser, _MS_WEIGHTS[1:], strict=True):
            difference = _halve(difference)
            similarity, contrast = scale.compare(difference)
            mean = similarity if scale is self._coarser[-1] else contrast
            product *= max(mean, 0.0) ** weight
        return product

    @functools.cached_property
    def _finest(self) -> _Scale:
        return _Scale(_single_luma(self.image))

    @functools.cached_property
    def _coarser(self) -> list[_Scale]:
        scales, plane = [], self._finest.plane
        for _ in _MS_WEIGHTS[1:]:
            plane = _halve(plane)
            scales.append(_Scale(plane))
        return scales


class _Scale:
    """Luma of the reference at one scale, and its window means and variances.

    With d = x − y, the two factors of SSIM are 1 − mean(d)² ÷ (mean(x)² + mean(y)² + C1) and
    1 − var(d) ÷ (var(x) + var(y) + C2). Nothing large cancels in them, so single precision gives
    SSIM of photographs to about 1e-8 at half the time of double precision.
    """

    def __init__(self, plane: Single) -> None:
        self.plane = plane
        self._padded = _padded(plane)
        height, width = (side - 2 * _WINDOW_RADIUS for side in self._padded.shape)
        self._mean = np.empty((height, width), np.float32)
        self._double_variance = np.empty((height, width), np.float32)
        for rows in self._strips():
            strip = self._padded[_under_windows(rows)].astype(np.float64)
            mean = _window_mean(strip)
            self._mean[rows] = mean
            self._double_variance[rows] = 2.0 * (_window_mean(strip * strip) - mean * mean)

    def compare(self, difference: Single) -> tuple[float, float]:
        """Means of SSIM and of its contrast-structure part over the windows inside the plane.

        Args:
            difference: This plane minus the distorted one.
        """
        difference = _padded(difference)
        similarity_sum = contrast_sum = 0.0
        for rows in self._strips():
            similarity, contrast = self._maps(difference, rows)
            similarity_sum += float(similarity.sum(dtype=np.float64))
            contrast_sum += float(contrast.sum(dtype=np.float64))
        return similarity_sum / self._mean.size, contrast_sum / self._mean.size

    def _strips(self) -> Iterator[slice]:
        height, width = self._mean.shape
        rows = max(32, _STRIP_PIXELS // width)
        for top in range(0, height, rows):
            yield slice(top, min(top + rows, height))

    def _maps(self, difference: Single, rows: slice) -> tuple[Single, Single]:
        """SSIM and its contrast-structure part of some rows of windows."""
        seen = _under_windows(rows)
        d, x, mean_x = difference[seen], self._padded[seen], self._mean[rows]
        mean_d = _window_mean(d)
        covariance = _window_mean(d * x) - mean_d * mean_x
        square = mean_d * mean_d
        variance = _window_mean(d * d) - square
        # var(y) = var(x) − 2 cov(x, d) + var(d), and likewise mean(y)².
        variances = self._double_variance[rows] - 2 * covariance + variance
        contrast = 1 - variance / (variances + np.float32(_C2))
        squares = 2 * mean_x * (mean_x - mean_d) + square
        return contrast * (1 - square / (squares + np.float32(_C1))), contrast


@functools.cache
def _opencv() -> ModuleType | None:
    """OpenCV, None where it does not load: opencv-python's wheel needs the system's libGL."""
    try:
        import cv2
    except ImportError:
        return None
    module: ModuleType = cv2
    return module


def _check_pair(reference: Image, distorted: Image) -> None:
    same = reference.shape == distorted.shape and reference.dtype == distorted.dtype == np.uint8
    if not same or reference.size == 0:
        raise ValueError(
            "Metrics compare two non-empty uint8 pictures of one shape. Received: "
            f"{reference.dtype} {reference.shape} and {distorted.dtype} {distorted.shape}"
        )


def _single_luma(image: Image) -> Single:
    """`luma` in single precision."""
    single = image.astype(np.float32)
    return single if image.ndim == 2 else single @ LUMA_BT601.astype(np.float32)


def _halve(plane: Single) -> Single:
    """Means of 2×2 pixels; an odd last row or column is dropped."""
    height, width = plane.shape[0] // 2 * 2, plane.shape[1] // 2 * 2
    rows = plane[0:height:2, :width] + plane[1:height:2, :width]
    return (rows[:, 0::2] + rows[:, 1::2]) * np.float32(0.25)


def _padded(plane: Single) -> Single:
    """`plane`, extended by reflection where a side is too short for a window."""
    missing = [max(0, _WINDOW_SIDE - side) for side in plane.shape]
    if not any(missing):
        return plane
    return np.pad(plane, [(gap // 2, gap - gap // 2) for gap in missing], "symmetric")


def _under_windows(rows: slice) -> slice:
    """The rows of a plane that lie under those rows of windows."""
    return slice(rows.start, rows.stop + 2 * _WINDOW_RADIUS)


def _window_mean(plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Gaussian window mean at every position where the whole window lies inside `plane`."""
    inside = slice(_WINDOW_RADIUS, -_WINDOW_RADIUS)
    cv2 = _opencv()
    if cv2 is not None:
        blurred = cv2.GaussianBlur(plane, (_WINDOW_SIDE, _WINDOW_SIDE), _WINDOW_SIGMA)
    else:
        # SciPy gives the same at a third of the speed.
        from scipy.ndimage import gaussian_filter

        blurred = gaussian_filter(plane, _WINDOW_SIGMA, radius=_WINDOW_RADIUS, mode="reflect")
    return np.asarray(blurred[inside, inside])
