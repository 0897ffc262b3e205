"""Verifying a dataset: every file, hash and picture against the manifest, and nothing besides."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datasets.croissant import CROISSANT_FILE
from datasets.manifest import MANIFEST_FILE, read_manifest
from datasets.patches import PATCH_FOLDER, PatchError, load_patches
from datasets.samples import ENCODED_FOLDER
from datasets.sources import pixel_hash
from datasets.storage import Storage, StorageError
from datasets.workers import Crashed, Pool
from imagecompression import CODECS, CodecError

SAMPLES_PER_TASK = 32

_CHECKED = ("path", "container", "file_bytes", "file_sha256")
_PICTURE = ("pixel_sha256", "width", "height", "channels")


@dataclass(frozen=True)
class Fault:
    """Something that is not as the manifest says.

    Attributes:
        file: Path below the dataset's root.
        problem: What is wrong with it.
    """

    file: str
    problem: str


@dataclass(frozen=True)
class Verification:
    """What was looked at, and what is wrong.

    Attributes:
        samples: Number of samples whose file was checked.
        bytes: Size of these files together, as the manifest has it.
        pixels: Whether they were decoded too.
        faults: Sorted by file; empty when all is well.
    """

    samples: int
    bytes: int
    pixels: bool
    faults: list[Fault] = field(default_factory=list)


def verify(
    dataset: Path | str,
    pool: Pool,
    pixels: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Check a dataset against its manifest.

    Recomputed are the hash of the manifest (where a Croissant file has it) and of every encoded
    file; with `pixels` each is decoded, and its size and pixel hash compared. Reported are also
    missing files, files that the manifest does not list, names that occur twice, and patches that
    do not belong to the samples.

    Args:
        dataset: Folder or URL.
        pool: Where files are checked, some at a time.
        pixels: Decode the pictures.
        progress: Called with (samples done, samples in all).

    Raises:
        ManifestError: The manifest cannot be read.
        StorageError: The dataset cannot be reached.
    """
    storage = Storage(dataset)
    table = read_manifest(dataset)
    well = table.filter(pc.equal(table["status"], "ok"))
    faults = [*_manifest_faults(storage, table), *_extra_files(storage, well)]
    names = [*_CHECKED, *_PICTURE] if pixels else list(_CHECKED)
    batches = well.select(names).combine_chunks().to_batches(max_chunksize=SAMPLES_PER_TASK)
    done = 0
    for number, found in pool.run(check_files, ((storage, b.to_pylist(), pixels) for b in batches)):
        if isinstance(found, Crashed):
            first = batches[number]["path"][0].as_py()
            found = [Fault(first, f"this file or one of the next: {found.reason}")]
        faults += found
        done += len(batches[number])
        if progress is not None:
            progress(done, len(well))
    if storage.is_local and storage.exists(PATCH_FOLDER):
        faults += _patch_faults(storage.folder, well)
    size = sum(well["file_bytes"].to_pylist())
    return Verification(len(well), size, pixels, sorted(faults, key=lambda f: (f.file, f.problem)))


def check_files(storage: Storage, rows: list[dict[str, Any]], pixels: bool) -> list[Fault]:
    """The faults of some samples' files; the task of a worker."""
    faults = []
    for row in rows:
        problem = _problem(storage, row, pixels)
        if problem:
            faults.append(Fault(row["path"], problem))
    return faults


def _problem(storage: Storage, row: dict[str, Any], pixels: bool) -> str:
    """What is wrong with one sample's file; empty when nothing is."""
    try:
        data = storage.read(row["path"])
    except FileNotFoundError:
        return "the file is missing"
    except (StorageError, OSError) as error:
        return f"the file cannot be read: {error}"
    if len(data) != row["file_bytes"]:
        return f"the file has {len(data)} bytes, the manifest says {row['file_bytes']}"
    if hashlib.sha256(data).hexdigest() != row["file_sha256"]:
        return "the file's hash is not the manifest's"
    if not pixels:
        return ""
    if row["container"] not in CODECS:
        return f"the manifest names an unknown codec: {row['container']!r}"
    try:
        picture = CODECS[row["container"]].decode(data)
    except CodecError as error:
        return f"the file cannot be decoded: {error}"
    shape = (picture.shape[1], picture.shape[0], 1 if picture.ndim == 2 else 3)
    said = (row["width"], row["height"], row["channels"])
    if shape != said:
        kinds = ("×".join(map(str, one)) for one in (shape, said))
        return "the picture is {} (width, height, channels), the manifest says {}".format(*kinds)
    if pixel_hash(picture) != row["pixel_sha256"]:
        return "the hash of the decoded pixels is not the manifest's"
    return ""


def _manifest_faults(storage: Storage, table: pa.Table) -> Iterator[Fault]:
    """Names that occur twice, and a manifest that is not the one that was published."""
    for column in ("sample_id", "path"):
        counts = Counter(table[column].to_pylist())
        counts.pop("", None)  # failed samples have no file
        for name, count in counts.items():
            if count > 1:
                yield Fault(MANIFEST_FILE, f"{column} {name} occurs {count} times")
    try:
        described = json.loads(storage.read(CROISSANT_FILE))
        hashes = [item.get("sha256") for item in described["distribution"]]
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        yield Fault(CROISSANT_FILE, f"cannot be read: {error!r}")
        return
    if hashlib.sha256(storage.read(MANIFEST_FILE)).hexdigest() not in hashes:
        yield Fault(MANIFEST_FILE, f"the file's hash is not the one in {CROISSANT_FILE}")


def _extra_files(storage: Storage, well: pa.Table) -> Iterator[Fault]:
    """Encoded files that the manifest does not list."""
    listed = set(well["path"].to_pylist())
    folders = {PurePosixPath(path).parent.as_posix() for path in listed}
    folders |= {ENCODED_FOLDER, *(f"{ENCODED_FOLDER}/{name}" for name in CODECS)}
    for folder in sorted(folders):
        try:
            found = storage.list(folder)
        except StorageError:  # a path that leaves the dataset; its file is a fault by itself
            continue
        for path in found:
            if path not in listed:
                yield Fault(path, "the manifest does not list this file")


def _patch_faults(folder: Path, well: pa.Table) -> Iterator[Fault]:
    """Patches that cannot be read, or are of samples that the manifest does not have so."""
    try:
        patches = load_patches(folder)
    except PatchError as error:
        yield Fault(PATCH_FOLDER, str(error))
        return
    columns = ["sample_id", "split", "label", "width", "height"]
    samples = {row["sample_id"]: row for row in well.select(columns).to_pylist()}
    wrong = 0
    for batch in patches.table.select(["sample_id", "split", "label", "top", "left"]).to_batches():
        for patch in batch.to_pylist():
            sample = samples.get(patch["sample_id"])
            wrong += (
                sample is None
                or any(sample[name] != patch[name] for name in ("split", "label"))
                or not 0 <= patch["top"] <= sample["height"] - patches.patch_size
                or not 0 <= patch["left"] <= sample["width"] - patches.patch_size
            )
    if wrong:
        yield Fault(PATCH_FOLDER, f"{wrong} patches do not belong to the manifest's samples")
