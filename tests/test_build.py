"""Building a dataset: contents, reproducibility, resume after a kill, broken sources."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import photograph_like
from filelock import FileLock
from PIL import Image as PilImage
from tiny_dataset import HerePool

from datasets.build import build_dataset, read_dataset
from datasets.manifest import ManifestError, read_manifest
from datasets.patches import PatchError, crop_positions, load_patches
from datasets.plan import BuildConfig, BuildError, plan
from datasets.samples import run_task
from datasets.sources import find_sources
from datasets.storage import StorageError
from datasets.verification import verify
from imagecompression import CODECS, codec_from_params
from imagecompression.image_io import read_image
from imagecompression.metrics import ssim

NAMES = ("uncompressed", "jpeg", "jpeg2000", "jpegxr", "bpg", "svd", "kmeans")
CONFIG = BuildConfig(NAMES, ratios=(8.0, 16.0), ssims=(0.9,), patch_size=32, patches_per_class=7)


def write_sources(folder: Path, count: int = 4) -> Path:
    """TIFF photographs, one of them gray, and two of one scene."""
    folder.mkdir()
    for number in range(count):
        channels = 1 if number == 1 else 3
        picture = photograph_like(90 + number, 120, channels, seed=number)
        tifffile.imwrite(folder / f"picture{number}.tif", picture)
    tifffile.imwrite(folder / "scene__left.tif", photograph_like(80, 100, 3, seed=50))
    tifffile.imwrite(folder / "scene__right.tif", photograph_like(80, 100, 3, seed=51))
    return folder


def tree_hashes(folder: Path) -> dict[str, str]:
    """Hash of every file below `folder`."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def journal_lines(folder: Path) -> int:
    """Number of samples that the journals of a dataset name."""
    return sum(path.read_bytes().count(b"\n") for path in (folder / "journal").glob("*.jsonl"))


