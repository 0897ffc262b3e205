"""The main job on real photographs, from sources to verdicts, in a few minutes.

The photographs come inside installed packages (`datasets.photographs`); nothing is downloaded.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datasets.build import BuildResult, build_dataset
from datasets.build import Progress as BuildProgress
from datasets.manifest import read_manifest
from datasets.photographs import write_photographs
from datasets.plan import BuildConfig
from imagecompression import CODECS
from imagecompression.atomic_file import write_bytes_atomic
from imagecompression.errors import ImageCompressionError
from imagecompression.image_io import write_image
from train.classification import classify_files
from train.evaluation_report import write_report
from train.evaluator import Report, evaluate_run
from train.trainer import Progress as TrainProgress
from train.trainer import TrainConfig, train
from train.verdict import Verdict

BUILD = BuildConfig(
    codecs=("uncompressed", "jpeg", "jpeg2000", "jpegxr", "bpg", "svd", "kmeans"),
    patches_per_class=210,
    seed=5932,
    settings_per_source=7,
)
"""Seven classes, to take minutes. Few photographs, so many patches of each, and an encoder setting
of its own for each target: most settings should occur in training, too. With this seed the test
split holds `coffee`, one of the four large clean photographs; the other three stay for training."""

TRAINING = TrainConfig(epochs=12, minutes=4.5)
EVIDENCE_RATIO = 10.0
"""Compression ratio near which the files to classify are chosen from the test split."""


class QuickstartError(ImageCompressionError):
    """A picture that the quick start itself made could not be classified."""


@dataclass(frozen=True)
class QuickstartResult:
    """What the quick start made.

    Attributes:
        folder: Where everything lies; ``report.md`` tells it.
        build: The dataset.
        report: The evaluation on photographs not trained on.
        verdicts: (file, true class, verdict) of the files classified.
        seconds: Wall time of each step.
    """

    folder: Path
    build: BuildResult
    report: Report
    verdicts: list[tuple[str, str, Verdict]]
    seconds: dict[str, float]


def run_quickstart(
    out: Path,
    announce: Callable[[str], None],
    build_progress: BuildProgress,
    train_progress: TrainProgress,
) -> QuickstartResult:
    """Build a dataset of real photographs, train, evaluate, classify, and write ``report.md``.

    Started again after a kill it goes on; started again after success it repeats the evaluation.

    Args:
        out: Folder for everything.
        announce: Called with a line before each step.
        build_progress: See `datasets.build.Progress`.
        train_progress: See `train.trainer.Progress`.

    Raises:
        ImageCompressionError: A package with photographs is missing, or `out` holds other files.
    """
    seconds: dict[str, float] = {}
    started = time.perf_counter()

    def step(name: str, line: str) -> None:
        nonlocal started
        seconds[name] = time.perf_counter() - started
        started = time.perf_counter()
        announce(line)

    announce(f"1/5 Writing photographs of installed packages as TIFF to {out / 'sources'}")
    photographs = write_photographs(out / "sources")
    step("photographs", f"2/5 Encoding them with {len(BUILD.codecs)} codecs to {out / 'dataset'}")
    build = build_dataset(photographs, out / "dataset", BUILD, progress=build_progress)
    step("build", f"3/5 Training for at most {TRAINING.minutes:g} minutes in {out / 'run'}")
    run = train(out / "dataset", out / "run", TRAINING, train_progress)
    step("train", "4/5 Evaluating on photographs that were not trained on")
    report = evaluate_run(
        run,
        out / "dataset",
        "test",
        lambda done, total: build_progress("classifying patches", done, total),
    )
    write_report(report, out / "evaluation", run.history)
    step("evaluate", f"5/5 Classifying decoded pictures in {out / 'evidence'}")
    truths = write_evidence(out / "dataset", out / "evidence")
    results, errors = classify_files(list(truths), run)
    if errors:
        raise QuickstartError("; ".join(f"{file}: {error}" for file, error in errors))
    verdicts = [(Path(file).name, truths[Path(file)], verdict) for file, verdict in results]
    seconds["classify"] = time.perf_counter() - started
    result = QuickstartResult(out, build, report, verdicts, seconds)
    write_bytes_atomic(out / "report.md", _markdown(result).encode())
    return result


def write_evidence(dataset: Path, folder: Path) -> dict[Path, str]:
    """Decode one file of each class of the test split to an anonymous PNG; its true class.

    The PNGs hold decoded pixels alone, as an analyst would hold them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        row
        for row in read_manifest(dataset).to_pylist()
        if row["split"] == "test" and row["status"] == "ok"
    ]
    truths = {}
    for number, label in enumerate(BUILD.codecs, start=1):
        own = [row for row in rows if row["label"] == label]
        if label != "uncompressed":
            own.sort(key=lambda row: (abs(row["ratio"] - EVIDENCE_RATIO), row["sample_id"]))
        if not own:
            continue
        path = folder / f"exhibit-{number}.png"
        data = (dataset / own[0]["path"]).read_bytes()
        write_image(path, CODECS[own[0]["container"]].decode(data))
        truths[path] = label
    return truths


def _markdown(result: QuickstartResult) -> str:
    """The report of the whole run."""
    build, report = result.build, result.report
    splits = ", ".join(f"{count} {split}" for split, count in build.splits.items())
    lines = [
        "# Quick start",
        "",
        f"{build.sources} real photographs ({splits}), {build.samples} encoded files, "
        f"{build.patches:,} patches of {BUILD.patch_size}×{BUILD.patch_size} pixels at random "
        f"positions, {len(report.labels)} classes. The test photographs were not trained on; "
        f"guessing would name {100 / len(report.labels):.0f} % rightly.",
        "",
        "| | patches | images |",
        "|---|---:|---:|",
        f"| accuracy | {report.patch.accuracy:.1%} | {report.image.accuracy:.1%} |",
        f"| number | {report.patch.count:,} | {report.image.count:,} |",
        "",
        "| class | recall, patches | recall, images |",
        "|---|---:|---:|",
    ]
    for patch, image in zip(report.patch.per_class, report.image.per_class, strict=True):
        lines.append(f"| {patch.label} | {patch.recall:.1%} | {image.recall:.1%} |")
    lines += [
        "",
        "## Decoded pictures classified",
        "",
        "| file | truth | verdict | probability | patches that agree |",
        "|---|---|---|---:|---:|",
    ]
    for file, truth, verdict in result.verdicts:
        lines.append(
            f"| {file} | {truth} | {verdict.answer} | {verdict.probability:.3f} "
            f"| {verdict.agreement:.0%} of {verdict.patches} |"
        )
    total = sum(result.seconds.values())
    steps = ", ".join(f"{name} {value:.0f} s" for name, value in result.seconds.items())
    lines += [
        "",
        f"It took {total:.0f} s on {os.cpu_count()} cores ({steps}).",
        "",
        "Details: `evaluation/report.md` (by class, ratio and SSIM, with pictures), "
        "`dataset/manifest.parquet` (every encoded file), `run/` (the trained model).",
        "",
    ]
    return "\n".join(lines)
