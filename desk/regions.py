"""Mixed pictures: whether parts of a picture were compressed by different codecs, and where.

One class for the whole picture is compared with two classes, one for each side of a border. The
border that explains the map best is an exact minimum cut of a Potts model (Greig, Porteous and
Seheult, J. R. Stat. Soc. B 1989): each patch speaks for its side by its log-probability, and each
pair of neighbours on different sides costs `BORDER_COST`.

Classes of one family (`train.families`) count as one. A mildly compressed picture looks
uncompressed in places, and where it does depends on its content. So "uncompressed" first speaks for
no side: between two codecs, each side may look uncompressed too. Only where no two codecs explain
the picture is a codec compared with "uncompressed" itself, and then both sides must be far clearer.

Out of scope: two parts by one codec at different qualities or grid offsets, by codecs of one
family, and more than two histories (of three, two are told, or two of one side become one).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from desk.trace_map import ABSTAIN, TraceMap
from train.families import family_of, family_probabilities
from train.verdict import pooled_probabilities

BORDER_COST = 0.5
"""Of two neighbours on different sides, as a natural logarithm; diagonal ones cost 0.7 of it."""

FLOOR = 0.01
"""A patch's probabilities below this count as this: no single patch speaks with more than 100:1."""


@dataclass(frozen=True)
class Thresholds:
    """How clear a division must be before a picture is called mixed.

    docs/how-to/read-the-map.md tells how they were set.

    Attributes:
        least_gain: What a border between two codecs must gain over one class for the whole
            picture: log-probability less the border's cost, for each patch of the smaller side.
        least_gain_of_uncompressed: The same between a codec and "uncompressed"; at most 4.6 by
            `FLOOR`.
        smallest_region: Patches that carry traces.
    """

    least_gain: float = 1.75
    least_gain_of_uncompressed: float = 1.5
    smallest_region: int = 8


THRESHOLDS = Thresholds()
"""A smallest region of 8 patches is about 90×90 pixels at the default stride."""

UNCOMPRESSED = "uncompressed"

_DIAGONAL = 0.7
_SCALE = 100  # minimum cuts are computed in integers
_LEAST_STRENGTH = 0.5
_RASTER_SIDE = 1024

RegionsStatus = Literal["mixed", "uniform", "not enough evidence"]


@dataclass(frozen=True, eq=False)
class Region:
    """A connected part of a mixed picture that one codec has left traces in.

    Attributes:
        label: The most probable class there, of the family that explains it.
        family: See `train.families`.
        confidence: Probability of the family from all its patches, 0 to 1.
        area_share: Of the picture, 0 to 1, flat places included.
        box: Left, top, right and bottom in pixels, the last two exclusive.
        patches: Patches with traces whose centres lie there.
        flat: Patches without.
    """

    label: str
    family: str
    confidence: float
    area_share: float
    box: tuple[int, int, int, int]
    patches: int
    flat: int


