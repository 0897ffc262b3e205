"""The settings of a training."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from imagecompression.errors import ImageCompressionError
from train.models import MIN_PATCH, MODELS

Balance = Literal["class", "class-band", "none"]
ScheduleName = Literal["cosine", "plateau"]
StrategyName = Literal["none", "mirrored", "multi-worker"]

_CHOICES = {
    "balance": get_args(Balance),
    "schedule": get_args(ScheduleName),
    "strategy": get_args(StrategyName),
}


class TrainError(ImageCompressionError):
    """Settings or a dataset that nothing can be trained with."""


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training.

    Attributes:
        model: A name in `MODELS`.
        epochs: Passes over the training patches, at most.
        batch_size: Patches a step, over all devices and workers.
        learning_rate: Peak of the schedule, which starts with a short warm-up.
        weight_decay: Of AdamW.
        width: The model builder's `width`; None for its default.
        dropout: The model builder's `dropout`; None for its default.
        seed: Of the weights, the order of the patches, their crops and turns, and the dropout.
        patience: Epochs without a better validation loss after which training stops.
        minutes: Wall-clock budget, or None. The schedule then anneals over whichever ends first,
            the epochs or the minutes, and stops there; the last validation comes on top.
        patch_sizes: Each batch is cropped to one of these sides, drawn at random; None leaves the
            patches as they are stored.
        balance: "class": each class weighs the same in the loss. "class-band": within a class,
            each band of compression ratios (`train.evaluator.RATIO_EDGES`) does too. "none": each
            patch does.
        grayscale: Share of the training patches that are shown without colour, drawn anew in every
            epoch, so that chroma alone does not decide; 0 to 1.
        schedule: "cosine": half a cosine from the peak to zero. "plateau": the rate is halved
            after two epochs without a better validation loss.
        label_smoothing: Share of the truth that is spread over all classes, 0 to below 1. The
            validation loss is taken without it, so that it can be compared.
        average: Momentum of the running average of the weights, 0 for none, else below 1, such as
            0.999. The average is what is validated and kept.
        checkpoint_minutes: A checkpoint in the middle of an epoch after so many minutes.
        strategy: "none": one device. "mirrored": all GPUs of this machine, or its CPU devices.
            "multi-worker": the machines that the environment variable ``TF_CONFIG`` names.
    """

    model: str = "two_stream"
    epochs: int = 8
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    width: int | None = None
    dropout: float | None = None
    seed: int = 0
    patience: int = 5
    minutes: float | None = None
    patch_sizes: tuple[int, ...] | None = None
    balance: Balance = "class"
    grayscale: float = 0.0
    schedule: ScheduleName = "cosine"
    label_smoothing: float = 0.0
    average: float = 0.0
    checkpoint_minutes: float = 5.0
    strategy: StrategyName = "none"

    def __post_init__(self) -> None:
        """Raise `TrainError` for settings that cannot work."""
        if self.model not in MODELS:
            raise TrainError(f"model must be one of {', '.join(MODELS)}. Received: {self.model!r}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise TrainError(
                    f"{name} must be one of {', '.join(allowed)}. Received: {getattr(self, name)!r}"
                )
        for name in ("epochs", "batch_size", "learning_rate", "patience", "checkpoint_minutes"):
            if not getattr(self, name) > 0:
                raise TrainError(f"{name} must be positive. Received: {getattr(self, name)}")
        if self.minutes is not None and not self.minutes > 0:
            raise TrainError(f"minutes must be positive or None. Received: {self.minutes}")
        for name in ("label_smoothing", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise TrainError(f"{name} must be in [0, 1). Received: {getattr(self, name)}")
        if not 0 <= self.grayscale <= 1:
            raise TrainError(f"grayscale must be in [0, 1]. Received: {self.grayscale}")
        if self.patch_sizes is not None:
            object.__setattr__(self, "patch_sizes", tuple(self.patch_sizes))  # JSON has lists
            if not self.patch_sizes or min(self.patch_sizes) < MIN_PATCH:
                raise TrainError(
                    f"patch_sizes must be sides of at least {MIN_PATCH}, or None. "
                    f"Received: {self.patch_sizes}"
                )
        if self.strategy == "multi-worker" and self.minutes is not None:
            raise TrainError(
                "minutes cannot be used with the strategy multi-worker, whose workers' clocks "
                f"differ; limit the epochs. Received: {self.minutes}"
            )


def read_config(path: Path, **changes: Any) -> TrainConfig:
    """The settings in a JSON file: an object of `TrainConfig` fields, or a run's ``config.json``.

    Args:
        path: The file; fields it leaves out have their defaults.
        changes: Fields to set otherwise than the file does.

    Raises:
        TrainError: Not such a file, an unknown field, or a value out of range.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainError(f"{path}: cannot be read: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("train"), dict):
        content = content["train"]
    fields = [field.name for field in dataclasses.fields(TrainConfig)]
    if not isinstance(content, dict) or set(content) - set(fields):
        unknown = sorted(set(content) - set(fields)) if isinstance(content, dict) else content
        raise TrainError(
            f"{path}: must be a JSON object with fields among {', '.join(fields)}. "
            f"Received: {unknown}"
        )
    try:
        return TrainConfig(**{**content, **changes})
    except TypeError as error:  # a text where a number belongs
        raise TrainError(f"{path}: a value has the wrong type: {error}") from error
