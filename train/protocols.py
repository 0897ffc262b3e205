"""Evaluation protocols: what a classifier is asked beyond one accuracy, on held-out sources only.

Each protocol is a function of `predict`, a dataset folder and `ProtocolSettings`; a new one is one
function and one line in `PROTOCOLS`. They decode the dataset's files and cut patches anew, so that
a network is judged at any patch size, whatever the size of the dataset's own patches.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.histories import LABEL_RULES, label_of
from datasets.operations import LOSSY
from datasets.seeds import generator
from datasets.sources import csv_bytes
from imagecompression.atomic_file import write_bytes_atomic, write_json_atomic
from train.ais22 import ais22
from train.answers import (
    Answers,
    Progress,
    ProtocolResult,
    ProtocolSettings,
    RememberedAnswers,
    Row,
    Tally,
    UnsuitableDatasetError,
    ask,
    counted,
    patch_level,
    probabilities,
    views,
)
from train.bootstrap import worst_share_interval
from train.cross_encoder import cross_encoder
from train.evaluator import RATIO_EDGES, SSIM_EDGES, UNCOMPRESSED, EvaluationError
from train.families import family_of
from train.held_out_reliability import held_out_reliability
from train.pictures import cut, sampled
from train.robustness import robustness
from train.run import Predict, Run
from train.source_kind import source_kind

PSNR_EDGES = (0.0, 28.0, 32.0, 36.0, 40.0, 44.0, math.inf)
"""Bands of PSNR in dB."""

GRID = 8
"""Side of the blocks that most codecs work on, in pixels."""


def bands(
    predict: Predict, dataset: Path, settings: ProtocolSettings, progress: Progress | None = None
) -> ProtocolResult:
    """Accuracy by class, by family of classes, and by bands of ratio, SSIM and PSNR.

    Rows have `measure` ("class", "family", "ratio", "ssim", "psnr_db" or "worst class"), the band's
    ends `from` and `to` (None where there is no end) and `label`: a class, "compressed" for all of
    them but *uncompressed*, or "all"; for the measure "family", whose accuracy is the share of
    answers in the right family, a family or "all families". The row "worst class" has the lowest
    recall, with the interval of the lowest whichever class it is of.
    """
    tally = Tally(settings.seed)
    found = _answers(predict, dataset, settings, progress, "bands")
    for one in found:
        measures: list[tuple[str, float, float | None]] = [("class", 0.0, None)]
        compressed = one.label != UNCOMPRESSED
        if compressed:
            for measure, edges in (
                ("ratio", RATIO_EDGES), ("ssim", SSIM_EDGES), ("psnr_db", PSNR_EDGES),
            ):  # fmt: skip
                value = one.facts[measure]
                if value is not None and not math.isnan(value):
                    measures.append((measure, *_band(value, edges)))
        right, count = one.right(settings.labels), len(one.probabilities)
        for measure, low, high in measures:
            names = [one.label, *(["compressed"] if compressed else [])]
            for name in [*names, *(["all"] if measure == "class" else [])]:
                group = {"level": one.level, "measure": measure, "from": low, "to": high}
                tally.add(group | {"label": name}, one.source, right, count)
        right = one.right_families(settings.labels)
        for name in (family_of(one.label), "all families"):
            group = {"level": one.level, "measure": "family", "from": 0.0, "to": None}
            tally.add(group | {"label": name}, one.source, right, count)
    return ProtocolResult("bands", tally.rows() + _worst_class_rows(found, settings))


def grid_phase(
    predict: Predict, dataset: Path, settings: ProtocolSettings, progress: Progress | None = None
) -> ProtocolResult:
    """Accuracy at each of the 64 offsets, modulo 8, of a patch in its picture.

    A picture gives one patch of `image_patch` pixels at every phase; `sampled_files` says how many
    pictures. Rows have `phase` ("y,x") for each phase; "mean" for all patches; "min" and "max" for
    the lowest and the highest of the phases, named in `at`. The lowest of 64 is low by chance
    alone: compare its interval with the mean.
    """
    pictures = sampled(settings.pictures(dataset), settings.sampled_files, settings.seed)
    tally = Tally(settings.seed)
    size, level = settings.image_patch, patch_level(settings.image_patch)
    for picture in counted(pictures, progress, "grid-phase"):
        image = picture.decoded()
        last = np.array(image.shape[:2]) - size - (GRID - 1)
        if last.min() < 0:
            continue  # too small for a patch at each phase
        rng = generator(settings.seed, str(picture.row["sample_id"]), "grid-phase")
        phases = np.array(list(itertools.product(range(GRID), repeat=2)), np.int32)
        blocks = rng.integers(0, last // GRID + 1, phases.shape)
        offsets = (phases + GRID * blocks).astype(np.int32)
        answers = probabilities(predict, cut(image, size, offsets), settings).argmax(axis=1)
        right = answers == settings.labels.index(picture.label)
        for (y, x), well in zip(phases, right, strict=True):
            tally.add({"level": level, "phase": f"{y},{x}", "at": ""}, picture.source, int(well), 1)
        group = {"level": level, "phase": "mean", "at": ""}
        tally.add(group, picture.source, int(right.sum()), len(right))
    rows = tally.rows()
    if not rows:
        raise UnsuitableDatasetError(
            f"{dataset}: grid-phase needs pictures of at least {size + GRID - 1} pixels a side"
        )
    single = [row for row in rows if row["phase"] != "mean"]
    for name, extreme in (("min", min), ("max", max)):
        chosen = extreme(single, key=lambda row: row["accuracy"])
        rows.append(chosen | {"phase": name, "at": chosen["phase"]})
    return ProtocolResult("grid-phase", rows)


def first_codec(
    predict: Predict, dataset: Path, settings: ProtocolSettings, progress: Progress | None = None
) -> ProtocolResult:
    """Pictures compressed at least twice: is the first codec named, or the last?

    Rows have `history`, `truth` ("first" or "last", see `datasets.histories.label_of`), and
    `label`, the codec that was first or last, or "all". Codecs that the classifier does not know
    are left out of the rows for which they are the truth.
    """
    chains = {}
    chosen = []
    for picture in settings.pictures(dataset):
        chain = json.loads(picture.row["chain"])
        if sum(step.get("codec") in LOSSY for step in chain) >= 2:
            chains[picture.row["sample_id"]] = chain
            chosen.append(picture)
    if not chosen:
        raise UnsuitableDatasetError(
            f"{dataset}: no picture was compressed twice. Build a dataset with "
            "--histories double or double-first."
        )
    tally = Tally(settings.seed)
    for one in ask(predict, views(counted(chosen, progress, "first-codec")), settings):
        for rule in LABEL_RULES:
            truth = label_of(chains[one.facts["sample_id"]], rule)
            if truth in settings.labels:
                for label in (truth, "all"):
                    group = {"level": one.level, "history": one.facts["history"], "truth": rule}
                    right, count = one.right(settings.labels, truth), len(one.probabilities)
                    tally.add(group | {"label": label}, one.source, right, count)
    return ProtocolResult("first-codec", tally.rows())


ProtocolFunction = Callable[[Predict, Path, ProtocolSettings, Progress | None], ProtocolResult]

PROTOCOLS: dict[str, ProtocolFunction] = {
    "bands": bands,
    "grid-phase": grid_phase,
    "robustness": robustness,
    "source-kind": source_kind,
    "reliability": held_out_reliability,
    "cross-encoder": cross_encoder,
    "first-codec": first_codec,
    "ais22": ais22,
}
"""Every protocol by name."""


@dataclass(frozen=True)
class ProtocolReport:
    """The outcome of several protocols.

    Attributes:
        results: Of the protocols that ran, in the order of `PROTOCOLS`.
        skipped: Why others could not, by name.
    """

    results: list[ProtocolResult]
    skipped: dict[str, str]

    def to_json(self) -> dict[str, object]:
        """The report as a JSON-ready dict."""
        return {
            "protocols": {result.name: result.rows for result in self.results},
            "skipped": self.skipped,
        }


def protocol_names(text: str) -> tuple[str, ...]:
    """Names from a comma list, in the order of `PROTOCOLS`; "all" gives all.

    >>> protocol_names("robustness,bands")
    ('bands', 'robustness')

    Raises:
        EvaluationError: A name that is none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in PROTOCOLS and name != "all"]
    if unknown or not names:
        raise EvaluationError(
            f"Protocols are {', '.join(PROTOCOLS)}, or all. Received: "
            f"{', '.join(unknown) or repr(text)}"
        )
    return tuple(name for name in PROTOCOLS if name in names or "all" in names)


