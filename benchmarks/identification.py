"""How well the default model names codecs on pictures of another origin.

Builds datasets of ../shared/data/train (default settings), val and kodak, trains for at most the
given minutes, and evaluates on the held-out test split, on val, on Kodak, and on files that other
people's encoders made. Kodak, val and the foreign files are for reporting only: nothing is trained,
chosen or calibrated on them. Finished stages are kept in the working folder.

    python -m benchmarks.identification --data ../shared/data --folder ../identification
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.environment import write_environment, write_table
from benchmarks.progress import log, log_epoch
from benchmarks.protocols import ENCODERS, LABELS
from datasets.build import build_dataset
from datasets.manifest import read_manifest
from datasets.patches import PatchSet, as_rgb, crop_positions, load_patches
from datasets.plan import BuildConfig
from imagecompression.atomic_file import write_bytes_atomic
from imagecompression.image_io import read_image
from train.evaluation_report import write_report
from train.evaluator import Report, evaluate, evaluate_run
from train.run import Run
from train.trainer import TrainConfig, train
from train.verdict import classify_image

FOREIGN_PATCHES = 200
REPORTED = BuildConfig(LABELS, patches_per_class=210)
"""For evaluation only: 30 patches of each encoded picture instead of 6."""


def report_rows(name: str, report: Report) -> list[dict[str, object]]:
    """Recalls and accuracies of a report as table rows."""
    rows: list[dict[str, object]] = []
    for level, scores in (("patch", report.patch), ("image", report.image)):
        confusion = np.array(scores.confusion)
        for place, score in enumerate(scores.per_class):
            wrong = confusion[place].copy()
            wrong[place] = 0
            most = report.labels[int(wrong.argmax())] if wrong.any() else ""
            rows.append(row(name, level, score.label, score.support, score.recall, most))
        rows.append(row(name, level, "all", scores.count, scores.accuracy))
        accuracy = scores.compressed_accuracy
        if accuracy is not None:
            rows.append(row(name, level, "compressed", scores.compressed_count, accuracy))
    return rows


def row(
    name: str, level: str, label: str, count: int, recall: float, most: str = ""
) -> dict[str, object]:
    """One line of the table."""
    return {
        "set": name,
        "level": level,
        "class": label,
        "count": count,
        "recall": round(recall, 4),
        "most_often_called_instead": most,
    }


def by_history(run: Run, dataset: Path, sources_csv: Path) -> list[dict[str, object]]:
    """Recalls on `val` apart for pictures never lossy and for downscaled ones."""
    with sources_csv.open(encoding="utf-8") as file:
        kinds = {
            Path(line["file"]).name: "never lossy"
            if line["history"].startswith("never lossy")
            else "downscaled"
            for line in csv.DictReader(file)
        }
    patches = load_patches(dataset)
    manifest = read_manifest(dataset)
    files = dict(
        zip(manifest["source_id"].to_pylist(), manifest["source_file"].to_pylist(), strict=True)
    )
    rows: list[dict[str, object]] = []
    for kind in ("never lossy", "downscaled"):
        ids = patches.table["source_id"].to_pylist()
        chosen = [i for i, source in enumerate(ids) if kinds[Path(files[source]).name] == kind]
        if chosen:
            part = PatchSet(
                patches.pixels[chosen],
                patches.table.take(chosen),
                patches.labels,
                patches.patch_size,
            )
            rows += report_rows(
                f"val, {kind}", evaluate(run.predict, part, "all", labels=run.labels)
            )
    return rows


def foreign_rows(run: Run, folder: Path) -> list[dict[str, object]]:
    """Patches at random phases, and whole files, made by other people's encoders."""
    patch_counts: dict[tuple[str, str], Counter[str]] = {}
    image_counts: dict[tuple[str, str], Counter[str]] = {}
    rng = np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        found = re.fullmatch(r"(.+?)(?:-(large|small))?-(\w+)\.\w+", path.name)
        if found is None or ENCODERS.get(found[3]) not in run.labels:
            continue
        key = (f"{found[3]} {found[2] or ''}".strip(), ENCODERS[found[3]])
        image = as_rgb(read_image(path))
        size = run.patch_size
        offsets = crop_positions(image.shape[0], image.shape[1], size, FOREIGN_PATCHES, rng)
        crops = np.stack([image[y : y + size, x : x + size] for y, x in offsets])
        answers = run.predict(crops).argmax(axis=1)
        patch_counts.setdefault(key, Counter()).update(run.labels[i] for i in answers)
        verdict = classify_image(image, run.predict, run.labels, size)
        image_counts.setdefault(key, Counter()).update([verdict.label])
    rows: list[dict[str, object]] = []
    for level, counts in (("patch", patch_counts), ("image", image_counts)):
        for (encoder, label), answered in sorted(counts.items()):
            total = answered.total()
            wrong = [(n, name) for name, n in answered.items() if name != label]
            most = max(wrong)[1] if wrong else ""
            rows.append(
                row(f"foreign, {encoder}", level, label, total, answered[label] / total, most)
            )
    return rows


