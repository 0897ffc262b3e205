"""*Identify*: which codec has compressed these pictures?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from desk.app.identification import (
    Identified,
    error_rate_rows,
    finding_rows,
    identify,
    probability_rows,
    region_table,
    verdict_row,
)
from desk.app.page import (
    BOUNDS,
    literal,
    loaded_run,
    sentences_for_errors,
    several_uploads,
    show_command,
    tool,
)
from desk.app.upload import Upload, without_folders
from desk.batch import report_names
from desk.examination import LIMITS
from desk.map_picture import ABSTAINING_COLOR, class_colors
from desk.report import MIXED_NOTE
from imagecompression.errors import ImageCompressionError

_KEPT = "identified"
"""Session state: what is known of each upload, by its identifier."""

_LONG = ("value", "note")
"""Columns of findings that share what room there is."""


def show() -> None:
    """The page."""
    st.title("Identify")
    st.write("Which codec has compressed these pictures, whatever format they are in now?")
    uploads = several_uploads("identify-files")
    with sentences_for_errors():
        found = _examined(uploads)
        if not uploads:
            st.caption(BOUNDS)
        if not found:
            return
        st.dataframe([verdict_row(one.report.model) for one in found], key="verdicts")
        chosen = 0
        if len(found) > 1:
            chosen = st.selectbox(
                "Details of",
                range(len(found)),
                format_func=lambda n: found[n].report.model["file"]["name"],
                key="identify-chosen",
            )
        _show_details(found[chosen])


def _examined(uploads: list[tuple[str, Any]]) -> list[Identified]:
    """The uploads' examinations: kept ones, and new ones. Those of uploads taken away go."""
    kept: dict[str, Identified | str] = st.session_state.get(_KEPT, {})
    kept = {key: kept[key] for key, _ in uploads if key in kept}
    st.session_state[_KEPT] = kept
    for number, (key, upload) in enumerate(uploads, 1):
        if key in kept:
            continue
        if not isinstance(upload, Upload):
            kept[key] = str(upload)
            continue
        run = loaded_run()
        name = literal(upload.safe_name)
        with st.spinner(f"Examining {name}, {number} of {len(uploads)} …", show_time=True):
            try:
                kept[key] = identify(upload, run, tool())
            except ImageCompressionError as error:
                kept[key] = without_folders(str(error), run.path)
    for problem in (one for one in kept.values() if isinstance(one, str)):
        st.error(literal(problem))
    return [one for one in kept.values() if isinstance(one, Identified)]


def _show_details(found: Identified) -> None:
    model = found.report.model
    verdict = model["verdict"]
    st.subheader(literal(model["file"]["name"]))
    st.markdown(f"Verdict: **{literal(verdict['verdict'])}**")
    st.write(literal(model["agreement"]["sentence"]))
    if model["error"]:
        st.error(literal(f"The pixels could not be read. {model['error']}"))
    elif verdict.get("reason"):
        st.info(literal(verdict["reason"]))
    if verdict.get("judged"):
        st.info(literal(verdict["judged"]))
    left, right = st.columns(2)
    with left:
        _show_probabilities(model)
    with right:
        _show_map(found)
    _show_regions(model)
    _show_downloads(found)
    _show_evidence(model)
    show_command(model["command"])


def _show_probabilities(model: dict[str, Any]) -> None:
    rows = probability_rows(model)
    if not rows:
        return
    st.dataframe(
        rows,
        column_config={
            "probability": st.column_config.ProgressColumn(
                format="%.3f", min_value=0.0, max_value=1.0
            )
        },
        height="content",
        key="probabilities",
    )
    if not model["verdict"]["calibrated"]:
        st.caption("Not calibrated: the figures only rank the classes.")


@st.fragment  # a slider that ran the page again would take its downloads away for that time
def _show_map(found: Identified) -> None:
    if found.trace_map is None:
        return
    strength = st.slider("Opacity of the map", 0, 100, 60, 5, key="opacity", format="%d %%")
    st.image(
        found.drawn(strength / 100),
        caption="Most probable class of each place",
        output_format="PNG",
        width="stretch",
    )
    colors = {**class_colors(found.trace_map.labels), "abstained": ABSTAINING_COLOR}
    legend = [
        f'<span style="color:{colors[label]}">■</span> {literal(label)} {share:.0%}'
        for label, share in found.trace_map.area_shares.items()
        if share > 0
    ]
    st.markdown(" &nbsp; ".join(legend), unsafe_allow_html=True)


def _show_regions(model: dict[str, Any]) -> None:
    rows = region_table(model)
    if rows:
        st.markdown("**Mixed: regions with different histories**")
        st.dataframe(rows, key="regions")
        st.caption(MIXED_NOTE)


def _show_evidence(model: dict[str, Any]) -> None:
    pixels = model["pixel_evidence"]
    for title, findings in (
        ("Container", model["container"]["findings"]),
        ("Classical signs in the pixels", pixels["findings"] if pixels else []),
    ):
        with st.expander(title, expanded=title == "Container"):
            if findings:
                widths = {name: st.column_config.Column(width="medium") for name in _LONG}
                st.dataframe(finding_rows(findings), column_config=widths, key=f"findings-{title}")
            else:
                st.write("Nothing.")
    with st.expander("How often such a verdict is right"):
        rates = error_rate_rows(model)
        st.write(literal(model["error_rates"]["note"]))
        if rates:
            st.dataframe(
                rates,
                column_config={"named rightly": st.column_config.NumberColumn(format="percent")},
                key="error-rates",
            )
    with st.expander("File"):
        facts = {**model["file"], **(model["picture"] or {})}
        st.dataframe([{"fact": k, "value": str(v)} for k, v in facts.items()], key="file-facts")
    with st.expander("What not to conclude"):
        for line in (*LIMITS, *model["known_confusions"]):
            st.write(f"- {literal(line)}")


def _show_downloads(found: Identified) -> None:
    (name,) = report_names([Path(found.report.model["file"]["name"])])
    report = found.report
    kinds = (
        ("JSON", report.json, "application/json"),
        ("HTML", report.html, "text/html"),
        ("PDF", report.pdf, "application/pdf"),
    )
    with st.container(horizontal=True):
        for title, data, mime in kinds:
            st.download_button(
                f"Report as {title}",
                data,
                file_name=f"{name}.{title.lower()}",
                mime=mime,
                key=f"report-{title}",
                on_click="ignore",
            )