def run_settings(run: Run, split: str = "test") -> ProtocolSettings:
    """The settings that fit a run: its classes, its training sources refused.

    A network that takes any size is judged at 64 and 224 pixels, another at its own.
    """
    fixed = run.model.input_shape[1] is not None
    return ProtocolSettings(
        labels=tuple(run.labels),
        split=split,
        patch_sizes=(run.patch_size,) if fixed else (64, 224),
        image_patch=run.patch_size,
        trained_on=frozenset(run.sources.get("train", [])),
        calibration=run.calibration,
    )


def run_protocols(
    names: Sequence[str],
    predict: Predict,
    dataset: Path,
    settings: ProtocolSettings,
    progress: Progress | None = None,
) -> ProtocolReport:
    """Run protocols by name; one that the dataset is not made for is skipped, unless it is alone.

    Raises:
        EvaluationError: An unknown name, sources that were trained on, classes that are not known,
            or none of the protocols can be run on this dataset.
    """
    remembered = RememberedAnswers(predict)
    results, skipped = [], {}
    for name in protocol_names(",".join(names)):
        try:
            results.append(PROTOCOLS[name](remembered, dataset, settings, progress))
        except UnsuitableDatasetError as error:
            skipped[name] = str(error)
    if not results:
        raise EvaluationError("; ".join(f"{name}: {why}" for name, why in skipped.items()))
    return ProtocolReport(results, skipped)


