"""What giving out a task costs: by this machine's processes, and by a Dask scheduler and workers.

``python -m benchmarks.pools`` starts both on this machine with as many workers as it has cores,
runs tasks that do nothing, and writes results/pools.csv. On a cluster the scheduler and the builder
have cores of their own, so the tasks per second measured here are a lower bound.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil

from benchmarks.environment import write_environment
from datasets.cluster import cluster_pool
from datasets.workers import Pool, worker_pool

ROOT = Path(__file__).parent.parent
TASKS = 3000


@contextmanager
def scheduler(workers: int) -> Iterator[tuple[str, psutil.Process]]:
    """A Dask scheduler with workers on this machine: its address and process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    commands = [["dask_scheduler", "--host", address, "--no-dashboard"]]
    commands += [
        ["dask_worker", address, "--nthreads", "1", "--no-dashboard"] for _ in range(workers)
    ]
    started = [
        psutil.Popen(
            [sys.executable, "-m", f"distributed.cli.{name}", *options],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for name, *options in commands
    ]
    try:
        yield address, started[0]
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def measure(
    name: str, open_pool: Callable[[], AbstractContextManager[Pool]], served_by: psutil.Process
) -> list[tuple[str, str, float]]:
    """Start-up and cost a task of a pool; `served_by` is the process that gives tasks out."""
    begin = time.perf_counter()
    with open_pool() as pool:
        list(pool.run(abs, [(1,)] * pool.processes))
        started = time.perf_counter()
        before = served_by.memory_info().rss, sum(served_by.cpu_times()[:2])
        list(pool.run(abs, ((number,) for number in range(TASKS))))
        seconds = time.perf_counter() - started
        after = served_by.memory_info().rss, sum(served_by.cpu_times()[:2])
    return [
        (name, "seconds to start", started - begin),
        (name, "milliseconds a task", seconds / TASKS * 1e3),
        (name, "of these, on the processor that gives out", (after[1] - before[1]) / TASKS * 1e3),
        (name, "MiB that it has grown by", (after[0] - before[0]) / 2**20),
    ]


def main() -> None:
    """Run the benchmark and print its table."""
    cores = os.cpu_count() or 1
    rows = measure("processes", lambda: worker_pool(cores), psutil.Process())
    with scheduler(cores) as (address, process):
        rows += measure("Dask", lambda: cluster_pool(address), process)
    table = ROOT / "results" / "pools.csv"
    table.write_text(
        "pool,what,value\n" + "".join(f"{pool},{what},{value:.4f}\n" for pool, what, value in rows)
    )
    write_environment(table)
    for pool, what, value in rows:
        print(f"{pool:10} {what:42} {value:10.3f}")


if __name__ == "__main__":
    main()
