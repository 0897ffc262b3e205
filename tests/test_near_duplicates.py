"""Near-duplicates are found through what people do to pictures, and others are not."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from conftest import photograph_like
from PIL import Image as PilImage

from datasets import near_duplicates as module
from datasets.near_duplicates import near_duplicates, perceptual_hash

PICTURES = [photograph_like(240, 320, 3, seed) for seed in range(40)]
HASHES = [perceptual_hash(picture) for picture in PICTURES]


def resized(image: np.ndarray, factor: float) -> np.ndarray:
    size = (int(image.shape[1] * factor), int(image.shape[0] * factor))
    return np.array(PilImage.fromarray(image).resize(size, PilImage.Resampling.LANCZOS))


def through_jpeg(image: np.ndarray) -> np.ndarray:
    out = io.BytesIO()
    PilImage.fromarray(image).save(out, "JPEG", quality=30)
    return np.array(PilImage.open(out))


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "half the size": lambda image: resized(image, 0.5),
    "stretched": lambda image: np.array(PilImage.fromarray(image).resize((320, 320))),
    "brighter": lambda image: np.clip(image.astype(int) + 40, 0, 255).astype(np.uint8),
    "less contrast": lambda image: (image // 2 + 60).astype(np.uint8),
    "gray": lambda image: np.array(PilImage.fromarray(image).convert("L")),
    "recompressed": through_jpeg,
    "cropped": lambda image: image[3:-2, 1:-5],
    "mirrored": lambda image: image[:, ::-1],
    "upside down": lambda image: image[::-1],
    "turned": lambda image: np.rot90(image),
    "turned back and smaller": lambda image: resized(
        np.ascontiguousarray(np.rot90(image, -1)), 0.6
    ),
    "transposed": lambda image: image.swapaxes(0, 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_found_and_nothing_else(change: str) -> None:
    copies = [perceptual_hash(np.ascontiguousarray(CHANGES[change](p))) for p in PICTURES[:8]]
    found = {(i, j) for i, j, _ in near_duplicates([*HASHES, *copies])}
    assert found == {(number, 40 + number) for number in range(8)}


def test_flat_pictures_are_like_no_other() -> None:
    flat = [perceptual_hash(np.full((50, 60), value, np.uint8)) for value in (0, 9, 9, 255)]
    assert list(near_duplicates([*flat, *HASHES[:3]])) == []
    assert list(near_duplicates([])) == []


def test_blocks_of_the_search_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = [*HASHES[:20], *HASHES[5:15], *HASHES[:3]]
    whole = list(near_duplicates(hashes))
    assert {(i, j) for i, j, _ in whole} > {(5, 20), (0, 30)}
    assert all(cosine > 0.999 for *_, cosine in whole)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 7)
    assert sorted((i, j) for i, j, _ in near_duplicates(hashes)) == sorted(
        (i, j) for i, j, _ in whole
    )
