"""Combs of a step common to a whole transform, against files whose grid and step are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.fft import idctn

from imagecompression import CODECS
from train.combs import TRANSFORMS, CommonStepCombs, common_steps


def _noise(side: int, seed: int = 0) -> np.ndarray:
    """A picture with traces of nothing: smooth shades and camera-like noise."""
    rng = np.random.default_rng(seed)
    shades = np.add.outer(np.sin(np.arange(side) / 9), np.cos(np.arange(side) / 14)) * 40 + 120
    noisy = shades[..., None] + rng.normal(0, 6, (side, side, 3))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _strongest(transform: str, picture: np.ndarray) -> tuple[int, float, float, float]:
    """Phase, step and contrast of the strongest comb, and the greatest contrast elsewhere."""
    combs = np.asarray(CommonStepCombs(transform)(picture[None].astype(np.float32)))[0]
    contrast = combs - combs.mean(axis=0)
    phase, step = np.unravel_index(contrast.argmax(), contrast.shape)
    elsewhere = np.delete(contrast, phase, axis=0).max()
    return int(phase), float(common_steps()[step]), float(contrast.max()), float(elsewhere)


@pytest.mark.parametrize(("top", "left"), [(0, 0), (3, 1), (2, 2)])
def test_jpeg_xr_shows_at_the_phase_of_its_grid_only(top: int, left: int) -> None:
    codec = CODECS["jpegxr"](quality=85)
    picture = codec.decode(codec.encode(_noise(200)))[top : top + 160, left : left + 160]
    phase, step, contrast, elsewhere = _strongest("lapped_4", picture)
    # The basis reaches two samples into the block before.
    assert phase == ((2 - top) % 4) * 4 + (2 - left) % 4
    assert 3 < step < 5
    assert contrast > 0.1
    assert contrast > 4 * elsewhere


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_no_comb_without_a_quantiser(transform: str) -> None:
    assert _strongest(transform, _noise(160))[2] < 0.08


def test_the_step_and_the_phase_of_quantised_blocks() -> None:
    true = common_steps()[9]
    spectra = true * np.random.default_rng(0).integers(-3, 4, (12, 12, 8, 8))
    spectra[..., 0, 0] = 1024
    gray = idctn(spectra, axes=(2, 3), norm="ortho").swapaxes(1, 2).reshape(96, 96)
    rounded = np.rint(gray)[3:83, 5:85, None].repeat(3, axis=2)
    phase, step, contrast, elsewhere = _strongest("dct_8", rounded)
    assert (phase, step) == (5 * 8 + 3, pytest.approx(true))
    assert contrast > 0.5 > 2 * elsewhere


def test_other_transforms_are_refused() -> None:
    with pytest.raises(ValueError, match="Received: 'dct_16'"):
        CommonStepCombs("dct_16")
