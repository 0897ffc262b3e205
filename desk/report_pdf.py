"""Reports as PDF: the same content as the page, for paper and files.

ReportLab writes equal bytes for equal content (`invariant`). Texts are escaped before they become
paragraphs, because ReportLab reads those as markup.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from desk.map_picture import class_colors
from desk.report import MIXED_NOTE, REGION_HEADS, family_title, region_rows
from desk.report_page import value_text

MAX_FINDINGS = 200
"""Findings of one kind that are printed; the JSON file holds all."""

MAX_CHARACTERS = 400
"""Of a value or a note; longer ones would not fit into a row of a table."""

_BODY, _SMALL = 9.0, 7.5


def report_pdf(model: Mapping[str, Any], map_picture: bytes = b"") -> bytes:
    """The PDF of one report.

    Args:
        model: `desk.report.report_model`.
        map_picture: PNG of its map; empty where there is none.
    """
    from reportlab import rl_config
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.units import mm
    from reportlab.platypus import SimpleDocTemplate

    rl_config.useA85 = 0  # its text form of streams is slow, and a quarter larger
    name = _text(model["file"]["name"], 200)
    out = io.BytesIO()
    document = SimpleDocTemplate(
        out,
        pagesize=A4,
        leftMargin=18 * mm,
        rightMargin=18 * mm,
        topMargin=16 * mm,
        bottomMargin=16 * mm,
        title=f"Report: {name}",
        author="",
        invariant=1,
    )

    def footer(canvas: Any, page: Any) -> None:
        canvas.setFont(_font(), 7)
        digest = model["file"]["sha256"]
        canvas.drawString(18 * mm, 9 * mm, f"SHA-256 {digest}   page {page.page}")

    document.build(
        _story(model, map_picture, document.width), onFirstPage=footer, onLaterPages=footer
    )
    return out.getvalue()


def _story(model: Mapping[str, Any], map_picture: bytes, width: float) -> list[Any]:
    from reportlab.platypus import Spacer

    verdict, file = model["verdict"], model["file"]
    story = [
        _paragraph(file["name"], size=14),
        Spacer(1, 6),
        _paragraph(model["agreement"]["sentence"], size=11),
        _head("Verdict"),
    ]
    if model["error"]:
        story.insert(3, _paragraph(f"The pixels could not be read. {model['error']}"))
    if not file["unchanged"]:
        story.insert(3, _paragraph("The file on disk is no longer what was examined."))
    label = verdict.get("label")
    answer = verdict["verdict"]
    regions = region_rows(model)
    if label:
        near = "" if verdict["status"] == "named" else f"; nearest class: {label}"
        near = f"; as a whole nearest to {label}" if regions else near
        sure = "" if verdict["calibrated"] else " (not calibrated: it only ranks the classes)"
        answer += f"{near}, probability {verdict['probability']:.3f}{sure}"
    story.append(_paragraph(answer))
    if verdict.get("reason"):
        story.append(_paragraph(verdict["reason"]))
    if verdict.get("judged"):
        story.append(_paragraph(verdict["judged"]))
    if "probabilities" in verdict:
        patches = (
            f"{verdict['agreement']:.2f} of {verdict['patches']} patches asked; "
            f"{verdict['left_out']} flat or drawn ones left out"
        )
        rows = [
            ("family", family_title(model) or "–"),
            ("log10 likelihood ratio", value_text(verdict["log10_likelihood_ratio"])),
            ("agreement of the patches", patches),
        ]
        story += [_facts(rows, width), Spacer(1, 6), _bars(model, width)]
    if model["map"]:
        shares = [
            (name, f"{100 * share:.1f} %") for name, share in model["map"]["area_shares"].items()
        ]
        story += [
            _head("Trace map"),
            _picture(map_picture, width),
            _facts(shares, width),
            _paragraph(
                "Share of the area by most probable class, in the colours of the bars above. Each "
                "patch was judged alone; gray places are flat or drawn. Single patches are "
                "often wrong.",
                size=_SMALL,
            ),
        ]
    if regions:
        widths = [share * width for share in (0.18, 0.14, 0.18, 0.28, 0.22)]
        story += [
            _head("Mixed: regions with different histories"),
            _table([REGION_HEADS, *regions], widths, head=True),
            _paragraph(MIXED_NOTE, size=_SMALL),
        ]
    witnesses = model["agreement"]
    said = [(name, value_text(witnesses[name])) for name in ("container", "network", "classical")]
    story += [_head(f"Witnesses: {witnesses['status']}"), _facts(said, width)]
    story.append(_head("Classical signs in the pixels"))
    pixels = model["pixel_evidence"]
    if pixels and pixels["reason"]:
        story.append(_paragraph(pixels["reason"]))
    story += _findings(pixels["findings"] if pixels else [], width)
    container = model["container"]
    story.append(_head(f"Container: {container['format']}"))
    story += _findings(container["findings"], width)
    story.append(_head("How often such a verdict is right"))
    story += _findings([model["error_rates"]], width)
    story += [_paragraph(f"• {line}") for line in model["known_confusions"]]
    story.append(_head("What not to conclude"))
    story += [_paragraph(f"• {line}") for line in model["limits"]]
    story += [_head("Evidence"), _facts(_pairs(file), width)]
    if model["picture"]:
        story.append(_facts(_pairs(model["picture"]), width))
    story += [
        _head("How to make this report again"),
        _paragraph(model["command"]),
        _facts(_pairs(model["model"]), width),
        _facts(_pairs(model["tool"]), width),
        _paragraph(f"Schema {model['schema']}; the JSON file holds all of it.", size=_SMALL),
    ]
    return story


@cache
def _font() -> str:
    """DejaVu Sans out of matplotlib's wheel, registered: it has Latin, Greek, Cyrillic and more."""
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont

    found = importlib.util.find_spec("matplotlib")
    assert found is not None and found.origin is not None, "matplotlib is a dependency"
    path = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    pdfmetrics.registerFont(TTFont("DejaVuSans", str(path)))
    return "DejaVuSans"


