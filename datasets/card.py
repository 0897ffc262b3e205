"""The dataset card: a README with the front matter that the Hugging Face Hub reads.

It follows from the dataset alone: no times and no paths of a machine, so equal builds have equal
cards. Source of the front matter: the Hub's documentation "Dataset Cards" and its template.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import pyarrow as pa

from datasets.histories import HISTORIES
from datasets.manifest import MANIFEST_FILE
from datasets.sources import REASONS
from datasets.splits import SPLITS
from datasets.storage import Storage

CARD_FILE = "README.md"
TITLE = "Pictures by the codec that compressed them"
SIZE_CATEGORIES = {
    1_000: "n<1K",
    10_000: "1K<n<10K",
    100_000: "10K<n<100K",
    1_000_000: "100K<n<1M",
    10_000_000: "1M<n<10M",
}
"""The Hub's names of dataset sizes, by the number of samples that they stay below."""

_COLUMNS = (
    "source_id",
    "group",
    "split",
    "label",
    "codec",
    "target_kind",
    "target_nominal",
    "measured",
    "reached",
    "reason",
    "encodes",
    "history",
    "chain",
    "status",
    "error",
    "file_bytes",
)


def write_card(
    storage: Storage,
    description: Mapping[str, Any],
    table: pa.Table,
    audit_markdown: str,
    leaks: Sequence[str],
) -> None:
    """Write ``README.md``.

    Args:
        storage: Of the dataset.
        description: Contents of ``dataset.json``.
        table: The manifest.
        audit_markdown: The bias audit as a section with a heading of the second level.
        leaks: What was found in two splits; empty when nothing was.
    """
    try:
        rejected = json.loads(storage.read("rejected.json"))
    except FileNotFoundError:
        rejected = []
    # A split by name: unnamed files are taken for the training set.
    files = [{"split": "samples", "path": MANIFEST_FILE}]
    manifest = {"config_name": "manifest", "data_files": files}
    features = [{"name": field.name, "dtype": feature_dtype(field.type)} for field in table.schema]
    front = front_matter(description, len(table), manifest, features)
    body = card_body(description, table, rejected, audit_markdown, leaks)
    storage.write(CARD_FILE, (front + body).encode())


def front_matter(
    description: Mapping[str, Any],
    samples: int,
    config: Mapping[str, Any],
    features: Sequence[Mapping[str, Any]],
) -> str:
    """The YAML between two lines of dashes.

    Args:
        description: Contents of ``dataset.json``; its ``license``, if there is one, is taken over.
        samples: Their number.
        config: The one entry of the Hub's ``configs``: a name and data files.
        features: Name and type of each column, for the Hub's ``dataset_info``.
    """
    import yaml

    size = next((name for limit, name in SIZE_CATEGORIES.items() if samples < limit), "n>10M")
    content = {
        "pretty_name": TITLE,
        "license": description.get("license", "other"),
        "task_categories": ["image-classification"],
        "tags": ["image-forensics", "image-compression", *description["labels"]],
        "size_categories": [size],
        "configs": [dict(config)],
        "dataset_info": {"config_name": config["config_name"], "features": list(features)},
    }
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}---\n\n"


def feature_dtype(kind: pa.DataType) -> str:
    """The Hub's name of a column's type."""
    return {"double": "float64", "float": "float32"}.get(str(kind), str(kind))


def card_body(
    description: Mapping[str, Any],
    table: pa.Table,
    rejected: Sequence[Mapping[str, Any]],
    audit_markdown: str,
    leaks: Sequence[str],
) -> str:
    """The card's text below the front matter; arguments as of `write_card`."""
    rows = table.select(list(_COLUMNS)).to_pylist()
    well = [row for row in rows if row["status"] == "ok"]
    sections = [
        f"# {TITLE}\n\n{_introduction(description, well)}",
        f"## Classes and splits\n\n{_counts(description['labels'], well)}",
        f"## Sources\n\n{_sources(rows, rejected)}",
        f"## Design\n\n{_design(description)}",
        f"## Targets\n\n{_targets(well)}",
        f"## What could not be reached\n\n{_unreached(rows, well)}",
        f"## Histories and labels\n\n{_histories(description, well)}",
        audit_markdown.strip(),
        f"## Leaks between splits\n\n{_leaks(leaks)}",
        f"## Verify and rebuild\n\n{_commands(description)}",
        f"## Limits\n\n{_limits(well)}",
    ]
    return "\n\n".join(sections) + "\n"


