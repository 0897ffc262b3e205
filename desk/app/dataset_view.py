"""A built dataset as the page *Datasets and runs* shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from datasets.build import AUDIT_FILE, ClassSummary, read_dataset, summarise
from datasets.manifest import MANIFEST_FILE, read_manifest
from desk.app.folders import below, read_json
from desk.app.settings import AppError
from desk.app.upload import one_at_a_time
from imagecompression.image_io import read_image

if TYPE_CHECKING:
    import pyarrow as pa

    from imagecompression.codec import Image

MAX_MANIFEST_BYTES = 256 << 20

MEASURES = ("ratio", "bits_per_pixel", "psnr_db", "ssim", "file_bytes", "width", "height")
"""Columns of the manifest whose distributions are shown."""

COLUMNS = (
    "sample_id", "label", "split", "history", "target_kind", "target_value", "ratio", "ssim",
    "psnr_db", "file_bytes", "width", "height", "source_file", "encoder", "params", "path",
)  # fmt: skip
"""Columns of the table of samples."""

BINS = 24


@dataclass(frozen=True, eq=False)
class DatasetView:
    """A dataset.

    Attributes:
        folder: Where it is.
        labels: Its classes.
        patch_size: Side of its patches.
        table: Its manifest.
        classes: A summary of each class.
        splits: Number of samples by split and class.
    """

    folder: Path
    labels: tuple[str, ...]
    patch_size: int
    table: pa.Table
    classes: list[ClassSummary]
    splits: dict[str, dict[str, int]]


def read_dataset_view(folder: Path) -> DatasetView:
    """Read a dataset's description and manifest.

    Raises:
        ImageCompressionError: One of them is missing, damaged or too large.
    """
    size = (folder / MANIFEST_FILE).stat().st_size
    if size > MAX_MANIFEST_BYTES:
        raise AppError(
            f"{MANIFEST_FILE} has {size:,} bytes; up to {MAX_MANIFEST_BYTES:,} are shown."
        )
    description = read_dataset(folder)
    try:
        labels = tuple(str(label) for label in description["labels"])
        patch_size = int(description["patch_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise AppError("The dataset's description names no classes or no patch size.") from error
    table = read_manifest(folder)
    counts = Counter(zip(table["split"].to_pylist(), table["label"].to_pylist(), strict=True))
    return DatasetView(
        folder,
        labels,
        patch_size,
        table,
        summarise(table, labels),
        {
            split: {label: counts[split, label] for label in labels}
            for split in dict.fromkeys(table["split"].to_pylist())
        },
    )


def distribution(
    view: DatasetView, measure: str
) -> tuple[npt.NDArray[np.float64], dict[str, npt.NDArray[np.int64]]]:
    """How a measure is distributed in each class, over finite values of samples that are well.

    Args:
        view: The dataset.
        measure: One of `MEASURES`.

    Returns:
        Edges `(B + 1,)` and counts `(B,)` by class; no bin where there is no value.
    """
    values = np.array(view.table[measure].to_pylist(), np.float64)
    labels = np.array(view.table["label"].to_pylist(), dtype=object)
    well = np.isfinite(values) & (np.array(view.table["status"].to_pylist()) == "ok")
    if not well.any():
        return np.zeros(1), {label: np.zeros(0, np.int64) for label in view.labels}
    edges = np.histogram_bin_edges(values[well], BINS)
    return edges, {
        label: np.histogram(values[well & (labels == label)], edges)[0] for label in view.labels
    }


def samples(
    view: DatasetView, labels: Sequence[str], splits: Sequence[str], first: int, count: int
) -> tuple[list[dict[str, Any]], int]:
    """Rows of well samples of some classes and splits, and how many there are in all.

    Args:
        view: The dataset.
        labels: Classes; none stands for all.
        splits: Splits; none stands for all.
        first: Number of the first row wanted, from 0.
        count: Most rows.
    """
    columns = (view.table[name].to_pylist() for name in ("label", "split", "status"))
    rows = [
        number
        for number, (label, split, status) in enumerate(zip(*columns, strict=True))
        if status == "ok" and (not labels or label in labels) and (not splits or split in splits)
    ]
    chosen = view.table.select(list(COLUMNS)).take(rows[first : first + count])
    return chosen.to_pylist(), len(rows)


def read_sample(view: DatasetView, path: str) -> Image:
    """The picture of a sample, by its path as the manifest has it, which is not trusted.

    Raises:
        ImageCompressionError: Outside of the dataset, missing or unreadable.
    """
    with one_at_a_time():
        return read_image(below(view.folder, path))


def audit_rows(view: DatasetView) -> tuple[str, list[dict[str, str]], list[str]] | None:
    """Verdict, checks and limits of the bias audit that the build wrote; None if it wrote none.

    Raises:
        AppError: The file is damaged.
    """
    content = read_json(view.folder, AUDIT_FILE)
    if content is None:
        return None
    try:
        checks = [
            {key: str(check[key]) for key in ("name", "status", "text")}
            for check in content["checks"]
        ]
        leaks = [f"LEAK {leak}" for leak in content.get("leaks", [])]
        return str(content["verdict"]), checks, [*leaks, *map(str, content["limits"])]
    except (KeyError, TypeError, AttributeError) as error:
        raise AppError(f"{AUDIT_FILE} is no bias audit.") from error
