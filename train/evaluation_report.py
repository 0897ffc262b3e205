"""A report of an evaluation as files: JSON, Markdown, CSV tables and pictures."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imagecompression.atomic_file import write_bytes_atomic, write_json_atomic
from train.evaluator import UNCOMPRESSED, Band, ClassScore, Report, Scores


def write_report(
    report: Report, folder: Path, history: Sequence[dict[str, float]] = ()
) -> list[Path]:
    """Write ``report.json``, ``report.md``, CSV tables and pictures; return what was written.

    Args:
        report: The report.
        folder: Made where missing; files of the same names are replaced.
        history: `Run.history`; with it the learning curves are drawn too.
    """
    from matplotlib import rc_context  # here: slow to load, and only this function draws

    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "report.json", folder / "report.md", folder / "per_class.csv"]
    write_json_atomic(written[0], report.to_json())
    write_bytes_atomic(written[1], _markdown(report, bool(history)).encode())
    levels = (("patch", report.patch), ("image", report.image))
    _write_csv(
        written[2],
        ["level", *(field.name for field in dataclasses.fields(ClassScore))],
        [[level, *dataclasses.astuple(row)] for level, score in levels for row in score.per_class],
    )
    for level, score in levels:
        written.append(folder / f"confusion_{level}.csv")
        counts = zip(report.labels, score.confusion, strict=True)
        _write_csv(written[-1], ["truth", *report.labels], [[name, *row] for name, row in counts])
    written.append(folder / "bands.csv")
    _write_csv(
        written[-1],
        [field.name for field in dataclasses.fields(Band)],
        [list(dataclasses.astuple(band)) for band in report.bands],
    )
    with rc_context({"font.size": 9, "figure.dpi": 120}):
        for level, score in levels:
            written.append(folder / f"confusion_{level}.png")
            _draw_confusion(score, report, level, written[-1])
        written.append(folder / "bands.png")
        _draw_bands(report, written[-1])
        if history:
            written.append(folder / "history.png")
            _draw_history(history, written[-1])
    return written


def _band_name(band: Band) -> str:
    return f"≥ {band.low:g}" if math.isinf(band.high) else f"{band.low:g}–{band.high:g}"


def _markdown(report: Report, with_history: bool) -> str:
    """The report as Markdown: what was judged, then the tables, then the pictures."""
    lines = [
        f"# Report on the split “{report.split}”",
        "",
        f"{report.patches:,} patches of {report.samples:,} encoded pictures made from "
        f"{report.sources:,} source pictures. An image is judged by the mean log-probability of "
        "its patches. The ends in brackets are of 95 % intervals over source pictures.",
        "",
    ]
    if report.validation_sources:
        lines += [
            f"{report.validation_sources} of the sources had chosen the model's best epoch; "
            "their numbers flatter a little.",
            "",
        ]
    rows = [
        [
            name,
            *(_with_ends(given, score, text) for given in (report.patch, report.image)),
        ]
        for name, score, text in (
            ("accuracy", "accuracy", _percent),
            ("accuracy on compressed classes", "compressed_accuracy", _percent),
            ("worst recall", "worst_recall", _percent),
            ("macro F1", "macro_f1", _decimal),
            ("log loss (nats)", "log_loss", _decimal),
        )
    ]
    rows.append(["number", f"{report.patch.count:,}", f"{report.image.count:,}"])
    lines += _table(["", "patches", "images"], rows)
    for level, score in (("patches", report.patch), ("images", report.image)):
        lines += [f"## Classes, by {level}", ""]
        lines += _table(
            ["class", "number", "recall", "precision", "F1"],
            [
                [
                    c.label,
                    str(c.support),
                    _with_ends(c, "recall", _percent),
                    _with_ends(c, "precision", _percent),
                    _with_ends(c, "f1", _decimal),
                ]
                for c in score.per_class
            ],
        )
        lines += [f"### Confusion, by {level} (rows: truth)", ""]
        lines += _table(
            ["", *report.labels],
            [
                [name, *(f"{count:,}" for count in row)]
                for name, row in zip(report.labels, score.confusion, strict=True)
            ],
        )
    for measure, title in (("ratio", "compression ratio"), ("ssim", "SSIM")):
        lines += [f"## Compressed classes by {title}", ""]
        chosen = [b for b in report.bands if b.measure == measure]
        names = list(dict.fromkeys(_band_name(b) for b in chosen))
        held = {(b.level, b.label, _band_name(b)): b for b in chosen}
        for level in ("patch", "image"):
            body = []
            for label in ("compressed", *(n for n in report.labels if n != UNCOMPRESSED)):
                cells = [held.get((level, label, name)) for name in names]
                texts = [f"{_percent(c.accuracy)} ({c.count:,})" if c else "" for c in cells]
                if any(cells):
                    body.append([label, *texts])
            lines += _table([f"by {level}", *names], body)
    pictures = ["confusion_patch", "confusion_image", "bands"]
    pictures += ["history"] if with_history else []
    lines += ["## Pictures", "", *(f"![{name}]({name}.png)" for name in pictures), ""]
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _decimal(value: float) -> str:
    return f"{value:.3f}"


def _with_ends(given: Scores | ClassScore, score: str, text: Callable[[Any], str]) -> str:
    """A score as text, with its interval in brackets where there is one."""
    low, high = getattr(given, f"{score}_low"), getattr(given, f"{score}_high")
    ends = "" if low is None else f" ({text(low)} … {text(high)})"
    return text(getattr(given, score)) + ends


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, numbers to the right, with an empty line after it."""
    rule = ["---", *("---:" for _ in head[1:])]
    return [*(f"| {' | '.join(row)} |" for row in (head, rule, *body)), ""]


