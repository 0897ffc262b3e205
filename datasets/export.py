"""Exports of a dataset to the formats of other frameworks.

A new format is one module and one line in `EXPORTS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from datasets.huggingface import export_huggingface
from datasets.patch_export import export_patches
from datasets.shards import ExportError, ExportResult, Progress
from datasets.splits import SPLITS
from datasets.tfrecord import export_tfrecord
from datasets.webdataset import export_webdataset
from datasets.workers import Pool


class Export(Protocol):
    """Writes some splits of a dataset to a new folder, see `datasets.shards.export_shards`."""

    def __call__(
        self,
        dataset: Path | str,
        out: Path,
        splits: Sequence[str],
        pool: Pool,
        progress: Progress | None = None,
    ) -> ExportResult: ...


EXPORTS: dict[str, Export] = {
    "patches": export_patches,
    "tfrecord": export_tfrecord,
    "webdataset": export_webdataset,
    "huggingface": export_huggingface,
}
"""Every export by the name of its format."""


def export_dataset(
    dataset: Path | str,
    out: Path,
    form: str,
    pool: Pool,
    splits: Sequence[str] = SPLITS,
    progress: Progress | None = None,
) -> ExportResult:
    """Export a dataset in a format of `EXPORTS`.

    `out` appears complete or not at all, and equal datasets give equal bytes.

    Args:
        dataset: Folder or URL of a built dataset.
        out: New or empty folder.
        form: Name of the format.
        pool: Where files are decoded and written.
        splits: Which splits.
        progress: Called with (done, total).

    Raises:
        ExportError: An unknown format or split, an `out` that is not empty, nothing to export, or
            a file that differs from the manifest.
    """
    if form not in EXPORTS:
        raise ExportError(f"Formats are {', '.join(EXPORTS)}. Received: {form!r}")
    return EXPORTS[form](dataset, out, splits, pool, progress)
