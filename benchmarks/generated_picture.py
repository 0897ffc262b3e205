"""Pictures made by arithmetic, for benchmarks that must run without any picture files."""

from __future__ import annotations

import numpy as np

from imagecompression import Image


def generated_picture(height: int, width: int, channels: int, seed: int = 0) -> Image:
    """A picture with shading, edges and grain, `uint8` `(H, W)` or `(H, W, 3)`.

    Args:
        height: Rows, at least 1.
        width: Columns, at least 1.
        channels: 1 for gray, 3 for RGB.
        seed: The same seed gives the same picture.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
    picture = np.empty((height, width, channels))
    for channel in range(channels):
        slope_y, slope_x, bend = rng.uniform(-60, 60, 3)
        picture[..., channel] = 120 + slope_y * rows + slope_x * columns + bend * rows * columns
    for _ in range(8):
        top, left, reach = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.05, 0.35)
        disc = (rows - top) ** 2 + (columns - left) ** 2 < reach**2
        bar = (np.abs(rows - top) < reach / 3) & (np.abs(columns - left) < reach)
        picture[disc if rng.random() < 0.5 else bar] += rng.uniform(-70, 70, channels)
    picture += rng.normal(0, 4, (height, width, 1))
    samples = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(samples[..., 0] if channels == 1 else samples)
