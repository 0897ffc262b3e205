"""The evaluator on answers made by hand, whose scores are known."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_patches import LABELS, fake_dataset
from sklearn import metrics

from datasets.patches import load_patches
from train.evaluation_report import write_report
from train.evaluator import EvaluationError, evaluate, evaluate_run, scores
from train.run import Run


class Oracle:
    """Knows the truth of every patch in order; `wrong` maps patch numbers to other answers."""

    def __init__(self, truth: list[int], wrong: dict[int, int], sure: float = 0.8) -> None:
        self.answers = [wrong.get(i, label) for i, label in enumerate(truth)]
        self.sure = sure
        self.asked = 0

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        assert pixels.dtype == np.uint8
        here = self.answers[self.asked : self.asked + len(pixels)]
        self.asked += len(pixels)
        other = (1 - self.sure) / (len(LABELS) - 1)
        return np.where(np.eye(len(LABELS))[here] == 1, self.sure, other).astype(np.float32)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two test sources of 3 classes × 4 patches, after a training source."""
    folder = tmp_path_factory.mktemp("fake") / "dataset"
    return fake_dataset(folder, splits=("train", "test", "test"))


def _truth(dataset: Path) -> list[int]:
    rows = load_patches(dataset).table.to_pylist()
    return [LABELS.index(row["label"]) for row in rows if row["split"] == "test"]


def test_known_scores(dataset: Path) -> None:
    # One jpeg patch (4) called kmeans, one uncompressed patch (0) called jpeg; three of the four
    # patches of the second source's kmeans image (20-22) called jpeg.
    wrong = {4: 2, 0: 1, 20: 1, 21: 1, 22: 1}
    done: list[tuple[int, int]] = []
    report = evaluate(
        Oracle(_truth(dataset), wrong),
        load_patches(dataset),
        "test",
        progress=lambda *at: done.append(at),
    )
    assert (report.sources, report.samples, report.patches) == (2, 6, 24)
    assert done[-1] == (24, 24)
    assert report.patch.accuracy == pytest.approx(19 / 24)
    assert report.patch.confusion == ((7, 1, 0), (0, 7, 1), (0, 3, 5))
    assert [c.recall for c in report.patch.per_class] == pytest.approx([7 / 8, 7 / 8, 5 / 8])
    assert [c.precision for c in report.patch.per_class] == pytest.approx([1, 7 / 11, 5 / 6])
    assert report.patch.macro_f1 == pytest.approx((14 / 15 + 14 / 19 + 10 / 14) / 3)
    assert report.patch.log_loss == pytest.approx(
        -(19 * math.log(0.8) + 5 * math.log(0.1)) / 24, rel=1e-5
    )
    assert (report.patch.compressed_count, report.image.compressed_count) == (16, 4)
    assert report.patch.compressed_accuracy == pytest.approx(12 / 16)
    assert report.image.accuracy == pytest.approx(5 / 6)
    assert report.image.compressed_accuracy == pytest.approx(3 / 4)
    assert report.image.confusion == ((2, 0, 0), (0, 2, 0), (0, 1, 1))
    bands = {(b.level, b.measure, b.low, b.label): (b.count, b.accuracy) for b in report.bands}
    assert bands["patch", "ratio", 15.0, "jpeg"] == (8, 7 / 8)
    assert bands["patch", "ratio", 15.0, "compressed"] == (8, 7 / 8)
    assert bands["patch", "ssim", 0.93, "kmeans"] == (8, 5 / 8)
    assert bands["image", "ratio", 7.5, "compressed"] == (2, 1 / 2)
    assert not any(label == "uncompressed" for *_, label in bands)


def test_scores_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth, sources = rng.integers(0, 3, 200), rng.integers(0, 6, 200).astype(str).tolist()
    probabilities = rng.dirichlet(np.ones(4), 200)  # the fourth class never occurs
    probabilities[truth != 2, 2] = 0
    probabilities[truth == 1, 1] += 0.5
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    found = scores(truth, probabilities, ["uncompressed", "jpeg", "bpg", "svd"], sources)
    answer = probabilities.argmax(axis=1)
    each = metrics.precision_recall_fscore_support(
        truth, answer, labels=range(4), zero_division=0.0
    )
    for name, expected in zip(("precision", "recall", "f1", "support"), each, strict=True):
        assert [getattr(c, name) for c in found.per_class] == pytest.approx(expected), name
    assert found.accuracy == pytest.approx(metrics.accuracy_score(truth, answer))
    assert found.macro_f1 == pytest.approx(each[2][:3].mean())
    assert found.worst_recall == pytest.approx(each[1][:3].min())
    assert found.log_loss == pytest.approx(metrics.log_loss(truth, probabilities, labels=range(4)))
    assert found.compressed_accuracy == pytest.approx(
        np.mean(answer[truth > 0] == truth[truth > 0])
    )
    assert np.array_equal(found.confusion, metrics.confusion_matrix(truth, answer, labels=range(4)))


