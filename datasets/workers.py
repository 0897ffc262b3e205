"""Worker processes: spawned, one thread each, fed a few tasks at a time so that memory is flat."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from imagecompression.errors import ImageCompressionError


class WorkerError(ImageCompressionError):
    """A worker process died."""


@dataclass(frozen=True)
class WorkerPool:
    """A pool of processes.

    Attributes:
        executor: Where the tasks run.
        processes: Their number.
    """

    executor: ProcessPoolExecutor
    processes: int

    def run(
        self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        """Call `function(*task)` for every task; yield (task number, result) as they finish."""
        waiting = enumerate(tasks)
        running: dict[Future[Any], int] = {}
        exhausted = False
        while running or not exhausted:
            while not exhausted and len(running) < 2 * self.processes:
                number, task = next(waiting, (-1, ()))
                if number < 0:
                    exhausted = True
                else:
                    running[self.executor.submit(function, *task)] = number
            if running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()


@contextmanager
def worker_pool(processes: int) -> Iterator[WorkerPool]:
    """A pool that drops work not yet begun on the way out.

    Raises:
        WorkerError: A process was killed, by the system for want of memory for example.
    """
    executor = ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn"), initializer=_begin
    )
    try:
        yield WorkerPool(executor, processes)
    except BrokenProcessPool as error:
        raise WorkerError(
            "A worker process was killed, most often for want of memory. What is finished is "
            "kept: start the same command again, with fewer --workers."
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """Pin the process to one thread, since the processes use every core; end with the parent."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    try:
        import cv2

        cv2.setNumThreads(1)
    except ImportError:
        pass


def _end_with(parent: Any) -> None:
    """Leave at once when the parent is gone: killed, it cannot tell its workers."""
    parent.join()
    os._exit(1)
