"""Classical signs in pixels: found after the codec that leaves them, and not before."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import photograph_like
from PIL import Image as PilImage
from scipy.fft import dct, dctn, idctn

from datasets.camera import Demosaic
from imagecompression import (
    Avif,
    Bpg,
    Codec,
    CodecError,
    Image,
    Jpeg2000,
    JpegXl,
    JpegXr,
    KMeans,
    Svd,
    WebP,
)
from imagecompression.evidence.block_edges import block_edges
from imagecompression.evidence.chroma_band import chroma_band
from imagecompression.evidence.colour_count import colour_count
from imagecompression.evidence.comb import tooth_spectrum
from imagecompression.evidence.common_comb import SOME_CODEC, common_comb
from imagecompression.evidence.factor_comb import _entries, factor_comb
from imagecompression.evidence.hevc_intra import HEVC
from imagecompression.evidence.jpeg_grid import SURE, jpeg_grid
from imagecompression.evidence.jpeg_history import luma_of, windows_of
from imagecompression.evidence.lapped_comb import lapped_basis
from imagecompression.evidence.low_rank import block_rank, picture_rank
from imagecompression.evidence.own_comb import own_comb
from imagecompression.evidence.pixel_evidence import pixel_evidence
from imagecompression.evidence.wavelet_comb import wavelet_comb
from imagecompression.evidence.wavelet_zeros import (
    FIRST_LEAD,
    WAVELETS,
    _halves,
    decisive,
    wavelet_zeros,
)
from imagecompression.quantisation_tables import photoshop_quality, quantisation_tables


def smooth(height: int, width: int, channels: int, seed: int = 0) -> Image:
    """A picture whose spectrum falls with frequency like a photograph's."""
    large = photograph_like(3 * height, 3 * width, channels, seed)
    size = width, height
    return np.array(PilImage.fromarray(large).resize(size, PilImage.Resampling.BOX))


PICTURE = smooth(264, 328, 3)


def saved(image: Image, **options: object) -> tuple[Image, dict[int, list[int]]]:
    """A picture through Pillow's JPEG, and the file's quantisation tables."""
    out = io.BytesIO()
    PilImage.fromarray(image).save(out, "JPEG", **options)
    file = PilImage.open(out)
    return np.array(file), file.quantization  # type: ignore[attr-defined]


# --- JPEG ------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [30, 55, 75, 92])
@pytest.mark.parametrize(("subsampling", "name"), [(0, "4:4:4"), (1, "4:2:2"), (2, "4:2:0")])
def test_quality_steps_and_subsampling_of_a_jpeg(quality: int, subsampling: int, name: str) -> None:
    jpeg, tables = saved(PICTURE, quality=quality, subsampling=subsampling)
    grid = jpeg_grid(jpeg[3:, 6:])
    assert grid.decisive
    assert (grid.history.top, grid.history.left) == (5, 2)
    assert grid.luma is not None
    assert grid.luma.quality is not None
    assert abs(grid.luma.quality - quality) <= 1
    assert grid.luma.school == "standard"
    sure = grid.luma.lead >= SURE
    assert sure.sum() >= 5
    true = np.array(tables[0]).reshape(8, 8)
    assert (grid.luma.steps == true)[sure].mean() >= 0.95
    assert grid.subsampling in (name, None)
    if quality >= 75:
        assert grid.subsampling == name
        assert grid.chroma is not None
        assert grid.chroma.quality is not None
        assert abs(grid.chroma.quality - quality) <= 2


def test_another_schools_table_is_told_from_libjpegs() -> None:
    pair = quantisation_tables("photoshop", photoshop_quality(8))
    jpeg, _ = saved(PICTURE, qtables=[table.ravel().tolist() for table in pair], subsampling=0)
    luma = jpeg_grid(jpeg).luma
    assert luma is not None
    assert (luma.school, luma.quality) == ("photoshop", photoshop_quality(8))


def test_an_unknown_table_gives_steps_and_no_quality() -> None:
    table = np.random.default_rng(0).integers(5, 40, (8, 8))
    jpeg, _ = saved(PICTURE, qtables=[table.ravel().tolist()] * 2, subsampling=0)
    grid = jpeg_grid(jpeg)
    assert grid.found
    assert not grid.decisive
    assert grid.luma is not None
    assert grid.luma.quality is None
    sure = grid.luma.lead >= SURE
    assert sure.sum() >= 10
    assert (grid.luma.steps == table)[sure].mean() >= 0.85


