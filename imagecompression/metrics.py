"""Full-reference quality metrics and size measures.

`reference` is the picture before encoding and `distorted` the one after; both are `Image` arrays
(`uint8`, `(H, W)` or `(H, W, 3)`) of one shape. Colour pictures are compared on RGB samples by
`mse` and `psnr`, and on BT.601 luma by `ssim` and `ms_ssim`, as their authors did.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from imagecompression.codec import Image

LUMA_BT601 = np.array([0.299, 0.587, 0.114])
"""Weights of R, G, B in luma (ITU-R BT.601)."""

_WINDOW_RADIUS, _WINDOW_SIGMA = 5, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW_SIDE = 2 * _WINDOW_RADIUS + 1

Plane = npt.NDArray[np.float64]


def luma(image: Image) -> Plane:
    """BT.601 luma of `image` as `float64` `(H, W)`, 0 … 255, not rounded."""
    if image.ndim == 2:
        return image.astype(np.float64)
    red, green, blue = LUMA_BT601
    return image[:, :, 0] * red + image[:, :, 1] * green + image[:, :, 2] * blue


def mse(reference: Image, distorted: Image) -> float:
    """Mean squared error over all samples, 0 … 65025."""
    _check_pair(reference, distorted)
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
    _check_pair(reference, distorted)
    return float(np.mean(_ssim_maps(luma(reference), luma(distorted))[0]))


def ms_ssim(reference: Image, distorted: Image) -> float:
    """Multi-scale structural similarity on luma, at most 1; NaN where a side is under 176 pixels.

    Wang, Simoncelli, Bovik, "Multiscale structural similarity for image quality assessment",
    Asilomar 2003: five scales with 2×2 averaging between them, negative contrast-structure means
    are clipped to 0. 176 = 11·2⁴ pixels are needed for a window at the coarsest scale.
    """
    _check_pair(reference, distorted)
    first, second = luma(reference), luma(distorted)
    if min(first.shape) < _WINDOW_SIDE * 2 ** (len(_MS_WEIGHTS) - 1):
        return math.nan
    product = 1.0
    for scale, weight in enumerate(_MS_WEIGHTS):
        similarity, contrast = _ssim_maps(first, second)
        last = scale == len(_MS_WEIGHTS) - 1
        product *= max(float(np.mean(similarity if last else contrast)), 0.0) ** weight
        first, second = _halve(first), _halve(second)
    return product


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
    return {
        "ratio": compression_ratio(reference, file_bytes),
        "bits_per_pixel": bits_per_pixel(reference, file_bytes),
        "psnr_db": psnr(reference, distorted),
        "ssim": ssim(reference, distorted),
        "ms_ssim": ms_ssim(reference, distorted),
    }


def _check_pair(reference: Image, distorted: Image) -> None:
    same = reference.shape == distorted.shape and reference.dtype == distorted.dtype == np.uint8
    if not same or reference.size == 0:
        raise ValueError(
            "Metrics compare two non-empty uint8 pictures of one shape. Received: "
            f"{reference.dtype} {reference.shape} and {distorted.dtype} {distorted.shape}"
        )


def _halve(plane: Plane) -> Plane:
    height, width = plane.shape[0] // 2 * 2, plane.shape[1] // 2 * 2
    blocks = plane[:height, :width].reshape(height // 2, 2, width // 2, 2)
    return np.ascontiguousarray(blocks.mean(axis=(1, 3)))


def _ssim_maps(first: Plane, second: Plane) -> tuple[Plane, Plane]:
    """SSIM and its contrast-structure part for every window inside the planes."""
    missing = [max(0, _WINDOW_SIDE - side) for side in first.shape]
    if any(missing):
        pads = [(gap // 2, gap - gap // 2) for gap in missing]
        first, second = np.pad(first, pads, "symmetric"), np.pad(second, pads, "symmetric")
    mean_1, mean_2 = _window_mean(first), _window_mean(second)
    square_1, square_2, product = mean_1 * mean_1, mean_2 * mean_2, mean_1 * mean_2
    variances = _window_mean(first * first + second * second) - square_1 - square_2
    covariance = _window_mean(first * second) - product
    contrast = (2.0 * covariance + _C2) / (variances + _C2)
    return contrast * (2.0 * product + _C1) / (square_1 + square_2 + _C1), contrast


def _window_mean(plane: Plane) -> Plane:
    """Gaussian window mean at every position where the whole window lies inside `plane`."""
    inside = slice(_WINDOW_RADIUS, -_WINDOW_RADIUS)
    try:
        import cv2
    except ImportError:
        # opencv-python's wheel needs the system's libGL; SciPy gives the same at a third the speed.
        from scipy.ndimage import gaussian_filter

        blurred = gaussian_filter(plane, _WINDOW_SIGMA, radius=_WINDOW_RADIUS, mode="reflect")
        return np.asarray(blurred[inside, inside])
    blurred = cv2.GaussianBlur(plane, (_WINDOW_SIDE, _WINDOW_SIDE), _WINDOW_SIGMA)
    return np.asarray(blurred[inside, inside], dtype=np.float64)
