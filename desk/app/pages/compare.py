"""*Compare*: several codecs on one picture."""

from __future__ import annotations

import streamlit as st

from desk.app.codec_comparison import Compared, compare, crops, encoded_files, parse_ratios
from desk.app.compression import available_codecs
from desk.app.page import BOUNDS, literal, one_upload, sentences_for_errors, show_command
from desk.app.picture_view import png, window

CROP = 192
"""Side of the parts that are shown beside each other, in pixels."""

_KEPT = "compared"
"""Session state: the identifier of the upload, the comparison, and files made for crops."""

_USUAL = ("jpeg", "jpeg2000", "webp")


def show() -> None:
    """The page."""
    st.title("Compare")
    st.write("What several codecs make of one picture at the same compression ratios.")
    with sentences_for_errors():
        found = one_upload("compare-file")
        names = available_codecs()
        usual = [name for name in _USUAL if name in names]
        codecs = st.multiselect("Codecs", names, usual, key="compare-codecs")
        ratios = st.text_input("Compression ratios", "10,20,40", max_chars=100, key="ratios")
        if found is None:
            st.session_state.pop(_KEPT, None)
            st.caption(f"Upload a picture to start. {BOUNDS}")
            return
        key, upload = found
        if st.button("Compare", type="primary", key="compare-go"):
            st.session_state.pop(_KEPT, None)
            wanted = parse_ratios(ratios)
            bar = st.progress(0.0, "Encoding …")

            def progress(done: int, total: int) -> None:
                bar.progress(done / total, "Encoding …")

            compared = compare(upload, codecs, wanted, progress)
            bar.empty()
            st.session_state[_KEPT] = (key, compared, {})
        kept: tuple[str, Compared, dict[float, list[bytes]]] | None
        kept = st.session_state.get(_KEPT)
        if kept is not None and kept[0] == key:
            _show_result(*kept[1:])


def _show_result(compared: Compared, files: dict[float, list[bytes]]) -> None:
    for name, error in compared.errors:
        st.error(literal(f"{name}: {error}"))
    st.image(compared.plot, output_format="PNG")
    st.download_button(
        "Download the plot", compared.plot, "rate_distortion.png", "image/png", on_click="ignore"
    )
    st.dataframe(compared.rows(), key="points")
    show_command(compared.command)
    _show_crops(compared, files)


@st.fragment  # a slider that ran the page again would take its download away for that time
def _show_crops(compared: Compared, files: dict[float, list[bytes]]) -> None:
    st.subheader("At equal size")
    ratio = st.selectbox(
        "Ratio", compared.ratios, format_func=lambda value: f"{value:g}:1", key="crop-ratio"
    )
    points = compared.nearest(ratio)
    left, right = st.columns(2)
    across = left.slider("From left to right", 0, 100, 50, key="crop-across") / 100
    down = right.slider("From top to bottom", 0, 100, 50, key="crop-down") / 100
    if ratio not in files:
        with st.spinner("Encoding …"):
            files[ratio] = encoded_files(compared, points)
    part = window(compared.source, across, down, CROP)
    shown = crops(compared, points, files[ratio], part)
    columns = st.columns(min(4, len(shown)))
    for number, (caption, image) in enumerate(shown):
        columns[number % len(columns)].image(
            png(image), caption=caption, width="stretch", output_format="PNG"
        )
