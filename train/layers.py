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

PACKAGE = "imagecompression"
"""Name under which the layers are registered for `keras.saving`."""

TRUNCATIONS = (4.0, 24.0)
"""Residual sizes, in gray levels, at which `tanh(r / t)` saturates: fine traces and coarse."""

HISTOGRAM_WIDTHS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Half widths of the histogram bins around zero, in gray levels of an orthonormal transform."""

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


def dct_kernels(block: int, count: int) -> npt.NDArray[np.float32]:
    """The first `count` AC basis pictures of the orthonormal DCT-II, `(block, block, 1, count)`.

    In zigzag order (ITU-T T.81, figure 5), which starts at the lowest frequencies.

    >>> dct_kernels(8, 2)[0, :, 0, :].std(axis=0).round(3).tolist()  # first across, then down
    [0.125, 0.0]
    """
    place = np.arange(block)
    basis = np.sqrt(2 / block) * np.cos(np.pi * (2 * place + 1) * place[:, None] / (2 * block))
    basis[0] /= np.sqrt(2)
    order = sorted(
        ((v, u) for v in range(block) for u in range(block)),
        key=lambda at: (sum(at), at[0] if sum(at) % 2 else -at[0]),
    )
    pictures = [np.outer(basis[v], basis[u]) for v, u in order[1 : count + 1]]
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
    _, height, width, channels = keras.ops.shape(coefficients)
    rows, columns = height // period, width // period
    sizes = keras.ops.abs(coefficients[:, : rows * period, : columns * period])
    means = []
    for limit in HISTOGRAM_WIDTHS:
        # max(0, 1 - |c|/t) = 1 - min(|c|, t)/t; one pass over the coefficients instead of three.
        clipped = keras.ops.minimum(sizes, limit)
        clipped = keras.ops.reshape(clipped, (-1, rows, period * columns * period * channels))
        down = keras.ops.mean(clipped, axis=1)
        down = keras.ops.reshape(down, (-1, period, columns, period * channels))
        across = keras.ops.mean(down, axis=2)
        means.append(1 - keras.ops.reshape(across, (-1, period * period, channels)) / limit)
    return keras.ops.concatenate(means, axis=-1)


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


class _PhaseHistograms(keras.layers.Layer):
    """What the histogram layers share. A subclass answers `_banks` and `_channels`."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Refuse what has not 3 channels."""
        if input_shape[-1] != 3:
            raise ValueError(f"{type(self).__name__} needs RGB input. Received: {input_shape}")

    def call(self, inputs: Any) -> Any:
        """Summaries of all banks, one after the other; see the class."""
        pixels = keras.ops.cast(inputs, self.compute_dtype)
        matrix = keras.ops.cast(RGB_TO_YCBCR.T, self.compute_dtype)
        summaries = [
            phase_summary(phase_histograms(coefficients, period))
            for coefficients, period in self._banks(keras.ops.matmul(pixels, matrix))
        ]
        return keras.ops.concatenate(summaries, axis=-1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, int]:
        """`(B, F)`; F depends on the layer's parameters alone."""
        return input_shape[0], 4 * len(HISTOGRAM_WIDTHS) * self._channels()

    def _banks(self, planes: Any) -> list[tuple[Any, int]]:
        """Coefficients `(B, H', W', C)` of the planes `(B, H, W, 3)`, and their grid's period."""
        raise NotImplementedError

    def _channels(self) -> int:
        """Sum of C over the banks."""
        raise NotImplementedError

    def _convolved(self, features: Any, kernel: npt.NDArray[np.float32]) -> Any:
        # Kernels are constants, not weights: they are not saved and no checkpoint can change them.
        kernel = keras.ops.cast(kernel, self.compute_dtype)
        return keras.ops.conv(features, kernel, strides=1, padding="valid")


@keras.saving.register_keras_serializable(package=PACKAGE)
class BlockHistograms(_PhaseHistograms):
    """Soft histograms of block-DCT coefficients, summed up over the phases of the block grid.

    A block codec quantises the coefficients of blocks on one grid: there many are zero, at other
    phases few (Park et al., ECCV 2018, feed such histograms to a network, for JPEG's known grid).
    The DCT is taken at every pixel, so the grid may start anywhere.

    Input: `(B, H, W, 3)` RGB in 0 … 255, H and W at least `2·block − 1`. Output: `(B, F)` floats,
    F = 20·(luma + 2·chroma): mean, standard deviation, maximum and minimum over `block²` phases of
    five bins for each frequency. Fixed: nothing here is trained.

    Args:
        block: Side of the blocks and period of the grid.
        luma: Number of AC frequencies of Y, the lowest first.
        chroma: The same for each of Cb and Cr.
    """

    def __init__(self, block: int = 8, luma: int = 20, chroma: int = 6, **kwargs: Any) -> None:
        if not (block >= 2 and 1 <= luma < block**2 and 1 <= chroma < block**2):
            raise ValueError(
                "block must be at least 2, luma and chroma from 1 to block² - 1. "
                f"Received: block={block}, luma={luma}, chroma={chroma}"
            )
        self.block, self.luma, self.chroma = block, luma, chroma
        super().__init__(**kwargs)

    def _banks(self, planes: Any) -> list[tuple[Any, int]]:
        counts = (self.luma, self.chroma, self.chroma)
        coefficients = [
            self._convolved(planes[..., plane : plane + 1], dct_kernels(self.block, count))
            for plane, count in enumerate(counts)
        ]
        return [(keras.ops.concatenate(coefficients, axis=-1), self.block)]

    def _channels(self) -> int:
        return self.luma + 2 * self.chroma

    def get_config(self) -> dict[str, Any]:
        """Arguments that make the layer anew."""
        own = {"block": self.block, "luma": self.luma, "chroma": self.chroma}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package=PACKAGE)
class WaveletHistograms(_PhaseHistograms):
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

    def _banks(self, planes: Any) -> list[tuple[Any, int]]:
        smooth = [planes[..., plane : plane + 1] for plane in range(3)]
        found = []
        for level in range(1, self.levels + 1):
            low, high = wavelet_kernels(self.wavelet, level)
            across = np.stack([low, high], axis=-1)[None, :, None]
            down = np.zeros((len(low), 1, 2, 4), np.float32)  # to LL, LH, HL, HH
            down[:, 0, 0, 0], down[:, 0, 0, 1] = low, high
            down[:, 0, 1, 2], down[:, 0, 1, 3] = low, high
            bands = [self._convolved(self._convolved(plane, across), down) for plane in smooth]
            smooth = [band[..., :1] for band in bands]
            details = keras.ops.concatenate([band[..., 1:] for band in bands], axis=-1)
            found.append((details, 2**level))
        return found

    def _channels(self) -> int:
        return 9 * self.levels

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
