"""Keras layers of the classifier: a fixed high-pass front end and statistics pooling.

What a codec leaves behind is tiny beside what the picture shows. A network fed raw pixels spends
its first epochs on content; fed with truncated high-pass residuals it starts from the traces.
Same idea as the spatial rich model (Fridrich and Kodovský, IEEE TIFS 2012), whose 3×3 and 5×5
kernels are used here.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

PACKAGE = "imagecompression"
"""Name under which the layers are registered for `keras.saving`."""

TRUNCATIONS = (4.0, 24.0)
"""Residual sizes, in gray levels, at which `tanh(r / t)` saturates: fine traces and coarse."""

_RGB_TO_YCBCR = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.168736, -0.331264, 0.5],
        [0.5, -0.418688, -0.081312],
    ]
)  # ITU-R BT.601 full range, rows Y, Cb, Cr; the +128 of the chroma planes is high-passed away


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
    both = np.einsum("hwk,pc->hwcpk", kernels, _RGB_TO_YCBCR)  # (5, 5, rgb, ycbcr, 6)
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
