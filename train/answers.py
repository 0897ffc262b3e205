"""What a classifier answers about pictures, by patches and by whole pictures, and its counting.

The frame of all protocols (`train.protocols`): pictures are shown as `View`s, each comes back with
an `Answers` for every level, and a `Tally` makes rows of accuracies with intervals over sources.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datasets.seeds import generator
from datasets.workers import Crashed, Pool, WorkerError
from imagecompression import Image
from imagecompression.evidence.encoded_picture import encoded_picture
from train.bootstrap import share_interval
from train.calibration import Calibration
from train.decisive_signs import DecisiveSign, decisive_sign
from train.evaluator import EvaluationError
from train.families import family_of, family_probabilities
from train.pictures import Picture, random_patches, read_pictures
from train.run import Predict
from train.verdict import patch_offsets, pooled_probabilities, telling_patches

IMAGE = "image"
"""The level of whole pictures; others are called by `patch_level`."""

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, what is done of it and how much there is."""

Row = dict[str, Any]

_VIEWS_AT_ONCE = 16
"""Pictures whose patches the network gets together: enough to keep it busy, few for memory."""
_CHUNK = 1024 * 64 * 64
"""Pixels of patches in one call of `predict`."""


class UnsuitableDatasetError(EvaluationError):
    """A dataset that lacks what a protocol judges; other protocols may do."""


def signs_of(images: Sequence[Image]) -> list[DecisiveSign]:
    """`decisive_sign` of several pictures."""
    return [decisive_sign(image) for image in images]


@dataclass(frozen=True)
class ProtocolSettings:
    """What all protocols need to know of the classifier and of how much to ask.

    Attributes:
        labels: The classes, in the order of the probabilities.
        split: "train", "val", "test" or "all".
        patch_sizes: Sides of patches, in pixels, that are judged one by one: by themselves up to
            `image_patch`, larger ones as pictures of that size are.
        image_patch: Side of the patches that a picture's own verdict is pooled from.
        patches: Patches of each size that a picture gives, at random grid phases.
        image_patches: Most patches that a picture's verdict is pooled from.
        sampled_files: Files of each source and class that are judged where every file is judged
            many times ("robustness", "grid-phase"); drawn by the seed.
        trained_on: SHA-256 of sources that must not be judged.
        calibration: For "reliability": what makes calibrated probabilities; None without.
        kinds: For "source-kind": kind of each source, by the name of its file.
        cache: For "ais22": folder for its encodes.
        workers: For "ais22": processes; None takes one for each core.
        seed: Fixes patches, samples and operations.
        signs: What rules classes out of pictures' verdicts; a `RememberedSigns` saves time where
            several protocols see the same pictures.
    """

    labels: tuple[str, ...]
    split: str = "test"
    patch_sizes: tuple[int, ...] = (64, 224)
    image_patch: int = 64
    patches: int = 8
    image_patches: int = 64
    sampled_files: int = 2
    trained_on: frozenset[str] = frozenset()
    calibration: Calibration | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    cache: Path | None = None
    workers: int | None = None
    seed: int = 0
    signs: Callable[[Sequence[Image]], list[DecisiveSign]] = signs_of

    def pictures(self, dataset: Path) -> list[Picture]:
        """What may be judged of a dataset, see `read_pictures`."""
        return read_pictures(dataset, self.split, self.labels, self.trained_on)


@dataclass(frozen=True)
class ProtocolResult:
    """What a protocol found.

    Attributes:
        name: Of the protocol.
        rows: Flat rows of equal keys: level, what the group of items has in common, n (items),
            sources, accuracy, and low and high of its interval (None with fewer than two sources).
    """

    name: str
    rows: list[Row]


