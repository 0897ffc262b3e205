"""The verdict on one picture: which codec its patches speak for, and how strongly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from imagecompression.errors import ImageCompressionError
from train.families import family_probabilities

if TYPE_CHECKING:
    from train.calibration import Calibration
    from train.decisive_signs import DecisiveSign

SMALLEST_PROBABILITY = 1e-7
"""Lower bound of a patch's probability, so that one mistaken patch cannot veto a class."""

MOST_ASKED = 64
"""Most patches of a picture that the network is asked about, as in its calibration
(`train.validation`): what it mistakes is mostly the picture, not the patch, so that more of them
would cost time and tell little."""

FLAT_RANGE = 1.0
"""Largest spread of luma within 3×3 pixels, in gray levels, that counts as flat."""

FLAT_SHARE = 0.95
"""Share of flat pixels above which a patch carries no trace of any codec."""

DRAWN_SHARE = 0.5
"""Share of pixels of one and the same colour from which on a patch was drawn, as text is."""

DRAWN_COLOURS = 16
"""Fewest colours of a drawn patch. Of small palettes (k-means), patches with so large a share of
one colour mostly have fewer than 9; letters with smooth edges have dozens."""

Status = Literal["named", "unknown", "not enough evidence"]


class VerdictError(ImageCompressionError):
    """A picture that no verdict can be given on."""


@dataclass(frozen=True)
class Verdict:
    """What the patches of one picture say together.

    Attributes:
        label: The most probable class; None where there is not enough evidence. Where the status is
            "unknown" it is the class that comes nearest, and no answer.
        probabilities: Probability of every class; they sum to 1. Equal ones without evidence.
        patches: Number of patches that were asked.
        agreement: Share of patches whose own most probable class is `label`, 0 to 1.
        family: The most probable family of `train.families`; None without evidence. It may be
            another than that of `label`, where a family's classes share its probability.
        family_probability: Sum of the probabilities of its classes; 0 without evidence.
        log10_likelihood_ratio: For `label` against all other classes in equal parts, bounded by
            the number of validation pictures; None if not calibrated, or without evidence.
        calibrated: Whether the probabilities are calibrated; else they are the network's own.
        known: False if no class explains the picture.
        status: "named", "unknown" (not `known`) or "not enough evidence".
        left_out: Patches that carry no trace, see `traceless_patches`, and were not asked.
        reason: Why the status is not "named", or what sign in the pixels took the network's answer
            back; else empty.
        network_label: The network's own most probable class, where a sign took it back; else None.
        judged: What of the picture the verdict is of, a part or the picture before an enlargement;
            empty where it is of the picture as it is.
    """

    label: str | None
    probabilities: dict[str, float]
    patches: int
    agreement: float
    family: str | None = None
    family_probability: float = 0.0
    log10_likelihood_ratio: float | None = None
    calibrated: bool = False
    known: bool = True
    status: Status = "named"
    left_out: int = 0
    reason: str = ""
    network_label: str | None = None
    judged: str = ""

    @property
    def probability(self) -> float:
        """Probability of `label`; 0 without evidence."""
        return 0.0 if self.label is None else self.probabilities[self.label]

    @property
    def answer(self) -> str:
        """`label` if it is an answer, else the status: what to show to a reader."""
        return self.label if self.status == "named" and self.label is not None else self.status


