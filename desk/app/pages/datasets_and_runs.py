"""*Datasets and runs*: what was built and what was trained, below the root of the app."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path

import pandas as pd
import streamlit as st

from desk.app.compression import argument, command
from desk.app.dataset_view import (
    MEASURES,
    DatasetView,
    audit_rows,
    distribution,
    read_dataset_view,
    read_sample,
    samples,
)
from desk.app.folders import find_datasets, find_runs
from desk.app.page import literal, sentences_for_errors, show_command
from desk.app.picture_view import png, window
from desk.app.run_view import find_evaluations, read_evaluation, read_run
from desk.app.settings import app_settings

ROWS = 50
"""Samples on a page of the table."""


def show() -> None:
    """The page."""
    st.title("Datasets and runs")
    root = app_settings().root
    if root is None:
        st.info("Start the app with the option root to browse the datasets and runs below it.")
        st.code("python main.py app --root DIR", language="bash")
        return
    dataset, run = st.tabs(["Dataset", "Run"])
    with dataset, sentences_for_errors():
        _show_datasets(find_datasets(root))
    with run, sentences_for_errors():
        _show_runs(find_runs(root), root)


def _show_datasets(found: dict[str, Path]) -> None:
    if not found:
        st.info("There is no dataset here.")
        return
    name = st.selectbox("Dataset", list(found), key="dataset")
    view = _dataset(found[name])
    st.write(f"{view.table.num_rows:,} samples, patches of {view.patch_size} pixels")
    st.dataframe(
        [
            {
                "class": one.label,
                "samples": one.samples,
                "failed": one.failed,
                "off target": one.unreached,
                "encodes a target": one.encodes_per_target,
                "median ratio": one.median_ratio,
                "median SSIM": one.median_ssim,
            }
            for one in view.classes
        ],
        key="classes",
    )
    st.bar_chart(pd.DataFrame(view.splits), y_label="samples", stack=True, horizontal=True)
    _show_distribution(view)
    _show_audit(view, name)
    _show_samples(view)


@st.cache_resource(max_entries=2, show_spinner="Reading the manifest …", ttl=600)
def _dataset(folder: Path) -> DatasetView:
    return read_dataset_view(folder)


def _show_distribution(view: DatasetView) -> None:
    st.subheader("Distributions")
    measure = st.selectbox("Measure", MEASURES, key="measure")
    edges, counts = distribution(view, measure)
    middles = [float((low + high) / 2) for low, high in itertools.pairwise(edges)]
    st.line_chart(pd.DataFrame(counts, index=middles), x_label=measure, y_label="samples")


def _show_audit(view: DatasetView, name: str) -> None:
    st.subheader("Bias audit")
    audit = audit_rows(view)
    if audit is None:
        st.info("The build wrote no audit.")
    else:
        verdict, checks, limits = audit
        st.markdown(f"Verdict: **{literal(verdict)}**")
        st.dataframe(checks, key="checks")
        for limit in limits:
            st.write(f"- {literal(limit)}")
    show_command(command(["audit", argument(name)]))


def _show_samples(view: DatasetView) -> None:
    st.subheader("Samples")
    one, two, three = st.columns(3)
    labels = one.multiselect("Classes", view.labels, key="sample-labels", placeholder="all")
    splits = two.multiselect("Splits", list(view.splits), key="sample-splits", placeholder="all")
    page = int(three.number_input("Page", 1, 1_000_000, 1, key="sample-page"))
    rows, total = samples(view, labels, splits, ROWS * (page - 1), ROWS)
    st.caption(f"{total:,} samples, page {page:,} of {max(1, -(-total // ROWS)):,}")
    if not rows:
        return
    st.dataframe(rows, key="samples")
    chosen = st.selectbox(
        "Picture",
        range(len(rows)),
        format_func=lambda number: rows[number]["sample_id"],
        key="sample",
    )
    image = read_sample(view, rows[chosen]["path"])
    st.image(
        png(window(image, 0.5, 0.5).of(image)),
        caption="At most 1024×1024 pixels of it",
        output_format="PNG",
    )


def _show_runs(found: dict[str, Path], root: Path) -> None:
    if not found:
        st.info("There is no run here.")
        return
    name = st.selectbox("Run", list(found), key="run")
    folder = found[name]
    run = read_run(folder)
    st.write(literal(f"{len(run.labels)} classes: {', '.join(run.labels)}"))
    settings = run.config.get("train")
    if isinstance(settings, dict):
        with st.expander("Settings"):
            rows = [{"setting": str(k), "value": str(v)} for k, v in settings.items()]
            st.dataframe(rows, key="run-settings")
    history = pd.DataFrame(run.history)
    if "epoch" in history:
        history = history.set_index("epoch")
        for measure in ("loss", "accuracy"):
            curves = [c for c in (measure, f"val_{measure}") if c in history]
            if curves:
                st.line_chart(history[curves], x_label="epoch", y_label=measure)
    evaluations = find_evaluations(root, folder)
    if not evaluations:
        st.info("The run has no evaluation yet. This makes one:")
        st.code(f"{command(['evaluate', argument(name)])} DATASET", language="bash")
        return
    chosen = st.selectbox("Evaluation", list(evaluations), key="evaluation")
    _show_evaluation(name, evaluations[chosen])


def _show_evaluation(run: str, folder: Path) -> None:
    found = read_evaluation(folder)
    level = st.radio("Level", list(found.confusion), horizontal=True, key="level")
    st.metric("Accuracy", f"{found.accuracy[level]:.1%}")
    st.caption(literal(", ".join(f"{key} {value}" for key, value in found.facts.items())))
    st.subheader("Confusion: rows are the truth, columns the answers")
    counts = pd.DataFrame(found.confusion[level], index=found.labels, columns=found.labels)
    shares = counts.div(counts.sum(axis=1).clip(lower=1), axis=0)
    shaded = counts.style.background_gradient("Blues", axis=None, gmap=shares, vmin=0, vmax=1)
    st.dataframe(shaded, height="content", key="confusion")
    st.subheader("Accuracy by band")
    st.dataframe([row for row in found.bands if row["level"] == level], key="bands")
    split = shlex.quote(str(found.facts["split"]))
    show_command(f"{command(['evaluate', argument(run)])} DATASET --split {split}")
