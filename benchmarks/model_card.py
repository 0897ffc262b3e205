"""The figures of the default run, from what `benchmarks.protocols` measured, into its documents.

Replaces what stands between the lines ``<!-- figures -->`` and ``<!-- end of figures -->`` of the
run's card and of the project's README, and writes ``error_rates.json`` beside the model: how often
the run is right, by class, size and strength, for reports on single pictures.

    python -m benchmarks.model_card
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.protocols import LABELS
from desk.error_rates import ERROR_RATES_FILE, SCHEMA
from imagecompression.atomic_file import write_bytes_atomic, write_json_atomic
from train.classification import DEFAULT_RUN

START, END = "<!-- figures -->", "<!-- end of figures -->"
LEVELS = {"patch-64": "64×64 patch", "patch-224": "224×224 patch", "image": "picture"}
ENCODERS = {
    "mozjpeg": "MozJPEG",
    "kakadu": "Kakadu's JPEG 2000",
    "jxrlib": "jxrlib's JPEG XR",
    "x265": "x265's BPG",
    "x265psy": "x265's BPG, psychovisual tuning",
    "libwebp": "libwebp's WebP",
    "original": "never compressed",
}

Row = dict[str, str]
Tables = dict[str, list[Row]]


def read(folder: Path) -> Tables:
    """The tables ``protocols_NAME.csv`` by name."""
    found = {}
    for path in sorted(folder.glob("protocols_*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            found[path.stem.removeprefix("protocols_")] = list(csv.DictReader(file))
    return found


def rows(tables: Tables, table: str, **wanted: str) -> list[Row]:
    """The rows of a table whose columns have these values."""
    return [
        row
        for row in tables.get(table, [])
        if all(row.get(name) == value for name, value in wanted.items())
    ]


def percent(row: Row | None, column: str = "accuracy") -> str:
    return "–" if row is None or not row[column] else f"{float(row[column]):.1%}".replace("%", " %")


def interval(row: Row | None) -> str:
    if row is None or not row["low"]:
        return percent(row)
    ends = [f"{100 * float(row[end]):.1f}" for end in ("low", "high")]
    return f"{percent(row)} ({'–'.join(ends)})"


def one(tables: Tables, table: str, **wanted: str) -> Row | None:
    found = rows(tables, table, **wanted)
    return found[0] if found else None


def by_level(show: Callable[[str], str]) -> str:
    return " | ".join(show(level) for level in LEVELS)


def class_table(tables: Tables, name: str, labels: tuple[str, ...]) -> list[str]:
    """Recall of each class at each level, then all together, with intervals, and by family."""

    def cells(label: str, measure: str = "class", text: Callable[..., str] = percent) -> str:
        wanted = {"set": name, "measure": measure, "label": label}
        return by_level(lambda level: text(one(tables, "bands", level=level, **wanted)))

    lines = ["| class | " + " | ".join(LEVELS.values()) + " |", "|---|---:|---:|---:|"]
    lines += [f"| `{label}` | {cells(label)} |" for label in labels]
    lines.append(f"| **all** | {cells('all', text=interval)} |")
    if len(labels) > len(LABELS):
        lines.append(f"| all, by family | {cells('all families', 'family')} |")
    return lines


def band_table(tables: Tables, name: str) -> list[str]:
    """Accuracy of the compressed classes by ratio and SSIM."""
    lines = [
        "| compressed pictures | " + " | ".join(LEVELS.values()) + " |",
        "|---|---:|---:|---:|",
    ]
    for measure, noun in (("ratio", "ratio"), ("ssim", "SSIM")):
        found = rows(tables, "bands", set=name, measure=measure, label="compressed")
        ends = sorted({(float(row["from"]), row["from"], row["to"]) for row in found})
        for _, low, high in ends:
            wanted = {"set": name, "measure": measure, "label": "compressed", "from": low}

            def cell(level: str, wanted: Row = wanted) -> str:
                return percent(one(tables, "bands", level=level, **wanted))

            top = f"–{float(high):g}" if high else " and over"
            lines.append(f"| {noun} {float(low):g}{top} | {by_level(cell)} |")
    return lines


def foreign_table(tables: Tables) -> list[str]:
    """Whole pictures that other people's encoders made."""
    lines = ["| files | rightly named |", "|---|---:|"]
    for encoder, noun in ENCODERS.items():
        found = rows(tables, "foreign", level="image", encoder=encoder)
        if found:
            count = sum(int(row["n"]) for row in found)
            right = sum(round(float(row["accuracy"]) * int(row["n"])) for row in found)
            lines.append(f"| {noun} | {right} of {count} |")
    return lines


def alarm_table(tables: Tables) -> list[str]:
    """Uncompressed pictures that were called compressed."""
    lines = ["| uncompressed pictures | called compressed |", "|---|---:|"]
    for row in rows(tables, "source-kind", level="image", label="uncompressed"):
        if row["set"].endswith("-all"):
            count = int(row["n"])
            wrong = round(float(row["called_compressed"]) * count)
            origin = row["set"].removesuffix("-all")
            lines.append(f"| {origin}, {row['kind']} | {wrong} of {count} |")
    return lines if len(lines) > 2 else []


def robustness_table(tables: Tables, name: str) -> list[str]:
    """Whole pictures after something was done to them."""
    lines = ["| afterwards | strength | picture |", "|---|---:|---:|"]
    lines += [
        f"| {row['operation']} | {row['strength']} | {percent(row)} |"
        for row in rows(tables, "robustness", set=name, level="image", label="all")
    ]
    return lines if len(lines) > 2 else []


