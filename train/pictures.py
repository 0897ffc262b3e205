"""Decoded pictures of a dataset as the unit of evaluation, and patches cut from them anew."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datasets.manifest import read_manifest
from datasets.patches import as_rgb, crop_positions
from datasets.seeds import generator
from imagecompression import CODECS, Image
from train.evaluator import SPLITS, EvaluationError, refuse_trained_on


@dataclass(frozen=True, eq=False)
class Picture:
    """One encoded picture; its pixels are decoded when asked for.

    Attributes:
        folder: That the path in `row` is below.
        row: Its row in the manifest, or one with sample_id, label, source_sha256, path,
            file_sha256 and container at least.
    """

    folder: Path
    row: Mapping[str, Any]

    @property
    def label(self) -> str:
        """The true class."""
        return str(self.row["label"])

    @property
    def source(self) -> str:
        """SHA-256 of the source's file."""
        return str(self.row["source_sha256"])

    def decoded(self) -> Image:
        """The pixels, `uint8` `(H, W, 3)`; gray is repeated.

        Raises:
            EvaluationError: The file is missing or not the one of the manifest.
        """
        path = self.row["path"]
        try:
            data = (self.folder / path).read_bytes()
        except FileNotFoundError as error:
            raise EvaluationError(f"{self.folder}: {path} is missing; build it anew") from error
        if hashlib.sha256(data).hexdigest() != self.row["file_sha256"]:
            raise EvaluationError(f"{path}: the file's hash is not the manifest's; build it anew")
        return as_rgb(CODECS[self.row["container"]].decode(data))


def read_pictures(
    dataset: Path,
    split: str = "test",
    labels: Collection[str] | None = None,
    trained_on: Collection[str] = (),
) -> list[Picture]:
    """The different pictures of a split, in the order of the manifest.

    As where patches are cut, targets that led to the same bytes count once, and files of a lossy
    codec that decode to the very source are left out: they carry no trace.

    Args:
        dataset: The dataset folder.
        split: "train", "val", "test" or "all".
        labels: The classes that the classifier knows; None takes any.
        trained_on: SHA-256 of sources that must not be judged.

    Raises:
        EvaluationError: An unknown split, no picture in it, a class that is not known, or a source
            that was trained on.
        ManifestError: No dataset there.
    """
    if split not in SPLITS:
        raise EvaluationError(f"split must be one of {', '.join(SPLITS)}. Received: {split!r}")
    found: dict[tuple[str, str, str], Picture] = {}
    for row in read_manifest(dataset).to_pylist():
        lossy = CODECS[row["label"]].knob is not None and row["label"] == row["codec"]
        unchanged = lossy and math.isinf(row["psnr_db"] or 0.0)
        if row["status"] == "ok" and split in (row["split"], "all") and not unchanged:
            key = (row["source_id"], row["label"], row["file_sha256"])
            found.setdefault(key, Picture(dataset, row))
    pictures = list(found.values())
    if not pictures:
        raise EvaluationError(f"{dataset}: no encoded picture in the split {split!r}")
    unknown = sorted({picture.label for picture in pictures} - set(labels or CODECS))
    if unknown:
        raise EvaluationError(
            f"{dataset} has classes that the classifier does not know: {', '.join(unknown)}. "
            f"It knows: {', '.join(labels or CODECS)}"
        )
    sources = {picture.source for picture in pictures}
    refuse_trained_on(sources, trained_on, f"split {split!r} in {dataset}")
    return pictures


def sampled(pictures: list[Picture], per_class: int, seed: int) -> list[Picture]:
    """At most `per_class` pictures of each source and class, drawn by the seed; order is kept."""
    groups: dict[tuple[str, str], list[int]] = {}
    for place, picture in enumerate(pictures):
        groups.setdefault((picture.source, picture.label), []).append(place)
    kept: list[int] = []
    for (source, label), places in groups.items():
        rng = generator(seed, source, label, "sampled")
        kept += rng.choice(places, min(per_class, len(places)), replace=False).tolist()
    return [pictures[place] for place in sorted(kept)]


def random_patches(
    image: Image, size: int, count: int, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Up to `count` different patches at random grid phases, `(n, size, size, 3)`.

    None if the picture is smaller than a patch.

    Args:
        image: `uint8` `(H, W, 3)`.
        size: Side in pixels.
        count: At least 1.
        rng: Every offset is drawn from it.
    """
    offsets = crop_positions(image.shape[0], image.shape[1], size, count, rng)
    return cut(image, size, offsets)


def cut(image: Image, size: int, offsets: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """Patches `(n, size, size, 3)` at (top, left) `offsets` `(n, 2)`."""
    patches = np.empty((len(offsets), size, size, 3), np.uint8)
    for patch, (top, left) in zip(patches, offsets, strict=True):
        patch[...] = image[top : top + size, left : left + size]
    return patches