def test_intervals_are_over_sources(dataset: Path) -> None:
    """Of two sources one is all right: every resample draws 0, 1 or 2 of it."""
    truth = _truth(dataset)
    wrong = {12 + i: (truth[12 + i] + 1) % 3 for i in range(6)}  # half of the second source
    report = evaluate(Oracle(truth, wrong), load_patches(dataset), "test")
    assert (report.patch.accuracy_low, report.patch.accuracy_high) == (0.5, 1.0)
    uncompressed = report.patch.per_class[0]
    assert (uncompressed.recall_low, uncompressed.recall_high) == (0, 1)
    assert (report.patch.worst_recall_low, report.patch.worst_recall_high) == (0, 1)
    right, mistaken = -math.log(0.8), -math.log(0.1)
    assert report.patch.log_loss_low == pytest.approx(right)
    assert report.patch.log_loss_high == pytest.approx((right + mistaken) / 2)
    for score in (report.patch, report.image):
        for name in ("accuracy", "log_loss", "macro_f1", "worst_recall", "compressed_accuracy"):
            low, high = getattr(score, f"{name}_low"), getattr(score, f"{name}_high")
            assert low <= getattr(score, name) <= high, name
    for band in report.bands:
        assert band.accuracy_low <= band.accuracy <= band.accuracy_high


def test_one_source_has_no_interval(tmp_path: Path) -> None:
    single = fake_dataset(tmp_path / "single", splits=("test",))
    report = evaluate(Oracle(_truth(single), {0: 1}), load_patches(single), "test")
    assert report.patch.accuracy == pytest.approx(11 / 12)
    assert report.patch.accuracy_low is report.patch.log_loss_high is None
    assert report.bands[0].accuracy_low is report.patch.per_class[0].f1_high is None
    written = write_report(report, tmp_path / "report")
    assert "| accuracy | 91.7 % | 100.0 % |" in written[1].read_text()


def test_splits_and_labels(dataset: Path) -> None:
    patches = load_patches(dataset)
    everything = [LABELS.index(label) for label in patches.table["label"].to_pylist()]
    assert evaluate(Oracle(everything, {}), patches, "all").patches == 36
    # A classifier that knows more classes, in another order, is judged by its own.
    labels = ["bpg", "kmeans", "jpeg", "uncompressed"]
    order = [labels.index(LABELS[place]) for place in _truth(dataset)]
    report = evaluate(lambda _: np.eye(4)[order], patches, "test", labels=labels)
    assert report.patch.accuracy == report.patch.macro_f1 == 1
    assert report.patch.per_class[0].support == 0
    with pytest.raises(EvaluationError, match="does not know: kmeans"):
        evaluate(Oracle([], {}), patches, "test", labels=["uncompressed", "jpeg"])
    with pytest.raises(EvaluationError, match="no patch"):
        evaluate(Oracle([], {}), patches, "val")
    with pytest.raises(EvaluationError, match="split must be"):
        evaluate(Oracle([], {}), patches, "dev")
    with pytest.raises(EvaluationError, match="predict must answer"):
        evaluate(lambda _: np.ones((1, 3)), patches, "test")


def test_report_files(dataset: Path, tmp_path: Path) -> None:
    report = evaluate(Oracle(_truth(dataset), {4: 2}), load_patches(dataset), "test")
    history = [{"epoch": 1.0, "loss": 1.0, "accuracy": 0.5, "val_loss": 1.1, "val_accuracy": 0.4}]
    written = write_report(report, tmp_path / "report", history)
    assert {path.name for path in written} == {
        "report.json",
        "report.md",
        "per_class.csv",
        "confusion_patch.csv",
        "confusion_image.csv",
        "bands.csv",
        "confusion_patch.png",
        "confusion_image.png",
        "bands.png",
        "history.png",
    }
    assert all(path.stat().st_size > 0 for path in written)
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["patch"]["accuracy"] == report.patch.accuracy
    assert content["sources"] == 2
    with (tmp_path / "report" / "confusion_patch.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["truth", *LABELS]
    assert rows[2] == ["jpeg", "0", "7", "1"]
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| accuracy | 95.8 % (91.7 % … 100.0 %) | 100.0 % (100.0 % … 100.0 %) |" in text


def _run(path: Path, train: list[str], val: list[str]) -> Run:
    """A run whose model is never loaded: its answers are put in its place."""
    run = Run(path, {}, LABELS, 32, {"train": train, "val": val}, [])
    run.__dict__["predict"] = lambda pixels: np.full((len(pixels), 3), 1 / 3)
    return run


def test_judging_on_training_pictures_is_refused(dataset: Path, tmp_path: Path) -> None:
    rows = load_patches(dataset).table.to_pylist()
    digests = {
        split: sorted({row["source_sha256"] for row in rows if row["split"] == split})
        for split in ("train", "test")
    }
    run = _run(tmp_path, digests["train"], digests["test"][:1])
    report = evaluate_run(run, dataset, "test")
    assert (report.sources, report.validation_sources) == (2, 1)
    assert evaluate_run(run, dataset, "train").sources == 1
    with pytest.raises(EvaluationError, match="trained on 1 of the 3 source pictures"):
        evaluate_run(run, dataset, "all")
    with pytest.raises(EvaluationError, match="worth nothing"):
        evaluate_run(_run(tmp_path, digests["test"], []), dataset, "test")


def test_patches_of_another_size_are_for_networks_that_take_any(tmp_path: Path) -> None:
    larger = fake_dataset(tmp_path / "larger", splits=("test",), size=48)
    run = _run(tmp_path, [], [])
    run.__dict__["model"] = SimpleNamespace(input_shape=(None, 32, 32, 3))
    with pytest.raises(EvaluationError, match="--patch-size 32"):
        evaluate_run(run, larger, "test")
    run.__dict__["model"] = SimpleNamespace(input_shape=(None, None, None, 3))
    assert evaluate_run(run, larger, "test").patches == 12
