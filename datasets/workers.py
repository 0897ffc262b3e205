"""Worker processes: one thread each; one that is killed is replaced, and its task run again."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any, Protocol

from imagecompression.errors import ImageCompressionError

ATTEMPTS = 3
"""A task that ends its process this often is given up."""
MAX_FAILED_STARTS = 10
"""As many processes in a row that end before they are ready mean that none ever will be."""

_Task = tuple[Any, ...]


class WorkerError(ImageCompressionError):
    """Workers cannot be started or reached, or a result of one cannot be sent back."""


@dataclass(frozen=True)
class Crashed:
    """What comes back for a task that ended its worker process at each of `ATTEMPTS` attempts.

    Attributes:
        number: Of the task.
        reason: For the user.
    """

    number: int
    reason: str


class Pool(Protocol):
    """Where tasks run: processes of this machine, or the workers of a cluster."""

    @property
    def processes(self) -> int:
        """How many tasks run at a time."""
        ...

    def run(
        self, function: Callable[..., Any], tasks: Iterable[_Task]
    ) -> Iterator[tuple[int, Any]]:
        """Call `function(*task)` for every task; yield (task number, result) as they finish.

        Tasks are drawn a few at a time. One whose process is killed is run again, so it must bear
        that; see `Crashed` for one that kills it.

        Args:
            function: Importable by its name.
            tasks: Arguments for one call each.

        Raises:
            Exception: What `function` raises; the other tasks are dropped.
        """
        ...


class WorkerPool:
    """Processes of this machine."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._workers: list[Worker] = []
        self._failed_starts = 0
        self._fill()

    def run(
        self, function: Callable[..., Any], tasks: Iterable[_Task]
    ) -> Iterator[tuple[int, Any]]:
        """See `Pool.run`. The last attempt at a task is made while nothing else runs.

        So what fails for want of memory beside others is given a chance.
        """
        fresh = enumerate(tasks)
        again: deque[tuple[int, _Task]] = deque()
        alone: deque[tuple[int, _Task]] = deque()
        deaths: Counter[int] = Counter()
        self._fill()
        try:
            while True:
                for worker in self._workers:
                    if worker.is_ready and worker.job is None:
                        job = again.popleft() if again else next(fresh, None)
                        if job is None and alone and not self._is_busy():
                            job = alone.popleft()
                        if job is None:
                            if self._is_busy():
                                break
                            return
                        worker.begin(function, job)
                for worker in self._heard():
                    number, task = worker.job or (-1, ())
                    message = worker.message()
                    if message is not None:
                        self._failed_starts = 0
                        if number >= 0:  # otherwise it says that it is ready
                            well, value = message
                            if not well:
                                raise value
                            yield number, value
                        continue
                    end = self._replace(worker)
                    if not worker.is_ready:
                        self._note_failed_start(end)
                    if number < 0:
                        continue
                    deaths[number] += 1
                    if deaths[number] == ATTEMPTS:
                        yield number, Crashed(number, _reason(end))
                    elif deaths[number] == ATTEMPTS - 1:
                        alone.append((number, task))
                    else:
                        again.append((number, task))
        finally:
            for worker in [worker for worker in self._workers if worker.job is not None]:
                self._workers.remove(worker)  # its task is of no use any more
                worker.stop()

    def close(self) -> None:
        """End all processes."""
        while self._workers:
            self._workers.pop().stop()

    def _fill(self) -> None:
        while len(self._workers) < self.processes:
            self._workers.append(Worker())

    def _is_busy(self) -> bool:
        return any(worker.job is not None for worker in self._workers)

    def _heard(self) -> list[Worker]:
        """The workers that have sent something or have died; waits for one."""
        spoken = wait([worker.results for worker in self._workers])
        return [worker for worker in self._workers if worker.results in spoken]

    def _replace(self, worker: Worker) -> int | None:
        """Start another process for one that has died; returns how that one ended."""
        self._workers.remove(worker)
        end = worker.stop()
        self._fill()
        return end

    def _note_failed_start(self, end: int | None) -> None:
        self._failed_starts += 1
        if self._failed_starts >= MAX_FAILED_STARTS:
            raise WorkerError(
                f"{self._failed_starts} worker processes in a row ended before they were ready, "
                f"the last one by {_how(end)}. See what they have printed above."
            )


