"""Parquet files as the Hugging Face Hub keeps image datasets, with a dataset card.

Sources: the Hub's documentation "File names and splits" and "Manual configuration"; the features
in the schema's metadata are as the Hub's own Python package writes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datasets.build import read_dataset
from datasets.card import CARD_FILE, feature_dtype, front_matter
from datasets.shards import ExportResult, Progress, Sample, column_fields, export_shards
from datasets.storage import Storage
from datasets.workers import Pool

ROW_GROUP_BYTES = 32 * 2**20
"""Bytes of pictures in a row group, which readers take into memory whole."""

IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])

_NOTE = (
    "> Exported to Parquet: `image` has the decoded pixels as PNG, `file` the encoded file, "
    "`label` the index of the class. Below is the card of the dataset that it was exported from, "
    "with its own files.\n\n"
)


def export_huggingface(
    dataset: Path | str,
    out: Path,
    splits: Sequence[str],
    pool: Pool,
    progress: Progress | None = None,
) -> ExportResult:
    """Files ``data/train-00000-of-00003.parquet``; arguments and errors as `export_shards`.

    Columns: ``image`` (PNG of the decoded pixels), ``label`` (a ClassLabel), ``label_name``, the
    manifest's columns, and ``file`` (the encoded file). The card is the dataset's own with a front
    matter for these files.
    """
    place = "data/{shard}.parquet"

    def describe(folder: Path, counts: dict[str, int]) -> None:
        description = read_dataset(dataset)
        files = [{"split": name, "path": f"data/{name}-*"} for name, n in counts.items() if n]
        config = {"config_name": "default", "data_files": files}
        listed = [_listed(*item) for item in features(description["labels"]).items()]
        front = front_matter(description, sum(counts.values()), config, listed)
        (folder / CARD_FILE).write_text(front + _NOTE + _body(dataset), encoding="utf-8")

    return export_shards(dataset, out, splits, pool, progress, write_huggingface, place, describe)


def write_huggingface(path: Path, samples: Iterator[Sample], labels: list[str]) -> None:
    """Write one Parquet file in row groups of about `ROW_GROUP_BYTES`."""
    fields = [pa.field("image", IMAGE), *column_fields(), pa.field("file", pa.binary())]
    metadata = {"huggingface": json.dumps({"info": {"features": features(labels)}})}
    schema = pa.schema(fields, metadata)
    with pq.ParquetWriter(path, schema) as writer:
        rows: list[dict[str, Any]] = []
        size = 0
        for sample in samples:
            image = {"bytes": sample.png, "path": f"{sample.sample_id}.png"}
            rows.append({"image": image, **sample.columns, "file": sample.file})
            size += len(sample.png) + len(sample.file)
            if size >= ROW_GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows, size = [], 0
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema))


def features(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Every column's feature, as JSON in the schema's metadata."""
    columns: dict[str, dict[str, Any]] = {
        field.name: {"dtype": feature_dtype(field.type), "_type": "Value"}
        for field in column_fields()
    }
    return {
        "image": {"_type": "Image"},
        **columns,
        "label": {"names": list(labels), "_type": "ClassLabel"},
        "file": {"dtype": "binary", "_type": "Value"},
    }


def _listed(name: str, feature: dict[str, Any]) -> dict[str, Any]:
    """A feature as the card's front matter lists it."""
    if feature["_type"] == "ClassLabel":
        names = {str(index): label for index, label in enumerate(feature["names"])}
        return {"name": name, "dtype": {"class_label": {"names": names}}}
    return {"name": name, "dtype": feature.get("dtype", "image")}


def _body(dataset: Path | str) -> str:
    """The dataset's card below its front matter; empty where it has none."""
    try:
        text = Storage(dataset).read(CARD_FILE).decode()
    except FileNotFoundError:
        return ""
    return text.split("\n---\n", 1)[-1].lstrip("\n")