@dataclass(frozen=True, eq=False)
class View:
    """A picture as it is shown to the classifier.

    Attributes:
        name: Fixes its random patches.
        label: The true class.
        source: SHA-256 of the source.
        image: `uint8` `(H, W, 3)`.
        facts: What groups are made by.
    """

    name: str
    label: str
    source: str
    image: Image
    facts: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers about one view at one level.

    Attributes:
        level: `IMAGE` or a `patch_level`.
        label: The true class.
        source: SHA-256 of the source.
        facts: As in `View`.
        probabilities: `float32` `(n, C)`, n patches or 1 picture.
    """

    level: str
    label: str
    source: str
    facts: Mapping[str, Any]
    probabilities: npt.NDArray[np.float32]

    def right(self, labels: tuple[str, ...], truth: str | None = None) -> int:
        """How many of them name `truth`, by default the true class."""
        place = labels.index(self.label if truth is None else truth)
        return int((self.probabilities.argmax(axis=1) == place).sum())

    def right_families(self, labels: tuple[str, ...]) -> int:
        """How many of them name the family of the true class (`train.families`)."""
        families, sums = family_probabilities(self.probabilities, labels)
        return int((sums.argmax(axis=1) == families.index(family_of(self.label))).sum())


class RememberedAnswers:
    """A `Predict` that asks about equal pixels once: protocols share most of their patches.

    The answers to the first `most` different patches are kept, at some 250 bytes each.
    """

    def __init__(self, predict: Predict, most: int = 1_000_000) -> None:
        self._predict = predict
        self._most = most
        self._known: dict[bytes, npt.NDArray[np.float32]] = {}

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Probabilities `float32` `(N, C)` of patches `uint8` `(N, P, P, 3)`, N at least 1."""
        keys = [hashlib.blake2b(patch.tobytes(), digest_size=16).digest() for patch in pixels]
        new = {key: place for place, key in enumerate(keys) if key not in self._known}
        fresh: dict[bytes, npt.NDArray[np.float32]] = {}
        if new:
            # Copies: a view would keep the answers to all patches of this call.
            answers = np.asarray(self._predict(pixels[list(new.values())]), np.float32)
            fresh = {key: answer.copy() for key, answer in zip(new, answers, strict=True)}
            room = max(0, self._most - len(self._known))
            self._known.update(itertools.islice(fresh.items(), room))
        return np.stack([fresh[key] if key in fresh else self._known[key] for key in keys])


class RememberedSigns:
    """`decisive_sign` of several pictures that looks at equal ones once.

    Args:
        pool: Processes that look; None for this one.
    """

    def __init__(self, pool: Pool | None = None) -> None:
        self._pool = pool
        self._known: dict[bytes, DecisiveSign] = {}

    def __call__(self, images: Sequence[Image]) -> list[DecisiveSign]:
        """See `decisive_sign`.

        Raises:
            WorkerError: A picture ends the processes that look at it.
        """
        keys = [
            hashlib.blake2b(f"{image.shape}".encode() + image.tobytes(), digest_size=16).digest()
            for image in images
        ]
        new = {
            key: image for key, image in zip(keys, images, strict=True) if key not in self._known
        }
        self._known.update(zip(new, self._look(list(new.values())), strict=True))
        return [self._known[key] for key in keys]

    def _look(self, images: list[Image]) -> list[DecisiveSign]:
        if self._pool is None or not images:
            return signs_of(images)
        found = dict(self._pool.run(decisive_sign, [(image,) for image in images]))
        for sign in found.values():
            if isinstance(sign, Crashed):
                raise WorkerError(sign.reason)
        return [found[number] for number in range(len(images))]


def patch_level(size: int) -> str:
    """The level of patches of `size` pixels.

    >>> patch_level(64)
    'patch-64'
    """
    return f"patch-{size}"


def views(pictures: Iterable[Picture]) -> Iterator[View]:
    """Each picture as it is, with its row of the manifest as facts."""
    for picture in pictures:
        name = str(picture.row["sample_id"])
        yield View(name, picture.label, picture.source, picture.decoded(), picture.row)


def ask(predict: Predict, shown: Iterable[View], settings: ProtocolSettings) -> Iterator[Answers]:
    """The answers about each view, at every level that the picture is large enough for.

    Patches are cut at random grid phases, and judged like a picture of their size: one that is
    larger than `image_patch` by patches spread evenly over it. The verdict is that of
    `train.classification.classify`, but not calibrated: pooled, without the classes that a sign in
    the pixels rules out, and of whole pictures as they were before they were enlarged; where all of
    a picture's patches are flat there is no answer.

    Args:
        predict: Patches `uint8` `(N, P, P, 3)` to probabilities `(N, C)`, for `image_patch` and
            all smaller sizes of the settings.
        shown: The pictures; a few are held at a time.
        settings: See `ProtocolSettings`.

    Raises:
        EvaluationError: `predict` does not answer one probability for each patch and class.
    """
    waiting, labels = iter(shown), settings.labels
    while batch := list(itertools.islice(waiting, _VIEWS_AT_ONCE)):
        for level, cutter in _levels(settings):
            cuts = [cutter(view) for view in batch]
            asked = [place for place, cut in enumerate(cuts) if len(cut.patches)]
            if not asked:
                continue
            patches = np.concatenate([cuts[place].patches for place in asked])
            answers = probabilities(predict, patches, settings)
            ends = np.cumsum([len(cuts[place].patches) for place in asked])[:-1]
            pictures = [picture for place in asked for picture in cuts[place].pictures]
            signs = iter(settings.signs(pictures))
            for place, part in zip(asked, np.split(answers, ends), strict=True):
                view = batch[place]
                items = part.reshape(len(cuts[place].pictures), -1, part.shape[-1])
                judged = np.stack(
                    [next(signs).applied(pooled_probabilities(item), labels) for item in items]
                )
                yield Answers(level, view.label, view.source, view.facts, judged.astype(np.float32))