@contextmanager
def worker_pool(processes: int | None = None) -> Iterator[WorkerPool]:
    """A pool of processes that all end on the way out, whatever they are doing.

    Args:
        processes: Their number; None takes one for each core.
    """
    pool = WorkerPool(processes or os.cpu_count() or 1)
    try:
        yield pool
    finally:
        pool.close()


def pin_to_one_thread() -> None:
    """Let numerical libraries use one thread in this process, since processes use every core."""
    from threadpoolctl import threadpool_limits

    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # for libraries that are loaded later
    threadpool_limits(1)  # for those that are there
    try:
        import cv2

        cv2.setNumThreads(1)
    except ImportError:
        pass


class Worker:
    """A process, and the job it has in hand.

    Attributes:
        is_ready: Whether it has started; its first message says so.
        job: Number and arguments of what it does; None if nothing.
        results: Where its messages come from, for `multiprocessing.connection.wait`.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        tasks, self._tasks = context.Pipe(duplex=False)
        self.results, results = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(tasks, results), daemon=True)
        self._process.start()
        # Its ends are open in the process alone, so each side notices when the other is gone.
        tasks.close()
        results.close()
        self.is_ready = False
        self.job: tuple[int, _Task] | None = None

    def begin(self, function: Callable[..., Any], job: tuple[int, _Task]) -> None:
        """Send a job; a process that has died meanwhile is noticed by its `message`."""
        self.job = job
        with suppress(BrokenPipeError):
            self._tasks.send((function, job[1]))

    def has_spoken(self, seconds: float) -> bool:
        """Wait for a message, or for the end of the process; False if neither came in time."""
        return self.results.poll(seconds)

    def message(self) -> tuple[bool, Any] | None:
        """What it has sent, (True, result) or (False, error); None when it has died."""
        try:
            message: tuple[bool, Any] = self.results.recv()
        except (EOFError, ConnectionError):
            return None
        self.is_ready, self.job = True, None
        return message

    def kill(self) -> None:
        """End the process at once; `message` and `stop` are still to be called."""
        self._process.kill()

    def stop(self) -> int | None:
        """End the process; returns its exit code, negative for a signal."""
        self._tasks.close()
        self._process.join(timeout=1)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        end = self._process.exitcode
        self._process.close()
        self.results.close()
        return end


def _work(tasks: Connection, results: Connection) -> None:
    """The life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    todo: SimpleQueue[tuple[Callable[..., Any], _Task]] = SimpleQueue()
    threading.Thread(target=_receive, args=(tasks, todo), daemon=True).start()
    pin_to_one_thread()
    results.send((True, None))
    while True:
        function, task = todo.get()
        try:
            message = pickle.dumps((True, function(*task)))
        except Exception as error:
            message = _pickled(error)
        results.send_bytes(message)


def _receive(tasks: Connection, todo: SimpleQueue[Any]) -> None:
    """Take tasks in; leave at once when the parent is gone: killed, it cannot tell its workers."""
    while True:
        try:
            todo.put(tasks.recv())
        except (EOFError, OSError):
            os._exit(1)


def _pickled(error: Exception) -> bytes:
    """An error for the parent, with its traceback as a note; some survive no pickling."""
    error.add_note("In a worker process:\n" + "".join(traceback.format_exception(error)))
    try:
        message = pickle.dumps((False, error))
        pickle.loads(message)  # noqa: S301 - our own bytes
    except Exception:
        message = pickle.dumps((False, WorkerError(f"{type(error).__name__}: {error}")))
    return message


def _reason(end: int | None) -> str:
    return (
        f"its worker process was ended {ATTEMPTS} times, the last time while nothing else ran, by "
        f"{_how(end)}. That is most often for want of memory: use a machine with more, or leave "
        "this picture out"
    )


def _how(end: int | None) -> str:
    if end is not None and end < 0:
        return signal.Signals(-end).name
    return f"exit code {end}"
