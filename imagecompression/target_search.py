"""The search for one target: which encodes to make, and when to stop.

`imagecompression.rate.RateSearch` keeps the encodes of a picture and a codec; a `TargetSearch` asks
it for more until one is near its target or it is clear why none can be.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from imagecompression.codec import Knob
from imagecompression.rate_model import Curve, Seen, Vector

if TYPE_CHECKING:
    from imagecompression.rate import Probe, RateSearch, Target

MAX_ENCODES = 24
"""Bound on the encodes of one search; the widest grid needs 15 by bisection alone."""

_MODEL_STEPS = 5
_FINE_STEPS = 4
_DRAFTS = 5
_POINTS = 33
_CERTAIN = 3.0
_MODELLED_SAMPLES = 64 * 64
_DROP_ERROR = 0.35
_DRAFT_ERROR, _DRAFT_NOISE, _DRAFT_DRIFT = 0.05, 0.03, 0.06


class TargetSearch:
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
        self.drafts = 0
        self.misses: list[float] = []
        self._last_curve: tuple[tuple[int, int], Curve] | None = None

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
            if self._drafted(known, low, high):
                continue
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
            if not self._draft(index):
                self._visit(self._chosen(index, first, end, low, high), self.search.neutral)

    def _chosen(self, index: int, first: int, end: int, low: int | None, high: int | None) -> int:
        """The index to try: the model's, unless something else is known to be better."""
        knob, value = self.knob, self.target.value
        if knob.field == self.target.kind and self.encodes == 0:
            # Such an encoder takes the target itself.
            position = math.log(value) if knob.logarithmic else value
            index = knob.index_at(position if knob.rises_with_size else -position)
        elif (low is None or high is None) and self._stuck():
            index = 0 if low is None else knob.last_index  # the target may be out of reach
        elif self.encodes >= _MODEL_STEPS:  # the model does not fit this picture
            index = knob.index_at((knob.coordinate(first) + knob.coordinate(end)) / 2)
        return min(max(index, first), end)

    def _draft(self, index: int) -> bool:
        """Draft the encode at `index`, unless that is done, impossible or was done often enough."""
        search = self.search
        if index in search.drafts or self.drafts >= _DRAFTS:
            return False
        if self.target.kind == "ssim" and any(told[1] is None for told in search.drafts.values()):
            return False
        self.drafts += 1
        return search.draft(index)

    def _drafted(self, known: dict[int, float], low: int | None, high: int | None) -> bool:
        """Make the encode that a draft says will do, or that nothing can be nearer than."""
        nearest = min(known, key=lambda i: (abs(known[i] - self.goal), i), default=None)
        made = {probe.index for probe in self.search.made()}
        if nearest is None or nearest in made:
            return False
        near = abs(known[nearest] - self.goal) <= self._span(self.target.aim(self.search.codec))
        closed = low is not None and high is not None and high - low <= 1
        bound = (low is None and 0 in known) or (high is None and low == self.knob.last_index)
        if near or closed or bound or self.drafts >= _DRAFTS:
            self._visit(nearest, self.search.neutral)
            return True
        return False

    def _stuck(self) -> bool:
        """Whether the last encode came not much nearer than the one before."""
        return len(self.misses) >= 2 and self.misses[-1] > self.misses[-2] / 2

    def _visit(self, index: int, fine: int) -> None:
        probe = self.search.probe(index, fine)
        self.encodes += 1
        self.misses.append(abs(self._coordinate(probe) - self.goal))

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
        """The curve where it was measured with the fine knob at rest; a draft's SSIM is true."""
        rest = self.search.neutral
        known = {p.index: self._coordinate(p) for p in self.search.made() if p.fine == rest}
        if self.target.kind == "ssim":
            for index, (_, similarity) in self.search.drafts.items():
                if similarity is not None:
                    known.setdefault(index, self.target.coordinate(similarity))
        return known

    def _curve(self) -> Curve:
        """The curve at grid indexes as the model expects it."""
        state = (len(self.search.made()), len(self.search.drafts))
        if self._last_curve is None or self._last_curve[0] != state:
            seen = self._seen()
            self._last_curve = state, self.search.prediction.curve(self.target.kind, seen)
        return self._last_curve[1]

    def _seen(self) -> list[Seen]:
        """What probes and drafts tell of the curves."""
        search, prediction, rest = self.search, self.search.prediction, self.search.neutral
        ssim = self.target.kind == "ssim"  # ratios must not depend on whether SSIM was asked for
        seen = []
        for probe in search.made():
            measured = {"ratio": -math.log(probe.ratio())}
            if ssim:
                measured["ssim"] = self._coordinate(probe)
            for kind, value in measured.items():
                turned = 0.0 if probe.fine == rest else 1 - probe.fine / rest
                drop = turned * prediction.drop(kind, probe.index) if turned else 0.0
                seen.append(Seen(kind, probe.index, value + drop, _DROP_ERROR * drop))
        sizes = {probe.index: probe.file_bytes for probe in search.made() if probe.fine == rest}
        both = [index for index in search.drafts if index in sizes]
        for index, (file_bytes, similarity) in search.drafts.items():
            if index in sizes:
                continue
            size, error = math.log(file_bytes / search.image.size), _DRAFT_ERROR
            if both:  # drafts of files of like size are off by much the same
                away = {i: abs(math.log(search.drafts[i][0] / file_bytes)) for i in both}
                other = min(both, key=lambda i: (away[i], i))
                size += math.log(sizes[other] / search.drafts[other][0])
                error = min(_DRAFT_ERROR, _DRAFT_NOISE + _DRAFT_DRIFT * away[other])
            seen.append(Seen("ratio", index, size, error))
            if ssim and similarity is not None:
                seen.append(Seen("ssim", index, self.target.coordinate(similarity)))
        return seen

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
        drop = self.search.prediction.drop(self.target.kind, upper)
        curve = level - drop * (1 - np.arange(rest + 1) / rest)
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
            f"{target.measured(self._known()[index]):.4g}"
        )

    def _step(self, low: int, high: int) -> str:
        known, target = self._known(), self.target
        gives = []
        for index in (low, high):
            if index in known:
                value = f"gives {target.measured(known[index]):.4g}"
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