@dataclass(frozen=True, eq=False)
class Regions:
    """Whether a picture is mixed.

    Attributes:
        status: "mixed"; "uniform" if one class explains the picture; "not enough evidence" if too
            few patches carry traces.
        regions: Where mixed, at least two of two families, the largest first; else none.
        cells: `int64` `(R, K)`: for each cell of the map the region's place in `regions`; all
            `ABSTAIN` where not mixed. A flat cell, which tells nothing, is of the region around it.
        strengths: `float64` `(R, K)`, over 0: how clearly a cell is of its region rather than of
            the other family.
        centres: Places of the patches' centres from top to bottom, and from left to right, in
            pixels.
        size: Height and width of the picture.
        gain: Where mixed, what its border gains, see `Thresholds`; else 0.
    """

    status: RegionsStatus
    regions: tuple[Region, ...]
    cells: npt.NDArray[np.int64]
    strengths: npt.NDArray[np.float64]
    centres: tuple[tuple[float, ...], tuple[float, ...]]
    size: tuple[int, int]
    gain: float = 0.0

    @property
    def is_mixed(self) -> bool:
        """Whether parts of the picture have different histories."""
        return self.status == "mixed"

    def mask(self, place: int, height: int, width: int) -> npt.NDArray[np.bool_]:
        """Where the region `regions[place]` is, `bool` `(height, width)`, at any resolution.

        The border runs between centres of patches, nearer to the less clear one.
        """
        signed = np.where(self.cells == place, self.strengths, -self.strengths)
        down = _interpolation(self.centres[0], self.size[0], height)
        across = _interpolation(self.centres[1], self.size[1], width)
        return np.asarray(down @ signed.astype(np.float32) @ across.T > 0)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready summary; cells of no region are null."""
        return {
            "status": self.status,
            "regions": [
                {
                    "label": region.label,
                    "family": region.family,
                    "confidence": region.confidence,
                    "area_share": region.area_share,
                    "box": list(region.box),
                    "patches": region.patches,
                    "flat": region.flat,
                }
                for region in self.regions
            ],
            "cells": [
                [None if place == ABSTAIN else int(place) for place in row] for row in self.cells
            ],
        }


@dataclass(frozen=True, eq=False)
class _Division:
    """A picture divided in two by a border that explains it better than one family does.

    Attributes:
        families: Of the first side and of the second.
        second: `(R, K)`, whether a cell is of the second side.
        margins: `(R, K)`, how much likelier the second family is; 0 for flat cells.
        gain: Log-probability of all patches less the border's cost, compared with that of the best
            single family, for each telling patch of the smaller side.
    """

    families: tuple[str, str]
    second: npt.NDArray[np.bool_]
    margins: npt.NDArray[np.float64]
    gain: float


def find_regions(found: TraceMap, thresholds: Thresholds = THRESHOLDS) -> Regions:
    """The regions of a picture with different histories, from its trace map."""
    telling = found.confidence_map > 0
    enough = telling.sum() >= 2 * thresholds.smallest_region
    status: RegionsStatus = "uniform" if enough else "not enough evidence"
    division = _division(found, telling, thresholds) if enough else None
    size = (found.row_edges[-1], found.column_edges[-1])
    half = found.patch_size / 2
    centres = (tuple(top + half for top in found.rows), tuple(x + half for x in found.columns))
    if division is None:
        nowhere = np.full(telling.shape, ABSTAIN, np.int64)
        return Regions(status, (), nowhere, np.ones(telling.shape), centres, size)
    cells, families = _numbered(division)
    sign = np.where(division.second, 1, -1)
    strengths = np.maximum(division.margins * sign, _LEAST_STRENGTH)
    outlined = Regions("mixed", (), cells, strengths, centres, size)
    regions = tuple(
        _region(found, outlined, place, family, telling) for place, family in enumerate(families)
    )
    return Regions("mixed", regions, cells, strengths, centres, size, division.gain)


def _division(
    found: TraceMap, telling: npt.NDArray[np.bool_], thresholds: Thresholds
) -> _Division | None:
    """The best division in two; None if one class explains the picture."""
    families, probabilities = family_probabilities(found.probabilities, found.labels)
    plain = probabilities[..., families.index(UNCOMPRESSED)] if UNCOMPRESSED in families else None
    shared = 0.0 if plain is None else plain[..., np.newaxis]
    codecs = [place for place, name in enumerate(families) if name != UNCOMPRESSED]
    names = [families[place] for place in codecs]
    mild = _logarithms(probabilities[..., codecs] + shared, telling)
    pairs = list(itertools.combinations(range(len(names)), 2))
    best = _best_division(names, mild, pairs, telling, thresholds.smallest_region)
    if best is not None and best.gain >= thresholds.least_gain:
        return best
    if plain is None:
        return None
    pure = _logarithms(probabilities, telling)
    nothing = families.index(UNCOMPRESSED)
    pairs = [(nothing, place) for place in codecs]
    best = _best_division(families, pure, pairs, telling, thresholds.smallest_region)
    if best is not None and best.gain >= thresholds.least_gain_of_uncompressed:
        return best
    return None


def _logarithms(
    probabilities: npt.NDArray[np.float64], telling: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Natural logarithms `(R, K, F)`; 0 for cells that tell nothing."""
    return np.where(telling[..., np.newaxis], np.log(np.clip(probabilities, FLOOR, 1.0)), 0.0)


def _best_division(
    families: list[str],
    logs: npt.NDArray[np.float64],
    pairs: list[tuple[int, int]],
    telling: npt.NDArray[np.bool_],
    smallest_region: int,
) -> _Division | None:
    """The division by one of the pairs with the highest score; None if one family scores higher.

    Args:
        families: The F families.
        logs: `(R, K, F)`.
        pairs: Numbers of the families of the first and of the second side.
        telling: `(R, K)`.
        smallest_region: See `Thresholds`.
    """
    single = score = float(logs.sum(axis=(0, 1)).max())
    best = None
    bounds = {pair: float(logs[..., pair].max(axis=-1).sum()) for pair in pairs}
    for pair in sorted(pairs, key=bounds.__getitem__, reverse=True):
        if bounds[pair] <= score:  # without any border's cost
            break
        margins = logs[..., pair[1]] - logs[..., pair[0]]
        second = _without_specks(_minimum_cut(margins), telling, smallest_region)
        if second.all() or not second.any():
            continue
        chosen = np.where(second, logs[..., pair[1]], logs[..., pair[0]])
        total = float(chosen.sum()) - BORDER_COST * _border(second)
        if total > score:
            score = total
            smaller = min(np.sum(telling & second), np.sum(telling & ~second))
            gain = (total - single) / float(smaller)
            best = _Division((families[pair[0]], families[pair[1]]), second, margins, gain)
    return best