def write_protocols(report: ProtocolReport, folder: Path) -> list[Path]:
    """Write ``NAME.csv`` for each result, ``protocols.json`` and ``protocols.md``.

    Args:
        report: What to write.
        folder: Made where missing; files of the same names are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "protocols.json", folder / "protocols.md"]
    write_json_atomic(written[0], report.to_json())
    write_bytes_atomic(written[1], _markdown(report).encode())
    for result in report.results:
        written.append(folder / f"{result.name}.csv")
        write_bytes_atomic(written[-1], csv_bytes(result.rows))
    return written


def _answers(
    predict: Predict,
    dataset: Path,
    settings: ProtocolSettings,
    progress: Progress | None,
    stage: str,
) -> list[Answers]:
    """The answers about every picture of the split."""
    pictures = settings.pictures(dataset)
    return list(ask(predict, views(counted(pictures, progress, stage)), settings))


def _band(value: float, edges: Sequence[float]) -> tuple[float, float | None]:
    """The band that holds a value; None for an open upper end."""
    place = int(np.searchsorted(edges, value, side="right")) - 1
    place = min(max(place, 0), len(edges) - 2)
    high = edges[place + 1]
    return edges[place], None if math.isinf(high) else high


def _worst_class_rows(found: Iterable[Answers], settings: ProtocolSettings) -> list[Row]:
    """For each level the lowest recall of the classes that occur."""
    levels: dict[str, dict[str, np.ndarray]] = defaultdict(
        lambda: defaultdict(lambda: np.zeros((2, len(settings.labels))))
    )
    for one in found:
        place = settings.labels.index(one.label)
        levels[one.level][one.source][:, place] += (
            one.right(settings.labels), len(one.probabilities),
        )  # fmt: skip
    rows = []
    for level, by_source in sorted(levels.items()):
        sums = np.array([counts for _, counts in sorted(by_source.items())])
        right, total = sums.sum(axis=0)
        recall = np.where(total > 0, right / np.maximum(total, 1), np.inf)
        worst = int(recall.argmin())
        interval = worst_share_interval(sums[:, 0], sums[:, 1], settings.seed)
        rows.append(
            {
                "level": level,
                "measure": "worst class",
                "from": 0.0,
                "to": None,
                "label": settings.labels[worst],
                "n": int(total[worst]),
                "sources": int((sums[:, 1, worst] > 0).sum()),
                "accuracy": float(recall[worst]),
                "low": interval.low,
                "high": interval.high,
            }
        )
    return rows


def _markdown(report: ProtocolReport) -> str:
    """Every result as a table."""
    lines = [
        "# Protocols",
        "",
        "Accuracies with 95 % intervals over source pictures; none where there are fewer than two.",
        "",
    ]
    for result in report.results:
        head = list(result.rows[0])
        lines += [f"## {result.name}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        lines += [f"| {' | '.join(_cell(v) for v in row.values())} |" for row in result.rows]
        lines.append("")
    if report.skipped:
        lines += ["## Not run", ""]
        lines += [f"- {name}: {reason}" for name, reason in report.skipped.items()]
        lines.append("")
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
