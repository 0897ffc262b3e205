"""Metrics against scikit-image, over shapes."""

from __future__ import annotations

import builtins
import math

import numpy as np
import pytest
from conftest import photograph_like
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
    assert metrics.ssim(reference, distorted) == pytest.approx(expected, abs=1e-9)
    assert metrics.psnr(reference, distorted) == pytest.approx(
        peak_signal_noise_ratio(reference, distorted), abs=1e-9
    )


def test_without_opencv_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, distorted = pair(90, 70, 3)
    with_opencv = metrics.ssim(reference, distorted)
    real_import = builtins.__import__

    def no_opencv(name: str, *args: object, **kwargs: object) -> object:
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_opencv)
    assert metrics.ssim(reference, distorted) == pytest.approx(with_opencv, abs=1e-9)


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
    first_scale = metrics._ssim_maps(metrics.luma(flat), metrics.luma(board))[1].mean()
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
