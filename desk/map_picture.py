"""The trace map as a picture: class colours laid over the picture in gray."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage

from desk.regions import Regions
from desk.trace_map import ABSTAIN, TraceMap

CLASS_COLORS = {
    "uncompressed": "#00FFCC",
    "jpeg": "#E69F00",
    "jpeg2000": "#4477AA",
    "jpegxr": "#F0E442",
    "bpg": "#882255",
    "heic": "#BB5566",
    "avif": "#332288",
    "webp": "#56B4E9",
    "jpegxl": "#997700",
    "svd": "#666633",
    "kmeans": "#661100",
}
"""Chosen from published palettes for colour-blind readers (Okabe and Ito; Tol) and some more, so
that the nearest two stay far apart for normal, protan, deutan and tritan sight, and from gray."""

ABSTAINING_COLOR = "#999999"

MAX_SIDE = 720
"""Longer side of the picture drawn, in pixels; larger pictures are reduced to it."""

_OPACITY = (0.2, 0.7)
"""Of a cell's colour, at confidence 0 and 1."""


def class_colors(labels: Sequence[str]) -> dict[str, str]:
    """A colour ``"#RRGGBB"`` for each class; classes without one of their own get those left over.

    >>> class_colors(["jpeg", "fractal"])
    {'jpeg': '#E69F00', 'fractal': '#00FFCC'}
    """
    spare = [color for label, color in CLASS_COLORS.items() if label not in labels]
    others = itertools.cycle(spare or CLASS_COLORS.values())
    return {
        label: CLASS_COLORS[label] if label in CLASS_COLORS else next(others) for label in labels
    }


def map_picture(
    image: npt.NDArray[np.uint8],
    found: TraceMap,
    regions: Regions | None = None,
    *,
    strength: float = 1.0,
) -> bytes:
    """A PNG of the map over the picture, its longer side at most `MAX_SIDE` pixels.

    A cell's colour is its most probable class, the stronger the more confident; where a patch
    abstains, it is gray. Borders of regions are lines in black and white.

    Args:
        image: The picture that the map was made of, `uint8` `(H, W)` or `(H, W, 3)`; it may be
            reduced already.
        found: Its map.
        regions: Of a mixed picture.
        strength: Of the colours, 0 (the picture alone) to 1 (as reports have it).
    """
    picture = PilImage.fromarray(image)
    picture.thumbnail((MAX_SIDE, MAX_SIDE), reducing_gap=2.0)
    gray = np.asarray(picture.convert("L"), np.float32)[..., np.newaxis]
    height, width = gray.shape[:2]
    rows = _cell_of(height, found.row_edges)
    columns = _cell_of(width, found.column_edges)
    colors = [*class_colors(found.labels).values(), ABSTAINING_COLOR]
    palette = np.array([_rgb(color) for color in colors], np.float32)
    number = found.label_map  # `ABSTAIN` is -1: the last line of the palette
    low, high = _OPACITY
    opacity = np.where(number == ABSTAIN, high, low + (high - low) * found.confidence_map)
    cells = np.ix_(rows, columns)
    alpha = strength * opacity[cells][..., np.newaxis].astype(np.float32)
    drawn = (1 - alpha) * gray + alpha * palette[number[cells]]
    if regions is not None:
        _draw_borders(drawn, regions)
    out = io.BytesIO()
    PilImage.fromarray((drawn + 0.5).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def _draw_borders(drawn: npt.NDArray[np.float32], regions: Regions) -> None:
    """Draw the borders of regions into a picture `(H, W, 3)`: seen on any colour."""
    height, width = drawn.shape[:2]
    numbers = np.zeros((height, width), np.int64)
    for place in range(len(regions.regions)):
        numbers[regions.mask(place, height, width)] = place
    for distance, level in ((2, 255.0), (1, 0.0)):
        for axis in (0, 1):
            length = numbers.shape[axis] - distance
            if length < 1:
                continue
            near = np.take(numbers, range(length), axis)
            far = np.take(numbers, range(distance, length + distance), axis)
            drawn[:height, :width][tuple(np.nonzero(near != far))] = level


def _cell_of(length: int, edges: Sequence[int]) -> npt.NDArray[np.int64]:
    """Number of the cell in which each of `length` pixels lies that span the edges' range."""
    centres = (np.arange(length) + 0.5) * (edges[-1] / length)
    return np.searchsorted(np.asarray(edges[1:-1]), centres, side="right")


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
