"""The k-means palette codec; what holds for every codec is in test_codecs.py."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import photograph_like
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PilImage

from imagecompression.codec import CodecError
from imagecompression.color_space import COLOR_SPACES, lab_to_srgb, srgb_to_lab, srgb_to_oklab
from imagecompression.dithering import diffused_entries
from imagecompression.kmeans import KMeans
from imagecompression.lossless import Lossless
from imagecompression.metrics import psnr
from imagecompression.palette import ColorHistogram, nearest_entry
from imagecompression.palette_png import palette_png
from imagecompression.palette_quality import (
    encode_to_quality,
    mse_to_quality,
    palette_mse,
    quality_to_mse,
)

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
            entries = len(opened.getpalette()) // 3
        assert np.array_equal(np.unique(indices), np.arange(entries)), "unused entry"
        assert entries == min(colors, len(ColorHistogram.of(picture).packed))
        decoded = KMeans.decode(data)
        assert decoded.shape == picture.shape
        assert np.array_equal(decoded, shown if picture.ndim == 3 else shown[..., 0])


def test_size_and_fidelity_rise_with_colors(rgb: np.ndarray) -> None:
    rgb = rgb[:72, :100]
    files = [KMeans(colors=colors).encode(rgb) for colors in (2, 4, 8, 16, 32, 64, 128, 256)]
    sizes = [len(data) for data in files]
    assert sizes == sorted(sizes)
    fidelity = [psnr(rgb, KMeans.decode(data)) for data in files]
    assert fidelity == sorted(fidelity)
    assert fidelity[-1] > 32
    sizes = [len(KMeans(colors=colors).encode(rgb)) for colors in range(2, 36, 4)]
    assert all(b > 0.92 * a for a, b in itertools.pairwise(sizes)), sizes


@pytest.mark.parametrize("space", COLOR_SPACES)
@pytest.mark.parametrize("init", ["wu", "k-means++"])
def test_colours_are_as_good_as_those_of_an_exhaustive_clustering(
    rgb: np.ndarray, space: str, init: str
) -> None:
    from sklearn.cluster import KMeans as FullKMeans

    rgb = rgb[::2, ::2]
    of_srgb = COLOR_SPACES[space].of_srgb
    points = of_srgb(rgb.reshape(-1, 3))
    full = FullKMeans(16, n_init=1, random_state=0).fit(points)
    decoded = KMeans.decode(KMeans(colors=16, space=space, init=init).encode(rgb))
    distortion = ((of_srgb(decoded.reshape(-1, 3)) - points) ** 2).sum()
    assert distortion < 1.02 * full.inertia_


@pytest.mark.parametrize("colors", [5, 16, 64, 256])
def test_error_is_below_that_of_pillow(rgb: np.ndarray, gray: np.ndarray, colors: int) -> None:
    for picture in (rgb[:72], np.repeat(gray[..., None], 3, axis=2), photograph_like(64, 90, 3, 5)):
        ours = psnr(picture, KMeans.decode(KMeans(colors=colors).encode(picture)))
        for method in (
            PilImage.Quantize.MEDIANCUT,
            PilImage.Quantize.MAXCOVERAGE,
            PilImage.Quantize.FASTOCTREE,
        ):
            for rounds in (0, 1):  # the second refines by k-means too
                quantized = PilImage.fromarray(picture).quantize(
                    colors, method=method, kmeans=rounds, dither=PilImage.Dither.NONE
                )
                assert ours >= psnr(picture, np.array(quantized.convert("RGB"))), method


@pytest.mark.parametrize("space", COLOR_SPACES)
def test_every_pixel_gets_its_nearest_entry(rgb: np.ndarray, space: str) -> None:
    of_srgb = COLOR_SPACES[space].of_srgb
    decoded = KMeans.decode(KMeans(colors=40, space=space).encode(rgb)).reshape(-1, 3)
    palette = of_srgb(np.unique(decoded, axis=0)).astype(np.float64)
    points = of_srgb(rgb.reshape(-1, 3)).astype(np.float64)
    least = np.min([((points - entry) ** 2).sum(axis=1) for entry in palette], axis=0)
    found = ((points - of_srgb(decoded)) ** 2).sum(axis=1)
    assert np.allclose(found, least, rtol=1e-3, atol=1e-4 * points.max() ** 2)


def test_nearest_of_equal_distances_is_the_first() -> None:
    palette = np.array([[0, 0, 0], [10, 0, 0], [0, 10, 0]], np.float32)
    assert nearest_entry(np.array([[5, 5, 0]], np.float32), palette).tolist() == [0]


def test_many_distinct_colours() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    decoded = KMeans.decode(KMeans(colors=256).encode(noise))
    assert len(np.unique(decoded.reshape(-1, 3), axis=0)) > 250
    assert psnr(noise, decoded) > 19


def test_every_parameter_has_an_effect(rgb: np.ndarray) -> None:
    rgb = rgb[:72, :100]
    settings = [
        KMeans(), KMeans(colors=63), KMeans(space="lab"), KMeans(space="oklab"),
        KMeans(init="k-means++"), KMeans(init="k-means++", seed=1),
        KMeans(dithering=0.5), KMeans(dithering=1.0), KMeans(space="lab", dithering=1.0),
    ]  # fmt: skip
    assert len({codec.encode(rgb) for codec in settings}) == len(settings)


@pytest.mark.parametrize("space", COLOR_SPACES)
def test_each_space_is_best_by_its_own_measure(rgb: np.ndarray, space: str) -> None:
    rgb = rgb[::2, ::2]
    of_srgb = COLOR_SPACES[space].of_srgb
    source = of_srgb(rgb.reshape(-1, 3))
    errors = {
        other: ((of_srgb(KMeans.decode(KMeans(colors=32, space=other).encode(rgb)).reshape(-1, 3))
                 - source) ** 2).sum()
        for other in COLOR_SPACES
    }  # fmt: skip
    assert min(errors, key=lambda other: errors[other]) == space


def test_gray_stays_gray(gray: np.ndarray) -> None:
    for codec in KMeans.variants():
        decoded = KMeans.decode(codec.with_knob(20).encode(gray))
        assert decoded.shape == gray.shape
        assert psnr(gray, decoded) > (34 if codec.dithering < 1 else 30)
    colored = KMeans.decode(KMeans(colors=20).encode(np.repeat(gray[..., None], 3, axis=2)))
    assert colored.ndim == 3
    assert (colored == colored[..., :1]).all()


@pytest.mark.parametrize("space", COLOR_SPACES)
def test_dithering_lowers_the_error_of_local_means(space: str) -> None:
    of_srgb = COLOR_SPACES[space].of_srgb
    # Between two colours, so that mixtures of the palette can show nearly all.
    rows, columns = np.mgrid[0:96, 0:128]
    ramp = 120 + (rows + columns)[..., None] / 222 * np.array([90, -70, 40])
    ramp = ramp.round().astype(np.uint8)

    def means(picture: np.ndarray) -> np.ndarray:
        return of_srgb(picture.reshape(-1, 3)).reshape(12, 8, 16, 8, 3).mean(axis=(1, 3))

    errors, fidelity = [], []
    for strength in (0.0, 0.5, 1.0):
        decoded = KMeans.decode(KMeans(colors=8, space=space, dithering=strength).encode(ramp))
        errors.append(float(((means(decoded) - means(ramp)) ** 2).mean()))
        fidelity.append(psnr(ramp, decoded))
    assert errors[1] < 0.8 * errors[0]
    assert errors[2] < 0.65 * errors[0]
    assert fidelity == sorted(fidelity, reverse=True)


def test_dithering_agrees_with_a_pixel_by_pixel_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = photograph_like(13, 9, 3)
    palette = np.array([[20, 30, 40], [90, 90, 100], [160, 150, 140], [230, 240, 220]], np.uint8)
    rest = picture.astype(np.float64)
    expected = np.empty((13, 9), int)
    for y in range(13):
        for x in range(9):
            wanted = np.clip(rest[y, x], palette.min(axis=0), palette.max(axis=0))
            expected[y, x] = ((wanted - palette) ** 2).sum(axis=1).argmin()
            error = 0.75 * (wanted - palette[expected[y, x]])
            for down, right, part in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if y + down < 13 and 0 <= x + right < 9:
                    rest[y + down, x + right] += error * part / 16
    for band in (512, 5, 1):
        monkeypatch.setattr("imagecompression.dithering._BAND_ROWS", band)
        assert np.array_equal(diffused_entries(picture, palette, "rgb", 0.75), expected), band


def test_counting_in_blocks_changes_nothing(
    rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = rgb[:72]
    whole, data = ColorHistogram.of(rgb), KMeans(dithering=0.5).encode(rgb)
    monkeypatch.setattr("imagecompression.palette._BLOCK_PIXELS", 1000)
    blocks = ColorHistogram.of(rgb)
    assert np.array_equal(whole.packed, blocks.packed)
    assert np.array_equal(whole.counts, blocks.counts)
    assert KMeans(dithering=0.5).encode(rgb) == data


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 1), (64, 100), (31, 33)], ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 13, 200])
def test_written_png_shows_the_pixels(shape: tuple[int, int], count: int) -> None:
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, (count, 3), np.uint8)
    for indices in (
        rng.integers(0, count, shape, np.uint8),
        (np.add.outer(np.arange(shape[0]), np.arange(shape[1])) % count).astype(np.uint8),
    ):
        data = palette_png(indices, palette, {"Title": "é"})
        with PilImage.open(io.BytesIO(data)) as opened:
            opened.verify()
        with PilImage.open(io.BytesIO(data)) as opened:
            assert np.array_equal(np.array(opened.convert("RGB")), palette[indices])
            assert opened.info["Title"] == "é"


def test_written_png_in_blocks_is_the_same(
    rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = [KMeans(colors=colors).encode(rgb) for colors in (4, 64)]
    monkeypatch.setattr("imagecompression.palette_png._BLOCK_PIXELS", 1500)
    assert [KMeans(colors=colors).encode(rgb) for colors in (4, 64)] == data


@pytest.mark.parametrize("colors", [2, 16, 64, 256])
def test_files_are_as_small_as_an_optimiser_makes_them(colors: int) -> None:
    import oxipng

    picture = photograph_like(240, 320, 3, 2)
    data = KMeans(colors=colors).encode(picture)
    smallest = oxipng.optimize_from_memory(data, level=4)
    assert len(data) < 1.04 * len(smallest)
    with PilImage.open(io.BytesIO(data)) as opened:
        out = io.BytesIO()
        opened.save(out, "PNG", optimize=True)
    assert len(data) < len(out.getvalue())


def test_quality_scale() -> None:
    # libimagequant's scale: 0 takes anything, 100 nothing but equality, the middle is smooth.
    scale = [quality_to_mse(quality) for quality in range(101)]
    assert scale == sorted(scale, reverse=True)
    assert (scale[0], scale[100]) == (float("inf"), 0.0)
    for quality in range(2, 96):
        assert mse_to_quality(scale[quality]) == quality
    assert mse_to_quality(0.0) == 100
    assert mse_to_quality(1.0) == 0


def test_quality_takes_the_fewest_colours(rgb: np.ndarray) -> None:
    rgb, before = rgb[:32, :48], 1
    histogram = ColorHistogram.of(rgb)
    for maximum in (10, 30, 50):
        found = encode_to_quality(rgb, KMeans(), 0, maximum)
        assert found.reached
        assert found.reason == ""
        assert found.quality >= maximum
        assert found.codec.colors > before
        assert found.data == found.codec.encode(rgb)
        fewer = found.codec.with_knob(found.codec.colors - 1)
        assert palette_mse(histogram, fewer.palette(histogram)) > quality_to_mse(maximum)
        before = found.codec.colors
    assert found.palettes <= 12


def test_quality_out_of_reach_is_said() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    found = encode_to_quality(noise, KMeans(), 90, 95)
    assert not found.reached
    assert found.codec.colors == 256
    assert "quality 90 is out of reach: 256 colours" in found.reason
    assert encode_to_quality(noise, KMeans(), 0, 95).reached


def test_quality_of_few_colours_is_full() -> None:
    picture = few_colors(37, (20, 31, 3))
    found = encode_to_quality(picture, KMeans(space="lab", dithering=0.5), 100, 100)
    assert (found.quality, found.codec.colors, found.reached) == (100, 37, True)
    assert found.codec.space == "lab"
    assert np.array_equal(KMeans.decode(found.data), picture)
    flat = encode_to_quality(np.full((5, 6), 9, np.uint8), KMeans(), 100, 100)
    assert (flat.codec.colors, flat.quality) == (2, 100)


@pytest.mark.parametrize("bounds", [(-1, 50), (50, 101), (60, 50), (1.5, 50), (True, 50)], ids=str)
def test_qualities_out_of_range_are_refused(rgb: np.ndarray, bounds: tuple[int, int]) -> None:
    with pytest.raises(CodecError, match="Received"):
        encode_to_quality(rgb, KMeans(), *bounds)


def test_quality_agrees_with_libimagequant(rgb: np.ndarray) -> None:
    import imagequant

    rgb = np.ascontiguousarray(rgb[:48, :64])
    opaque = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)]).tobytes()
    for maximum in (20, 40):
        indices, _ = imagequant.quantize_raw_rgba_bytes(
            opaque, rgb.shape[1], rgb.shape[0], 0.0, 256, 0, maximum
        )
        theirs = len(set(indices))
        ours = encode_to_quality(rgb, KMeans(), 0, maximum).codec.colors
        assert 0.5 < ours / theirs < 1.5


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


@pytest.mark.parametrize("expected", json.loads((GOLDEN / "kmeans.json").read_text()), ids=str)
def test_golden_files_decode_to_the_same_pixels(expected: dict[str, Any]) -> None:
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
    from skimage import color

    colors = np.random.default_rng(0).integers(0, 256, (500, 3), np.uint8)
    assert np.allclose(srgb_to_lab(colors), color.rgb2lab(colors / 255.0), atol=0.03)


def test_oklab_agrees_with_published_values() -> None:
    # From the table of XYZ pairs and the gamut corners that Ottosson's article gives.
    colors = np.array([[255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    expected = [[1, 0, 0], [0.628, 0.225, 0.126], [0.866, -0.234, 0.179], [0.452, -0.032, -0.312]]
    assert np.allclose(srgb_to_oklab(colors), expected, atol=6e-4)


@pytest.mark.parametrize("space", COLOR_SPACES)
def test_space_and_back_is_exact(space: str) -> None:
    steps = np.arange(0, 256, 15, np.uint8)
    colors = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    of_srgb, to_srgb = COLOR_SPACES[space]
    assert np.array_equal(to_srgb(of_srgb(colors)), colors)


def test_lab_outside_srgb_is_clipped() -> None:
    assert lab_to_srgb(np.array([[150, 0, 0]], np.float32)).tolist() == [[255, 255, 255]]


@pytest.mark.parametrize(
    "fields",
    [
        {"colors": 1},
        {"colors": 257},
        {"colors": 8.0},
        {"seed": -1},
        {"seed": True},
        {"seed": 1},
        {"space": "hsv"},
        {"init": "random"},
        {"init": None},
        {"dithering": 1.1},
        {"dithering": -0.1},
        {"dithering": "0.5"},
        {"dithering": float("nan")},
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(CodecError, match="Received"):
        KMeans(**fields)  # type: ignore[arg-type]
