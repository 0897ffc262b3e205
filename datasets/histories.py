"""Histories: what happens to a picture before and after the encode that names its class.

A history is a list of steps (`datasets.operations`) around the one encode that a dataset build
drives to its target. A new history is one entry in `HISTORIES`, or an object in a JSON file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datasets.camera import Demosaic
from datasets.chroma import COSITED, MATRICES, ChromaPath
from datasets.decoders import Decode
from datasets.operations import (
    LOSSY,
    Blur,
    Compress,
    Crop,
    Denoise,
    DisplayScale,
    Noise,
    OneOf,
    Resize,
    SavePng,
    Sharpen,
    Window,
    step_from_json,
)
from datasets.step import HistoryError, Step
from datasets.tone import Contrast, Gamma, Saturation
from imagecompression import CODECS, Image
from imagecompression.lossless import Lossless

LabelRule = Literal["last", "first"]
LABEL_RULES: tuple[LabelRule, ...] = ("last", "first")
"""Which of a chain's lossy codecs names its class."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True)
class Finished:
    """A picture at the end of its history, as it is stored.

    Attributes:
        image: Decoded pixels of `data`.
        steps: What was done after the labelled encode, JSON-ready.
        container: Name in `CODECS` of the codec that reads `data`.
        data: A complete file.
    """

    image: Image
    steps: list[dict[str, Any]]
    container: str
    data: bytes


@dataclass(frozen=True)
class History:
    """Steps before and after the labelled encode.

    Attributes:
        name: Lower-case letters, digits and hyphens, at most 40; part of sample names.
        before: Steps on the source's pixels.
        after: Steps on the decoded pixels.
    """

    name: str
    before: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise HistoryError(
                "A history's name is 1 to 40 lower-case letters, digits and hyphens. "
                f"Received: {self.name!r}"
            )
        if any(isinstance(step, Decode) for step in (*self.before, *self.after[1:])):
            raise HistoryError(
                f"History {self.name!r}: the step {Decode.kind} decodes the labelled file; it can "
                "only be the first after it."
            )

    @property
    def recompresses(self) -> bool:
        """Whether a lossy codec follows the labelled one: then the rule *last* takes its name."""
        return any(_compresses(step) for step in self.after)

    def prepare(self, image: Image, rng: np.random.Generator) -> tuple[Image, list[dict[str, Any]]]:
        """The picture to encode, and what was done to `image` for it.

        Args:
            image: The source, `uint8` `(H, W)` or `(H, W, 3)`; not modified.
            rng: Fixes all draws. Give every class an equal generator, so that pictures of
                different classes have equal sizes.

        Raises:
            HistoryError, CodecError: See `Compress.encode`.
        """
        return _applied(self.before, image, rng)

    def finish(
        self, data: bytes, container: str, image: Image, rng: np.random.Generator
    ) -> Finished:
        """What is stored of the labelled encode.

        Without steps after it that is its own file. Where the last step compresses, it is that
        step's file. Else the pixels are kept as PNG.

        Args:
            data: The labelled encode's file.
            container: Its codec's name.
            image: `data` decoded; not modified.
            rng: As for `prepare`.

        Raises:
            HistoryError, CodecError: See `Compress.encode`.
        """
        if not self.after:
            return Finished(image, [], container, data)
        *steps, last = self.after
        done = []
        if isinstance(self.after[0], Decode):
            image, record = self.after[0].decode(data, container, image, rng)
            done, steps = [record], steps[1:]
            if not self.after[1:]:
                return Finished(image, done, Lossless.name, Lossless().encode(image))
        image, others = _applied(steps, image, rng)
        done += others
        if isinstance(last, Compress):
            data, record = last.encode(image, rng)
            container = record["codec"]
            return Finished(CODECS[container].decode(data), [*done, record], container, data)
        image, others = _applied([last], image, rng)
        return Finished(image, [*done, *others], Lossless.name, Lossless().encode(image))

    def to_json(self) -> dict[str, Any]:
        """The history as a JSON-ready dict; `history_from_json` is the inverse."""
        return {
            "name": self.name,
            "before": [step.to_json() for step in self.before],
            "after": [step.to_json() for step in self.after],
        }