def test_gray_jpeg_has_no_chroma() -> None:
    grid = jpeg_grid(saved(PICTURE[..., 1], quality=70)[0])
    assert grid.decisive
    assert grid.chroma is None
    assert grid.subsampling is None


def test_zeros_without_steps_are_no_jpeg() -> None:
    """Other codecs with 8×8 transforms fire the vote; the comb decides."""
    from scipy.fft import dctn, idctn

    blocks = PICTURE[..., 1].astype(float).reshape(33, 8, 41, 8)
    blocks = dctn(blocks, axes=(1, 3), norm="ortho")
    blocks[np.abs(blocks) < 12] = 0
    pixels = np.rint(idctn(blocks, axes=(1, 3), norm="ortho")).reshape(264, 328)
    image = np.clip(pixels, 0, 255).astype(np.uint8)
    grid = jpeg_grid(image)
    assert grid.found
    assert not grid.decisive
    evidence = pixel_evidence(image)
    assert evidence.opinion is None
    vote = evidence.finding("jpeg_grid_vote")
    assert vote is not None
    assert vote.value["ratio"] > 3
    assert evidence.finding("no such finding") is None


def test_large_pictures_keep_chromas_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows begin where chroma's blocks of 16 pixels do, wherever luma's grid allows others."""
    from imagecompression.evidence import jpeg_grid as module
    from imagecompression.evidence import jpeg_history

    monkeypatch.setattr(jpeg_history, "_WINDOW", 136)
    monkeypatch.setattr(module, "_CHROMA_PIXELS", 4 * 136 * 136)
    jpeg, _ = saved(smooth(300, 424, 3), quality=90, subsampling=2)
    starts = {
        (window.ctypes.data - jpeg.ctypes.data) // jpeg.strides[0] % 16
        for window in windows_of(jpeg, 4 * 136 * 136, multiple=16)
    }
    assert starts == {0}
    assert jpeg_grid(jpeg).subsampling == "4:2:0"


# --- the other signs -------------------------------------------------------------------------


@pytest.mark.parametrize(("reversible", "wavelet"), [(False, "9/7"), (True, "5/3")])
@pytest.mark.parametrize("ratio", [6, 20, 60])
def test_jpeg2000_by_its_wavelet_at_any_crop(ratio: int, reversible: bool, wavelet: str) -> None:
    codec = Jpeg2000(ratio=ratio, reversible=reversible)
    decoded = codec.decode(codec.encode(PICTURE))[3:, 6:]
    first = wavelet_zeros([luma_of(decoded)], wavelet)[0]  # type: ignore[arg-type]
    assert first.position == (1, 0)
    evidence = pixel_evidence(decoded)
    assert evidence.opinion == "jpeg2000"
    assert wavelet in evidence.reason


# Right halves of the analysis filters of ITU-T T.800, tables F.2 and F.4 (lifting multiplied out).
FILTERS = {
    "5/3": ([3 / 4, 1 / 4, -1 / 8], [1.0, -1 / 2]),
    "9/7": (
        [0.602949018236, 0.266864118443, -0.078223266529, -0.016864118443, 0.026748757411],
        [1.115087052457, -0.591271763114, -0.057543526229, 0.091271763114],
    ),
}


@pytest.mark.parametrize("codec", [Jpeg2000(ratio=3), Jpeg2000(ratio=5, reversible=True)])
def test_zeros_of_a_mild_jpeg2000_lead_at_two_levels(codec: Jpeg2000) -> None:
    luma = luma_of(codec.decode(codec.encode(PICTURE))[3:, 6:])
    found = [wavelet_zeros([luma], wavelet) for wavelet in WAVELETS]
    best = max(found, key=lambda levels: levels[1].lead)
    assert 0.02 <= best[0].lead < 0.1
    assert decisive(found)
    # Without the second level the first could as well be that of colours between a sensor's.
    assert not decisive([(levels[0], replace(levels[1], lead=0.0), levels[2]) for levels in found])


@pytest.mark.parametrize("wavelet", FILTERS)
def test_lifting_is_convolution_with_the_standards_filters(wavelet: str) -> None:
    signal = np.random.default_rng(0).normal(0, 9, (64, 1)).astype(np.float32)
    bands = _halves(signal, wavelet)  # type: ignore[arg-type]
    for band, half, first in zip(bands, FILTERS[wavelet], (0, 1), strict=True):
        kernel = np.array(half[:0:-1] + half)
        kernel /= np.linalg.norm(kernel)
        filtered = np.convolve(signal[:, 0], kernel, mode="same")[first::2]
        np.testing.assert_allclose(band[6:26, 0], filtered[6:26], atol=1e-3)


def test_lapped_basis_by_the_two_stages() -> None:
    """Sample by sample: sums and differences about each border, then four-sample DCTs."""
    signal = np.random.default_rng(0).normal(0, 1, 16)
    filtered = signal.copy()
    cos, sin = np.cos(np.pi / 8), np.sin(np.pi / 8)
    for border in (4, 8, 12):
        a, b, c, d = signal[border - 2 : border + 2]
        outer, inner = (a + d) / 2 * 0.827, (b + c) / 2 * 0.827
        far, near = (d - a) / 2 / 0.827, (c - b) / 2 / 0.827
        far, near = cos * far - sin * near, sin * far + cos * near
        filtered[border - 2 : border + 2] = outer - far, inner - near, inner + near, outer + far
    for start in (4, 8):
        expected = dct(filtered[start : start + 4], norm="ortho")
        np.testing.assert_allclose(lapped_basis() @ signal[start - 2 : start + 6], expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [95, 88, 80])
def test_jpegxr_by_its_comb_at_any_crop(quality: int, channels: int) -> None:
    codec = JpegXr(quality=quality)
    found = pixel_evidence(codec.decode(codec.encode(smooth(264, 328, channels)))[3:, 6:])
    comb = found.finding("lapped_comb")
    assert comb is not None
    assert (comb.value["row"], comb.value["column"]) == (1, 2)
    assert found.opinion == "jpegxr"
    assert "row 1, column 2" in found.reason


def test_a_block_transform_with_one_step_is_no_jpegxr() -> None:
    gray = smooth(264, 328, 1)
    blocks = gray.reshape(66, 4, 82, 4).astype(float)
    quantised = np.rint(dctn(blocks, axes=(1, 3), norm="ortho") / 6) * 6
    decoded = np.rint(idctn(quantised, axes=(1, 3), norm="ortho")).reshape(gray.shape)
    found = pixel_evidence(np.clip(decoded, 0, 255).astype(np.uint8))
    comb = found.finding("lapped_comb")
    assert comb is not None
    assert comb.value["block_strength"] > 2 * comb.value["strength"]
    assert found.opinion is None


@pytest.mark.parametrize("step", [15, 40])
def test_svd_of_the_whole_picture(step: int) -> None:
    decoded = Svd.decode(Svd(mode="global", step=step).encode(PICTURE))
    part = decoded[3:, 6:]
    values = np.linalg.svd(luma_of(part) - luma_of(part).mean(), compute_uv=False)
    rank = picture_rank(part)
    assert rank.full == min(part.shape[:2])
    assert rank.drop == pytest.approx(values[rank.before - 1] / values[rank.before], rel=1e-3)
    assert pixel_evidence(part).opinion == "svd"
    assert picture_rank(PICTURE).drop < 1.5


@pytest.mark.parametrize("enlarged", [1.15, 1.37, 1.6, 2.3])
def test_an_enlarged_picture_is_no_svd(enlarged: float) -> None:
    noisy = photograph_like(200, 240, 3)
    size = round(240 * enlarged), round(200 * enlarged)
    large = np.array(PilImage.fromarray(noisy).resize(size, PilImage.Resampling.BICUBIC))
    rank = picture_rank(large)
    assert not rank.decisive
    assert pixel_evidence(large).opinion is None


@pytest.mark.parametrize(("block", "step"), [(4, 20), (8, 20), (8, 30)])
def test_svd_of_blocks_at_the_right_position(block: int, step: int) -> None:
    codec = Svd(mode="patch", block=block, step=step)
    decoded = codec.decode(codec.encode(smooth(264, 328, 3, 1)))[1:, 2:]
    found = block_rank(luma_of(decoded), block)
    assert found.position == (block - 1, block - 2)
    assert found.rank < block * block
    evidence = pixel_evidence(decoded)
    assert evidence.opinion == "svd"
    assert f"{block}×{block}" in evidence.reason


@pytest.mark.parametrize("colors", [8, 64, 256])
def test_a_palette_by_its_colours(colors: int) -> None:
    decoded = KMeans.decode(KMeans(colors=colors).encode(PICTURE))
    count = colour_count(decoded, [decoded])
    assert count.colours == len(np.unique(decoded.reshape(-1, 3), axis=0))
    evidence = pixel_evidence(decoded)
    assert evidence.opinion == "kmeans"
    assert str(count.colours) in evidence.reason


def test_colours_outside_the_windows_count_where_the_windows_have_few() -> None:
    image = np.zeros((80, 80, 3), np.uint8)
    image[:, :, 1] = np.arange(80) % 5
    image[79, 79] = 200
    count = colour_count(image, [image[:32, :32], image[32:64, 32:64]])
    assert count.exact
    assert count.colours == 6
    many = np.zeros((160, 80, 3), np.uint8)
    many[..., 0], many[..., 1] = np.mgrid[0:160, 0:80]
    seen = colour_count(many, [many[:40], many[40:80]])
    assert not seen.exact
    assert seen.colours == 80 * 80


def test_a_drawing_is_no_palette() -> None:
    image = np.full((200, 200, 3), 250, np.uint8)
    image[50:60, 20:180] = 0
    image[90:100, 20:120] = (0, 0, 160)
    assert pixel_evidence(image).opinion is None


def test_edges_of_blocks_by_period_and_position() -> None:
    image = PICTURE.astype(float)
    image[:, 11::16] += 0  # a copy, unchanged
    for start in range(5, 328, 16):
        image[:, start : start + 8] += 6
    plain = block_edges([luma_of(PICTURE)], 8)
    edges = block_edges([luma_of(np.clip(image, 0, 255).astype(np.uint8))], 8)
    assert edges.column == 5
    assert edges.across > 1.5 > plain.across
    assert edges.down < 1.2


def test_halved_chroma_has_no_fine_detail() -> None:
    noisy = np.random.default_rng(0).integers(40, 216, (128, 128, 3)).astype(np.uint8)
    luma, chroma = chroma_band([noisy])
    planes = np.array(PilImage.fromarray(noisy).convert("YCbCr"))
    small = PilImage.fromarray(planes[..., 1:].repeat(2, axis=2)[..., :3]).resize((64, 128))
    planes[..., 1:] = np.array(small.resize((128, 128), PilImage.Resampling.BICUBIC))[..., [0, 2]]
    halved = np.array(PilImage.fromarray(planes, "YCbCr").convert("RGB"))
    after_luma, after = chroma_band([halved])
    assert after.across < chroma.across / 3
    assert after.down > chroma.down / 3
    assert after_luma.across > luma.across / 2


# --- the opinion -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("channels", [1, 3])
def test_no_opinion_on_pictures_without_a_history(seed: int, channels: int) -> None:
    for image in (smooth(200, 220, channels, seed), photograph_like(144, 200, channels, seed)):
        evidence = pixel_evidence(image)
        assert evidence.opinion is None
        assert evidence.reason == "No classical sign."


def test_no_opinion_on_few_coefficients() -> None:
    decoded = Avif.decode(Avif(quality=60).encode(PICTURE))
    assert pixel_evidence(decoded).opinion is None


@pytest.mark.parametrize(
    ("codec", "opinion"),
    [
        (Avif(quality=95), SOME_CODEC),
        (Avif(quality=80), SOME_CODEC),
        (Bpg(qp=30), HEVC),  # its prediction tells more
        (JpegXl(distance=0.5), SOME_CODEC),
    ],
)
def test_one_step_for_all_frequencies_tells_some_codec(codec: Codec, opinion: str) -> None:
    picture = photograph_like(400, 480, 3)
    assert pixel_evidence(picture).opinion is None
    found = pixel_evidence(codec.decode(codec.encode(picture))[3:, 6:])
    assert found.signs["common_comb"].codec == SOME_CODEC
    assert "row 5, column 2" in found.signs["common_comb"].reason
    assert found.opinion == opinion
    assert "row 5, column 2" in found.reason


@pytest.mark.parametrize(("block", "step"), [(8, 2), (8, 3), (4, 3), (4, 5)])
def test_svd_of_blocks_by_the_comb_of_its_own_transform(block: int, step: int) -> None:
    picture = smooth(400, 480, 3)
    codec = Svd(step=step, block=block)
    found = pixel_evidence(codec.decode(codec.encode(picture))[3:, 6:])
    comb = found.finding("own_comb")
    assert comb is not None
    assert comb.value["block"] == block
    assert (comb.value["row"], comb.value["column"]) == (-3 % block, -6 % block)
    assert comb.value["step"] == pytest.approx(step, rel=0.03)
    assert found.opinion == "svd"


@pytest.mark.parametrize("codec", [WebP(quality=90), WebP(quality=60), JpegXr(quality=60)])
def test_a_comb_of_blocks_of_four_that_is_no_svd(codec: Codec) -> None:
    comb = own_comb(codec.decode(codec.encode(smooth(400, 480, 3))))
    assert not comb.decisive


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("step", [2, 5.5])
def test_svd_of_the_picture_by_the_comb_of_its_factors(step: float, channels: int) -> None:
    picture = photograph_like(300, 260, channels)
    decoded = Svd.decode(Svd(mode="global", step=step).encode(picture))
    comb = factor_comb(decoded)
    assert comb.decisive
    assert comb.step == pytest.approx(step, rel=0.01)
    assert f"{step:.1f} gray levels" in comb.reason
    found = pixel_evidence(decoded)
    assert found.opinion == "svd"
    assert not factor_comb(picture).decisive
    assert not factor_comb(decoded[40:, :200]).decisive  # a crop mixes the terms


def test_terms_of_factors_are_those_of_a_whole_decomposition() -> None:
    luma = luma_of(photograph_like(170, 200, 1)).astype(np.float64)
    luma -= luma.mean()
    left, strengths, right = np.linalg.svd(luma, full_matrices=False)
    few = slice(0, 5)
    expected = np.concatenate(
        [(left[:, few] * strengths[few]).T, right[few] * strengths[few, None]], 1
    )
    entries = _entries(luma.astype(np.float32))
    columns, rows = entries[: 170 * 20].reshape(170, 20), entries[170 * 20 :].reshape(20, 200)
    found = np.concatenate([columns.T, rows], axis=1)[::-1][few]  # the strongest is the last
    assert np.abs(found - np.abs(expected)).max() < 0.05


@pytest.mark.parametrize(
    ("codec", "size"),
    [
        (Jpeg2000(ratio=3), 300),
        (Jpeg2000(ratio=3), 90),
        (Jpeg2000(ratio=6), 300),
        (Jpeg2000(ratio=6, reversible=True), 300),
    ],
)
def test_jpeg2000_by_the_comb_of_its_wavelets(codec: Jpeg2000, size: int) -> None:
    picture = smooth(320, 340, 3)
    part = codec.decode(codec.encode(picture))[7 : 7 + size, 12 : 12 + size]
    comb = wavelet_comb([luma_of(part)])
    assert comb.decisive
    assert (comb.row, comb.column, comb.wavelet) == (1, 0, "5/3" if codec.reversible else "9/7")
    assert f"{comb.wavelet} wavelet" in comb.reason
    assert pixel_evidence(part).opinion == "jpeg2000"
    assert not wavelet_comb([luma_of(picture[7 : 7 + size, 12 : 12 + size])]).decisive


@pytest.mark.parametrize("codec", [Avif(quality=90), Bpg(qp=16), JpegXr(quality=80), WebP()])
def test_other_codecs_have_no_comb_of_wavelets(codec: Codec) -> None:
    assert not wavelet_comb([luma_of(codec.decode(codec.encode(PICTURE)))]).decisive


def test_a_demosaicked_picture_has_no_comb_of_wavelets() -> None:
    # Its four positions differ a little, without any teeth.
    picture, _ = Demosaic().apply(smooth(320, 340, 3, seed=5), np.random.default_rng(5))
    comb = wavelet_comb([luma_of(picture)])
    assert comb.strength >= comb.STRENGTH
    assert comb.strength >= comb.LEAD * comb.other_strength
    assert not comb.decisive
    assert pixel_evidence(picture).opinion is None


def test_samples_put_between_all_others_are_no_jpeg2000() -> None:
    """Corners on corners, as some libraries enlarge by two: all that the 5/3 wavelet predicts."""
    large = np.zeros((2 * 264 - 1, 2 * 328 - 1, 3))
    large[::2, ::2] = PICTURE
    large[1::2] = (large[:-1:2] + large[2::2]) / 2
    large[:, 1::2] = (large[:, :-1:2] + large[:, 2::2]) / 2
    luma = luma_of(np.rint(large).astype(np.uint8))
    found = {wavelet: wavelet_zeros([luma], wavelet) for wavelet in WAVELETS}
    assert found["5/3"][0].share > 0.95
    assert found["5/3"][0].lead > FIRST_LEAD
    assert not decisive(found.values())


def test_sizes_an_offset_apart_have_teeth_too() -> None:
    sizes = (np.arange(20000) % 9 + 2.3).astype(np.float32) * 3
    spectrum = tooth_spectrum(sizes, 1.5, 128)
    place = int(np.abs(spectrum[64:128]).argmax()) + 64  # steps of 2 to 4
    assert 256 / place == pytest.approx(3, rel=0.02)
    assert abs(spectrum[place]) == pytest.approx(np.sqrt(2 * len(sizes)), rel=0.1)
    angle = np.angle(spectrum[place] * np.exp(2j * np.pi * 0.3))
    assert angle == pytest.approx(0, abs=0.5)


def test_a_common_step_is_found_at_its_grid() -> None:
    gray = photograph_like(260, 332, 1)[2:-2, 1:-3]  # 256×328
    quantised = np.rint(dctn(gray.reshape(32, 8, 41, 8), axes=(1, 3), norm="ortho") / 4.7) * 4.7
    decoded = np.rint(idctn(quantised, axes=(1, 3), norm="ortho")).reshape(gray.shape)
    comb = common_comb([np.clip(decoded, 0, 255).astype(np.float32)[1:, 7:]])
    assert (comb.row, comb.column) == (7, 1)
    assert comb.step == pytest.approx(4.7, rel=0.01)
    assert comb.strength > 10 * comb.other_strength


@pytest.mark.parametrize("channels", [1, 3])
def test_few_colours_of_a_dark_picture_are_no_palette(channels: int) -> None:
    picture = smooth(300, 320, channels)
    dark = picture // (4 if channels == 1 else 40) + 3
    count = colour_count(dark, [dark])
    assert count.colours <= (64 if channels == 1 else 256)
    assert count.crowded > 0.9
    assert not count.decisive
    palette = KMeans.decode(KMeans(colors=32).encode(picture))
    assert colour_count(palette, [palette]).decisive


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_a_mosaic_is_no_codec(factor: int) -> None:
    small = photograph_like(400 // factor, 480 // factor, 3)
    mosaic = np.repeat(np.repeat(small, factor, axis=0), factor, axis=1)
    assert pixel_evidence(mosaic).opinion is None


def test_a_palette_after_a_jpeg_is_the_last_word() -> None:
    jpeg, _ = saved(PICTURE, quality=60)
    assert pixel_evidence(KMeans.decode(KMeans(colors=128).encode(jpeg))).opinion == "kmeans"


SHAPES = [(1, 1), (1, 300, 3), (15, 16), (16, 16, 3), (47, 96, 3), (64, 64), (97, 65, 3), (8, 900)]


@pytest.mark.parametrize("shape", SHAPES)
def test_any_shape_gives_the_same_findings_in_json(shape: tuple[int, ...]) -> None:
    names = [found.name for found in pixel_evidence(PICTURE).findings]
    rng = np.random.default_rng(0)
    for image in (
        rng.integers(0, 256, shape).astype(np.uint8),
        np.zeros(shape, np.uint8),
        np.full(shape, 255, np.uint8),
    ):
        evidence = pixel_evidence(image)
        assert [found.name for found in evidence.findings] == names
        assert evidence.opinion is None
        document = evidence.to_json()
        assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_long_thin_pictures_beyond_the_windows() -> None:
    for shape in ((4, 700_000), (700_000, 4)):
        assert pixel_evidence(np.full(shape, 9, np.uint8)).opinion is None


def test_what_is_no_picture_is_refused() -> None:
    for wrong in (np.zeros((4, 4), np.float32), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4))):
        with pytest.raises(CodecError, match="uint8"):
            pixel_evidence(wrong)
