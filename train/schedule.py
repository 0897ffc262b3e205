"""The learning rate over a training."""

from __future__ import annotations

import math

from train.settings import ScheduleName

WARM_UP = 0.04
"""Share of the training in which the learning rate rises to its full value."""

PLATEAU_EPOCHS = 2
"""Epochs without a better loss after which the schedule "plateau" halves the rate."""


def schedule_factor(share: float, schedule: ScheduleName = "cosine", halvings: int = 0) -> float:
    """Learning rate, relative to its peak, when `share` (0 to 1) of the training is done.

    Args:
        share: Of the epochs, or of the minutes if those end first.
        schedule: See `TrainConfig.schedule`.
        halvings: How often a plateau was met.

    >>> [round(schedule_factor(share), 2) for share in (0.02, 0.04, 0.52, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    >>> [schedule_factor(share, "plateau", 2) for share in (0.02, 0.5)]
    [0.125, 0.25]
    """
    if schedule == "plateau":
        return 0.5**halvings * min(1.0, share / WARM_UP)
    if share < WARM_UP:
        return share / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))
