"""A Dask scheduler and workers in processes of their own, some of which are killed."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from conftest import photograph_like
from PIL import Image
from pool_contract import (
    check_results_carry_their_task_numbers,
    check_tasks_are_drawn_a_few_at_a_time,
)

from datasets import cluster
from datasets.build import build_dataset
from datasets.cluster import ClusterPool, cluster_pool
from datasets.manifest import read_manifest
from datasets.plan import BuildConfig
from datasets.storage import Storage, StorageError
from datasets.workers import Crashed, WorkerError

ROOT = Path(__file__).parent.parent
DEATHS = 2  # of a task before it is given up


@contextmanager
def dask_cluster(workers: int, path: str) -> Iterator[tuple[str, list[psutil.Process]]]:
    """A scheduler and workers with `path` as their PYTHONPATH: its address, and their processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {
        "PYTHONPATH": path,
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(DEATHS - 1),
    }
    commands = [["dask_scheduler", "--host", address]]
    commands += [["dask_worker", address, "--nthreads", "1"] for _ in range(workers)]
    started = [
        psutil.Popen(
            [sys.executable, "-m", f"distributed.cli.{name}", *options, "--no-dashboard"],
            env=environment,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for name, *options in commands
    ]
    try:
        yield address, started
    finally:
        every = [child for one in started for child in one.children(recursive=True)]
        for process in [*started, *every]:
            if process.is_running():
                process.kill()
        for process in started:
            process.wait()


@pytest.fixture(scope="module")
def processes(s3_server: str) -> Iterator[tuple[str, list[psutil.Process]]]:
    """A cluster of two workers that can import this project and this file, and reach the bucket."""
    with dask_cluster(2, f"{ROOT}{os.pathsep}{ROOT / 'tests'}") as started:
        yield started


@pytest.fixture(scope="module")
def pool(processes: tuple[str, list[psutil.Process]]) -> Iterator[ClusterPool]:
    with cluster_pool(processes[0]) as pool:
        pool._client.wait_for_workers(2, timeout=30)
        yield pool


def double_slowly(number: int) -> int:
    time.sleep(0.02)
    return 2 * number


def fail(number: int) -> int:
    if number == 3:
        raise StorageError("disk full: 10 bytes are needed, 0 of 10 are free")
    return number


def end_process(number: int, poison: int) -> int:
    if number == poison:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def threads() -> tuple[int, int]:
    import cv2
    from threadpoolctl import threadpool_info

    return max(info["num_threads"] for info in threadpool_info()), cv2.getNumThreads()


def kill_a_worker(started: list[psutil.Process]) -> None:
    """Its nanny then starts another one."""
    workers = [child for nanny in started[1:] for child in nanny.children()]
    random.choice([w for w in workers if "spawn_main" in " ".join(w.cmdline())]).kill()


def test_results_carry_their_task_numbers(pool: ClusterPool) -> None:
    assert pool.processes == 2
    check_results_carry_their_task_numbers(pool, double_slowly, 20)


def test_tasks_are_drawn_a_few_at_a_time(pool: ClusterPool) -> None:
    check_tasks_are_drawn_a_few_at_a_time(pool, double_slowly)


def test_workers_use_one_thread(pool: ClusterPool) -> None:
    assert dict(pool.run(threads, [()])) == {0: (1, 1)}


def test_an_error_of_the_function_ends_the_run_and_not_the_pool(pool: ClusterPool) -> None:
    with pytest.raises(StorageError, match="disk full"):
        list(pool.run(fail, ((i,) for i in range(10))))
    assert dict(pool.run(double_slowly, [(1,)])) == {0: 2}


def test_workers_of_another_version_are_refused(
    pool: ClusterPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_facts", pool._facts.replace("libjpeg-turbo", "libjpeg"))
    with pytest.raises(WorkerError, match=r"jpeg: libjpeg-turbo .*, wanted libjpeg "):
        list(pool.run(double_slowly, [(1,)]))


def test_workers_of_several_threads_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = SimpleNamespace(address="tcp://here:1", state=SimpleNamespace(nthreads=4))
    monkeypatch.setattr("distributed.get_worker", lambda: worker)
    with pytest.raises(WorkerError, match="--nworkers 4 --nthreads 1"):
        cluster._check_worker("{}")


def test_killed_workers_cost_no_task(
    pool: ClusterPool, processes: tuple[str, list[psutil.Process]]
) -> None:
    results = []
    for result in pool.run(double_slowly, ((i,) for i in range(100))):
        results.append(result)
        if len(results) % 40 == 0:
            kill_a_worker(processes[1])
    assert sorted(results) == [(i, 2 * i) for i in range(100)]


def test_a_task_that_kills_its_worker_is_given_up_and_the_rest_goes_on(pool: ClusterPool) -> None:
    results = dict(pool.run(end_process, ((i, 5) for i in range(12))))
    crashed = results.pop(5)
    assert isinstance(crashed, Crashed)
    assert crashed.number == 5 and f"{DEATHS} Dask workers" in crashed.reason
    assert results == {i: i for i in range(12) if i != 5}


def test_a_build_on_a_cluster_into_a_bucket_is_the_build_at_home(
    processes: tuple[str, list[psutil.Process]],
    s3_server: str,
    tmp_path: Path,
) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    for seed in range(4):
        Image.fromarray(photograph_like(96, 120, 3, seed)).save(sources / f"{seed}.png")
    config = BuildConfig(codecs=("jpeg", "jpegxr"), ratios=(8.0,), ssims=(), patches_per_class=0)
    home, bucket = tmp_path / "home", f"{s3_server}/dataset"
    build_dataset([sources], home, config, workers=1)
    killed = False

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        nonlocal killed
        if stage == "encoding" and done >= 2 and not killed:
            kill_a_worker(processes[1])
            killed = True

    build_dataset([sources], bucket, config, progress=progress, scheduler=processes[0])
    assert killed
    rows = read_manifest(bucket).to_pylist()
    assert repr(rows) == repr(read_manifest(home).to_pylist())
    assert {row["status"] for row in rows} == {"ok"}
    for row in rows:
        assert Storage(bucket).read(row["path"]) == Storage(home).read(row["path"])


def test_workers_without_the_project_and_a_scheduler_that_is_lost(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()  # another package of that name, as Hugging Face's
    (tmp_path / "datasets" / "__init__.py").touch()
    with dask_cluster(1, str(tmp_path)) as (address, started), cluster_pool(address) as pool:
        with pytest.raises(WorkerError, match="PYTHONPATH"):
            list(pool.run(double_slowly, [(1,)]))
        started[0].kill()
        with pytest.raises(WorkerError, match="scheduler is lost"):
            list(pool.run(double_slowly, [(1,)]))


def test_no_scheduler_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    with pytest.raises(WorkerError, match="no Dask scheduler answers"), cluster_pool("127.0.0.1:9"):
        pass
    with pytest.raises(WorkerError, match="no Dask scheduler answers"), cluster_pool("no address"):
        pass
