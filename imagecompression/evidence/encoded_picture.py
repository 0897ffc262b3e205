"""The picture as a codec may have seen it: at its size before, without what was drawn around it."""

from __future__ import annotations

from dataclasses import dataclass

from imagecompression.codec import Image
from imagecompression.evidence.enlargement import Enlargement, before_enlargement
from imagecompression.evidence.inset import Inset, find_inset


@dataclass(frozen=True, eq=False)
class EncodedPicture:
    """What network and signs rest on.

    Attributes:
        pixels: `uint8` `(H, W)` or `(H, W, 3)`.
        inset: Where it lies in the picture, or in the smaller one that this was enlarged from; None
            where it is all of it.
        enlargement: How it was enlarged, alone or with all around it; None if it was not.
        reason: Sentences on both; empty where it is the picture as it is.
    """

    pixels: Image
    inset: Inset | None = None
    enlargement: Enlargement | None = None
    reason: str = ""


def encoded_picture(image: Image, least_side: int) -> EncodedPicture:
    """The part of a picture that a codec may have seen, at the size at which it saw it.

    Args:
        image: `uint8` `(H, W)` or `(H, W, 3)`; any other is left as it is.
        least_side: In pixels; nothing smaller is taken.
    """
    pixels, enlarged = before_enlargement(image, least_side)
    inset = find_inset(pixels)
    found = [step for step in (enlarged, inset) if step is not None]
    if inset is not None:
        pixels = inset.cut(pixels)
        if enlarged is None:
            pixels, enlarged = before_enlargement(pixels, least_side)
            found += [] if enlarged is None else [enlarged]
    return EncodedPicture(pixels, inset, enlarged, " ".join(step.reason for step in found))
