"""Chroma's fine detail: whether its resolution was halved, down or across.

Halved chroma has next to nothing above half the band, whoever halved it: a codec, a camera's raw
converter, or Kodak's Photo CD.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from imagecompression.codec import Image
from imagecompression.evidence.dct import dct_basis
from imagecompression.evidence.jpeg_history import Plane, luma_of

MIN_SIDE = 16

_LENGTH = 16


@dataclass(frozen=True)
class FineDetail:
    """Root mean square of the coefficients above half the band, in gray levels.

    Rounding to 8 bits alone gives about 0.2 for chroma of RGB.

    Attributes:
        down: Of columns of 16 samples.
        across: Of rows.
    """

    down: float
    across: float


def chroma_band(windows: Sequence[Image]) -> tuple[FineDetail, FineDetail]:
    """Fine detail of luma, and of Cb and Cr together.

    Args:
        windows: `uint8` `(H, W, 3)`, sides at least `MIN_SIDE`.
    """
    luma, chroma = [], []
    for window in windows:
        plane = luma_of(window)
        luma.append(plane)
        chroma.append((window[..., 2] - plane) / np.float32(1.772))
        chroma.append((window[..., 0] - plane) / np.float32(1.402))
    return _fine_detail(luma), _fine_detail(chroma)


def _fine_detail(planes: Sequence[Plane]) -> FineDetail:
    down, across = (
        np.concatenate([_upper_half(turned) for turned in planes_turned])
        for planes_turned in ([plane.T for plane in planes], planes)
    )
    return FineDetail(*(float(np.sqrt(np.mean(values**2))) for values in (down, across)))


def _upper_half(plane: Plane) -> Plane:
    """The upper half of the DCT of pieces of rows, flattened."""
    pieces = plane[:, : plane.shape[1] // _LENGTH * _LENGTH].reshape(-1, _LENGTH)
    upper = dct_basis(_LENGTH)[_LENGTH // 2 :].astype(np.float32)
    return np.asarray(pieces @ upper.T).ravel()