def mean_log_probabilities(probabilities: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Mean over patches `(C,)` of the natural logarithms of `(N, C)`, N at least 1."""
    logs = np.log(np.clip(np.asarray(probabilities, np.float64), SMALLEST_PROBABILITY, 1.0))
    return np.asarray(logs.mean(axis=0))


def pooled_probabilities(probabilities: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """One distribution `(C,)` from patch probabilities `(N, C)`, N at least 1.

    The geometric mean over patches, normalised: the mean, not the sum, of log-probabilities,
    because neighbouring patches are no independent witnesses.

    >>> pooled_probabilities([[0.9, 0.1], [0.9, 0.1]]).round(3).tolist()
    [0.9, 0.1]
    """
    mean = mean_log_probabilities(probabilities)
    pooled = np.exp(mean - mean.max())
    return np.asarray(pooled / pooled.sum())


def verdict_from_patches(
    probabilities: npt.ArrayLike,
    labels: Sequence[str],
    *,
    calibration: Calibration | None = None,
    unknown: str = "",
    left_out: int = 0,
    sign: DecisiveSign | None = None,
) -> Verdict:
    """The verdict from patch probabilities `(N, C)` for the classes `labels`.

    >>> verdict_from_patches([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]], ["jpeg", "bpg"]).label
    'jpeg'

    Args:
        probabilities: Of the patches that carry a trace.
        labels: The C classes.
        calibration: Makes calibrated probabilities and likelihood ratios of them.
        unknown: Why no class explains the picture, if none does.
        left_out: Number of patches without a trace; where there are no others, the verdict is that
            there is not enough evidence.
        sign: What the whole picture shows; rules classes out.

    Raises:
        VerdictError: No patch at all, or not one column a label.
    """
    array = np.asarray(probabilities, np.float64)
    fits = array.ndim == 2 and array.shape[1] == len(labels) and len(array) + left_out > 0
    if not fits:
        raise VerdictError(
            f"Patch probabilities must be (patches, {len(labels)}) with at least one patch. "
            f"Received: shape={array.shape}"
        )
    if len(array) == 0:
        return Verdict(
            label=None,
            probabilities=dict.fromkeys(labels, 1 / len(labels)),
            patches=0,
            agreement=0.0,
            status="not enough evidence",
            left_out=left_out,
            reason=f"all {left_out} patches are flat or drawn: no codec's trace is in them",
        )
    if calibration is None:
        pooled = pooled_probabilities(array)
    else:
        pooled = calibration.image_probabilities(array)
    said = int(pooled.argmax())
    if sign is not None:
        pooled = sign.applied(pooled, labels)
    best = int(pooled.argmax())
    if sign is not None and sign.is_foreign_to(labels, labels[best]):
        unknown = f"{sign.reason} That is none of the classes that this run knows."
    reason = unknown
    if sign is not None and best != said and not unknown:
        reason = f"The network alone says {labels[said]}. {sign.reason}"
    ratio = None
    if calibration is not None:
        ratio = calibration.log10_likelihood_ratio(pooled, labels[best])
    families, sums = family_probabilities(pooled, labels)
    return Verdict(
        label=labels[best],
        probabilities={name: float(p) for name, p in zip(labels, pooled, strict=True)},
        patches=len(array),
        agreement=float(np.mean(array.argmax(axis=1) == best)),
        family=families[int(sums.argmax())],
        family_probability=float(sums.max()),
        log10_likelihood_ratio=ratio,
        calibrated=calibration is not None,
        known=not unknown,
        status="unknown" if unknown else "named",
        left_out=left_out,
        reason=reason,
        network_label=None if best == said else labels[said],
    )


def telling_patches(
    image: npt.NDArray[np.uint8], patch_size: int, max_patches: int = 256
) -> tuple[npt.NDArray[np.uint8], int]:
    """Patches `(N, P, P, 3)` spread over a picture, and how many without a trace were left out.

    Of more than `MOST_ASKED` with a trace that many are drawn, always the same ones.

    Args:
        image: `uint8`, `(H, W)` or `(H, W, 3)` RGB.
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
    traceless = traceless_patches(patches)
    telling = np.flatnonzero(~traceless)
    if len(telling) > MOST_ASKED:
        # At random: every fourth of a grid could be one column of the picture.
        drawn = np.random.default_rng(0).choice(telling, MOST_ASKED, replace=False)
        telling = np.sort(drawn)
    return patches[telling], int(traceless.sum())


def traceless_patches(patches: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which patches `(N, P, P, 3)`, P at least 3, carry no trace of any codec: `(N,)`.

    Flat is a patch in which luma (BT.601) spreads by at most `FLAT_RANGE` within 3×3 pixels around
    more than `FLAT_SHARE` of its pixels, such as blown-out sky: every codec keeps it as it is.
    Drawn is one with a background of exactly one colour, such as text in a screenshot: no codec
    has seen it, or none that kept the picture beside it.
    """
    # One at a time: all in floats would need gigabytes.
    return np.array([_is_flat(patch) or _is_drawn(patch) for patch in patches], np.bool_)


def _is_flat(patch: npt.NDArray[np.uint8]) -> bool:
    luma = patch.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    high = low = luma
    for axis in (0, 1):
        around = [np.take(high, range(k, high.shape[axis] - 2 + k), axis) for k in range(3)]
        below = [np.take(low, range(k, low.shape[axis] - 2 + k), axis) for k in range(3)]
        high, low = np.maximum.reduce(around), np.minimum.reduce(below)
    return bool(np.mean(high - low <= FLAT_RANGE + 1e-3) > FLAT_SHARE)


def _is_drawn(patch: npt.NDArray[np.uint8]) -> bool:
    colours = (patch.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)).ravel()
    ordered = np.sort(colours)
    middle = ordered[len(ordered) // 2]  # the colour of half of the pixels, if there is one
    share = np.searchsorted(ordered, middle, "right") - np.searchsorted(ordered, middle)
    if share < DRAWN_SHARE * len(ordered):
        return False
    return bool(1 + np.count_nonzero(np.diff(ordered)) >= DRAWN_COLOURS)


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
    """The verdict as a JSON-ready dict: its fields, and as "verdict" what to show to a reader."""
    return {"verdict": verdict.answer, **dataclasses.asdict(verdict)}