def _write_csv(path: Path, head: Sequence[str], body: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(body)
    write_bytes_atomic(path, text.getvalue().encode())


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    """A figure with axes side by side that needs no display and no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _draw_confusion(score: Scores, report: Report, level: str, path: Path) -> None:
    """Confusion matrix, each row in per cent of its class."""
    counts = np.array(score.confusion, np.float64)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.2 + 0.62 * len(report.labels)
    figure, (axes,) = _figure(side + 0.6, side)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.ndindex(*shares.shape):
        axes.text(
            column,
            row,
            f"{shares[row, column]:.0f}",
            ha="center",
            va="center",
            color="white" if shares[row, column] > 55 else "black",
        )
    axes.set_xticks(range(len(report.labels)), report.labels, rotation=45, ha="right")
    axes.set_yticks(range(len(report.labels)), report.labels)
    axes.set(xlabel="answer", ylabel="truth")
    axes.set_title(f"{score.count:,} {level}{'es' if level == 'patch' else 's'}, % of each truth")
    figure.colorbar(picture, ax=axes, shrink=0.8)
    figure.savefig(path)


def _draw_bands(report: Report, path: Path) -> None:
    """Accuracy over the ratio and over SSIM, a line a class."""
    figure, both = _figure(10, 4, columns=2)
    for axes, measure in zip(both, ("ratio", "ssim"), strict=True):
        chosen = [b for b in report.bands if b.measure == measure and b.level == "patch"]
        order = sorted({(b.low, b.high) for b in chosen})
        for label in ("compressed", *report.labels):
            if not any(b.label == label for b in chosen):
                continue
            mine = [b for b in chosen if b.label == label]
            style = {"color": "black", "lw": 2.5} if label == "compressed" else {"lw": 1}
            places = [order.index((b.low, b.high)) for b in mine]
            axes.plot(places, [100 * b.accuracy for b in mine], "o-", label=label, **style)
        names = {(b.low, b.high): _band_name(b) for b in chosen}
        axes.set_xticks(range(len(order)), [names[key] for key in order])
        title = "compression ratio" if measure == "ratio" else "SSIM"
        axes.set(xlabel=title, ylabel="patches named rightly, %", ylim=(-3, 103))
        axes.grid(alpha=0.3)
        if chosen:
            axes.legend(fontsize=7)
    figure.savefig(path)


def _draw_history(history: Sequence[dict[str, float]], path: Path) -> None:
    """Loss and accuracy over the epochs, of training and validation."""
    figure, both = _figure(9, 3.5, columns=2)
    for axes, measure in zip(both, ("loss", "accuracy"), strict=True):
        for name, legend in ((measure, "training"), (f"val_{measure}", "validation")):
            points = [(row["epoch"], row[name]) for row in history if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", label=legend)
        axes.set(xlabel="epoch", ylabel=measure)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path)