def _neighbours(cells: npt.NDArray[Any]) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any], float]]:
    """Pairs of neighbouring cells, with the weight of each kind."""
    return [
        (cells[:, :-1], cells[:, 1:], 1.0),
        (cells[:-1], cells[1:], 1.0),
        (cells[:-1, :-1], cells[1:, 1:], _DIAGONAL),
        (cells[1:, :-1], cells[:-1, 1:], _DIAGONAL),
    ]


def _border(second: npt.NDArray[np.bool_]) -> float:
    """Weight of the neighbours on different sides."""
    return float(sum(weight * np.sum(a != b) for a, b, weight in _neighbours(second)))


def _minimum_cut(margins: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """The side of each cell `(R, K)` with the greatest sum of margins less the border's cost."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    count = margins.size
    source, sink = count, count + 1
    gains = np.rint(margins.ravel() * _SCALE).astype(np.int32)
    for_second, for_first = np.flatnonzero(gains > 0), np.flatnonzero(gains < 0)
    starts = [np.full(len(for_second), source), for_first]
    ends = [for_second, np.full(len(for_first), sink)]
    capacities = [gains[for_second], -gains[for_first]]
    for one, other, weight in _neighbours(np.arange(count).reshape(margins.shape)):
        cost = np.full(one.size, round(BORDER_COST * weight * _SCALE), np.int32)
        starts += [one.ravel(), other.ravel()]
        ends += [other.ravel(), one.ravel()]
        capacities += [cost, cost]
    places = (np.concatenate(starts), np.concatenate(ends))
    graph = csr_array((np.concatenate(capacities), places), shape=(count + 2, count + 2))
    residual = graph - maximum_flow(graph, source, sink).flow
    residual.eliminate_zeros()
    second = np.zeros(count + 2, np.bool_)
    second[breadth_first_order(residual, source, return_predecessors=False)] = True
    return second[:count].reshape(margins.shape)


def _without_specks(
    second: npt.NDArray[np.bool_], telling: npt.NDArray[np.bool_], smallest_region: int
) -> npt.NDArray[np.bool_]:
    """The sides with each connected part of too few telling patches given to the other side."""
    cleaned = second.copy()
    for side in (True, False):  # of the parts that the first pass leaves
        numbers, count = _parts(cleaned == side)
        sizes = np.bincount(numbers[telling], minlength=count + 1)
        specks = sizes < smallest_region
        specks[0] = False
        cleaned[specks[numbers]] = not side
    return cleaned


def _parts(inside: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int32], int]:
    """Numbers from 1 of the connected parts, 0 outside; diagonal neighbours are connected."""
    from scipy import ndimage

    numbers, count = ndimage.label(inside, structure=np.ones((3, 3)))
    return numbers, int(count)


def _numbered(division: _Division) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Region of each cell `(R, K)`, those with most cells first, and the regions' families."""
    cells = np.zeros(division.second.shape, np.int64)
    found: list[tuple[npt.NDArray[np.bool_], str]] = []
    for side, family in ((~division.second, 0), (division.second, 1)):
        numbers, count = _parts(side)
        found += [(numbers == part, division.families[family]) for part in range(1, count + 1)]
    found.sort(key=lambda part: -int(part[0].sum()))
    for place, (inside, _) in enumerate(found):
        cells[inside] = place
    return cells, [family for _, family in found]


def _region(
    found: TraceMap,
    outlined: Regions,
    place: int,
    family: str,
    telling: npt.NDArray[np.bool_],
) -> Region:
    inside = outlined.cells == place
    pooled = pooled_probabilities(found.probabilities[inside & telling])
    members = [number for number, label in enumerate(found.labels) if family_of(label) == family]
    height, width = outlined.size
    shrink = max(1.0, max(height, width) / _RASTER_SIDE)
    mask = outlined.mask(place, max(1, round(height / shrink)), max(1, round(width / shrink)))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    down, across = height / mask.shape[0], width / mask.shape[1]
    return Region(
        label=found.labels[max(members, key=lambda number: pooled[number])],
        family=family,
        confidence=float(pooled[members].sum()),
        area_share=float(mask.mean()),
        box=(
            round(columns[0] * across),
            round(rows[0] * down),
            round((columns[-1] + 1) * across),
            round((rows[-1] + 1) * down),
        ),
        patches=int(np.sum(inside & telling)),
        flat=int(np.sum(inside & ~telling)),
    )


def _interpolation(
    centres: tuple[float, ...], length: int, samples: int
) -> npt.NDArray[np.float32]:
    """Weights `(samples, centres)` that interpolate linearly; constant beyond the outer centres."""
    places = (np.arange(samples) + 0.5) * (length / samples)
    weights = [np.interp(places, centres, one) for one in np.eye(len(centres))]
    return np.stack(weights, axis=1).astype(np.float32)
