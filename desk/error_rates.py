"""Error rates that were measured for a run: how often a verdict like this one is right.

``error_rates.json`` lies beside the model: ``{"schema": "imagecompression-error-rates/1",
"model_sha256": …, "rows": [{"level", "class", "band", "accuracy", "n"}, …]}``. ``level`` is
"picture" or "patch", ``class`` a label of the run, ``accuracy`` the share of n items that were
named rightly, and ``band`` says for which pictures it holds: an object of `MEASURES`, each with
[low, high), where null is an open end; {} holds for all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagecompression.errors import ImageCompressionError
from imagecompression.evidence.finding import Finding

ERROR_RATES_FILE = "error_rates.json"
SCHEMA = "imagecompression-error-rates/1"

MEASURES = ("short_side", "quality", "ratio")
"""Pixels of the shorter side; JPEG quality; size of the pixels over that of the file."""

MAX_BYTES, MAX_ROWS = 1 << 22, 20_000
NAME = "measured error rates"


class ErrorRatesError(ImageCompressionError):
    """An ``error_rates.json`` that is damaged."""


@dataclass(frozen=True)
class ErrorRate:
    """One measured share.

    Attributes:
        level: "picture" or "patch".
        label: The class.
        band: Low (inclusive) and high (exclusive) of each of `MEASURES` that matters.
        accuracy: Share named rightly, 0 to 1.
        n: Number of items that it rests on, at least 1.
    """

    level: str
    label: str
    band: dict[str, tuple[float, float]]
    accuracy: float
    n: int

    def holds_for(self, measures: Mapping[str, float]) -> bool:
        """Whether a picture with these measures lies in the band; unknown ones never do."""
        return all(
            name in measures and low <= measures[name] < high
            for name, (low, high) in self.band.items()
        )

    def to_json(self) -> dict[str, Any]:
        """The row as the file has it."""
        band = {name: [_open(low), _open(high)] for name, (low, high) in self.band.items()}
        return {
            "level": self.level, "class": self.label, "band": band, "accuracy": self.accuracy,
            "n": self.n,
        }  # fmt: skip


def read_error_rates(run: Path, model_sha256: str) -> tuple[ErrorRate, ...] | None:
    """The rows of a run directory's `ERROR_RATES_FILE`; None if there are none for this model.

    Raises:
        ErrorRatesError: The file is damaged.
    """
    path = run / ERROR_RATES_FILE
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"its schema is {content['schema']!r}, not {SCHEMA!r}")
        if len(content["rows"]) > MAX_ROWS:
            raise ValueError(f"more than {MAX_ROWS:,} rows")
        if content["model_sha256"] != model_sha256:
            return None
        return tuple(_row(row) for row in content["rows"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ErrorRatesError(
            f"{path}: cannot be read: {error}. Measure them anew, or take the file away."
        ) from error


def error_rates_finding(
    rates: tuple[ErrorRate, ...] | None, label: str | None, measures: Mapping[str, float]
) -> Finding:
    """What was measured for pictures like this one, the narrowest bands first, at most ten rows.

    Args:
        rates: From `read_error_rates`.
        label: The class that was named; None if none was.
        measures: Those of `MEASURES` that are known of the picture.
    """
    if rates is None:
        return Finding(
            NAME, None, "NOT_AVAILABLE", f"the run has no {ERROR_RATES_FILE} for its model"
        )
    fitting = [rate for rate in rates if rate.label == label and rate.holds_for(measures)]
    if not fitting:
        return Finding(NAME, None, "NOT_AVAILABLE", "none were measured on pictures like this one")
    fitting.sort(key=lambda rate: -len(rate.band))
    return Finding(
        NAME,
        [rate.to_json() for rate in fitting[:10]],
        "OBSERVED",
        f"share of `{label}` named rightly, on the pictures that the run was measured on",
    )


def _row(row: dict[str, Any]) -> ErrorRate:
    band = {str(name): (_end(low, -1), _end(high, 1)) for name, (low, high) in row["band"].items()}
    rate = ErrorRate(
        str(row["level"]), str(row["class"]), band, float(row["accuracy"]), int(row["n"])
    )
    known = rate.level in ("picture", "patch") and set(band) <= set(MEASURES)
    if not known or not 0 <= rate.accuracy <= 1 or rate.n < 1:
        raise ValueError(f"an impossible row: {str(row)[:200]}")
    return rate


def _end(value: float | None, sign: int) -> float:
    return sign * math.inf if value is None else float(value)


def _open(value: float) -> float | None:
    return None if math.isinf(value) else value
