"""The verdict: a pure function of patch probabilities, and the patches it asks for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from train.classification import classify
from train.outputs import Outputs
from train.run import Run
from train.unknown import EmbeddingDensity, Rejection
from train.verdict import (
    MOST_ASKED,
    VerdictError,
    as_json,
    patch_offsets,
    pooled_probabilities,
    telling_patches,
    traceless_patches,
    verdict_from_patches,
)

LABELS = ["jpeg", "bpg", "svd"]


def test_verdict_from_patches() -> None:
    verdict = verdict_from_patches([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.3, 0.6, 0.1]], LABELS)
    means = np.exp(np.log([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.3, 0.6, 0.1]]).mean(axis=0))
    assert verdict.label == "jpeg"
    assert (verdict.patches, verdict.agreement) == (3, pytest.approx(2 / 3))
    assert list(verdict.probabilities.values()) == pytest.approx(means / means.sum())
    assert as_json(verdict)["probabilities"]["bpg"] == verdict.probabilities["bpg"]


def test_one_patch_cannot_veto() -> None:
    certain = [[1.0, 0.0, 0.0]] * 9 + [[0.0, 1.0, 0.0]]
    pooled = pooled_probabilities(certain)
    assert np.isfinite(pooled).all()
    assert pooled.argmax() == 0
    np.testing.assert_allclose(pooled_probabilities(certain[::-1]), pooled)


@pytest.mark.parametrize("shape", [(0, 3), (2, 2), (3,)])
def test_wrong_probabilities(shape: tuple[int, ...]) -> None:
    with pytest.raises(VerdictError, match="Received"):
        verdict_from_patches(np.zeros(shape), LABELS)


@pytest.mark.parametrize(
    ("height", "width"), [(64, 64), (65, 200), (512, 768), (1000, 64), (3000, 4000), (256, 320)]
)
def test_patches_lie_inside_and_apart(height: int, width: int) -> None:
    rows, columns = patch_offsets(height, width, 64)
    assert 1 <= len(rows) * len(columns) <= 256
    for offsets, length in ((rows, height), (columns, width)):
        assert min(offsets) >= 0
        assert max(offsets) + 64 <= length
        assert all(np.diff(offsets) >= 64)
    assert patch_offsets(height, width, 64) == (rows, columns)


def test_patches_see_several_phases_of_the_grid() -> None:
    rows, columns = patch_offsets(512, 768, 64)
    assert len({row % 8 for row in rows}) >= 3
    assert len({column % 8 for column in columns}) >= 3


def test_number_of_patches_is_kept() -> None:
    for most in (1, 2, 7, 100):
        rows, columns = patch_offsets(640, 6400, 64, most)
        assert 0.5 * most <= len(rows) * len(columns) <= most


@pytest.mark.parametrize("shape", [(130, 200), (130, 200, 3)])
def test_patches_of_gray_and_colour(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    pixels, left_out = telling_patches(image, 64)
    assert (pixels.shape, pixels.dtype, left_out) == ((6, 64, 64, 3), np.uint8, 0)
    first = image[:64, :64]
    np.testing.assert_array_equal(
        pixels[0], first if first.ndim == 3 else first[..., None] + 0 * pixels[0]
    )


def test_of_many_patches_some_are_drawn_all_over() -> None:
    image = np.random.default_rng(0).integers(0, 128, (1024, 1000, 3), np.uint8)
    image[:, 500:] += 128
    image[:256] = 7  # says nothing
    pixels, left_out = telling_patches(image, 64)
    rows, columns = patch_offsets(1024, 1000, 64)
    assert len(pixels) == MOST_ASKED < len(rows) * len(columns) - left_out
    assert 0.2 < left_out / (len(rows) * len(columns)) < 0.3
    assert 20 <= np.sum(pixels.mean(axis=(1, 2, 3)) > 128) <= 44
    np.testing.assert_array_equal(telling_patches(image, 64)[0], pixels)


def test_pictures_without_a_verdict() -> None:
    with pytest.raises(VerdictError, match="Not enough pixels"):
        telling_patches(np.zeros((63, 900), np.uint8), 64)
    with pytest.raises(VerdictError, match="uint8"):
        telling_patches(np.zeros((90, 90), np.float32), 64)  # type: ignore[arg-type]
    with pytest.raises(VerdictError, match="max_patches"):
        telling_patches(np.zeros((90, 90), np.uint8), 64, max_patches=0)


# What is no plain name.


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_family_is_the_most_probable_sum() -> None:
    verdict = verdict_from_patches([[0.4, 0.3, 0.3]], ["jpeg", "bpg", "heic"])
    assert (verdict.label, verdict.probability) == ("jpeg", pytest.approx(0.4))
    assert (verdict.family, verdict.family_probability) == ("HEVC intra", pytest.approx(0.6))


def test_traceless_patches_by_hand() -> None:
    ramp = np.add.outer(np.zeros(32), np.arange(32) // 2).astype(np.uint8)  # one level in two
    steep = np.add.outer(np.zeros(32), np.arange(32) * 2).astype(np.uint8)
    chroma = np.stack([ramp * 0 + 90, ramp * 0 + 90, np.arange(32) % 2 * 6 + 90 + ramp * 0], -1)
    patches = np.stack(
        [
            np.full((32, 32, 3), 255),
            np.repeat(ramp[..., None], 3, -1),
            np.repeat(steep[..., None], 3, -1),
            noise(32, 32),
            chroma,  # blue alone: 0.114 · 6 gray levels of luma
        ]
    ).astype(np.uint8)
    assert traceless_patches(patches).tolist() == [True, True, False, False, True]
    # The share decides: lines at every 8th column touch 3 of 8 pixels, one line 3 of 62.
    one, many = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
    one[:, 30] = many[:, ::8] = 200
    assert traceless_patches(np.stack([one, many])).tolist() == [True, False]
    assert traceless_patches(patches[:0]).shape == (0,)


def test_traceless_patches_against_a_second_way() -> None:
    from scipy.ndimage import maximum_filter, minimum_filter

    rng = np.random.default_rng(1)
    for share in (0.001, 0.003, 0.005, 0.006, 0.01):
        patch = np.full((48, 48, 3), 100, np.uint8)
        patch[rng.random((48, 48)) < share] = 140
        luma = patch @ np.array([0.299, 0.587, 0.114])
        spread = (maximum_filter(luma, 3) - minimum_filter(luma, 3))[1:-1, 1:-1]
        assert traceless_patches(patch[None])[0] == (np.mean(spread <= 1) > 0.95)


@pytest.mark.parametrize(("blank", "asked"), [(90, 6), (110, 3)])  # a third and two of the second
def test_traceless_patches_are_not_asked(blank: int, asked: int) -> None:
    image = noise(200, 200)
    image[:, :blank] = 255
    pixels, left_out = telling_patches(image, 64)
    assert not traceless_patches(pixels).any()
    verdict = verdict_from_patches([[0.1, 0.7, 0.2]] * len(pixels), LABELS, left_out=left_out)
    assert (verdict.patches, verdict.left_out) == (len(pixels), left_out) == (asked, 9 - asked)
    assert verdict.answer == "bpg"


def test_not_enough_evidence() -> None:
    pixels, left_out = telling_patches(np.full((130, 130, 3), 250, np.uint8), 64)
    verdict = verdict_from_patches(np.empty((len(pixels), 3)), LABELS, left_out=left_out)
    assert (verdict.status, verdict.label, verdict.patches) == ("not enough evidence", None, 0)
    assert verdict.answer == "not enough evidence"
    assert verdict.left_out == 4
    assert "all 4 patches are flat" in verdict.reason
    assert verdict.probabilities == dict.fromkeys(LABELS, pytest.approx(1 / 3))
    assert verdict.probability == 0
    content = json.loads(json.dumps(as_json(verdict)))
    assert content["label"] is None
    assert content["verdict"] == "not enough evidence"


def test_the_unknown_is_no_name() -> None:
    verdict = verdict_from_patches([[0.9, 0.05, 0.05]], LABELS, unknown="no class explains it")
    assert (verdict.status, verdict.known, verdict.answer) == ("unknown", False, "unknown")
    assert as_json(verdict)["verdict"] == "unknown"
    assert (verdict.label, verdict.reason) == ("jpeg", "no class explains it")


@pytest.mark.parametrize(("threshold", "answer"), [(0.5, "unknown"), (2.0, "bpg")])
def test_classify_asks_the_rejection(tmp_path: Path, threshold: float, answer: str) -> None:
    run = Run(tmp_path, {}, LABELS, 64, {}, [])

    def outputs(pixels: np.ndarray) -> Outputs:
        logits = np.tile(np.array([0.0, 3.0, 0.0], np.float32), (len(pixels), 1))
        embedding = np.ones((len(pixels), 1), np.float32)
        return Outputs(np.exp(logits) / np.exp(logits).sum(axis=1)[:, None], logits, embedding)

    density = EmbeddingDensity(np.zeros((3, 1)), np.eye(1))
    rejection = Rejection({"distance": (0.0, 1.0)}, threshold, density)
    run.__dict__.update(
        {
            "outputs": outputs,
            "predict": lambda pixels: np.empty((0, 3)),  # asked about no patch only
            "rejection": rejection,
            "calibration": None,
        }
    )
    assert classify(noise(130, 130), run).answer == answer
    flat = classify(np.zeros((130, 130), np.uint8), run)
    assert flat.status == "not enough evidence"
