"""Patches: crops of the decoded pictures at random grid phases, as one memory-mapped array.

Patches are cropped, never resized, at any pixel offset, so that every phase of every codec's
block grid occurs.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.manifest import read_manifest
from datasets.seeds import generator
from datasets.workers import Crashed, Pool
from imagecompression import CODECS, CodecError, Image
from imagecompression.errors import ImageCompressionError

PATCH_FOLDER = "patches"
PIXELS_FILE = "patches.npy"
TABLE_FILE = "patches.parquet"

_COPIED = ("sample_id", "source_id", "group", "source_sha256", "split", "label")
_MEASURES = ("ratio", "ssim", "psnr_db")


class PatchError(ImageCompressionError):
    """No patches can be cut, or those of a dataset cannot be read."""


@dataclass(frozen=True)
class PatchConfig:
    """How patches are cut.

    Attributes:
        size: Side in pixels.
        per_class: Patches for each source and class.
        seed: With the sample's name it fixes the positions.
    """

    size: int
    per_class: int
    seed: int


@dataclass(frozen=True)
class PatchSet:
    """The patches of a dataset.

    Attributes:
        pixels: `uint8` `(N, P, P, 3)`, memory-mapped, read-only; gray pictures have three equal
            channels.
        table: One row a patch, in the same order.
        labels: Class names in label order.
        patch_size: P, in pixels.
    """

    pixels: npt.NDArray[np.uint8]
    table: pa.Table
    labels: list[str]
    patch_size: int


def crop_positions(
    height: int, width: int, size: int, count: int, rng: np.random.Generator
) -> npt.NDArray[np.int32]:
    """Up to `count` different (top, left) offsets of whole crops, `int32` `(n, 2)`."""
    rows, columns = height - size + 1, width - size + 1
    if rows < 1 or columns < 1:
        return np.empty((0, 2), np.int32)
    chosen = rng.choice(rows * columns, size=min(count, rows * columns), replace=False)
    return np.stack(np.divmod(chosen, columns), axis=1).astype(np.int32)


def as_rgb(image: Image) -> Image:
    """`image` with three channels; gray is repeated."""
    return image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)


def cut_patches(
    folder: Path, rows: list[dict[str, Any]], counts: list[int], config: PatchConfig
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Decode the samples of `rows` and cut `counts` patches from each: pixels and offsets."""
    crops, offsets, size = [], [], config.size
    for row, count in zip(rows, counts, strict=True):
        data = (folder / row["path"]).read_bytes()
        if hashlib.sha256(data).hexdigest() != row["file_sha256"]:
            raise PatchError(f"{row['path']}: the file's hash is not the manifest's; build anew")
        image = as_rgb(CODECS[row["container"]].decode(data))
        rng = generator(config.seed, row["sample_id"], "patches")
        offsets.append(crop_positions(image.shape[0], image.shape[1], size, count, rng))
        # Copies: views would keep every decoded picture in memory.
        crops += [image[top : top + size, left : left + size].copy() for top, left in offsets[-1]]
    return np.array(crops, np.uint8), np.concatenate(offsets)


