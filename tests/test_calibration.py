"""Calibration: known distortions are found again, and scores agree with second ways to get them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics
from tiny_dataset import LABELS, HerePool, write_tiny_dataset

from datasets.patches import PatchConfig, extract_patches, load_patches
from train.calibration import (
    CALIBRATION_FILE,
    Calibration,
    CalibrationError,
    ImageScores,
    fit_calibration,
    improvement,
    sharpened,
)
from train.evaluator import EvaluationError
from train.families import FAMILIES, family_accuracy, family_of, family_probabilities
from train.outputs import Outputs
from train.reliability import (
    brier_score,
    cllr,
    cllr_against_rest,
    draw_reliability,
    expected_calibration_error,
    log_loss,
    quality,
    reliability_table,
)
from train.run import Run
from train.unknown import FALSE_REJECTION, Rejection
from train.validation import calibrate_run, training_density, validation_images
from train.verdict import verdict_from_patches

CLASSES = ("jpeg", "bpg", "heic", "svd")


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def witnesses(
    images: int, patches: int, *, shared: float = 0.0, sharpness: float = 1.0, seed: int = 0
) -> list[ImageScores]:
    """Images of patches with Gaussian evidence, read as if patches were independent.

    Each patch sees its class with noise of variance 4, a part `shared` of it the same in all
    patches of an image. With `sharpness` 1 a single patch is calibrated.
    """
    rng = np.random.default_rng(seed)
    found = []
    for number in range(images):
        truth = number % len(CLASSES)
        common = rng.normal(0, 2 * np.sqrt(shared), len(CLASSES))
        own = rng.normal(0, 2 * np.sqrt(1 - shared), (patches, len(CLASSES)))
        seen = np.eye(len(CLASSES))[truth] * 2 + common + own
        # Density ratio of N(2, 4) and N(0, 4): exp(x / 2) up to what all classes share.
        found.append(ImageScores(softmax(sharpness * seen / 2), truth, f"source{number // 4}"))
    return found


def test_a_known_temperature_is_found() -> None:
    fitted = fit_calibration(witnesses(4000, 1, sharpness=2.5), CLASSES)
    assert fitted.between.temperature == pytest.approx(2.5, rel=0.1)
    assert fitted.between.scale == pytest.approx(1 / 2.5, rel=0.1)
    raw = witnesses(4000, 1, sharpness=2.5, seed=1)
    probabilities = np.concatenate([image.probabilities for image in raw])
    truth = [image.truth for image in raw]
    assert expected_calibration_error(probabilities, truth) > 0.1
    calibrated = fitted.patch_probabilities(probabilities)
    assert expected_calibration_error(calibrated, truth) < 0.03
    np.testing.assert_array_equal(calibrated.argmax(axis=1), probabilities.argmax(axis=1))


@pytest.mark.parametrize("shared", [0.0, 0.3, 1.0])
def test_the_correlation_of_witnesses_is_found(shared: float) -> None:
    fitted = fit_calibration(witnesses(600, 16, shared=shared), CLASSES)
    assert fitted.between.correlation == pytest.approx(shared, abs=0.1)
    assert fitted.between.scale == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("patches", [1, 8, 100])
def test_any_number_of_patches_is_calibrated(patches: int) -> None:
    fitted = fit_calibration(witnesses(300, 100, shared=0.3, sharpness=2), CLASSES)
    fresh = witnesses(3000, patches, shared=0.3, sharpness=2, seed=5)
    truth = [image.truth for image in fresh]
    stated = [fitted.image_probabilities(image.probabilities) for image in fresh]
    assert expected_calibration_error(stated, truth) < 0.04
    _, change = improvement(fitted, fresh)
    assert change.after == quality(stated, truth)
    assert change.after.log_loss < change.before.log_loss


def modest_about_twins(images: list[ImageScores]) -> list[ImageScores]:
    """Answers that tell bpg from heic with a third of the evidence that there is."""
    found = []
    for image in images:
        logs = np.log(image.probabilities)
        twins = logs[:, 1:3]
        half = twins.mean(axis=1, keepdims=True)
        logs[:, 1:3] = half + (twins - half) / 3
        found.append(dataclasses.replace(image, probabilities=softmax(logs)))
    return found


def test_twins_have_a_sharpness_of_their_own() -> None:
    fitted = fit_calibration(modest_about_twins(witnesses(1200, 4)), CLASSES)
    assert fitted.within.temperature == pytest.approx(1 / 3, rel=0.25)
    assert fitted.within.scale > 1.5 * fitted.between.scale
    fresh = modest_about_twins(witnesses(3000, 4, seed=5))
    truth = np.array([image.truth for image in fresh])
    alike = dataclasses.replace(fitted, within=fitted.between)
    stated, before = (
        np.array([one.image_probabilities(image.probabilities) for image in fresh])
        for one in (fitted, alike)
    )
    assert expected_calibration_error(stated, truth) < 0.7 * expected_calibration_error(
        before, truth
    )
    np.testing.assert_array_equal(stated.argmax(axis=1), before.argmax(axis=1))
    _, sums = family_probabilities(stated, CLASSES)
    np.testing.assert_allclose(sums, family_probabilities(before, CLASSES)[1])


@given(
    logs=arrays(np.float64, (5, 4), elements=st.floats(-16, 0)),
    between=st.floats(0.05, 20),
    within=st.floats(0.05, 20),
)
def test_sharpening_changes_no_most_probable_class(
    logs: np.ndarray, between: float, within: float
) -> None:
    found = sharpened(logs, between, within, CLASSES)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)
    best = logs.argmax(axis=1)
    np.testing.assert_allclose(found[range(5), best], found.max(axis=1), rtol=1e-9, atol=1e-12)
    alone = sharpened(logs[:, [0, 3]], between, within, ["jpeg", "svd"])
    np.testing.assert_allclose(alone, np.log(softmax(between * logs[:, [0, 3]])), atol=1e-9)


def test_faultless_answers_leave_the_fit_finite() -> None:
    sure = np.full((5, 4), 1e-3 / 3) + np.eye(4)[0] * (1 - 4e-3 / 3)
    images = [ImageScores(np.roll(sure, n % 4, axis=1), n % 4, str(n)) for n in range(20)]
    fitted = fit_calibration(images, CLASSES)
    assert 1 < fitted.between.scale < 5
    assert 0.2 < fitted.between.temperature < 1


def test_each_class_weighs_the_same() -> None:
    images = witnesses(2000, 4, sharpness=2)
    again = [
        ImageScores(image.probabilities, image.truth, image.source)
        for image in images
        for _ in range(5 if image.truth == 0 else 1)
    ]
    one, other = fit_calibration(images, CLASSES), fit_calibration(again, CLASSES)
    assert one.between.temperature == pytest.approx(other.between.temperature, rel=1e-3)
    assert one.between.scale == pytest.approx(other.between.scale, rel=0.05)
    assert one.between.of_image(4) == pytest.approx(other.between.of_image(4), rel=0.02)


def test_likelihood_ratios_are_bounded_by_the_sources() -> None:
    fitted = fit_calibration(witnesses(80, 4), CLASSES)
    assert fitted.fitted_on.sources == 20
    assert fitted.fitted_on.sources_by_class == dict.fromkeys(CLASSES, 20)
    modest = np.array([0.5, 0.3, 0.1, 0.1])
    ratio = 10 ** fitted.log10_likelihood_ratio(modest, "jpeg")
    assert ratio == pytest.approx((0.5 / 0.5) * 3)
    # Back to the posterior under equal priors.
    assert ratio / 3 / (1 + ratio / 3) == pytest.approx(0.5)
    sure = np.array([1.0, 0.0, 0.0, 0.0])
    assert 10 ** fitted.log10_likelihood_ratio(sure, "jpeg") == pytest.approx(21)
    assert 10 ** fitted.log10_likelihood_ratio(sure, "svd") == pytest.approx(1 / 21)
    # A class without validation pictures: nothing can be said against it.
    only = [image for image in witnesses(80, 4) if image.truth != 3]
    bounds = fit_calibration(only, CLASSES).bounds
    assert bounds["svd"] == (0.0, pytest.approx(np.log10(21)))


def test_scores_against_a_second_way() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([0.6, 0.6, 0.6], 500)
    truth = np.array([rng.choice(3, p=p) for p in probabilities])
    assert log_loss(probabilities, truth) == pytest.approx(metrics.log_loss(truth, probabilities))
    binary = np.stack([probabilities[:, 0], 1 - probabilities[:, 0]], axis=1)
    assert brier_score(binary, truth != 0) == pytest.approx(
        2 * metrics.brier_score_loss(truth == 0, probabilities[:, 0])
    )
    assert cllr(np.full((500, 3), 1 / 3), truth) == pytest.approx(np.log2(3))
    slow = [
        np.mean([-np.log2(p[k]) for p, t in zip(probabilities, truth, strict=True) if t == k])
        for k in range(3)
    ]
    assert cllr(probabilities, truth) == pytest.approx(np.mean(slow))
    logs = rng.normal(0, 1, 500)
    own = truth == 0
    ratios = 10**logs
    assert cllr_against_rest(logs, own) == pytest.approx(
        (np.log2(1 + 1 / ratios[own]).mean() + np.log2(1 + ratios[~own]).mean()) / 2
    )


def test_reliability_bins() -> None:
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet([0.5, 0.5, 0.5], 300)
    truth = rng.integers(0, 3, 300)
    right = probabilities.argmax(axis=1) == truth
    confidence = probabilities.max(axis=1)
    for equal_width in (False, True):
        table = reliability_table(probabilities, truth, 15, equal_width=equal_width)
        assert sum(bin_.count for bin_ in table) == 300
        weighted = sum(bin_.count * bin_.accuracy for bin_ in table) / 300
        assert weighted == pytest.approx(right.mean())
        error = sum(bin_.count * abs(bin_.accuracy - bin_.confidence) for bin_ in table) / 300
        found = expected_calibration_error(probabilities, truth, 15, equal_width=equal_width)
        assert found == pytest.approx(error)
    assert {b.count for b in reliability_table(probabilities, truth)} == {20}
    wide = {
        round(float(bin_.confidence * 5 // 1)): bin_.count
        for bin_ in reliability_table(probabilities, truth, 5, equal_width=True)
    }
    assert wide == {k: n for k in range(5) if (n := int(np.sum((confidence * 5) // 1 == k)))}


def test_reliability_diagram(tmp_path: Path) -> None:
    table = reliability_table([[0.8, 0.2], [0.4, 0.6]], [0, 0], 2)
    draw_reliability({"raw": table}, tmp_path / "reliability.png")
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")


def test_file_keeps_the_calibration(tmp_path: Path) -> None:
    assert Calibration.load(tmp_path) is None
    fitted = fit_calibration(witnesses(40, 4), CLASSES, model_sha256="ab", patches_sha256="cd")
    fitted.save(tmp_path)
    first = (tmp_path / CALIBRATION_FILE).read_bytes()
    assert Calibration.load(tmp_path) == fitted
    fit_calibration(witnesses(40, 4), CLASSES, model_sha256="ab", patches_sha256="cd").save(
        tmp_path
    )
    assert (tmp_path / CALIBRATION_FILE).read_bytes() == first
    flat = {"temperature": 1.0, "scale": -1, "correlation": 0.0}
    for change in (
        {"between": flat},
        {"within": {**flat, "scale": float("nan")}},
        {"within": {"scale": 1.0}},
        {"within": {**flat, "scale": [1.0]}},
        {"within": [1.0]},
        {"bounds": {}},
        {"labels": 3},
    ):
        content = json.loads(first) | change
        (tmp_path / CALIBRATION_FILE).write_text(json.dumps(content))
        with pytest.raises(CalibrationError, match=r"impossible|cannot be read"):
            Calibration.load(tmp_path)
    (tmp_path / CALIBRATION_FILE).write_text(json.dumps({"temperature": 1.0, "scale": 1.0}))
    with pytest.raises(CalibrationError, match="earlier version; calibrate anew"):
        Calibration.load(tmp_path)
    with pytest.raises(CalibrationError, match="at least one"):
        fit_calibration([], CLASSES)


def test_verdict_uses_the_calibration() -> None:
    fitted = fit_calibration(witnesses(80, 4, sharpness=3), CLASSES)
    patches = [[0.7, 0.1, 0.1, 0.1], [0.6, 0.2, 0.1, 0.1]]
    verdict, raw = (verdict_from_patches(patches, CLASSES, calibration=c) for c in (fitted, None))
    assert verdict.calibrated
    assert not raw.calibrated
    assert raw.log10_likelihood_ratio is None
    stated = fitted.image_probabilities(patches)
    assert list(verdict.probabilities.values()) == pytest.approx(stated)
    assert verdict.log10_likelihood_ratio == fitted.log10_likelihood_ratio(stated, "jpeg")


def test_families() -> None:
    from imagecompression import CODECS

    assert set(CODECS) <= set(FAMILIES)
    assert family_of("some-new-codec") == "some-new-codec"
    # HEVC by its sum although jpeg is the most probable class; then a near and a far miss.
    probabilities = [[0.4, 0.3, 0.3, 0.0], [0.1, 0.2, 0.7, 0.0], [0.9, 0.1, 0.0, 0.0]]
    assert family_accuracy(probabilities, [1, 1, 3], CLASSES) == pytest.approx(2 / 3)
    assert family_accuracy(probabilities, [0, 2, 0], CLASSES) == pytest.approx(2 / 3)


# On a dataset.


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "dataset"
    write_tiny_dataset(folder)
    extract_patches(folder, PatchConfig(32, 8, 0), HerePool())
    # What must not be read is not there.
    for row in load_patches(folder).table.to_pylist():
        if row["split"] == "test":
            for file in (folder / "encoded").rglob(f"{row['sample_id']}*"):
                file.unlink()
    return folder


def fake_run(path: Path, train: list[str]) -> Run:
    """A run whose answers follow from the pixels, and whose model is never loaded."""
    path.mkdir()
    run = Run(path, {}, LABELS, 32, {"train": train, "val": []}, [])

    def outputs(pixels: np.ndarray) -> Outputs:
        spread = pixels.reshape(len(pixels), -1, 3).std(axis=1).astype(np.float32)
        embedding = np.concatenate([spread, pixels.mean(axis=(1, 2), dtype=np.float32)], axis=1)
        logits = spread / 16
        return Outputs(softmax(logits).astype(np.float32), logits, embedding)

    run.__dict__.update({"outputs": outputs, "model_sha256": "ab", "_onnx": (None, "")})
    return run


def test_calibrate_run(dataset: Path, tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", [])
    seen: list[tuple[str, int, int]] = []
    calibrated = calibrate_run(run, dataset, progress=lambda *event: seen.append(event))
    names = {"calibration.json", "unknown.npz", "reliability.png"}
    assert {path.name for path in run.path.iterdir()} == names
    assert run.calibration == calibrated.calibration
    fitted = calibrated.calibration.fitted_on
    rows = [r for r in load_patches(dataset).table.to_pylist() if r["split"] == "val"]
    assert fitted.split == "val"
    assert fitted.sources == 1
    assert fitted.images == len({row["sample_id"] for row in rows})
    assert {event[0] for event in seen} == {
        "classifying validation pictures",
        "classifying training patches",
    }
    assert seen[-1][1] == seen[-1][2]
    # The rejection that is read again gives up no more validation pictures than promised.
    rejection = run.rejection
    assert isinstance(rejection, Rejection)
    images = validation_images(run, dataset)
    rejected = [bool(rejection.reason(image.outputs)) for image in images]
    assert np.mean(rejected) <= FALSE_REJECTION
    # The same again writes the same.
    before = {name: (run.path / name).read_bytes() for name in names - {"reliability.png"}}
    calibrate_run(run, dataset)
    assert before == {name: (run.path / name).read_bytes() for name in before}
    # Another model's calibration is not used.
    other = Run(run.path, {}, LABELS, 32, {}, [])
    other.__dict__.update({"model_sha256": "cd", "_onnx": (None, "")})
    assert other.calibration is None
    assert other.rejection is None
    assert "not calibrated" in other.notes[0]
    assert run.notes == []


def test_calibrating_on_other_pictures(dataset: Path, tmp_path: Path) -> None:
    """Pictures of another dataset, all of them, but the density is of the training patches."""
    write_tiny_dataset(tmp_path / "others")
    extract_patches(tmp_path / "others", PatchConfig(32, 8, 0), HerePool())
    run = fake_run(tmp_path / "run", [])
    usual = calibrate_run(run, dataset)
    others = calibrate_run(run, dataset, others=tmp_path / "others")
    rows = load_patches(dataset).table.to_pylist()
    assert others.calibration.fitted_on.split == "all"
    assert others.calibration.fitted_on.images == len({row["sample_id"] for row in rows})
    assert others.calibration.fitted_on.sources > usual.calibration.fitted_on.sources
    for name in ("means", "whitening"):
        found = (getattr(one.rejection.density, name) for one in (usual, others))
        np.testing.assert_array_equal(*found)
    trained = fake_run(tmp_path / "trained", [rows[0]["source_sha256"]])
    with pytest.raises(CalibrationError, match="of the split 'all'"):
        calibrate_run(trained, dataset, others=tmp_path / "others")


def test_patches_larger_than_the_run_s_are_cropped(dataset: Path, tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", [])
    patches = load_patches(dataset)
    assert patches.patch_size == run.patch_size == 32
    larger = dataclasses.replace(
        patches, pixels=np.pad(patches.pixels, [(0, 0), (0, 9), (0, 9), (0, 0)]), patch_size=41
    )
    shapes: list[tuple[int, ...]] = []
    answer = run.outputs
    run.__dict__["outputs"] = lambda pixels: (shapes.append(pixels.shape), answer(pixels))[1]
    training_density(run, larger)
    assert {shape[1:] for shape in shapes} == {(32, 32, 3)}
    smaller = dataclasses.replace(patches, patch_size=31)
    with pytest.raises(CalibrationError, match="at least 32 pixels"):
        training_density(run, smaller)


def test_fewer_images_are_spread_over_the_classes(dataset: Path, tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", [])
    images = validation_images(run, dataset, 3)
    assert {image.label for image in images} == set(LABELS)
    assert len(images) == 3


def test_what_cannot_be_calibrated(dataset: Path, tmp_path: Path) -> None:
    rows = load_patches(dataset).table.to_pylist()
    trained = sorted({row["source_sha256"] for row in rows if row["split"] == "val"})
    with pytest.raises(CalibrationError, match="was trained on 1 source"):
        calibrate_run(fake_run(tmp_path / "trained", trained), dataset)
    fewer = Run(tmp_path, {}, ["uncompressed", "jpeg"], 32, {}, [])
    with pytest.raises(EvaluationError, match="does not know: jpeg2000"):
        calibrate_run(fewer, dataset)
    damaged = tmp_path / "damaged"
    shutil.copytree(dataset, damaged)
    for file in (damaged / "encoded").rglob("*.jpg"):
        file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(EvaluationError, match="hash"):
        calibrate_run(fake_run(tmp_path / "again", []), damaged)
    assert not (tmp_path / "again" / CALIBRATION_FILE).exists()