def _text(text: str, limit: int = MAX_CHARACTERS) -> str:
    """A text cut to a length, with escapes for what the font lacks."""
    from reportlab.pdfbase import pdfmetrics

    glyphs = pdfmetrics.getFont(_font()).face.charToGlyph
    cut = text if len(text) <= limit else text[:limit] + "…"
    return "".join(
        char if ord(char) in glyphs else char.encode("unicode_escape").decode() for char in cut
    )


def _paragraph(text: str, size: float = _BODY) -> Any:
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.platypus import Paragraph

    style = ParagraphStyle("text", fontName=_font(), fontSize=size, leading=size * 1.35)
    return Paragraph(escape(_text(text)), style)


def _head(text: str) -> Any:
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.platypus import Paragraph

    style = ParagraphStyle(
        "head", fontName=_font(), fontSize=12, leading=15, spaceBefore=12, spaceAfter=4,
        keepWithNext=1,
    )  # fmt: skip
    return Paragraph(escape(_text(text)), style)


def _table(rows: Sequence[Sequence[str]], widths: Sequence[float], head: bool) -> Any:
    from reportlab.lib import colors
    from reportlab.platypus import Table

    cells = [[_paragraph(cell, _SMALL) for cell in row] for row in rows]
    table = Table(cells, colWidths=list(widths), repeatRows=int(head))
    table.setStyle(
        [
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("LINEBELOW", (0, 0), (-1, -1), 0.25, colors.lightgrey),
            ("LEFTPADDING", (0, 0), (-1, -1), 0),
            ("TOPPADDING", (0, 0), (-1, -1), 1),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
        ]
    )
    return table


def _facts(rows: Sequence[tuple[str, str]], width: float) -> Any:
    return _table(rows, (0.25 * width, 0.75 * width), head=False)


def _pairs(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, value_text(value)) for name, value in facts.items()]


def _findings(rows: Sequence[Mapping[str, Any]], width: float) -> Iterable[Any]:
    if not rows:
        return [_paragraph("None.")]
    told = [
        (row["name"], value_text(row["value"]), row["status"], row["note"])
        for row in rows[:MAX_FINDINGS]
    ]
    shares = (0.22, 0.38, 0.14, 0.26)
    heads = ("finding", "value", "status", "note")
    table = _table([heads, *told], [share * width for share in shares], head=True)
    if len(rows) <= MAX_FINDINGS:
        return [table]
    return [table, _paragraph(f"{len(rows) - MAX_FINDINGS} more: see the JSON file.")]


def _bars(model: Mapping[str, Any], width: float) -> Any:
    """The probability of each class as a bar in the class's colour."""
    from reportlab.graphics.shapes import Drawing, Rect, String
    from reportlab.lib.colors import HexColor

    probabilities = model["verdict"]["probabilities"]
    palette = class_colors(list(probabilities))
    line = 13
    drawing = Drawing(width, line * len(probabilities))
    for place, (label, probability) in enumerate(probabilities.items()):
        bottom = line * (len(probabilities) - 1 - place)
        text = {"fontName": _font(), "fontSize": 8}
        drawing.add(String(85, bottom + 3, _text(label, 24), textAnchor="end", **text))
        long = (width - 140) * probability
        drawing.add(
            Rect(
                90, bottom + 1, long, line - 2, fillColor=HexColor(palette[label]), strokeWidth=0.3
            )
        )
        drawing.add(String(95 + long, bottom + 3, f"{probability:.3f}", **text))
    return drawing


def _picture(png: bytes, width: float) -> Any:
    from reportlab.lib.utils import ImageReader
    from reportlab.platypus import Image

    across, down = ImageReader(io.BytesIO(png)).getSize()
    scale = min(width / across, 320 / down)
    return Image(io.BytesIO(png), width=across * scale, height=down * scale)
