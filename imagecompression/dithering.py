"""Error diffusion: R. W. Floyd, L. Steinberg, "An adaptive algorithm for spatial grey scale", 1976.

Rows run from left to right. So a pixel waits for its left neighbour and three pixels above it
only, and all pixels (y, x) of equal x + 2 y are worked out together, which is what makes this
quick without a compiler; rows in alternating directions would forbid that.
"""

from __future__ import annotations

import numpy as np

from imagecompression.codec import Image
from imagecompression.color_space import COLOR_SPACES, Colors
from imagecompression.palette import nearest_entry

_BAND_ROWS = 512


def diffused_entries(image: Image, palette: Colors, space: str, strength: float) -> Image:
    """The palette row of every pixel, uint8 `(H, W)`, with the error passed on to neighbours.

    Sums are kept within the palette's range in each coordinate: what lies beyond it no later pixel
    could make up for.

    Args:
        image: The picture, see `imagecompression.codec.Image`.
        palette: uint8 `(K, 3)`, K at most 256.
        space: A key of `COLOR_SPACES`, where distances are measured and errors added up.
        strength: Part of each error that is passed on, 0 … 1.
    """
    of_srgb = COLOR_SPACES[space].of_srgb
    targets = of_srgb(palette)
    low, high = targets.min(axis=0), targets.max(axis=0)
    height, width = image.shape[:2]
    indices = np.empty((height, width), np.uint8)
    carried = np.zeros((width, 3), np.float32)
    for top in range(0, height, _BAND_ROWS):
        band = image[top : top + _BAND_ROWS]
        if band.ndim == 2:
            band = np.repeat(band[..., None], 3, axis=2)
        rows = len(band)
        # wave[t, y] is the pixel (y, t - 2 y); places that are no pixel are never read. The row
        # below the band gathers what its first row passes on.
        waves = width + 2 * (rows - 1)
        wave = np.zeros((waves + 3, rows + 1, 3), np.float32)
        for y in range(rows):
            wave[2 * y : 2 * y + width, y] = of_srgb(band[y])
        wave[:width, 0] += carried
        chosen = np.empty((waves, rows), np.uint8)
        for t in range(waves):
            first, last = max(0, (t - width) // 2 + 1), min(rows, t // 2 + 1)
            wanted = np.clip(wave[t, first:last], low, high)
            nearest = nearest_entry(wanted, targets)
            chosen[t, first:last] = nearest
            error = (wanted - targets[nearest]) * np.float32(strength / 16)
            wave[t + 1, first:last] += 7 * error
            wave[t + 1, first + 1 : last + 1] += 3 * error
            wave[t + 2, first + 1 : last + 1] += 5 * error
            wave[t + 3, first + 1 : last + 1] += error
        for y in range(rows):
            indices[top + y] = chosen[2 * y : 2 * y + width, y]
        carried = np.zeros((width, 3), np.float32)
        below = wave[2 * rows : 2 * rows + width, rows]
        carried[: len(below)] = below
    return indices
