"""Rate control: the knob value at which a codec meets a compression ratio or an SSIM.

One search serves every codec. It walks the codec's `Knob` grid, ordered from small files to large
ones, inside a shrinking bracket, each time to where `imagecompression.rate_model` expects the
target by all that was measured so far, and returns the very bytes that were measured. It takes
size and fidelity to rise along the knob; where a codec breaks this by a little, a result can be
the neighbour of the best one.

Decisions depend on the picture, the codec, the targets and their order alone: a search that is
saved by `RateSearch.probes` and restored goes on as if it had never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from imagecompression.codec import Codec, CodecError, Extras, Image, Knob, check_image
from imagecompression.metrics import Reference, compression_ratio
from imagecompression.rate_model import Curve, CurvePrediction, Seen, Vector

MAX_ENCODES = 24
"""Bound on the encodes of one search; the widest grid needs 15 by bisection alone."""

RATIO_AIM, SSIM_AIM = 0.02, 0.003
"""How near a search tries to come where the target sets no tolerance: relative, and absolute."""

_MODEL_STEPS = 5
_OPEN_STEPS = 2
_FINE_STEPS = 3
_POINTS = 33
_CERTAIN = 3.0
_MODELLED_SAMPLES = 64 * 64
_DROP_ERROR = 0.35


class Target(Protocol):
    """What an encoded picture should measure.

    `kind` is one of `imagecompression.rate_model.KINDS`; `coordinate` maps a measured value to that
    curve's axis, which rises with file size, and `measured` maps it back. A result within
    `tolerance` counts as reached; the search stops early only within `aim`, which is at most that.
    """

    @property
    def value(self) -> float: ...
    @property
    def kind(self) -> str: ...
    def measure(self, probe: Probe) -> float: ...
    def coordinate(self, measured: float) -> float: ...
    def measured(self, coordinate: float) -> float: ...
    def tolerance(self, codec: Codec) -> float: ...
    def aim(self, codec: Codec) -> float: ...


@dataclass(frozen=True)
class RatioTarget:
    """A compression ratio: uncompressed bytes ÷ encoded bytes, so 20 means 20:1.

    Attributes:
        value: At least 1.
        relative_tolerance: Allowed error as a fraction of `value`; None takes the codec's own.
    """

    value: float
    relative_tolerance: float | None = None
    kind: ClassVar[str] = "ratio"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value >= 1.0):
            raise CodecError(f"A ratio target must be at least 1. Received: {self.value}")

    def measure(self, probe: Probe) -> float:
        return probe.ratio()

    def coordinate(self, measured: float) -> float:
        return -math.log(measured)

    def measured(self, coordinate: float) -> float:
        return math.exp(-coordinate)

    def tolerance(self, codec: Codec) -> float:
        relative = self.relative_tolerance
        return self.value * (codec.ratio_tolerance if relative is None else relative)

    def aim(self, codec: Codec) -> float:
        if self.relative_tolerance is not None:
            return self.tolerance(codec)
        return self.value * min(RATIO_AIM, codec.ratio_tolerance)


@dataclass(frozen=True)
class SsimTarget:
    """A structural similarity to the source, measured on the decoded file.

    Attributes:
        value: Above 0 and below 1.
        absolute_tolerance: Allowed error; None takes the codec's own.
    """

    value: float
    absolute_tolerance: float | None = None
    kind: ClassVar[str] = "ssim"

    def __post_init__(self) -> None:
        if not 0.0 < self.value < 1.0:
            raise CodecError(f"An SSIM target lies between 0 and 1. Received: {self.value}")

    def measure(self, probe: Probe) -> float:
        return probe.ssim()

    def coordinate(self, measured: float) -> float:
        return -math.log(max(1.0 - measured, 1e-9))

    def measured(self, coordinate: float) -> float:
        return 1.0 - math.exp(-coordinate)

    def tolerance(self, codec: Codec) -> float:
        absolute = self.absolute_tolerance
        return codec.ssim_tolerance if absolute is None else absolute

    def aim(self, codec: Codec) -> float:
        if self.absolute_tolerance is not None:
            return self.absolute_tolerance
        return min(SSIM_AIM, codec.ssim_tolerance)


@dataclass(eq=False)
class Probe:
    """One encode of a search. Its bytes may be missing after `RateSearch` was restored.

    Attributes:
        search: The search that made it.
        index: Grid index of the knob.
        fine: Grid index of the fine knob; 0 where the codec has none.
        file_bytes: Size of the file.
    """

    search: RateSearch = field(repr=False)
    index: int
    fine: int
    file_bytes: int
    _data: bytes | None = field(default=None, repr=False)
    _ssim: float | None = None
    _measures: dict[str, float] | None = field(default=None, repr=False)

    @property
    def codec(self) -> Codec:
        return self.search.codec_at(self.index, self.fine)

    def data(self) -> bytes:
        """The file."""
        if self._data is None:
            self._data = self.codec.encode_with(self.search.image, self.search.extras)
        return self._data

    def ratio(self) -> float:
        return compression_ratio(self.search.image, self.file_bytes)

    def ssim(self) -> float:
        """SSIM of the decoded picture against the source."""
        # All measures at once: they share the costly maps, and most probes are delivered.
        return self.measures()["ssim"] if self._ssim is None else self._ssim

    def measures(self) -> dict[str, float]:
        """What `imagecompression.metrics.measure` says of the file; do not modify."""
        if self._measures is None:
            decoded = self.search.decoded(self)
            self._measures = self.search.reference.measure(decoded, self.file_bytes)
            self._ssim = self._measures["ssim"]
        return self._measures


@dataclass(frozen=True)
class Encoded:
    """The outcome of a search.

    Attributes:
        data: The encoded file: the very bytes that were measured.
        codec: The codec with the knob that made them.
        target: What was asked.
        measured: What `data` measures, in the target's unit.
        encodes: Encodes made for this target; probes shared with earlier targets are free.
        reached: Whether `measured` is within the target's tolerance.
        reason: Empty when reached; otherwise why not, with the bound or the step that was hit.
        probe: Where the search keeps what it measured of `data`.
    """

    data: bytes
    codec: Codec
    target: Target
    measured: float
    encodes: int
    reached: bool
    reason: str
    probe: Probe = field(repr=False, compare=False)

    def decoded(self) -> Image:
        """The decoded file, as the search saw it; not to be modified."""
        return self.probe.search.decoded(self.probe)

    def measures(self) -> dict[str, float]:
        """All measures of `data`, see `imagecompression.metrics.measure`."""
        return dict(self.probe.measures())


class RateSearch:
    """Searches for one picture and codec; all targets share the encodes already made.

    Holds the files of its probes and at most one decoded picture.

    Attributes:
        image: The source, see `imagecompression.codec.Image`.
        codec: Every parameter but the knobs' is taken from it.
        extras: What goes into each file beside the image; its bytes count.
        reference: The source, ready for measuring.
    """

    def __init__(
        self,
        image: Image,
        codec: Codec,
        extras: Extras | None = None,
        probes: Iterable[dict[str, Any]] = (),
    ) -> None:
        """Start a search, or go on with one whose `probes()` were saved."""
        self.image = check_image(image)
        self.codec = codec
        self.extras = Extras() if extras is None else extras
        self.reference = Reference(self.image)
        self._decoded: tuple[Probe, Image] | None = None
        self._prediction: CurvePrediction | None = None
        self._probes: dict[tuple[int, int], Probe] = {}
        for saved in probes:
            key = (saved["index"], saved["fine"])
            self._probes[key] = Probe(self, *key, saved["bytes"], _ssim=saved["ssim"])

    def probes(self) -> list[dict[str, Any]]:
        """What was measured so far, for JSON; `RateSearch(image, codec, probes=…)` goes on."""
        return [
            {"index": one.index, "fine": one.fine, "bytes": one.file_bytes, "ssim": one._ssim}
            for one in self._probes.values()
        ]

    def to(self, target: Target) -> Encoded:
        """Find the knob value whose file measures nearest to `target`.

        Raises:
            CodecError: The codec cannot encode this picture at all.
        """
        before = len(self._probes)
        if self.codec.knob is None:
            best, reason = self.probe(0), f"{self.codec.name} is lossless: it has no knob to turn"
        else:
            best, reason = _Approach(self, target).run()
        measured = target.measure(best)
        reached = abs(measured - target.value) <= target.tolerance(self.codec)
        return Encoded(
            data=best.data(),
            codec=best.codec,
            target=target,
            measured=measured,
            encodes=len(self._probes) - before,
            reached=reached,
            reason="" if reached else reason,
            probe=best,
        )

    def probe(self, index: int, fine: int | None = None) -> Probe:
        """The encode at grid positions of the knob and the fine knob (None: neutral), made once."""
        key = (index, self.neutral if fine is None else fine)
        if key not in self._probes:
            data = self.codec_at(*key).encode_with(self.image, self.extras)
            self._probes[key] = Probe(self, *key, len(data), data)
        return self._probes[key]

    def made(self) -> list[Probe]:
        """All probes, in the order in which they were made."""
        return list(self._probes.values())

    @property
    def neutral(self) -> int:
        """Grid index at which the fine knob does nothing."""
        return 0 if self.codec.fine_knob is None else self.codec.fine_knob.last_index

    @property
    def prediction(self) -> CurvePrediction:
        """What the model makes of the picture; its features are computed when first needed."""
        if self._prediction is None:
            self._prediction = CurvePrediction(self.image, self.codec)
        return self._prediction

    def codec_at(self, index: int, fine: int) -> Codec:
        codec = self.codec
        if codec.knob is not None:
            codec = codec.with_knob(codec.knob.value(index))
        if codec.fine_knob is not None:
            codec = codec.with_fine_knob(codec.fine_knob.value(fine))
        return codec

    def decoded(self, probe: Probe) -> Image:
        """The decoded picture of a probe; the last one is kept."""
        if self._decoded is None or self._decoded[0] is not probe:
            self._decoded = (probe, self.codec.decode(probe.data()))
        return self._decoded[1]


class _Approach:
    """The search for one target among the probes of a `RateSearch`, and for more of them."""

    def __init__(self, search: RateSearch, target: Target) -> None:
        knob = search.codec.knob
        assert knob is not None
        self.knob: Knob = knob
        self.search = search
        self.target = target
        self.goal = target.coordinate(target.value)
        self.encodes = 0
        self.fine_encodes = 0

    def run(self) -> tuple[Probe, str]:
        """The nearest probe, and what limits the search if that is not near."""
        target, codec, last = self.target, self.search.codec, self.knob.last_index
        while True:
            known = self._known()
            best, error = self._best()
            if best is not None and error <= target.aim(codec):
                return best, ""
            low = max((i for i in known if known[i] <= self.goal), default=None)
            above = [i for i in known if known[i] > self.goal and (low is None or i > low)]
            high = min(above, default=None)
            if best is not None:
                if self.encodes >= MAX_ENCODES:
                    return best, f"{target.kind} {target.value:g} not met in {self.encodes} encodes"
                if low is None and 0 in known:
                    return best, self._bound(0, "smallest")
                if high is None and low == last:
                    return best, self._bound(last, "largest")
                if self._refine(0 if low is None else low, last if high is None else high):
                    continue
                if low is not None and high is not None and high - low <= 1:
                    return best, self._step(low, high)
                steps = self._around(best)
                if error > target.tolerance(codec) and self._certain(best, *steps):
                    return best, self._step(*steps)
            first, end = (0 if low is None else low + 1), (last if high is None else high - 1)
            index, expected = self._expected(first, end)
            if best is not None and error <= target.tolerance(codec):
                own = abs(self._coordinate(best) - self.goal)
                if abs(expected - self.goal) >= own or self.encodes >= _MODEL_STEPS:
                    return best, ""
            if low is None and self.encodes >= _OPEN_STEPS:
                index = 0  # the target may well be out of reach
            elif high is None and self.encodes >= _OPEN_STEPS:
                index = last
            elif self.encodes >= _MODEL_STEPS:  # the model does not fit this picture
                middle = (self.knob.coordinate(first) + self.knob.coordinate(end)) / 2
                index = min(max(self.knob.index_at(middle), first), end)
            self._visit(index, self.search.neutral)

    def _visit(self, index: int, fine: int) -> None:
        self.search.probe(index, fine)
        self.encodes += 1

    def _coordinate(self, probe: Probe) -> float:
        return self.target.coordinate(self.target.measure(probe))

    def _best(self) -> tuple[Probe | None, float]:
        """The probe nearest to the target on the curve's axis, and its error in the target's."""
        nearest = min(
            self.search.made(),
            key=lambda probe: (abs(self._coordinate(probe) - self.goal), probe.index, -probe.fine),
            default=None,
        )
        if nearest is None:
            return None, math.inf
        return nearest, abs(self.target.measure(nearest) - self.target.value)

    def _known(self) -> dict[int, float]:
        """The curve where it was measured with the fine knob at rest."""
        rest = self.search.neutral
        return {p.index: self._coordinate(p) for p in self.search.made() if p.fine == rest}

    def _curve(self) -> Curve:
        """The curve at grid indexes as the model expects it."""
        prediction, rest = self.search.prediction, self.search.neutral
        seen = []
        for probe in self.search.made():
            fraction = probe.fine / rest if rest else 1.0
            measured = {"ratio": -math.log(probe.ratio())}
            if self.target.kind == "ssim":
                # A search for ratios must not depend on whether anyone asked for SSIM.
                measured["ssim"] = self._coordinate(probe)
            for kind, value in measured.items():
                drop = prediction.drop(kind, probe.index, fraction)
                seen.append(Seen(kind, probe.index, value + drop, _DROP_ERROR * drop))
        return prediction.curve(self.target.kind, seen)

    def _expected(self, first: int, end: int) -> tuple[int, float]:
        """The index from `first` to `end` where the curve should be nearest to the target."""
        curve = self._curve()
        while True:
            low, high = self.knob.coordinate(first), self.knob.coordinate(end)
            spread = (self.knob.index_at(float(x)) for x in np.linspace(low, high, _POINTS))
            indexes = sorted({first, *spread, end})
            values, _ = curve(indexes)
            at = int(np.argmin(np.abs(values - self.goal)))
            first, end = indexes[max(at - 1, 0)], indexes[min(at + 1, len(indexes) - 1)]
            if end - first <= 2:
                values, _ = curve(range(first, end + 1))
                at = int(np.argmin(np.abs(values - self.goal)))
                return first + at, float(values[at])

    def _refine(self, low: int, high: int) -> bool:
        """Turn the fine knob where the target should fall between two steps of the knob.

        Returns:
            Whether an encode was made.
        """
        fine_knob, rest = self.search.codec.fine_knob, self.search.neutral
        if fine_knob is None or self.fine_encodes >= _FINE_STEPS:
            return False
        known, (index, expected) = self._known(), self._expected(low, high)
        expected = known.get(index, expected)
        if index not in known and abs(expected - self.goal) <= self._span(
            self.target.aim(self.search.codec)
        ):
            return False
        upper = index if expected > self.goal else index + 1
        if not max(low, 1) <= upper <= high:
            return False
        level = known[upper] if upper in known else float(self._curve()([upper])[0][0])
        drop = self.search.prediction.drop
        fractions = np.arange(rest + 1) / rest
        curve = level - np.array([drop(self.target.kind, upper, float(f)) for f in fractions])
        own = {p.fine: p for p in self.search.made() if p.index == upper}
        turned = sorted(own)
        if turned:
            errors = [self._coordinate(own[fine]) - float(curve[fine]) for fine in turned]
            curve += _through(turned, errors, rest)
        fine = int(np.argmin(np.abs(curve - self.goal)))
        if fine in own:
            return False
        self._visit(upper, fine)
        self.fine_encodes += 1
        return True

    def _span(self, error: float) -> float:
        """An error in the target's unit on the curve's axis."""
        axis, value = self.target.coordinate, self.target.value
        ends = (axis(value + signed) for signed in (-error, error) if value + signed > 0)
        return min(abs(end - self.goal) for end in ends)

    def _around(self, best: Probe) -> tuple[int, int]:
        """The two steps of the knob between which the target lies, going by the nearest probe."""
        smaller = best.fine != self.search.neutral or self._coordinate(best) > self.goal
        return (best.index - 1, best.index) if smaller else (best.index, best.index + 1)

    def _certain(self, best: Probe, low: int, high: int) -> bool:
        """Whether both steps are all but certain to miss the target, and by more than `best`."""
        if low < 0 or high > self.knob.last_index:
            return False
        if self.search.image.size < _MODELLED_SAMPLES:
            return False
        own = abs(self._coordinate(best) - self.goal)
        least = max(own, self._span(self.target.tolerance(self.search.codec)))
        values, deviations = self._curve()([low, high])
        known = self._known()
        for index, sign, value, deviation in zip(
            (low, high), (-1, 1), values, deviations, strict=True
        ):
            if index in known:
                sure = sign * (known[index] - self.goal) >= least
            else:
                sure = sign * (value - self.goal) - _CERTAIN * deviation > least
            if not sure:
                return False
        return True

    def _bound(self, index: int, noun: str) -> str:
        target = self.target
        return (
            f"{target.kind} {target.value:g} is out of reach: the {noun} file "
            f"({self.knob.field}={self.knob.value(index):g}) has {target.kind} "
            f"{target.measure(self.search.probe(index)):.4g}"
        )

    def _step(self, low: int, high: int) -> str:
        known, target = self._known(), self.target
        gives = []
        for index in (low, high):
            if index in known:
                value = f"gives {target.measure(self.search.probe(index)):.4g}"
            else:
                value = f"should give {target.measured(float(self._curve()([index])[0][0])):.3g}"
            gives.append(f"{self.knob.value(index):g} {value}")
        return (
            f"{target.kind} {target.value:g} falls between two steps of {self.knob.field}: "
            + ", ".join(gives)
        )


def _through(positions: list[int], values: list[float], last: int) -> Vector:
    """The polygon through some points over 0 … `last`, its outer edges prolonged."""
    if len(positions) > 1:
        (x_0, x_1), (y_0, y_1) = positions[:2], values[:2]
        first = y_0 - (y_1 - y_0) / (x_1 - x_0) * (x_0 + 1)
        (x_0, x_1), (y_0, y_1) = positions[-2:], values[-2:]
        end = y_1 + (y_1 - y_0) / (x_1 - x_0) * (last + 1 - x_1)
        positions, values = [-1, *positions, last + 1], [first, *values, end]
    return np.interp(np.arange(last + 1), positions, values)


def search_order(targets: Sequence[Target]) -> list[int]:
    """Indexes of `targets` in the order in which they cost the fewest encodes for one picture.

    Ratios first, as their encodes tell SSIM too. Of each kind the middle one first, then the ends,
    then those between.
    """
    order: list[int] = []
    for kind in ("ratio", "ssim"):
        own = sorted(
            (i for i, target in enumerate(targets) if target.kind == kind),
            key=lambda i: (targets[i].value, i),
        )
        if own:
            order += [own[len(own) // 2], own[0], own[-1], *own]
    order += range(len(targets))
    return list(dict.fromkeys(order))


def encode_to_target(image: Image, codec: Codec, target: Target) -> Encoded:
    """Encode `image` with the knob value that brings it nearest to `target`.

    For several targets of one picture keep a `RateSearch` and call `to` for each: they share
    encodes.

    >>> import numpy as np
    >>> from imagecompression.jpeg import Jpeg
    >>> noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    >>> encode_to_target(noise, Jpeg(), RatioTarget(6)).reached
    True

    Raises:
        CodecError: The image is outside the contract or the codec cannot encode it.
        CodecUnavailableError: The codec's library is missing.
    """
    return RateSearch(image, codec).to(target)
