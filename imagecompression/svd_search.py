"""The SVD codec's setting for one picture: block size, chroma resolution and step for a target."""

from __future__ import annotations

import dataclasses

from imagecompression.codec import CodecError, Image
from imagecompression.metrics import psnr, ssim
from imagecompression.rate import Encoded, RateSearch, RatioTarget, SsimTarget, Target
from imagecompression.svd import Svd

CANDIDATES = tuple(
    Svd(block=block, subsampling=subsampling)
    for block in (8, 4, 16)
    for subsampling in ("4:4:4", "4:2:0")
)
"""What is tried: each block size with full and with halved chroma. The step, and by it the number
of terms, follows from the target."""

MEASURES = {"psnr": psnr, "ssim": ssim}


def best_svd(
    image: Image,
    target: Target,
    *,
    measure: str = "psnr",
    candidates: tuple[Svd, ...] = CANDIDATES,
) -> Encoded:
    """The candidate that does best at `target`, with the step that meets it.

    For a `RatioTarget` the best is the one of highest `measure`, for an `SsimTarget` the one with
    the smallest file. Candidates that miss the target lose to those that meet it; where all miss
    it, the nearest wins and says why (`Encoded.reason`).

    Args:
        image: The source, see `imagecompression.codec.Image`.
        target: A `RatioTarget` or an `SsimTarget`.
        measure: ``"psnr"`` (dB, RGB) or ``"ssim"`` (luma); unused for an `SsimTarget`.
        candidates: Settings to try, at least one; their steps are not used.

    Returns:
        The winner, with the encodes of all candidates counted.

    Raises:
        CodecError: A target of another kind, an unknown measure, no candidate, or an image
            outside the contract.

    >>> import numpy as np
    >>> noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    >>> best_svd(noise, RatioTarget(6)).reached
    True
    """
    if not isinstance(target, RatioTarget | SsimTarget):
        raise CodecError(
            f"The target must be a RatioTarget or an SsimTarget. Received: {type(target).__name__}"
        )
    if measure not in MEASURES or not candidates:
        raise CodecError(
            f"The measure must be one of {', '.join(MEASURES)}, of one or more candidates. "
            f"Received: {measure!r}, {len(candidates)} candidates"
        )
    found = [RateSearch(image, candidate).to(target) for candidate in candidates]

    def merit(encoded: Encoded) -> tuple[bool, float]:
        if not encoded.reached:
            return False, -abs(encoded.measured - target.value)
        if isinstance(target, SsimTarget):
            return True, -len(encoded.data)
        return True, MEASURES[measure](image, Svd.decode(encoded.data))

    best = max(found, key=merit)
    return dataclasses.replace(best, encodes=sum(encoded.encodes for encoded in found))
