"""The verdict on one picture: which codec its patches speak for, and how unanimously."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from imagecompression.errors import ImageCompressionError
from train.run import Predict

SMALLEST_PROBABILITY = 1e-7
"""Lower bound of a patch's probability, so that one mistaken patch cannot veto a class."""


class VerdictError(ImageCompressionError):
    """A picture that no verdict can be given on."""


@dataclass(frozen=True)
class Verdict:
    """What the patches of one picture say together.

    Attributes:
        label: The most probable class.
        probabilities: Probability of every class; they sum to 1.
        patches: Number of patches that were asked.
        agreement: Share of patches whose own most probable class is `label`, 0 to 1.
    """

    label: str
    probabilities: dict[str, float]
    patches: int
    agreement: float


def pooled_probabilities(probabilities: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """One distribution `(C,)` from patch probabilities `(N, C)`, N at least 1.

    The geometric mean over patches, normalised: the mean, not the sum, of log-probabilities,
    because neighbouring patches are no independent witnesses.

    >>> pooled_probabilities([[0.9, 0.1], [0.9, 0.1]]).round(3).tolist()
    [0.9, 0.1]
    """
    logs = np.log(np.clip(np.asarray(probabilities, np.float64), SMALLEST_PROBABILITY, 1.0))
    mean = logs.mean(axis=0)
    pooled = np.exp(mean - mean.max())
    return np.asarray(pooled / pooled.sum())


def verdict_from_patches(probabilities: npt.ArrayLike, labels: Sequence[str]) -> Verdict:
    """The verdict from patch probabilities `(N, C)` for the classes `labels`.

    >>> verdict_from_patches([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]], ["jpeg", "bpg"]).label
    'jpeg'

    Raises:
        VerdictError: No patch, or not one column a label.
    """
    array = np.asarray(probabilities, np.float64)
    if array.ndim != 2 or len(array) == 0 or array.shape[1] != len(labels):
        raise VerdictError(
            f"Patch probabilities must be (patches, {len(labels)}) with at least one patch. "
            f"Received: shape={array.shape}"
        )
    pooled = pooled_probabilities(array)
    best = int(pooled.argmax())
    return Verdict(
        label=labels[best],
        probabilities={name: float(p) for name, p in zip(labels, pooled, strict=True)},
        patches=len(array),
        agreement=float(np.mean(array.argmax(axis=1) == best)),
    )


def classify_image(
    image: npt.NDArray[np.uint8],
    predict: Predict,
    labels: Sequence[str],
    patch_size: int,
    *,
    max_patches: int = 256,
) -> Verdict:
    """The verdict on a decoded picture, from patches spread evenly over it.

    Args:
        image: `uint8`, `(H, W)` or `(H, W, 3)` RGB.
        predict: Patches `uint8` `(N, P, P, 3)` to probabilities `(N, C)`, such as `Run.predict`.
        labels: The classes, in the order of the probabilities.
        patch_size: P, in pixels.
        max_patches: Most patches that are cut, at least 1.

    Raises:
        VerdictError: The picture is smaller than one patch, or is no `uint8` picture.
    """
    fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if not fits or image.dtype != np.uint8:
        raise VerdictError(
            "A picture must be uint8 of shape (H, W) or (H, W, 3). "
            f"Received: dtype={image.dtype}, shape={image.shape}"
        )
    rows, columns = patch_offsets(image.shape[0], image.shape[1], patch_size, max_patches)
    patches = np.stack(
        [image[y : y + patch_size, x : x + patch_size] for y in rows for x in columns]
    )
    if patches.ndim == 3:  # the network was trained on gray pictures with three equal channels
        patches = np.repeat(patches[..., np.newaxis], 3, axis=-1)
    return verdict_from_patches(predict(patches), labels)


def patch_offsets(
    height: int, width: int, patch_size: int, max_patches: int = 256
) -> tuple[list[int], list[int]]:
    """Tops and lefts of a grid of patches that do not overlap, spread from edge to edge.

    >>> patch_offsets(100, 300, 64)
    ([18], [0, 78, 157, 236])

    Raises:
        VerdictError: The picture is smaller than one patch.
    """
    if max_patches < 1:
        raise VerdictError(f"max_patches must be at least 1. Received: {max_patches}")
    if height < patch_size or width < patch_size:
        raise VerdictError(
            f"Not enough pixels: a verdict needs at least {patch_size}×{patch_size}. "
            f"Received: {width}×{height}"
        )
    rows, columns = _count(height, patch_size), _count(width, patch_size)
    if rows * columns > max_patches:
        shrink = math.sqrt(max_patches / (rows * columns))
        rows = min(max(1, int(rows * shrink)), max_patches)
        columns = min(columns, max_patches // rows)
        rows = min(_count(height, patch_size), max_patches // columns)
    return _spread(height - patch_size, rows), _spread(width - patch_size, columns)


def _count(length: int, patch_size: int) -> int:
    """Patches that fit side by side; one less if they would all start at the same block phase."""
    count, slack = divmod(length, patch_size)
    # Sides are often multiples of the patch size. Without any slack every patch would see the
    # codec's 8×8 grid at one phase; with eight pixels to share out, the phases vary.
    return count - 1 if slack < 8 and count > 3 else count


def _spread(last: int, count: int) -> list[int]:
    """`count` offsets from 0 to `last`, evenly; the middle for a single one."""
    if count == 1:
        return [last // 2]
    return [int(offset) for offset in np.linspace(0, last, count)]


def as_json(verdict: Verdict) -> dict[str, Any]:
    """The verdict as a JSON-ready dict."""
    return {
        "label": verdict.label,
        "probabilities": dict(verdict.probabilities),
        "patches": verdict.patches,
        "agreement": verdict.agreement,
    }
