"""The search for settings."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest
from fake_patches import fake_dataset

from train.run import Run
from train.settings import TrainConfig, TrainError, read_config
from train.tuner import tune

BASE = TrainConfig(model="lenet", epochs=1, batch_size=16)


class Killed(BaseException):
    """What the tests throw to end a search; keras-tuner lets trials fail by an `Exception`."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_dataset(tmp_path_factory.mktemp("fake") / "dataset")


def _trials(out: Path) -> list[dict[str, str]]:
    with (out / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("method", ["random", "bayesian"])
def test_search(method: str, dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    out = tmp_path / "search"
    trials: list[str] = []

    def kill(event: dict) -> None:
        if trials and event["trial"] != trials[0]:
            raise Killed
        trials.append(event["trial"])

    options = {"method": method, "max_trials": 2, "base": BASE}
    with pytest.raises(Killed):
        tune(dataset, out, progress=kill, **options)  # type: ignore[arg-type]
    best = tune(dataset, out, **options)  # type: ignore[arg-type]
    losses = {
        path.name: min(row["val_loss"] for row in Run.load(path).history)
        for path in (out / "runs").iterdir()
    }
    assert len(losses) == 2
    first = min(losses, key=losses.__getitem__)
    assert read_config(out / "runs" / first / "config.json") == best
    assert read_config(out / "best.json") == best
    rows = _trials(out)
    assert {row["trial"]: float(row["loss"]) for row in rows} == pytest.approx(losses)
    assert rows[0]["trial"] == first
    # The same call again trains nothing and finds the same.
    trials.clear()
    again = tune(dataset, out, progress=lambda event: trials.append(""), **options)  # type: ignore[arg-type]
    assert (again, trials) == (best, [])
    assert capfd.readouterr().out == ""
    with pytest.raises(TrainError, match="other settings"):
        tune(dataset, out, max_trials=2)


def test_hyperband_trains_the_best_longer(dataset: Path, tmp_path: Path) -> None:
    base = dataclasses.replace(BASE, epochs=3)
    best = tune(dataset, tmp_path / "search", method="hyperband", base=base)
    rows = _trials(tmp_path / "search")
    epochs = [int(row["epochs"]) for row in rows]
    assert set(epochs) == {1, 3}
    for row in rows:
        run = Run.load(tmp_path / "search" / "runs" / row["trial"])
        assert len(run.history) == int(row["epochs"])
    # A trial of three epochs has the settings of one that was the best after one.
    names = ("width", "dropout", "learning_rate", "weight_decay", "batch_size", "label_smoothing")
    short = [[row[name] for name in names] for row in rows if row["epochs"] == "1"]
    assert any([row[name] for name in names] in short for row in rows if row["epochs"] == "3")
    assert best.epochs == 3
    content = json.loads((tmp_path / "search" / "best.json").read_text())
    assert str(content["learning_rate"]) == rows[0]["learning_rate"]


def test_what_cannot_be_searched(dataset: Path, tmp_path: Path) -> None:
    for wrong in (
        {"method": "grid"},
        {"max_trials": 0},
        {"models": ["vgg"]},
        {"models": []},
        {"method": "hyperband", "max_trials": 3},
    ):
        with pytest.raises(TrainError, match="Received"):
            tune(dataset, tmp_path / "search", base=BASE, **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "search").exists()
