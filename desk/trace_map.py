"""The trace map: what each place of a picture shows, patch by patch.

A patch sees only its own pixels, so the map tells where a verdict comes from, and where places
differ. It is raw: neighbouring patches are judged alone and nothing is smoothed. Joining them to
regions, and the verdict that a picture is mixed, belong into a module of their own that takes a
`TraceMap` (`probabilities`, `row_edges` and `column_edges` are all that it needs).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from train.verdict import VerdictError, traceless_patches

if TYPE_CHECKING:
    from train.run import Run

MAX_PATCHES = 512
"""Most patches of a map: about two seconds on two cores with the default run's network."""

ABSTAIN = -1
"""In place of a class number, where a patch carries no trace."""

_BATCH = 64
_WIDENING = 1.05


@dataclass(frozen=True, eq=False)
class TraceMap:
    """Class probabilities on a grid of patches, and the part of the picture each stands for.

    A pixel belongs to the patch whose centre is nearest, so that the cells tile the picture.

    Attributes:
        labels: The C classes.
        patch_size: Side of the patches in pixels.
        stride: Greatest distance of neighbouring patches in pixels, as it was used.
        rows: Tops of the patches, ascending, R at least 1.
        columns: Lefts of the patches, ascending, K at least 1.
        row_edges: Where cells begin and end from top to bottom, R + 1, from 0 to the height.
        column_edges: The same from left to right, K + 1, from 0 to the width.
        probabilities: `float64` `(R, K, C)`, summing to 1 over C; zeros where a patch abstains.
        calibrated: Whether they are calibrated; else they are the network's own.
    """

    labels: tuple[str, ...]
    patch_size: int
    stride: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    row_edges: tuple[int, ...]
    column_edges: tuple[int, ...]
    probabilities: npt.NDArray[np.float64]
    calibrated: bool

    @property
    def label_map(self) -> npt.NDArray[np.int64]:
        """Number of each cell's most probable class `(R, K)`, or `ABSTAIN`."""
        best = self.probabilities.argmax(axis=-1)
        return np.where(self.confidence_map > 0, best, ABSTAIN)

    @property
    def confidence_map(self) -> npt.NDArray[np.float64]:
        """Probability of each cell's most probable class `(R, K)`, 0 to 1; 0 where it abstains."""
        return np.asarray(self.probabilities.max(axis=-1))

    @property
    def area_shares(self) -> dict[str, float]:
        """Share of the picture's area by class, and under "abstained"; they sum to 1."""
        areas = np.outer(np.diff(self.row_edges), np.diff(self.column_edges))
        found, total = self.label_map, int(areas.sum())
        names = [*enumerate(self.labels), (ABSTAIN, "abstained")]
        return {name: int(areas[found == number].sum()) / total for number, name in names}

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready summary; class numbers by cell are null where a patch abstains."""
        return {
            "patch_size": self.patch_size,
            "stride": self.stride,
            "rows": list(self.rows),
            "columns": list(self.columns),
            "labels": list(self.labels),
            "calibrated": self.calibrated,
            "area_shares": self.area_shares,
            "label_map": [
                [None if number == ABSTAIN else int(number) for number in row]
                for row in self.label_map
            ],
            "confidence_map": [
                [round(float(value), 3) for value in row] for row in self.confidence_map
            ],
        }


def trace_map(
    image: npt.NDArray[np.uint8],
    run: Run,
    *,
    stride: int | None = None,
    max_patches: int = MAX_PATCHES,
) -> TraceMap:
    """Class probabilities over a picture, from patches on a grid from edge to edge.

    Args:
        image: `uint8`, `(H, W)` or `(H, W, 3)` RGB.
        run: The run whose model is asked.
        stride: Distance of neighbouring patches in pixels, at least 1; a little less than half a
            patch if None. It is widened until the patches are no more than `max_patches`, so that
            on large pictures they stand apart and the map is a sample.
        max_patches: At least 1.

    Raises:
        VerdictError: The picture is smaller than one patch, or is no `uint8` picture; stride or
            max_patches are under 1.
        RunError: The run's model cannot be loaded.
    """
    size = run.patch_size
    fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if not fits or image.dtype != np.uint8 or min(image.shape[:2]) < size:
        raise VerdictError(
            f"A trace map needs uint8 of shape (H, W) or (H, W, 3) with sides of at least {size}. "
            f"Received: dtype={image.dtype}, shape={image.shape}"
        )
    # Odd, so that neighbouring patches see the codec's 8×8 grid at different phases.
    wanted = max(1, size // 2 - 1) | 1 if stride is None else stride
    if wanted < 1 or max_patches < 1:
        raise VerdictError(
            f"stride and max_patches must be at least 1. Received: {stride}, {max_patches}"
        )
    height, width = image.shape[:2]
    while _count(height, size, wanted) * _count(width, size, wanted) > max_patches:
        wanted = math.ceil(wanted * _WIDENING) | 1
    rows = _offsets(height, size, wanted)
    columns = _offsets(width, size, wanted)
    calibration = run.calibration
    probabilities = np.zeros((len(rows) * len(columns), len(run.labels)))
    places = [(top, left) for top in rows for left in columns]
    for start in range(0, len(places), _BATCH):
        patches = np.stack(
            [
                image[top : top + size, left : left + size]
                for top, left in places[start : start + _BATCH]
            ]
        )
        if patches.ndim == 3:  # the network was trained on gray pictures with three equal channels
            patches = np.repeat(patches[..., np.newaxis], 3, axis=-1)
        telling = np.flatnonzero(~traceless_patches(patches))
        if len(telling):
            answers = np.asarray(run.predict(patches[telling]), np.float64)
            if calibration is not None:
                answers = calibration.patch_probabilities(answers)
            probabilities[start + telling] = answers
    return TraceMap(
        labels=tuple(run.labels),
        patch_size=size,
        stride=wanted,
        rows=rows,
        columns=columns,
        row_edges=_edges(rows, size, height),
        column_edges=_edges(columns, size, width),
        probabilities=probabilities.reshape(len(rows), len(columns), -1),
        calibrated=calibration is not None,
    )


def _count(length: int, size: int, stride: int) -> int:
    """Fewest patches along a side that reach from edge to edge with no wider steps than `stride`.

    One patch in the middle where less than half a step would be left over.
    """
    return math.ceil((length - size) / stride) + 1 if 2 * (length - size) >= stride else 1


def _offsets(length: int, size: int, stride: int) -> tuple[int, ...]:
    count = _count(length, size, stride)
    if count == 1:
        return ((length - size) // 2,)
    return tuple(int(offset) for offset in np.linspace(0, length - size, count))


def _edges(offsets: Sequence[int], size: int, length: int) -> tuple[int, ...]:
    """Cell borders: half way between the centres of neighbouring patches."""
    centres = [offset + size / 2 for offset in offsets]
    between = [round((a + b) / 2) for a, b in itertools.pairwise(centres)]
    return (0, *between, length)
