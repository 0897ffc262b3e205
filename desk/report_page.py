"""Reports and their index as HTML pages that need no other file and no network.

Jinja2 escapes all texts. A content security policy forbids whatever would slip through: scripts but
the index's own (by its hash), and anything from elsewhere.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from desk.map_picture import ABSTAINING_COLOR, class_colors
from desk.page_template import script_source, template_environment
from desk.report import MIXED_NOTE, REGION_HEADS, family_title, region_rows

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"

LONG_TEXT = 120
"""Values of more characters are folded away on the page."""


def report_page(model: Mapping[str, Any], map_picture: bytes = b"") -> bytes:
    """The page of one report, UTF-8.

    Args:
        model: `desk.report.report_model`.
        map_picture: PNG of its map; empty where there is none.
    """
    labels = model["model"]["labels"]
    picture = base64.b64encode(map_picture).decode("ascii")
    page = (
        _environment()
        .get_template("report.html")
        .render(
            report=model,
            title=model["file"]["name"],
            family=family_title(model),
            regions=region_rows(model),
            region_heads=REGION_HEADS,
            mixed_note=MIXED_NOTE,
            colors={**class_colors(labels), "abstained": ABSTAINING_COLOR},
            map_uri=f"data:image/png;base64,{picture}" if picture else "",
        )
    )
    return page.encode("utf-8")


def index_page(index: Mapping[str, Any]) -> bytes:
    """The page of a batch, UTF-8: a table sorted by a click on a column's head.

    Args:
        index: What ``index.json`` holds, see `desk.batch.write_reports`.
    """
    script = (TEMPLATES / "sort.js").read_text(encoding="utf-8")
    page = (
        _environment()
        .get_template("index.html")
        .render(index=index, title="Reports", script=script, script_hash=script_source(script))
    )
    return page.encode("utf-8")


def value_text(value: Any) -> str:
    """A finding's value as a reader sees it.

    >>> value_text([3, 5]), value_text("4:2:0"), value_text(None)
    ('[3, 5]', '4:2:0', '–')
    """
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@cache
def _environment() -> Environment:
    environment = template_environment(TEMPLATES)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters["value_text"] = value_text
    environment.globals["long_text"] = LONG_TEXT
    return environment
