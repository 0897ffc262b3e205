"""Verification finds every fault that is put into a dataset, and none in a sound one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_dataset import DESCRIPTION, HerePool, write_tiny_dataset

from datasets.croissant import write_croissant
from datasets.manifest import read_manifest, write_manifest
from datasets.patches import PatchConfig, extract_patches
from datasets.storage import Storage
from datasets.verification import Fault, verify
from datasets.workers import Crashed
from imagecompression import Jpeg

POOL = HerePool()


@pytest.fixture
def dataset(tmp_path: Path) -> Storage:
    return write_tiny_dataset(tmp_path / "dataset")


def faults(storage: Storage, pixels: bool = True) -> list[Fault]:
    return verify(storage.root, POOL, pixels).faults


def change(storage: Storage, place: int, **columns: object) -> dict[str, object]:
    """Write the manifest anew with a changed row; returns the row as it was."""
    rows = read_manifest(storage.root).to_pylist()
    before = dict(rows[place])
    rows[place] |= columns
    write_manifest(storage, rows)
    return before


def test_a_sound_dataset_has_none(dataset: Storage) -> None:
    extract_patches(dataset.folder, PatchConfig(32, 4, 0), POOL)
    write_croissant(dataset, DESCRIPTION, read_manifest(dataset.root))
    seen: list[tuple[int, int]] = []
    result = verify(dataset.root, POOL, progress=lambda done, total: seen.append((done, total)))
    assert result.faults == []
    assert result.samples == 16
    assert result.bytes == sum(
        dataset.size(path) for name in ("uncompressed", "jpeg", "jpeg2000")
        for path in dataset.list(f"encoded/{name}")
    )  # fmt: skip
    assert seen[-1] == (16, 16)


@pytest.mark.parametrize("pixels", [True, False])
def test_damage_to_files(dataset: Storage, pixels: bool) -> None:
    jpegs = dataset.list("encoded/jpeg")
    data = bytearray(dataset.read(jpegs[0]))
    data[-5] ^= 1
    dataset.write(jpegs[0], bytes(data))
    dataset.write(jpegs[1], dataset.read(jpegs[1])[:-1])
    dataset.delete(jpegs[2])
    dataset.write("encoded/jpeg/left-over.jpg", b"x")
    dataset.write("encoded/bpg/left-over.bpg", b"x")
    found = {fault.file: fault.problem for fault in faults(dataset, pixels)}
    assert set(found) == {*jpegs[:3], "encoded/jpeg/left-over.jpg", "encoded/bpg/left-over.bpg"}
    assert "hash" in found[jpegs[0]]
    assert "bytes" in found[jpegs[1]]
    assert "missing" in found[jpegs[2]]
    assert "does not list" in found["encoded/bpg/left-over.bpg"]


def test_pictures_that_are_not_as_said(dataset: Storage) -> None:
    hashed = change(dataset, 0, pixel_sha256="0" * 64)
    sized = change(dataset, 1, width=79)
    foreign = change(dataset, 2, container="bmp")
    other = change(dataset, 3, container="bpg")
    found = {fault.file: fault.problem for fault in faults(dataset)}
    assert "hash of the decoded pixels" in found.pop(str(hashed["path"]))
    assert "80×64×3" in found.pop(str(sized["path"]))
    assert "unknown codec" in found.pop(str(foreign["path"]))
    assert "cannot be decoded" in found.pop(str(other["path"]))
    assert not found
    assert faults(dataset, pixels=False) == []


def test_a_path_out_of_the_dataset_is_not_followed(dataset: Storage) -> None:
    (dataset.folder.parent / "secret").write_bytes(b"secret")
    before = change(dataset, 0, path="../secret")
    found = {fault.file: fault.problem for fault in faults(dataset)}
    assert set(found) == {"../secret", before["path"]}
    assert "below the dataset's root" in found["../secret"]


def test_names_that_occur_twice(dataset: Storage) -> None:
    rows = read_manifest(dataset.root).to_pylist()
    write_manifest(dataset, [*rows, rows[0]])
    problems = [fault.problem for fault in faults(dataset)]
    assert len(problems) == 2
    assert all("occurs 2 times" in problem for problem in problems)


def test_a_manifest_that_was_changed_later(dataset: Storage) -> None:
    write_croissant(dataset, DESCRIPTION, read_manifest(dataset.root))
    assert faults(dataset) == []
    change(dataset, 0, origin="elsewhere")
    (fault,) = faults(dataset)
    assert "croissant.json" in fault.problem
    dataset.write("croissant.json", b"[1]")
    assert {fault.file for fault in faults(dataset)} == {"croissant.json"}


def test_patches_that_do_not_fit(dataset: Storage) -> None:
    extract_patches(dataset.folder, PatchConfig(32, 4, 0), POOL)
    folder = dataset.folder / "patches"
    table = pq.read_table(folder / "patches.parquet")
    top = table["top"].to_numpy().copy()
    top[0] = 1000
    place = table.schema.get_field_index("top")
    pq.write_table(table.set_column(place, "top", pa.array(top)), folder / "patches.parquet")
    (fault,) = faults(dataset)
    assert fault.problem.startswith("1 patches do not belong")
    np.save(folder / "patches.npy", np.zeros((2, 32, 32, 3), np.uint8))
    (fault,) = faults(dataset)
    assert "array" in fault.problem


def test_a_dataset_on_another_file_system() -> None:
    storage = write_tiny_dataset("memory://verification-test")
    assert faults(storage) == []
    storage.write("encoded/jpeg/extra.jpg", b"x")
    victim = storage.list("encoded/jpeg2000")[0]
    storage.delete(victim)
    assert {fault.file for fault in faults(storage)} == {"encoded/jpeg/extra.jpg", victim}


def test_a_file_that_ends_its_worker(dataset: Storage) -> None:
    class Killed:
        processes = 1

        def run(self, function: object, tasks: object) -> object:
            for number, _ in enumerate(tasks):  # type: ignore[call-overload]
                yield number, Crashed(number, "killed")

    (fault,) = verify(dataset.root, Killed(), pixels=False).faults  # type: ignore[arg-type]
    assert "killed" in fault.problem


def test_an_encode_of_another_picture_is_found(dataset: Storage) -> None:
    """A consistent forgery of file and file hash still fails by its pixels."""
    import hashlib

    row = next(r for r in read_manifest(dataset.root).to_pylist() if r["label"] == "jpeg")
    data = Jpeg(quality=5).encode(np.zeros((row["height"], row["width"], 3), np.uint8))
    dataset.write(row["path"], data)
    place = [r["path"] for r in read_manifest(dataset.root).to_pylist()].index(row["path"])
    change(dataset, place, file_bytes=len(data), file_sha256=hashlib.sha256(data).hexdigest())
    assert json.dumps([f.problem for f in faults(dataset)]).count("decoded pixels") == 1
    assert faults(dataset, pixels=False) == []
