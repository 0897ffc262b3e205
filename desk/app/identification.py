"""The page *Identify*: an uploaded picture examined, with its report and what the map needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from desk.app.upload import Upload, decode, on_disk, one_at_a_time, thumbnail
from desk.examination import examine
from desk.map_picture import MAX_SIDE, map_picture
from desk.regions import Regions
from desk.report import REGION_HEADS, Report, make_report, region_rows
from desk.report_page import value_text
from desk.trace_map import TraceMap

if TYPE_CHECKING:
    from imagecompression.codec import Image
    from train.run import Run


@dataclass(frozen=True, eq=False)
class Identified:
    """What is kept of an examined picture while its session lasts.

    Attributes:
        report: As the command ``report`` writes it.
        small: The picture reduced to `desk.map_picture.MAX_SIDE`; None where there is no map.
        trace_map: None where there is no verdict.
        regions: Whether parts have different histories; None where there is no map.
    """

    report: Report
    small: Image | None
    trace_map: TraceMap | None
    regions: Regions | None

    def drawn(self, strength: float) -> bytes:
        """A PNG of the map over the picture, its colours at a strength from 0 to 1."""
        assert self.small is not None and self.trace_map is not None
        return map_picture(self.small, self.trace_map, self.regions, strength=strength)


def identify(upload: Upload, run: Run, tool: Mapping[str, Any]) -> Identified:
    """Examine an upload.

    A file whose pixels cannot be read has a report on its container, with the error.

    Args:
        upload: The file.
        run: The run whose model is asked.
        tool: `desk.tool_facts.tool_facts()`.

    Raises:
        ImageCompressionError: The run's model or one of its files cannot be loaded.
    """
    with one_at_a_time(), on_disk(upload) as path:
        found = examine(path, run)
        mapped = found.trace_map is not None
        small = thumbnail(decode(upload), MAX_SIDE) if mapped else None
        return Identified(make_report(found, run, tool), small, found.trace_map, found.regions)


def verdict_row(model: Mapping[str, Any]) -> dict[str, Any]:
    """One line of the table of verdicts, from a report's model."""
    verdict = model["verdict"]
    names_one = verdict.get("label") and not region_rows(model)
    return {
        "file": model["file"]["name"],
        "verdict": verdict["verdict"],
        "probability": verdict["probability"] if names_one else None,
        "witnesses": model["agreement"]["status"],
        "format": model["container"]["format"],
        "bytes": model["file"]["bytes"],
    }


def probability_rows(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Classes and their probabilities from a report's model, the most probable first."""
    found = model["verdict"].get("probabilities", {})
    return [
        {"class": label, "probability": found[label]}
        for label in sorted(found, key=lambda label: -found[label])
    ]


def region_table(model: Mapping[str, Any]) -> list[dict[str, str]]:
    """The regions of a mixed picture from a report's model; none for others."""
    return [dict(zip(REGION_HEADS, row, strict=True)) for row in region_rows(model)]


def error_rate_rows(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was measured for pictures like this one, from a report's model; none if nothing was."""
    return [
        {
            "a": rate["level"],
            "of": rate["class"],
            "where": " and ".join(
                f"{name.replace('_', ' ')} {_interval(*ends)}"
                for name, ends in rate["band"].items()
            ),
            "named rightly": rate["accuracy"],
            "number": rate["n"],
        }
        for rate in model["error_rates"]["value"] or []
    ]


def _interval(low: float | None, high: float | None) -> str:
    """A band, open where there is no end."""
    if high is None:
        return "any" if low is None else f"≥ {low:g}"
    return f"< {high:g}" if low is None else f"{low:g} to {high:g}"


def finding_rows(findings: list[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Findings of a report's model as rows of texts."""
    return [
        {
            "finding": one["name"],
            "value": value_text(one["value"]),
            "status": one["status"],
            "note": one["note"],
        }
        for one in findings
    ]
