"""The manifest: one row a sample, as Parquet. Equal builds write equal manifests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imagecompression.errors import ImageCompressionError

MANIFEST_FILE = "manifest.parquet"

SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # ok or failed
        pa.field("error", pa.string(), nullable=False),  # empty when ok
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("source_sha256", pa.string(), nullable=False),
        pa.field("source_notes", pa.string(), nullable=False),  # conversions made on reading
        pa.field("group", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("params", pa.string(), nullable=False),  # JSON, the resolved codec parameters
        pa.field("encoder", pa.string(), nullable=False),
        pa.field("target_kind", pa.string(), nullable=False),  # ratio, ssim or none
        pa.field("target_value", pa.float64()),
        pa.field("measured", pa.float64()),
        pa.field("reached", pa.bool_(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("encodes", pa.int32(), nullable=False),
        pa.field("path", pa.string(), nullable=False),  # below the dataset folder
        pa.field("file_bytes", pa.int64(), nullable=False),
        pa.field("file_sha256", pa.string(), nullable=False),
        pa.field("pixel_sha256", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("channels", pa.int32(), nullable=False),
        pa.field("ratio", pa.float64()),
        pa.field("bits_per_pixel", pa.float64()),
        pa.field("psnr_db", pa.float64()),  # infinite for uncompressed
        pa.field("ssim", pa.float64()),
        pa.field("ms_ssim", pa.float64()),  # NaN for pictures under 176 pixels
        pa.field("seed", pa.int64(), nullable=False),
    ]
)


class ManifestError(ImageCompressionError):
    """The manifest is missing, damaged or does not agree with the files."""


def write_manifest(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows sorted by `sample_id` to ``manifest.parquet`` and return its path."""
    ordered = sorted(rows, key=lambda row: row["sample_id"])
    table = pa.Table.from_pylist(ordered, schema=SCHEMA)
    path = folder / MANIFEST_FILE
    part = path.with_suffix(".part")
    pq.write_table(table, part, compression="zstd")
    part.replace(path)
    return path


def read_manifest(folder: Path) -> pa.Table:
    """The manifest of the dataset in `folder`.

    Raises:
        ManifestError: No manifest there, not a Parquet file, or columns are missing.
    """
    path = folder / MANIFEST_FILE
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise ManifestError(
            f"{folder}: no {MANIFEST_FILE} there. Build the dataset first (main.py build-dataset)."
        ) from error
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{path}: not a readable Parquet file: {error}") from error
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise ManifestError(f"{path}: columns are missing: {', '.join(missing)}")
    return table


def verify(folder: Path, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Recompute the hash of every encoded file; one line for each that differs or is gone."""
    table = read_manifest(folder).select(["status", "path", "file_sha256"])
    rows = [row for row in table.to_pylist() if row["status"] == "ok"]
    faults = []
    for done, row in enumerate(rows, start=1):
        try:
            digest = hashlib.sha256((folder / row["path"]).read_bytes()).hexdigest()
        except OSError as error:
            faults.append(f"{row['path']}: {error.strerror}")
        else:
            if digest != row["file_sha256"]:
                faults.append(f"{row['path']}: the file's hash is not the manifest's")
        if progress is not None:
            progress(done, len(rows))
    return faults
