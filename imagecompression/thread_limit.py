"""Numerical work on one thread, so that results do not depend on the machine's core count."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

_LOCK = threading.RLock()


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the block with BLAS and OpenMP limited to one thread.

    The order of floating-point sums, and with it the last bits, changes with the number of
    threads. The limit holds for the whole process, so blocks in different Python threads take
    turns: otherwise the first to leave would lift the limit of the others. It covers the libraries
    loaded so far only, so import what the block needs before it.
    """
    with _LOCK, threadpool_limits(limits=1):
        yield
