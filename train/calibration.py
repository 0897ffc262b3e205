"""Calibration: probabilities that mean what they say, and likelihood ratios with a bound.

Temperature scaling (Guo et al., ICML 2017) of the patch probabilities, and of the mean
log-probability of an image's patches with a sharpness that grows with their number. Classes of one
family (`train.families`) have their own temperature and sharpness against each other: a network
that can hardly tell twins apart is too modest about them and too sure of all else, or the other way
round. Three numbers each, fitted on validation pictures only. No most probable class changes.
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
from train.families import family_of
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
class Sharpness:
    """How much a witness's log-probabilities weigh.

    An image of n patches weighs `scale · n / (1 + (n - 1) · correlation)` times its mean
    log-probability: n witnesses of whom each repeats a part of what the others say weigh as fewer
    independent ones (Kish's design effect).

    Attributes:
        temperature: Of a single patch: `p ** (1 / temperature)`, normalised.
        scale: Sharpness of an image of one patch.
        correlation: 0 if patches are independent witnesses, 1 if further ones tell nothing new.
    """

    temperature: float
    scale: float
    correlation: float

    def of_image(self, patches: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Factor on the mean log-probability of so many patches."""
        count = np.asarray(patches, np.float64)
        return np.asarray(self.scale * count / (1 + (count - 1) * self.correlation))

    @property
    def is_possible(self) -> bool:
        """Whether all values are in their ranges."""
        finite = all(map(math.isfinite, (self.temperature, self.scale, self.correlation)))
        return finite and min(self.temperature, self.scale) > 0 and 0 <= self.correlation <= 1


@dataclass(frozen=True)
class Calibration:
    """How to read a network's probabilities.

    Attributes:
        between: Sharpness of all classes against each other.
        within: That of a family's classes among themselves, where one of them is the most probable
            of all.
        most_patches: The most patches of an image in the fit; more count as so many.
        labels: The C classes in the order of the probabilities.
        bounds: Least and greatest log10 likelihood ratio for each class.
        fitted_on: What it rests on.
    """

    between: Sharpness
    within: Sharpness
    most_patches: int
    labels: tuple[str, ...]
    bounds: dict[str, tuple[float, float]]
    fitted_on: FittedOn

    def patch_probabilities(self, probabilities: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Calibrated probabilities `(N, C)` of single patches from the network's `(N, C)`."""
        sharp = (1 / self.between.temperature, 1 / self.within.temperature)
        return np.exp(sharpened(_logs(probabilities), *sharp, self.labels))

    def image_probabilities(self, probabilities: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Calibrated probabilities `(C,)` of an image from those of its patches `(n, C)`.

        They are those under equal prior probabilities of the classes.
        """
        count = min(len(np.asarray(probabilities)), self.most_patches)
        sharp = (self.between.of_image(count), self.within.of_image(count))
        mean = mean_log_probabilities(probabilities)[np.newaxis]
        return np.asarray(np.exp(sharpened(mean, *sharp, self.labels))[0])

    def among(self, labels: Sequence[str]) -> Calibration:
        """The calibration for probabilities of some of the classes, the others dropped."""
        return dataclasses.replace(self, labels=tuple(labels))

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
            if "temperature" in content:  # one for all classes
                raise ValueError("made by an earlier version; calibrate anew (main.py calibrate)")
            labels = tuple(str(label) for label in content["labels"])
            bounds = {
                name: (float(low), float(high)) for name, (low, high) in content["bounds"].items()
            }
            found = cls(
                between=_sharpness(content["between"]),
                within=_sharpness(content["within"]),
                most_patches=int(content["most_patches"]),
                labels=labels,
                bounds=bounds,
                fitted_on=FittedOn(**content["fitted_on"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CalibrationError(f"{path}: cannot be read: {error}") from error
        whole = found.between.is_possible and found.within.is_possible
        if not whole or set(bounds) != set(labels) or found.most_patches < 1:
            raise CalibrationError(
                f"{path}: holds impossible values; calibrate anew (main.py calibrate)"
            )
        return found


def _sharpness(content: dict[str, Any]) -> Sharpness:
    return Sharpness(**{name: float(value) for name, value in content.items()})


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
    limits = tuple(np.log(LIMITS))

    logs = _logs(np.concatenate([image.probabilities for image in images]))
    of_patch = np.repeat([image.truth for image in images], counts)
    patch_weights = np.repeat(weights / counts, counts)

    def patch_loss(parameters: npt.NDArray[np.float64]) -> float:
        between, within = np.exp(-parameters)
        scores = sharpened(logs, between, within, labels)
        return _loss(scores, of_patch, patch_weights) + prior * float(parameters @ parameters)

    patch_fit = optimize.minimize(patch_loss, x0=[0.0] * 2, method="L-BFGS-B", bounds=[limits] * 2)

    means, sizes, owners = _subset_means(images, np.random.default_rng(seed))
    truth = np.array([images[owner].truth for owner in owners])
    # Every size weighs the same for an image, every image for its class.
    shares = (weights / np.bincount(owners, minlength=len(images)))[owners]

    def pair(parameters: npt.NDArray[np.float64]) -> tuple[Sharpness, Sharpness]:
        (between, within), image = np.exp(patch_fit.x), parameters.reshape(2, 2)
        return (
            Sharpness(float(between), math.exp(image[0, 0]), float(image[0, 1])),
            Sharpness(float(within), math.exp(image[1, 0]), float(image[1, 1])),
        )

    def image_loss(parameters: npt.NDArray[np.float64]) -> float:
        between, within = (one.of_image(sizes)[:, np.newaxis] for one in pair(parameters))
        log_scales = parameters[::2]
        penalty = prior * float(log_scales @ log_scales)
        return _loss(sharpened(means, between, within, labels), truth, shares) + penalty

    image_fit = optimize.minimize(
        image_loss, x0=[0.0, 0.5] * 2, method="L-BFGS-B", bounds=[limits, (0.0, 1.0)] * 2
    )
    between, within = pair(image_fit.x)
    by_class = {
        label: len({image.source for image in images if image.truth == number})
        for number, label in enumerate(labels)
    }
    return Calibration(
        between=between,
        within=within,
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


def sharpened(
    logs: npt.NDArray[np.float64],
    between: npt.NDArray[np.float64] | float,
    within: npt.NDArray[np.float64] | float,
    labels: Sequence[str],
) -> npt.NDArray[np.float64]:
    """Logarithms of probabilities `(N, C)` after sharpening.

    All classes are sharpened by `between`. Then the family of the most probable class shares its
    sum out among its classes as if they had been sharpened by `within`, unless another class would
    become the most probable one.

    Args:
        logs: Logarithms of probabilities, `(N, C)`.
        between: A factor on them, or one for each item, `(N, 1)`.
        within: The same.
        labels: The C classes.
    """
    plain, apart = _log_softmax(logs * between), logs * within
    families = np.array([family_of(label) for label in labels])
    best = logs.argmax(axis=1)
    found = plain.copy()
    for family in dict.fromkeys(families):
        members = np.flatnonzero(families == family)
        items = np.flatnonzero(families[best] == family)
        if len(members) > 1 and len(items):
            here = np.ix_(items, members)
            total = np.log(np.exp(plain[here]).sum(axis=1, keepdims=True))
            found[here] = total + _log_softmax(apart[here])
    kept = found.argmax(axis=1) == best
    return np.where(kept[:, np.newaxis], found, plain)


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
    logs: npt.NDArray[np.float64],
    truth: npt.NDArray[np.integer[Any]],
    weights: npt.NDArray[np.float64],
) -> float:
    """Weighted log-loss of logarithms of probabilities."""
    return float(-weights @ logs[np.arange(len(logs)), truth])


def _logs(probabilities: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.log(np.clip(np.asarray(probabilities, np.float64), SMALLEST_PROBABILITY, 1.0))


def _log_softmax(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Over the last axis."""
    above = scores - scores.max(axis=-1, keepdims=True)
    return np.asarray(above - np.log(np.exp(above).sum(axis=-1, keepdims=True)))
