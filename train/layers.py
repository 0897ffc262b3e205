"""Keras layers of the classifier: fixed front ends, and pooling over pixels, phases and patches.

What a codec leaves behind is tiny beside what the picture shows. A network fed raw pixels spends
its first epochs on content; fed with truncated high-pass residuals it starts from the traces.
Same idea as the spatial rich model (Fridrich and Kodovský, IEEE TIFS 2012), whose 3×3 and 5×5
kernels are used here. Quantisation itself shows in the histograms of transform coefficients: of
block DCTs and wavelets, at each phase of the grid that the codec may have used.

A new layer is one class here with `keras.saving.register_keras_serializable`; it takes patches of
any size, and uses `keras.ops` that ONNX has too (no FFT).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from imagecompression.evidence.dct import dct_basis

PACKAGE = "imagecompression"
"""Name under which the layers are registered for `keras.saving`."""

TRUNCATIONS = (4.0, 24.0)
"""Residual sizes, in gray levels, at which `tanh(r / t)` saturates: fine traces and coarse."""

HISTOGRAM_WIDTHS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Half widths of the histogram bins around zero, in gray levels of an orthonormal transform."""

COMB_STEPS = ((8, 4, 2, 1), (12, 6, 3), (10, 5), (7,))
"""Quantiser steps whose combs are looked for, in gray levels; in a row each is half of the one
before, so that one cosine gives them all. All steps of JPEG are multiples of 1."""

RGB_TO_YCBCR = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.168736, -0.331264, 0.5],
        [0.5, -0.418688, -0.081312],
    ]
)  # ITU-R BT.601 full range, rows Y, Cb, Cr; no kernel here sees the +128 of the chroma planes


def _centred(rows: list[list[float]], divisor: float = 1.0) -> npt.NDArray[np.float64]:
    """The kernel in the middle of a 5×5 array of zeros, divided by `divisor`."""
    kernel = np.array(rows, dtype=np.float64) / divisor
    height, width = kernel.shape
    square = np.zeros((5, 5))
    top, left = (5 - height) // 2, (5 - width) // 2
    square[top : top + height, left : left + width] = kernel
    return square


_KERNELS = (
    _centred([[-1, 1]]),
    _centred([[-1], [1]]),
    _centred([[1, -2, 1]], 2),
    _centred([[1], [-2], [1]], 2),
    _centred([[-1, 2, -1], [2, -4, 2], [-1, 2, -1]], 4),
    _centred(
        [
            [-1, 2, -2, 2, -1],
            [2, -6, 8, -6, 2],
            [-2, 8, -12, 8, -2],
            [2, -6, 8, -6, 2],
            [-1, 2, -2, 2, -1],
        ],
        12,
    ),
)  # first and second differences across and down, then the SRM kernels KB and KV


def residual_kernel() -> npt.NDArray[np.float32]:
    """Convolution kernel `(5, 5, 3, 18)`: RGB to the residuals of Y, then Cb, then Cr.

    The colour transform and the high-pass kernels are both linear, so one convolution does both.
    """
    kernels = np.stack(_KERNELS, axis=-1)  # (5, 5, 6)
    both = np.einsum("hwk,pc->hwcpk", kernels, RGB_TO_YCBCR)  # (5, 5, rgb, ycbcr, 6)
    return both.reshape(5, 5, 3, -1).astype(np.float32)


