"""Building a dataset: the plan is executed, then manifest, patches, audit and card are written.

Executing a plan in any order, in any number of processes, on one machine or many, gives the same
bytes. A build that was stopped, however that happened, goes on where it was.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout

from datasets.audit import Audit, audit_manifest
from datasets.card import write_card
from datasets.croissant import write_croissant
from datasets.groups import Membership
from datasets.manifest import read_manifest, write_manifest
from datasets.patches import PatchConfig, extract_patches
from datasets.plan import BuildConfig, BuildError, Task, plan, samples_per_source
from datasets.samples import Row, failed_row, run_task
from datasets.sources import Rejected, Source, Vetting, csv_bytes, vet
from datasets.splits import SPLITS, assign_splits, prove_no_leak
from datasets.storage import Storage
from datasets.workers import Crashed, Pool, worker_pool
from imagecompression import CODECS

FORMAT = 2
DATASET_FILE = "dataset.json"
SOURCES_FILE = "sources.csv"
REJECTED_FILE = "rejected.json"
AUDIT_FILE = "audit.json"
LOCK_FILE = ".lock"


class Progress(Protocol):
    """Called with a stage, how much of it is done, and what else there is to say."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None: ...


@dataclass(frozen=True)
class ClassSummary:
    """What became of one class.

    Attributes:
        label: The class.
        samples: Encoded files that are well.
        failed: Samples that could not be made.
        unreached: Samples whose target was out of reach or between two knob steps.
        encodes_per_target: Mean number of encodes that a target cost.
        median_ratio: Of the compression ratios.
        median_ssim: Of the SSIMs.
    """

    label: str
    samples: int
    failed: int
    unreached: int
    encodes_per_target: float
    median_ratio: float
    median_ssim: float