def build(data: Path, folder: Path, name: str, config: BuildConfig) -> None:
    """Build a dataset of `data/name`, or go on with the one that is there."""
    result = build_dataset([data / name], folder / name, config, progress=log)
    print(f"{name}: {result.sources} sources, {result.samples} samples", file=sys.stderr)
    for item in (*result.rejected, *result.failed):
        print(f"{item.file}: {item.error}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", type=Path, default=Path("../identification"))
    parser.add_argument("--out", type=Path, default=Path("results/identification.csv"))
    parser.add_argument("--minutes", type=float, default=28.0)
    arguments = parser.parse_args()
    folder, data = arguments.folder, arguments.data
    build(data, folder, "train", BuildConfig(LABELS))
    config = TrainConfig(model="residual", epochs=40, patience=40, minutes=arguments.minutes)
    run = train(folder / "train", folder / "run", config, log_epoch)
    build(data, folder, "val", REPORTED)
    build(data, folder, "kodak", REPORTED)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for name, dataset, split in (
        ("train's test split", "train", "test"), ("val", "val", "all"), ("kodak", "kodak", "all"),
    ):  # fmt: skip
        report = evaluate_run(run, folder / dataset, split, lambda d, t: log("classifying", d, t))
        write_report(report, folder / f"evaluation-{dataset}", run.history)
        rows += report_rows(name, report)
        if name == "kodak":
            kodak = report
            # What the README quotes beside the main table.
            for table in ("bands", "confusion_patch"):
                content = (folder / "evaluation-kodak" / f"{table}.csv").read_bytes()
                write_bytes_atomic(
                    arguments.out.with_name(f"{arguments.out.stem}_kodak_{table}.csv"), content
                )
    rows += by_history(run, folder / "val", data / "sources.csv")
    rows += foreign_rows(run, data / "foreign")
    write_table(arguments.out, rows)
    write_environment(arguments.out)
    for line in rows:
        print("{set:28} {level:6} {class:13} {count:6} {recall:7.1%}  ".format(**line), end="")
        print(line["most_often_called_instead"])
    minutes = run.history[-1]["seconds"] / 60
    compressed = [s.recall for s in kodak.patch.per_class if s.label != "uncompressed"]
    figures = {
        f"trained in {minutes:.1f} minutes (at most 30)": minutes <= 30,
        f"Kodak patches, compressed: {kodak.patch.compressed_accuracy:.1%} (at least 90 %)": (
            (kodak.patch.compressed_accuracy or 0) >= 0.90
        ),
        f"Kodak patches, worst compressed class: {min(compressed):.1%} (at least 75 %)": (
            min(compressed) >= 0.75
        ),
        f"Kodak images, compressed: {kodak.image.compressed_accuracy:.1%} (at least 97 %)": (
            (kodak.image.compressed_accuracy or 0) >= 0.97
        ),
    }
    for text, met in figures.items():
        print("met   " if met else "MISSED", text)
    return 0 if all(figures.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
