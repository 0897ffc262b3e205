"""What a codec's files will measure along its knob, before and between the encodes of a search.

Each codec has two curves for a picture over the grid of its `Knob`: the logarithm of the file's
bytes for each pixel, and −log(1 − SSIM). `CurvePrediction` takes them to be the codec's reference
curves plus a Gaussian deviation, whose mean is linear in cheap features of the picture and in the
codec's setting, and whose covariance has a few principal components and a local part. What has
been measured conditions it (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006,
section 2.2), so one encode tells most of both curves.

The numbers in ``rate_models.json`` were fitted by ``benchmarks/rate_models.py`` on photographs. A
codec without an entry, or with an unknown setting, starts from a vaguer guess and needs more
encodes; nothing else changes.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from imagecompression.codec import Codec, Image, Knob

KINDS = ("ratio", "ssim")
"""The two curves, by the kind of target that they serve."""

LOCAL_RANGE = 0.5
"""Distance along the reference's log size at which local deviations have mostly died out."""

_FEATURE_PIXELS = 2**17
_NOISE_PIXELS = 256 * 256  # of the pictures by which the noise was measured
_LEAST_STEP = 1e-3
_BANDS = (6, 12, 24, 48, 96)
_STABILITY = 58.5 * 2  # of SSIM's second constant, twice: variances are sums of two pictures'

Curve = Callable[[Sequence[int]], tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]
"""Means and standard deviations at grid indexes of the knob."""

Integers = npt.NDArray[np.int_]
Vector = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float64]


def picture_features(image: Image) -> Vector:
    """Numbers that tell how hard a picture is to code, `(FEATURES,)`; some milliseconds.

    All but the last steps are in integers, so that every machine finds the same. For quantiser
    steps of `_BANDS`, over 8×8 Walsh–Hadamard blocks of the luma: the mean bits of a coefficient,
    their logarithm, and the error that SSIM would see; the same bits for the two colour
    differences; for palettes, the entropy of luma and of colour histograms and how often
    neighbours differ in luma's first bits; then the logarithm of the number of pixels, their part
    at the border, and 1 for gray.
    """
    height, width = image.shape[:2]
    gray = image.ndim == 2
    samples = _sampled(image).astype(np.int32)
    red, green, blue = (samples if gray else samples[:, :, channel] for channel in range(3))
    luma = (77 * red + 150 * green + 29 * blue) >> 8
    blocks = _transformed(luma)
    squares = np.square(blocks)
    energies = squares.sum(axis=0) / 64.0
    bits, errors = [], []
    for band in _BANDS:
        bits.append(_mean_bits(blocks, band))
        noise = np.minimum(squares, band * band).sum(axis=0) / 64.0
        errors.append(math.log(float(np.mean(noise / (2 * energies + _STABILITY))) + 1e-4))
    colour_bits = [0.0, 0.0]
    if not gray:
        differences = (_transformed(each) for each in ((blue - green) >> 1, (red - green) >> 1))
        chroma = np.concatenate(list(differences), axis=1)
        colour_bits = [_mean_bits(chroma, band) for band in _BANDS[1:4:2]]
    colours = ((red >> 4) << 8) + ((green >> 4) << 4) + (blue >> 4)
    entropies = [_entropy(luma >> 2), _entropy(colours)]
    changes = [_changes(luma >> shift) for shift in (6, 4)]
    border = math.log1p(256.0 * (1 / height + 1 / width))
    size = [math.log(height * width), border, float(gray)]
    rates = [math.log(each + 1e-3) for each in bits]
    return np.array([*bits, *rates, *errors, *colour_bits, *entropies, *changes, *size])


