"""Signs in a whole picture's pixels that rule classes out, whatever its patches look like.

A patch of 64 pixels holds too few coefficients to show a mild quantiser; a picture holds enough.
Where a comb, a drop in rank or a palette is decisive (`imagecompression.evidence`), a verdict that
it contradicts is taken back. All are a person's to check, and none was learned from pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imagecompression import Image
from imagecompression.evidence import (
    common_comb,
    factor_comb,
    lapped_comb,
    low_rank,
    own_comb,
    wavelet_comb,
)
from imagecompression.evidence.colour_count import colour_count
from imagecompression.evidence.common_comb import SOME_CODEC
from imagecompression.evidence.jpeg_history import luma_of, windows_of
from imagecompression.thread_limit import one_thread

RULED_OUT = 1e-6
"""What a class's probability is multiplied by. Chance alone hardly ever gives the seven standard
errors that a comb needs, and no sign was seen in 600 pictures without a codec; what is left is for
what nobody thought of."""


@dataclass(frozen=True)
class DecisiveSign:
    """What the signs of a picture say.

    Attributes:
        opinion: "kmeans", "jpegxr", "jpeg2000", "svd", `SOME_CODEC` for one that is not told, or
            None.
        reason: One sentence; empty without a sign.
    """

    opinion: str | None = None
    reason: str = ""

    def factors(self, labels: Sequence[str]) -> npt.NDArray[np.float64]:
        """What to multiply the classes' probabilities by, `(C,)`: 1, or `RULED_OUT`.

        >>> DecisiveSign(SOME_CODEC).factors(["uncompressed", "bpg"]).tolist()
        [1e-06, 1.0]
        """
        if self.opinion is None:
            possible = set(labels)
        elif self.opinion in labels:
            possible = {self.opinion, "jpeg"}  # a JPEG shows any of the combs now and then
        else:
            possible = set(labels) - {"uncompressed"}
        return np.array([1.0 if label in possible else RULED_OUT for label in labels])

    def applied(
        self, probabilities: npt.NDArray[np.float64], labels: Sequence[str]
    ) -> npt.NDArray[np.float64]:
        """Probabilities `(C,)` after the sign, summing to 1."""
        weighted = probabilities * self.factors(labels)
        return np.asarray(weighted / weighted.sum())


def decisive_sign(image: Image) -> DecisiveSign:
    """The sign that a picture `uint8` `(H, W)` or `(H, W, 3)` bears, if any."""
    with one_thread():  # small matrices: more threads would only wait for each other
        return _sign(image)


def _sign(image: Image) -> DecisiveSign:
    windows = list(windows_of(image, common_comb.PIXELS, multiple=16))
    colours = colour_count(image, windows)
    if colours.decisive:
        return DecisiveSign("kmeans", colours.reason)
    if min(min(window.shape[:2]) for window in windows) < common_comb.MIN_SIDE:
        return DecisiveSign()
    lapped = lapped_comb.lapped_comb(windows)
    if lapped.decisive:
        return DecisiveSign("jpegxr", lapped.reason)
    lumas = [luma_of(window) for window in windows]
    if min(min(luma.shape) for luma in lumas) >= wavelet_comb.MIN_SIDE:
        wavelets = wavelet_comb.wavelet_comb(lumas)
        if wavelets.decisive:
            return DecisiveSign("jpeg2000", wavelets.reason)
    svd = _svd(image)
    if svd:
        return DecisiveSign("svd", svd)
    common = common_comb.common_comb(lumas)
    return DecisiveSign(SOME_CODEC, common.reason) if common.decisive else DecisiveSign()


def _svd(image: Image) -> str:
    """Why a picture was a truncated SVD; empty without a sign."""
    height, width = image.shape[:2]
    if min(height, width) >= factor_comb.MIN_SIDE and height * width <= factor_comb.MAX_PIXELS:
        factors = factor_comb.factor_comb(image)
        if factors.decisive:
            return factors.reason
    if min(height, width) >= low_rank.LEAST_FULL:  # no other can be decisive
        rank = low_rank.picture_rank(image)
        if rank.decisive:
            return rank.reason
    if min(height, width) >= own_comb.MIN_SIDE:
        own = own_comb.own_comb(image)
        if own.decisive:
            return own.reason
    return ""
