"""A palette by quality: the fewest colours that are good enough, as pngquant's ``--quality`` does.

Qualities 0 … 100 stand for mean errors as in libimagequant (K. Lesiński), whose scale imitates
JPEG's. The error of a colour is libimagequant's too: the squared distance after a power law, with
weights for red, green and blue. It is averaged over all pixels alike; libimagequant itself weighs
pixels by how smooth their surroundings are, so its numbers of colours differ somewhat. Like
libimagequant's it is the error of the nearest entries, before any dithering.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from imagecompression.codec import CodecError, Image, check_image
from imagecompression.kmeans import KMeans
from imagecompression.palette import ColorHistogram, Palette, unpacked

# libimagequant's colours: sRGB samples to a power that makes them lighter in its eyes, weighted.
_CURVE = np.linspace(0, 1, 256) ** (0.57 / 0.45455)
_WEIGHTS = np.array([0.5, 1.0, 0.45])
_ERROR_SCALE = 0.45
"""Its errors are in units of this part of the plain sum over channels, samples from 0 to 1."""
_SLACK = 1e-6
"""Errors above a quality's by no more than this have that quality still."""


def quality_to_mse(quality: int) -> float:
    """The largest mean error of a quality 0 … 100; infinite for 0, and 0 for 100.

    >>> round(quality_to_mse(80), 6)
    0.000251
    """
    if isinstance(quality, bool) or not isinstance(quality, int) or not 0 <= quality <= 100:
        raise CodecError(f"quality must be an integer from 0 to 100. Received: {quality!r}")
    if quality == 0:
        return math.inf
    if quality == 100:
        return 0.0
    # The first term serves the lowest qualities, which have very few colours.
    lowest = max(0.0, 0.016 / (0.001 + quality) - 0.001)
    return _ERROR_SCALE * (lowest + 2.5 / (210 + quality) ** 1.2 * (100.1 - quality) / 100)


def mse_to_quality(mse: float) -> int:
    """The highest quality 0 … 100 that a mean error meets.

    >>> mse_to_quality(quality_to_mse(80))
    80
    """
    return next(
        quality for quality in range(100, -1, -1) if mse <= quality_to_mse(quality) + _SLACK
    )


def palette_mse(histogram: ColorHistogram, palette: Palette) -> float:
    """Mean over the pixels of libimagequant's error between each colour and its entry."""
    total = 0.0
    targets = _CURVE[palette.colors] * _WEIGHTS
    for start in range(0, len(histogram.packed), 2**20):
        block = slice(start, start + 2**20)
        colors = _CURVE[unpacked(histogram.packed[block])] * _WEIGHTS
        error = ((colors - targets[palette.entries[block]]) ** 2).sum(axis=1)
        total += float((error * histogram.counts[block]).sum())
    return total / float(histogram.counts.sum())


@dataclass(frozen=True)
class QualityEncoded:
    """The outcome of `encode_to_quality`.

    Attributes:
        data: The encoded file.
        codec: The codec with the number of colours that made it.
        quality: Its quality 0 … 100, see `mse_to_quality`.
        mse: Its mean error, see `palette_mse`.
        palettes: Palettes that were tried.
        reached: Whether `quality` is at least the minimum asked for.
        reason: Empty when reached; otherwise what limits the quality.
    """

    data: bytes
    codec: KMeans
    quality: int
    mse: float
    palettes: int
    reached: bool
    reason: str


def encode_to_quality(
    image: Image, codec: KMeans, minimum: int = 0, maximum: int = 100
) -> QualityEncoded:
    """Encode `image` with the fewest colours that meet the quality `maximum`.

    Where 256 colours do not meet it, they are taken, and the result is reached if they meet
    `minimum`. Taking more colours is assumed never to lower the quality; where it does by a
    little, the number of colours can be a neighbour of the fewest.

    Args:
        image: See `imagecompression.codec.Image`.
        codec: Every parameter but `colors` is taken from it.
        minimum: Quality 0 … 100 below which the result is not reached.
        maximum: Quality 0 … 100, at least `minimum`, beyond which colours would be wasted.

    >>> import numpy as np
    >>> ramp = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    >>> encode_to_quality(ramp, KMeans(), 50, 80).codec.colors < 64
    True

    Raises:
        CodecError: Qualities out of range, or the image is outside the contract.
    """
    goal = quality_to_mse(maximum)
    if quality_to_mse(minimum) < goal:
        raise CodecError(
            "The minimum quality cannot be above the maximum. "
            f"Received: minimum={minimum}, maximum={maximum}"
        )
    image = check_image(image)
    histogram = ColorHistogram.of(image)
    palettes: dict[int, tuple[Palette, float]] = {}

    def meets(colors: int) -> bool:
        palette = replace(codec, colors=colors).palette(histogram)
        palettes[colors] = palette, palette_mse(histogram, palette)
        return palettes[colors][1] <= goal + _SLACK

    best = min(256, max(2, len(histogram.packed)))
    if meets(best):
        too_few = 1
        while best - too_few > 1:
            middle = round(math.sqrt(best * too_few))
            middle = min(max(middle, too_few + 1), best - 1)
            if meets(middle):
                best = middle
            else:
                too_few = middle
    palette, mse = palettes[best]
    codec = replace(codec, colors=best)
    quality = mse_to_quality(mse)
    reached = quality >= minimum
    return QualityEncoded(
        data=codec.encode_with_palette(image, histogram, palette),
        codec=codec,
        quality=quality,
        mse=mse,
        palettes=len(palettes),
        reached=reached,
        reason=""
        if reached
        else f"quality {minimum} is out of reach: {best} colours, the most, give {quality}",
    )