def _sampled(image: Image) -> Image:
    """Evenly spread strips of 8 rows with some `_FEATURE_PIXELS` pixels in all."""
    height, width = image.shape[:2]
    every = height * width // _FEATURE_PIXELS
    if every < 2 or height < 16 * every:
        return image
    strips = image[: height // 8 * 8].reshape(height // 8, 8, *image.shape[1:])
    return strips[every // 2 :: every].reshape(-1, *image.shape[1:])


FEATURES = 3 * len(_BANDS) + 9


def _entropy(values: npt.NDArray[np.int32]) -> float:
    """Bits a value of the histogram's entropy."""
    counts = [int(count) for count in np.bincount(values.ravel()) if count]
    return math.log2(values.size) - sum(count * math.log2(count) for count in counts) / values.size


def _changes(values: npt.NDArray[np.int32]) -> float:
    """Log of the part of pixels that differ from their left neighbour."""
    return math.log(np.count_nonzero(values[:, 1:] != values[:, :-1]) / values.size + 1e-3)


def _transformed(plane: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Walsh–Hadamard coefficients without the mean, `(63, blocks)`, of orthonormal scale."""
    missing = [-side % 8 for side in plane.shape]
    if any(missing):
        plane = np.pad(plane, [(0, gap) for gap in missing], mode="edge")
    height, width = plane.shape
    blocks = plane.reshape(height // 8, 8, width // 8, 8).transpose(1, 3, 0, 2)
    values = np.ascontiguousarray(blocks).reshape(64, -1)
    for stride in (1, 2, 4, 8, 16, 32):
        pairs = values.reshape(64 // (2 * stride), 2, stride, -1)
        values = np.stack((pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]), axis=1)
        values = values.reshape(64, -1)
    return values[1:] >> 3


def _mean_bits(blocks: npt.NDArray[np.int32], step: int) -> float:
    """Mean over all coefficients of log2(1 + levels) after quantisation by `step`."""
    counts = np.bincount(np.minimum(np.abs(blocks) // step, 255).ravel())
    total = sum(int(count) * math.log2(1 + level) for level, count in enumerate(counts) if level)
    return total / max(blocks.size, 1)


def setting_names(codec: Codec) -> list[str]:
    """``field=value`` for each parameter but the knobs."""
    knobs = {knob.field for knob in (codec.knob, codec.fine_knob) if knob is not None}
    return [f"{field}={value}" for field, value in codec.params().items() if field not in knobs]


@dataclass(frozen=True, eq=False)
class CurveModel:
    """The numbers of one codec. Curves are in the order of `KINDS`.

    Attributes:
        coordinates: Where on the knob's axis (`Knob.coordinate`) the reference is, rising, `(N,)`.
        reference: The mean curves there, `(2, N)`.
        knots: Log sizes of the reference at which deviations are given, `(K,)`.
        mean: Deviation of a mean picture in the usual setting, `(2, K)`.
        centre: Features of that picture, `(FEATURES,)`.
        by_feature: Change of the deviation with each feature, `(FEATURES, 2, K)`.
        by_setting: Change for each setting that differs from the usual one, `(2, K)` by name.
        components: Principal components of what is left, `(R, 2, K)`.
        local: Standard deviation of the curves' local parts at the knots, `(2, K)`.
        noise: That of a single encode for each curve, `(2,)`.
    """

    coordinates: Vector
    reference: Matrix
    knots: Vector
    mean: Matrix
    centre: Vector
    by_feature: Matrix
    by_setting: dict[str, Matrix]
    components: Matrix
    local: Matrix
    noise: Vector

    @classmethod
    def of(cls, codec: Codec) -> CurveModel:
        """The model of a codec with a knob."""
        entry = _entries().get(codec.name)
        assert codec.knob is not None
        return _vague(codec.knob) if entry is None else cls.from_json(entry)

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> CurveModel:
        settings = {name: np.array(each) for name, each in entry["by_setting"].items()}
        names = (field.name for field in dataclasses.fields(cls) if field.name != "by_setting")
        return cls(by_setting=settings, **{name: np.array(entry[name], float) for name in names})


@dataclass(frozen=True)
class Seen:
    """A measured point of a curve: its kind, the knob's grid index, its value and its error."""

    kind: str
    index: int
    value: float
    error: float = 0.0


class CurvePrediction:
    """The curves of one picture and codec, as they can be told from what has been measured.

    Curve values are those of `RatioTarget.coordinate` and `SsimTarget.coordinate`. All arithmetic
    is elementwise or in a fixed order, so that every machine takes the same decisions.
    """

    def __init__(self, image: Image, codec: Codec, model: CurveModel | None = None) -> None:
        assert codec.knob is not None
        self._knob = codec.knob
        self._model = CurveModel.of(codec) if model is None else model
        model = self._model
        # The steps' own noise averages out in large pictures.
        pixels = image.shape[0] * image.shape[1]
        self._noise = model.noise * min(1.0, math.sqrt(_NOISE_PIXELS / pixels))
        self._offset = {"ratio": math.log(3 if image.ndim == 3 else 1), "ssim": 0.0}
        self._positions = np.maximum.accumulate(model.reference[0])
        self._deviation = model.mean.copy()
        if model.by_feature.any():
            for difference, change in zip(
                picture_features(image) - model.centre, model.by_feature, strict=True
            ):
                self._deviation += difference * change
        for name in setting_names(codec):
            if name in model.by_setting:
                self._deviation += model.by_setting[name]

    def curve(self, kind: str, seen: Sequence[Seen]) -> Curve:
        """Curve `kind` (an entry of `KINDS`) given measured values, as a function of indexes."""
        number = KINDS.index(kind)
        curves = np.array([KINDS.index(one.kind) for one in seen], int)
        known = self._prior(curves, [one.index for one in seen])
        system = _covariance(known, known)
        for i, one in enumerate(seen):
            system[i, i] += self._noise[curves[i]] ** 2 + one.error**2 + 1e-9
        inverse = _inverse(system)
        weights = np.zeros(len(seen))
        for row, one, mean in zip(inverse, seen, known.mean, strict=True):
            weights += row * (one.value + self._offset[one.kind] - mean)

        def values(indexes: Sequence[int]) -> tuple[Vector, Vector]:
            points = self._prior(np.full(len(indexes), number), indexes)
            shared = _covariance(known, points)
            mean = points.mean
            variance = np.square(points.basis).sum(axis=0) + np.square(points.local)
            for weight, row, one in zip(weights, inverse, shared, strict=True):
                mean = mean + weight * one
                variance = variance - one * (row[:, None] * shared).sum(axis=0)
            return mean - self._offset[kind], np.sqrt(np.maximum(variance, 0.0))

        return values

    def drop(self, kind: str, index: int) -> float:
        """How far curve `kind` falls at `index` where the fine knob is turned to its small end."""
        if index == 0:
            return 0.0
        mean = self._prior(np.full(2, KINDS.index(kind)), [index - 1, index]).mean
        return max(float(mean[1] - mean[0]), _LEAST_STEP)

    def _prior(self, curves: Integers, indexes: Sequence[int]) -> _Points:
        """What the model says of some points before anything was seen."""
        model, knots = self._model, self._model.knots
        coordinates = np.array([self._knob.coordinate(index) for index in indexes])
        position = np.interp(coordinates, model.coordinates, self._positions)
        means = np.array([np.interp(coordinates, model.coordinates, c) for c in model.reference])
        left = np.clip(np.searchsorted(knots, position) - 1, 0, len(knots) - 2)
        right = left + 1
        part = np.clip((position - knots[left]) / (knots[right] - knots[left]), 0.0, 1.0)

        def between(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            """Values at the knots, `(…, 2, K)`, at the points."""
            result = values[..., curves, left] * (1 - part) + values[..., curves, right] * part
            return np.asarray(result)

        return _Points(
            curves=curves,
            position=position,
            mean=means[curves, np.arange(len(indexes))] + between(self._deviation),
            basis=between(model.components),
            local=between(model.local),
        )


@dataclass(frozen=True, eq=False)
class _Points:
    """Some points of curves: which curve, where on the reference's log size, and their prior."""

    curves: Integers
    position: Vector
    mean: Vector
    basis: Matrix
    local: Vector


def _covariance(first: _Points, second: _Points) -> Matrix:
    """Prior covariance of points with other points, `(first, second)`."""
    shared = np.zeros((len(first.mean), len(second.mean)))
    for one, other in zip(first.basis, second.basis, strict=True):
        shared += one[:, None] * other
    near = _nearness(first.position[:, None] - second.position)
    near *= first.curves[:, None] == second.curves
    return shared + near * first.local[:, None] * second.local


def _inverse(matrix: Matrix) -> Matrix:
    """Inverse of a positive definite matrix by Gauss and Jordan."""
    size = len(matrix)
    system = np.concatenate([matrix, np.eye(size)], axis=1)
    for i in range(size):
        system[i] /= system[i, i]
        column = system[:, i].copy()
        column[i] = 0.0
        system -= column[:, None] * system[i]
    return system[:, size:]


def _nearness(distance: Vector) -> Vector:
    """Correlation of local deviations at a distance: Wendland's function of smoothness 2."""
    r = np.minimum(np.abs(distance) / LOCAL_RANGE, 1.0)
    return np.square(np.square(1 - r)) * (4 * r + 1)


def _vague(knob: Knob) -> CurveModel:
    """What can be said of a codec that was never fitted: lines of unknown height and slope."""
    knots = np.linspace(-4.0, 1.0, 6)
    slope = np.linspace(-1.0, 1.0, 6)
    zero = np.zeros(6)
    return CurveModel(
        coordinates=np.array([knob.coordinate(0), knob.coordinate(knob.last_index)]),
        reference=np.array([[-4.0, 1.0], [1.0, 5.0]]),
        knots=knots,
        mean=np.zeros((2, 6)),
        centre=np.zeros(FEATURES),
        by_feature=np.zeros((FEATURES, 2, 6)),
        by_setting={},
        components=np.array([[zero + 1.5, zero], [slope, zero], [zero, zero + 1.0], [zero, slope]]),
        local=np.full((2, 6), 0.3),
        noise=np.array([0.003, 0.003]),
    )


@functools.cache
def _entries() -> dict[str, dict[str, Any]]:
    """The fitted numbers by codec name."""
    path = resources.files("imagecompression") / "rate_models.json"
    entries: dict[str, dict[str, Any]] = json.loads(path.read_text())
    return entries
