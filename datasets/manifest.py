"""The manifest: one row a sample, as Parquet. Equal builds write equal manifests."""

from __future__ import annotations

import io
import itertools
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datasets.storage import Storage
from imagecompression.errors import ImageCompressionError

MANIFEST_FILE = "manifest.parquet"
ROWS_PER_GROUP = 10_000

SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # ok or failed
        pa.field("error", pa.string(), nullable=False),  # empty when ok
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("source_sha256", pa.string(), nullable=False),
        pa.field("source_pixel_sha256", pa.string(), nullable=False),
        pa.field("source_notes", pa.string(), nullable=False),  # conversions made on reading
        pa.field("origin", pa.string(), nullable=False),  # camera or set, where one is given
        pa.field("group", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("codec", pa.string(), nullable=False),  # the codec driven to the target
        pa.field("params", pa.string(), nullable=False),  # JSON, the resolved codec parameters
        pa.field("encoder", pa.string(), nullable=False),
        pa.field("target_kind", pa.string(), nullable=False),  # ratio, ssim or none
        pa.field("target_nominal", pa.float64()),  # the grid's value; null for random draws
        pa.field("target_value", pa.float64()),  # what was asked
        pa.field("measured", pa.float64()),
        pa.field("reached", pa.bool_(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("encodes", pa.int32(), nullable=False),
        pa.field("history", pa.string(), nullable=False),
        pa.field("chain", pa.string(), nullable=False),  # JSON, every step in order
        pa.field("container", pa.string(), nullable=False),  # codec name of the stored file
        pa.field("path", pa.string(), nullable=False),  # below the dataset's root
        pa.field("file_bytes", pa.int64(), nullable=False),
        pa.field("file_sha256", pa.string(), nullable=False),
        pa.field("pixel_sha256", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),  # of the stored picture, as all these
        pa.field("height", pa.int32(), nullable=False),
        pa.field("channels", pa.int32(), nullable=False),
        pa.field("mean_red", pa.float64()),
        pa.field("mean_green", pa.float64()),
        pa.field("mean_blue", pa.float64()),
        pa.field("ratio", pa.float64()),  # of the codec's encode against its input, as all these
        pa.field("bits_per_pixel", pa.float64()),
        pa.field("psnr_db", pa.float64()),  # infinite for uncompressed
        pa.field("ssim", pa.float64()),
        pa.field("ms_ssim", pa.float64()),  # NaN for pictures under 176 pixels
        pa.field("seed", pa.int64(), nullable=False),
    ]
)


class ManifestError(ImageCompressionError):
    """The manifest is missing, damaged or does not agree with the files."""


def write_manifest(storage: Storage, rows: Iterable[dict[str, Any]]) -> None:
    """Write ``manifest.parquet``, holding no more than `ROWS_PER_GROUP` rows at a time."""
    waiting = iter(rows)
    with tempfile.TemporaryFile() as file:
        with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
            while batch := list(itertools.islice(waiting, ROWS_PER_GROUP)):
                writer.write_table(pa.Table.from_pylist(batch, schema=SCHEMA))
        file.seek(0)
        storage.write(MANIFEST_FILE, file.read())


def read_manifest(folder: Path | str, columns: Sequence[str] | None = None) -> pa.Table:
    """The manifest of the dataset in `folder`, a path or a URL; all columns, or some.

    Raises:
        ManifestError: No manifest there, not a Parquet file, or columns are missing.
    """
    name = f"{str(folder).rstrip('/')}/{MANIFEST_FILE}"
    try:
        file = pq.ParquetFile(io.BytesIO(Storage(folder).read(MANIFEST_FILE)))
        missing = [column for column in SCHEMA.names if column not in file.schema_arrow.names]
        if missing:
            raise ManifestError(f"{name}: columns are missing: {', '.join(missing)}")
        return file.read(columns=None if columns is None else list(columns))
    except FileNotFoundError as error:
        raise ManifestError(
            f"{folder}: no {MANIFEST_FILE} there. Build the dataset first (main.py build-dataset)."
        ) from error
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{name}: not a readable Parquet file: {error}") from error
