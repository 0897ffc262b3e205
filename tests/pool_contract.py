"""What holds for every pool of workers, of this machine or of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from datasets.workers import Pool


def check_results_carry_their_task_numbers(
    pool: Pool, double: Callable[[int], int], count: int
) -> None:
    assert dict(pool.run(double, ((i,) for i in range(count)))) == {i: 2 * i for i in range(count)}
    assert list(pool.run(double, [])) == []


def check_tasks_are_drawn_a_few_at_a_time(pool: Pool, double: Callable[[int], int]) -> None:
    drawn = 0

    def tasks() -> Iterator[tuple[int]]:
        nonlocal drawn
        for number in range(30):
            drawn += 1
            yield (number,)

    for done, _ in enumerate(pool.run(double, tasks()), start=1):
        assert drawn <= done + 2 * pool.processes
