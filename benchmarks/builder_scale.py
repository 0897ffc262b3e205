"""What the builder costs beside codec work, how it scales, and whether it stays reproducible.

- *overhead*: milliseconds a sample that are spent outside encoding, decoding, measuring, reading
  the source and hashing pixels, in a task and in handing it to a process.
- *efficiency*: samples per second with two processes over twice those with one, beside the same
  ratio for a loop that touches no memory or disk: what this machine gives at best.
- *growth*: seconds a sample and peak memory of workers and of the main process, from 100 to 10,000
  samples.
- *equality*: one build with one process, one with two that is killed three times: every byte.

All on generated pictures and in one run.

    python -m benchmarks.builder_scale
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import tifffile

from benchmarks.environment import write_environment
from benchmarks.generated_picture import generated_picture
from datasets import samples
from datasets.build import build_dataset
from datasets.plan import BuildConfig, plan
from datasets.sources import find_sources
from datasets.workers import worker_pool
from imagecompression import CODECS
from imagecompression.draft import Draft, Drafting
from imagecompression.metrics import Reference
from imagecompression.thread_limit import one_thread

CODEC_NAMES = ("uncompressed", "jpeg", "jpeg2000", "jpegxr", "webp", "jpegxl", "kmeans", "svd")


def write_sources(folder: Path, count: int, side: int) -> Path:
    """`count` different TIFF pictures."""
    folder.mkdir()
    for number in range(count):
        picture = generated_picture(side, side + number % 7, 3, seed=number)
        tifffile.imwrite(folder / f"{number:05}.tif", picture)
    return folder


def overhead(folder: Path) -> float:
    """Milliseconds a sample beside codec work, in a task and around it."""
    sources, _ = find_sources([write_sources(folder / "overhead", 6, 256)], 64)
    config = BuildConfig(codecs=CODEC_NAMES, patches_per_class=0)
    splits = {source.group: "train" for source in sources}
    tasks = list(plan(sources, splits, config))
    work = [0.0]
    depth = [0]

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            depth[0] += 1
            try:
                return function(*args, **kwargs)
            finally:
                depth[0] -= 1
                if depth[0] == 0:
                    work[0] += time.perf_counter() - started

        return call

    def timed_draft(draft: Callable[..., Draft]) -> Callable[..., Draft]:
        def call(*args: Any) -> Draft:
            made = timed(draft)(*args)
            return dataclasses.replace(made, finish=timed(made.finish))

        return call

    patches = [
        mock.patch.object(samples, "read_source", timed(samples.read_source)),
        mock.patch.object(samples, "pixel_hash", timed(samples.pixel_hash)),
        mock.patch.object(Reference, "ssim", timed(Reference.ssim)),
        mock.patch.object(Reference, "measure", timed(Reference.measure)),
    ]
    for name in CODEC_NAMES:
        kind = CODECS[name]
        if issubclass(kind, Drafting):
            patches.append(mock.patch.object(kind, "draft", timed_draft(kind.draft)))
        patches.append(mock.patch.object(kind, "encode", timed(kind.encode)))
        patches.append(mock.patch.object(kind, "encode_with", timed(kind.encode_with)))
        patches.append(mock.patch.object(kind, "decode", staticmethod(timed(kind.decode))))
    count = 0
    with one_thread():
        for task in tasks[: len(CODEC_NAMES)]:
            samples.run_task(task, str(folder / "warm"))
        for patch in patches:
            patch.start()
        started = time.perf_counter()
        for task in tasks:
            count += len(samples.run_task(task, str(folder / "timed")))
        total = time.perf_counter() - started
        for patch in patches:
            patch.stop()
    inside = (total - work[0]) / count
    with worker_pool(1) as pool:
        list(pool.run(samples.run_task, ((task, str(folder / "timed")) for task in tasks[:8])))
        started = time.perf_counter()
        list(pool.run(_nothing, ((task, "") for task in tasks)))
        around = (time.perf_counter() - started) / count
    return 1000 * (inside + around)


def _nothing(task: object, root: str) -> list[dict[str, Any]]:
    """What a task costs that does nothing."""
    return [{"sample_id": "x" * 40, "error": "y" * 1000}] * 7


def _spin(turns: int) -> int:
    total = 0
    for turn in range(turns):
        total ^= turn * turn
    return total


def _seconds(processes: int, function: Callable[..., Any], tasks: list[tuple[Any, ...]]) -> float:
    with worker_pool(processes) as pool:
        list(pool.run(function, tasks[: 2 * processes]))
        started = time.perf_counter()
        list(pool.run(function, tasks[2 * processes :]))
        return time.perf_counter() - started


def efficiency(folder: Path) -> tuple[float, float]:
    """Parallel efficiency of two processes: of the builder, and of a bare loop."""
    sources, _ = find_sources([write_sources(folder / "efficiency", 6, 320)], 64)
    config = BuildConfig(codecs=CODEC_NAMES, patches_per_class=0)
    tasks = list(plan(sources, {source.group: "train" for source in sources}, config))
    one = _seconds(1, samples.run_task, [(task, str(folder / "one")) for task in tasks])
    two = _seconds(2, samples.run_task, [(task, str(folder / "two")) for task in tasks])
    spins: list[tuple[Any, ...]] = [(2_000_000,)] * 40
    return one / (2 * two), _seconds(1, _spin, spins) / (2 * _seconds(2, _spin, spins))


@contextmanager
def watched_memory() -> Iterator[dict[str, float]]:
    """Peak resident MiB of this process's children while inside."""
    peaks: dict[str, float] = {"worker": 0.0, "main": 0.0}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            for status in Path("/proc").glob("[0-9]*/status"):
                try:
                    facts = dict(
                        line.split(":", 1)
                        for line in status.read_text().splitlines()
                        if ":" in line
                    )
                except OSError:
                    continue
                own = int(facts["Pid"]) == os.getpid()
                if (own or int(facts["PPid"]) == os.getpid()) and "VmRSS" in facts:
                    name = "main" if own else "worker"
                    peaks[name] = max(peaks[name], int(facts["VmRSS"].split()[0]) / 1024)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def growth(folder: Path, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Cost a sample and peak memory of builds of several sizes on pictures of one kind."""
    config = BuildConfig(codecs=CODEC_NAMES, patches_per_class=8)
    each = 1 + 7 * (len(CODEC_NAMES) - 1)
    rows = []
    for size in sizes:
        count = -(-size // each)
        sources = write_sources(folder / f"growth{size}", count, 128)
        with watched_memory() as peaks:
            result = build_dataset([sources], folder / f"built{size}", config)
        rows.append(
            {
                "samples": result.samples,
                "ms_per_sample": round(1000 * result.seconds / result.samples, 2),
                "worker_mib": round(peaks["worker"]),
                "main_mib": round(peaks["main"]),
            }
        )
        print(rows[-1], file=sys.stderr)
    return rows


def tree_hash(folder: Path) -> str:
    """Hash of every name and byte below `folder`."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def equality(folder: Path) -> tuple[bool, int]:
    """Whether a build that was killed three times equals one that was not; and kills made."""
    sources = write_sources(folder / "equality", 12, 256)
    command = [sys.executable, "main.py", "build-dataset", str(sources), "--codecs"]
    command += ["uncompressed,jpeg,jpeg2000,jpegxr,webp", "--workers"]
    subprocess.run([*command, "1", "--out", str(folder / "quiet")], check=True, capture_output=True)
    total = sum(1 for _ in (folder / "quiet" / "encoded").rglob("*.*"))
    killed = folder / "killed"
    kills = 0
    for share in (0.2, 0.5, 0.8):
        process = subprocess.Popen(
            [*command, "2", "--out", str(killed)],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None:
            if sum(1 for _ in (killed / "encoded").rglob("*.*")) >= share * total:
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.05)
        process.wait()
    subprocess.run([*command, "2", "--out", str(killed)], check=True, capture_output=True)
    return tree_hash(folder / "quiet") == tree_hash(killed), kills


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="100,1000,10000", help="samples of the growing builds")
    parser.add_argument("--out", type=Path, default=Path("results/builder_scale.csv"))
    arguments = parser.parse_args()
    sizes = tuple(int(size) for size in arguments.sizes.split(","))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        beside = overhead(folder)
        print(f"overhead: {beside:.2f} ms a sample", file=sys.stderr)
        builder, bare = efficiency(folder)
        print(f"efficiency of two processes: {builder:.1%}, bare loop {bare:.1%}", file=sys.stderr)
        same, kills = equality(folder)
        print(f"equal after {kills} kills: {same}", file=sys.stderr)
        grown = growth(folder, sizes)
    costs = [float(row["ms_per_sample"]) for row in grown]
    figures: list[tuple[str, object]] = [
        ("overhead_ms_per_sample", round(beside, 3)),
        ("efficiency_of_two_processes", round(builder, 4)),
        ("efficiency_of_a_bare_loop", round(bare, 4)),
        ("kills", kills),
        ("equal_bytes", same),
        ("largest_over_smallest_cost", round(max(costs) / min(costs), 4)),
    ]
    for row in grown:
        for key in ("ms_per_sample", "worker_mib", "main_mib"):
            figures.append((f"{key}_at_{row['samples']}", row[key]))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("figure", "value"))
        writer.writerows(figures)
    write_environment(arguments.out)
    for key, value in figures:
        print(f"{key:32} {value}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
