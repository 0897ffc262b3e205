"""Metrics against scikit-image, over shapes."""

from __future__ import annotations

import builtins
import math

import numpy as np
import pytest
from conftest import photograph_like
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from imagecompression import Jpeg, metrics


def pair(height: int, width: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    reference = photograph_like(height, width, channels)
    return reference, Jpeg.decode(Jpeg(quality=20).encode(reference))


@pytest.mark.parametrize("shape", [(64, 64, 1), (11, 40, 3), (200, 300, 3), (37, 91, 1)], ids=str)
def test_agrees_with_scikit_image(shape: tuple[int, int, int]) -> None:
    reference, distorted = pair(*shape)
    expected = structural_similarity(
        metrics.luma(reference), metrics.luma(distorted), data_range=255,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    assert metrics.ssim(reference, distorted) == pytest.approx(expected, abs=1e-7)
    assert metrics.psnr(reference, distorted) == pytest.approx(
        peak_signal_noise_ratio(reference, distorted), abs=1e-9
    )


def test_without_opencv_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, distorted = pair(190, 270, 3)
    with_opencv = metrics.measure(reference, distorted, 1000)
    real_import = builtins.__import__

    def no_opencv(name: str, *args: object, **kwargs: object) -> object:
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_opencv)
    metrics._opencv.cache_clear()
    try:
        assert metrics.measure(reference, distorted, 1000) == pytest.approx(with_opencv, abs=1e-7)
        assert metrics.mse(reference, distorted) == np.mean((reference - 1.0 * distorted) ** 2)
    finally:
        metrics._opencv.cache_clear()


SHAPES = [(1, 1, 1), (1, 40, 3), (10, 300, 1), (11, 11, 3), (64, 9, 3), (130, 700, 3),
          (175, 300, 1), (176, 176, 1), (301, 415, 3)]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_reference_measures_as_the_formulas_do(shape: tuple[int, int, int]) -> None:
    picture, coarse = pair(*shape)
    reference = metrics.Reference(picture)
    # Single precision costs most where everything differs, as in a negative.
    for distorted, near in ((coarse, 1e-6), (255 - picture, 1e-4), (picture, 1e-12)):
        first, second = metrics.luma(picture), metrics.luma(distorted)
        similarity, contrast = plain_ssim(first, second)
        assert reference.ssim(distorted) == pytest.approx(similarity, abs=near)
        assert metrics.ssim(picture, distorted) == reference.ssim(distorted)
        error = np.mean(np.square(picture.astype(float) - distorted))
        assert metrics.mse(picture, distorted) == pytest.approx(error, rel=1e-15)
        expected = max(contrast, 0.0) ** metrics._MS_WEIGHTS[0]
        for weight in metrics._MS_WEIGHTS[1:]:
            first, second = halved(first), halved(second)
            if min(first.shape) < 11:
                expected = math.nan
                break
            similarity, contrast = plain_ssim(first, second)
            last = weight == metrics._MS_WEIGHTS[-1]
            expected *= max(similarity if last else contrast, 0.0) ** weight
        assert reference.ms_ssim(distorted) == pytest.approx(expected, abs=near, nan_ok=True)
        measured = reference.measure(distorted, 1000)
        assert measured == pytest.approx(
            {
                "ratio": metrics.compression_ratio(picture, 1000),
                "bits_per_pixel": metrics.bits_per_pixel(picture, 1000),
                "psnr_db": metrics.psnr(picture, distorted),
                "ssim": reference.ssim(distorted),
                "ms_ssim": reference.ms_ssim(distorted),
            },
            abs=0,
            nan_ok=True,
        )


def plain_ssim(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Means of SSIM and of its contrast-structure part, by the paper's formulas."""
    missing = [max(0, 11 - side) for side in first.shape]
    pads = [(gap // 2, gap - gap // 2) for gap in missing]
    first, second = np.pad(first, pads, "symmetric"), np.pad(second, pads, "symmetric")

    def mean(plane: np.ndarray) -> np.ndarray:
        return gaussian_filter(plane, 1.5, radius=5)[5:-5, 5:-5]

    mean_1, mean_2 = mean(first), mean(second)
    variance_1 = mean(first * first) - mean_1 * mean_1
    variance_2 = mean(second * second) - mean_2 * mean_2
    covariance = mean(first * second) - mean_1 * mean_2
    c_1, c_2 = 2.55**2, 7.65**2
    contrast = (2 * covariance + c_2) / (variance_1 + variance_2 + c_2)
    similarity = contrast * (2 * mean_1 * mean_2 + c_1) / (mean_1**2 + mean_2**2 + c_1)
    return float(similarity.mean()), float(contrast.mean())


def halved(plane: np.ndarray) -> np.ndarray:
    height, width = plane.shape[0] // 2 * 2, plane.shape[1] // 2 * 2
    return plane[:height, :width].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))


def test_equal_pictures() -> None:
    reference = photograph_like(180, 190, 3)
    assert metrics.psnr(reference, reference) == math.inf
    assert metrics.ssim(reference, reference) == pytest.approx(1)
    assert metrics.ms_ssim(reference, reference) == pytest.approx(1)


def test_ms_ssim_falls_with_quality_and_weighs_scales_as_published() -> None:
    reference = photograph_like(256, 300, 3)
    values = [
        metrics.ms_ssim(reference, Jpeg.decode(Jpeg(quality=q).encode(reference)))
        for q in (5, 20, 50, 90)
    ]
    assert values == sorted(values)
    assert 0.3 < values[0] < values[-1] < 1
    # At the coarsest scale a one-pixel checkerboard has averaged out, at the finest it has not.
    board = ((np.indices((256, 300)).sum(axis=0) % 2) * 40 + 100).astype(np.uint8)
    flat = np.full_like(board, 120)
    first_scale = plain_ssim(metrics.luma(flat), metrics.luma(board))[1]
    assert metrics.ms_ssim(flat, board) == pytest.approx(first_scale**0.0448, rel=1e-3)


def test_ms_ssim_needs_176_pixels() -> None:
    assert math.isnan(metrics.ms_ssim(*pair(175, 300, 1)))
    assert 0 < metrics.ms_ssim(*pair(176, 176, 1)) <= 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (5, 5), (10, 300)], ids=str)
def test_ssim_of_tiny_pictures(shape: tuple[int, int]) -> None:
    picture = np.full(shape, 77, np.uint8)
    assert metrics.ssim(picture, picture) == pytest.approx(1)
    assert metrics.ssim(picture, picture + np.uint8(90)) < 0.95


def test_size_measures() -> None:
    picture = np.zeros((10, 20, 3), np.uint8)
    assert metrics.compression_ratio(picture, 60) == 10
    assert metrics.bits_per_pixel(picture, 60) == 2.4


def test_unlike_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="Received"):
        metrics.psnr(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
    with pytest.raises(ValueError, match="Received"):
        metrics.ssim(np.zeros((2, 2)), np.zeros((2, 2)))


@pytest.mark.parametrize("shape", [(256, 300, 3), (176, 176, 1), (301, 415, 3)], ids=str)
def test_ms_ssim_agrees_with_tensorflow(shape: tuple[int, int, int]) -> None:
    import tensorflow as tf

    reference, distorted = pair(*shape)
    first, second = (
        tf.constant(metrics.luma(image)[None, :, :, None], tf.float32)
        for image in (reference, distorted)
    )
    expected = float(tf.image.ssim_multiscale(first, second, 255)[0])
    # TensorFlow counts in single precision and pads odd sides instead of dropping a row.
    assert metrics.ms_ssim(reference, distorted) == pytest.approx(expected, abs=1e-4)
