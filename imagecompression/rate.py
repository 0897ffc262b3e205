"""Rate control: the knob value at which a codec meets a compression ratio or an SSIM.

One search serves every codec. It walks the codec's `Knob` grid, ordered from small files to large
ones, by interpolation inside a shrinking bracket, and returns the very bytes that were measured.
It takes size and fidelity to rise along the knob; where a codec breaks this by a little, a result
can be the neighbour of the best one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from imagecompression.codec import Codec, CodecError, Extras, Image, Knob, check_image
from imagecompression.metrics import compression_ratio, ssim

MAX_ENCODES = 24
"""Bound on the encodes of one search; the widest grid needs 15 by bisection alone."""


class Target(Protocol):
    """What an encoded picture should measure.

    `coordinate` maps a measured value to an axis that rises with file size and on which codecs
    are smooth; the search interpolates there.
    """

    @property
    def value(self) -> float: ...
    @property
    def kind(self) -> str: ...
    def measure(self, probe: Probe) -> float: ...
    def coordinate(self, measured: float) -> float: ...
    def tolerance(self, codec: Codec) -> float: ...


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
        return compression_ratio(probe.image, len(probe.data))

    def coordinate(self, measured: float) -> float:
        return -math.log(measured)

    def tolerance(self, codec: Codec) -> float:
        relative = self.relative_tolerance
        return self.value * (codec.ratio_tolerance if relative is None else relative)


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

    def tolerance(self, codec: Codec) -> float:
        absolute = self.absolute_tolerance
        return codec.ssim_tolerance if absolute is None else absolute


@dataclass
class Probe:
    """One encode at one knob value: its bytes, and measures made of them when asked."""

    image: Image
    codec: Codec
    data: bytes
    _decoded: Image | None = field(default=None, repr=False)
    _ssim: float | None = None

    def decoded(self) -> Image:
        """The decoded picture, same shape as the source."""
        if self._decoded is None:
            self._decoded = self.codec.decode(self.data)
        return self._decoded

    def ssim(self) -> float:
        """SSIM of the decoded picture against the source."""
        if self._ssim is None:
            self._ssim = ssim(self.image, self.decoded())
            self._decoded = None  # a search holds many probes; a decode is cheap to repeat
        return self._ssim


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
    """

    data: bytes
    codec: Codec
    target: Target
    measured: float
    encodes: int
    reached: bool
    reason: str


class RateSearch:
    """Searches for one picture and codec; all targets share the encodes already made.

    Attributes:
        image: The source, see `imagecompression.codec.Image`.
        codec: Every parameter but the knob's is taken from it.
        extras: What goes into each file beside the image; its bytes count.
    """

    def __init__(self, image: Image, codec: Codec, extras: Extras | None = None) -> None:
        self.image = check_image(image)
        self.codec = codec
        self.extras = Extras() if extras is None else extras
        self._probes: dict[int, Probe] = {}

    def probe(self, index: int) -> Probe:
        """The encode at knob grid position `index`, made once."""
        if index not in self._probes:
            codec = self.codec
            if codec.knob is not None:
                codec = codec.with_knob(codec.knob.value(index))
            self._probes[index] = Probe(
                self.image, codec, codec.encode_with(self.image, self.extras)
            )
        return self._probes[index]

    def to(self, target: Target) -> Encoded:
        """Find the knob value whose file measures nearest to `target`.

        Raises:
            CodecError: The codec cannot encode this picture at all.
        """
        before = len(self._probes)
        knob = self.codec.knob
        if knob is None:
            index = 0
            reason = f"{self.codec.name} is lossless: it has no knob to turn"
        else:
            index, reason = self._search(target)
        best = self.probe(index)
        measured = target.measure(best)
        reached = abs(measured - target.value) <= target.tolerance(self.codec)
        return Encoded(
            data=best.data,
            codec=best.codec,
            target=target,
            measured=measured,
            encodes=len(self._probes) - before,
            reached=reached,
            reason="" if reached else reason,
        )

    def _search(self, target: Target) -> tuple[int, str]:
        """Grid index nearest to the target, and what limits the search if that is not near."""
        knob = self.codec.knob
        assert knob is not None
        last = knob.last_index
        goal = target.coordinate(target.value)
        tolerance = target.tolerance(self.codec)
        known: dict[int, float] = {}

        def visit(index: int) -> None:
            known[index] = target.measure(self.probe(index))

        # Ratios of earlier encodes cost nothing; their SSIM would need a decode each.
        for index, probe in self._probes.items():
            if target.kind == "ratio" or probe._ssim is not None:
                known[index] = target.measure(probe)
        if not known:
            visit(knob.index_at((knob.coordinate(0) + knob.coordinate(last)) / 2))
        sides: list[int] = []
        while True:
            best = min(known, key=lambda i: (abs(target.coordinate(known[i]) - goal), i))
            if abs(known[best] - target.value) <= tolerance or len(sides) >= MAX_ENCODES:
                return best, f"{target.kind} {target.value:g} not met in {len(sides)} encodes"
            below = [i for i in known if target.coordinate(known[i]) <= goal]
            above = [i for i in known if target.coordinate(known[i]) > goal]
            low = max(below, default=None)
            high = min((i for i in above if low is None or i > low), default=None)
            if low is None and min(known) == 0:
                return best, self._bound(target, 0, known[0], "smallest")
            if high is None and low == last:
                return best, self._bound(target, last, known[last], "largest")
            if low is not None and high is not None and high - low <= 1:
                return best, self._step(target, low, high, known)
            index = self._next(knob, target, goal, known, low, high, sides)
            visit(index)
            sides.append(1 if target.coordinate(known[index]) > goal else -1)

    def _next(
        self,
        knob: Knob,
        target: Target,
        goal: float,
        known: dict[int, float],
        low: int | None,
        high: int | None,
        sides: list[int],
    ) -> int:
        """The grid index to try next: interpolated, or halfway where interpolation stalls."""
        first = -1 if low is None else low
        end = knob.last_index + 1 if high is None else high
        points = sorted(known)
        if low is not None and high is not None:
            pair = (low, high)
        elif len(points) >= 2:
            pair = (points[0], points[1]) if low is None else (points[-2], points[-1])
        else:
            pair = (points[0], points[0])
        (x_0, x_1) = (knob.coordinate(i) for i in pair)
        (y_0, y_1) = (target.coordinate(known[i]) for i in pair)
        stalled = len(sides) >= 3 and len(set(sides[-3:])) == 1
        if y_1 > y_0 and not stalled:
            index = knob.index_at(x_0 + (goal - y_0) * (x_1 - x_0) / (y_1 - y_0))
        else:
            edges = (max(first, 0), min(end, knob.last_index))
            index = knob.index_at(sum(knob.coordinate(i) for i in edges) / 2)
        return min(max(index, first + 1), end - 1)

    def _bound(self, target: Target, index: int, measured: float, noun: str) -> str:
        knob = self.codec.knob
        assert knob is not None
        return (
            f"{target.kind} {target.value:g} is out of reach: the {noun} file "
            f"({knob.field}={knob.value(index):g}) has {target.kind} {measured:.4g}"
        )

    def _step(self, target: Target, low: int, high: int, known: dict[int, float]) -> str:
        knob = self.codec.knob
        assert knob is not None
        return (
            f"{target.kind} {target.value:g} falls between two steps of {knob.field}: "
            f"{knob.value(low):g} gives {known[low]:.4g}, {knob.value(high):g} gives "
            f"{known[high]:.4g}"
        )


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
