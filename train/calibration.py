"""Calibration: probabilities that mean what they say, and likelihood ratios with a bound.

Temperature scaling (Guo et al., ICML 2017) of the patch probabilities, and of the mean
log-probability of an image's patches with a sharpness that grows with their number. Three numbers
in all, fitted on validation pictures only.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imagecompression.atomic_file import write_json_atomic
from imagecompression.errors import ImageCompressionError
from train.verdict import SMALLEST_PROBABILITY, mean_log_probabilities

if TYPE_CHECKING:
    from train.reliability import Quality

CALIBRATION_FILE = "calibration.json"

LIMITS = (0.05, 20.0)
"""Least and greatest sharpening by calibration."""

SUBSETS = 4
"""Random subsets of each size that an image gives to the fit."""


class CalibrationError(ImageCompressionError):
    """A calibration that is impossible, worth nothing, damaged, or another model's."""


@dataclass(frozen=True)
class FittedOn:
    """What a calibration rests on.

    Attributes:
        split: "val", or "all" of a dataset of pictures that were not trained on.
        model_sha256: Hash of the model's file.
        patches_sha256: Hash of the dataset's table of patches.
        sources: Number of different source pictures; near-duplicates count once.
        images: Number of encoded pictures.
        patches: Number of their patches.
        sources_by_class: Source pictures that each class has images of.
    """

    split: str
    model_sha256: str
    patches_sha256: str
    sources: int
    images: int
    patches: int
    sources_by_class: dict[str, int]


