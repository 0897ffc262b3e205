"""The plan of a build: sources × codecs × settings × targets × histories, with a seed for each.

A plan follows from the sources and a `BuildConfig` alone. What a task draws (a codec setting, a
target, the steps of a history) is seeded by the dataset's seed, the source's pixels and the name of
what is drawn, so tasks may run anywhere and in any order, and sources, codecs and targets may be
added without changing what was there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets.histories import HISTORIES, LABEL_RULES, History, LabelRule
from datasets.seeds import derive_seed, generator
from datasets.sources import Source
from imagecompression import CODECS, CodecError, RatioTarget, SsimTarget
from imagecompression.errors import ImageCompressionError
from imagecompression.rate import search_order

MAX_PATCHES_PER_CLASS = 100_000
MAX_RANDOM_TARGETS = 1000
MAX_SETTINGS = 100


class BuildError(ImageCompressionError):
    """The build cannot start: no usable source, bad settings, or a folder with another dataset."""


@dataclass(frozen=True)
class BuildConfig:
    """What makes a dataset, apart from its sources.

    Two designs of targets can stand side by side: a grid (`ratios`, `ssims`), each value moved a
    little for each sample, and random draws (`random_ratios`, `random_ssims`).

    Attributes:
        codecs: Names from `CODECS`; the class labels, in this order.
        ratios: Compression ratio targets, 20 means 20:1.
        ssims: SSIM targets.
        patch_size: Side of the square patches in pixels.
        patches_per_class: Patches for each source and class, spread over the class's files; 0 cuts
            none.
        seed: Fixes splits, codec settings, targets, histories and patch positions.
        settings_per_source: Encoder settings drawn for each source and codec, 1 to 100; the targets
            are dealt out among them. More settings bring few sources more variety, and cost
            encodes, because targets share them only within a setting. Where a history changes
            pictures before the encode, each setting has its own draw of that, and a lossless codec
            gives a sample for each.
        target_spread: Each grid target is multiplied (a ratio, or the distance of an SSIM from 1)
            by a log-uniform factor between 1 ÷ (1 + spread) and 1 + spread, the same for all
            codecs of a source, so that how exactly a codec meets a target does not tell the codec;
            0 to 1. ``benchmarks/audit.py`` shows why 0.1.
        target_tolerance: Error at which a search stops, as a fraction of a ratio or of the distance
            of an SSIM from 1, up to 1; None asks for the best that each codec can. Training sets
            with random targets do well with 0.1, at little more than one encode a target.
        random_ratios: Number of further ratio targets, log-uniform in `ratio_range`.
        ratio_range: Least and greatest random ratio.
        random_ssims: Number of further SSIM targets, uniform in `ssim_range`.
        ssim_range: Least and greatest random SSIM.
        histories: What happens to a picture before and after the encode; every sample is made with
            each of them.
        label_rule: Which codec of a chain of several gives the label, ``last`` or ``first``.
    """

    codecs: tuple[str, ...] = tuple(CODECS)
    ratios: tuple[float, ...] = (5.0, 10.0, 20.0, 40.0)
    ssims: tuple[float, ...] = (0.8, 0.9, 0.95)
    patch_size: int = 64
    patches_per_class: int = 42
    seed: int = 0
    settings_per_source: int = 1
    target_spread: float = 0.1
    target_tolerance: float | None = None
    random_ratios: int = 0
    ratio_range: tuple[float, float] = (4.0, 60.0)
    random_ssims: int = 0
    ssim_range: tuple[float, float] = (0.75, 0.98)
    histories: tuple[History, ...] = (HISTORIES["single"],)
    label_rule: LabelRule = "last"

    def __post_init__(self) -> None:
        unknown = [name for name in self.codecs if name not in CODECS]
        if unknown or not self.codecs:
            raise BuildError(
                f"Codecs must be among {', '.join(CODECS)}. "
                f"Received: {', '.join(unknown) or 'none'}"
            )
        names = tuple(history.name for history in self.histories)
        for noun, values in (
            ("codecs", self.codecs),
            ("ratios", self.ratios),
            ("ssims", self.ssims),
            ("histories", names),
        ):
            # Sample names carry targets as they print, so these must differ as well.
            if len({v if isinstance(v, str) else f"{v:g}" for v in values}) < len(values):
                raise BuildError(f"{noun} has a value twice. Received: {values}")
        if not self.histories:
            raise BuildError(f"Give at least one history among {', '.join(HISTORIES)}.")
        if self.label_rule not in LABEL_RULES:
            raise BuildError(
                f"label_rule must be {' or '.join(LABEL_RULES)}. Received: {self.label_rule}"
            )
        self._check_numbers()
        try:
            for ratio in (*self.ratios, *self.ratio_range):
                RatioTarget(ratio)
            for ssim in (*self.ssims, *self.ssim_range):
                SsimTarget(ssim)
        except CodecError as error:
            raise BuildError(str(error)) from error
        lossy = any(CODECS[name].knob is not None for name in self.codecs)
        if lossy and self.targets_per_source == 0:
            raise BuildError("Give at least one ratio or SSIM target.")

    def _check_numbers(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "patch_size": (16, 1024),
            "patches_per_class": (0, MAX_PATCHES_PER_CLASS),
            "settings_per_source": (1, MAX_SETTINGS),
            "random_ratios": (0, MAX_RANDOM_TARGETS),
            "random_ssims": (0, MAX_RANDOM_TARGETS),
            "target_spread": (0, 1),
            "seed": (0, 2**32 - 1),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise BuildError(f"{name} must be {low} to {high}. Received: {value}")
        tolerance = self.target_tolerance
        if tolerance is not None and not 0 < tolerance <= 1:
            raise BuildError(f"target_tolerance must be above 0, up to 1. Received: {tolerance}")
        for name in ("ratio_range", "ssim_range"):
            low, high = getattr(self, name)
            if not low <= high:
                raise BuildError(f"{name} must rise. Received: {low:g} {high:g}")

    @property
    def targets_per_source(self) -> int:
        """Number of targets of each source and lossy codec."""
        return len(self.ratios) + len(self.ssims) + self.random_ratios + self.random_ssims

    def to_json(self) -> dict[str, Any]:
        """The settings as they come back from JSON."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        content["histories"] = [history.to_json() for history in self.histories]
        return dict(json.loads(json.dumps(content)))


