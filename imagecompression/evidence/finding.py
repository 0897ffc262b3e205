"""A finding: one fact about a picture or a file, and how it is known."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["OBSERVED", "DERIVED", "INFERRED", "NOT_AVAILABLE"]
"""Read as it stands; computed from what was read; concluded, with thresholds; not to be had."""


@dataclass(frozen=True)
class Finding:
    """One fact.

    Attributes:
        name: What it is about.
        value: A JSON value; None where the status is ``"NOT_AVAILABLE"``.
        status: How it is known.
        note: What a reader must know to check it or to judge it.
    """

    name: str
    value: Any
    status: Status
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields as a dict that `json.dumps` takes."""
        return asdict(self)
