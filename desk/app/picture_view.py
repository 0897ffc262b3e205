"""Views of pictures: parts, magnified parts, differences, and two laid over each other."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as PilImage

from desk.page_template import script_source, template_environment
from imagecompression.codec import Image

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_VIEW = 1024
"""Side of the part that is looked at, in pixels; larger ones make the page slow."""


@dataclass(frozen=True)
class Window:
    """A part of a picture: left, top, width and height in pixels."""

    left: int
    top: int
    width: int
    height: int

    def of(self, image: Image) -> Image:
        """The part of a picture."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


def window(image: Image, across: float, down: float, side: int = MAX_VIEW) -> Window:
    """A part of at most `side`×`side` pixels of a picture.

    Args:
        image: `(H, W)` or `(H, W, 3)`.
        across: Place from left (0) to right (1).
        down: Place from top (0) to bottom (1).
        side: At least 1.

    >>> window(np.zeros((50, 300), np.uint8), 1.0, 0.5, 100)
    Window(left=200, top=0, width=100, height=50)
    """
    height, width = image.shape[:2]
    wide, high = min(width, side), min(height, side)
    return Window(round(across * (width - wide)), round(down * (height - high)), wide, high)


def difference(source: Image, decoded: Image, gain: int) -> Image:
    """Absolute difference of two pictures of one shape, times `gain`, at most 255.

    Raises:
        ValueError: The shapes differ.
    """
    apart = np.abs(source.astype(np.int16) - decoded.astype(np.int16))
    return np.minimum(apart * np.int32(gain), 255).astype(np.uint8)


def png(image: Image) -> bytes:
    """The picture as a PNG file."""
    out = io.BytesIO()
    PilImage.fromarray(image).save(out, "PNG", compress_level=1)
    return out.getvalue()


def slider_page(left: Image, right: Image, left_name: str, right_name: str) -> str:
    """A page with two pictures of one size, one over the other, a handle between, and zoom.

    It needs no other file and may load none: its content security policy forbids it.

    Args:
        left: Shown left of the handle.
        right: Shown right of it.
        left_name: Its caption, escaped here.
        right_name: Its caption, escaped here.
    """
    script = (Path(__file__).parent / "slider.js").read_text(encoding="utf-8")
    uris = [
        f"data:image/png;base64,{base64.b64encode(png(image)).decode('ascii')}"
        for image in (left, right)
    ]
    return (
        _environment()
        .get_template("slider.html")
        .render(
            uris=uris,
            names=(left_name, right_name),
            width=left.shape[1],
            height=left.shape[0],
            script=script,
            script_hash=script_source(script),
        )
    )


@cache
def _environment() -> Environment:
    return template_environment(Path(__file__).parent)