@dataclass(frozen=True)
class Calibration:
    """How to read a network's probabilities.

    The posterior of an image under equal prior probabilities of the classes is proportional to
    `exp(s(n) · mean log-probability)` over its n patches, `s(n) = scale · n / (1 + (n - 1) ·
    correlation)`: n witnesses of whom each repeats a part of what the others say weigh as fewer
    independent ones (Kish's design effect). n counts as at most `most_patches`, the most that the
    fit has seen.

    Attributes:
        temperature: Of a single patch: `p ** (1 / temperature)`, normalised.
        scale: Sharpness of an image of one patch.
        correlation: 0 if patches are independent witnesses, 1 if further ones tell nothing new.
        most_patches: The most patches of an image in the fit.
        labels: The C classes in the order of the probabilities.
        bounds: Least and greatest log10 likelihood ratio for each class.
        fitted_on: What it rests on.
    """

    temperature: float
    scale: float
    correlation: float
    most_patches: int
    labels: tuple[str, ...]
    bounds: dict[str, tuple[float, float]]
    fitted_on: FittedOn

    def patch_probabilities(self, probabilities: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Calibrated probabilities `(N, C)` of single patches from the network's `(N, C)`."""
        return _normalised(_logs(probabilities) / self.temperature)

    def image_probabilities(self, probabilities: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Calibrated probabilities `(C,)` of an image from those of its patches `(n, C)`."""
        mean = mean_log_probabilities(probabilities)
        return _normalised(self.sharpness(len(np.asarray(probabilities))) * mean)

    def sharpness(self, patches: int) -> float:
        """Factor on the mean log-probability of that many patches."""
        count = min(patches, self.most_patches)
        return self.scale * count / (1 + (count - 1) * self.correlation)

    def log10_likelihood_ratio(self, probabilities: npt.ArrayLike, label: str) -> float:
        """How many times likelier, as log10, the evidence is if the class is `label` than if not.

        "If not" means each other class equally often. The ratio follows from calibrated
        probabilities `(C,)` under equal priors and is kept within `bounds`.
        """
        array = np.asarray(probabilities, np.float64)
        place = self.labels.index(label)
        rest = float(np.delete(array, place).sum())
        prior = math.log10(len(array) - 1)
        low, high = self.bounds[label]
        ratio = math.log10(max(array[place], 1e-300)) - math.log10(max(rest, 1e-300)) + prior
        return min(max(ratio, low), high)

    def save(self, folder: Path) -> None:
        """Write ``calibration.json`` to a run directory."""
        write_json_atomic(folder / CALIBRATION_FILE, dataclasses.asdict(self))

    @classmethod
    def load(cls, folder: Path) -> Calibration | None:
        """The calibration of a run directory; None if there is none.

        Raises:
            CalibrationError: The file is damaged.
        """
        path = folder / CALIBRATION_FILE
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            labels = tuple(str(label) for label in content["labels"])
            bounds = {
                name: (float(low), float(high)) for name, (low, high) in content["bounds"].items()
            }
            found = cls(
                temperature=float(content["temperature"]),
                scale=float(content["scale"]),
                correlation=float(content["correlation"]),
                most_patches=int(content["most_patches"]),
                labels=labels,
                bounds=bounds,
                fitted_on=FittedOn(**content["fitted_on"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CalibrationError(f"{path}: cannot be read: {error}") from error
        numbers = (found.temperature, found.scale, found.correlation)
        whole = all(math.isfinite(number) for number in numbers) and set(bounds) == set(labels)
        whole &= 0 <= found.correlation <= 1 and min(found.temperature, found.scale) > 0
        if not whole or found.most_patches < 1:
            raise CalibrationError(
                f"{path}: holds impossible values; calibrate anew (main.py calibrate)"
            )
        return found


@dataclass(frozen=True)
class ImageScores:
    """The network's answers on the patches of one encoded picture whose class is known.

    Attributes:
        probabilities: `(n, C)`, n at least 1.
        truth: Number of the true class.
        source: Name of the source picture or its group; images of one are no independent witnesses.
    """

    probabilities: npt.NDArray[np.floating[Any]]
    truth: int
    source: str


@dataclass(frozen=True)
class Improvement:
    """Quality before and after calibration, on the pictures that it was fitted on."""

    before: Quality
    after: Quality


def fit_calibration(
    images: Sequence[ImageScores],
    labels: Sequence[str],
    *,
    split: str = "val",
    model_sha256: str = "",
    patches_sha256: str = "",
    seed: int = 0,
) -> Calibration:
    """The calibration with the least log-loss, each class weighing the same.

    A normal prior on the logarithms of temperature and scale that weighs as much as one source
    picture keeps them finite where every answer is right.

    Args:
        images: Validation pictures, at least one.
        labels: The C classes.
        split: Told in `FittedOn`.
        model_sha256: Told in `FittedOn`.
        patches_sha256: Told in `FittedOn`.
        seed: Fixes the random subsets.

    Raises:
        CalibrationError: No picture.
    """
    from scipy import optimize  # here, because classifying needs none of it

    if not images:
        raise CalibrationError("A calibration needs at least one validation picture. Received: 0")
    sources = {image.source for image in images}
    prior = 1 / (2 * len(sources))
    weights = _class_weights(np.array([image.truth for image in images]))
    counts = np.array([len(image.probabilities) for image in images])

    logs = _logs(np.concatenate([image.probabilities for image in images]))
    of_patch = np.repeat([image.truth for image in images], counts)
    patch_weights = np.repeat(weights / counts, counts)
    temperature = optimize.minimize_scalar(
        lambda log: _loss(logs / math.exp(log), of_patch, patch_weights) + prior * log**2,
        bounds=np.log(LIMITS),
        method="bounded",
    )

    means, sizes, owners = _subset_means(images, np.random.default_rng(seed))
    truth = np.array([images[owner].truth for owner in owners])
    # Every size weighs the same for an image, every image for its class.
    shares = (weights / np.bincount(owners, minlength=len(images)))[owners]

    def image_loss(parameters: npt.NDArray[np.float64]) -> float:
        log_scale, correlation = parameters
        sharpness = math.exp(log_scale) * sizes / (1 + (sizes - 1) * correlation)
        return _loss(sharpness[:, np.newaxis] * means, truth, shares) + prior * log_scale**2

    scale = optimize.minimize(
        image_loss,
        x0=[0.0, 0.5],
        method="L-BFGS-B",
        bounds=[tuple(np.log(LIMITS)), (0.0, 1.0)],
    )
    by_class = {
        label: len({image.source for image in images if image.truth == number})
        for number, label in enumerate(labels)
    }
    return Calibration(
        temperature=float(math.exp(temperature.x)),
        scale=float(math.exp(scale.x[0])),
        correlation=float(scale.x[1]),
        most_patches=int(counts.max()),
        labels=tuple(labels),
        bounds=likelihood_ratio_bounds(labels, [(image.truth, image.source) for image in images]),
        fitted_on=FittedOn(
            split,
            model_sha256,
            patches_sha256,
            len(sources),
            len(images),
            int(counts.sum()),
            by_class,
        ),
    )


def likelihood_ratio_bounds(
    labels: Sequence[str], images: Sequence[tuple[int, str]]
) -> dict[str, tuple[float, float]]:
    """Least and greatest log10 likelihood ratio that validation pictures can support.

    With N independent pictures of other classes, none of them mistaken, a share of mistakes below
    1 / (N + 1) cannot be shown: a ratio for the class is at most N + 1. Likewise a ratio against it
    is at least 1 / (N + 1) for N pictures of the class. A simpler rule than ELUB (Vergeer et al.,
    Science & Justice 2016), with the same aim: no ratio that the data cannot support. Source
    pictures are counted, because encodings of one are not independent.

    Args:
        labels: The classes.
        images: Class number and source of each validation picture.
    """
    bounds = {}
    for number, label in enumerate(labels):
        own = {source for truth, source in images if truth == number}
        rest = {source for truth, source in images if truth != number}
        bounds[label] = (-math.log10(len(own) + 1), math.log10(len(rest) + 1))
    return bounds


def improvement(
    calibration: Calibration, images: Sequence[ImageScores]
) -> tuple[Improvement, Improvement]:
    """What calibration changes for patches and for images."""
    from train.reliability import quality
    from train.verdict import pooled_probabilities

    raw = np.concatenate([image.probabilities for image in images])
    of_patch = np.repeat(
        [image.truth for image in images], [len(image.probabilities) for image in images]
    )
    truth = [image.truth for image in images]
    pooled = [pooled_probabilities(image.probabilities) for image in images]
    calibrated = [calibration.image_probabilities(image.probabilities) for image in images]
    return (
        Improvement(
            quality(raw, of_patch), quality(calibration.patch_probabilities(raw), of_patch)
        ),
        Improvement(quality(pooled, truth), quality(calibrated, truth)),
    )


def _subset_means(
    images: Sequence[ImageScores], rng: np.random.Generator
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Mean log-probabilities of random subsets of 1, 2, 4, … and all patches; sizes; images."""
    means, sizes, owners = [], [], []
    for number, image in enumerate(images):
        logs = _logs(image.probabilities)
        powers = [2**power for power in range(len(logs).bit_length())]
        for size in sorted({size for size in powers if size < len(logs)} | {len(logs)}):
            for _ in range(SUBSETS):
                means.append(logs[rng.permutation(len(logs))[:size]].mean(axis=0))
                sizes.append(size)
                owners.append(number)
    return np.array(means), np.array(sizes, np.float64), np.array(owners)


def _class_weights(truth: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float64]:
    """Weights that sum to 1 and give each class that occurs the same."""
    counts = np.bincount(truth)
    return np.asarray(1 / (counts[truth] * np.count_nonzero(counts)))


def _loss(
    scores: npt.NDArray[np.float64],
    truth: npt.NDArray[np.integer[Any]],
    weights: npt.NDArray[np.float64],
) -> float:
    """Weighted log-loss of `softmax(scores)`."""
    highest = scores.max(axis=1)
    total = highest + np.log(np.exp(scores - highest[:, np.newaxis]).sum(axis=1))
    return float(weights @ (total - scores[np.arange(len(scores)), truth]))


def _logs(probabilities: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.log(np.clip(np.asarray(probabilities, np.float64), SMALLEST_PROBABILITY, 1.0))


def _normalised(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Soft-max over the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