_VARIATION = (
    # A window first: what follows need not be done to a whole picture.
    Window((448, 448)),
    OneOf(
        ((), (Resize((0.5, 0.95)),), (Resize((1.05, 1.6)),)),
        shares=(2, 1, 1),
    ),
    OneOf(((), (Demosaic(),)), shares=(3, 1)),
    OneOf(((), (Blur((0.3, 1.2)),), (Sharpen(),)), shares=(3, 1, 1)),
    OneOf(((), (Gamma(),)), shares=(3, 1)),
    OneOf(((), (Noise((0.4, 4.0)),)), shares=(3, 1)),
    OneOf(((), (ChromaPath(tuple(MATRICES)),)), shares=(1, 1)),
    Window((256, 256)),
)

_WIDE_VARIATION = (
    Window((448, 448)),
    OneOf(((), (Noise((1.0, 8.0)),), (Denoise(),)), shares=(6, 1, 2)),
    OneOf(
        ((), (Resize((0.35, 0.95)),), (Window((256, 256)), Resize((1.05, 2.4)))),
        shares=(3, 2, 2),
    ),
    OneOf(((), (Demosaic(),)), shares=(5, 1)),
    OneOf(((), (Blur((0.3, 2.0)),), (Sharpen(amount=(0.2, 2.0)),)), shares=(5, 2, 2)),
    OneOf(
        ((), (Gamma(),), (Contrast(),), (Saturation(),), (Saturation((0.0, 0.0)),)),
        shares=(6, 1, 1, 1, 1),
    ),
    OneOf(((), (Noise((0.4, 4.0)),)), shares=(4, 1)),
    OneOf(((), (ChromaPath(),)), shares=(1, 1)),
    Window((256, 256)),
)

_CHROMA_VARIATION = (
    Window((448, 448)),
    OneOf(((), (Denoise(("nlmeans", "bilateral")),)), shares=(2, 1)),
    OneOf(
        ((), (Resize((0.5, 0.95)),), (Window((256, 256)), Resize((1.05, 2.0)))), shares=(4, 1, 1)
    ),
    # Each matrix as likely, and interpolation that jpegxr's decoder does too.
    ChromaPath(
        subsamplings=("4:2:0", "4:2:0", "4:2:2", "4:1:1"), up=(COSITED, COSITED, "bilinear")
    ),
    OneOf(((), (Sharpen(),), (Gamma(),), (Contrast(),)), shares=(3, 1, 1, 1)),
    Window((256, 256)),
)

HISTORIES: dict[str, History] = {
    history.name: history
    for history in (
        History("single"),
        History("cropped", after=(Crop(),)),
        History("resized", after=(Resize(),)),
        History("blurred", after=(Blur(),)),
        History("noisy", after=(Noise(),)),
        History("gamma", after=(Gamma(),)),
        History("screenshot", after=(DisplayScale(), SavePng())),
        History("resaved-png", after=(SavePng(),)),
        History("resaved-jpeg", after=(Compress(("jpeg",), knob=(75, 98)),)),
        History("double", before=(Compress(), Crop(), Resize())),
        History("double-first", after=(Crop(), Resize(), Compress())),
        History("varied", before=_VARIATION, after=(Decode(),)),
        History("varied-widely", before=_WIDE_VARIATION, after=(Decode(),)),
        History("varied-chroma", before=_CHROMA_VARIATION, after=(Decode(),)),
        History(
            "varied-processed",
            before=_WIDE_VARIATION,
            after=(
                Decode(),
                OneOf(
                    (
                        (Resize((0.7, 1.4)),),
                        (Compress(("jpeg",), knob=(86, 98)),),
                        (Resize((0.7, 1.4)), Compress(("jpeg",), knob=(86, 98))),
                        (Blur((0.3, 0.9)),),
                        (Noise((0.4, 3.0)),),
                        (Gamma(),),
                    ),
                    shares=(5, 5, 1, 1, 1, 1),
                ),
            ),
        ),
    )
}
"""Every history that a build knows by name. *single* is the labelled encode and nothing else."""


