"""x265's options that several codecs set: its presets, and rates between two whole quantisers."""

from __future__ import annotations

import math

PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
)
"""From fast to thorough."""

INTRA_OFFSET = 6.0 * math.log2(1.4)
"""How much finer than asked x265 codes an intra picture, in QP: its I-frame factor of 1.4."""


def mixed_qps(qp: int, fraction: float) -> dict[str, str]:
    """Options that code an intra picture with `qp` in some blocks and `qp` + 1 in the others.

    Adaptive quantisation adds strength · (activity of the block − the picture's) to the QP, which
    is clipped here to the two. The finer one is the base while the strength grows up to half of
    `fraction`, where activity alone decides; from there the coarser one takes over and the
    strength falls again. So the file size falls steadily, the busy blocks going first.

    Args:
        qp: As asked of x265, which codes an intra picture `INTRA_OFFSET` finer; 0 … 50.
        fraction: 0 … 1, from nearly all blocks at `qp` to nearly all at `qp` + 1.
    """
    base = qp + round(fraction)
    # A strength of 0.08 leaves nearly all blocks as they are; 3 is x265's highest.
    strength = 0.08 * 37.5 ** (2.0 * abs(fraction - round(fraction)))
    coded = [max(0, int(each - INTRA_OFFSET + 0.5)) for each in (qp, qp + 1)]
    return {
        "crf": str(base),  # a constant QP would switch adaptive quantisation off
        "cutree": "0",
        "aq-mode": "2",
        "aq-strength": f"{strength:.6f}",
        "qg-size": "32",
        "qpmin": str(coded[0]),
        "qpmax": str(coded[1]),
    }


def fractional_crf(crf: float) -> dict[str, str]:
    """Options for a constant rate factor of one intra picture that may have a fraction.

    x265 drops the fraction for the first picture unless `qcomp` is 1, where it also leaves out
    the I-frame factor. At whole numbers the bytes are those of `crf` alone. It acts through
    adaptive quantisation, and not at all without.
    """
    return {"crf": f"{max(crf - INTRA_OFFSET, 0.0):.4f}", "qcomp": "1"}
