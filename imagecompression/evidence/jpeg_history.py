"""JPEG history: was this picture, now uncompressed, once a JPEG? Found at any crop.

Two signs that are independent in kind:

1. **The grid vote.** JPEG leaves many zero coefficients in the 8×8 DCT blocks of its own grid, and
   fewer in blocks of any of the 63 other grid positions. Each pixel votes for the position of the
   block around it that has the most zeros; a JPEG's own position wins by far (T. Nikoukhah et al.,
   "ZERO: a Local JPEG Grid Origin Detector Based on the Number of DCT Zeros and its Applications in
   Image Forensics", IPOL 2021).
2. **The comb.** On the grid that won, JPEG's coefficients are multiples of a quantisation step, so
   that their histograms have teeth (Z. Fan, R. de Queiroz, "Identification of bitmap compression
   history", IEEE TIP 2003). The step of each frequency is found by a Fourier sum; all of them give
   the quality.

The vote alone also finds other codecs with 8×8 transforms (many AVIFs) and JPEGs scaled down by a
whole factor; the comb is JPEG's. JPEG 2000 and WebP show neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from imagecompression.codec import Image

VOTE_LIMIT = 3.0
"""Least ratio of the best grid position's votes to the second's. Pristine pictures reach 1.2, crops
of 128×128 pixels of them 2.2, of 64×64 pixels 2.5."""

VOTE_SHARE_LIMIT = 0.05
"""Least share of all pixels that must vote for the best position: the vote of few says nothing."""

COMB_LIMIT = 120.0
"""Least evidence of the comb, in nats. Pristine pictures reach 20, and crops of them 62."""

JOINT_LIMITS = (2.0, 30.0)
"""Vote ratio and comb that are enough together. The two are independent in kind: no crop of a
pristine picture with a ratio over 1.5 has a comb over 8."""

MAX_PIXELS = 1 << 21
"""Of larger pictures, evenly spread windows of about as many pixels in all are looked at."""

_WINDOW = 512
_STEPS = np.arange(2, 61)
_BINS_A_UNIT, _LARGEST = 8, 256
_MIN_COEFFICIENTS = 4
_CHANCE = 5.0  # nats that the best of all steps reaches in a frequency without a comb
_MOST = 20.0  # nats that a frequency can give: chance may play one a trick, but not four
_LEAST_COSINE = 0.25  # rounding to 8 bits leaves a mean of 0.6 at step 2, and more beyond

_K = np.arange(8)
DCT = (np.cos((2 * _K + 1) * _K[:, None] * np.pi / 16) / 2).astype(np.float32)
DCT[0] /= np.sqrt(2)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)

# Table K.1 of ITU-T T.81.
_LUMINANCE_TABLE = np.array(
    [
        16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
        14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
        18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
        49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
    ]
)  # fmt: skip

Plane = npt.NDArray[np.float32]

GRID_RATIO = 1.5
"""Least ratio of votes for a grid to be looked at further where it is not found by itself. Whole
train pictures reach 1.2."""


@dataclass(frozen=True)
class JpegHistory:
    """What the two signs say.

    Attributes:
        found: Whether one sign, or both together, say that the picture was a JPEG.
        vote_ratio: Votes of the best grid position over those of the second, 1 upwards; 0 where
            nobody voted.
        vote_share: Share of the pixels that voted for the best position.
        comb: Evidence for quantised coefficients on that grid, in nats, 0 upwards.
        top: Row of the first whole block of that grid, 0–7.
        left: Its column.
        quality: Estimated quality on libjpeg's scale, 1–99, where the comb is found and its
            steps fit libjpeg's luminance table; else None.
        reason: One sentence; empty where nothing is found.
    """

    found: bool
    vote_ratio: float
    vote_share: float
    comb: float
    top: int
    left: int
    quality: int | None
    reason: str


def jpeg_history(image: Image) -> JpegHistory:
    """Look for traces of an earlier JPEG compression.

    Args:
        image: `uint8` `(H, W)` or `(H, W, 3)`. Colours must be as they were decoded: a conversion
            by an ICC profile blurs the traces. Under 16 pixels a side nothing can be found.
    """
    votes, pixels = np.zeros(64, np.int64), 0
    windows = [(luma_of(window), window) for window in windows_of(image)]
    for luma, window in windows:
        votes += _grid_votes(luma, window)
        pixels += luma.size
    second, best = np.sort(votes)[-2:].tolist()
    top, left = divmod(int(votes.argmax()), 8)
    ratio = best / max(second, 1)
    share = best / pixels
    steps, evidence = _comb(
        np.concatenate([_block_coefficients(luma[top:, left:]) for luma, _ in windows])
    )
    comb = float(evidence.sum())

    zeros = ratio >= VOTE_LIMIT and share >= VOTE_SHARE_LIMIT
    quantised = comb >= COMB_LIMIT
    both = ratio >= JOINT_LIMITS[0] and comb >= JOINT_LIMITS[1]
    quality = _quality(steps, evidence) if quantised else None
    grid = f"on the 8×8 grid that starts at row {top}, column {left}"
    reason = ""
    if quantised:
        about = "" if quality is None else f", about quality {quality}"
        reason = f"Was a JPEG{about}: coefficients are quantised {grid}"
    elif zeros:
        reason = f"Was a JPEG, or an AVIF: {ratio:.1f} times the usual zeros {grid}"
    elif both:
        reason = f"Was probably a JPEG: more zeros and signs of quantisation {grid}"
    return JpegHistory(reason != "", ratio, share, comb, top, left, quality, reason)


def windows_of(image: Image, pixels: int | None = None, multiple: int = 8) -> Iterator[Image]:
    """The whole picture, or of a large one evenly spread windows, of the same grid position.

    Args:
        image: `(H, W)` or `(H, W, 3)`.
        pixels: About how many pixels all windows have together; `MAX_PIXELS` where not given.
        multiple: Windows begin at multiples of so many pixels.
    """
    pixels = MAX_PIXELS if pixels is None else pixels
    height, width = image.shape[:2]
    if height * width <= pixels:
        yield image
        return
    across = round((pixels / _WINDOW**2 * width / height) ** 0.5)
    across = max(1, min(across, width // 8))
    down = max(1, pixels // _WINDOW**2 // across)
    rows = np.linspace(0, max(0, height - _WINDOW), down).astype(int) // multiple * multiple
    columns = np.linspace(0, max(0, width - _WINDOW), across).astype(int) // multiple * multiple
    for row in rows:
        for column in columns:
            yield image[row : row + _WINDOW, column : column + _WINDOW]


def luma_of(image: Image) -> Plane:
    """BT.601 luma as JPEG computes it, not rounded."""
    return image.astype(np.float32) if image.ndim == 2 else image @ _LUMA


def _grid_votes(luma: Plane, image: Image) -> npt.NDArray[np.int64]:
    """Votes for each grid position, `(64,)`, row × 8 + column.

    Pixels with a tie do not vote, which keeps flat areas out; nor do pixels of clipped samples,
    whose neighbourhood is flat for reasons of its own, nor those near the border, which are not
    inside blocks of all 64 positions.
    """
    height, width = luma.shape
    if min(height, width) < 16:
        return np.zeros(64, np.int64)
    zeros = _count_zeros(luma)
    most = np.zeros((height, width), np.uint8)
    position = np.zeros((height, width), np.uint8)
    tied = np.ones((height, width), bool)
    for row in range(8):
        for column in range(8):
            own = zeros[row::8, column::8].repeat(8, axis=0).repeat(8, axis=1)
            area = np.s_[row : row + own.shape[0], column : column + own.shape[1]]
            more = own > most[area]
            tied[area] |= own == most[area]
            tied[area] &= ~more
            np.copyto(position[area], row * 8 + column, where=more)
            np.maximum(most[area], own, out=most[area])
    clipped = (image == 0) | (image == 255)
    voting = ~tied & ~(clipped if image.ndim == 2 else clipped.any(axis=2))
    inside = np.s_[7 : height - 7, 7 : width - 7]
    return np.bincount(position[inside][voting[inside]], minlength=64)


def _count_zeros(luma: Plane) -> npt.NDArray[np.uint8]:
    """Zeros (below 0.5) among the 64 DCT coefficients of the block at every pixel, `(H-7, W-7)`."""
    height, width = luma.shape[0] - 7, luma.shape[1] - 7
    across = np.empty((height + 7, 8, width), np.float32)
    for frequency in range(8):
        plane = np.multiply(luma[:, :width], DCT[frequency, 0])
        for column in range(1, 8):
            plane += DCT[frequency, column] * luma[:, column : column + width]
        across[:, frequency] = plane
    zeros = np.empty((height, width), np.uint8)
    coefficients = np.empty((8, 8 * width), np.float32)
    for row in range(height):  # a row at a time stays in the processor's cache
        np.matmul(DCT, across[row : row + 8].reshape(8, -1), out=coefficients)
        small = np.abs(coefficients, out=coefficients) < 0.5
        zeros[row] = np.add.reduce(small.reshape(64, width).view(np.uint8), axis=0, dtype=np.uint8)
    return zeros


def _block_coefficients(luma: Plane) -> Plane:
    """Absolute DCT coefficients of the blocks that are neither flat nor clipped, `(N, 64)`."""
    height, width = luma.shape[0] // 8 * 8, luma.shape[1] // 8 * 8
    rows = luma[:height, :width].reshape(height // 8, 8, width // 8, 8)
    blocks = rows.swapaxes(1, 2).reshape(-1, 8, 8)
    low, high = blocks.min(axis=(1, 2)), blocks.max(axis=(1, 2))
    usable = (low > 0.5) & (high < 254.5) & (high > low)
    return np.abs(DCT @ blocks[usable] @ DCT.T).reshape(-1, 64)


@cache
def _teeth() -> tuple[Plane, Plane]:
    """Weights of a histogram's bins for each step: cosine and count, `(steps, bins)`.

    Coefficients under half a step say nothing: all pictures have many. Beyond, a smooth falling
    histogram gives a negative sum, and one with teeth at multiples of the step a positive one.
    """
    value = (np.arange(_BINS_A_UNIT * _LARGEST) + 0.5) / _BINS_A_UNIT
    counts = (value > _STEPS[:, None] / 2).astype(np.float32)
    cosine = np.cos(2 * np.pi * value / _STEPS[:, None]) * counts
    return cosine.astype(np.float32), counts


def _comb(coefficients: Plane) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Likeliest quantisation step of each frequency and its evidence in nats, `(64,)` each.

    Without a comb the mean of n cosines has a variance of 1 / 2n; the evidence is half the squared
    deviation, less what the best of so many steps reaches by chance. Means too small for a comb do
    not count, however many coefficients they come from: no picture's histogram is quite smooth. DC
    is left out: it has teeth wherever levels are missing.
    """
    bins = (coefficients * _BINS_A_UNIT).astype(np.int64)
    bins = np.minimum(bins, _BINS_A_UNIT * _LARGEST - 1) + np.arange(64) * _BINS_A_UNIT * _LARGEST
    histogram = np.bincount(bins.ravel(), minlength=64 * _BINS_A_UNIT * _LARGEST)
    cosine, counts = _teeth()
    table = histogram.reshape(64, -1).T.astype(np.float32)
    sums, number = cosine @ table, counts @ table
    mean = sums / np.maximum(number, 1)
    comb_like = (number >= _MIN_COEFFICIENTS) & (mean >= _LEAST_COSINE)
    deviation = np.where(comb_like, mean * np.sqrt(2 * number), 0)
    deviation[:, 0] = 0
    best = deviation.argmax(axis=0)
    evidence = np.clip(deviation.max(axis=0).astype(np.float64) ** 2 / 2 - _CHANCE, 0, _MOST)
    return _STEPS[best], evidence


def _quality(steps: npt.NDArray[np.int64], evidence: npt.NDArray[np.float64]) -> int | None:
    """libjpeg quality whose luminance table fits the steps; None where under half of them do."""
    sure = evidence > _CHANCE
    if not sure.any():
        return None
    quality = np.arange(1, 100)
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    tables = np.clip((_LUMINANCE_TABLE * scale[:, None] + 50) // 100, 1, 255)
    fits = (tables[:, sure] == steps[sure]).mean(axis=1)
    return int(quality[fits.argmax()]) if fits.max() >= 0.5 else None
