"""The verdict: a pure function of patch probabilities, and the patches it asks for."""

from __future__ import annotations

import numpy as np
import pytest

from train.verdict import (
    VerdictError,
    as_json,
    classify_image,
    patch_offsets,
    pooled_probabilities,
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
def test_classify_image(shape: tuple[int, ...]) -> None:
    asked: list[np.ndarray] = []

    def predict(pixels: np.ndarray) -> np.ndarray:
        asked.append(pixels)
        return np.tile([0.1, 0.7, 0.2], (len(pixels), 1))

    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    verdict = classify_image(image, predict, LABELS, 64)
    assert (verdict.label, verdict.patches, verdict.agreement) == ("bpg", 6, 1.0)
    assert asked[0].shape == (6, 64, 64, 3)
    assert asked[0].dtype == np.uint8
    first = image[:64, :64]
    np.testing.assert_array_equal(
        asked[0][0], first if first.ndim == 3 else first[..., None] + 0 * asked[0][0]
    )


def test_pictures_without_a_verdict() -> None:
    def predict(pixels: np.ndarray) -> np.ndarray:
        raise AssertionError("must not be asked")

    with pytest.raises(VerdictError, match="Not enough pixels"):
        classify_image(np.zeros((63, 900), np.uint8), predict, LABELS, 64)
    with pytest.raises(VerdictError, match="uint8"):
        classify_image(np.zeros((90, 90), np.float32), predict, LABELS, 64)  # type: ignore[arg-type]
    with pytest.raises(VerdictError, match="max_patches"):
        classify_image(np.zeros((90, 90), np.uint8), predict, LABELS, 64, max_patches=0)
