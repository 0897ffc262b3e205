"""WebDataset: tar files in which the members of a sample share their name up to the first dot."""

from __future__ import annotations

import io
import json
import math
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets.shards import ExportResult, Progress, Sample, export_shards
from datasets.workers import Pool


def export_webdataset(
    dataset: Path | str,
    out: Path,
    splits: Sequence[str],
    pool: Pool,
    progress: Progress | None = None,
) -> ExportResult:
    """Files ``train-00000-of-00003.tar``; arguments and errors as `export_shards`.

    Members of each sample: ``.png`` (decoded pixels), ``.cls`` (index of the class), ``.json`` (the
    manifest's columns; what JSON has no number for is null) and ``.file`` (the encoded file, under
    a name that no loader decodes by itself).
    """
    place = "{shard}.tar"
    return export_shards(dataset, out, splits, pool, progress, write_webdataset, place)


def write_webdataset(path: Path, samples: Iterator[Sample], labels: list[str]) -> None:
    """Write one tar file. It has no times and no owners: equal samples give equal bytes."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for sample in samples:
            columns = {name: _json_ready(value) for name, value in sample.columns.items()}
            # A dot would end the key, a slash begin a folder.
            key = re.sub(r"[^A-Za-z0-9_-]", "_", sample.sample_id)
            for suffix, data in (
                ("cls", str(sample.columns["label"]).encode()),
                ("file", sample.file),
                ("json", json.dumps(columns, ensure_ascii=False).encode()),
                ("png", sample.png),
            ):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def _json_ready(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
