"""Families of codecs: the transform that leaves the traces.

Codecs of one family leave like traces, so that a mistake within a family is a near miss.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from imagecompression.evidence.hevc_intra import HEVC

FAMILIES: dict[str, str] = {
    "uncompressed": "uncompressed",
    "jpeg": "DCT 8×8 (JPEG)",
    "jpeg2000": "wavelet (JPEG 2000)",
    "jpegxr": "lapped transform (JPEG XR)",
    "bpg": HEVC,
    "heic": HEVC,
    "avif": "AV1 intra",
    "webp": "VP8 intra",
    "jpegxl": "VarDCT (JPEG XL)",
    "svd": "SVD",
    "kmeans": "palette",
}
"""Family of each class; a class that is not named here is a family of its own."""


def family_of(label: str) -> str:
    """The family of a class.

    >>> family_of("heic") == family_of("bpg")
    True
    """
    return FAMILIES.get(label, label)


def family_probabilities(
    probabilities: npt.ArrayLike, labels: Sequence[str]
) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Families in the order of their first class, and the sums `(..., families)` of their classes.

    Args:
        probabilities: `(..., C)`.
        labels: The C classes.

    >>> family_probabilities([0.5, 0.25, 0.25], ["bpg", "jpeg", "heic"])
    (['HEVC intra', 'DCT 8×8 (JPEG)'], array([0.75, 0.25]))
    """
    families = list(dict.fromkeys(family_of(label) for label in labels))
    member = np.array([[family_of(label) == name for name in families] for label in labels], float)
    return families, np.asarray(probabilities, np.float64) @ member


def family_accuracy(
    probabilities: npt.ArrayLike, truth: npt.ArrayLike, labels: Sequence[str]
) -> float:
    """Share of items whose most probable family is that of their true class.

    Args:
        probabilities: `(N, C)`, N at least 1.
        truth: Class numbers `(N,)`.
        labels: The C classes.
    """
    families, sums = family_probabilities(probabilities, labels)
    true_family = np.array([families.index(family_of(label)) for label in labels])
    return float(np.mean(sums.argmax(axis=1) == true_family[np.asarray(truth, np.int64)]))
