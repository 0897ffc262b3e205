"""Vetting of sources: every file is accepted, or refused with its reason."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from conftest import photograph_like
from PIL import Image as PilImage

from datasets.groups import GroupsError, Membership
from datasets.sources import (
    REASONS,
    Rejected,
    Source,
    find_sources,
    open_source,
    pixel_hash,
    read_source,
    vet,
)
from datasets.workers import worker_pool
from imagecompression import CODECS
from imagecompression.image_io import read_image, write_image


def photograph(path: Path, seed: int = 0, height: int = 96, width: int = 128) -> np.ndarray:
    image = photograph_like(height, width, 3, seed)
    write_image(path, image)
    return image


def refused(path: Path, min_side: int = 32) -> Rejected:
    result = open_source(path, path.name, min_side)
    assert isinstance(result, Rejected)
    assert result.file == path.name
    assert result.reason in REASONS
    assert str(path.parent) not in result.error
    return result


def groups_csv(tmp_path: Path, *rows: tuple[str, str, str]) -> Path:
    path = tmp_path / "groups.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "group", "origin"), *rows])
    return path


def test_an_accepted_source(tmp_path: Path) -> None:
    image = photograph(tmp_path / "scene__1.tif")
    source = open_source(tmp_path / "scene__1.tif", "scene__1.tif", 32)
    assert isinstance(source, Source)
    assert source.pixel_sha256 == pixel_hash(image)
    assert source.source_id == f"scene_1-{source.pixel_sha256[:10]}"
    assert (source.width, source.height, source.notes) == (128, 96, ())
    assert source.facts is not None
    assert source.facts.gradient > 2
    assert source.facts.vote_ratio < 3


def test_unreadable_and_missing(tmp_path: Path) -> None:
    (tmp_path / "broken.tif").write_bytes(b"II*\0 nothing")
    assert refused(tmp_path / "broken.tif").reason == "unreadable"
    (tmp_path / "empty").mkdir()
    sources, rejected = find_sources([tmp_path / "none.tif", tmp_path / "empty"], 32)
    assert sources == []
    assert [item.reason for item in rejected] == ["missing", "missing"]


@pytest.mark.parametrize("name", sorted(n for n, c in CODECS.items() if c.knob is not None))
def test_lossy_files_under_a_lossless_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "picture.tif"
    path.write_bytes(CODECS[name]().encode(photograph_like(64, 64, 3)))
    assert refused(path).reason == "lossy-file"
    assert name in refused(path).error


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000", "webp", "jpegxr"])
def test_lossy_data_inside_a_tiff(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "picture.tif"
    image = photograph_like(64, 96, 3)
    tifffile.imwrite(path, image, photometric="rgb", compression=compression, metadata=None)
    assert refused(path).reason == "lossy-inside"
    assert compression in refused(path).error


def test_lossy_data_inside_a_damaged_tiff(tmp_path: Path) -> None:
    path = tmp_path / "picture.tif"
    image = photograph_like(64, 96, 3)
    tifffile.imwrite(path, image, photometric="rgb", compression="jpeg", metadata=None)
    at = path.read_bytes().index(b"\xff\xd8\xff")  # where the picture's own data begin
    path.write_bytes(path.read_bytes()[: at + 200])
    assert refused(path).reason == "lossy-inside"
    assert "truncated" in refused(path).error


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_jpeg_history(tmp_path: Path, suffix: str) -> None:
    out = io.BytesIO()
    PilImage.fromarray(photograph_like(200, 240, 3)).save(out, "JPEG", quality=85)
    path = tmp_path / f"innocent{suffix}"
    write_image(path, np.array(PilImage.open(out))[3:, 5:].copy())
    assert refused(path).reason == "jpeg-history"
    assert "row 5, column 3" in refused(path).error


def test_jpeg_history_is_looked_for_before_colours_are_converted(tmp_path: Path) -> None:
    out = io.BytesIO()
    PilImage.fromarray(photograph_like(200, 240, 3)).save(out, "JPEG", quality=92)
    profile = imagecodecs.cms_profile("adobergb")
    pixels = np.array(PilImage.open(out))
    path = tmp_path / "picture.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", iccprofile=profile, metadata=None)
    assert refused(path).reason == "jpeg-history"


def test_odd_colours_are_converted_and_noted(tmp_path: Path) -> None:
    path = tmp_path / "picture.tif"
    image = photograph_like(96, 96, 3)
    profile = imagecodecs.cms_profile("adobergb")
    tifffile.imwrite(path, image, photometric="rgb", iccprofile=profile, metadata=None)
    source = open_source(path, path.name, 32)
    assert isinstance(source, Source)
    assert "converted to sRGB" in source.notes[0]
    assert source.pixel_sha256 == pixel_hash(read_source(path))
    assert source.pixel_sha256 != pixel_hash(image)


def test_too_small(tmp_path: Path) -> None:
    photograph(tmp_path / "small.tif", height=40, width=90)
    assert refused(tmp_path / "small.tif", 41).reason == "too-small"
    assert "90×40" in refused(tmp_path / "small.tif", 41).error
    assert isinstance(open_source(tmp_path / "small.tif", "small.tif", 40), Source)


def test_too_flat(tmp_path: Path) -> None:
    image = photograph_like(96, 96, 3)
    slope = np.add.outer(np.arange(96) // 4, np.zeros(96, int)).astype(np.uint8)
    logo = np.full((96, 96, 3), 250, np.uint8)
    logo[30:50, 30:50] = image[30:50, 30:50]
    for name, picture in {"constant": image * 0 + 7, "slope": slope, "logo": logo}.items():
        path = tmp_path / f"{name}.png"
        write_image(path, picture)
        assert refused(path).reason == "too-flat"
    write_image(tmp_path / "faint.png", (image // 8 + 100).astype(np.uint8))
    assert isinstance(open_source(tmp_path / "faint.png", "faint.png", 32), Source)


def test_duplicates_are_taken_once_whatever_the_container(tmp_path: Path) -> None:
    image = photograph(tmp_path / "b.tif")
    write_image(tmp_path / "c.png", image)
    photograph(tmp_path / "other.tif", seed=3)
    vetting = vet([tmp_path], 32)
    assert [source.file for source in vetting.sources] == ["b.tif", "other.tif"]
    assert [(item.file, item.reason) for item in vetting.rejected] == [("c.png", "duplicate")]
    assert "b.tif" in vetting.rejected[0].error
    # What a CSV names has precedence, whatever is added later.
    named = vet([tmp_path], 32, groups=groups_csv(tmp_path, ("c.png", "old", "")))
    assert [item.file for item in named.rejected] == ["b.tif"]
    assert {source.file: source.group for source in named.sources}["c.png"] == "old"


def test_near_duplicates_share_a_group(tmp_path: Path) -> None:
    image = photograph(tmp_path / "b.tif", height=200, width=260)
    small = PilImage.fromarray(image).resize((130, 100), PilImage.Resampling.BOX)
    write_image(tmp_path / "a.tif", np.ascontiguousarray(np.array(small)[:, ::-1]))
    photograph(tmp_path / "other__1.tif", seed=3)
    photograph(tmp_path / "other__2.tif", seed=4)
    vetting = vet([tmp_path], 32)
    assert vetting.exit_status == 0
    assert {source.file: source.group for source in vetting.sources} == {
        "a.tif": "a",
        "b.tif": "a",
        "other__1.tif": "other",
        "other__2.tif": "other",
    }
    assert [pair[:2] for pair in vetting.near_duplicates] == [("a.tif", "b.tif")]


def test_saved_verdicts_keep_old_groups_where_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    image = photograph(folder / "m.tif", height=200, width=260)
    photograph(folder / "n.tif", seed=5)
    vet([folder], 32).save(tmp_path / "verdicts.csv")
    write_image(folder / "a.tif", np.ascontiguousarray(image[2:, 3:]))
    groups = {source.file: source.group for source in vet([folder], 32).sources}
    assert groups == {"a.tif": "a", "m.tif": "a", "n.tif": "n"}  # m has moved
    later = vet([folder], 32, groups=tmp_path / "verdicts.csv")
    groups = {source.file: source.group for source in later.sources}
    assert groups == {"a.tif": "m", "m.tif": "m", "n.tif": "n"}
    assert later.notes == ["verdicts.csv does not name all sources; not these: a.tif"]


def test_groups_that_the_csv_keeps_apart_are_not_bridged(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    image = photograph(folder / "x.tif", height=200, width=260)
    for name, shift in (("y.tif", 3), ("a.tif", 6)):
        write_image(folder / name, np.ascontiguousarray(image[shift:, :-shift]))
    path = groups_csv(tmp_path, ("x.tif", "one", "film"), ("y.tif", "two", "film"))
    vetting = vet([folder], 32, groups=path)
    assert vetting.exit_status == 1
    assert [(item.file, item.reason) for item in vetting.rejected] == [("y.tif", "bridges-groups")]
    assert "'one'" in vetting.rejected[0].error
    assert "'two'" in vetting.rejected[0].error
    assert {source.file: source.group for source in vetting.sources}["a.tif"] == "one"


def test_groups_and_origins_of_the_csv(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed, name in enumerate("abc"):
        photograph(folder / f"{name}.tif", seed=seed)
    rows = [("a.tif", "trip", "film"), ("b.tif", "trip", "phone"), ("gone.tif", "x", "")]
    vetting = vet([folder], 32, groups=groups_csv(tmp_path, *rows))
    found = {source.file: (source.group, source.origin) for source in vetting.sources}
    assert found == {"a.tif": ("trip", "film"), "b.tif": ("trip", "phone"), "c.tif": ("c", "")}
    assert vetting.notes == [
        "groups.csv names files that are not among the sources: gone.tif",
        "groups.csv does not name all sources; not these: c.tif",
    ]
    with pytest.raises(GroupsError, match=r"a\.tif is named a second time"):
        vet([folder], 32, groups=groups_csv(tmp_path, rows[0], rows[0]))


def test_a_csv_says_more_of_a_dataset_that_is_added_to(tmp_path: Path) -> None:
    for seed, name in enumerate("abc"):
        photograph(tmp_path / f"{name}.tif", seed=seed)
    earlier = {name: Membership("old", "film") for name in ("a.tif", "b.tif")}
    path = groups_csv(tmp_path, ("a.tif", "", "phone"), ("b.tif", "new", ""))
    found = {
        s.file: (s.group, s.origin) for s in vet([tmp_path], 32, None, None, path, earlier).sources
    }
    assert found == {"a.tif": ("old", "phone"), "b.tif": ("new", "film"), "c.tif": ("c", "")}


def test_verdicts_are_saved_whole(tmp_path: Path) -> None:
    photograph(tmp_path / "good.tif")
    (tmp_path / "bad.tif").write_bytes(b"nothing")
    vetting = vet([tmp_path], 32)
    assert vetting.exit_status == 1
    assert vetting.reasons == {"unreadable": 1}
    vetting.save(tmp_path / "out.csv")
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        bad, good = csv.DictReader(file)
    assert (bad["file"], bad["verdict"], bad["reason"]) == ("bad.tif", "rejected", "unreadable")
    assert (good["file"], good["verdict"], good["group"]) == ("good.tif", "accepted", "good")
    assert good["width"] == "128"
    assert float(good["vote_ratio"]) < 3
    content = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert (content["accepted"], content["rejected"]) == (1, 1)
    assert [item["file"] for item in content["files"]] == ["bad.tif", "good.tif"]
    assert str(tmp_path) not in (tmp_path / "out.json").read_text(encoding="utf-8")
    assert vet([tmp_path / "bad.tif"], 32).exit_status == 2


def test_a_pool_gives_the_same_verdicts(tmp_path: Path) -> None:
    for seed in range(5):
        photograph(tmp_path / f"{seed}.tif", seed=seed, height=64, width=80)
    (tmp_path / "bad.tif").write_bytes(b"nothing")
    calls: list[tuple[int, int]] = []
    with worker_pool(2) as pool:
        parallel = vet([tmp_path], 32, lambda *done: calls.append(done), pool)
    assert parallel == vet([tmp_path], 32)
    assert calls == [(number, 6) for number in range(1, 7)]


def test_read_source_is_read_image_without_a_profile(tmp_path: Path) -> None:
    photograph(tmp_path / "a.png")
    np.testing.assert_array_equal(read_source(tmp_path / "a.png"), read_image(tmp_path / "a.png"))
