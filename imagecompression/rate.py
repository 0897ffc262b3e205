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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from imagecompression.codec import Codec, CodecError, Extras, Image, check_image
from imagecompression.draft import Drafting
from imagecompression.metrics import Reference, compression_ratio
from imagecompression.rate_model import CurvePrediction
from imagecompression.target_search import TargetSearch

RATIO_AIM, SSIM_AIM = 0.02, 0.003
"""How near a search tries to come where the target sets no tolerance: relative, and absolute."""


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
        drafts: Estimated file bytes and true SSIM, if known, by grid index, of what was drafted.
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
        self._last_draft: tuple[int, Callable[[], bytes]] | None = None
        self.drafts: dict[int, tuple[int, float | None]] = {}
        for saved in probes:
            key = (saved["index"], saved["fine"])
            if saved["draft"]:
                self.drafts[saved["index"]] = (saved["bytes"], saved["ssim"])
            else:
                self._probes[key] = Probe(self, *key, saved["bytes"], _ssim=saved["ssim"])

    def probes(self) -> list[dict[str, Any]]:
        """What was measured so far, for JSON; `RateSearch(image, codec, probes=…)` goes on."""
        made = [(p.index, p.fine, p.file_bytes, p._ssim, False) for p in self._probes.values()]
        drafted = [(at, self.neutral, *told, True) for at, told in self.drafts.items()]
        names = ("index", "fine", "bytes", "ssim", "draft")
        return [dict(zip(names, values, strict=True)) for values in made + drafted]

    def to(self, target: Target) -> Encoded:
        """Find the knob value whose file measures nearest to `target`.

        Raises:
            CodecError: The codec cannot encode this picture at all.
        """
        before = len(self._probes)
        if self.codec.knob is None:
            best, reason = self.probe(0), f"{self.codec.name} is lossless: it has no knob to turn"
        else:
            best, reason = TargetSearch(self, target).run()
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
            if self._last_draft is not None and key == (self._last_draft[0], self.neutral):
                data = self._last_draft[1]()
            else:
                data = self.codec_at(*key).encode_with(self.image, self.extras)
            self._probes[key] = Probe(self, *key, len(data), data)
        return self._probes[key]

    def draft(self, index: int) -> bool:
        """Put into `drafts` what the encode at `index` will be; False where that cannot be told."""
        codec = self.codec_at(index, self.neutral)
        draft = None
        if isinstance(codec, Drafting) and not self.extras.held():
            draft = codec.draft(self.image)
        if draft is None:
            return False
        decoded = draft.decoded
        similarity = None if decoded is None else self.reference.ssim(decoded)
        self.drafts[index] = (draft.file_bytes, similarity)
        self._last_draft = (index, draft.finish)
        return True

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
