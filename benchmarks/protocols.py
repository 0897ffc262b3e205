"""All evaluation protocols for a run, on Kodak, on val, and on files by other people's encoders.

Builds datasets of ../shared/data/kodak and val, of all classes where the run knows them, and of
seven; and small ones of pictures that were compressed twice. On seven classes a run that knows more
chooses among those seven: the probabilities of the others are dropped. Kodak, val and the foreign
files are for reporting only: nothing is trained, chosen or calibrated on them. Datasets and encodes
are kept in the working folder.

    python -m benchmarks.protocols --run RUN --folder ../protocols
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.environment import write_environment, write_table
from benchmarks.lending import lend_samples
from benchmarks.progress import log
from benchmarks.source_pictures import pictures_in
from datasets.build import build_dataset
from datasets.histories import History
from datasets.operations import LOSSY, Compress, Crop, Resize
from datasets.patches import as_rgb
from datasets.plan import BuildConfig
from datasets.workers import Pool, worker_pool
from imagecompression import CODECS
from imagecompression.image_io import read_image
from train.answers import (
    ProtocolResult,
    ProtocolSettings,
    RememberedAnswers,
    RememberedSigns,
    Row,
    Tally,
    View,
    ask,
)
from train.classification import DEFAULT_RUN
from train.protocols import protocol_names, run_protocols, run_settings
from train.run import Predict, Run
from train.source_kind import read_kinds

RATIOS = (5.0, 8.0, 12.0, 20.0, 35.0, 50.0)
SSIMS = (0.80, 0.90, 0.95, 0.98)
TWICE_RATIOS = (8.0, 20.0)
ASKED = {"patches": 2, "image_patches": 32, "sampled_files": 1}
"""Fewer patches and files than usual: with all of them it would take a night on two cores."""

WHOLE = ("robustness",)
"""Protocols that are asked of whole pictures alone, because they show each file 24 times."""

LABELS = ("uncompressed", "jpeg", "jpeg2000", "jpegxr", "bpg", "svd", "kmeans")
"""The seven classes of the project's question."""

ENCODERS = {
    "original": "uncompressed", "mozjpeg": "jpeg", "kakadu": "jpeg2000", "jxrlib": "jpegxr",
    "x265": "bpg", "x265psy": "bpg", "libwebp": "webp",
}  # fmt: skip
"""The class of each encoder's files in the folder of foreign files."""


def configs(labels: tuple[str, ...]) -> dict[str, BuildConfig]:
    """What is built of each folder, by name, for a run of these classes."""
    found = {}
    for name, classes in (("all", tuple(CODECS)), ("seven", LABELS)):
        if set(classes) <= set(labels):
            found[name] = BuildConfig(classes, RATIOS, SSIMS, patches_per_class=len(RATIOS + SSIMS))
    if not found:
        raise SystemExit(f"The run must know {', '.join(LABELS)}. It knows: {', '.join(labels)}")
    known = tuple(name for name in LOSSY if name in labels)
    found["twice"] = BuildConfig(
        known,
        TWICE_RATIOS,
        (),
        patches_per_class=4,
        histories=(
            History("double", before=(Compress(known), Crop(), Resize())),
            History("double-first", after=(Crop(), Resize(), Compress(known))),
        ),
    )
    return found


def among(predict: Predict, labels: tuple[str, ...], chosen: tuple[str, ...]) -> Predict:
    """`predict` with the probabilities of all but the chosen classes dropped."""
    places = [labels.index(name) for name in chosen]

    def restricted(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.floating[Any]]:
        # Against a sum of zero where a patch is certainly of none of them.
        found = np.asarray(predict(pixels), np.float64)[:, places] + 1e-12
        return np.asarray(found / found.sum(axis=1, keepdims=True))

    return restricted


def build(data: Path, folder: Path, name: str, config: BuildConfig, pictures: int | None) -> Path:
    """The dataset of `data`'s pictures in `folder`, built or gone on with."""
    result = build_dataset(pictures_in(data)[:pictures], folder / name, config, progress=log)
    print(f"{name}: {result.sources} sources, {result.samples} samples", file=sys.stderr)
    for item in (*result.rejected, *result.failed):
        print(f"{item.file}: {item.error}", file=sys.stderr)
    return folder / name


