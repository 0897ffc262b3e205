"""*Compress*: a picture encoded by hand or to a target, and looked at beside its source."""

from __future__ import annotations

import math
from typing import Any

import streamlit as st

from desk.app.compression import Compressed, TargetKind, Wish, available_codecs, compress
from desk.app.page import BOUNDS, literal, one_upload, sentences_for_errors, show_command
from desk.app.picture_view import MAX_VIEW, difference, png, slider_page, window
from imagecompression import CODECS
from imagecompression.codec_options import CodecOption, codec_options

_KEPT = "compressed"
"""Session state: the identifier of the upload and what it was compressed to."""

_TARGETS: dict[str, TargetKind] = {"ratio": "ratio", "bytes": "bytes", "SSIM": "ssim"}


def show() -> None:
    """The page."""
    st.title("Compress")
    st.write("One picture, one codec: by hand, or to a ratio, a size or an SSIM.")
    with sentences_for_errors():
        found = one_upload("compress-file")
        wish = _wish()
        if found is None:
            st.session_state.pop(_KEPT, None)
            st.caption(f"Upload a picture to start. {BOUNDS}")
            return
        key, upload = found
        if st.button("Compress", type="primary", key="compress-go"):
            st.session_state.pop(_KEPT, None)
            with st.spinner("Encoding …", show_time=True):
                st.session_state[_KEPT] = (key, compress(upload, wish))
        kept: tuple[str, Compressed] | None = st.session_state.get(_KEPT)
        if kept is not None and kept[0] == key:
            _show_result(kept[1])


def _wish() -> Wish:
    """The fields for codec, mode and options."""
    name = st.selectbox("Codec", available_codecs(), index=1, key="compress-codec")
    kind = CODECS[name]
    options = codec_options(kind)
    target: TargetKind | None = None
    value = 0.0
    if kind.knob is not None:
        modes = ("by hand", "to a target")
        if st.radio("Mode", modes, horizontal=True, key="compress-mode") == modes[1]:
            target = _TARGETS[st.selectbox("Target", list(_TARGETS), key="compress-target")]
            value = _target_value(target)
    values: dict[str, Any] = {}
    for option in options:
        if option.is_knob and target is None:
            values[option.name] = _field(name, option)
    others = [option for option in options if not option.is_knob]
    if others:
        with st.expander("Options of the codec"):
            for option in others:
                values[option.name] = _field(name, option)
    return Wish(name, values, target, value)


def _target_value(target: TargetKind) -> float:
    if target == "ratio":
        return float(st.number_input("Ratio", 1.0, 1000.0, 20.0, key="compress-ratio"))
    if target == "bytes":
        return float(st.number_input("Bytes", 1, 1 << 30, 50_000, key="compress-bytes"))
    return float(
        st.number_input("SSIM", 0.01, 0.9999, 0.95, 0.01, format="%.4f", key="compress-ssim")
    )


def _field(codec: str, option: CodecOption) -> Any:
    """A field for one parameter, of the kind that its values ask for."""
    label, key = option.name.replace("_", " "), f"{codec}-{option.name}"
    if option.choices == (False, True):
        return st.checkbox(label, option.default, key=key)
    if option.choices:
        at = option.choices.index(option.default)
        return st.selectbox(label, option.choices, at, key=key)
    assert option.low is not None and option.high is not None
    if option.integer:
        return int(
            st.number_input(label, int(option.low), int(option.high), option.default, key=key)
        )
    return float(
        st.number_input(
            label,
            float(option.low),
            float(option.high),
            float(option.default),
            format="%g",
            key=key,
        )
    )


def _show_result(found: Compressed) -> None:
    facts = found.facts
    figures = (
        ("Bytes", f"{facts.bytes:,}"),
        ("Ratio", f"{facts.ratio:.2f}"),
        ("Bits per pixel", f"{facts.bits_per_pixel:.3f}"),
        ("PSNR, dB", f"{facts.psnr_db:.2f}" if math.isfinite(facts.psnr_db) else "∞"),
        ("SSIM", f"{facts.ssim:.4f}"),
        ("MS-SSIM", f"{facts.ms_ssim:.4f}" if math.isfinite(facts.ms_ssim) else "–"),
    )
    for column, (title, text) in zip(st.columns(len(figures)), figures, strict=True):
        column.metric(title, text)
    if not facts.reached:
        st.warning(literal(facts.reason))
    for note in facts.notes:
        st.caption(literal(note))
    used = " ".join(f"{name}={value}" for name, value in facts.params.items())
    st.caption(literal(f"{facts.codec} {used}"))
    st.download_button(
        "Download the file",
        found.data,
        file_name=found.name,
        mime="application/octet-stream",
        key="compress-download",
        on_click="ignore",
    )
    show_command(found.command)
    _show_pictures(found)


@st.fragment  # a slider that ran the page again would take its download away for that time
def _show_pictures(found: Compressed) -> None:
    height, width = found.source.shape[:2]
    across = down = 0.5
    if max(height, width) > MAX_VIEW:
        st.caption(f"A part of {MAX_VIEW}×{MAX_VIEW} pixels is shown.")
        left, right = st.columns(2)
        across = left.slider("From left to right", 0, 100, 50, key="compress-across") / 100
        down = right.slider("From top to bottom", 0, 100, 50, key="compress-down") / 100
    part = window(found.source, across, down)
    source, decoded = part.of(found.source), part.of(found.decoded)
    st.iframe(slider_page(source, decoded, "source", found.facts.codec), height=580)
    gain = st.slider("Difference, magnified", 1, 32, 8, key="compress-gain")
    st.image(
        png(difference(source, decoded, gain)), caption=f"Difference × {gain}", output_format="PNG"
    )
