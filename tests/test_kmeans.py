"""The k-means palette codec; what holds for every codec is in test_codecs.py."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import photograph_like
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PilImage

from imagecompression.codec import CodecError
from imagecompression.kmeans import KMeans, lab_to_srgb, srgb_to_lab
from imagecompression.lossless import Lossless
from imagecompression.metrics import psnr

GOLDEN = Path(__file__).parent / "golden"
SMALL = KMeans(colors=5).encode(photograph_like(12, 17, 3))


def few_colors(count: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """A picture of `shape` in which exactly `count` different colours occur."""
    rng = np.random.default_rng(seed)
    if len(shape) == 2:
        colors = rng.permutation(256)[:count].astype(np.uint8)
    else:
        packed = rng.choice(2**24, count, replace=False)
        colors = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], 1).astype(np.uint8)
    height, width = shape[:2]
    where = np.concatenate([np.arange(count), rng.integers(0, count, height * width - count)])
    return colors[rng.permutation(where).reshape(height, width)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16, 17, 64, 255, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_few_colours_are_kept_exactly(count: int, channels: int) -> None:
    picture = few_colors(count, (20, 31) if channels == 1 else (20, 31, 3))
    for colors in {max(2, count), min(256, count + 1), 256}:
        data = KMeans(colors=colors).encode(picture)
        assert np.array_equal(KMeans.decode(data), picture)
        fewest = next(bits for bits in (1, 2, 4, 8) if count <= 2**bits)
        assert data[24] in (fewest, 8), "PNG bit depth"


@pytest.mark.parametrize("count", [3, 4, 17, 200])
def test_one_colour_too_many_is_merged_without_a_warning(count: int) -> None:
    picture = few_colors(count, (20, 31, 3))
    decoded = KMeans.decode(KMeans(colors=count - 1).encode(picture))
    assert len(np.unique(decoded.reshape(-1, 3), axis=0)) < count


@pytest.mark.parametrize("colors", [2, 7, 64, 256])
def test_the_file_is_a_palette_png_for_any_viewer(
    rgb: np.ndarray, gray: np.ndarray, colors: int
) -> None:
    for picture in (rgb, gray):
        data = KMeans(colors=colors).encode(picture)
        with PilImage.open(io.BytesIO(data)) as opened:
            assert (opened.format, opened.mode) == ("PNG", "P")
            assert opened.size == (picture.shape[1], picture.shape[0])
            shown = np.array(opened.convert("RGB"))
            indices = np.array(opened).astype(int)
            palette = np.array(opened.getpalette()).reshape(-1, 3)
        assert indices.max() + 1 <= colors
        assert np.array_equal(np.unique(indices), np.arange(indices.max() + 1)), "unused entry"
        # Rec. 709 luma of the linear colours is what L* orders by; equal ones may swap.
        lightness = srgb_to_lab(palette[: indices.max() + 1].astype(np.uint8))[:, 0]
        assert (np.diff(lightness) >= 0).all()
        decoded = KMeans.decode(data)
        assert decoded.shape == picture.shape
        assert np.array_equal(decoded, shown if picture.ndim == 3 else shown[..., 0])


def test_size_and_fidelity_rise_with_colors(rgb: np.ndarray) -> None:
    files = [KMeans(colors=colors).encode(rgb) for colors in (2, 4, 8, 16, 32, 64, 128, 256)]
    sizes = [len(data) for data in files]
    assert sizes == sorted(sizes)
    fidelity = [psnr(rgb, KMeans.decode(data)) for data in files]
    assert fidelity == sorted(fidelity)
    assert fidelity[-1] > 32
    sizes = [len(KMeans(colors=colors).encode(rgb)) for colors in range(2, 36)]
    assert all(b > 0.92 * a for a, b in itertools.pairwise(sizes)), sizes


def test_colours_are_near_those_of_an_exhaustive_clustering(rgb: np.ndarray) -> None:
    from sklearn.cluster import KMeans as FullKMeans

    points = srgb_to_lab(rgb.reshape(-1, 3))
    full = FullKMeans(16, n_init=1, random_state=0).fit(points)
    decoded = KMeans.decode(KMeans(colors=16).encode(rgb))
    distortion = ((srgb_to_lab(decoded.reshape(-1, 3)) - points) ** 2).sum()
    assert distortion < 1.15 * full.inertia_


def test_many_distinct_colours() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    decoded = KMeans.decode(KMeans(colors=256).encode(noise))
    assert len(np.unique(decoded.reshape(-1, 3), axis=0)) > 250
    assert psnr(noise, decoded) > 19


def test_seeds_differ(rgb: np.ndarray) -> None:
    assert KMeans(seed=0).encode(rgb) != KMeans(seed=1).encode(rgb)


def test_foreign_palette_png_decodes_to_rgb_without_transparency() -> None:
    picture = PilImage.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) % 3)
    picture.putpalette([9, 9, 9, 50, 50, 50, 200, 200, 200])
    out = io.BytesIO()
    picture.save(out, "PNG", transparency=b"\x00\x80\xff")
    decoded = KMeans.decode(out.getvalue())
    assert KMeans.matches(out.getvalue())
    assert decoded.shape == (3, 4, 3)
    assert decoded[0, :3, 1].tolist() == [9, 50, 200]


def test_png_with_samples_is_refused(rgb: np.ndarray) -> None:
    data = Lossless().encode(rgb)
    assert not KMeans.matches(data)
    with pytest.raises(CodecError, match="palette"):
        KMeans.decode(data)


def test_golden_file_decodes_to_the_same_pixels() -> None:
    expected = json.loads((GOLDEN / "kmeans.json").read_text())
    decoded = KMeans.decode((GOLDEN / expected["file"]).read_bytes())
    assert list(decoded.shape) == expected["shape"]
    assert hashlib.sha256(decoded.tobytes()).hexdigest() == expected["sha256"]


@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1))
@settings(max_examples=150, deadline=None)
def test_mutated_files_are_refused_or_decoded(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(SMALL)
    for place, value in changes:
        damaged[place] = value
    try:
        decoded = KMeans.decode(bytes(damaged))
    except CodecError:
        return
    assert decoded.dtype == np.uint8
    assert decoded.ndim in (2, 3)


@pytest.mark.parametrize("length", [0, 8, 25, 26, 33, 60, len(SMALL) // 2])
def test_truncated_files_are_refused(length: int) -> None:
    with pytest.raises(CodecError):
        KMeans.decode(SMALL[:length])


def test_lab_agrees_with_published_values() -> None:
    # sRGB primaries, white and a mid gray in CIELAB (D65), from Lindbloom's calculator.
    colors = np.array(
        [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [119, 119, 119]], np.uint8
    )
    expected = [
        [53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86], [100, 0, 0],
        [50.03, 0, 0],
    ]  # fmt: skip
    assert np.allclose(srgb_to_lab(colors), expected, atol=0.05)


def test_lab_agrees_with_scikit_image() -> None:
    color = pytest.importorskip("skimage.color")
    colors = np.random.default_rng(0).integers(0, 256, (500, 3), np.uint8)
    assert np.allclose(srgb_to_lab(colors), color.rgb2lab(colors / 255.0), atol=0.03)


def test_lab_and_back_is_exact() -> None:
    steps = np.arange(0, 256, 15, np.uint8)
    colors = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    assert np.array_equal(lab_to_srgb(srgb_to_lab(colors)), colors)


@pytest.mark.parametrize(
    "fields",
    [{"colors": 1}, {"colors": 257}, {"colors": 8.0}, {"seed": -1}, {"seed": True}],
    ids=str,
)
def test_parameters_out_of_range_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(CodecError, match="Received"):
        KMeans(**fields)  # type: ignore[arg-type]