def foreign_views(folder: Path, labels: tuple[str, ...], pictures: int | None) -> Iterator[View]:
    """Files that other people's encoders made, with encoder and size as facts."""
    found = [re.fullmatch(r"(.+?)(?:-(large|small))?-(\w+)\.\w+", p.name) for p in folder.iterdir()]
    names = sorted({match[1] for match in found if match})[:pictures]
    for match in sorted((m for m in found if m), key=lambda m: m.string):
        label = ENCODERS.get(match[3])
        if match[1] in names and label in labels:
            facts = {"encoder": match[3], "size": match[2] or ""}
            image = as_rgb(read_image(folder / match.string))
            yield View(match.string, label, match[1], image, facts)


def foreign(
    run: Run, folder: Path, settings: ProtocolSettings, count: int | None
) -> ProtocolResult:
    """Accuracy by encoder and size."""
    tally = Tally(settings.seed)
    for one in ask(run.predict, foreign_views(folder, settings.labels, count), settings):
        group = {"level": one.level, **one.facts, "label": one.label}
        tally.add(group, one.source, one.right(settings.labels), len(one.probabilities))
    return ProtocolResult("foreign", tally.rows())


def measured(arguments: argparse.Namespace, pool: Pool) -> dict[str, list[Row]]:
    """The tables of all protocols, by their names."""
    folder, data, count = arguments.folder, arguments.data, arguments.pictures
    run = Run.load(arguments.run)
    usual = dataclasses.replace(
        run_settings(run, "all"),
        kinds=read_kinds(data / "sources.csv"),
        signs=RememberedSigns(pool),
        **ASKED,
    )
    asked_once = RememberedAnswers(run.predict)  # seven classes are judged by the same answers
    tables: dict[str, list[Row]] = {}

    def keep(name: str, result: ProtocolResult) -> None:
        tables.setdefault(result.name, []).extend({"set": name} | row for row in result.rows)

    asked = protocol_names(arguments.protocols)
    for origin in arguments.folders.split(","):
        kinds = configs(usual.labels)
        for kind, config in kinds.items():
            names = [name for name in asked if (name == "first-codec") == (kind == "twice")]
            settings, predict = usual, asked_once
            if kind == "seven":
                predict = among(predict, usual.labels, LABELS)
                # Sharpening and dropping classes commute, so the calibration of all holds here.
                calibration = usual.calibration and usual.calibration.among(LABELS)
                settings = dataclasses.replace(usual, labels=LABELS, calibration=calibration)
                # AIS-22's eight classes were judged among all.
                names = [name for name in names if name != "ais22" or "all" not in kinds]
            if not names:
                continue
            name = f"{origin}-{kind}"
            if kind == "seven" and "all" in kinds:
                lend_samples(folder / f"{origin}-all", folder / name, config)
            dataset = build(data / origin, folder, name, config, count)
            settings = dataclasses.replace(settings, cache=folder / f"{origin}-ais22")
            whole = dataclasses.replace(settings, patch_sizes=())
            for part, given in (
                ([one for one in names if one not in WHOLE], settings),
                ([one for one in names if one in WHOLE], whole),
            ):
                if not part:
                    continue
                report = run_protocols(part, predict, dataset, given, log)
                for result in report.results:
                    keep(name, result)
                for skipped, reason in report.skipped.items():
                    print(f"{name}: {skipped} not run: {reason}", file=sys.stderr)
    keep("foreign", foreign(run, data / "foreign", usual, count))
    return tables


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=DEFAULT_RUN)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", type=Path, default=Path("../protocols"))
    parser.add_argument("--out", type=Path, default=Path("results/protocols.csv"))
    parser.add_argument("--pictures", type=int, help="of each folder; all if left out")
    parser.add_argument("--folders", default="kodak,val", help="of the data")
    parser.add_argument("--protocols", default="all", help="names, or all")
    arguments = parser.parse_args()
    with worker_pool() as pool:
        tables = measured(arguments, pool)
    for name, rows in tables.items():
        write_table(arguments.out.with_name(f"{arguments.out.stem}_{name}.csv"), rows)
    write_environment(arguments.out)
    for row in tables.get("bands", []):
        if row["measure"] in ("class", "worst class"):
            ends = "" if row["low"] is None else "{low:7.1%} … {high:6.1%}".format(**row)
            text = "{set:12} {level:9} {measure:11} {label:13} {n:6} {accuracy:7.1%}".format(**row)
            print(text, ends)
    return 0


if __name__ == "__main__":
    sys.exit(main())
