"""Building a dataset: sources × codecs × targets → encoded files and the manifest.

A build is planned first; executing the plan in any order and in any number of processes gives the
same bytes. Finished jobs are journaled, so a build that was killed goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from datasets.manifest import write_manifest
from datasets.patches import PatchConfig, extract_patches
from datasets.sources import Rejected, Source, find_sources, pixel_hash
from datasets.splits import SPLITS, assign_splits
from datasets.workers import worker_pool
from imagecompression import (
    CODECS,
    CodecError,
    RateSearch,
    RatioTarget,
    SsimTarget,
    codec_from_params,
)
from imagecompression.atomic_file import write_bytes_atomic, write_json_atomic
from imagecompression.errors import ImageCompressionError
from imagecompression.image_io import read_image
from imagecompression.metrics import measure
from imagecompression.rate import Target

FORMAT = 1
DATASET_FILE = "dataset.json"
JOURNAL_FILE = "journal.jsonl"
ENCODED_FOLDER = "encoded"

LOCK_FILE = ".lock"
MAX_PATCHES_PER_CLASS = 100_000

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


class BuildError(ImageCompressionError):
    """The build cannot start: no usable source, bad settings, or a folder with another dataset."""


@dataclass(frozen=True)
class BuildConfig:
    """What makes a dataset, apart from its sources.

    Attributes:
        codecs: Names from `CODECS`; the class labels, in this order.
        ratios: Compression ratio targets, 20 means 20:1.
        ssims: SSIM targets.
        patch_size: Side of the square patches in pixels.
        patches_per_class: Patches for each source and class, spread over the class's files.
        seed: Fixes splits, codec settings and patch positions.
        settings_per_source: Encoder settings drawn for each source and codec, 1 to 100; the targets
            are dealt out among them. More settings bring few sources more variety, and cost
            encodes, because targets share them only within a setting.
    """

    codecs: tuple[str, ...] = tuple(CODECS)
    ratios: tuple[float, ...] = (5.0, 10.0, 20.0, 40.0)
    ssims: tuple[float, ...] = (0.8, 0.9, 0.95)
    patch_size: int = 64
    patches_per_class: int = 42
    seed: int = 0
    settings_per_source: int = 1

    def __post_init__(self) -> None:
        unknown = [name for name in self.codecs if name not in CODECS]
        if unknown or not self.codecs:
            raise BuildError(
                f"Codecs must be among {', '.join(CODECS)}. "
                f"Received: {', '.join(unknown) or 'none'}"
            )
        for field_name in ("codecs", "ratios", "ssims"):
            values = getattr(self, field_name)
            # Sample names carry targets as they print, so these must differ as well.
            if len({value if isinstance(value, str) else f"{value:g}" for value in values}) < len(
                values
            ):
                raise BuildError(f"{field_name} has a value twice. Received: {values}")
        lossy = [name for name in self.codecs if CODECS[name].knob is not None]
        if lossy and not self.ratios and not self.ssims:
            raise BuildError("Give at least one ratio or SSIM target.")
        if not 16 <= self.patch_size <= 1024:
            raise BuildError(f"patch_size must be 16 to 1024 pixels. Received: {self.patch_size}")
        if not 1 <= self.patches_per_class <= MAX_PATCHES_PER_CLASS:
            raise BuildError(
                f"patches_per_class must be 1 to {MAX_PATCHES_PER_CLASS}. "
                f"Received: {self.patches_per_class}"
            )
        if not 1 <= self.settings_per_source <= 100:
            raise BuildError(
                f"settings_per_source must be 1 to 100. Received: {self.settings_per_source}"
            )
        if not 0 <= self.seed < 2**32:
            raise BuildError(f"seed must be 0 to 2³² − 1. Received: {self.seed}")
        try:
            self.targets()
        except CodecError as error:
            raise BuildError(str(error)) from error

    def targets(self) -> list[Target]:
        """All targets, ratios first."""
        return [*map(RatioTarget, self.ratios), *map(SsimTarget, self.ssims)]


@dataclass(frozen=True)
class Job:
    """One source and one codec setting: the unit of work, with all targets of the dataset."""

    source: Source
    split: str
    label: str
    params: dict[str, Any]
    seed: int
    ratios: tuple[float, ...]
    ssims: tuple[float, ...]

    @property
    def job_id(self) -> str:
        """Fixed by all that decides the job's bytes, the source's split included."""
        source = self.source
        facts: list[Any] = [source.pixel_sha256, source.sha256, source.file, self.split]
        facts += [self.label, self.params, self.seed, self.ratios, self.ssims]
        facts += [CODECS[self.label].version()]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class BuildResult:
    """What a build left behind.

    Attributes:
        folder: The dataset.
        sources: Number of accepted sources.
        samples: Number of encoded files that are well.
        samples_by_label: The same for each class.
        patches: Number of patches.
        splits: Number of sources in each split.
        unreached: Samples whose target was out of reach or between two knob steps.
        encodes_per_sample: Mean number of encodes that a target cost.
        resumed: Jobs taken over from an earlier, interrupted run.
        rejected: Sources that were refused.
        failed: Samples that could not be made.
    """

    folder: Path
    sources: int
    samples: int
    samples_by_label: dict[str, int]
    patches: int
    splits: dict[str, int]
    unreached: int
    encodes_per_sample: float
    resumed: int
    rejected: list[Rejected] = field(default_factory=list)
    failed: list[Rejected] = field(default_factory=list)


def plan(sources: Sequence[Source], config: BuildConfig) -> list[Job]:
    """Every job of a build. Each draws its codec setting by a seed of its own."""
    splits = assign_splits((source.group for source in sources), config.seed)
    count = config.settings_per_source
    jobs = []
    for source in sources:
        for label in config.codecs:
            lossy = CODECS[label].knob is not None
            for setting in range(count if lossy else 1):
                ratios = config.ratios[setting::count] if lossy else ()
                # The deal goes on from the ratios to the SSIMs.
                first = (setting - len(config.ratios)) % count
                ssims = config.ssims[first::count] if lossy else ()
                if lossy and not ratios and not ssims:
                    continue
                key = f"{config.seed}:{source.pixel_sha256}:{label}"
                key += f":{setting}" if setting else ""
                seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big")
                variants = CODECS[label].variants()
                jobs.append(
                    Job(
                        source=source,
                        split=splits[source.group],
                        label=label,
                        params=variants[seed % len(variants)].params(),
                        seed=seed,
                        ratios=ratios,
                        ssims=ssims,
                    )
                )
    return jobs


def run_job(job: Job, folder: Path) -> list[dict[str, Any]]:
    """Encode one source with one codec for all targets; write the files, return manifest rows.

    A target that fails gives a row with status ``failed``; the others go on.
    """
    try:
        image = read_image(job.source.path)
        if pixel_hash(image) != job.source.pixel_sha256:
            raise CodecError(f"{job.source.file} changed while the dataset was being built")
        codec = codec_from_params(job.label, job.params)
        search = RateSearch(image, codec)
    except Exception as error:  # decoders of untrusted data raise anything; the build must go on
        return [_failed_row(job, target, _reason(job, error)) for target in _targets(job)]
    rows = []
    for target in _targets(job):
        try:
            if target is None:
                data, used = search.probe(0).data, codec
                outcome: dict[str, Any] = {
                    "measured": None,
                    "reached": True,
                    "reason": "",
                    "encodes": 1,
                }
            else:
                found = search.to(target)
                data, used = found.data, found.codec
                outcome = {
                    "measured": found.measured,
                    "reached": found.reached,
                    "reason": found.reason,
                    "encodes": found.encodes,
                }
            decoded = used.decode(data)
            row = _row(job, target)
            path = f"{ENCODED_FOLDER}/{job.label}/{row['sample_id']}{used.suffix}"
            row |= {
                "params": json.dumps(used.params(), sort_keys=True),
                "encoder": used.version(),
                **outcome,
                "path": path,
                "file_bytes": len(data),
                "file_sha256": hashlib.sha256(data).hexdigest(),
                "pixel_sha256": pixel_hash(decoded),
                "channels": 1 if decoded.ndim == 2 else 3,
                **measure(image, decoded, len(data)),
            }
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            write_bytes_atomic(folder / path, data)
            rows.append(row)
        except OSError:
            raise  # the dataset's folder cannot be written: no other sample can be kept either
        except Exception as error:  # encoders raise anything, and some not what can be pickled
            rows.append(_failed_row(job, target, _reason(job, error)))
    return rows


def build_dataset(
    paths: Sequence[Path],
    out: Path,
    config: BuildConfig,
    workers: int | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """Build the dataset of `paths` (files and folders of pristine pictures) in folder `out`.

    Started again after a kill, with the same arguments, it goes on and ends with the same files
    and the same manifest. Sources may be added to a dataset by naming them with the old ones.

    Args:
        paths: Files and folders.
        out: The dataset's folder; made if absent.
        config: See `BuildConfig`.
        workers: Processes; None takes one for each core.
        progress: See `Progress`.

    Raises:
        BuildError: No usable source, or `out` holds a dataset of other settings or other files.
        CodecUnavailableError: A library for one of the codecs is missing.
        WorkerError: A worker process died.
    """
    report = progress or (lambda stage, done, total: None)
    workers = max(1, workers or os.cpu_count() or 1)
    for label in config.codecs:
        CODECS[label].check_available()
    _check_folder(paths, out, config)
    sources, rejected = find_sources(
        paths, config.patch_size, lambda done, total: report("reading sources", done, total)
    )
    if not sources:
        reasons = "; ".join(f"{item.file}: {item.error}" for item in rejected[:5])
        raise BuildError(f"No usable source picture. {reasons or 'No file was given.'}")
    with _claimed(out, config):
        write_json_atomic(out / "rejected.json", [dataclasses.asdict(item) for item in rejected])
        jobs = plan(sources, config)
        done_rows = _read_journal(out, {job.job_id for job in jobs})
        todo = [job for job in jobs if job.job_id not in done_rows]
        resumed = len(jobs) - len(todo)
        with worker_pool(workers) as pool:
            with open(out / JOURNAL_FILE, "a", encoding="utf-8") as journal:
                finished = resumed
                report("encoding", finished, len(jobs))
                for number, rows in pool.run(run_job, ((job, out) for job in todo)):
                    job_id = todo[number].job_id
                    done_rows[job_id] = rows
                    journal.write(json.dumps({"job": job_id, "rows": rows}) + "\n")
                    journal.flush()
                    os.fsync(journal.fileno())
                    finished += 1
                    report("encoding", finished, len(jobs))
            rows = [row for job in jobs for row in done_rows[job.job_id]]
            if not any(row["status"] == "ok" for row in rows):
                reasons = "; ".join(sorted({row["error"] for row in rows})[:5])
                raise BuildError(f"No sample could be made. {reasons}")
            write_manifest(out, rows)
            patch_config = PatchConfig(config.patch_size, config.patches_per_class, config.seed)
            patches = extract_patches(
                out, patch_config, pool, lambda done, total: report("cutting patches", done, total)
            )
    well = [row for row in rows if row["status"] == "ok"]
    return BuildResult(
        folder=out,
        sources=len(sources),
        samples=len(well),
        samples_by_label={
            label: sum(row["label"] == label for row in well) for label in config.codecs
        },
        patches=patches,
        splits=_count_splits(jobs),
        unreached=sum(not row["reached"] for row in well),
        encodes_per_sample=sum(row["encodes"] for row in well) / max(1, len(well)),
        resumed=resumed,
        rejected=rejected,
        failed=[Rejected(row["sample_id"], row["error"]) for row in rows if row["status"] != "ok"],
    )


def read_dataset(folder: Path) -> dict[str, Any]:
    """The contents of ``dataset.json``: settings, labels and versions of a dataset.

    Raises:
        BuildError: There is none, or it is damaged or of a later format.
    """
    path = folder / DATASET_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise BuildError(f"{path}: format {content['format']} is not supported, only {FORMAT}")
        return dict(content)
    except FileNotFoundError as error:
        raise BuildError(
            f"{folder}: no {DATASET_FILE} there. Build the dataset first (main.py build-dataset)."
        ) from error
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise BuildError(f"{path}: not a readable dataset description: {error!r}") from error


def _reason(job: Job, error: Exception) -> str:
    """An error as text that does not tell where the source lies on this machine."""
    text = str(error) if isinstance(error, CodecError) else f"{type(error).__name__}: {error}"
    return text.replace(os.fspath(job.source.path), job.source.file)


def _targets(job: Job) -> list[Target | None]:
    targets: list[Target | None] = [*map(RatioTarget, job.ratios), *map(SsimTarget, job.ssims)]
    return targets or [None]


def _row(job: Job, target: Target | None) -> dict[str, Any]:
    """The columns that are known before encoding; the rest filled with empty values."""
    goal = "none" if target is None else f"{target.kind}{target.value:g}"
    return {
        "sample_id": f"{job.source.source_id}_{job.label}_{goal}",
        "status": "ok",
        "error": "",
        "source_id": job.source.source_id,
        "source_file": job.source.file,
        "source_sha256": job.source.sha256,
        "source_notes": "; ".join(job.source.notes),
        "group": job.source.group,
        "split": job.split,
        "label": job.label,
        "target_kind": "none" if target is None else target.kind,
        "target_value": None if target is None else float(target.value),
        "width": job.source.width,
        "height": job.source.height,
        "seed": job.seed,
    }


def _failed_row(job: Job, target: Target | None, error: str) -> dict[str, Any]:
    return _row(job, target) | {
        "status": "failed",
        "error": error,
        "params": json.dumps(job.params, sort_keys=True),
        "encoder": "",
        "measured": None,
        "reached": False,
        "reason": "",
        "encodes": 0,
        "path": "",
        "file_bytes": 0,
        "file_sha256": "",
        "pixel_sha256": "",
        "channels": 0,
        "ratio": None,
        "bits_per_pixel": None,
        "psnr_db": None,
        "ssim": None,
        "ms_ssim": None,
    }


def _check_folder(paths: Sequence[Path], out: Path, config: BuildConfig) -> None:
    """Refuse a folder with other files or settings, or one that would become its own source."""
    for given in paths:
        if given.is_dir() and out.resolve().is_relative_to(given.resolve()):
            raise BuildError(f"{out} lies inside the sources {given}. Choose a folder outside.")
    if (out / DATASET_FILE).exists():
        earlier, settings = read_dataset(out).get("config"), _settings(config)
        if earlier != settings:
            raise BuildError(
                f"{out} holds a dataset of other settings. Choose another folder, or the settings "
                f"it was built with: {json.dumps(earlier)}. Received: {json.dumps(settings)}"
            )
    elif out.exists() and (not out.is_dir() or any(p.name != LOCK_FILE for p in out.iterdir())):
        raise BuildError(f"{out} is not an empty folder and holds no dataset. Choose another one.")


@contextmanager
def _claimed(out: Path, config: BuildConfig) -> Iterator[None]:
    """Make the dataset's folder and keep other builds out of it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"{out} cannot be made: {error.strerror}") from error
    lock = FileLock(out / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BuildError(f"{out}: another build is running in this folder.") from None
    try:
        if not (out / DATASET_FILE).exists():
            _describe(out, config)
        yield
    finally:
        lock.release()


def _settings(config: BuildConfig) -> dict[str, Any]:
    """The settings as they come back from JSON."""
    return dict(json.loads(json.dumps(dataclasses.asdict(config))))


def _describe(out: Path, config: BuildConfig) -> None:
    """Write ``dataset.json``."""
    packages = ("numpy", "pillow", "imagecodecs", "glymur", "av", "scikit-learn")
    write_json_atomic(
        out / DATASET_FILE,
        {
            "format": FORMAT,
            "labels": list(config.codecs),
            "patch_size": config.patch_size,
            "seed": config.seed,
            "config": _settings(config),
            "encoders": {label: CODECS[label].version() for label in config.codecs},
            "python": platform.python_version(),
            "packages": {name: version(name) for name in packages},
        },
    )


def _read_journal(out: Path, wanted: set[str]) -> dict[str, list[dict[str, Any]]]:
    """Rows of finished jobs whose files are still there; a line cut off by a kill is dropped."""
    path = out / JOURNAL_FILE
    finished: dict[str, list[dict[str, Any]]] = {}
    if not path.exists():
        return finished
    whole = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            entry = json.loads(line)
            job_id, rows = entry["job"], entry["rows"]
            well = job_id in wanted and all(
                row["status"] == "ok" and _is_intact(out / row["path"], row["file_sha256"])
                for row in rows
            )
        except (ValueError, KeyError, TypeError):
            continue
        whole.append(line)
        if well:
            finished[job_id] = rows
    write_bytes_atomic(path, b"".join(line + b"\n" for line in whole))
    return finished


def _is_intact(path: Path, sha256: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except OSError:
        return False


def _count_splits(jobs: Sequence[Job]) -> dict[str, int]:
    by_source = {job.source.source_id: job.split for job in jobs}
    names = list(by_source.values())
    return {split: names.count(split) for split in SPLITS}
