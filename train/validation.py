"""Calibrating a run: what it says of validation pictures, and what is fitted on that.

The pictures of the dataset's validation split are decoded anew and cut as a picture to be judged
is, because their number of patches matters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.patches import PatchSet, load_patches, patches_sha256
from train.calibration import (
    Calibration,
    CalibrationError,
    ImageScores,
    Improvement,
    fit_calibration,
    improvement,
)
from train.outputs import Outputs
from train.pictures import read_pictures
from train.reliability import draw_reliability, reliability_table
from train.run import Run
from train.unknown import EmbeddingDensity, Rejection, fit_density, fit_rejection
from train.verdict import pooled_probabilities, telling_patches

RELIABILITY_FILE = "reliability.png"

VALIDATION_IMAGES = 600
"""Most encoded pictures that a calibration looks at, evenly over the classes."""

VALIDATION_PATCHES = 64
"""Most patches of each."""

TRAINING_PATCHES = 8192
"""Most training patches behind the density of embeddings."""

_CHUNK = 1024

Progress = Callable[[str, int, int], None]
"""Called with the stage, what is done and what there is."""


@dataclass(frozen=True)
class ValidationImage:
    """An encoded validation picture and the answers on its patches that carry a trace."""

    label: str
    group: str
    outputs: Outputs


@dataclass(frozen=True)
class CalibratedRun:
    """What `calibrate_run` found and wrote.

    Attributes:
        calibration: As in ``calibration.json``.
        rejection: As in ``unknown.npz``.
        patch: Quality of patch probabilities before and after.
        image: Quality of image probabilities before and after.
        pictures: What all that was fitted on.
    """

    calibration: Calibration
    rejection: Rejection
    patch: Improvement
    image: Improvement
    pictures: tuple[ValidationImage, ...]


def calibrate_run(
    run: Run,
    dataset: Path,
    *,
    others: Path | None = None,
    images: int = VALIDATION_IMAGES,
    progress: Progress | None = None,
) -> CalibratedRun:
    """Fit calibration and rejection of `run`, and write them to its directory.

    Calibration, threshold and likelihood-ratio bounds rest on the split "val" alone, or on another
    dataset; only the density of embeddings is that of training patches. The test split is never
    read. Writes ``calibration.json``, ``unknown.npz`` and ``reliability.png``.

    Args:
        run: Its labels must hold those of the datasets.
        dataset: The dataset folder, with its encoded files, that the run was trained on.
        others: A dataset of other pictures, none of them to be tested on, of which all take the
            place of the split "val".
        images: Most encoded pictures to look at.
        progress: See `Progress`.

    Raises:
        CalibrationError: The run was trained on a validation picture, or all of them are flat or
            too small, or there are no training patches that fit.
        EvaluationError: No validation picture, a class that the run does not know, or a file that
            differs from the manifest.
        RunError: The model cannot be loaded.
    """
    patches = load_patches(dataset)
    judged, split = (dataset, "val") if others is None else (others, "all")
    found = validation_images(run, judged, images, progress, split)
    density = training_density(run, patches, progress)
    scores = [
        ImageScores(image.outputs.probabilities, run.labels.index(image.label), image.group)
        for image in found
    ]
    calibration = fit_calibration(
        scores,
        run.labels,
        split=split,
        model_sha256=run.model_sha256,
        patches_sha256=patches_sha256(judged),
    )
    rejection = fit_rejection(
        density, [image.outputs for image in found], model_sha256=run.model_sha256
    )
    patch, image = improvement(calibration, scores)
    calibration.save(run.path)
    rejection.save(run.path)
    truth = [one.truth for one in scores]
    before = [pooled_probabilities(one.probabilities) for one in scores]
    after = [calibration.image_probabilities(one.probabilities) for one in scores]
    draw_reliability(
        {
            "images, as the network says": reliability_table(before, truth),
            "images, calibrated": reliability_table(after, truth),
        },
        run.path / RELIABILITY_FILE,
    )
    return CalibratedRun(calibration, rejection, patch, image, tuple(found))


def validation_images(
    run: Run,
    dataset: Path,
    images: int = VALIDATION_IMAGES,
    progress: Progress | None = None,
    split: str = "val",
) -> list[ValidationImage]:
    """The run's answers on encoded pictures of a split; wholly flat ones are left out.

    Raises:
        CalibrationError: See `calibrate_run`.
        EvaluationError: See `calibrate_run`.
    """
    pictures = read_pictures(dataset, split, labels=run.labels)
    seen = {picture.source for picture in pictures} & set(run.sources.get("train", []))
    if seen:
        raise CalibrationError(
            f"{run.path} was trained on {len(seen)} source pictures of the split {split!r} of "
            f"{dataset}: its answers on them say nothing. Take the dataset that it was trained "
            "with, or one of other pictures."
        )
    chosen = _evenly([picture.label for picture in pictures], images)
    answers = []
    for done, place in enumerate(chosen, start=1):
        picture = pictures[place]
        image = picture.decoded()
        if min(image.shape[:2]) >= run.patch_size:
            pixels, _ = telling_patches(image, run.patch_size, VALIDATION_PATCHES)
            if len(pixels):
                group = str(picture.row["group"])
                answers.append(ValidationImage(picture.label, group, run.outputs(pixels)))
        if progress is not None:
            progress("classifying validation pictures", done, len(chosen))
    if not answers:
        raise CalibrationError(f"{dataset}: every validation picture is flat or too small")
    return answers


def training_density(
    run: Run, patches: PatchSet, progress: Progress | None = None
) -> EmbeddingDensity:
    """Density of the embeddings of training patches, evenly over the classes.

    Raises:
        CalibrationError: No training patch of a class that the run knows.
    """
    table = patches.table.select(["split", "label"]).to_pylist()
    labels = [row["label"] for row in table]
    rows = [
        place
        for place, row in enumerate(table)
        if row["split"] == "train" and row["label"] in run.labels
    ]
    size = run.patch_size
    if not rows or patches.patch_size < size:
        raise CalibrationError(
            f"The density of embeddings needs training patches of at least {size} pixels. "
            f"Received: {len(rows)} of {patches.patch_size} pixels"
        )
    chosen = _evenly([labels[row] for row in rows], TRAINING_PATCHES)
    places = np.sort([rows[place] for place in chosen])
    # Larger patches are cropped at random, as in training: all grid phases must occur.
    corners = np.random.default_rng(0).integers(0, patches.patch_size - size + 1, (len(places), 2))
    parts = []
    for start in range(0, len(places), _CHUNK):
        here = zip(places[start : start + _CHUNK], corners[start : start + _CHUNK], strict=True)
        crops = [
            patches.pixels[row, top : top + size, left : left + size] for row, (top, left) in here
        ]
        parts.append(run.outputs(np.stack(crops)))
        if progress is not None:
            progress("classifying training patches", min(start + _CHUNK, len(places)), len(places))
    embedding = np.concatenate([part.embedding for part in parts])
    return fit_density(embedding, [run.labels.index(labels[place]) for place in places])


def _evenly(labels: Sequence[str], most: int) -> list[int]:
    """At most so many places of `labels`, as evenly over them as they allow, chosen at random."""
    queues: dict[str, list[int]] = {}
    for place in np.random.default_rng(0).permutation(len(labels)).tolist():
        queues.setdefault(labels[place], []).append(place)
    turns = range(max(map(len, queues.values())))
    order = [
        queues[label][turn]
        for turn in turns
        for label in sorted(queues)
        if turn < len(queues[label])
    ]
    return order[:most]
