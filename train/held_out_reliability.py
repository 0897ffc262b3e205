"""Whether the stated probabilities hold on pictures that neither trained nor calibrated them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt

from train.answers import (
    IMAGE,
    Progress,
    ProtocolResult,
    ProtocolSettings,
    Row,
    counted,
    patch_level,
    probabilities,
)
from train.decisive_signs import DecisiveSign
from train.evaluator import EvaluationError
from train.reliability import quality
from train.run import Predict
from train.verdict import pooled_probabilities, telling_patches


def held_out_reliability(
    predict: Predict, dataset: Path, settings: ProtocolSettings, progress: Progress | None = None
) -> ProtocolResult:
    """Calibration error and proper scores of patches and of pictures.

    Patches are those that a picture's verdict is pooled from, flat ones left out; signs that rule
    classes out count for pictures.

    Rows have `level`, `probabilities` ("network" or, with a calibration in the settings,
    "calibrated"), n, sources, accuracy, and the fields of `train.reliability.Quality`: log_loss
    (nats), brier, ece (15 bins of equal mass) and cllr (bits).

    Raises:
        EvaluationError: No picture holds a patch that is not flat.
    """
    pictures = settings.pictures(dataset)
    patch_truth: list[int] = []
    truth: list[int] = []
    sources: set[str] = set()
    patches: list[npt.NDArray[np.float32]] = []
    signs: list[DecisiveSign] = []
    for picture in counted(pictures, progress, "reliability"):
        image = picture.decoded()
        if min(image.shape[:2]) < settings.image_patch:
            continue
        asked, _ = telling_patches(image, settings.image_patch, settings.image_patches)
        if len(asked):
            number = settings.labels.index(picture.label)
            patches.append(probabilities(predict, asked, settings))
            signs += settings.signs([image])
            patch_truth += [number] * len(asked)
            truth.append(number)
            sources.add(picture.source)
    if not patches:
        raise EvaluationError(f"{dataset}: no picture holds a patch that carries a trace")
    rows: list[Row] = []
    for name, calibration in (("network", None), ("calibrated", settings.calibration)):
        if name == "calibrated" and calibration is None:
            continue
        every = np.concatenate(patches).astype(np.float64)
        every /= every.sum(axis=1, keepdims=True)
        if calibration is None:
            images = [pooled_probabilities(part) for part in patches]
        else:
            every = calibration.patch_probabilities(every)
            images = [calibration.image_probabilities(part) for part in patches]
        images = [
            sign.applied(image, settings.labels) for sign, image in zip(signs, images, strict=True)
        ]
        for level, found, known in (
            (patch_level(settings.image_patch), every, patch_truth),
            (IMAGE, np.array(images), truth),
        ):
            right = float(np.mean(found.argmax(axis=1) == np.array(known)))
            head = {"level": level, "probabilities": name, "n": len(known)}
            scores = {"sources": len(sources), "accuracy": right}
            rows.append(head | scores | dataclasses.asdict(quality(found, known)))
    return ProtocolResult("reliability", rows)