@dataclass(frozen=True, eq=False)
class _Cut:
    """What is asked about for one view at one level.

    Attributes:
        patches: `uint8` `(n, P, P, 3)`.
        pictures: What answers are pooled for, as many patches for each.
    """

    patches: npt.NDArray[np.uint8]
    pictures: Sequence[Image]


def probabilities(
    predict: Predict, patches: npt.NDArray[np.uint8], settings: ProtocolSettings
) -> npt.NDArray[np.float32]:
    """Probabilities `(N, C)` of patches `(N, P, P, 3)`, asked for in chunks that fit in memory."""
    step = max(1, _CHUNK // patches[0, :, :, 0].size)
    parts = []
    for start in range(0, len(patches), step):
        chunk = patches[start : start + step]
        part = np.asarray(predict(chunk), np.float32)
        if part.shape != (len(chunk), len(settings.labels)):
            raise EvaluationError(
                f"predict must answer {(len(chunk), len(settings.labels))} probabilities for "
                f"{len(chunk)} patches and the classes {', '.join(settings.labels)}. "
                f"Received: shape={part.shape}"
            )
        parts.append(part)
    return np.concatenate(parts)


class Tally:
    """Right answers of all, counted by group and source."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._counts: dict[tuple[tuple[str, Any], ...], dict[str, list[int]]] = {}

    def add(self, group: Row, source: str, right: int, count: int) -> None:
        """Count `count` items of a source, `right` of them right, for a group of equal keys."""
        counts = self._counts.setdefault(tuple(group.items()), {}).setdefault(source, [0, 0])
        counts[0] += right
        counts[1] += count

    def rows(self) -> list[Row]:
        """A row for each group, see `ProtocolResult`, sorted by what the groups are."""
        rows = []
        for group in sorted(self._counts, key=lambda g: [_sortable(value) for _, value in g]):
            sums = np.array([counts for _, counts in sorted(self._counts[group].items())])
            right, count = sums.sum(axis=0)
            interval = share_interval(sums[:, 0], sums[:, 1], self._seed)
            figures = {"n": int(count), "sources": len(sums), "accuracy": float(right / count)}
            rows.append(dict(group) | figures | {"low": interval.low, "high": interval.high})
        return rows


def counted(shown: list[Picture], progress: Progress | None, stage: str) -> Iterator[Picture]:
    """The pictures one by one, telling `progress` of each."""
    for done, picture in enumerate(shown, start=1):
        yield picture
        if progress is not None:
            progress(stage, done, len(shown))


def _levels(settings: ProtocolSettings) -> list[tuple[str, Callable[[View], _Cut]]]:
    """Each level, and how a view's patches are cut for it."""
    side = settings.image_patch

    def at_random(size: int) -> Callable[[View], _Cut]:
        def cutter(view: View) -> _Cut:
            rng = generator(settings.seed, view.name, patch_level(size))
            found = random_patches(view.image, size, settings.patches, rng)
            if not len(found) or size <= side:
                return _Cut(found, list(found))
            places = itertools.product(*patch_offsets(size, size, side))
            parts = [found[:, y : y + side, x : x + side] for y, x in places]
            return _Cut(np.stack(parts, axis=1).reshape(-1, side, side, 3), list(found))

        return cutter

    def evenly(view: View) -> _Cut:
        if min(view.image.shape[:2]) < side:
            return _Cut(np.empty((0, side, side, 3), np.uint8), [])
        image = encoded_picture(view.image, side).pixels
        return _Cut(telling_patches(image, side, settings.image_patches)[0], [image])

    patches = [(patch_level(size), at_random(size)) for size in settings.patch_sizes]
    return [*patches, (IMAGE, evenly)]


def _sortable(value: Any) -> tuple[int, float, str]:
    """Numbers by value, before all else by its text."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (0, value, "")
    return (1, 0.0, str(value))
