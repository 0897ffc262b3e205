"""Samples of other bit depths to 8 bits, rounded, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from imagecompression.codec import Image

_ROWS_AT_ONCE_PIXELS = 1 << 20


def to_8_bits(samples: npt.NDArray[Any], bits: int) -> Image:
    """Samples of 1 … 16 `bits` scaled to 0 … 255 and rounded; any shape of 2 or 3 dimensions."""
    if bits == 8:
        return samples.astype(np.uint8, copy=False)
    top = (1 << bits) - 1
    table = ((np.arange(top + 1, dtype=np.uint32) * 255 + top // 2) // top).astype(np.uint8)
    return by_rows(samples, lambda rows: table[rows.astype(np.uint16)], samples.shape[2:])


def by_rows(
    samples: npt.NDArray[Any],
    convert: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
    trailing: tuple[int, ...],
) -> Image:
    """`convert` applied to some rows at a time, so that wide intermediates stay small.

    Returns `uint8` of shape (H, W, *trailing).
    """
    height, width = samples.shape[:2]
    out = np.empty((height, width, *trailing), np.uint8)
    step = max(1, _ROWS_AT_ONCE_PIXELS // width)
    for top in range(0, height, step):
        out[top : top + step] = convert(samples[top : top + step])
    return out
