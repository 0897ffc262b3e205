"""Shards: a dataset's samples in files of bounded size, the frame of all exports to other formats.

What goes into which shard follows from the manifest alone, so any number of processes writes the
same files.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image as PilImage

from datasets.build import DATASET_FILE, read_dataset
from datasets.manifest import SCHEMA, read_manifest
from datasets.seeds import derive_seed
from datasets.sources import pixel_hash
from datasets.splits import SPLITS
from datasets.storage import Storage
from datasets.workers import Crashed, Pool
from imagecompression import CODECS, CodecError, Image
from imagecompression.errors import ImageCompressionError

SHARD_BYTES = 256 * 2**20
"""Most decoded and encoded bytes that one shard is made from; a larger sample has its own."""

Progress = Callable[[int, int], None]
"""Called with (samples done, samples in all)."""


class ExportError(ImageCompressionError):
    """The export cannot start, or a file of the dataset is not what the manifest says."""


@dataclass(frozen=True)
class ExportResult:
    """What an export left behind.

    Attributes:
        folder: Where.
        files: Number of data files.
        bytes: Their size together.
        samples: Number of samples (of patches for the format ``patches``) in each split.
    """

    folder: Path
    files: int
    bytes: int
    samples: dict[str, int]


@dataclass(frozen=True)
class Sample:
    """One sample as exports carry it.

    Attributes:
        png: The decoded pixels as PNG, gray or RGB: what the codec left, readable everywhere.
        file: The encoded file as it is stored.
        columns: Index of the class as ``label``, its name as ``label_name``, and all other columns
            of the manifest.
    """

    png: bytes
    file: bytes
    columns: dict[str, Any]

    @property
    def sample_id(self) -> str:
        return str(self.columns["sample_id"])


Writer = Callable[[Path, Iterator[Sample], list[str]], None]
"""Writes samples to a new file; the last argument has the names of the classes, by index."""


def export_shards(
    dataset: Path | str,
    out: Path,
    splits: Sequence[str],
    pool: Pool,
    progress: Progress | None,
    write: Writer,
    place: str,
    describe: Callable[[Path, dict[str, int]], None] | None = None,
) -> ExportResult:
    """Export the samples of some splits; `out` appears complete or not at all.

    Args:
        dataset: Folder or URL of a built dataset.
        out: New or empty folder.
        splits: Names among `SPLITS`.
        pool: Where shards are written, a task each.
        progress: See `Progress`.
        write: An importable function, see `Writer`.
        place: Path of a shard below `out`; ``{shard}`` becomes its name.
        describe: Called at the end with the folder and the number of samples in each split, for
            what else belongs there.

    Raises:
        ExportError: `out` is not empty, no sample is there, or a file differs from the manifest.
    """
    labels = list(read_dataset(dataset)["labels"])
    table = chosen_rows(dataset, splits)
    shards = plan_shards(table)
    sizes = [len(rows) for _, rows in shards]
    counts = {split: pc.sum(pc.equal(table["split"], split)).as_py() for split in splits}
    done = 0
    with new_folder(out) as folder:
        paths = [folder / place.format(shard=name) for name, _ in shards]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        tasks = (
            (write, path, str(dataset), table.take(rows), labels)
            for path, (_, rows) in zip(paths, shards, strict=True)
        )
        for number, result in pool.run(write_shard, tasks):
            if isinstance(result, Crashed):
                raise ExportError(f"{paths[number].name}: cannot be written: {result.reason}")
            done += sizes[number]
            if progress is not None:
                progress(done, len(table))
        (folder / DATASET_FILE).write_bytes(Storage(dataset).read(DATASET_FILE))
        if describe is not None:
            describe(folder, counts)
        size = sum(path.stat().st_size for path in paths)
    return ExportResult(out, len(shards), size, counts)


def chosen_rows(dataset: Path | str, splits: Sequence[str]) -> pa.Table:
    """The manifest's rows of samples that are well, of some splits.

    Raises:
        ExportError: An unknown split, or no sample in any of them.
    """
    unknown = [split for split in splits if split not in SPLITS]
    if unknown or not splits:
        raise ExportError(
            f"Splits are {', '.join(SPLITS)}. Received: {', '.join(unknown) or 'none'}"
        )
    table = read_manifest(dataset)
    well = pc.equal(table["status"], "ok")
    table = table.filter(pc.and_(well, pc.is_in(table["split"], pa.array(splits, pa.string()))))
    if not len(table):
        raise ExportError(f"{dataset}: no sample in the splits {', '.join(splits)}")
    return table


def plan_shards(table: pa.Table) -> list[tuple[str, list[int]]]:
    """Name and rows of every shard, such as ``train-00000-of-00003``, split by split.

    The rows of a split are in an order that is random but fixed: readers of shards shuffle within
    a buffer only, and the manifest has each source's samples side by side.
    """
    columns = table.select(["sample_id", "split", "width", "height", "channels", "file_bytes"])
    rows = columns.to_pydict()
    by_split: dict[str, list[tuple[int, int]]] = {}
    for row, (sample_id, split) in enumerate(zip(rows["sample_id"], rows["split"], strict=True)):
        by_split.setdefault(split, []).append((derive_seed(0, "shards", sample_id), row))
    shards = []
    for split in (name for name in SPLITS if name in by_split):
        parts: list[list[int]] = []
        filled = SHARD_BYTES
        for _, row in sorted(by_split[split]):
            size = rows["width"][row] * rows["height"][row] * rows["channels"][row]
            size += rows["file_bytes"][row]
            if filled + size > SHARD_BYTES:
                parts.append([])
                filled = 0
            parts[-1].append(row)
            filled += size
        shards += [
            (f"{split}-{number:05d}-of-{len(parts):05d}", part) for number, part in enumerate(parts)
        ]
    return shards


def write_shard(write: Writer, path: Path, dataset: str, rows: pa.Table, labels: list[str]) -> None:
    """Write one shard; the task of a worker. One sample is in memory at a time."""
    storage = Storage(dataset)
    write(path, (read_sample(storage, row, labels) for row in _each(rows)), labels)


def read_sample(storage: Storage, row: dict[str, Any], labels: list[str]) -> Sample:
    """The sample of a manifest row.

    Raises:
        ExportError: Its file or pixels are not what the manifest says.
    """
    path, container = row["path"], row["container"]
    try:
        data = storage.read(path)
        if hashlib.sha256(data).hexdigest() != row["file_sha256"]:
            raise ExportError(f"{path}: the file's hash is not the manifest's. {_ADVICE}")
        pixels = CODECS[container].decode(data)
        if pixel_hash(pixels) != row["pixel_sha256"]:
            raise ExportError(f"{path}: the pixels' hash is not the manifest's. {_ADVICE}")
        label = labels.index(row["label"])
    except FileNotFoundError as error:
        raise ExportError(f"{path}: the file is missing. {_ADVICE}") from error
    except CodecError as error:
        raise ExportError(f"{path}: cannot be decoded: {error}") from error
    except (KeyError, ValueError) as error:
        if isinstance(error, ImageCompressionError):
            raise
        raise ExportError(
            f"{path}: the container {container!r} or the label {row['label']!r} is not known here"
        ) from error
    columns = {"label": label, "label_name": row["label"]}
    columns |= {name: value for name, value in row.items() if name != "label"}
    return Sample(_png(pixels), data, columns)


def column_fields() -> list[pa.Field]:
    """Names and types of `Sample.columns`, in their order."""
    others = [field.with_nullable(True) for field in SCHEMA if field.name != "label"]
    return [pa.field("label", pa.int64()), pa.field("label_name", pa.string()), *others]


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that is renamed to it at the end, or deleted by an error.

    Raises:
        ExportError: `out` exists and is not an empty folder.
    """
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} is not an empty folder. Choose a new one.")
    part = out.with_name(f".{out.name}.{uuid.uuid4().hex}.part")
    part.mkdir(parents=True)
    try:
        yield part
        if out.exists():
            out.rmdir()
        part.rename(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


_ADVICE = "See `main.py verify`, or build the dataset again."


def _png(pixels: Image) -> bytes:
    """PNG at the lowest effort: a tenth larger than at zlib's usual one, three times as fast."""
    out = io.BytesIO()
    PilImage.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def _each(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=64):
        yield from batch.to_pylist()
