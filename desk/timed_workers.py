"""Worker processes for untrusted files: one that takes too long is killed and replaced."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from datasets.workers import Worker
from imagecompression.errors import ImageCompressionError

START_SECONDS = 300.0
"""Time a process has to start and to prepare; the first import from a slow disk is slow."""


class JobTimeoutError(ImageCompressionError):
    """A job was not done in time; its process was killed."""


class JobCrashedError(ImageCompressionError):
    """A job, or a start, has ended its process."""


class WorkersBusyError(ImageCompressionError):
    """No process was free in time."""


@dataclass(frozen=True, eq=False)
class _Process:
    """A worker, and the folder of its temporary files, which is removed with it."""

    worker: Worker
    folder: Path

    def stop(self) -> None:
        self.worker.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class TimedWorkers:
    """Processes that take one job at a time, each within a limit of time.

    Made by `timed_workers`. `run` may be called from many tasks of one event loop.

    Attributes:
        processes: How many jobs run at a time.
        prepared: What `prepare` has returned in the first process.
    """

    def __init__(
        self,
        processes: int,
        seconds: float,
        waiting_seconds: float,
        prepare: Callable[..., Any],
        arguments: tuple[Any, ...],
        folder: Path,
    ) -> None:
        self.processes = processes
        self._seconds = seconds
        self._waiting_seconds = waiting_seconds
        self._prepare = prepare, arguments
        self._folder = folder
        self._alive: set[_Process] = set()
        self._free: SimpleQueue[_Process | None] = SimpleQueue()
        """Processes without a job; None stands for one that is still to be started."""
        # A thread waits for each process, so that the event loop need not.
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="worker")

    def start(self) -> None:
        """Start and prepare all processes.

        Raises:
            JobCrashedError, JobTimeoutError: A process cannot be started.
            Exception: What `prepare` raises.
        """
        for number in range(self.processes):
            process, prepared = self._started()
            self._free.put(process)
            if number == 0:
                self.prepared = prepared

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call `function(*arguments)` in the next free process and return its result.

        Args:
            function: Importable by its name.
            arguments: They and the result are pickled.

        Raises:
            WorkersBusyError: No process was free within the waiting time.
            JobTimeoutError: It took too long.
            JobCrashedError: It ended its process.
            Exception: What `function` raises.
        """
        job = self._threads.submit(self._do, function, arguments)
        answer = asyncio.wrap_future(job)
        await asyncio.wait([answer], timeout=self._waiting_seconds)
        if job.cancel():  # no thread has taken it up
            raise WorkersBusyError(
                f"No worker was free within {self._waiting_seconds:g} s. Try again later."
            )
        return await answer

    def close(self) -> None:
        """End all processes, whatever they are doing."""
        for process in list(self._alive):
            process.worker.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._alive:
            process.stop()
        self._alive.clear()

    def _do(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        process = self._free.get()
        try:
            if process is not None and process.worker.has_spoken(0):  # it has died meanwhile
                died, process = process, None
                self._end(died)
            if process is None:
                process, _ = self._started()
            return _ask(process.worker, self._seconds, function, arguments)
        except (JobTimeoutError, JobCrashedError):
            if process is not None:
                failed, process = process, None
                self._end(failed)
            raise
        finally:
            self._free.put(process)

    def _started(self) -> tuple[_Process, Any]:
        """A new process, and what `prepare` has returned in it."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        process = _Process(Worker(), folder)
        self._alive.add(process)
        try:
            _answer(process.worker, START_SECONDS)  # says that it is ready
            _ask(process.worker, START_SECONDS, _use_folder, (folder,))
            return process, _ask(process.worker, START_SECONDS, *self._prepare)
        except BaseException:
            self._end(process)
            raise

    def _end(self, process: _Process) -> None:
        self._alive.discard(process)
        process.stop()


@contextmanager
def timed_workers(
    processes: int,
    seconds: float,
    waiting_seconds: float,
    prepare: Callable[..., Any],
    *arguments: Any,
) -> Iterator[TimedWorkers]:
    """Processes that all end on the way out, with the folders of their temporary files.

    Args:
        processes: Their number, at least 1.
        seconds: Time that a job may take.
        waiting_seconds: Time that a job may wait for a process.
        prepare: Called first in each process, with `arguments`; importable by its name.

    Raises:
        JobCrashedError, JobTimeoutError: A process cannot be started.
        Exception: What `prepare` raises.
    """
    with tempfile.TemporaryDirectory(prefix="imagecompression-") as folder:
        workers = TimedWorkers(
            processes, seconds, waiting_seconds, prepare, arguments, Path(folder)
        )
        try:
            workers.start()
            yield workers
        finally:
            workers.close()


def _ask(
    worker: Worker, seconds: float, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Any:
    worker.begin(function, (0, arguments))
    return _answer(worker, seconds)


def _answer(worker: Worker, seconds: float) -> Any:
    if not worker.has_spoken(seconds):
        raise JobTimeoutError(f"Not done within {seconds:g} s, and given up.")
    message = worker.message()
    if message is None:
        raise JobCrashedError("It ended the process that worked on it.")
    well, value = message
    if not well:
        raise value
    return value


def _use_folder(folder: Path) -> None:
    """Make temporary files of this process there, so that they can be removed after a kill."""
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = str(folder)
