"""A layer that looks for one quantiser step common to a whole transform: JPEG XR, HEVC, AV1.

JPEG has a step for each frequency (`train.layers.phase_combs`). Other codecs quantise all
coefficients of a transform with one step, so their combs add up over frequencies, and a comb is
found that is too weak in any one of them.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from imagecompression.evidence.dct import dct_basis
from imagecompression.evidence.lapped_comb import YCOCG_LUMA, lapped_basis
from train.layers import (
    PACKAGE,
    RGB_TO_YCBCR,
    convolved,
    doubled_cosine_means,
    require_rgb,
    rounded_luma,
    whole_periods,
)

STEPS_PER_OCTAVE = 6
"""As HEVC has them: its quantiser step doubles with every six of the parameter."""

OCTAVES = 3

LARGEST_STEP = 12.0
"""In gray levels. The smallest of the 18 steps is 1.68, where rounding to 8 bits hides a comb."""

TRANSFORMS = {"dct_8": 8, "lapped_4": 4}
"""Period of the grid of each transform, in pixels."""


def common_steps() -> npt.NDArray[np.float64]:
    """The steps looked for, `(18,)`, in gray levels, octave by octave.

    >>> common_steps()[[0, 5, 6, -1]].round(2).tolist()
    [12.0, 6.73, 6.0, 1.68]
    """
    octave = LARGEST_STEP * 2 ** (-np.arange(STEPS_PER_OCTAVE) / STEPS_PER_OCTAVE)
    return np.concatenate([octave / 2**halvings for halvings in range(OCTAVES)])


def common_kernels(transform: str) -> npt.NDArray[np.float32]:
    """The four basis pictures whose coefficients are looked at, `(K, K, 1, 4)`.

    Frequencies at a quarter and a half of the block in both directions: prediction from a border
    of the block changes those of frequency 0 in one direction, so they keep to no comb.
    """
    basis = lapped_basis() if transform == "lapped_4" else dct_basis(TRANSFORMS[transform])
    step = len(basis) // 4
    pictures = [
        np.outer(basis[down], basis[across])
        for down in (step, 2 * step)
        for across in (step, 2 * step)
    ]
    return np.stack(pictures, axis=-1)[:, :, None].astype(np.float32)


@keras.saving.register_keras_serializable(package=PACKAGE)
class CommonStepCombs(keras.layers.Layer):
    """How much a transform's coefficients of luma keep to multiples of one step, at each phase.

    Input: `(B, H, W, 3)` RGB in 0 … 255, H and W at least 15. Output `(B, period², 18)`: for each
    phase of the grid and each of `common_steps` q the mean of `cos(2πc / q)` over positions and
    four frequencies: 1 where all are multiples of q, near 0 where they are spread. Fixed: nothing
    here is trained.

    Args:
        transform: "dct_8" (of luma by BT.601, rounded: a decoder's own had whole numbers) or
            "lapped_4" (JPEG XR's, of the luma of YCoCg).
    """

    def __init__(self, transform: str = "dct_8", **kwargs: Any) -> None:
        if transform not in TRANSFORMS:
            raise ValueError(
                f"transform must be one of {', '.join(TRANSFORMS)}. Received: {transform!r}"
            )
        self.transform = transform
        super().__init__(**kwargs)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Refuse what has not 3 channels."""
        require_rgb(self, input_shape)

    def call(self, inputs: Any) -> Any:
        """Combs of every phase; see the class."""
        dtype = self.compute_dtype
        pixels = keras.ops.cast(inputs, dtype)
        lapped = self.transform == "lapped_4"
        weights = YCOCG_LUMA if lapped else RGB_TO_YCBCR[0]
        luma = keras.ops.matmul(pixels, keras.ops.cast(weights[:, None], dtype))
        if not lapped:
            luma = rounded_luma(luma)
        period = TRANSFORMS[self.transform]
        coefficients = convolved(luma, common_kernels(self.transform), dtype)
        # A product of matrices is faster than one that is broadcast over four numbers.
        octave = common_steps()[:STEPS_PER_OCTAVE]
        turns = np.kron(2 * np.pi / octave, np.eye(coefficients.shape[-1]))
        angles = keras.ops.matmul(whole_periods(coefficients, period), keras.ops.cast(turns, dtype))
        means = doubled_cosine_means(angles, OCTAVES, period)
        by_frequency = keras.ops.stack(means, axis=2)  # (B, phases, octaves, steps·frequencies)
        return keras.ops.mean(
            keras.ops.reshape(by_frequency, (-1, period**2, len(octave) * OCTAVES, len(turns))),
            axis=-1,
        )

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """`(B, period², 18)`."""
        return input_shape[0], TRANSFORMS[self.transform] ** 2, STEPS_PER_OCTAVE * OCTAVES

    def get_config(self) -> dict[str, Any]:
        """Arguments that make the layer anew."""
        return {**super().get_config(), "transform": self.transform}