def modification_times(folder: Path) -> dict[str, int]:
    """When each encoded file was written, in nanoseconds."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "encoded").rglob("*.*")}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sources(tmp_path_factory.mktemp("sources") / "tiff")


@pytest.fixture(scope="module")
def dataset(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset") / "built"
    build_dataset([sources], folder, CONFIG, workers=2)
    return folder


def test_manifest_tells_the_truth(dataset: Path, sources: Path) -> None:
    rows = read_manifest(dataset).to_pylist()
    assert len(rows) == 6 * (1 + 6 * 3)
    assert {row["status"] for row in rows} == {"ok"}
    assert verify(dataset, HerePool()).faults == []
    for row in rows[::5]:
        data = (dataset / row["path"]).read_bytes()
        source = read_image(sources / row["source_file"])
        codec = codec_from_params(row["label"], json.loads(row["params"]))
        assert codec.encode(source) == data
        assert row["ratio"] == source.size / len(data)
        assert row["width"] == source.shape[1]
        if row["target_kind"] != "none":
            assert row["measured"] == row[row["target_kind"]]
            assert row["target_value"] != row["target_nominal"]
        assert row["ssim"] == ssim(source, codec.decode(data))
        assert (row["history"], row["container"], row["codec"]) == (
            "single",
            row["label"],
            row["label"],
        )
        assert row["reached"] or row["reason"]
        if row["label"] == "uncompressed":
            assert row["psnr_db"] == np.inf
            assert np.array_equal(CODECS["uncompressed"].decode(data), source)


def test_groups_stay_together(dataset: Path) -> None:
    rows = read_manifest(dataset).to_pylist()
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["group"], set()).add(row["split"])
    assert all(len(names) == 1 for names in splits.values())
    assert len([row for row in rows if row["group"] == "scene"]) == 2 * 19
    assert {row["split"] for row in rows} == {"train", "val", "test"}


def test_patches_reproduce_the_decoded_region(dataset: Path) -> None:
    patches = load_patches(dataset)
    rows = patches.table.to_pylist()
    files = {row["sample_id"]: row for row in read_manifest(dataset).to_pylist()}
    assert patches.labels == list(NAMES)
    assert patches.pixels.shape == (len(rows), 32, 32, 3)
    phases = set()
    for index in range(0, len(rows), 9):
        row, sample = rows[index], files[rows[index]["sample_id"]]
        decoded = CODECS[row["label"]].decode((dataset / sample["path"]).read_bytes())
        top, left = row["top"], row["left"]
        region = decoded[top : top + 32, left : left + 32]
        region = region if region.ndim == 3 else np.stack([region] * 3, axis=-1)
        assert np.array_equal(patches.pixels[index], region)
        assert (row["split"], row["label"]) == (sample["split"], sample["label"])
        phases.add((top % 8, left % 8))
    assert len(phases) > 10, "patches lie on the codecs' grid"


def test_classes_and_sources_weigh_the_same(dataset: Path) -> None:
    counts: dict[tuple[str, str], int] = {}
    for row in load_patches(dataset).table.to_pylist():
        key = (row["source_id"], row["label"])
        counts[key] = counts.get(key, 0) + 1
    assert set(counts.values()) == {7}
    assert len(counts) == 6 * 7


def test_equal_builds_are_equal_whatever_the_workers(
    dataset: Path, sources: Path, tmp_path: Path
) -> None:
    build_dataset([sources], tmp_path / "again", CONFIG, workers=1)
    assert tree_hashes(tmp_path / "again") == tree_hashes(dataset)


def test_nothing_in_it_names_this_machine(dataset: Path, sources: Path) -> None:
    for path in dataset.rglob("*.json*"):
        assert str(sources.parent) not in path.read_text(encoding="utf-8")
    for row in read_manifest(dataset).to_pylist():
        assert str(sources.parent) not in json.dumps(row)


def test_a_killed_build_goes_on_and_ends_the_same(
    dataset: Path, sources: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    script = (
        "import sys; from pathlib import Path\n"
        "from datasets.build import BuildConfig, build_dataset\n"
        "if __name__ == '__main__':\n"
        f"    config = BuildConfig({NAMES}, ratios=(8.0, 16.0), ssims=(0.9,), patch_size=32,"
        " patches_per_class=7)\n"
        "    build_dataset([Path(sys.argv[1])], Path(sys.argv[2]), config, workers=1)\n"
    )
    (tmp_path / "build.py").write_text(script, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "build.py"), str(sources), str(out)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    for samples in (9, 40, 75):
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        wait_for(lambda samples=samples: journal_lines(out) >= samples)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert 75 <= journal_lines(out) < 114, "the build was not killed in the middle"
    before = modification_times(out)
    cut = max((out / "journal").iterdir(), key=lambda path: path.stat().st_size)
    with cut.open("ab") as journal:
        journal.write(b'{"row": {"sample_id": "cut off in the midd')
    build_dataset([sources], out, CONFIG, workers=2)
    assert tree_hashes(out) == tree_hashes(dataset)
    after = modification_times(out)
    assert sum(after[name] == moment for name, moment in before.items()) >= 75
    assert not list(out.rglob("*.part")) + list(out.rglob("*.tmp"))


def test_the_search_goes_on_at_the_sample(dataset: Path, sources: Path, tmp_path: Path) -> None:
    found, _ = find_sources([sources], min_side=32)
    splits = {source.group: "train" for source in found}
    tasks = [task for task in plan(found, splits, CONFIG) if task.codec in ("jpegxr", "svd")]
    for task in tasks[:4]:
        whole = run_task(task, str(tmp_path / "whole"))
        assert len(whole) == 3
        for kept in range(3):
            out = tmp_path / f"after{kept}"
            run_task(task, str(out))
            journal = out / "journal" / f"{task.task_id}.jsonl"
            lines = journal.read_bytes().splitlines(keepends=True)
            journal.write_bytes(b"".join(lines[:kept]))
            again = run_task(task, str(out))
            assert json.dumps(again) == json.dumps(whole)  # NaN equals NaN here
            assert journal.read_bytes() == b"".join(lines)


@pytest.mark.parametrize("damage", ["lost", "changed", "journal"])
def test_what_is_damaged_is_made_again(
    damage: str, dataset: Path, sources: Path, tmp_path: Path
) -> None:
    out = tmp_path / "damaged"
    shutil.copytree(dataset, out)
    victim = sorted((out / "encoded" / "jpeg").iterdir())[4]
    if damage == "lost":
        victim.unlink()
    elif damage == "changed":
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
    else:
        for path in sorted((out / "journal").iterdir())[:3]:
            path.write_bytes(b'[]\nno JSON\n{"row": 7}\n' + path.read_bytes())
    if damage != "journal":
        assert any(victim.name in fault.file for fault in verify(out, HerePool()).faults)
    before = modification_times(out)
    build_dataset([sources], out, CONFIG, workers=2)
    assert tree_hashes(out) == tree_hashes(dataset)
    after = modification_times(out)
    again = {name for name, moment in after.items() if before.get(name) != moment}
    assert 1 <= len(again) <= 9
    assert victim.name in again or damage == "journal"


def test_failed_samples_are_made_again_when_asked(tmp_path: Path) -> None:
    folder = write_sources(tmp_path / "tiff", count=2)
    config = dataclasses.replace(CONFIG, codecs=("uncompressed", "jpeg", "webp"))
    build_dataset([folder], tmp_path / "well", config, workers=1)
    sources, _ = find_sources([folder], min_side=32)
    splits = {row["group"]: row["split"] for row in read_manifest(tmp_path / "well").to_pylist()}
    out = tmp_path / "out"
    (folder / "picture0.tif").rename(tmp_path / "away")
    for task in plan(sources, splits, config):
        run_task(task, str(out))
    (tmp_path / "away").rename(folder / "picture0.tif")
    (out / "dataset.json").write_bytes((tmp_path / "well" / "dataset.json").read_bytes())
    result = build_dataset([folder], out, config, workers=1)
    assert len(result.failed) == 7
    assert all("picture0.tif" in item.error for item in result.failed)
    assert str(tmp_path) not in json.dumps(read_manifest(out).to_pylist())
    result = build_dataset([folder], out, config, workers=1, retry_failed=True)
    assert result.failed == []
    assert tree_hashes(out) == tree_hashes(tmp_path / "well")


def test_a_folder_that_cannot_be_written_stops_the_build(sources: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = dataclasses.replace(CONFIG, codecs=("uncompressed", "jpeg"))
    (out / "encoded").mkdir(parents=True)
    (out / "encoded" / "jpeg").write_text("a file where a folder belongs")
    (out / "dataset.json").touch()
    (out / "dataset.json").unlink()
    with pytest.raises((StorageError, BuildError)):
        build_dataset([sources], out, config, workers=1)


def test_two_builds_in_one_folder_are_refused(dataset: Path, sources: Path) -> None:
    with FileLock(dataset / ".lock"), pytest.raises(BuildError, match="another build"):
        build_dataset([sources], dataset, CONFIG, workers=1)


def test_a_folder_inside_the_sources_is_refused(tmp_path: Path) -> None:
    folder = write_sources(tmp_path / "tiff", count=1)
    with pytest.raises(BuildError, match="inside the sources"):
        build_dataset([folder], folder / "set", CONFIG, workers=1)
    assert not (folder / "set").exists()


def test_unusable_sources_leave_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BuildError):
        build_dataset([tmp_path / "absent"], tmp_path / "out", CONFIG, workers=1)
    assert not (tmp_path / "out").exists()


def test_an_encoder_that_fails_costs_its_own_samples_only(tmp_path: Path) -> None:
    # WebP has no longer sides than 16383.
    tifffile.imwrite(tmp_path / "long.tif", photograph_like(16, 16384, 3))
    config = BuildConfig(codecs=("jpeg", "webp"), ratios=(40.0, 4.0), ssims=(), patch_size=16)
    result = build_dataset([tmp_path / "long.tif"], tmp_path / "out", config, workers=1)
    assert {one.label: one.samples for one in result.classes}["jpeg"] == 2
    assert any("16383" in item.error for item in result.failed)
    for row in read_manifest(tmp_path / "out").to_pylist():
        assert str(tmp_path) not in json.dumps(row)


def test_scarce_positions_leave_classes_balanced(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "small.tif", photograph_like(32, 33, 3))
    config = dataclasses.replace(CONFIG, codecs=("uncompressed", "jpeg"))
    build_dataset([tmp_path / "small.tif"], tmp_path / "out", config, workers=1)
    labels = load_patches(tmp_path / "out").table["label"].to_pylist()
    assert labels.count("jpeg") == labels.count("uncompressed") == 2


def test_files_without_a_trace_are_not_learned_from(tmp_path: Path) -> None:
    colors = np.random.default_rng(0).integers(0, 256, (6, 3), np.uint8)
    drawing = colors[np.random.default_rng(1).integers(0, 6, (64, 64))]
    tifffile.imwrite(tmp_path / "drawing.tif", drawing)
    config = dataclasses.replace(CONFIG, codecs=("uncompressed", "jpeg", "kmeans"))
    build_dataset([tmp_path / "drawing.tif"], tmp_path / "out", config, workers=1)
    table = load_patches(tmp_path / "out").table
    exact = [r for r in table.to_pylist() if r["psnr_db"] == np.inf and r["label"] == "kmeans"]
    assert exact == []
    assert any(row["psnr_db"] == np.inf for row in table.to_pylist())


def test_workers_end_with_their_parent(sources: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from datasets.build import BuildConfig, build_dataset\n"
        "if __name__ == '__main__':\n"
        f"    config = BuildConfig({NAMES})\n"
        "    build_dataset([Path(sys.argv[1])], Path(sys.argv[2]), config, workers=2)\n"
    )
    (tmp_path / "build.py").write_text(script, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, str(tmp_path / "build.py"), str(sources), str(tmp_path / "out")]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    wait_for(lambda: journal_lines(tmp_path / "out") > 0)
    process.kill()  # the main process alone, not its group
    process.wait()
    wait_for(lambda: not group_members(process.pid))


def wait_for(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; fail after two minutes."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def group_members(group: int) -> list[int]:
    """Processes of a process group that are alive, multiprocessing's bookkeeper aside."""
    alive = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            facts = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            command = (folder / "cmdline").read_text()
        except OSError:
            continue
        if int(facts[2]) == group and facts[0] != "Z" and "resource_tracker" not in command:
            alive.append(int(folder.name))
    return alive


