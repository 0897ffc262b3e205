"""What values each parameter of a codec may take, for whoever lets a user choose them.

The codecs themselves are asked: their checks are listened to while a value with the defaults is
made, so that there is no second list to keep.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from typing import Any

from imagecompression.codec import Codec


@dataclass(frozen=True)
class CodecOption:
    """One parameter of a codec.

    Attributes:
        name: Of the dataclass field.
        default: Its default.
        choices: All values allowed, where they are few and named; empty where a range counts.
        low: Least value of a range; None with choices.
        high: Greatest value of a range; None with choices.
        integer: Whether a range holds whole numbers alone.
        is_knob: Whether it is the codec's `knob`, which a target turns.
    """

    name: str
    default: Any
    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    integer: bool = False
    is_knob: bool = False


@cache
def codec_options(codec: type[Codec]) -> tuple[CodecOption, ...]:
    """The parameters of a codec in the order of its fields; none where it has none.

    Which of them go together is not told: the codec refuses with a `CodecError` what does not.

    >>> from imagecompression import Jpeg
    >>> options = {option.name: option for option in codec_options(Jpeg)}
    >>> options["quality"].low, options["quality"].high, options["progressive"].choices
    (1, 100, (False, True))
    """
    heard: dict[str, dict[str, Any]] = {}

    class Listening(codec):  # type: ignore[valid-type, misc]
        def _check_range(
            self, field: str, low: float, high: float, *, integer: bool = True
        ) -> None:
            heard.setdefault(field, {"low": low, "high": high, "integer": integer})
            super()._check_range(field, low, high, integer=integer)

        def _check_choice(self, field: str, allowed: tuple[Any, ...]) -> None:
            heard.setdefault(field, {"choices": tuple(allowed)})
            super()._check_choice(field, allowed)

    Listening()
    knob = codec.knob.field if codec.knob is not None else None
    return tuple(
        CodecOption(field.name, field.default, **heard[field.name], is_knob=field.name == knob)
        for field in dataclasses.fields(codec)
    )