@dataclass(frozen=True)
class Goal:
    """What one sample is driven to.

    Attributes:
        name: Unique within its source and codec, such as ``ratio20`` or ``ssim-random3``.
        nominal: The grid's value; None for a random draw or without a target.
        target: None for a lossless codec.
    """

    name: str
    nominal: float | None
    target: RatioTarget | SsimTarget | None

    @property
    def kind(self) -> str:
        return "none" if self.target is None else self.target.kind


@dataclass(frozen=True)
class Task:
    """One source, one codec setting, and what happens before the encode: the unit of work.

    Its goals share one search. It may be run anywhere and any number of times.

    Attributes:
        source: The picture.
        split: See `datasets.splits`.
        codec: Name from `CODECS`.
        params: The codec's setting; the knob is the search's.
        goals: In the order in which the search takes them.
        histories: They share their steps before the encode.
        label_rule: See `BuildConfig`.
        seed: The dataset's.
        setting: Number of the setting, from 0.
    """

    source: Source
    split: str
    codec: str
    params: dict[str, Any]
    goals: tuple[Goal, ...]
    histories: tuple[History, ...]
    label_rule: LabelRule
    seed: int
    setting: int

    @property
    def task_id(self) -> str:
        """Fixed by all that decides the task's rows, the source's split included."""
        source = self.source
        facts: list[Any] = [source.pixel_sha256, source.sha256, source.file, self.split]
        facts += [source.group, source.origin, self.codec, self.params, self.seed, self.setting]
        facts += [
            [goal.name, goal.target and dataclasses.astuple(goal.target)] for goal in self.goals
        ]
        facts += [[history.to_json() for history in self.histories], self.label_rule]
        facts += [CODECS[self.codec].version()]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]

    def sample_id(self, goal: Goal, history: History) -> str:
        """Name of a sample, unique in the dataset."""
        suffix = "" if history.name == "single" else f"_{history.name}"
        return f"{self.source.source_id}_{self.codec}_{goal.name}{suffix}"

    def sample_seed(self, goal: Goal, history: History) -> int:
        """Seed of what is drawn for one sample alone."""
        return derive_seed(self.seed, self.source.pixel_sha256, self.codec, goal.name, history.name)


