"""A running average of a network's weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Weights = list[npt.NDArray[Any]]


def averaged(average: Weights, weights: Sequence[npt.NDArray[Any]], momentum: float) -> Weights:
    """`momentum * average + (1 - momentum) * weights`; just `weights` where `average` is empty.

    All weights are averaged, the statistics of batch normalisation among them: they then belong to
    about the same time as the weights around them. (Keras' own ``use_ema`` averages the trainable
    weights alone.)

    >>> averaged([np.array([1.0])], [np.array([3.0])], 0.75)
    [array([1.5])]
    """
    if not average:
        return [np.array(weight) for weight in weights]
    return [
        np.asarray(old + (1 - momentum) * (new - old), new.dtype)
        for old, new in zip(average, weights, strict=True)
    ]


def momentum_at(step: int, momentum: float) -> float:
    """The momentum after `step` steps: smaller at first, so that the first weights are forgotten.

    As in TensorFlow's `ExponentialMovingAverage` with `num_updates`.

    >>> [round(momentum_at(step, 0.999), 3) for step in (0, 90, 100_000)]
    [0.1, 0.91, 0.999]
    """
    return min(momentum, (1 + step) / (10 + step))