def history_from_json(content: Any) -> History:
    """The history of a dict such as ``{"name": "soft", "after": [{"step": "blur"}]}``.

    Raises:
        HistoryError: Not such a dict, or a step that is not valid.
    """
    if not isinstance(content, Mapping) or "name" not in content:
        raise HistoryError(
            'A history is an object with "name" and the lists "before" and "after". '
            f"Received: {content!r}"
        )
    unknown = sorted(set(content) - {"name", "before", "after"})
    if unknown:
        raise HistoryError(
            f'History {content["name"]!r}: the fields are "name", "before" and "after". '
            f"Received: {', '.join(map(repr, unknown))}"
        )
    sides: dict[str, tuple[Step, ...]] = {}
    for side in ("before", "after"):
        steps = content.get(side, [])
        if not isinstance(steps, list):
            raise HistoryError(
                f"History {content['name']!r}: {side} must be a list of steps. Received: {steps!r}"
            )
        sides[side] = ()
        for number, step in enumerate(steps, start=1):
            try:
                sides[side] += (step_from_json(step),)
            except HistoryError as error:
                raise HistoryError(
                    f"History {content['name']!r}, {side}, step {number}: {error}"
                ) from error
    return History(content["name"], **sides)


def read_histories(path: Path) -> list[History]:
    """The histories in a JSON file: a list of objects, see `history_from_json`.

    Raises:
        HistoryError: No such file, not JSON, not such a list, or a name twice.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise HistoryError(f"{path}: not a readable JSON file: {error}") from error
    if not isinstance(content, list) or not content:
        raise HistoryError(
            f"{path}: must hold a list of histories, at least one. "
            f"Received: {type(content).__name__}"
        )
    histories = []
    for number, item in enumerate(content, start=1):
        try:
            histories.append(history_from_json(item))
        except HistoryError as error:
            raise HistoryError(f"{path}, entry {number}: {error}") from error
    names = [history.name for history in histories]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise HistoryError(f"{path}: a name may occur once. Received twice: {', '.join(twice)}")
    return histories


def label_of(chain: Sequence[Mapping[str, Any]], rule: LabelRule = "last") -> str:
    """The class of a chain of steps: its last lossy codec, or its first.

    Args:
        chain: Every step done, the labelled encode among them; steps that compress have
            ``"step": "compress"`` and the name of the codec.
        rule: See `LABEL_RULES`.

    Returns:
        A name from `CODECS`; *uncompressed* where nothing lossy was done. PNG is no codec here.

    >>> twice = [{"step": "compress", "codec": "bpg"}, {"step": "compress", "codec": "jpeg"}]
    >>> label_of(twice), label_of(twice, "first"), label_of([{"step": "png"}])
    ('jpeg', 'bpg', 'uncompressed')

    Raises:
        HistoryError: An unknown rule.
    """
    if rule not in LABEL_RULES:
        raise HistoryError(f"Label rules are {', '.join(LABEL_RULES)}. Received: {rule!r}")
    lossy = [
        str(step["codec"])
        for step in chain
        if step["step"] == Compress.kind and step["codec"] in LOSSY
    ]
    if not lossy:
        return Lossless.name
    return lossy[-1] if rule == "last" else lossy[0]


def _compresses(step: Step) -> bool:
    """Whether a step is a lossy encode, or may choose one."""
    chosen = (each for chain in step.chains for each in chain) if isinstance(step, OneOf) else ()
    return isinstance(step, Compress) or any(map(_compresses, chosen))


def _applied(
    steps: Sequence[Step], image: Image, rng: np.random.Generator
) -> tuple[Image, list[dict[str, Any]]]:
    done = []
    for step in steps:
        image, record = step.apply(image, rng)
        inner = record.pop("steps", [])  # a chain is flat, whatever chose among its steps
        done += [record, *inner]
    return image, done
