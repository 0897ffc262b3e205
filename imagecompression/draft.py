"""Drafts: what a file will be, told before the costly last stage of its encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from imagecompression.codec import Image


@dataclass(frozen=True, eq=False)
class Draft:
    """An encode that lacks its last stage.

    Attributes:
        file_bytes: Estimated size of the file.
        decoded: The picture that the file will decode to, exactly; None where that is not known.
        finish: The last stage: returns the bytes that `Codec.encode` would.
    """

    file_bytes: int
    decoded: Image | None
    finish: Callable[[], bytes]


@runtime_checkable
class Drafting(Protocol):
    """A codec whose last stage costs much more than all before it."""

    def draft(self, image: Image) -> Draft | None:
        """A draft of `encode`, or None where the setting allows none."""
