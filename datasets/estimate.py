"""What a build would make and cost, from its plan and from one source that is tried."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.build import Progress, silent, vet_usable
from datasets.plan import BuildConfig, Task, plan, samples_per_source
from datasets.samples import Row, run_task
from datasets.sources import Rejected
from datasets.splits import assign_splits
from datasets.workers import Crashed, worker_pool


@dataclass(frozen=True)
class ClassEstimate:
    """The share of one class in a build.

    Attributes:
        label: The codec.
        samples: Number of its samples.
        seconds_per_sample: Work of one process.
    """

    label: str
    samples: int
    seconds_per_sample: float


@dataclass(frozen=True)
class Estimate:
    """Size and cost of a build.

    Attributes:
        sources: Number of accepted sources.
        samples: Number of samples.
        patches: Number of patches, at most.
        seconds: Wall-clock time of the encoding.
        workers: Number of processes this is for.
        encoded_bytes: Of the encoded files.
        patch_bytes: Of the patches.
        encodes_per_target: Mean number of encodes that a target costs.
        probe: The source that was tried.
        classes: Each one's share.
        rejected: Sources that would be refused.
    """

    sources: int
    samples: int
    patches: int
    seconds: float
    workers: int
    encoded_bytes: int
    patch_bytes: int
    encodes_per_target: float
    probe: str
    classes: list[ClassEstimate]
    rejected: list[Rejected]


def estimate_build(
    paths: Sequence[Path],
    config: BuildConfig,
    workers: int | None = None,
    progress: Progress | None = None,
    groups: Path | None = None,
) -> Estimate:
    """Plan a build and judge its cost by making the samples of one source, the median in size.

    The samples are made on this machine in a temporary folder, and thrown away.

    Raises:
        BuildError: No usable source.
    """
    report = progress or silent
    with worker_pool(workers) as pool:
        vetting = vet_usable(paths, config, report, pool, groups)
        sources = vetting.sources
        ordered = sorted(sources, key=lambda source: source.width * source.height)
        probe = ordered[len(ordered) // 2]
        splits = assign_splits({s.group: s.origin for s in sources}, config.seed)
        tasks = list(plan([probe], splits, config))
        rows: list[Row] = []
        seconds: dict[str, float] = dict.fromkeys(config.codecs, 0.0)
        with tempfile.TemporaryDirectory() as folder:
            given = ((task, folder) for task in tasks)
            for done, (number, result) in enumerate(pool.run(timed_task, given), start=1):
                if not isinstance(result, Crashed):
                    seconds[tasks[number].codec] += result[0]
                    rows += result[1]
                report(f"trying {probe.file}", done, len(tasks))
    scale = sum(s.width * s.height for s in sources) / (probe.width * probe.height)
    targets = [row["encodes"] for row in rows if row["target_kind"] != "none"]
    made = {codec: sum(row["codec"] == codec for row in rows) for codec in config.codecs}
    patches = len(sources) * len(config.codecs) * config.patches_per_class
    return Estimate(
        sources=len(sources),
        samples=samples_per_source(config) * len(sources),
        patches=patches,
        seconds=sum(seconds.values()) * scale / pool.processes,
        workers=pool.processes,
        encoded_bytes=round(sum(row["file_bytes"] for row in rows) * scale),
        patch_bytes=patches * config.patch_size**2 * 3,
        encodes_per_target=sum(targets) / max(1, len(targets)),
        probe=probe.file,
        classes=[
            ClassEstimate(
                label=codec,
                samples=made[codec] * len(sources),
                seconds_per_sample=seconds[codec] / max(1, made[codec]) * scale / len(sources),
            )
            for codec in config.codecs
        ],
        rejected=vetting.rejected,
    )


def timed_task(task: Task, folder: str) -> tuple[float, list[Row]]:
    """Seconds and rows of a task."""
    started = time.perf_counter()
    rows = run_task(task, folder)
    return time.perf_counter() - started, rows
