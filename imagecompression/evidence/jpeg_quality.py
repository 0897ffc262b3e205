"""Which school and quality a JPEG file's quantisation tables come from; nothing where none fits.

Two rules, and no third: a nearest quality of tables that are of another kind says nothing.

1. **Exact.** All entries of all tables are those of a school of
   `imagecompression.quantisation_tables` at one quality, for luminance and chrominance alike, or at
   one quality each.
2. **Near.** All tables are the base tables of Annex K times one factor, each entry rounded to
   nearest or each cut, and at the nearest whole quality no entry differs by more than
   `NEAR_LEVELS` levels or `NEAR_SHARE` of it. Encoders with finer qualities than libjpeg's write
   such tables.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from imagecompression.evidence.jpeg_stream import StepTable
from imagecompression.quantisation_tables import (
    SCHOOLS,
    camera_quality,
    photoshop_step,
    unclipped_tables,
)

NEAR_LEVELS = 2
NEAR_SHARE = 0.03
LEAST_STEPS = 16
"""Entries that must be neither 1 nor the largest: only these tell a factor."""

_LARGEST_8, _LARGEST_16 = 255, 32767  # libjpeg's limits
_QUALITIES = range(1, 101)


@dataclass(frozen=True)
class TableFit:
    """Where tables come from.

    Attributes:
        school: One of `SCHOOLS`.
        qualities: Qualities of that school at which it has these (luminance) tables.
        chroma_qualities: The same for chrominance where it has another quality, else None.
        exact: Whether all entries are the school's.
        residual: Largest difference of an entry from the school's; 0 where exact.
        others: Further schools with the same tables.
    """

    school: str
    qualities: tuple[int, ...]
    chroma_qualities: tuple[int, ...] | None
    exact: bool
    residual: int
    others: tuple[str, ...] = ()

    @property
    def quality(self) -> int | None:
        """The quality (of luminance), or None where several have the same tables."""
        return self.qualities[0] if len(self.qualities) == 1 else None

    def note(self) -> str:
        """What a reader must know about the number."""
        notes = []
        if self.school != "standard":
            notes.append(f"on the scale of the school {self.school}")
        if self.school == "photoshop":
            step = photoshop_step(self.qualities[0])
            notes.append(
                "between Photoshop's own steps" if step is None else f"Photoshop's step {step}"
            )
        own = camera_quality(self.school)
        if own is not None:
            notes.append(
                "the camera's own tables"
                if own in self.qualities
                else "the camera's tables, scaled by another program"
            )
        if self.chroma_qualities is not None:
            notes.append(f"chrominance at quality {_span(self.chroma_qualities)}")
        if len(self.qualities) > 1:
            notes.append(f"the same tables at qualities {_span(self.qualities)}")
        if self.others:
            notes.append(f"the same tables in {', '.join(self.others)}")
        if not self.exact:
            notes.append(
                "the standard's tables times a factor that no whole quality has; entries differ by "
                f"up to {self.residual} from this quality's"
            )
        return "; ".join(notes)

    def to_json(self) -> dict[str, Any]:
        """The facts as a dict that `json.dumps` takes."""
        chroma = self.chroma_qualities
        return {
            "school": self.school,
            "qualities": list(self.qualities),
            "chroma_qualities": None if chroma is None else list(chroma),
            "residual": self.residual,
        }


def fit_tables(luminance: StepTable, chrominance: StepTable | None) -> TableFit | None:
    """The school and quality of a file's tables by the two rules above, or None.

    Args:
        luminance: `(8, 8)` steps in natural order.
        chrominance: The same, or None for a picture with one table.

    >>> fit_tables(*unclipped_tables("standard", 83)).quality
    83
    """
    return _exact(luminance, chrominance) or _near(luminance, chrominance)


def _exact(luminance: StepTable, chrominance: StepTable | None) -> TableFit | None:
    first = _known(0).get(luminance.tobytes(), {})
    second = first if chrominance is None else _known(1).get(chrominance.tobytes(), {})
    fits: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None]] = {}
    for school in (school for school in first if school in second):
        both = tuple(quality for quality in first[school] if quality in second[school])
        fits[school] = (both, None) if both else (first[school], second[school])
    if not fits:
        return None
    # One quality for both tables is the simpler story.
    school = min(fits, key=lambda name: (fits[name][1] is not None, SCHOOLS.index(name)))
    qualities, chroma = fits[school]
    others = tuple(
        name for name in fits if name != school and (fits[name][1] is None) == (chroma is None)
    )
    return TableFit(school, qualities, chroma, True, 0, others)


@functools.cache
def _known(place: int) -> dict[bytes, dict[str, tuple[int, ...]]]:
    """School and qualities by the bytes of a table, luminance (0) or chrominance (1)."""
    known: dict[bytes, dict[str, tuple[int, ...]]] = {}
    for school in SCHOOLS:
        for quality in _QUALITIES:
            table = unclipped_tables(school, quality)[place]
            for largest in {min(int(table.max()), _LARGEST_16), _LARGEST_8}:
                schools = known.setdefault(np.clip(table, 1, largest).tobytes(), {})
                if quality not in schools.get(school, ()):
                    schools[school] = (*schools.get(school, ()), quality)
    return known


def _near(luminance: StepTable, chrominance: StepTable | None) -> TableFit | None:
    bases = unclipped_tables("standard", 50)
    tables = [luminance, *([] if chrominance is None else [chrominance])]
    steps = np.stack(tables).ravel()
    base = np.stack(bases[: len(tables)]).ravel()
    largest = _LARGEST_8 if steps.max() <= _LARGEST_8 else _LARGEST_16
    if np.count_nonzero((steps > 1) & (steps < largest)) < LEAST_STEPS:
        return None
    factor = _factor(steps, base, largest, 0.5) or _factor(steps, base, largest, 0.0)
    if factor is None:
        return None
    quality = round(100 - 50 * factor if factor <= 1 else 50 / factor)
    if quality not in _QUALITIES:
        return None
    nearest = np.stack(unclipped_tables("standard", quality)[: len(tables)]).ravel()
    difference = np.abs(np.clip(nearest, 1, largest) - steps)
    if (difference > np.maximum(NEAR_LEVELS, NEAR_SHARE * steps)).any():
        return None
    return TableFit("standard", (quality,), None, False, int(difference.max()))


def _factor(
    steps: npt.NDArray[np.int64], base: npt.NDArray[np.int64], largest: int, rounding: float
) -> float | None:
    """A factor with ⌊factor · base + rounding⌋ = steps (clipped) for all entries, or None."""
    low = np.where(steps > 1, (steps - rounding) / base, 0.0).max()
    high = np.where(steps < largest, (steps + 1 - rounding) / base, np.inf).min()
    return float(low + high) / 2 if low < high else None


def _span(qualities: tuple[int, ...]) -> str:
    """``75``, or ``77, 78``."""
    return ", ".join(map(str, qualities))
