"""Progress of long benchmarks, as lines on standard error that a log file can keep."""

from __future__ import annotations

import sys
from typing import Any


def log(stage: str, done: int, total: int, note: str = "") -> None:
    """A line at every twentieth part of a stage."""
    if done == total or done % max(1, total // 20) == 0:
        print(f"{stage} {done}/{total} {note}".rstrip(), file=sys.stderr, flush=True)


def log_epoch(event: dict[str, Any]) -> None:
    """A line after each epoch."""
    if event["event"] == "epoch":
        print({k: v for k, v in event.items() if k != "event"}, file=sys.stderr, flush=True)
