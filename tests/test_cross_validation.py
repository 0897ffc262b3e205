"""Folds of the sources, and the runs made from them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from fake_patches import fake_dataset

from datasets.patches import load_patches
from train.cross_validation import cross_validate, fold_splits
from train.run import Run
from train.settings import TrainConfig, TrainError

QUICK = TrainConfig(model="lenet", epochs=1, batch_size=16)


class Killed(Exception):
    """What the tests throw from a progress function to end a training."""


@pytest.mark.parametrize("folds", [3, 5, 11])
def test_every_group_is_judged_once_and_test_groups_never(folds: int) -> None:
    groups = [f"group{place % 14}" for place in range(50)]
    splits = [("train", "val", "train", "train", "test")[int(group[5:]) % 5] for group in groups]
    home = dict(zip(groups, splits, strict=True))
    kept = {group for group, split in home.items() if split != "test"}
    assigned = fold_splits(groups, splits, folds, seed=1)
    assert len(assigned) == folds
    for role in ("test", "val"):
        found = [group for fold in assigned for group, split in fold.items() if split == role]
        assert sorted(found) == sorted(kept)
    for fold in assigned:
        assert fold.keys() == home.keys()
        assert {group for group, split in fold.items() if split == "unused"} == set(home) - kept
        assert {"train", "val", "test"} <= set(fold.values())
    assert assigned == fold_splits(groups[::-1], splits[::-1], folds, seed=1)
    assert assigned != fold_splits(groups, splits, folds, seed=2)


def test_impossible_folds() -> None:
    for folds in (2, 4):
        with pytest.raises(TrainError, match="at least 3"):
            fold_splits(["a", "b", "c", "d"], ["train", "train", "val", "test"], folds, seed=0)


def test_cross_validation(tmp_path: Path) -> None:
    dataset = fake_dataset(tmp_path / "dataset", splits=("train", "train", "val", "test"))
    table = load_patches(dataset).table.to_pylist()
    digests = {row["source_sha256"] for row in table if row["split"] != "test"}

    def kill(event: dict) -> None:
        if event["fold"] == 2:
            raise Killed

    with pytest.raises(Killed):
        cross_validate(dataset, tmp_path / "out", QUICK, 3, kill)
    again: set[int] = set()
    result = cross_validate(
        dataset, tmp_path / "out", QUICK, 3, lambda event: again.add(event["fold"])
    )
    assert again == {2, 3}
    judged = []
    for fold in result.folds:
        run = Run.load(tmp_path / "out" / f"fold-{fold.fold}")
        seen = {digest for split in run.sources.values() for digest in split}
        assert seen < digests
        (held_out,) = digests - seen
        judged.append(held_out)
        rows = [place for place, row in enumerate(table) if row["source_sha256"] == held_out]
        answers = run.predict(load_patches(dataset).pixels[rows]).argmax(axis=1)
        truth = [run.labels.index(table[row]["label"]) for row in rows]
        assert fold.patch_accuracy == pytest.approx(np.mean(answers == truth))
        assert (fold.sources, fold.patches, fold.epochs) == (1, 12, 1)
    assert set(judged) == digests
    for name in ("patch", "image"):
        scores = [getattr(fold, f"{name}_accuracy") for fold in result.folds]
        assert getattr(result, f"{name}_accuracy_mean") == pytest.approx(np.mean(scores))
        assert getattr(result, f"{name}_accuracy_std") == pytest.approx(np.std(scores, ddof=1))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["patch_accuracy_mean"] == result.patch_accuracy_mean
    with (tmp_path / "out" / "folds.csv").open(newline="") as file:
        assert [row["fold"] for row in csv.DictReader(file)] == ["1", "2", "3"]
    with pytest.raises(TrainError, match="other settings"):
        cross_validate(dataset, tmp_path / "out", TrainConfig(), 3)