@keras.saving.register_keras_serializable(package=PACKAGE)
class HighPassResiduals(keras.layers.Layer):
    """Truncated high-pass residuals of Y, Cb and Cr. Fixed: nothing here is trained.

    Input: `(B, H, W, 3)` RGB in 0 … 255, any numeric dtype. Output: `(B, H - 4, W - 4, 36)` floats
    in -1 … 1: six kernels on three planes, through `tanh(r / 4)` and then `tanh(r / 24)`. The two
    border pixels are cropped, because any padding would put edges there that no codec made.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._kernel: Any = None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the constant kernel; `input_shape` must end in 3 channels."""
        if input_shape[-1] != 3:
            raise ValueError(f"HighPassResiduals needs RGB input. Received: shape={input_shape}")
        # A constant, not a weight: it is not saved and no checkpoint can change it.
        self._kernel = residual_kernel()

    def call(self, inputs: Any) -> Any:
        """Residuals of `inputs`; see the class."""
        pixels = keras.ops.cast(inputs, self.compute_dtype)
        kernel = keras.ops.cast(self._kernel, self.compute_dtype)
        residuals = keras.ops.conv(pixels, kernel, strides=1, padding="valid")
        return keras.ops.concatenate(
            [keras.ops.tanh(residuals / limit) for limit in TRUNCATIONS], axis=-1
        )

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Two pixels less on every side, 36 channels."""
        batch, height, width, _ = input_shape
        return (
            batch,
            None if height is None else height - 4,
            None if width is None else width - 4,
            3 * len(_KERNELS) * len(TRUNCATIONS),
        )


@keras.saving.register_keras_serializable(package=PACKAGE)
class StatisticsPooling(keras.layers.Layer):
    """Mean and standard deviation of every channel over the picture: `(B, H, W, C)` → `(B, 2C)`.

    Both are independent of position and, unlike a maximum, of the patch size.
    """

    def call(self, inputs: Any) -> Any:
        """Means, then standard deviations."""
        mean, variance = keras.ops.moments(inputs, axes=[1, 2])
        # The small constant keeps the gradient of the root finite for a constant channel.
        return keras.ops.concatenate([mean, keras.ops.sqrt(variance + 1e-5)], axis=-1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """`(B, 2C)`."""
        channels = input_shape[-1]
        return (input_shape[0], None if channels is None else 2 * channels)


def spread_frequencies(block: int, count: int) -> list[int]:
    """`count` of the AC frequencies of a block, as places in the zigzag order, from 1.

    The first half are the lowest, which carry most of the picture; the others are spread evenly up
    to the highest, where mild quantisation still leaves zeros.

    >>> spread_frequencies(8, 8)
    [1, 2, 3, 4, 19, 34, 48, 63]
    """
    low = (count + 1) // 2
    high = np.linspace(low, block**2 - 1, count - low + 1).round().astype(int)[1:]
    return [*range(1, low + 1), *high.tolist()]


def dct_kernels(block: int, frequencies: Sequence[int]) -> npt.NDArray[np.float32]:
    """AC basis pictures of the orthonormal DCT-II, `(block, block, 1, len(frequencies))`.

    Frequencies are places in the zigzag order (ITU-T T.81, figure 5), from 1, the lowest across.

    >>> dct_kernels(8, [1, 2])[0, :, 0, :].std(axis=0).round(3).tolist()  # first across, then down
    [0.125, 0.0]
    """
    basis = dct_basis(block)
    order = sorted(
        ((v, u) for v in range(block) for u in range(block)),
        key=lambda at: (sum(at), at[0] if sum(at) % 2 else -at[0]),
    )
    pictures = [np.outer(basis[v], basis[u]) for v, u in (order[at] for at in frequencies)]
    return np.stack(pictures, axis=-1)[:, :, None].astype(np.float32)


_WAVELETS: dict[str, tuple[list[float], list[float]]] = {
    "5/3": ([3 / 4, 1 / 4, -1 / 8], [1.0, -1 / 2]),
    "9/7": (
        [0.602949018236, 0.266864118443, -0.078223266529, -0.016864118443, 0.026748757411],
        [1.115087052457, -0.591271763114, -0.057543526229, 0.091271763114],
    ),
}  # right halves of the symmetric low-pass and high-pass filters of ITU-T T.800, annex F


def wavelet_kernels(
    wavelet: str, level: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Low-pass and high-pass of one level of the analysis, both `(K,)` and of Euclidean norm 1.

    They go from the unsubsampled low-pass band of the level before, so their taps are `2^(l-1)`
    pixels apart. K is `(n - 1)·2^(l-1) + 1`, with n = 5 for the 5/3 and 9 for the 9/7 wavelet.

    >>> [round(float(tap), 3) for tap in wavelet_kernels("5/3", 1)[1]]  # centred in five taps
    [0.0, -0.408, 0.816, -0.408, 0.0]
    """
    low, high = (np.array(half[:0:-1] + half, dtype=np.float64) for half in _WAVELETS[wavelet])
    high = np.pad(high, (len(low) - len(high)) // 2)
    apart = np.zeros((2, ((len(low) - 1) << (level - 1)) + 1))
    apart[:, :: 1 << (level - 1)] = low / np.linalg.norm(low), high / np.linalg.norm(high)
    return apart[0].astype(np.float32), apart[1].astype(np.float32)


def phase_histograms(coefficients: Any, period: int) -> Any:
    """Soft histograms of each channel at each phase: `(B, H, W, C)` → `(B, period², 5·C)`.

    The bins are hats `max(0, 1 − |c| / t)` around zero, t in `HISTOGRAM_WIDTHS`: piecewise linear
    and so differentiable (learnable histograms: Wang et al., ECCV 2016), and any histogram of
    magnitudes over those edges is a linear map of them. H and W are at least `period`; what is
    over whole periods is left out, so that each phase has as many samples as the others.
    """
    sizes = keras.ops.abs(whole_periods(coefficients, period))
    # max(0, 1 - |c|/t) = 1 - min(|c|, t)/t; one pass over the coefficients instead of three.
    return keras.ops.concatenate(
        [
            1 - phase_means(keras.ops.minimum(sizes, limit), period) / limit
            for limit in HISTOGRAM_WIDTHS
        ],
        axis=-1,
    )


def phase_combs(coefficients: Any, period: int) -> Any:
    """How much each channel keeps to multiples of a step: `(B, H, W, C)` → `(B, period², n·C)`.

    The mean of `cos(2πc / q)` over the samples of a phase, for the n steps q in `COMB_STEPS`: 1
    where every coefficient is a multiple of q, near 0 where they are spread. This is the
    characteristic function at the quantiser's frequency (Fu, Shi and Su 2007 look for the same
    comb in the histogram itself).
    """
    coefficients = whole_periods(coefficients, period)
    means = []
    for steps in COMB_STEPS:
        angles = coefficients * (2 * np.pi / steps[0])
        means += doubled_cosine_means(angles, len(steps), period)
    return keras.ops.concatenate(means, axis=-1)


def doubled_cosine_means(angles: Any, count: int, period: int) -> list[Any]:
    """`phase_means` of `cos x`, `cos 2x`, `cos 4x`, …: combs of a step, half of it, a quarter, …

    `cos 2x = 2 cos² x − 1`, but numbers are multiplied and added after the mean of many is taken.
    """
    values, scale = keras.ops.cos(angles), 1.0  # values·scale is the cosine
    means = [phase_means(values, period)]
    while len(means) < count:
        values, scale = values * values, 2 * scale * scale
        means.append(scale * phase_means(values, period) - 1)
        if len(means) < count:
            values = values - 1 / scale
    return means


def whole_periods(values: Any, period: int) -> Any:
    """`(B, H, W, C)` without the rows and columns that are over."""
    _, height, width, _ = keras.ops.shape(values)
    return values[:, : height // period * period, : width // period * period]


def phase_means(values: Any, period: int) -> Any:
    """Means over the samples of each phase: `(B, H, W, C)` → `(B, period², C)`.

    H and W must be multiples of `period`, see `whole_periods`.
    """
    _, height, width, channels = keras.ops.shape(values)
    rows, columns = height // period, width // period
    values = keras.ops.reshape(values, (-1, rows, period * columns * period * channels))
    down = keras.ops.mean(values, axis=1)
    down = keras.ops.reshape(down, (-1, period, columns, period * channels))
    return keras.ops.reshape(keras.ops.mean(down, axis=2), (-1, period * period, channels))


def phase_summary(phases: Any) -> Any:
    """Mean, standard deviation, maximum and minimum over the phases: `(B, n, F)` → `(B, 4·F)`.

    Cropping or shifting a picture permutes the phases of its grid, which changes none of the four.
    """
    mean, variance = keras.ops.moments(phases, axes=[1])
    return keras.ops.concatenate(
        [
            mean,
            keras.ops.sqrt(variance + 1e-7),
            keras.ops.max(phases, axis=1),
            keras.ops.min(phases, axis=1),
        ],
        axis=-1,
    )


def _ycbcr(inputs: Any, dtype: str) -> Any:
    """Planes Y, Cb, Cr `(B, H, W, 3)` of RGB pixels, chroma around zero."""
    pixels = keras.ops.cast(inputs, dtype)
    return keras.ops.matmul(pixels, keras.ops.cast(RGB_TO_YCBCR.T, dtype))


def convolved(features: Any, kernel: npt.NDArray[np.float32], dtype: str) -> Any:
    """`features` `(B, H, W, C)` under a fixed kernel `(K, K, C, D)`, without padding."""
    # Kernels are constants, not weights: they are not saved and no checkpoint can change them.
    return keras.ops.conv(features, keras.ops.cast(kernel, dtype), strides=1, padding="valid")


@keras.saving.register_keras_serializable(package=PACKAGE)
class BlockHistograms(keras.layers.Layer):
    """Soft histograms and combs of block-DCT coefficients, at each phase of the block grid.

    A block codec quantises the coefficients of blocks on one grid: there many are zero, or keep to
    multiples of a step; at other phases few (Park et al., ECCV 2018, feed such histograms to a
    network, for JPEG's known grid). The DCT is taken at every pixel, so the grid may start
    anywhere.

    Input: `(B, H, W, 3)` RGB in 0 … 255, H and W at least `2·block − 1`. Output:
    `(B, block², F)` floats, F = 5·(luma + 2·chroma) + 10·combs: `phase_histograms` of all
    frequencies, then `phase_combs` of the first of Y. Fixed: nothing here is trained.

    Args:
        block: Side of the blocks and period of the grid.
        luma: Number of AC frequencies of Y: `spread_frequencies`.
        chroma: Number of the lowest AC frequencies of each of Cb and Cr.
        combs: The first so many frequencies of Y are looked at for combs.
    """

    def __init__(
        self, block: int = 8, luma: int = 20, chroma: int = 6, combs: int = 0, **kwargs: Any
    ) -> None:
        most = block**2 - 1
        if not (block >= 2 and 1 <= luma <= most and 1 <= chroma <= most and 0 <= combs <= luma):
            raise ValueError(
                "block must be at least 2, luma and chroma from 1 to block² - 1, combs from 0 to "
                f"luma. Received: block={block}, luma={luma}, chroma={chroma}, combs={combs}"
            )
        self.block, self.luma, self.chroma, self.combs = block, luma, chroma, combs
        super().__init__(**kwargs)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Refuse what has not 3 channels."""
        require_rgb(self, input_shape)

    def call(self, inputs: Any) -> Any:
        """Features of every phase; see the class."""
        planes = _ycbcr(inputs, self.compute_dtype)
        parts = (rounded_luma(planes[..., :1]), planes[..., 1:2], planes[..., 2:])
        chroma = list(range(1, self.chroma + 1))
        frequencies = (spread_frequencies(self.block, self.luma), chroma, chroma)
        luma, *others = (
            convolved(plane, dct_kernels(self.block, places), self.compute_dtype)
            for plane, places in zip(parts, frequencies, strict=True)
        )
        found = [phase_histograms(keras.ops.concatenate([luma, *others], axis=-1), self.block)]
        if self.combs:
            found.append(phase_combs(luma[..., : self.combs], self.block))
        return keras.ops.concatenate(found, axis=-1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """`(B, block², F)`."""
        histograms = len(HISTOGRAM_WIDTHS) * (self.luma + 2 * self.chroma)
        combs = sum(len(steps) for steps in COMB_STEPS) * self.combs
        return input_shape[0], self.block**2, histograms + combs

    def get_config(self) -> dict[str, Any]:
        """Arguments that make the layer anew."""
        names = ("block", "luma", "chroma", "combs")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def rounded_luma(luma: Any) -> Any:
    """Luma of RGB in whole numbers, as a decoder had it before it made RGB."""
    # Luma is a multiple of .001. Halves go up for certain: which way floats of another runtime
    # would round them is chance.
    return keras.ops.floor(luma + 0.5005)


def require_rgb(layer: keras.layers.Layer, input_shape: tuple[int | None, ...]) -> None:
    """Raise `ValueError` unless the last axis has 3 channels."""
    if input_shape[-1] != 3:
        raise ValueError(f"{type(layer).__name__} needs RGB input. Received: {input_shape}")


@keras.saving.register_keras_serializable(package=PACKAGE)
class PhaseSummary(keras.layers.Layer):
    """`phase_summary` as a layer: `(B, n, F)` → `(B, 4·F)`, each feature on its own."""

    def call(self, phases: Any) -> Any:
        """Mean, standard deviation, maximum and minimum over the phases."""
        return phase_summary(phases)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """`(B, 4·F)`."""
        features = input_shape[-1]
        return input_shape[0], None if features is None else 4 * features


@keras.saving.register_keras_serializable(package=PACKAGE)
class PhaseContrast(keras.layers.Layer):
    """What each phase has more than the mean of all: `(B, n, F)` → `(B, n, F)`.

    A picture's content raises a feature at all phases alike; a block grid at one.
    """

    def call(self, phases: Any) -> Any:
        """The differences; see the class."""
        return phases - keras.ops.mean(phases, axis=1, keepdims=True)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """As the input."""
        return input_shape


@keras.saving.register_keras_serializable(package=PACKAGE)
class WaveletHistograms(keras.layers.Layer):
    """Soft histograms of wavelet coefficients, summed up over the phases of the subsampling.

    JPEG 2000 quantises the bands of a 5/3 or 9/7 analysis; at the phase at which it subsampled
    them they are zero more often. The analysis here keeps all phases, `4^l` at level l.

    Input: `(B, H, W, 3)` RGB in 0 … 255, H and W at least 9·2^levels − 8. Output: `(B, F)` floats,
    F = 180·levels: mean, standard deviation, maximum and minimum over the phases of five bins for
    each band of Y, Cb and Cr. Fixed: nothing here is trained.

    Args:
        wavelet: "5/3" or "9/7".
        levels: Levels of the analysis; 2 at most for patches of 32 pixels.
    """

    def __init__(self, wavelet: str = "9/7", levels: int = 2, **kwargs: Any) -> None:
        if wavelet not in _WAVELETS or levels < 1:
            raise ValueError(
                f"wavelet must be one of {', '.join(_WAVELETS)}, and levels at least 1. "
                f"Received: wavelet={wavelet!r}, levels={levels}"
            )
        self.wavelet, self.levels = wavelet, levels
        super().__init__(**kwargs)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Refuse what has not 3 channels."""
        require_rgb(self, input_shape)

    def call(self, inputs: Any) -> Any:
        """Summaries of all levels, one after the other; see the class."""
        dtype = self.compute_dtype
        planes = _ycbcr(inputs, dtype)
        smooth = [planes[..., plane : plane + 1] for plane in range(3)]
        found = []
        for level in range(1, self.levels + 1):
            low, high = wavelet_kernels(self.wavelet, level)
            across = np.stack([low, high], axis=-1)[None, :, None]
            down = np.zeros((len(low), 1, 2, 4), np.float32)  # to LL, LH, HL, HH
            down[:, 0, 0, 0], down[:, 0, 0, 1] = low, high
            down[:, 0, 1, 2], down[:, 0, 1, 3] = low, high
            bands = [convolved(convolved(plane, across, dtype), down, dtype) for plane in smooth]
            smooth = [band[..., :1] for band in bands]
            details = keras.ops.concatenate([band[..., 1:] for band in bands], axis=-1)
            found.append(phase_summary(phase_histograms(details, 2**level)))
        return keras.ops.concatenate(found, axis=-1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """`(B, F)`."""
        return input_shape[0], 180 * self.levels

    def get_config(self) -> dict[str, Any]:
        """Arguments that make the layer anew."""
        return {**super().get_config(), "wavelet": self.wavelet, "levels": self.levels}


@keras.saving.register_keras_serializable(package=PACKAGE)
class EachPatch(keras.layers.Wrapper):
    """A network applied to each patch of a bag: `(B, N, P, P, 3)` → `(B, N, F)`.

    Unlike `keras.layers.TimeDistributed` all patches go through the network in one batch, and B, N
    and P may be unknown.
    """

    def build(self, input_shape: tuple[int | None, ...] | None = None) -> None:
        """Nothing to make: the network comes built."""
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Answers of the network `(B·N, F)`, as bags."""
        bags, patches, *rest = keras.ops.shape(inputs)
        answers = self.layer(keras.ops.reshape(inputs, (-1, *rest)), training=training)
        return keras.ops.reshape(answers, (bags, patches, answers.shape[-1]))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """`(B, N, F)`."""
        return (*input_shape[:2], self.layer.output_shape[-1])


@keras.saving.register_keras_serializable(package=PACKAGE)
class AttentionPooling(keras.layers.Layer):
    """Gated attention over the patches of an image (Ilse, Tomczak and Welling, ICML 2018).

    Inputs: features `(B, N, F)` and `present` `(B, N)`, nonzero where there is a patch, with at
    least one patch in each bag. Output: `(B, F)`, the mean of the features weighted by
    `softmax(w · (tanh(V h) ⊙ sigmoid(U h)))` over the patches. Neither the order of the patches
    nor what stands where the mask is zero changes it.

    Args:
        units: Rows of V and U.
    """

    def __init__(self, units: int = 32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self._content = keras.layers.Dense(units, activation="tanh", name="content")
        self._gate = keras.layers.Dense(units, activation="sigmoid", name="gate")
        self._score = keras.layers.Dense(1, use_bias=False, name="score")

    def build(
        self, features_shape: Sequence[int | None], present_shape: Sequence[int | None]
    ) -> None:
        """Make V, U and w."""
        self._content.build(features_shape)
        self._gate.build(features_shape)
        self._score.build((*features_shape[:-1], self.units))

    def call(self, features: Any, present: Any) -> Any:
        """The weighted mean; see the class."""
        scores = self._score(self._content(features) * self._gate(features))[..., 0]
        # -1e9 and not -inf, whose differences are NaN; a masked patch' weight is exactly zero.
        scores = keras.ops.where(keras.ops.cast(present, "bool"), scores, -1e9)
        weights = keras.ops.softmax(scores, axis=-1)
        return keras.ops.sum(weights[..., None] * features, axis=1)

    def compute_output_shape(
        self, features_shape: Sequence[int | None], present_shape: Sequence[int | None]
    ) -> tuple[int | None, ...]:
        """`(B, F)`."""
        return features_shape[0], features_shape[-1]

    def get_config(self) -> dict[str, Any]:
        """Arguments that make the layer anew."""
        return {**super().get_config(), "units": self.units}
