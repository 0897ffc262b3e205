"""The photographs inside installed packages, and the quick start on a small scale."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import train.quickstart as quickstart
from datasets.photographs import (
    PHOTOGRAPHS,
    Photograph,
    PhotographError,
    read_photograph,
    write_photographs,
)
from datasets.plan import BuildConfig
from datasets.sources import find_sources
from imagecompression import CODECS


def test_all_photographs_are_usable_sources(tmp_path: Path) -> None:
    paths = write_photographs(tmp_path)
    sources, rejected = find_sources(paths, 64)
    assert rejected == []
    assert len(sources) == len(PHOTOGRAPHS)
    assert len({source.group for source in sources}) == len(PHOTOGRAPHS) - 1
    for photograph in PHOTOGRAPHS:
        picture = read_photograph(photograph)
        assert picture.ndim == 3
        assert picture.std() > 10


def test_a_jpeg_history_is_scaled_away() -> None:
    by_name = {photograph.name: photograph for photograph in PHOTOGRAPHS}
    assert read_photograph(by_name["retina"]).shape == (491, 491, 3)
    for photograph in PHOTOGRAPHS:
        assert photograph.jpeg_history or not photograph.file.endswith(".jpg")


def test_a_missing_package_is_named() -> None:
    with pytest.raises(PhotographError, match="no_such_package"):
        read_photograph(Photograph("a", "no_such_package", "a.png", False))
    with pytest.raises(PhotographError, match=r"absent\.png"):
        read_photograph(Photograph("a", "skimage", "data/absent.png", False))


def test_quickstart_does_the_whole_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = BuildConfig(
        codecs=("uncompressed", "jpeg", "svd"), ratios=(10.0,), ssims=(), patch_size=48,
        patches_per_class=8, seed=quickstart.BUILD.seed,
    )  # fmt: skip
    monkeypatch.setattr(quickstart, "BUILD", small)
    monkeypatch.setattr(
        quickstart, "TRAINING", dataclasses.replace(quickstart.TRAINING, epochs=1, minutes=1.0)
    )
    lines: list[str] = []
    result = quickstart.run_quickstart(
        tmp_path / "out", lines.append, lambda *_: None, lambda _: None
    )
    assert len(lines) == 5
    assert result.build.splits == {"train": 7, "val": 2, "test": 2}
    assert result.report.sources == 2
    assert [truth for _, truth, _ in result.verdicts] == ["uncompressed", "jpeg", "svd"]
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "exhibit-1.png" in text
    assert f"{result.report.patch.accuracy:.1%}" in text
    assert json.loads((tmp_path / "out" / "evaluation" / "report.json").read_text())["sources"] == 2
    again = quickstart.run_quickstart(
        tmp_path / "out", lines.append, lambda *_: None, lambda _: None
    )
    assert again.report == result.report
    assert again.build.samples == result.build.samples


def test_evidence_is_decoded_pixels_alone(tmp_path: Path) -> None:
    from datasets.build import build_dataset
    from imagecompression.image_io import load_image

    config = BuildConfig(
        codecs=("uncompressed", "jpeg"), ratios=(10.0, 30.0), ssims=(), patch_size=48,
        patches_per_class=4, seed=quickstart.BUILD.seed,
    )  # fmt: skip
    build_dataset(write_photographs(tmp_path / "s"), tmp_path / "d", config, workers=1)
    truths = quickstart.write_evidence(tmp_path / "d", tmp_path / "e")
    assert list(truths.values()) == ["uncompressed", "jpeg"]
    assert set(truths.values()) <= set(CODECS)
    for path in truths:
        loaded = load_image(path)
        assert loaded.format == "uncompressed"
        assert isinstance(loaded.pixels, np.ndarray)