def _introduction(description: Mapping[str, Any], well: Sequence[Mapping[str, Any]]) -> str:
    size = sum(row["file_bytes"] for row in well)
    return (
        f"{len(well):,} encoded pictures ({size / 1e6:,.1f} MB) for the question which codec has "
        f"compressed a picture: {', '.join(description['labels'])}. Each source was encoded with "
        "every codec, driven to the same compression ratios or SSIMs. The files lie in `encoded/` "
        f"as they were written; `{MANIFEST_FILE}` has a row for each sample with its source, "
        "parameters, target, measures, history and hashes."
    )


def _counts(labels: Sequence[str], well: Sequence[Mapping[str, Any]]) -> str:
    counts = Counter((row["label"], row["split"]) for row in well)
    sources = {
        split: len({r["source_id"] for r in well if r["split"] == split}) for split in SPLITS
    }
    body = [
        [label, *(counts[label, split] for split in SPLITS), sum(counts[label, s] for s in SPLITS)]
        for label in labels
    ]
    body.append(["sources", *sources.values(), sum(sources.values())])
    return _table(["class", *SPLITS, "all"], body)


def _sources(rows: Sequence[Mapping[str, Any]], rejected: Sequence[Mapping[str, Any]]) -> str:
    sources, groups = {r["source_id"] for r in rows}, {r["group"] for r in rows}
    text = (
        f"{len(sources)} pictures in {len(groups)} groups; a group is never split apart. Their "
        f"names and hashes stand in the manifest. Files rejected: {len(rejected)}."
    )
    if not rejected:
        return text
    counts = Counter(REASONS.get(item["reason"], item["reason"]) for item in rejected)
    return f"{text} `rejected.json` names each.\n\n" + _table(
        ["reason", "files"], sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )


def _design(description: Mapping[str, Any]) -> str:
    settings = [[f"`{name}`", _setting(v)] for name, v in sorted(description["config"].items())]
    encoders = [[f"`{name}`", text] for name, text in description["encoders"].items()]
    return (
        "Grid targets (`ratios`, `ssims`) are moved for each sample by a random factor of up to "
        "`target_spread`, and a search stops within `target_tolerance` (none: at the codec's "
        "best); `random_ratios` and `random_ssims` count targets drawn log-uniformly and uniformly "
        "from their ranges. Every draw follows from the seed, the source's pixels and "
        f"the codec.\n\n{_table(['setting', 'value'], settings)}\n\n"
        f"{_table(['codec', 'encoder'], encoders)}\n\nPython {description['python']}."
    )