def test_sources_can_be_added(sources: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, codecs=("uncompressed", "jpeg"), ssims=())
    build_dataset([sources], tmp_path / "built", config, workers=1)
    before = {r["sample_id"]: r for r in read_manifest(tmp_path / "built").to_pylist()}
    times = modification_times(tmp_path / "built")
    tifffile.imwrite(tmp_path / "new.tif", photograph_like(70, 70, 3, seed=99))
    result = build_dataset([sources, tmp_path / "new.tif"], tmp_path / "built", config, workers=1)
    after = {r["sample_id"]: r for r in read_manifest(tmp_path / "built").to_pylist()}
    assert result.sources == 7
    assert times.items() <= modification_times(tmp_path / "built").items()
    assert len(after) == len(before) + 3
    assert all(after[key]["file_sha256"] == row["file_sha256"] for key, row in before.items())


def test_broken_sources_are_listed_and_the_rest_built(sources: Path, tmp_path: Path) -> None:
    folder = write_sources(tmp_path / "mixed", count=2)
    picture = photograph_like(90, 120, 3)
    (folder / "truncated.tif").write_bytes((folder / "picture0.tif").read_bytes()[:500])
    (folder / "text.tiff").write_text("no picture")
    (folder / "empty.png").touch()
    PilImage.fromarray(picture).save(folder / "renamed.jpg", quality=80)
    (folder / "renamed.jpg").rename(folder / "renamed.tif")
    tifffile.imwrite(folder / "jpeg_inside.tif", picture, compression="jpeg")
    tifffile.imwrite(folder / "small.tif", picture[:20])
    tifffile.imwrite(folder / "flat.tif", np.full((64, 64, 3), 9, np.uint8))
    tifffile.imwrite(folder / "zcopy.tif", photograph_like(90, 120, 3, seed=0), bigtiff=True)
    config = dataclasses.replace(CONFIG, codecs=("uncompressed", "jpeg"), ssims=())
    result = build_dataset([folder, tmp_path / "absent"], tmp_path / "out", config, workers=1)
    errors = {Path(item.file).name: item.error for item in result.rejected}
    assert set(errors) == {
        "truncated.tif", "text.tiff", "empty.png", "renamed.tif", "jpeg_inside.tif", "small.tif",
        "flat.tif", "zcopy.tif", "absent",
    }  # fmt: skip
    assert "compressed by jpeg" in errors["jpeg_inside.tif"]
    assert "compressed by jpeg" in errors["renamed.tif"]
    assert "picture0.tif" in errors["zcopy.tif"]
    assert result.sources == 4
    assert result.samples == 4 * 3
    listed = json.loads((tmp_path / "out" / "rejected.json").read_text())
    assert {Path(item["file"]).name for item in listed} == set(errors)