def ais22_table(tables: Tables) -> list[str]:
    """AIS-22's eight classes by file size, beside what was published."""
    wanted = {"level": "image", "choice": "protocol's classes", "label": "all"}
    found = {
        crop: {float(row["kilobytes"]): row for row in rows(tables, "ais22", crop=crop, **wanted)}
        for crop in ("middle", "off grid")
    }
    if not all(found.values()):
        return []
    lines = [
        "| AIS-22's protocol, file of | published | on the grid | off the grid |",
        "|---|---:|---:|---:|",
    ]
    for size, row in sorted(found["middle"].items()):
        cells = (percent(row, "published"), percent(row), percent(found["off grid"][size]))
        lines.append(f"| {size:g} kB | {' | '.join(cells)} |")

    def mean(crop: str, column: str) -> str:
        values = [float(row[column]) for row in found[crop].values()]
        return f"{100 * sum(values) / len(values):.1f} %"

    cells = (mean("middle", "published"), mean("middle", "accuracy"), mean("off grid", "accuracy"))
    return [*lines, f"| **mean** | {' | '.join(cells)} |"]


def grid_lines(tables: Tables, name: str) -> list[str]:
    """Accuracy over the 64 phases of the block grid."""
    phases = [row for row in rows(tables, "grid-phase", set=name) if row["phase"] != "mean"]
    found = [float(row["accuracy"]) for row in phases]
    if not found:
        return []
    return [
        f"Of 64×64 patches at each of the 64 phases of the grid, {100 * min(found):.1f} to "
        f"{100 * max(found):.1f} % are told among seven classes."
    ]


def recompression_table(tables: Tables) -> list[str]:
    """Pictures that went through two codecs, cropped and scaled between or after them."""
    lines = [
        "| two codecs, crop and resize between them | the first is named | the last is named |",
        "|---|---:|---:|",
    ]
    titles = {"double": "the last at 8:1 or 20:1", "double-first": "the first at 8:1 or 20:1"}
    for history in ("double", "double-first"):
        wanted = {"level": "image", "history": history, "label": "all"}
        first, last = (one(tables, "first-codec", truth=t, **wanted) for t in ("first", "last"))
        if first and last:
            lines.append(f"| {titles[history]} | {percent(first)} | {percent(last)} |")
    return lines if len(lines) > 2 else []


def reliability_line(tables: Tables, name: str) -> list[str]:
    found = {
        level: one(tables, "reliability", set=name, level=level, probabilities="calibrated")
        for level in ("patch-64", "image")
    }
    if None in found.values():
        return []
    patch, image = (float(row["ece"]) for row in found.values() if row is not None)
    classes = "seven" if name.endswith("seven") else "all"
    return [
        f"Expected calibration error among {classes} classes: {patch:.3f} by patch of 64×64, "
        f"{image:.3f} by picture."
    ]


def figures(tables: Tables, run_labels: tuple[str, ...], *, whole: bool) -> str:
    """Markdown of the figures; a shorter one for the README."""
    parts = [
        ["Choosing among the seven classes of the project's question, on Kodak:"],
        class_table(tables, "kodak-seven", LABELS),
        band_table(tables, "kodak-seven"),
        ["Choosing among all eleven classes, where BPG and HEIC are near twins:"],
        class_table(tables, "kodak-all", run_labels),
        alarm_table(tables),
        ["Files by other people's encoders, whole pictures, among all classes:"],
        foreign_table(tables),
    ]
    if whole:
        parts += [
            band_table(tables, "kodak-all"),
            ["What a change afterwards leaves, seven classes, a file of each class and picture:"],
            robustness_table(tables, "kodak-seven"),
            grid_lines(tables, "kodak-seven"),
            recompression_table(tables),
            ais22_table(tables),
            reliability_line(tables, "kodak-seven") + reliability_line(tables, "kodak-all"),
        ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def error_rates(tables: Tables, model_sha256: str) -> dict[str, object]:
    """What `desk.error_rates` reads: all classes on Kodak, by size and ratio.

    A 224×224 patch stands for pictures of about that size, a Kodak picture for larger ones.
    """
    sizes: dict[str, tuple[str, list[int | None]]] = {
        "patch-64": ("patch", [64, None]),
        "patch-224": ("picture", [128, 384]),
        "image": ("picture", [384, None]),
    }
    found = []
    for row in rows(tables, "bands", set="kodak-all"):
        if row["measure"] not in ("class", "ratio") or row["level"] not in sizes:
            continue
        level, side = sizes[row["level"]]
        band: dict[str, list[float | None]] = {"short_side": [*side]}
        if row["measure"] == "ratio":
            band["ratio"] = [float(row["from"]), float(row["to"]) if row["to"] else None]
        found.append(
            {
                "level": level,
                "class": row["label"],
                "band": band,
                "accuracy": round(float(row["accuracy"]), 4),
                "n": int(row["n"]),
            }
        )
    return {"schema": SCHEMA, "model_sha256": model_sha256, "rows": found}


def replace(path: Path, text: str) -> None:
    """Put `text` between the marks of a document."""
    before = path.read_text(encoding="utf-8")
    pattern = re.compile(f"(?<={re.escape(START)}\n).*?(?={re.escape(END)})", re.DOTALL)
    if not pattern.search(before):
        raise SystemExit(f"{path}: the lines {START} and {END} are missing")
    write_bytes_atomic(path, pattern.sub(lambda _: f"\n{text}\n\n", before, count=1).encode())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    from train.run import Run

    tables = read(arguments.results)
    run = Run.load(DEFAULT_RUN)
    labels = tuple(run.labels)
    replace(DEFAULT_RUN / "README.md", figures(tables, labels, whole=True))
    replace(Path("README.md"), figures(tables, labels, whole=False))
    write_json_atomic(DEFAULT_RUN / ERROR_RATES_FILE, error_rates(tables, run.model_sha256))
    return 0


if __name__ == "__main__":
    sys.exit(main())
