"""Near-duplicates: pictures that show the same, whatever was done to size, light or compression.

A perceptual hash holds the low spatial frequencies of a picture's luma, and two pictures are
near-duplicates where the cosine of the angle between their hashes is large. Unlike bits that are
compared by Hamming distance (C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash
Functions", 2010), the coefficients keep their size, and turns and mirrorings are mere changes of
sign and order, so that one hash finds all eight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage

from imagecompression import Image
from imagecompression.metrics import luma

SIMILARITY_LIMIT = 0.75
"""Least cosine of near-duplicates. Different photographs reach 0.53; copies that were resized,
compressed, made brighter or gray, mirrored or turned stay above 0.89, cropped by 2 % above 0.84. A
crop of 5 % at one corner moves everything, and is found half of the time."""

_SIDE, _FREQUENCIES = 32, 11
_ROWS_AT_ONCE = 256

Vectors = npt.NDArray[np.float32]


def perceptual_hash(image: Image) -> str:
    """The 121 lowest DCT coefficients of the luma at 32×32 pixels, a byte each, hexadecimal.

    Brightness (the first coefficient) is left out and contrast divides out. Coefficients are
    multiplied by their frequency, since a photograph's fall with it, and their square roots taken,
    so that no few decide.

    Args:
        image: `uint8` `(H, W)` or `(H, W, 3)`.
    """
    from scipy.fft import dctn  # slow to import

    small = PilImage.fromarray(luma(image).astype(np.float32)).resize(
        (_SIDE, _SIDE), PilImage.Resampling.BOX
    )
    low = dctn(np.asarray(small, np.float64), norm="ortho")[:_FREQUENCIES, :_FREQUENCIES]
    low *= np.hypot(*np.mgrid[:_FREQUENCIES, :_FREQUENCIES])  # 0 at the first
    low = np.sign(low) * np.sqrt(np.abs(low))
    return np.rint(low * (127 / max(np.abs(low).max(), 1))).astype(np.int8).tobytes().hex()


def near_duplicates(hashes: Sequence[str]) -> Iterator[tuple[int, int, float]]:
    """Pairs (i, j, cosine), i < j, of near-duplicates among `perceptual_hash`es.

    Turned and mirrored copies are found too. Every pair is compared, by matrix products of
    `_ROWS_AT_ONCE` hashes with the rest: some minutes of one core for 100,000 hashes, and about
    2,000 bytes of memory for each.
    """
    vectors = _vectors(hashes)
    for first in range(0, len(vectors), _ROWS_AT_ONCE):
        block = vectors[first : first + _ROWS_AT_ONCE]
        rest = vectors[first:].reshape(-1, _FREQUENCIES**2).T
        found: dict[tuple[int, int], float] = {}
        for turned in _turned(block):
            cosines = turned.reshape(-1, _FREQUENCIES**2) @ rest
            for i, j in np.argwhere(cosines >= SIMILARITY_LIMIT).tolist():
                if i < j:
                    pair = first + i, first + j
                    found[pair] = max(found.get(pair, 0), float(cosines[i, j]))
        for (i, j), cosine in sorted(found.items()):
            yield i, j, cosine


def _vectors(hashes: Sequence[str]) -> Vectors:
    """Hashes as unit vectors `(N, 11, 11)`; zero for flat pictures, which are like no other."""
    raw = np.frombuffer(bytes.fromhex("".join(hashes)), np.int8).astype(np.float32)
    vectors = raw.reshape(-1, _FREQUENCIES, _FREQUENCIES)
    lengths = np.sqrt((vectors**2).sum(axis=(1, 2), keepdims=True))
    return vectors / np.maximum(lengths, 1)


def _turned(vectors: Vectors) -> Iterator[Vectors]:
    """The vectors of the pictures in all eight orientations: mirroring turns odd waves around."""
    odd = (-1.0) ** np.arange(_FREQUENCIES, dtype=np.float32)
    for upright in (vectors, vectors.swapaxes(1, 2)):
        for mirrored in (upright, upright * odd):
            yield mirrored
            yield mirrored * odd[:, None]