@dataclass(frozen=True)
class BuildResult:
    """What a build left behind.

    Attributes:
        folder: The dataset, a path or a URL.
        sources: Number of accepted sources.
        samples: Number of encoded files that are well.
        classes: A summary of each.
        patches: Number of patches.
        splits: Number of sources in each split.
        encodes_per_target: Mean number of encodes that a target cost.
        seconds: Wall-clock time of the encoding.
        audit: See `datasets.audit`.
        leaks: What was found in two splits; empty in a sound dataset.
        rejected: Sources that were refused.
        failed: Samples that could not be made.
        notes: What else the user should know.
    """

    folder: str
    sources: int
    samples: int
    classes: list[ClassSummary]
    patches: int
    splits: dict[str, int]
    encodes_per_target: float
    seconds: float
    audit: Audit
    leaks: list[str]
    rejected: list[Rejected] = field(default_factory=list)
    failed: list[Rejected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def build_dataset(
    paths: Sequence[Path],
    out: Path | str,
    config: BuildConfig,
    workers: int | None = None,
    progress: Progress | None = None,
    scheduler: str | None = None,
    retry_failed: bool = False,
    groups: Path | None = None,
) -> BuildResult:
    """Build the dataset of `paths` (files and folders of pristine pictures) in `out`.

    Started again after a kill, with the same arguments, it goes on and ends with the same files
    and the same manifest. Sources may be added to a dataset by naming them with the old ones.

    Args:
        paths: Files and folders; with a scheduler, such as all workers can read.
        out: The dataset's folder, or the URL of one on any fsspec file system; made if absent.
        config: See `BuildConfig`.
        workers: Processes; None takes one for each core.
        progress: See `Progress`.
        scheduler: Address of a Dask scheduler whose workers do the work, instead of processes here.
        retry_failed: Make samples that failed in an earlier run again.
        groups: CSV of groups and origins, see `datasets.sources`.

    Raises:
        BuildError: No usable source, or `out` holds a dataset of other settings or other files.
        CodecUnavailableError: A library for one of the codecs is missing.
        StorageError: `out` cannot be written, a full disk for example; what is finished is kept.
    """
    report = progress or silent
    for codec in config.codecs:
        CODECS[codec].check_available()
    storage = Storage(out)
    _check_folder(paths, storage, config)
    with _pool(workers, scheduler) as pool:
        members, fixed = _earlier_sources(storage)
        vetting = vet_usable(paths, config, report, pool, groups, members)
        sources = vetting.sources
        with _claimed(storage, config):
            splits = assign_splits({s.group: s.origin for s in sources}, config.seed, fixed)
            _write_sources(storage, vetting, splits)
            started = time.perf_counter()
            _encode(sources, splits, config, storage, pool, report, retry_failed)
            seconds = time.perf_counter() - started
            patches = _cut_patches(storage, config, pool, report)
            table = read_manifest(out)
            audit, leaks = _judge(table, storage, config, report)
    return BuildResult(
        folder=str(out),
        sources=len(sources),
        samples=sum(status == "ok" for status in table["status"].to_pylist()),
        classes=summarise(table, read_dataset(out)["labels"]),
        patches=patches,
        splits={
            split: sum(splits[source.group] == split for source in sources) for split in SPLITS
        },
        encodes_per_target=_encodes_per_target(table),
        seconds=seconds,
        audit=audit,
        leaks=leaks,
        rejected=vetting.rejected,
        failed=_failed(table),
        notes=[*vetting.notes, *_notes_on_labels(config)],
    )


def vet_usable(
    paths: Sequence[Path],
    config: BuildConfig,
    report: Progress,
    pool: Pool,
    groups: Path | None,
    earlier: dict[str, Membership] | None = None,
) -> Vetting:
    """Vet the sources of a build; see `datasets.sources.vet`.

    Raises:
        BuildError: None of them can be used.
    """
    vetting = vet(
        paths,
        config.patch_size,
        lambda done, total: report("vetting sources", done, total),
        pool=pool,
        groups=groups,
        earlier=earlier,
    )
    if not vetting.sources:
        reasons = "; ".join(f"{item.file}: {item.error}" for item in vetting.rejected[:5])
        raise BuildError(f"No usable source picture. {reasons or 'No file was given.'}")
    return vetting


def read_dataset(folder: Path | str) -> dict[str, Any]:
    """The contents of ``dataset.json``: settings, labels and versions of a dataset.

    Raises:
        BuildError: There is none, or it is damaged or of another format.
    """
    name = f"{str(folder).rstrip('/')}/{DATASET_FILE}"
    try:
        content = json.loads(Storage(folder).read(DATASET_FILE))
        if content["format"] != FORMAT:
            raise BuildError(
                f"{name}: format {content['format']} is not supported, only {FORMAT}. "
                "Build the dataset anew."
            )
        return dict(content)
    except FileNotFoundError as error:
        raise BuildError(
            f"{folder}: no {DATASET_FILE} there. Build the dataset first (main.py build-dataset)."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(f"{name}: not a readable dataset description: {error!r}") from error


def read_sources(folder: Path | str) -> list[dict[str, str]]:
    """The vetted sources of a dataset: one row a file, accepted or rejected, with its split.

    Raises:
        BuildError: There is no such list, or it is not readable.
    """
    try:
        text = Storage(folder).read(SOURCES_FILE).decode()
        return list(csv.DictReader(io.StringIO(text)))
    except (FileNotFoundError, UnicodeDecodeError, csv.Error) as error:
        raise BuildError(f"{folder}: no readable {SOURCES_FILE} there: {error!r}") from error


def find_leaks(folder: Path | str, table: pa.Table) -> list[str]:
    """What the dataset in `folder`, with the manifest `table`, has in two splits; none if sound."""
    hashes = {row["source_id"]: row["perceptual_hash"] for row in read_sources(folder)}
    columns = ["source_id", "group", "source_pixel_sha256", "pixel_sha256", "split"]
    return prove_no_leak(table.select(columns).to_pylist(), hashes)


def summarise(table: pa.Table, labels: Sequence[str]) -> list[ClassSummary]:
    """A summary of each class of a manifest."""
    columns = ["label", "status", "target_kind", "reached", "encodes", "ratio", "ssim"]
    frame = {name: np.array(table[name].to_pylist(), dtype=object) for name in columns}
    well, lossy = frame["status"] == "ok", frame["target_kind"] != "none"
    summaries = []
    for label in labels:
        own = frame["label"] == label
        encodes = frame["encodes"][own & well & lossy]
        summaries.append(
            ClassSummary(
                label=label,
                samples=int(np.sum(own & well)),
                failed=int(np.sum(own & ~well)),
                unreached=int(np.sum(own & well & ~frame["reached"].astype(bool))),
                encodes_per_target=float(np.mean(encodes)) if len(encodes) else float("nan"),
                median_ratio=_median(frame["ratio"][own & well]),
                median_ssim=_median(frame["ssim"][own & well]),
            )
        )
    return summaries


def _median(values: Any) -> float:
    return float(np.median(values.astype(float))) if len(values) else float("nan")


def _encodes_per_target(table: pa.Table) -> float:
    rows = zip(*(table[n].to_pylist() for n in ("status", "target_kind", "encodes")), strict=True)
    encodes = [n for status, kind, n in rows if status == "ok" and kind != "none"]
    return float(np.mean(encodes)) if encodes else float("nan")


def _notes_on_labels(config: BuildConfig) -> list[str]:
    """Which histories end with another codec than the one that was driven to its target."""
    if config.label_rule != "last":
        return []
    return [
        f"{history.name}: by the label rule 'last' its samples have the label of the codec that "
        "follows, not of the one that met the target"
        for history in config.histories
        if history.recompresses
    ]


def _failed(table: pa.Table) -> list[Rejected]:
    columns = (table[name].to_pylist() for name in ("sample_id", "status", "error"))
    return [
        Rejected(sample, error, "failed")
        for sample, status, error in zip(*columns, strict=True)
        if status != "ok"
    ]


def _earlier_sources(storage: Storage) -> tuple[dict[str, Membership], dict[str, str]]:
    """Groups of the files, and splits of the groups, of the dataset that is added to."""
    if not storage.exists(SOURCES_FILE):
        return {}, {}
    rows = [row for row in read_sources(storage.root) if row["verdict"] == "accepted"]
    members = {row["file"]: Membership(row["group"], row["origin"]) for row in rows}
    return members, {row["group"]: row["split"] for row in rows}


def _write_sources(storage: Storage, vetting: Vetting, splits: dict[str, str]) -> None:
    """Write every verdict, with the split and what finds near-duplicates."""
    known = {source.pixel_sha256: source for source in vetting.sources}
    rows = []
    for row in vetting.rows():
        source = known.get(row["pixel_sha256"]) if row["verdict"] == "accepted" else None
        row["split"] = splits[source.group] if source else ""
        row["source_id"] = source.source_id if source else ""
        row["perceptual_hash"] = source.perceptual_hash if source else ""
        rows.append(row)
    storage.write(SOURCES_FILE, csv_bytes(rows))
    rejected = [dataclasses.asdict(item) for item in vetting.rejected]
    _write_json(storage, REJECTED_FILE, rejected)


@contextmanager
def _pool(workers: int | None, scheduler: str | None) -> Iterator[Pool]:
    """Processes of this machine, or the workers of a Dask cluster."""
    if scheduler is None:
        with worker_pool(workers) as local:
            yield local
    else:
        from datasets.cluster import cluster_pool

        with cluster_pool(scheduler) as cluster:
            yield cluster


def _encode(
    sources: Sequence[Source],
    splits: dict[str, str],
    config: BuildConfig,
    storage: Storage,
    pool: Pool,
    report: Progress,
    retry_failed: bool,
) -> None:
    """Run every task, and write the manifest; rows wait on disk, not in memory."""
    total = samples_per_source(config) * len(sources)
    running: dict[int, Task] = {}

    def tasks() -> Iterator[tuple[Task, str, bool]]:
        for number, task in enumerate(plan(sources, splits, config)):
            running[number] = task
            yield task, storage.root, retry_failed

    with tempfile.TemporaryFile() as spool:
        places: dict[int, int] = {}
        tally = _Tally()
        report("encoding", 0, total)
        for number, result in pool.run(run_task, tasks()):
            task = running.pop(number)
            rows = _crashed(task, result) if isinstance(result, Crashed) else result
            places[number] = spool.seek(0, os.SEEK_END)
            spool.write(json.dumps(rows).encode() + b"\n")
            tally.add(rows)
            report("encoding", tally.done, total, tally.note(total))
        if tally.well == 0:
            raise BuildError(f"No sample could be made. {'; '.join(sorted(tally.errors))}")
        labels = [name for name in CODECS if name in tally.labels or name in config.codecs]
        ordered = [name for name in config.codecs if name in labels]
        ordered += [name for name in labels if name not in config.codecs]
        _describe(storage, config, ordered)
        write_manifest(storage, _spooled(spool, places))


def _spooled(spool: Any, places: dict[int, int]) -> Iterator[Row]:
    """The rows in the order of the plan."""
    for number in sorted(places):
        spool.seek(places[number])
        yield from json.loads(spool.readline())


def _crashed(task: Task, crash: Crashed) -> list[Row]:
    """The rows of a task that ended its worker process again and again."""
    return [
        failed_row(task, goal, history, crash.reason)
        for goal in task.goals
        for history in task.histories
    ]


@dataclass
class _Tally:
    """Counts while a build goes on."""

    done: int = 0
    well: int = 0
    failed: int = 0
    targets: int = 0
    encodes: int = 0
    labels: set[str] = field(default_factory=set)
    errors: set[str] = field(default_factory=set)
    started: float = field(default_factory=time.perf_counter)

    def add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self.done += 1
            if row["status"] == "ok":
                self.well += 1
                self.labels.add(row["label"])
            else:
                self.failed += 1
                if len(self.errors) < 5:
                    self.errors.add(row["error"])
            if row["target_kind"] != "none":
                self.targets += 1
                self.encodes += row["encodes"]

    def note(self, total: int) -> str:
        """Rate, time left, encodes a target, failures."""
        rate = self.done / max(time.perf_counter() - self.started, 1e-6)
        left = (total - self.done) / max(rate, 1e-6)
        return (
            f"{rate:.1f}/s, {_duration(left)} left, "
            f"{self.encodes / max(self.targets, 1):.2f} encodes a target, {self.failed} failed"
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _cut_patches(storage: Storage, config: BuildConfig, pool: Pool, report: Progress) -> int:
    """The patches of a dataset on this machine; one elsewhere is exported when it is fetched."""
    if not storage.is_local or config.patches_per_class == 0:
        return 0
    patch_config = PatchConfig(config.patch_size, config.patches_per_class, config.seed)
    return extract_patches(
        storage.folder,
        patch_config,
        pool,
        lambda done, total: report("cutting patches", done, total),
    )


def _judge(
    table: pa.Table, storage: Storage, config: BuildConfig, report: Progress
) -> tuple[Audit, list[str]]:
    """Audit the manifest for shortcuts and leaks; write the audit, the card and the Croissant."""
    report("auditing", 0, 1)
    audit = audit_manifest(table, config.seed)
    leaks = find_leaks(storage.root, table)
    _write_json(storage, AUDIT_FILE, {"leaks": leaks, **audit.to_json()})
    description = read_dataset(storage.root)
    write_card(storage, description, table, audit.to_markdown(), leaks)
    write_croissant(storage, description, table)
    report("auditing", 1, 1)
    return audit, leaks


def _check_folder(paths: Sequence[Path], storage: Storage, config: BuildConfig) -> None:
    """Refuse a folder with other files or settings, or one that would become its own source."""
    out = storage.root
    if storage.is_local:
        for given in paths:
            if given.is_dir() and storage.folder.resolve().is_relative_to(given.resolve()):
                raise BuildError(f"{out} lies inside the sources {given}. Choose a folder outside.")
        if storage.folder.exists() and not storage.folder.is_dir():
            raise BuildError(f"{out} is not a folder. Choose another one.")
    if storage.exists(DATASET_FILE):
        earlier, settings = read_dataset(out).get("config"), config.to_json()
        if earlier != settings:
            raise BuildError(
                f"{out} holds a dataset of other settings. Choose another folder, or the settings "
                f"it was built with: {json.dumps(earlier)}. Received: {json.dumps(settings)}"
            )
    elif _holds_other_files(storage):
        raise BuildError(f"{out} is not an empty folder and holds no dataset. Choose another one.")


def _holds_other_files(storage: Storage) -> bool:
    if storage.is_local:
        folder = storage.folder
        return folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir())
    return bool(storage.list(""))


@contextmanager
def _claimed(storage: Storage, config: BuildConfig) -> Iterator[None]:
    """Make the dataset's folder and keep other builds on this machine out of it."""
    if not storage.is_local:
        _describe(storage, config, list(config.codecs))
        yield
        return
    try:
        storage.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"{storage.root} cannot be made: {error.strerror}") from error
    lock = FileLock(storage.folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BuildError(f"{storage.root}: another build is running in this folder.") from None
    try:
        storage.remove_temporaries()
        if not storage.exists(DATASET_FILE):
            _describe(storage, config, list(config.codecs))
        yield
    finally:
        lock.release()


def _describe(storage: Storage, config: BuildConfig, labels: list[str]) -> None:
    """Write ``dataset.json``."""
    packages = ("numpy", "pillow", "imagecodecs", "glymur", "av", "scikit-learn")
    content = {
        "format": FORMAT,
        "labels": labels,
        "patch_size": config.patch_size,
        "seed": config.seed,
        "config": config.to_json(),
        "encoders": {codec: CODECS[codec].version() for codec in config.codecs},
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }
    _write_json(storage, DATASET_FILE, content)


def _write_json(storage: Storage, path: str, content: object) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=True)
    storage.write(path, text.encode() + b"\n")


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Report nothing."""
