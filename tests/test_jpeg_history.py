"""JPEG history: found at any crop, in gray and colour, and not found where there is none."""

from __future__ import annotations

import io

import numpy as np
import pytest
from conftest import photograph_like
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PilImage

from imagecompression.evidence import jpeg_history as module
from imagecompression.evidence.jpeg_history import jpeg_history


def smooth(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    """A picture whose spectrum falls with frequency like a photograph's."""
    large = photograph_like(3 * height, 3 * width, channels, seed)
    size = width, height
    return np.array(PilImage.fromarray(large).resize(size, PilImage.Resampling.BOX))


def through_jpeg(image: np.ndarray, quality: int, subsampling: int = 0) -> np.ndarray:
    out = io.BytesIO()
    options = {"subsampling": subsampling} if image.ndim == 3 else {}
    PilImage.fromarray(image).save(out, "JPEG", quality=quality, **options)
    return np.array(PilImage.open(out))


PICTURES = {channels: smooth(256, 320, channels) for channels in (1, 3)}


@settings(max_examples=25, deadline=None)
@given(
    channels=st.sampled_from((1, 3)),
    quality=st.integers(60, 95),
    subsampling=st.sampled_from((0, 2)),
    top=st.integers(0, 63),
    left=st.integers(0, 63),
    height=st.integers(128, 192),
    width=st.integers(128, 256),
)
def test_found_at_any_crop_with_grid_and_quality(
    channels: int, quality: int, subsampling: int, top: int, left: int, height: int, width: int
) -> None:
    jpeg = through_jpeg(PICTURES[channels], quality, subsampling)
    history = jpeg_history(jpeg[top : top + height, left : left + width])
    assert history.found
    assert (history.top, history.left) == (-top % 8, -left % 8)
    assert history.quality is not None
    assert abs(history.quality - quality) <= 2
    assert f"row {-top % 8}, column {-left % 8}" in history.reason


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_not_found_without_a_history(channels: int, seed: int) -> None:
    for image in (smooth(200, 200, channels, seed), photograph_like(144, 200, channels, seed)):
        history = jpeg_history(image)
        assert not history.found
        assert history.reason == ""
        assert history.quality is None


def test_the_two_signs_stand_alone() -> None:
    quantised = jpeg_history(through_jpeg(PICTURES[3], 90))
    assert quantised.vote_ratio > 3
    assert quantised.comb > 120
    # Rounding 8×8 blocks to their strongest coefficient leaves zeros and no common steps.
    from scipy.fft import dctn, idctn

    gray = PICTURES[1][:, :, None].astype(float).reshape(32, 8, 40, 8)
    blocks = dctn(gray, axes=(1, 3), norm="ortho")
    blocks[np.abs(blocks) < 12] = 0
    thresholded = idctn(blocks, axes=(1, 3), norm="ortho").reshape(256, 320)
    by_vote = jpeg_history(np.clip(np.rint(thresholded), 0, 255).astype(np.uint8))
    assert by_vote.found
    assert by_vote.comb < 120
    assert "AVIF" in by_vote.reason


def test_flat_and_clipped_areas_do_not_vote() -> None:
    image = PICTURES[3].copy()
    image[:128] = 255
    image[128:160] = 90
    history = jpeg_history(image)
    assert not history.found
    half = through_jpeg(PICTURES[3], 80)
    half[:128] = 255
    assert jpeg_history(half).found
    assert jpeg_history(np.full((64, 64), 128, np.uint8)).vote_ratio == 0


@pytest.mark.parametrize("shape", [(1, 1), (15, 300), (16, 16), (17, 23, 3), (8, 8, 3)])
def test_small_pictures_give_an_answer(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert not jpeg_history(image).found


def test_large_pictures_are_looked_at_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 1 << 16)
    monkeypatch.setattr(module, "_WINDOW", 128)
    large = smooth(500, 600, 1)
    windows = list(module.windows_of(large))
    assert sum(window.size for window in windows) <= 1 << 16
    assert len(windows) == 4
    history = jpeg_history(through_jpeg(large, 85)[5:, 2:])
    assert history.found
    assert (history.top, history.left) == (3, 6)
    assert not jpeg_history(large).found
    assert not jpeg_history(np.full((9, 1 << 15), 7, np.uint8)).found
