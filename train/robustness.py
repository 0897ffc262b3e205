"""Robustness: what is still told after a picture was cropped, scaled, blurred or saved again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from datasets.operations import Blur, Compress, Crop, Gamma, Noise, Resize, Step
from datasets.seeds import generator
from train.answers import Progress, ProtocolResult, ProtocolSettings, Tally, View, ask, counted
from train.evaluator import UNCOMPRESSED
from train.pictures import Picture, sampled
from train.run import Predict


@dataclass(frozen=True)
class Operation:
    """What is done to decoded pictures.

    Attributes:
        name: Of what is done.
        strength: How much, in the operation's unit; 0 for nothing.
        step: Does it; None leaves the picture as it is.
    """

    name: str
    strength: float | str
    step: Step | None


OPERATIONS = (
    Operation("none", 0.0, None),
    Operation("crop", "1-15", Crop((1, 15))),
    *(Operation("resize", f, Resize((f, f))) for f in (0.5, 0.75, 0.9, 1.1, 1.33, 2.0)),
    *(Operation("blur", sigma, Blur((sigma, sigma))) for sigma in (0.5, 1.0, 2.0)),
    *(Operation("noise", sigma, Noise((sigma, sigma))) for sigma in (1.0, 2.0, 4.0, 8.0)),
    *(Operation("gamma", gamma, Gamma((gamma, gamma))) for gamma in (0.7, 0.85, 1.2, 1.4)),
    *(
        Operation("jpeg", float(quality), Compress(("jpeg",), knob=(quality, quality)))
        for quality in (75, 85, 90, 95)
    ),
)
"""Pixels cropped, scale factor, σ in pixels, σ in levels, exponent, quality of a re-save."""


def robustness(
    predict: Predict, dataset: Path, settings: ProtocolSettings, progress: Progress | None = None
) -> ProtocolResult:
    """Accuracy after each of `OPERATIONS`; the truth stays the codec from before.

    Rows have `operation`, `strength` and `label`, a class or "all". What is drawn within an
    operation (crops, filters, grain, the settings of a re-save) is the same for all classes of a
    source. Pictures without compression are not saved again as JPEG: JPEG would be their first
    codec. `sampled_files` says how many files of each source and class are judged.
    """
    pictures = sampled(settings.pictures(dataset), settings.sampled_files, settings.seed)
    tally = Tally(settings.seed)
    shown = _changed(counted(pictures, progress, "robustness"), settings)
    for one in ask(predict, shown, settings):
        for label in (one.label, "all"):
            right, count = one.right(settings.labels), len(one.probabilities)
            tally.add({"level": one.level, **one.facts, "label": label}, one.source, right, count)
    return ProtocolResult("robustness", tally.rows())


def _changed(pictures: Iterable[Picture], settings: ProtocolSettings) -> Iterator[View]:
    """Each picture after each operation."""
    for picture in pictures:
        image = picture.decoded()
        for operation in OPERATIONS:
            if picture.label == UNCOMPRESSED and isinstance(operation.step, Compress):
                continue
            changed = image
            if operation.step is not None:
                rng = generator(
                    settings.seed, picture.source, operation.name, str(operation.strength)
                )
                changed, _ = operation.step.apply(image, rng)
            facts = {"operation": operation.name, "strength": operation.strength}
            name = str(picture.row["sample_id"])
            yield View(name, picture.label, picture.source, changed, facts)
