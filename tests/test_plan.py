"""The plan: what is drawn, that it is stable, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from datasets.histories import HISTORIES
from datasets.plan import BuildConfig, BuildError, Task, plan, samples_per_source
from datasets.sources import Source
from imagecompression import CODECS, RatioTarget

CONFIG = BuildConfig(
    ("uncompressed", "jpeg", "bpg", "svd"), ratios=(8.0, 16.0), ssims=(0.9,), patch_size=32
)


def source(number: int) -> Source:
    return Source(
        path=Path(f"{number}.tif"),
        file=f"{number}.tif",
        source_id=f"source{number}",
        group=f"group{number}",
        sha256=f"{number:064x}",
        pixel_sha256=f"{number + 1:064x}",
        width=100,
        height=90,
        notes=(),
    )


SOURCES = [source(number) for number in range(40)]
SPLITS = {one.group: "train" for one in SOURCES}


def planned(config: BuildConfig, sources: list[Source] = SOURCES) -> list[Task]:
    return list(plan(sources, SPLITS, config))


def goals(tasks: list[Task]) -> dict[tuple[str, str, str], float]:
    """Value of every goal by source, codec and name."""
    return {
        (task.source.source_id, task.codec, goal.name): goal.target.value
        for task in tasks
        for goal in task.goals
        if goal.target is not None
    }


def test_every_sample_is_planned_once() -> None:
    config = dataclasses.replace(
        CONFIG,
        random_ratios=2,
        random_ssims=1,
        settings_per_source=4,
        histories=(HISTORIES["single"], HISTORIES["cropped"], HISTORIES["double"]),
    )
    names = [
        task.sample_id(goal, history)
        for task in planned(config)
        for goal in task.goals
        for history in task.histories
    ]
    assert len(set(names)) == len(names) == 40 * samples_per_source(config)
    # The lossless class has a picture for each of four settings where a history prepares one.
    assert samples_per_source(config) == 3 * 3 * 6 + (1 + 1 + 4)


def test_adding_to_a_plan_changes_nothing_that_was_there() -> None:
    before = goals(planned(CONFIG, SOURCES[:20]))
    wider = dataclasses.replace(
        CONFIG, codecs=(*CONFIG.codecs, "webp"), ratios=(4.0, *CONFIG.ratios), random_ssims=3
    )
    after = goals(planned(wider))
    assert before.items() <= after.items()
    assert len(after) > 3 * len(before)
    first, all_tasks = planned(CONFIG, SOURCES[:3]), planned(CONFIG)
    assert {task.task_id for task in first} <= {task.task_id for task in all_tasks}
    assert len({task.task_id for task in all_tasks}) == len(all_tasks)


def test_seeds_change_everything_drawn() -> None:
    one, other = planned(CONFIG), planned(dataclasses.replace(CONFIG, seed=1))
    assert not set(goals(one).values()) & set(goals(other).values())
    assert not {task.task_id for task in one} & {task.task_id for task in other}


def test_grid_targets_are_spread_alike_for_every_codec() -> None:
    values = goals(planned(CONFIG))
    for codec in ("jpeg", "bpg", "svd"):
        ratios = [v for (_, name, goal), v in values.items() if (name, goal) == (codec, "ratio8")]
        assert len(set(ratios)) == 40
        assert 8 / 1.1 <= min(ratios) < 7.6 < 8.4 < max(ratios) <= 8 * 1.1
        ssims = [v for (_, name, goal), v in values.items() if (name, goal) == (codec, "ssim0.9")]
        assert 0.89 <= min(ssims) < 0.895 < 0.904 < max(ssims) <= 1 - 0.1 / 1.1 + 1e-6
    exact = goals(planned(dataclasses.replace(CONFIG, target_spread=0.0)))
    assert set(exact.values()) == {8.0, 16.0, 0.9}


def test_random_targets_fill_their_ranges() -> None:
    config = dataclasses.replace(
        CONFIG, ratios=(), ssims=(), random_ratios=20, random_ssims=20, ratio_range=(5.0, 50.0)
    )
    tasks = planned(config)
    assert all(goal.nominal is None for task in tasks for goal in task.goals)
    values = goals(tasks)
    ratios = np.array([v for (_, _, goal), v in values.items() if goal.startswith("ratio")])
    ssims = np.array([v for (_, _, goal), v in values.items() if goal.startswith("ssim")])
    assert len(ratios) == len(ssims) == 40 * 3 * 20
    shares = np.histogram(np.log(ratios), bins=5, range=(math.log(5), math.log(50)))[0]
    assert shares.min() > 0.8 * shares.max()
    assert 0.75 <= ssims.min() < 0.76 < 0.97 < ssims.max() <= 0.98


def test_rough_targets_say_how_rough() -> None:
    rough = dataclasses.replace(CONFIG, target_tolerance=0.1, random_ratios=1, random_ssims=1)
    exact = dataclasses.replace(rough, target_tolerance=None)
    assert goals(planned(rough)) == goals(planned(exact)), "what is asked stays the same"
    ids = [{t.task_id for t in planned(c) if t.codec != "uncompressed"} for c in (rough, exact)]
    assert not ids[0] & ids[1]
    for goal in (goal for task in planned(rough) for goal in task.goals):
        if isinstance(goal.target, RatioTarget):
            assert goal.target.relative_tolerance == 0.1
        elif goal.target is not None:
            tolerance = goal.target.absolute_tolerance
            assert tolerance == pytest.approx(0.1 * (1 - goal.target.value), rel=1e-4)
    for wrong in (0.0, 1.5):
        with pytest.raises(BuildError, match="target_tolerance"):
            dataclasses.replace(CONFIG, target_tolerance=wrong)


@pytest.mark.parametrize("settings", [1, 2, 3, 7])
def test_settings_share_the_targets_out(settings: int) -> None:
    config = dataclasses.replace(CONFIG, ratios=(5.0, 10.0), settings_per_source=settings)
    tasks = planned(config)
    for one in SOURCES[:5]:
        for codec in config.codecs:
            own = [task for task in tasks if (task.source, task.codec) == (one, codec)]
            names = sorted(goal.name for task in own for goal in task.goals)
            lossy = codec != "uncompressed"
            assert names == (["ratio10", "ratio5", "ssim0.9"] if lossy else ["none"])
            assert len(own) == (min(settings, 3) if lossy else 1)
    used = {json.dumps(task.params) for task in tasks if task.codec == "jpeg"}
    assert len(used) > len(CODECS["jpeg"].variants()) // 2


def test_histories_with_one_beginning_share_a_search() -> None:
    names = ("single", "cropped", "blurred", "double")
    config = dataclasses.replace(CONFIG, histories=tuple(HISTORIES[name] for name in names))
    own = [task for task in planned(config) if task.source is SOURCES[0] and task.codec == "bpg"]
    assert sorted(len(task.histories) for task in own) == [1, 3]


@pytest.mark.parametrize(
    "change",
    [
        {"codecs": ("gif",)}, {"codecs": ()}, {"codecs": ("jpeg", "jpeg")}, {"ratios": (0.5,)},
        {"ssims": (1.5,)}, {"ratios": (), "ssims": ()}, {"patch_size": 4},
        {"patches_per_class": -1}, {"ratios": (5.0, 5.0)}, {"target_spread": 1.5},
        {"ratio_range": (9.0, 3.0)}, {"ssim_range": (0.5, 1.0)}, {"random_ratios": -1},
        {"histories": ()}, {"label_rule": "middle"}, {"settings_per_source": 0}, {"seed": -1},
    ],
    ids=str,
)  # fmt: skip
def test_bad_settings(change: dict[str, object]) -> None:
    with pytest.raises(BuildError, match=r"Received|Give"):
        dataclasses.replace(CONFIG, **change)


def test_settings_survive_json() -> None:
    config = dataclasses.replace(CONFIG, histories=(HISTORIES["cropped"],))
    assert json.loads(json.dumps(config.to_json())) == config.to_json()