def beginning_of(history: History) -> str:
    """The steps before the encode, as JSON."""
    return json.dumps(history.to_json()["before"], sort_keys=True)


def plan(
    sources: Sequence[Source], splits: Mapping[str, str], config: BuildConfig
) -> Iterator[Task]:
    """Every task of a build, source by source.

    Args:
        sources: Accepted pictures.
        splits: Split of each group.
        config: See `BuildConfig`.
    """
    for source in sources:
        for codec in config.codecs:
            yield from _tasks(source, splits[source.group], codec, config)


def _tasks(source: Source, split: str, codec: str, config: BuildConfig) -> Iterator[Task]:
    """The tasks of one source and codec."""
    lossy = CODECS[codec].knob is not None
    goals = _goals(source, config) if lossy else _unaimed_goals(config)
    count = min(config.settings_per_source, len(goals))
    variants = CODECS[codec].variants()
    by_beginning: dict[str, list[History]] = {}
    for history in config.histories:
        by_beginning.setdefault(beginning_of(history), []).append(history)
    for setting in range(count):
        dealt = goals[setting::count]
        drawn = derive_seed(config.seed, source.pixel_sha256, codec, f"setting{setting}")
        order = search_order([goal.target for goal in dealt if goal.target is not None])
        for histories in by_beginning.values():
            if not lossy and setting and not histories[0].before:
                continue  # the same picture again
            yield Task(
                source=source,
                split=split,
                codec=codec,
                params=variants[drawn % len(variants)].params(),
                goals=tuple(dealt[place] for place in order) if lossy else tuple(dealt),
                histories=tuple(histories),
                label_rule=config.label_rule,
                seed=config.seed,
                setting=setting,
            )


def _unaimed_goals(config: BuildConfig) -> list[Goal]:
    """Those of a lossless codec: one for each setting, because each prepares another picture."""
    count = min(config.settings_per_source, max(1, config.targets_per_source))
    return [Goal(f"none{number or ''}", None, None) for number in range(count)]


def _goals(source: Source, config: BuildConfig) -> list[Goal]:
    """The goals of one source and each lossy codec, in the order in which settings are dealt out.

    Drawn without the codec's name: where a codec meets only the easier ones, the audit can compare
    the sources at which all met theirs.
    """

    def drawn(name: str, low: float, high: float) -> float:
        return float(generator(config.seed, source.pixel_sha256, name).uniform(low, high))

    def ratio_target(value: float) -> RatioTarget:
        return RatioTarget(max(1.0, _rounded(value)), config.target_tolerance)

    def ssim_target(value: float) -> SsimTarget:
        share = config.target_tolerance
        return SsimTarget(_rounded(value), None if share is None else _rounded(share * (1 - value)))

    reach = math.log1p(config.target_spread)
    goals = []
    for value in config.ratios:
        factor = math.exp(drawn(f"ratio{value:g}", -reach, reach))
        goals.append(Goal(f"ratio{value:g}", value, ratio_target(value * factor)))
    for value in config.ssims:
        factor = math.exp(drawn(f"ssim{value:g}", -reach, reach))
        distance = min((1.0 - value) * factor, 0.999)
        goals.append(Goal(f"ssim{value:g}", value, ssim_target(1.0 - distance)))
    for number in range(1, config.random_ratios + 1):
        name = f"ratio-random{number}"
        low, high = (math.log(end) for end in config.ratio_range)
        goals.append(Goal(name, None, ratio_target(math.exp(drawn(name, low, high)))))
    for number in range(1, config.random_ssims + 1):
        name = f"ssim-random{number}"
        goals.append(Goal(name, None, ssim_target(drawn(name, *config.ssim_range))))
    return goals


def _rounded(value: float) -> float:
    """Six significant digits: enough for any target, and short in tables."""
    return float(f"{value:.6g}")


def samples_per_source(config: BuildConfig) -> int:
    """Number of samples that each source gives."""
    lossy = sum(CODECS[name].knob is not None for name in config.codecs)
    unaimed = sum(len(_unaimed_goals(config)) if h.before else 1 for h in config.histories)
    aimed = config.targets_per_source * len(config.histories)
    return lossy * aimed + (len(config.codecs) - lossy) * unaimed
