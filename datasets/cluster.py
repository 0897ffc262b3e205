"""Workers of a Dask cluster, fed a few tasks at a time.

The scheduler is given two tasks a worker, so neither it nor this process ever holds a whole plan,
however long. Workers may come and go; tasks of those that are lost are run again.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import platform
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.workers import Crashed, WorkerError, pin_to_one_thread

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_SECONDS = 10
FIRST_WORKER_SECONDS = 60
COUNT_SECONDS = 2.0
"""How often the workers are counted."""

_AGAIN = "Start the same command again when that is mended: it goes on where it stopped."


class ClusterPool:
    """The workers of a Dask cluster; see `datasets.workers.Pool`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._facts = json.dumps(facts())
        self._counted = float("-inf")
        self._processes = 0

    @property
    def processes(self) -> int:
        """Workers that are there now, counted every few seconds."""
        now = time.monotonic()
        if now - self._counted > COUNT_SECONDS:
            try:
                self._counted, self._processes = now, len(self._client.nthreads())
            except OSError as error:
                raise _lost(error) from error
        return self._processes

    def run(
        self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        """See `datasets.workers.Pool.run`.

        Dask blames every task that a lost worker had been given, also those that only waited
        there. So a task it gives up is tried again while nothing else runs.

        Raises:
            WorkerError: The scheduler is lost, or a worker has other code or other encoders, which
                would make other bytes.
        """
        from distributed import CancelledError, as_completed
        from distributed.comm import CommClosedError
        from distributed.scheduler import KilledWorker

        fresh = enumerate(tasks)
        blamed: deque[tuple[int, tuple[Any, ...]]] = deque()
        running: dict[Future, tuple[int, tuple[Any, ...]]] = {}
        finished = as_completed(loop=self._client.loop)
        exhausted = alone = False

        def start(number: int, task: tuple[Any, ...]) -> None:
            job = pickle.dumps(_Job(function, task, self._facts))
            future = self._client.submit(pickle.loads, job, pure=False)
            running[future] = number, task
            finished.add(future)

        try:
            while True:
                while not exhausted and len(running) < 2 * max(1, self.processes):
                    number, task = next(fresh, (-1, ()))
                    exhausted = number < 0
                    if not exhausted:
                        start(number, task)
                if not running:
                    if not blamed:
                        return
                    alone = True
                    start(*blamed.popleft())
                future = next(finished)
                number, task = running.pop(future)
                try:
                    result = future.result()
                except KilledWorker as error:
                    if not alone:
                        blamed.append((number, task))
                        continue
                    result = Crashed(
                        number,
                        f"it ended {error.allowed_failures + 1} Dask workers while nothing else "
                        "ran, most often for want of memory: give workers more, or leave this "
                        "picture out",
                    )
                del future  # frees its result in the cluster
                yield number, result
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] not in (
                "datasets",
                "imagecompression",
            ):
                raise
            raise WorkerError(
                f"A Dask worker cannot import this project ({error}). Start the workers with the "
                f"checkout on their PYTHONPATH. {_AGAIN}"
            ) from error
        except (CancelledError, CommClosedError) as error:
            raise _lost(error) from error
        finally:
            if running:
                self._client.cancel(list(running))


@contextmanager
def cluster_pool(address: str) -> Iterator[ClusterPool]:
    """The workers of the Dask scheduler at `address`, such as ``tcp://10.0.0.1:8786``.

    Raises:
        WorkerError: Dask is not installed, nothing answers there, or no worker connects.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise WorkerError(
            "A scheduler's address needs Dask: pip install distributed, or leave --scheduler out "
            "to use this machine's processes."
        ) from error
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError, TypeError) as error:
        raise WorkerError(
            f"{address}: no Dask scheduler answers there within {CONNECT_SECONDS} s ({error}). "
            "Give the address that `dask scheduler` prints, such as tcp://10.0.0.1:8786."
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=FIRST_WORKER_SECONDS)
        except TimeoutError as error:
            raise WorkerError(
                f"{address}: the scheduler has no workers after {FIRST_WORKER_SECONDS} s. Start "
                f"some: dask worker {address} --nworkers 4 --nthreads 1"
            ) from error
        yield ClusterPool(client)


@cache
def facts() -> dict[str, str]:
    """What decides the bytes that a process makes: Python, libraries, encoders, this project.

    Read once a process, so edits after its start do not count for it, as its code does not change.
    """
    from imagecompression import CODECS

    root = Path(__file__).parent.parent
    code = hashlib.sha256()
    for package in ("imagecompression", "datasets"):
        for path in sorted((root / package).rglob("*.py")):
            code.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    found = {"python": platform.python_version(), "project": code.hexdigest()[:16]}
    found |= {name: version(name) for name in ("numpy", "scipy", "opencv-python")}
    return found | {name: codec.version() for name, codec in CODECS.items()}


@dataclass(frozen=True)
class _Job:
    """A call whose pickle does the call when it is loaded.

    The scheduler opens the functions it is given, so it would need this project too. It is given
    `pickle.loads` and bytes that only a worker opens.
    """

    function: Callable[..., Any]
    task: tuple[Any, ...]
    facts: str

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _call, (self.function, self.task, self.facts)


def _call(function: Callable[..., Any], task: tuple[Any, ...], expected: str) -> Any:
    """What a worker does with a task."""
    _check_worker(expected)
    return function(*task)


@cache
def _check_worker(expected: str) -> None:
    """Once a process: compare its facts with the builder's, and let it use one thread."""
    from distributed import get_worker

    worker = get_worker()
    own = facts()
    different = [
        f"{name}: {own.get(name, 'none')}, wanted {value}"
        for name, value in json.loads(expected).items()
        if own.get(name) != value
    ]
    if different:
        raise WorkerError(
            f"The Dask worker {worker.address} differs from the machine that gives out the tasks, "
            f"so it would make other bytes: {'; '.join(different)}. Install the same versions on "
            f"both and restart the worker. {_AGAIN}"
        )
    if worker.state.nthreads != 1:
        raise WorkerError(
            f"The Dask worker {worker.address} has {worker.state.nthreads} threads; encoders need "
            f"one each. Start it with --nworkers {worker.state.nthreads} --nthreads 1. {_AGAIN}"
        )
    pin_to_one_thread()


def _lost(error: Exception) -> WorkerError:
    return WorkerError(f"The connection to the Dask scheduler is lost ({error}). {_AGAIN}")
