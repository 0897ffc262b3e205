"""What a run directory tells about its training: settings, data, environment, history."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from datasets.patches import PatchSet, patches_sha256
from datasets.sources import csv_bytes
from imagecompression.atomic_file import write_bytes_atomic, write_json_atomic
from train.batches import PatchBatches
from train.run import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    LABELS_FILE,
    MANIFEST_HEAD_FILE,
    SOURCES_FILE,
    Run,
    RunError,
)
from train.settings import TrainConfig, TrainError

HEAD_ROWS = 20

_PACKAGES = ("keras", "tensorflow", "numpy", "pyarrow", "scikit-learn", "imagecodecs", "av")


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """Write the rows of a history as CSV, replacing the file at once."""
    write_bytes_atomic(path, csv_bytes(history))


def describe(
    folders: Sequence[Path],
    parts: Sequence[PatchSet],
    config: TrainConfig,
    batches: PatchBatches,
    splits: Mapping[str, str] | None = None,
    start: Run | None = None,
) -> dict[str, Any]:
    """Contents of ``config.json``: the settings, and what identifies the patches.

    Several datasets count as one, with one hash of all their tables; ``patch_size`` is the largest
    that the network is trained with.
    """
    found = {
        "patch_size": batches.largest_size,
        "patches": sum(one.table.num_rows for one in parts),
        "patches_sha256": patches_sha256(*folders),
    }
    if splits is not None:
        text = json.dumps(sorted(splits.items()))
        found["splits_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    if start is not None:
        found["start_model_sha256"] = start.model_sha256
    description = {"train": dataclasses.asdict(config), "dataset": found}
    as_stored: dict[str, Any] = json.loads(json.dumps(description))  # tuples become lists
    return as_stored


def claim(out: Path, description: dict[str, Any]) -> None:
    """Make `out` the directory of this training, or raise `TrainError` if it is another's."""
    path = out / CONFIG_FILE
    if not path.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise TrainError(f"{out}: the folder is not empty and not a run directory")
        out.mkdir(parents=True, exist_ok=True)
        write_json_atomic(path, description)
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error
    if found != description:
        raise TrainError(
            f"{out}: holds a training with other settings or another dataset (see {CONFIG_FILE}). "
            "Choose a new folder, or use the same settings to go on with it."
        )


def write_facts(
    folders: Sequence[Path],
    parts: Sequence[PatchSet],
    labels: list[str],
    out: Path,
    start: Run | None = None,
) -> None:
    """Labels, sources, environment and the manifest's head: what the run must tell about itself."""
    write_json_atomic(out / LABELS_FILE, labels)
    sources: dict[str, set[str]] = {"train": set(), "val": set()}
    if start is not None:  # what it has learned from stays learned
        sources["train"].update(start.sources.get("train", []))
    for one in parts:
        for row in one.table.select(["split", "source_sha256"]).to_pylist():
            sources.get(row["split"], set()).add(row["source_sha256"])
    write_json_atomic(out / SOURCES_FILE, {name: sorted(found) for name, found in sources.items()})
    write_json_atomic(
        out / ENVIRONMENT_FILE,
        {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "cpu_count": os.cpu_count(),
            "packages": {name: _version(name) for name in _PACKAGES},
        },
    )
    count, head = 0, []
    for folder in folders:
        manifest = pq.ParquetFile(folder / "manifest.parquet")
        count += manifest.metadata.num_rows
        head += next(manifest.iter_batches(batch_size=HEAD_ROWS)).to_pylist()
    write_json_atomic(out / MANIFEST_HEAD_FILE, {"rows": count, "head": head})


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
