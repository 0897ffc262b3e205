"""Worker processes: results, errors, and workers that are killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pool_contract import (
    check_results_carry_their_task_numbers,
    check_tasks_are_drawn_a_few_at_a_time,
)

from datasets.storage import StorageError
from datasets.workers import ATTEMPTS, Crashed, WorkerError, WorkerPool, worker_pool

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with worker_pool(2) as pool:
        yield pool


def double(number: int) -> int:
    return 2 * number


def double_slowly(number: int) -> int:
    time.sleep(0.02)
    return 2 * number


def fail(number: int) -> int:
    if number == 3:
        raise StorageError("disk full: 10 bytes are needed, 0 of 10 are free")
    return number


class AwkwardError(Exception):
    """An error that pickles, but cannot be made again from its pickle."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


def fail_awkwardly() -> None:
    raise AwkwardError("one", "two")


def end_process(number: int, poison: int) -> int:
    if number == poison:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def end_process_once(number: int, folder: Path) -> int:
    marker = folder / str(number)
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def threads() -> tuple[int, int]:
    import cv2
    import numpy as np
    from threadpoolctl import threadpool_info

    np.ones((2, 2)) @ np.ones((2, 2))
    return max(info["num_threads"] for info in threadpool_info()), cv2.getNumThreads()


def meet_another(folder: Path) -> int:
    """Wait for a second process, for a minute at most: busy machines take long to begin one."""
    (folder / str(os.getpid())).touch()
    deadline = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    return len(list(folder.iterdir()))


def workers_of(process: int) -> list[psutil.Process]:
    """The worker processes of a pool's process; its resource tracker is none."""
    children = psutil.Process(process).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def test_results_carry_their_task_numbers(pool: WorkerPool) -> None:
    check_results_carry_their_task_numbers(pool, double, 50)


def test_tasks_are_drawn_a_few_at_a_time(pool: WorkerPool) -> None:
    check_tasks_are_drawn_a_few_at_a_time(pool, double)


def test_an_error_of_the_function_ends_the_run_and_not_the_pool(pool: WorkerPool) -> None:
    with pytest.raises(StorageError, match="disk full") as caught:
        list(pool.run(fail, ((i,) for i in range(10))))
    assert "in fail" in "".join(caught.value.__notes__)
    assert dict(pool.run(double, [(1,)])) == {0: 2}


def test_an_error_that_does_not_pickle_is_told_all_the_same(pool: WorkerPool) -> None:
    with pytest.raises(WorkerError, match="AwkwardError: one"):
        list(pool.run(fail_awkwardly, [()]))


def test_a_run_that_is_left_early_leaves_nothing_behind(pool: WorkerPool) -> None:
    for _, value in pool.run(double_slowly, ((i,) for i in range(100))):
        if value > 10:
            break
    assert dict(pool.run(double, ((i,) for i in range(5)))) == {i: 2 * i for i in range(5)}


def test_workers_use_one_thread(pool: WorkerPool) -> None:
    assert dict(pool.run(threads, [()])) == {0: (1, 1)}


def test_both_processes_work(pool: WorkerPool, tmp_path: Path) -> None:
    assert dict(pool.run(meet_another, [(tmp_path,)] * 2)) == {0: 2, 1: 2}


def test_killed_workers_cost_no_task(pool: WorkerPool) -> None:
    results = []
    for result in pool.run(double_slowly, ((i,) for i in range(150))):
        results.append(result)
        if len(results) % 30 == 0:
            random.choice(workers_of(os.getpid())).kill()
    assert sorted(results) == [(i, 2 * i) for i in range(150)]


def test_a_task_that_dies_once_is_run_again(pool: WorkerPool, tmp_path: Path) -> None:
    results = pool.run(end_process_once, ((i, tmp_path) for i in range(2)))
    assert dict(results) == {0: 0, 1: 1}


def test_a_task_that_kills_its_worker_is_given_up_and_the_rest_goes_on(pool: WorkerPool) -> None:
    results = dict(pool.run(end_process, ((i, 5) for i in range(12))))
    crashed = results.pop(5)
    assert isinstance(crashed, Crashed)
    assert crashed.number == 5
    assert f"{ATTEMPTS} times" in crashed.reason and "SIGKILL" in crashed.reason
    assert results == {i: i for i in range(12) if i != 5}


def test_workers_that_cannot_begin_are_reported(tmp_path: Path) -> None:
    # A main module that ends its process when a worker imports it.
    script = tmp_path / "broken.py"
    script.write_text(
        "import sys\n"
        "if __name__ != '__main__':\n"
        "    sys.exit(7)\n"
        "from datasets.workers import worker_pool\n"
        "with worker_pool(2) as pool:\n"
        "    list(pool.run(len, [('abc',)]))\n"
    )
    done = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "WorkerError" in done.stderr and "exit code 7" in done.stderr


def test_workers_end_with_a_parent_that_is_killed() -> None:
    script = (
        "import time\n"
        "from datasets.workers import worker_pool\n"
        "with worker_pool(2) as pool:\n"
        "    for number, _ in pool.run(time.sleep, [(0,)] * 2 + [(60,)] * 4):\n"
        "        if number == 1: print('ready', flush=True)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        workers = workers_of(parent.pid)
        assert len(workers) == 2
    finally:
        parent.kill()
        parent.communicate()
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive
