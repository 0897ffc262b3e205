"""Exports: what other frameworks read is what the manifest and the files say."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image as PilImage
from tiny_dataset import DESCRIPTION, LABELS, HerePool, write_tiny_dataset

from datasets import shards
from datasets.card import write_card
from datasets.export import EXPORTS, export_dataset
from datasets.manifest import SCHEMA, read_manifest
from datasets.patches import PatchConfig, extract_patches, load_patches
from datasets.shards import ExportError, plan_shards
from datasets.sources import pixel_hash
from datasets.splits import SPLITS
from datasets.workers import worker_pool

POOL = HerePool()
SHARDED = [name for name in EXPORTS if name != "patches"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "dataset"
    storage = write_tiny_dataset(folder)
    write_card(storage, DESCRIPTION, read_manifest(folder), "## Bias audit\n\nIt passes.", [])
    extract_patches(folder, PatchConfig(32, 4, 0), POOL)
    return folder


@pytest.fixture(scope="module")
def rows(dataset: Path) -> dict[str, dict[str, Any]]:
    table = read_manifest(dataset).to_pylist()
    return {row["sample_id"]: row for row in table if row["status"] == "ok"}


def check(image: bytes, file: bytes, label: int, row: dict[str, Any]) -> None:
    """An exported sample is its manifest row's."""
    with PilImage.open(io.BytesIO(image)) as picture:
        assert picture.format == "PNG"
        assert pixel_hash(np.asarray(picture)) == row["pixel_sha256"]
    assert hashlib.sha256(file).hexdigest() == row["file_sha256"]
    assert LABELS[label] == row["label"]


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_tfrecord(dataset: Path, rows: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    import tensorflow as tf

    result = export_dataset(dataset, tmp_path / "out", "tfrecord", POOL)
    kinds: dict[str, Any] = {"string": tf.string, "double": tf.float32}
    spec: dict[str, Any] = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "file": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
        "label_name": tf.io.FixedLenFeature([], tf.string),
    }
    for field in SCHEMA:
        if field.name != "label":
            kind = kinds.get(str(field.type), tf.int64)
            spec[field.name] = (
                tf.io.VarLenFeature(kind) if field.nullable else tf.io.FixedLenFeature([], kind)
            )
    seen = set()
    for split in SPLITS:
        for path in sorted((tmp_path / "out").glob(f"{split}-*.tfrecord")):
            # The reader checks every checksum.
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                sample = tf.io.parse_single_example(record, spec)
                row = rows[sample["sample_id"].numpy().decode()]
                file, label = sample["file"].numpy(), int(sample["label"])
                check(sample["image"].numpy(), file, label, row)
                picture = tf.io.decode_png(sample["image"]).numpy()
                assert picture.shape == (row["height"], row["width"], row["channels"])
                for field in SCHEMA:
                    if field.name == "label":
                        continue
                    value, truth = sample[field.name], row[field.name]
                    if field.nullable:
                        values = tf.sparse.to_dense(value).numpy().tolist()
                        expected = [] if truth is None else [np.float32(truth)]
                        assert np.array_equal(values, expected, equal_nan=True), field.name
                    else:
                        value = value.numpy()
                        value = value.decode() if isinstance(value, bytes) else value
                        assert value == truth, field.name
                assert row["split"] == split
                seen.add(row["sample_id"])
    assert seen == set(rows)
    assert sum(result.samples.values()) == len(rows)
    assert result.files == len(list((tmp_path / "out").glob("*.tfrecord")))


def test_webdataset(dataset: Path, rows: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    export_dataset(dataset, tmp_path / "out", "webdataset", POOL)
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.uname) == (0, 0, "")
                key, _, suffix = member.name.partition(".")
                content = tar.extractfile(member)
                assert content is not None
                samples.setdefault(f"{path.name}/{key}", {})[suffix] = content.read()
    assert len(samples) == len(rows)
    for place, sample in samples.items():
        assert set(sample) == {"png", "cls", "json", "file"}
        columns = json.loads(sample["json"])
        row = rows[columns["sample_id"]]
        check(sample["png"], sample["file"], int(sample["cls"]), row)
        assert place.startswith(row["split"])
        assert columns["label"] == int(sample["cls"])
        assert columns["label_name"] == row["label"]
        for name in set(SCHEMA.names) - {"label"}:
            finite = not isinstance(row[name], float) or np.isfinite(row[name])
            assert columns[name] == (row[name] if finite else None)


def test_huggingface(dataset: Path, rows: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    export_dataset(dataset, tmp_path / "out", "huggingface", POOL)
    seen = set()
    for split in SPLITS:
        for path in sorted((tmp_path / "out" / "data").glob(f"{split}-?????-of-?????.parquet")):
            table = pq.read_table(path)
            features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
            assert list(features) == table.column_names
            assert features["image"] == {"_type": "Image"}
            assert features["label"] == {"names": LABELS, "_type": "ClassLabel"}
            assert features["seed"] == {"dtype": "int64", "_type": "Value"}
            for sample in table.to_pylist():
                row = rows[sample["sample_id"]]
                check(sample["image"]["bytes"], sample["file"], sample["label"], row)
                assert row["split"] == split
                for name in set(SCHEMA.names) - {"label", "ms_ssim"}:
                    assert sample[name] == row[name]
                seen.add(row["sample_id"])
    assert seen == set(rows)


def test_huggingface_card_names_the_files(dataset: Path, tmp_path: Path) -> None:
    export_dataset(dataset, tmp_path / "out", "huggingface", POOL, ["train", "val"])
    card = (tmp_path / "out" / "README.md").read_text()
    front, body = card.removeprefix("---\n").split("\n---\n", 1)
    content = yaml.safe_load(front)
    (config,) = content["configs"]
    assert [item["split"] for item in config["data_files"]] == ["train", "val"]
    for item in config["data_files"]:
        assert list((tmp_path / "out").glob(item["path"]))
    features = {item["name"]: item["dtype"] for item in content["dataset_info"]["features"]}
    assert features["image"] == "image"
    assert features["label"] == {"class_label": {"names": dict(zip("012", LABELS, strict=True))}}
    assert body.count("---\npretty_name") == 0
    assert "It passes." in body


def test_patches(dataset: Path, tmp_path: Path) -> None:
    whole = load_patches(dataset)
    result = export_dataset(dataset, tmp_path / "out", "patches", POOL, ["train", "test"])
    exported = load_patches(tmp_path / "out")
    kept = [split != "val" for split in whole.table["split"].to_pylist()]
    assert np.array_equal(exported.pixels, whole.pixels[kept])
    assert exported.table.equals(whole.table.filter(kept))
    assert exported.labels == LABELS
    assert sum(result.samples.values()) == sum(kept)
    assert read_manifest(tmp_path / "out").num_rows


def test_patches_are_cut_where_a_dataset_has_none(tmp_path: Path) -> None:
    write_tiny_dataset(tmp_path / "dataset")
    export_dataset(tmp_path / "dataset", tmp_path / "out", "patches", POOL)
    assert len(load_patches(tmp_path / "out").pixels) == 3 * 3 * 4


@pytest.mark.parametrize("form", SHARDED)
def test_equal_bytes_in_any_number_of_processes(
    dataset: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 60_000)
    export_dataset(dataset, tmp_path / "here", form, POOL)
    with worker_pool(1) as pool:
        export_dataset(dataset, tmp_path / "there", form, pool)
    assert tree(tmp_path / "here") == tree(tmp_path / "there")
    assert len(list((tmp_path / "here").rglob("train-*"))) > 1


def test_shards_are_bounded_and_complete(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = read_manifest(dataset)
    monkeypatch.setattr(shards, "SHARD_BYTES", 40_000)
    planned = plan_shards(table)
    assert sorted(row for _, part in planned for row in part) == list(range(len(table)))
    all_rows = table.to_pylist()
    for name, part in planned:
        members = [all_rows[row] for row in part]
        assert {row["split"] for row in members} == {name.split("-")[0]}
        sizes = [r["width"] * r["height"] * r["channels"] + r["file_bytes"] for r in members]
        assert sum(sizes) <= 40_000 or len(part) == 1
    for split in SPLITS:
        names = [name for name, _ in planned if name.startswith(split)]
        assert names == [f"{split}-{n:05d}-of-{len(names):05d}" for n in range(len(names))]


@pytest.mark.parametrize("form", EXPORTS)
def test_a_folder_with_files_is_refused(dataset: Path, tmp_path: Path, form: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ExportError, match="not an empty folder"):
        export_dataset(dataset, tmp_path / "out", form, POOL)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("form", SHARDED)
def test_a_damaged_file_leaves_nothing(tmp_path: Path, form: str) -> None:
    storage = write_tiny_dataset(tmp_path / "dataset")
    victim = next(path for path in storage.list("encoded/jpeg") if "ratio20" in path)
    storage.write(victim, storage.read(victim)[:-1])
    with pytest.raises(ExportError, match="hash is not the manifest's"):
        export_dataset(tmp_path / "dataset", tmp_path / "out", form, POOL)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_a_dataset_on_another_file_system(tmp_path: Path) -> None:
    write_tiny_dataset("memory://export-test")
    write_tiny_dataset(tmp_path / "dataset")
    for place, name in (("memory://export-test", "far"), (tmp_path / "dataset", "near")):
        export_dataset(place, tmp_path / name, "webdataset", POOL)
    assert tree(tmp_path / "far") == tree(tmp_path / "near")


def test_unknown_names_are_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="huggingface"):
        export_dataset(dataset, tmp_path / "out", "zip", POOL)
    for form in EXPORTS:
        with pytest.raises(ExportError, match="train, val, test"):
            export_dataset(dataset, tmp_path / "out", form, POOL, ["all"])