def test_a_folder_of_other_settings_is_refused(dataset: Path, sources: Path) -> None:
    with pytest.raises(BuildError, match="other settings"):
        build_dataset([sources], dataset, dataclasses.replace(CONFIG, seed=1), workers=1)


def test_a_folder_of_other_files_is_refused(sources: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(BuildError, match="Choose another"):
        build_dataset([sources], tmp_path, CONFIG, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_no_usable_source(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_text("no picture")
    with pytest.raises(BuildError, match="No usable source"):
        build_dataset([tmp_path / "a.tif"], tmp_path / "out", CONFIG, workers=1)


def test_reading_what_is_not_a_dataset(tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(BuildError, match="build-dataset"):
        read_dataset(tmp_path)
    with pytest.raises(ManifestError, match="build-dataset"):
        read_manifest(tmp_path)
    with pytest.raises(PatchError, match="build-dataset"):
        load_patches(tmp_path)
    (tmp_path / "manifest.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ManifestError, match="Parquet"):
        read_manifest(tmp_path)
    assert read_dataset(dataset)["labels"] == list(NAMES)


def test_crop_positions() -> None:
    rng = np.random.default_rng(0)
    assert crop_positions(10, 10, 11, 5, rng).shape == (0, 2)
    assert crop_positions(32, 32, 32, 5, rng).tolist() == [[0, 0]]
    positions = crop_positions(40, 50, 32, 1000, rng)
    assert len({tuple(p) for p in positions.tolist()}) == 9 * 19
    assert positions.max(axis=0).tolist() == [8, 18]
