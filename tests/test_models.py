"""Layers and models: every builder through one harness, every layer against a slow second way."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from scipy.fft import dctn, idctn

from train.combs import TRANSFORMS, CommonStepCombs
from train.layers import (
    COMB_STEPS,
    HISTOGRAM_WIDTHS,
    AttentionPooling,
    BlockHistograms,
    HighPassResiduals,
    PhaseContrast,
    PhaseSummary,
    StatisticsPooling,
    WaveletHistograms,
    dct_kernels,
    phase_combs,
    phase_histograms,
    residual_kernel,
    spread_frequencies,
    wavelet_kernels,
)
from train.models import MIN_PATCH, MODELS, bag_model, build_residual

ANY_SIZE = (None, None, 3)


def _pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


# Models.


def _answer(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    return np.asarray(model(pixels, training=False))  # eager: tracing each model would take longer


@pytest.mark.parametrize("name", MODELS)
def test_builder_contract(name: str, tmp_path: Path) -> None:
    model = MODELS[name](ANY_SIZE, 5, dropout=0.5)
    assert not model.compiled
    assert model.name == name
    assert model.layers[-1].name == "probabilities"
    assert 20_000 < model.count_params() < 2_000_000
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True, compile=False)
    embedding = keras.Model(model.input, model.get_layer("embedding").output)
    for height, width in ((MIN_PATCH, MIN_PATCH), (47, 70)):
        pixels = _pixels(3, height, width, 3)
        before = pixels.copy()
        answer = _answer(model, pixels)
        assert answer.shape == (3, 5)
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(answer, _answer(model, pixels.astype(np.float32)))
        np.testing.assert_array_equal(pixels, before)
        np.testing.assert_array_equal(_answer(loaded, pixels), answer)
        features = _answer(embedding, pixels)
        assert features.ndim == 2
        last = model.get_layer("probabilities")
        np.testing.assert_allclose(np.asarray(last(features)), answer, atol=1e-5)
    fixed = MODELS[name]((47, 70, 3), 5)
    fixed.set_weights(model.get_weights())
    np.testing.assert_allclose(_answer(fixed, pixels), answer, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_tiny_set_is_memorised_and_every_weight_learns(name: str) -> None:
    keras.utils.set_random_seed(0)
    model = MODELS[name](ANY_SIZE, 2, width=8, dropout=0.0)
    pixels = _pixels(16, 32, 32, 3)
    classes = np.arange(16) % 2
    pixels[classes == 1] = pixels[classes == 1] // 32 * 32
    before = [weight.numpy() for weight in model.trainable_weights]
    # Down to zero, so that the running statistics of the batches come to fit the weights.
    rate = keras.optimizers.schedules.CosineDecay(5e-3, 40)
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(rate), loss, jit_compile=False)
    for _ in range(80):
        model.train_on_batch(pixels, classes)
    np.testing.assert_array_equal(_answer(model, pixels).argmax(axis=1), classes)
    # Adam moves a weight that has any gradient, and only those.
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert np.any(weight.numpy() != old), weight.path


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("shape", "classes"),
    [((31, 31, 3), 2), ((None, 31, 3), 2), ((None, None, 1), 2), ((32, 32, 3), 1)],
)
def test_builders_refuse_what_cannot_work(
    name: str, shape: tuple[int | None, int | None, int], classes: int
) -> None:
    with pytest.raises(ValueError, match="Received"):
        MODELS[name](shape, classes)


# High-pass residuals.


def test_residuals_are_high_pass_and_grid_free() -> None:
    kernel = residual_kernel()
    np.testing.assert_allclose(kernel.sum(axis=(0, 1)), 0, atol=1e-6)
    layer = HighPassResiduals()
    flat = np.full((1, 40, 40, 3), 77, np.uint8)
    np.testing.assert_allclose(np.asarray(layer(flat)), 0, atol=1e-5)
    assert tuple(layer(flat).shape) == layer.compute_output_shape(flat.shape) == (1, 36, 36, 36)
    noise = _pixels(1, 40, 40, 3)
    moved = np.asarray(layer(noise[:, 1:, 3:]))
    np.testing.assert_allclose(moved, np.asarray(layer(noise))[:, 1:, 3:], atol=1e-5)
    # First channel: horizontal difference of Y at tanh(r / 4).
    luma = noise[0].astype(float) @ [0.299, 0.587, 0.114]
    expected = np.tanh((luma[2:-2, 2:-2] - luma[2:-2, 1:-3]) / 4)
    np.testing.assert_allclose(np.asarray(layer(noise))[0, ..., 0], expected, atol=1e-3)
    with pytest.raises(ValueError, match="RGB"):
        layer.build((None, 40, 40, 1))


# Histograms.


@pytest.mark.parametrize("block", [4, 8])
def test_block_kernels_are_the_orthonormal_dct(block: int) -> None:
    kernels = dct_kernels(block, range(1, block**2))
    picture = np.random.default_rng(0).normal(0, 40, (block, block))
    coefficients = np.einsum("hw,hwk->k", picture, kernels[:, :, 0])
    transform = dctn(picture, norm="ortho")
    np.testing.assert_allclose(sorted(coefficients), sorted(transform.ravel()[1:]), atol=1e-3)
    # The zigzag of ITU-T T.81 starts so.
    expected = [transform[at] for at in ((0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3))]
    np.testing.assert_allclose(coefficients[:6], expected, atol=1e-3)


@pytest.mark.parametrize(("wavelet", "moments"), [("5/3", 2), ("9/7", 4)])
def test_wavelet_kernels(wavelet: str, moments: int) -> None:
    """Unit norm, symmetric, and as many vanishing moments as the wavelet is known for."""
    for level in (1, 2, 3):
        low, high = wavelet_kernels(wavelet, level)
        place = np.arange(len(high)) - len(high) // 2
        for moment in range(moments):
            assert abs(np.sum(high * place**moment)) < 1e-5 * len(high) ** moment
        assert abs(np.sum(high * place**moments)) > 0.1
        for kernel in (low, high):
            assert np.sum(kernel**2) == pytest.approx(1, abs=1e-5)
            np.testing.assert_array_equal(kernel, kernel[::-1])
        assert low.sum() > 1


def test_phase_histograms_by_slices() -> None:
    values = np.random.default_rng(0).normal(0, 6, (2, 22, 17, 3)).astype(np.float32)
    found = np.asarray(phase_histograms(values, 4)).reshape(2, 4, 4, len(HISTOGRAM_WIDTHS), 3)
    for y in range(4):
        for x in range(4):
            samples = np.abs(values[:, :20, :16][:, y::4, x::4])
            for place, limit in enumerate(HISTOGRAM_WIDTHS):
                expected = np.maximum(0, 1 - samples / limit).mean(axis=(1, 2))
                np.testing.assert_allclose(found[:, y, x, place], expected, atol=1e-5)


def test_phase_combs_by_slices() -> None:
    values = np.random.default_rng(0).normal(0, 6, (2, 22, 17, 3)).astype(np.float32)
    found = np.asarray(phase_combs(values, 4)).reshape(2, 4, 4, -1, 3)
    steps = [step for row in COMB_STEPS for step in row]
    assert found.shape[3] == len(steps)
    for y in range(4):
        for x in range(4):
            samples = values[:, :20, :16][:, y::4, x::4]
            for place, step in enumerate(steps):
                expected = np.cos(2 * np.pi * samples / step).mean(axis=(1, 2))
                np.testing.assert_allclose(found[:, y, x, place], expected, atol=1e-4)


def test_combs_name_the_quantiser_at_the_phase_of_the_grid() -> None:
    """Every AC coefficient a multiple of 10: steps 10, 5, 2 and 1 fit, at one phase only."""
    spectra = 10.0 * np.random.default_rng(0).integers(-3, 4, (9, 9, 8, 8))
    spectra[..., 0, 0] = 1024
    blocks = idctn(spectra, axes=(2, 3), norm="ortho")
    gray = blocks.swapaxes(1, 2).reshape(72, 72)
    picture = gray[None, 3:67, 5:69, None].repeat(3, axis=3).astype(np.float32)
    phases = np.asarray(BlockHistograms(8, luma=4, chroma=1, combs=4)(picture))[0]
    combs = phases[:, -40:].reshape(64, 10, 4).mean(axis=2)  # the mean over the frequencies
    by_step = dict(zip([step for row in COMB_STEPS for step in row], combs.T, strict=True))
    for step, votes in by_step.items():
        if 10 % step == 0:
            assert votes.argmax() == 5 * 8 + 3
            # Whole gray levels: noise of variance 1/12, whose characteristic function this is.
            kept = np.exp(-(2 * np.pi**2) / (12 * step**2))
            assert votes.max() == pytest.approx(kept, abs=0.03)
            assert np.sort(votes)[-2] < 0.6 * kept
        else:
            assert votes.max() < 0.6


def test_spread_frequencies() -> None:
    for block in (2, 4, 8):
        for count in range(1, block**2):
            places = spread_frequencies(block, count)
            assert len(set(places)) == len(places) == count
            assert places == sorted(places)
            assert (places[0], max(places) < block**2) == (1, True)
        assert places == list(range(1, block**2))


BLOCK_LAYERS = [
    BlockHistograms(8, luma=5, chroma=2),
    BlockHistograms(4, luma=15, chroma=3, combs=7),
    *(CommonStepCombs(transform) for transform in TRANSFORMS),
]
WAVELET_LAYERS = [
    WaveletHistograms("9/7", levels=2),
    WaveletHistograms("5/3", levels=1),
]
HISTOGRAM_LAYERS = [*BLOCK_LAYERS, *WAVELET_LAYERS]


@pytest.mark.parametrize("layer", HISTOGRAM_LAYERS, ids=lambda layer: layer.name)
def test_histogram_layers(layer: keras.layers.Layer) -> None:
    again = type(layer).from_config(layer.get_config())
    for side in (32, 45):
        pixels = _pixels(2, side, side, 3)
        features = np.asarray(layer(pixels))
        assert features.shape == layer.compute_output_shape(pixels.shape)
        has_combs = isinstance(layer, CommonStepCombs) or getattr(layer, "combs", 0)
        assert features.min() >= (-1 if has_combs else 0)
        assert features.max() <= 1
        np.testing.assert_array_equal(np.asarray(again(pixels)), features)
    assert not layer.weights
    with pytest.raises(ValueError, match="RGB"):
        layer.build((None, 40, 40, 1))


@pytest.mark.parametrize("layer", HISTOGRAM_LAYERS, ids=lambda layer: layer.name)
def test_a_shift_of_the_grid_changes_no_summary(layer: keras.layers.Layer) -> None:
    """Every crop of a picture that repeats every 4 pixels has the same blocks in another order."""
    repeated = np.tile(_pixels(1, 4, 4, 3), (1, 20, 20, 1))
    summary = PhaseSummary() if layer in BLOCK_LAYERS else np.asarray
    whole = np.asarray(summary(layer(repeated[:, :64, :64])))
    for top, left in ((0, 1), (3, 0), (5, 6)):
        moved = np.asarray(summary(layer(repeated[:, top : top + 64, left : left + 64])))
        np.testing.assert_allclose(moved, whole, atol=1e-4)


def test_quantised_blocks_show_at_their_phase_only() -> None:
    """Blocks of a constant colour: all AC coefficients are zero at one phase, not at the others."""
    blocks = _pixels(1, 9, 9, 3).repeat(8, axis=1).repeat(8, axis=2)
    layer = BlockHistograms(8, luma=3, chroma=1)
    summary = PhaseSummary()(layer(blocks[:, 3:67, 5:69]))
    mean, _, most, _ = np.split(np.asarray(summary)[0], 4)
    np.testing.assert_allclose(most, 1, atol=1e-3)
    assert mean[:3].max() < 0.5


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (BlockHistograms, {"block": 1}),
        (BlockHistograms, {"block": 4, "luma": 16}),
        (BlockHistograms, {"luma": 4, "combs": 5}),
        (CommonStepCombs, {"transform": "dct_16"}),
        (WaveletHistograms, {"wavelet": "haar"}),
        (WaveletHistograms, {"levels": 0}),
    ],
)
def test_histogram_layers_refuse_what_cannot_work(layer: type, options: dict) -> None:
    with pytest.raises(ValueError, match="Received"):
        layer(**options)


# Pooling.


def test_a_rise_at_all_phases_is_no_contrast() -> None:
    phases = np.random.default_rng(0).normal(0, 1, (2, 16, 5)).astype(np.float32)
    contrast = np.asarray(PhaseContrast()(phases))
    np.testing.assert_allclose(contrast.mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(np.asarray(PhaseContrast()(phases + 3)), contrast, atol=1e-5)
    np.testing.assert_allclose(np.diff(contrast, axis=1), np.diff(phases, axis=1), atol=1e-5)


def test_statistics_pooling() -> None:
    values = np.random.default_rng(0).normal(3, 2, (2, 9, 7, 4)).astype(np.float32)
    expected = np.concatenate([values.mean((1, 2)), values.std((1, 2))], axis=-1)
    np.testing.assert_allclose(np.asarray(StatisticsPooling()(values)), expected, atol=1e-4)


def test_attention_pooling_by_the_formula() -> None:
    keras.utils.set_random_seed(0)
    layer = AttentionPooling(4)
    features = np.random.default_rng(0).normal(0, 1, (2, 6, 3)).astype(np.float32)
    mask = np.array([[1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 0, 0]], np.float32)
    pooled = np.asarray(layer(features, mask))
    v, v_bias, u, u_bias, w = (weight.numpy() for weight in layer.weights)
    for bag in range(2):
        chosen = features[bag][mask[bag] > 0]
        gate = 1 / (1 + np.exp(-(chosen @ u + u_bias)))
        scores = np.exp((np.tanh(chosen @ v + v_bias) * gate) @ w)
        np.testing.assert_allclose(pooled[bag], (scores / scores.sum() * chosen).sum(0), atol=1e-5)


def test_bags_of_patches(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    patch_model = build_residual(ANY_SIZE, 3, width=4)
    before = patch_model.get_weights()
    model = bag_model(patch_model, units=4)
    patches = _pixels(2, 4, 32, 32, 3)
    patches[1] //= 32
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], np.float32)
    answer = np.asarray(model({"patches": patches, "mask": mask}))
    assert answer.shape == (2, 3)
    np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)
    order = [2, 0, 3, 1]
    permuted = {"patches": patches[:, order], "mask": mask[:, order]}
    np.testing.assert_allclose(np.asarray(model(permuted)), answer, atol=1e-5)
    shorter = {"patches": patches[1:, :2], "mask": mask[1:, :2]}
    np.testing.assert_allclose(np.asarray(model(shorter)), answer[1:], atol=1e-5)
    larger = model({"patches": _pixels(1, 3, 40, 36, 3), "mask": np.ones((1, 3))})
    assert larger.shape == (1, 3)
    model.save(tmp_path / "bag.keras")
    loaded = keras.saving.load_model(tmp_path / "bag.keras", safe_mode=True, compile=False)
    same = loaded({"patches": patches, "mask": mask})
    np.testing.assert_allclose(np.asarray(same), answer, atol=1e-6)
    # Only the attention and the last layer learn, and the network that was given stays as it was.
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(0.05), loss, jit_compile=False)
    for _ in range(20):
        model.train_on_batch({"patches": patches, "mask": mask}, np.array([0, 2]))
    answer = np.asarray(model({"patches": patches, "mask": mask}))
    np.testing.assert_array_equal(answer.argmax(axis=1), [0, 2])
    for mine, other in zip(patch_model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert all(layer.trainable for layer in patch_model.layers)
