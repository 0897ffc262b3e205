"""The report on an examination: one JSON model, and a page and a PDF made from it.

Equal pictures, runs and versions give equal bytes: the model holds no time and no folder. Texts out
of the evidence (names, metadata) are made printable once, here; the page and the PDF escape them.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from desk.examination import LIMITS, Examination
from desk.tool_facts import model_facts, run_name
from train.families import family_of
from train.verdict import as_json

if TYPE_CHECKING:
    from train.run import Run

SCHEMA = "imagecompression-report/1"

MAX_TEXT = 2000
"""Characters of a text out of the evidence that are kept."""

REGION_HEADS = ("looks like", "confidence", "share of the area", "box in pixels", "patches")

MIXED_NOTE = (
    "Parts look like different codecs; lines in black and white show the borders in the map. A box "
    "is width × height at (left, top). That the parts differ is surer than what they are: a mild "
    "codec may be called “uncompressed” or by another name. The verdict above is for the picture "
    "as a whole."
)

_DEPTH = 12


@dataclass(frozen=True, eq=False)
class Report:
    """The three files of a report.

    Attributes:
        model: What the JSON file holds.
        json: The model as ASCII.
        html: A page that needs no other file.
        pdf: The same for paper.
    """

    model: dict[str, Any]
    json: bytes
    html: bytes
    pdf: bytes


def make_report(examination: Examination, run: Run, tool: Mapping[str, Any]) -> Report:
    """The report on an examination that `run` was asked for.

    Args:
        examination: See `desk.examination.examine`.
        run: The run.
        tool: `desk.tool_facts.tool_facts()`.

    Raises:
        ImageCompressionError: The run's calibration or rejection cannot be loaded.
    """
    from desk.report_page import report_page
    from desk.report_pdf import report_pdf

    model = report_model(examination, run, tool)
    return Report(
        model,
        json_bytes(model),
        report_page(model, examination.map_picture),
        report_pdf(model, examination.map_picture),
    )


def report_model(examination: Examination, run: Run, tool: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON-ready content of a report; see `make_report`."""
    found = examination
    verdict: dict[str, Any] = {"verdict": found.answer}
    if found.verdict is not None:
        verdict = {
            **as_json(found.verdict),
            "verdict": found.answer,
            "probability": found.verdict.probability,
        }
    else:
        verdict["reason"] = found.error or found.not_enough
    file = found.file
    content = {
        "schema": SCHEMA,
        "file": {
            "name": file.name,
            "bytes": file.byte_count,
            "sha256": file.sha256,
            "sha256_after": file.sha256_after or None,
            "unchanged": file.unchanged,
        },
        "picture": None if found.picture is None else asdict(found.picture),
        "error": found.error or None,
        "verdict": verdict,
        "agreement": asdict(found.agreement),
        "container": {
            "format": found.container.format,
            "codec": found.container.codec,
            "findings": [one.to_json() for one in found.container.findings],
        },
        "pixel_evidence": None if found.pixels is None else found.pixels.to_json(),
        "map": None if found.trace_map is None else found.trace_map.to_json(),
        "regions": None if found.regions is None else found.regions.to_json(),
        "error_rates": found.error_rates.to_json(),
        "known_confusions": found.confusions,
        "limits": LIMITS,
        "tool": tool,
        "model": model_facts(run),
        "command": command_again(file.name, run),
    }
    ready: dict[str, Any] = plain(content)
    return ready


def command_again(name: str, run: Run) -> str:
    """The command that makes this report again; folders are left to the reader, hashes tell all.

    The command as it was typed stands in the case log, with the time.
    """
    named = run_name(run)
    options = ["--run", printable(named)] if named else []
    return shlex.join(["python", "main.py", "report", printable(name), "--out", "DIR", *options])


def json_bytes(model: Any) -> bytes:
    """A model as indented ASCII JSON with a line break at its end."""
    return (json.dumps(model, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def printable(text: str) -> str:
    r"""A text in which all that cannot be seen is escaped, `MAX_TEXT` characters at most.

    Line breaks and controls, among them those that turn the direction of writing, would make a name
    look like another.

    >>> printable("photo\u202egpj.exe\n")
    'photo\\u202egpj.exe\\n'
    """
    cut = text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut
    )


def plain(content: Any, depth: int = 0) -> Any:
    """JSON values of `content`: printable texts, floats to 6 decimals, what is not finite None."""
    if content is None or isinstance(content, (bool, int)):
        return content
    if isinstance(content, str):
        return printable(content)
    if isinstance(content, float):
        return round(content, 6) if math.isfinite(content) else None
    if depth < _DEPTH and isinstance(content, Mapping):
        return {printable(str(key)): plain(value, depth + 1) for key, value in content.items()}
    if depth < _DEPTH and isinstance(content, (list, tuple)):
        return [plain(value, depth + 1) for value in content]
    if isinstance(content, np.generic):
        return plain(content.item(), depth)
    return printable(str(content))


def region_rows(model: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The regions of a mixed picture as rows of a table; none for others.

    Columns as in `REGION_HEADS`.
    """
    regions = model["regions"]["regions"] if model["regions"] else []
    rows: list[tuple[str, ...]] = []
    for region in regions:
        left, top, right, bottom = region["box"]
        rows.append(
            (
                region["label"],
                f"{region['confidence']:.2f}",
                f"{100 * region['area_share']:.1f} %",
                f"{right - left}×{bottom - top} at ({left}, {top})",
                f"{region['patches']}, and {region['flat']} flat or drawn",
            )
        )
    return rows


def family_title(model: Mapping[str, Any]) -> str:
    """The family of the class named, with its probability; empty without a verdict."""
    verdict = model["verdict"]
    family, label = verdict.get("family"), verdict.get("label")
    if not family or not label:
        return ""
    note = "" if family == family_of(label) else ", another than that of the class named"
    return f"{family} ({verdict['family_probability']:.3f}{note})"