def _setting(value: Any, between: str = ", ") -> str:
    """A setting as text; a history by its name."""
    if isinstance(value, Mapping):
        return str(value["name"])
    if isinstance(value, (list, tuple)):
        return between.join(_setting(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _target_name(row: Mapping[str, Any]) -> str:
    nominal = row["target_nominal"]
    return row["target_kind"] + (" random" if nominal is None else f" {nominal:g}")


def _targets(well: Sequence[Mapping[str, Any]]) -> str:
    asked = [row for row in well if row["target_kind"] != "none"]
    if not asked:
        return "No codec was driven to a target."
    cells: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in asked:
        cells.setdefault((row["codec"], _target_name(row)), []).append(row)
    order = {(r["target_kind"], r["target_nominal"] or 0.0): _target_name(r) for r in asked}
    names = [order[key] for key in sorted(order)]
    body = []
    for codec in dict.fromkeys(row["codec"] for row in asked):
        encodes = [row["encodes"] for row in asked if row["codec"] == codec]
        texts = [_reached(cells.get((codec, name), [])) for name in names]
        body.append([codec, *texts, f"{sum(encodes) / len(encodes):.2f}"])
    return (
        "Share of the samples that reached their target, and the median of what was achieved.\n\n"
        + _table(["codec", *names, "encodes"], body)
    )


def _reached(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "–"
    share = sum(row["reached"] for row in rows) / len(rows)
    # Rounded down: 100 % means all.
    return f"{int(100 * share)} %, {median(row['measured'] for row in rows):.4g}"


def _unreached(rows: Sequence[Mapping[str, Any]], well: Sequence[Mapping[str, Any]]) -> str:
    missed = [row for row in well if not row["reached"]]
    failed = [row for row in rows if row["status"] != "ok"]
    parts = []
    if missed:
        parts.append(
            f"Samples off their target: {len(missed)} of {len(well)}. They are the nearest that "
            "their codec could do; `reached` is false and `reason` says why."
        )
        reasons = _grouped((r["codec"], _target_name(r), r["reason"]) for r in missed)
        parts.append(_table(["codec", "target", "why, for the first", "samples"], reasons))
    else:
        parts.append("Every target was reached.")
    if failed:
        parts.append(f"Samples that could not be made: {len(failed)}; `error` says why.")
        errors = _grouped((row["codec"], _target_name(row), row["error"]) for row in failed)
        parts.append(_table(["codec", "target", "error of the first", "samples"], errors))
    return "\n\n".join(parts)


def _grouped(items: Any) -> list[list[Any]]:
    """(codec, target, text) with a count, where texts that differ in numbers only are one."""
    first: dict[tuple[str, str, str], str] = {}
    counts: Counter[tuple[str, str, str]] = Counter()
    for codec, target, text in items:
        key = (codec, target, re.sub(r"[\d.,]+", "", text))
        first.setdefault(key, text)
        counts[key] += 1
    return [[*key[:2], first[key], counts[key]] for key in first]


def _histories(description: Mapping[str, Any], well: Sequence[Mapping[str, Any]]) -> str:
    counts = Counter(row["history"] for row in well)
    chains: dict[str, str] = {}
    for row in well:
        if row["history"] not in chains:
            steps = [_step(step, row["codec"]) for step in json.loads(row["chain"])]
            chains[row["history"]] = " → ".join(steps)
    body = [[name, chains[name], count] for name, count in sorted(counts.items())]
    rule = description["config"].get("label_rule", "last")
    return (
        f"Where a chain holds several lossy codecs, the **{rule}** one is the label. `chain` has "
        "every step with its parameters; `single` is one encode and nothing else.\n\n"
        + _table(["history", "steps, of the first", "samples"], body)
    )


def _step(step: Mapping[str, Any], codec: str) -> str:
    """A step by name, and with its codec where that is not the sample's own."""
    other = step.get("codec", codec)
    return step["step"] if other == codec else f"{step['step']} ({other})"


def _leaks(leaks: Sequence[str]) -> str:
    if leaks:
        return f"**{len(leaks)} found:**\n\n" + "\n".join(f"- {_cell(leak)}" for leak in leaks)
    return (
        "None: every sample was compared, and no source, no group of near-duplicates and no pixel "
        "hash occurs in two splits."
    )


def _commands(description: Mapping[str, Any]) -> str:
    options, note = [], ""
    for name, value in description["config"].items():
        if value is None:  # what an option is when it is not given
            continue
        between = " " if name.endswith("_range") else ","
        text = _setting(value, between) if value != [] else '""'
        if name == "histories" and any(item["name"] not in HISTORIES for item in value):
            text = "histories.json"
            note = " `histories.json` is the list `histories` under `config` in `dataset.json`."
        options.append(f"--{name.replace('_', '-')} {text}")
    return (
        "With the toolkit that built it, in the folder of this file:\n\n"
        "```\npython main.py verify .\n```\n\n"
        "The same sources, packages and settings give the same files, byte for byte "
        f"(`dataset.json` has the versions).{note}\n\n```\npython main.py build-dataset SOURCES "
        "--out FOLDER \\\n    " + " \\\n    ".join(options) + "\n```"
    )


def _limits(well: Sequence[Mapping[str, Any]]) -> str:
    sources = len({row["source_id"] for row in well})
    return "\n".join(
        (
            f"- {sources} sources: what a classifier learns here is about pictures like these.",
            "- The encoders and settings are those listed above; other encoders of the same format "
            "leave other traces.",
            "- Pictures are 8-bit gray or RGB without metadata; the class says nothing of what was "
            "done to a source before it was collected.",
            "- Samples that missed their target are kept: leave out rows whose `reached` is false "
            "where classes must match in size or SSIM.",
            "- The licence of the sources holds for the pictures made from them.",
        )
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    """Text that cannot end a table's cell or row."""
    return " ".join(str(value).split()).replace("|", "\\|")
