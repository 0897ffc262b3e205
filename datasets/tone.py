"""Steps that change brightness, contrast and colour, pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from datasets.step import Step, log_uniform, rounded
from imagecompression import Image

_LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class Gamma(Step):
    """Raise the samples, as fractions of 255, to a power: over 1 darkens, under 1 brightens.

    Attributes:
        gamma: Lowest and highest exponent.
    """

    kind: ClassVar[str] = "gamma"
    gamma: tuple[float, float] = (0.7, 1.4)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_range("gamma", 0.1, 10)

    def apply(self, image: Image, rng: np.random.Generator) -> tuple[Image, dict[str, Any]]:
        gamma = log_uniform(rng, self.gamma)
        table = rounded(255.0 * (np.arange(256) / 255.0) ** gamma)
        return table[image], {"step": self.kind, "gamma": gamma}


@dataclass(frozen=True)
class Contrast(Step):
    """Move the samples away from a level, or towards it, and clip them.

    Attributes:
        factor: Lowest and highest multiple of the distance, with equal chances for halves and
            doubles.
        pivot: Lowest and highest level that stays, 0 … 255.
    """

    kind: ClassVar[str] = "contrast"
    factor: tuple[float, float] = (0.5, 2.0)
    pivot: tuple[float, float] = (64.0, 192.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_range("factor", 0.05, 20)
        self._check_range("pivot", 0, 255)

    def apply(self, image: Image, rng: np.random.Generator) -> tuple[Image, dict[str, Any]]:
        factor, pivot = log_uniform(rng, self.factor), float(rng.uniform(*self.pivot))
        table = rounded(pivot + factor * (np.arange(256) - pivot))
        return table[image], {"step": self.kind, "factor": factor, "pivot": pivot}


@dataclass(frozen=True)
class Saturation(Step):
    """Move the colours away from gray of equal luma, or towards it; gray pictures stay.

    Attributes:
        factor: Lowest and highest multiple of the distance from gray; 0 makes a picture gray.
    """

    kind: ClassVar[str] = "saturation"
    factor: tuple[float, float] = (0.0, 1.8)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_range("factor", 0, 20)

    def apply(self, image: Image, rng: np.random.Generator) -> tuple[Image, dict[str, Any]]:
        factor = float(rng.uniform(*self.factor))
        done = {"step": self.kind, "factor": factor}
        if image.ndim == 2:
            return image, done
        luma = (image @ _LUMA)[..., None]
        return rounded(luma + np.float32(factor) * (image - luma)), done
