"""What every step of a picture's history shares: its JSON, its checks, its draws."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from imagecompression import Image
from imagecompression.errors import ImageCompressionError

MIN_SIDE = 16
"""No step makes a side shorter than this many pixels."""


class HistoryError(ImageCompressionError):
    """A history or one of its steps is not valid, or its file cannot be read."""


@dataclass(frozen=True)
class Step(ABC):
    """One operation on decoded pixels. All random choices come from the generator given.

    Class attributes:
        kind: Name of the step in JSON and in the chain of a sample.
    """

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # JSON has lists only
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))

    @abstractmethod
    def apply(self, image: Image, rng: np.random.Generator) -> tuple[Image, dict[str, Any]]:
        """The changed picture and what was done, JSON-ready: the step's kind and its values.

        Args:
            image: `uint8` `(H, W)` or `(H, W, 3)`; not modified.
            rng: Every draw comes from it. How many are drawn does not depend on the pixels, so
                equal generators do the same to pictures of one size.
        """

    def to_json(self) -> dict[str, Any]:
        """The step as a JSON-ready dict; `step_from_json` is the inverse."""
        fields = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }
        return {"step": self.kind, **fields}

    def _check_range(self, field: str, low: float, high: float, *, integer: bool = False) -> None:
        """Raise `HistoryError` unless the field is a pair low ≤ first ≤ second ≤ high."""
        value = getattr(self, field)
        kinds = (int,) if integer else (int, float)
        well = (
            isinstance(value, tuple)
            and len(value) == 2
            and all(isinstance(v, kinds) and not isinstance(v, bool) for v in value)
            and low <= value[0] <= value[1] <= high
        )
        if not well:
            noun = "integers" if integer else "numbers"
            raise HistoryError(
                f"{self.kind}: {field} must be two {noun}, the lowest and the highest, from "
                f"{low:g} to {high:g}. Received: {value!r}"
            )

    def _check_names(self, field: str, allowed: tuple[Any, ...]) -> None:
        """Raise `HistoryError` unless the field is a tuple of some of the allowed values."""
        value = getattr(self, field)
        if not isinstance(value, tuple) or not value or any(v not in allowed for v in value):
            known = ", ".join(map(str, allowed))
            raise HistoryError(
                f"{self.kind}: {field} must be a list of values among {known}. Received: {value!r}"
            )


def log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """A draw between two positive bounds, with equal chances for halves and doubles."""
    low, high = bounds
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def one_of(rng: np.random.Generator, values: tuple[Any, ...]) -> Any:
    """One of some values, each equally likely."""
    return values[int(rng.integers(len(values)))]


def rounded(samples: Any) -> Image:
    """Float samples as the nearest `uint8`, clipped to 0 … 255."""
    return np.clip(np.rint(samples), 0, 255).astype(np.uint8)
