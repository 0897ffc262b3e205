"""Source kinds: are pictures of one kind or origin taken for compressed more often than others?"""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath

from train.answers import (
    Progress,
    ProtocolResult,
    ProtocolSettings,
    Tally,
    UnsuitableDatasetError,
    ask,
    counted,
    views,
)
from train.evaluator import UNCOMPRESSED, EvaluationError
from train.run import Predict


def read_kinds(path: Path) -> dict[str, str]:
    """The kind of each source by the name of its file, from a CSV with the columns file, history.

    A history that starts with "never lossy" or "downscaled" gives that as its kind; another is the
    kind itself.

    Raises:
        EvaluationError: Not a readable CSV, or without these columns.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = {"file", "history"} - set(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EvaluationError(f"{path}: not a readable CSV file: {error}") from error
    if missing:
        raise EvaluationError(
            f"{path}: must have the columns file and history. Missing: {', '.join(sorted(missing))}"
        )
    kinds = {}
    for row in rows:
        history = row["history"] or ""
        named = [kind for kind in ("never lossy", "downscaled") if history.startswith(kind)]
        kinds[PurePosixPath(row["file"]).name] = named[0] if named else history
    return kinds


def source_kind(
    predict: Predict, dataset: Path, settings: ProtocolSettings, progress: Progress | None = None
) -> ProtocolResult:
    """Accuracy by the kind of source (`kinds` of the settings) and by its origin in the manifest.

    Rows have `by` ("kind" or "origin"), `value`, and `label`: "uncompressed", whose accuracy is
    one less the share of false alarms, `called_compressed`; or "compressed" for all other classes,
    where `called_compressed` is the share not called uncompressed.

    Raises:
        UnsuitableDatasetError: The sources have neither kinds nor origins.
    """
    chosen = []
    kinds = {PurePosixPath(file).name: kind for file, kind in settings.kinds.items()}
    values: dict[str, list[tuple[str, str]]] = {}
    for picture in settings.pictures(dataset):
        row = picture.row
        kind = kinds.get(PurePosixPath(row["source_file"]).name, "")
        found = [(by, v) for by, v in (("kind", kind), ("origin", row["origin"])) if v]
        if found:
            values[row["sample_id"]] = found
            chosen.append(picture)
    if not chosen:
        raise UnsuitableDatasetError(
            f"{dataset}: nothing is known of its sources: none has an origin, and no kind was "
            "given (a CSV with the columns file and history)"
        )
    named, alarmed = Tally(settings.seed), Tally(settings.seed)
    for one in ask(predict, views(counted(chosen, progress, "source-kind")), settings):
        count = len(one.probabilities)
        alarms = count - (
            one.right(settings.labels, UNCOMPRESSED) if UNCOMPRESSED in settings.labels else 0
        )
        label = UNCOMPRESSED if one.label == UNCOMPRESSED else "compressed"
        for by, value in values[one.facts["sample_id"]]:
            group = {"level": one.level, "by": by, "value": value, "label": label}
            named.add(group, one.source, one.right(settings.labels), count)
            alarmed.add(group, one.source, alarms, count)
    rows = [
        row | {"called_compressed": other["accuracy"]}
        for row, other in zip(named.rows(), alarmed.rows(), strict=True)
    ]
    return ProtocolResult("source-kind", rows)