def extract_patches(
    folder: Path,
    config: PatchConfig,
    pool: Pool,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Cut the patches of a built dataset and return their number.

    Every source gives each class the same number of patches, spread evenly over the class's
    different files (targets that led to the same bytes count once), so that neither a class nor a
    source weighs more than another. Files of a lossy codec that decode to the very source are left
    out: they carry no trace.

    Raises:
        PatchError: No sample to cut from, or a file that differs from the manifest.
    """
    table = read_manifest(folder)
    batches = _batches(table, config)
    if not batches:
        raise PatchError(f"{folder}: no encoded sample to cut patches from")
    target = folder / PATCH_FOLDER
    target.mkdir(exist_ok=True)
    starts = np.cumsum([0, *(sum(counts) for _, counts in batches)])
    (target / PIXELS_FILE).unlink(missing_ok=True)  # never old pixels beside a new table
    part = target / (PIXELS_FILE + ".part")
    offsets = np.empty((int(starts[-1]), 2), np.int32)
    tasks = ((folder, *batch, config) for batch in batches)
    try:
        pixels = _reserved(part, (int(starts[-1]), config.size, config.size, 3))
        for done, (number, cut) in enumerate(pool.run(cut_patches, tasks), start=1):
            if isinstance(cut, Crashed):
                raise PatchError(f"{folder}: patches cannot be cut: {cut.reason}")
            here = slice(starts[number], starts[number + 1])
            pixels[here], offsets[here] = cut
            if progress is not None:
                progress(done, len(batches))
        pixels.flush()
        pq.write_table(_patch_table(batches, offsets), target / TABLE_FILE, compression="zstd")
        part.replace(target / PIXELS_FILE)
    except (CodecError, OSError) as error:
        part.unlink(missing_ok=True)
        raise PatchError(f"{folder}: patches cannot be cut: {error}") from error
    return int(starts[-1])


def _reserved(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.uint8]]:
    """A new memory-mapped `uint8` array whose disk space is taken at once.

    Without that a full disk would end the process by a signal in the middle of writing.
    """
    pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):  # Linux; other systems do without the early word
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return pixels


def load_patches(folder: Path) -> PatchSet:
    """The patches of the dataset in `folder`.

    Raises:
        PatchError: There are none, or array, table and description do not agree.
    """
    try:
        description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        pixels = np.load(folder / PATCH_FOLDER / PIXELS_FILE, mmap_mode="r", allow_pickle=False)
        table = pq.read_table(folder / PATCH_FOLDER / TABLE_FILE)
        labels, size = list(description["labels"]), int(description["patch_size"])
    except FileNotFoundError as error:
        raise PatchError(
            f"{folder}: not a finished dataset ({Path(error.filename or TABLE_FILE).name} is "
            "missing). "
            "Build it first (main.py build-dataset)."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise PatchError(f"{folder}: its patches cannot be read: {error}") from error
    if pixels.shape != (table.num_rows, size, size, 3) or pixels.dtype != np.uint8:
        raise PatchError(
            f"{folder}: the patch array is {pixels.dtype} {pixels.shape}, but the table has "
            f"{table.num_rows} rows of {size}×{size} patches; build the dataset anew"
        )
    return PatchSet(pixels, table, labels, size)


def patches_sha256(*folders: Path) -> str:
    """Hash of the tables of one or several datasets' patches, as hexadecimal digits."""
    digest = hashlib.sha256()
    for folder in folders:
        digest.update((folder / PATCH_FOLDER / TABLE_FILE).read_bytes())
    return digest.hexdigest()


def _batches(table: pa.Table, config: PatchConfig) -> list[tuple[list[dict[str, Any]], list[int]]]:
    """For each source and class: its different files, and how many patches each gives."""
    columns = [*_COPIED, *_MEASURES, "codec", "path", "file_sha256", "container"]
    columns += ["width", "height", "status"]
    chosen: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in table.select(columns).to_pylist():
        # A drawing can come through a lossy codec unchanged: nothing there is to be learned.
        lossy = CODECS[row["label"]].knob is not None and row["label"] == row["codec"]
        unchanged = lossy and math.isinf(row["psnr_db"] or 0.0)
        whole = min(row["width"], row["height"]) >= config.size
        if row["status"] == "ok" and whole and not unchanged:
            files = chosen.setdefault((row["source_id"], row["label"]), {})
            files.setdefault(row["file_sha256"], row)
    batches = []
    for files in chosen.values():
        rows = list(files.values())
        positions = min(
            (row["height"] - config.size + 1) * (row["width"] - config.size + 1) for row in rows
        )
        share, extra = divmod(min(config.per_class, positions), len(rows))
        batches.append((rows, [share + (place < extra) for place in range(len(rows))]))
    return batches


def _patch_table(
    batches: list[tuple[list[dict[str, Any]], list[int]]], offsets: npt.NDArray[np.int32]
) -> pa.Table:
    """The rows that go with the pixels, in the order of `batches`."""
    columns: dict[str, Any] = {}
    for name in (*_COPIED, *_MEASURES):
        kind = pa.string() if name in _COPIED else pa.float64()
        values = [
            row[name]
            for rows, counts in batches
            for row, n in zip(rows, counts, strict=True)
            for _ in range(n)
        ]
        columns[name] = pa.array(values, kind)
    return pa.table(columns | {"top": offsets[:, 0], "left": offsets[:, 1]})
