"""Worker processes with a limit of time: what hangs or dies is replaced, and leaves nothing."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from desk.timed_workers import (
    JobCrashedError,
    JobTimeoutError,
    TimedWorkers,
    WorkersBusyError,
    timed_workers,
)
from imagecompression.errors import ImageCompressionError

PREPARED: list[int] = []


def prepare(number: int) -> int:
    PREPARED.append(number)
    return os.getpid()


def refuse() -> None:
    raise ImageCompressionError("no such run")


def process_and_prepared() -> tuple[int, list[int]]:
    return os.getpid(), PREPARED


def fail() -> None:
    raise ImageCompressionError("said by the job")


def hang(leave: bool) -> None:
    if leave:
        tempfile.mkdtemp()
    time.sleep(600)


def die() -> None:
    os._exit(7)


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.02)


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TimedWorkers]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
        with timed_workers(1, 60, 60, prepare, 5) as workers:
            yield workers


def ask(workers: TimedWorkers, *job: Any) -> Any:
    return asyncio.run(workers.run(*job))


def folders() -> list[Path]:
    (base,) = Path(tempfile.gettempdir()).iterdir()
    return list(base.iterdir())


def test_jobs_run_in_a_prepared_process(workers: TimedWorkers) -> None:
    process, prepared = ask(workers, process_and_prepared)
    assert process != os.getpid()
    assert prepared == [5]
    with pytest.raises(ImageCompressionError, match="said by the job"):
        ask(workers, fail)
    assert ask(workers, process_and_prepared) == (process, [5])


@pytest.mark.parametrize(
    ("job", "error"), [((hang, True), JobTimeoutError), ((die,), JobCrashedError)]
)
def test_a_process_that_hangs_or_dies_is_replaced(
    workers: TimedWorkers, job: tuple[Any, ...], error: type[Exception]
) -> None:
    before, _ = ask(workers, process_and_prepared)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(error):
        patch.setattr(workers, "_seconds", 1.0)
        ask(workers, *job)
    assert not psutil.pid_exists(before)
    assert folders() == []  # with what the job had left there
    after, prepared = ask(workers, process_and_prepared)
    assert after != before
    assert prepared == [5]


def test_one_that_died_idle_is_replaced_unnoticed(workers: TimedWorkers) -> None:
    before, _ = ask(workers, process_and_prepared)
    psutil.Process(before).kill()
    (process,) = workers._alive
    assert process.worker.has_spoken(60)
    assert ask(workers, process_and_prepared)[0] != before


def test_waiting_is_bounded(
    workers: TimedWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_waiting_seconds", 0.2)

    async def two() -> None:
        first = asyncio.ensure_future(workers.run(wait_for, tmp_path / "go"))
        await asyncio.sleep(0)  # the first is given out first
        with pytest.raises(WorkersBusyError):
            await workers.run(process_and_prepared)
        (tmp_path / "go").touch()
        assert await first is None

    asyncio.run(two())


def test_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with timed_workers(2, 600, 600, prepare, 1) as workers:
        processes = {workers.prepared}

        async def leave() -> None:
            jobs = [asyncio.ensure_future(workers.run(hang, True)) for _ in range(2)]
            while len(list(tmp_path.glob("*/*/*"))) < 2:
                await asyncio.sleep(0.05)
            processes.update(child.pid for child in psutil.Process().children())
            workers.close()
            with pytest.raises(JobCrashedError):
                await jobs[0]
            with pytest.raises(JobCrashedError):
                await jobs[1]

        asyncio.run(leave())
    assert list(tmp_path.iterdir()) == []
    assert not psutil.pid_exists(workers.prepared)


def test_what_prepare_raises_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ImageCompressionError, match="no such run"), timed_workers(1, 1, 1, refuse):
        pass
    assert list(tmp_path.iterdir()) == []
