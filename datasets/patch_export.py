"""The patches of a dataset alone: what training reads, without the encoded files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datasets.build import DATASET_FILE, read_dataset
from datasets.manifest import MANIFEST_FILE
from datasets.patches import (
    PATCH_FOLDER,
    PIXELS_FILE,
    TABLE_FILE,
    PatchConfig,
    extract_patches,
    load_patches,
)
from datasets.shards import ExportError, ExportResult, Progress, chosen_rows, new_folder
from datasets.storage import Storage
from datasets.workers import Pool

PATCHES_PER_STEP = 1024


def export_patches(
    dataset: Path | str,
    out: Path,
    splits: Sequence[str],
    pool: Pool,
    progress: Progress | None = None,
) -> ExportResult:
    """``patches/patches.npy`` and its table, with the files that `train` wants beside them.

    Where the dataset has no patches yet (it was built elsewhere and copied), they are cut in it
    first, as its settings say. Arguments and errors as `datasets.shards.export_shards`.
    """
    storage = Storage(dataset)
    folder = storage.folder
    chosen_rows(folder, splits)
    if not storage.exists(f"{PATCH_FOLDER}/{PIXELS_FILE}"):
        _cut(folder, pool, progress)
    patches = load_patches(folder)
    rows = np.flatnonzero(
        pc.is_in(patches.table["split"], pa.array(splits, pa.string())).to_numpy(False)
    )
    if not len(rows):
        raise ExportError(f"{dataset}: no patch in the splits {', '.join(splits)}")
    table = patches.table.take(rows)
    with new_folder(out) as part:
        (part / PATCH_FOLDER).mkdir()
        pixels = np.lib.format.open_memmap(
            part / PATCH_FOLDER / PIXELS_FILE,
            mode="w+",
            dtype=np.uint8,
            shape=(len(rows), *patches.pixels.shape[1:]),
        )
        for start in range(0, len(rows), PATCHES_PER_STEP):
            here = rows[start : start + PATCHES_PER_STEP]
            pixels[start : start + len(here)] = patches.pixels[here]
            if progress is not None:
                progress(start + len(here), len(rows))
        pixels.flush()
        pq.write_table(table, part / PATCH_FOLDER / TABLE_FILE, compression="zstd")
        for name in (DATASET_FILE, MANIFEST_FILE):
            (part / name).write_bytes(storage.read(name))
        size = sum(path.stat().st_size for path in (part / PATCH_FOLDER).iterdir())
    counts = {split: pc.sum(pc.equal(table["split"], split)).as_py() for split in splits}
    return ExportResult(out, 2, size, counts)


def _cut(folder: Path, pool: Pool, progress: Progress | None) -> None:
    config = read_dataset(folder)["config"]
    if not config["patches_per_class"]:
        raise ExportError(f"{folder} was built without patches (patches_per_class is 0).")
    names = ("patch_size", "patches_per_class", "seed")
    extract_patches(folder, PatchConfig(*(config[name] for name in names)), pool, progress)
