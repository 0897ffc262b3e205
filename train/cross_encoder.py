"""Cross-encoder: does a classifier know a codec, or the encoder settings it has seen?"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from datasets.manifest import read_manifest
from imagecompression import CODECS
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
from train.evaluator import EvaluationError
from train.run import Predict


def cross_encoder(
    predict: Predict, dataset: Path, settings: ProtocolSettings, progress: Progress | None = None
) -> ProtocolResult:
    """Recall of each codec by the value of each encoder setting that varies in the dataset.

    Rows have `label`, `field` (such as "encoder", "preset" or "subsampling") and `value`, as JSON.
    The knobs that meet the targets are no settings. For a network that has never seen one of the
    values, train on the samples that `without` gives and look at the row of the value.

    Raises:
        UnsuitableDatasetError: No setting has two values.
    """
    pictures = [p for p in settings.pictures(dataset) if p.label == p.row["codec"]]
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for picture in pictures:
        for field, value in _settings(picture.row).items():
            found[picture.label, field].add(value)
    varied = {key for key, values in found.items() if len(values) > 1}
    if not varied:
        raise UnsuitableDatasetError(
            f"{dataset}: no encoder setting has two values in the split {settings.split!r}; "
            "build it of more sources or with more --settings-per-source"
        )
    pictures = [p for p in pictures if any(label == p.label for label, _ in varied)]
    tally = Tally(settings.seed)
    for one in ask(predict, views(counted(pictures, progress, "cross-encoder")), settings):
        for field, value in _settings(one.facts).items():
            if (one.label, field) in varied:
                group = {"level": one.level, "label": one.label, "field": field, "value": value}
                tally.add(group, one.source, one.right(settings.labels), len(one.probabilities))
    return ProtocolResult("cross-encoder", tally.rows())


def without(dataset: Path, codec: str, field: str, value: Any) -> list[str]:
    """The samples to train on so that one encoder setting of a codec is never seen.

    Args:
        dataset: The dataset folder.
        codec: Whose samples are left out, where `field` has `value`.
        field: Name of a parameter of the codec, such as "encoder".
        value: As in `Codec.params`.

    Returns:
        The sample_id of every other good sample, in the order of the manifest.

    Raises:
        EvaluationError: No sample has the value, or all of the codec's have it.
    """
    rows = read_manifest(dataset, ["sample_id", "status", "codec", "params"]).to_pylist()
    good = [row for row in rows if row["status"] == "ok"]
    own = [row for row in good if row["codec"] == codec]
    left_out = {r["sample_id"] for r in own if json.loads(r["params"]).get(field) == value}
    if not left_out or len(left_out) == len(own):
        values = sorted({json.dumps(json.loads(row["params"]).get(field)) for row in own})
        raise EvaluationError(
            f"{dataset}: to leave out {field} = {json.dumps(value)} of {codec}, some of its "
            f"{len(own)} samples must have it and others not. "
            f"{field} has the values: {', '.join(values) or 'none'}"
        )
    return [row["sample_id"] for row in good if row["sample_id"] not in left_out]


def _settings(row: Any) -> dict[str, str]:
    """The encoder settings of a manifest's row, as JSON, without the knobs."""
    codec = CODECS[row["codec"]]
    knobs = {knob.field for knob in (codec.knob, codec.fine_knob) if knob is not None}
    params = json.loads(row["params"])
    return {name: json.dumps(value) for name, value in params.items() if name not in knobs}
