"""Samples per second of the builder against a straightforward script, and against codec work.

Three things are measured codec by codec, one after the other in one run, on the same pictures and
the same nine targets of each picture:

- *baseline*: what one writes in an afternoon: for each target an integer bisection over the codec's
  knob, every probe encoded (and for an SSIM target decoded and measured by scikit-image), then the
  file written and measured. The same number of processes.
- *builder*: `datasets.build.build_dataset`, its encoding stage.
- *unit*: one encode, one decode and one SSIM for each sample that the builder delivered, with the
  parameters it found, in one process, against the builder's own work in one process.

    python -m benchmarks.throughput --data ../shared/data/kodak --pictures 8
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile

from benchmarks.environment import write_environment, write_table
from benchmarks.source_pictures import pictures_in
from datasets.plan import BuildConfig, Task, plan
from datasets.samples import run_task
from datasets.sources import find_sources
from datasets.workers import worker_pool
from imagecompression import CODECS, Codec, Image, codec_from_params
from imagecompression.image_io import read_image
from imagecompression.metrics import luma, ssim
from imagecompression.thread_limit import one_thread

RATIOS = (5.0, 8.0, 12.0, 20.0, 40.0)
SSIMS = (0.8, 0.9, 0.95, 0.98)


def config_of(codec: str) -> BuildConfig:
    """A build with `codec` alone, at its default setting's targets exactly."""
    return BuildConfig(
        codecs=(codec,), ratios=RATIOS, ssims=SSIMS, target_spread=0.0, patches_per_class=0
    )


def skimage_ssim(reference: Image, distorted: Image) -> float:
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(
            luma(reference), luma(distorted), data_range=255,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )
    )  # fmt: skip


def baseline_task(path: Path, params: dict[str, object], name: str, out: Path) -> int:
    """The straightforward script on one picture and codec: nine files and a table."""
    image = read_image(path)
    setting = codec_from_params(name, params)
    knob = setting.knob
    assert knob is not None
    rows = []
    for kind, values in (("ratio", RATIOS), ("ssim", SSIMS)):
        for value in values:
            low, high = int(np.ceil(knob.low)), int(knob.high)
            best: tuple[float, bytes, Codec] | None = None
            while low <= high:
                middle = (low + high) // 2
                codec = setting.with_knob(middle)
                data = codec.encode(image)
                if kind == "ratio":
                    measured = image.nbytes / len(data)
                else:
                    measured = skimage_ssim(image, codec.decode(data))
                if best is None or abs(measured - value) < abs(best[0] - value):
                    best = (measured, data, codec)
                too_small_a_file = measured > value if kind == "ratio" else measured < value
                if too_small_a_file == knob.rises_with_size:
                    low = middle + 1
                else:
                    high = middle - 1
            assert best is not None
            _, data, codec = best
            decoded = codec.decode(data)
            (out / f"{path.stem}_{name}_{kind}{value:g}{codec.suffix}").write_bytes(data)
            rows.append((kind, value, image.nbytes / len(data), skimage_ssim(image, decoded)))
    with (out / f"{path.stem}_{name}.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return len(rows)


def warm(name: str) -> None:
    """Load what a process needs, so that no measure holds it."""
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    codec = CODECS[name]()
    skimage_ssim(picture, codec.decode(codec.encode(picture)))
    ssim(picture, picture)


def run_baseline(tasks: Sequence[Task], name: str, processes: int) -> float:
    """Wall-clock seconds of the baseline over all pictures."""
    with tempfile.TemporaryDirectory() as folder, worker_pool(processes) as pool:
        list(pool.run(warm, [(name,)] * 4 * processes))
        started = time.perf_counter()
        given = ((t.source.path, t.params, name, Path(folder)) for t in tasks)
        list(pool.run(baseline_task, given))
        return time.perf_counter() - started


def run_builder(tasks: Sequence[Task], name: str, processes: int) -> float:
    """The same for the builder's tasks."""
    with tempfile.TemporaryDirectory() as folder, worker_pool(processes) as pool:
        list(pool.run(warm, [(name,)] * 4 * processes))
        started = time.perf_counter()
        list(pool.run(run_task, ((task, folder) for task in tasks)))
        return time.perf_counter() - started


def run_units(tasks: Sequence[Task], name: str) -> tuple[float, float, float, int]:
    """Seconds of the builder in this process, of the units, mean encodes, and samples."""
    builder = units = 0.0
    encodes: list[int] = []
    warm(name)
    with tempfile.TemporaryDirectory() as folder, one_thread():
        for task in tasks:
            started = time.perf_counter()
            rows = run_task(task, folder)
            builder += time.perf_counter() - started
            image = read_image(task.source.path)
            for row in rows:
                codec = codec_from_params(name, json.loads(row["params"]))
                started = time.perf_counter()
                ssim(image, codec.decode(codec.encode(image)))
                units += time.perf_counter() - started
                encodes.append(row["encodes"])
    return builder, units, float(np.mean(encodes)), len(encodes)


def geometric_mean(values: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/kodak"))
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--codecs", default=",".join(n for n in CODECS if CODECS[n].knob))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("results/throughput.csv"))
    arguments = parser.parse_args()
    pictures = pictures_in(arguments.data)
    pictures = pictures[:: max(1, len(pictures) // arguments.pictures)][: arguments.pictures]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for path in pictures:
            tifffile.imwrite(Path(folder) / f"{path.stem}.tif", read_image(path))
        sources, _ = find_sources([Path(folder)], 64)
        splits = {source.group: "train" for source in sources}
        for name in arguments.codecs.split(","):
            tasks = list(plan(sources, splits, config_of(name)))
            samples = 9 * len(tasks)
            baseline = run_baseline(tasks, name, arguments.processes)
            builder = run_builder(tasks, name, arguments.processes)
            alone, units, encodes, _ = run_units(tasks, name)
            rows.append(
                {
                    "codec": name,
                    "samples": samples,
                    "baseline_per_second": round(samples / baseline, 3),
                    "builder_per_second": round(samples / builder, 3),
                    "times_faster": round(baseline / builder, 2),
                    "encodes_per_target": round(encodes, 3),
                    "unit_ms": round(1000 * units / samples, 1),
                    "builder_ms": round(1000 * alone / samples, 1),
                    "times_unit": round(alone / units, 3),
                }
            )
            print(rows[-1], file=sys.stderr)
    write_table(arguments.out, rows)
    write_environment(arguments.out)
    for row in rows:
        print(
            f"{row['codec']:10} {row['baseline_per_second']:7.2f} samples/s by the script, "
            f"{row['builder_per_second']:7.2f} by the builder: {row['times_faster']:5.2f} times; "
            f"{row['encodes_per_target']:.2f} encodes a target, {row['times_unit']:.2f} units"
        )
    faster = [float(row["times_faster"]) for row in rows]
    unit = [float(row["times_unit"]) for row in rows]
    print(
        f"{len(pictures)} pictures, {arguments.processes} processes: {geometric_mean(faster):.2f} "
        f"times the baseline on the geometric mean, least {min(faster):.2f}; "
        f"{geometric_mean(unit):.2f} times encode + decode + SSIM"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
