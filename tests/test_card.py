"""The dataset card and the Croissant file: true, complete, the same for equal datasets."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml
from tiny_dataset import DESCRIPTION, LABELS, write_tiny_dataset

from datasets.card import card_body, write_card
from datasets.croissant import COLUMNS, write_croissant
from datasets.manifest import SCHEMA, read_manifest
from datasets.sources import REASONS
from datasets.storage import Storage


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = write_tiny_dataset(tmp_path_factory.mktemp("card") / "dataset")
    table = read_manifest(storage.root)
    write_card(storage, DESCRIPTION, table, "## Bias audit\n\nIt passes.", [])
    write_croissant(storage, DESCRIPTION, table)
    return storage


def card(storage: Storage) -> tuple[dict[str, object], str]:
    """Front matter and body."""
    text = storage.read("README.md").decode()
    assert text.startswith("---\n")
    front, body = text[4:].split("\n---\n", 1)
    return yaml.safe_load(front), body


def test_front_matter(dataset: Storage) -> None:
    front, _ = card(dataset)
    assert front["license"] == "other"
    assert front["task_categories"] == ["image-classification"]
    assert front["size_categories"] == ["n<1K"]
    assert set(LABELS) < set(front["tags"])  # type: ignore[call-overload]
    (config,) = front["configs"]  # type: ignore[misc]
    (files,) = config["data_files"]
    assert dataset.exists(files["path"])
    assert files["split"] not in {"train", "all"}
    info = front["dataset_info"]
    assert info["config_name"] == config["config_name"]  # type: ignore[index]
    assert [item["name"] for item in info["features"]] == SCHEMA.names  # type: ignore[index]


def test_the_licence_is_the_descriptions(dataset: Storage, tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    described = DESCRIPTION | {"license": "cc-by-4.0"}
    write_card(storage, described, read_manifest(dataset.root), "", [])
    assert card(storage)[0]["license"] == "cc-by-4.0"


def test_figures(dataset: Storage) -> None:
    _, body = card(dataset)
    lines = body.splitlines()
    assert "| uncompressed | 1 | 1 | 1 | 3 |" in lines
    assert "| jpeg | 3 | 2 | 2 | 7 |" in lines
    assert "| sources | 1 | 1 | 1 | 3 |" in lines
    assert f"| {REASONS['jpeg-history']} | 1 |" in lines
    assert "| single | compress | 15 |" in lines
    assert "| resaved-png | compress → save_png | 1 |" in lines
    # Two of three JPEG 2000 samples reached ratio 8.
    assert any(
        re.match(r"\| jpeg2000 \| 66 %, [\d.]+ \| 100 %, [\d.]+ \| 2.00 \|", x) for x in lines
    )
    assert "| jpeg2000 | ratio 8 | ratio 8 is out of reach: the largest file has 9.1 | 1 |" in lines
    assert "no \\| memory" in body
    assert body.count("\n## Bias audit\n\nIt passes.\n") == 1
    assert "--ratios 8,20" in body
    assert '--ssims ""' in body
    assert "--ratio-range 4 60" in body
    assert "--histories single,resaved-png" in body
    assert "None: every sample was compared" in body


def test_leaks_are_said(dataset: Storage) -> None:
    body = card_body(DESCRIPTION, read_manifest(dataset.root), [], "", ["oak in train and val"])
    assert "**1 found:**" in body
    assert "- oak in train and val" in body
    assert "Files rejected: 0." in body


def test_a_history_of_ones_own_comes_from_a_file(dataset: Storage) -> None:
    own = {"config": DESCRIPTION["config"] | {"histories": [{"name": "my-own"}]}}
    body = card_body(DESCRIPTION | own, read_manifest(dataset.root), [], "", [])
    assert "--histories histories.json" in body
    assert "`histories.json` is the list" in body


def test_equal_datasets_have_equal_cards(dataset: Storage, tmp_path: Path) -> None:
    other = write_tiny_dataset(tmp_path / "elsewhere")
    write_card(other, DESCRIPTION, read_manifest(other.root), "## Bias audit\n\nIt passes.", [])
    write_croissant(other, DESCRIPTION, read_manifest(other.root))
    for name in ("README.md", "croissant.json"):
        assert other.read(name) == dataset.read(name)
        assert b"elsewhere" not in other.read(name)


def test_every_column_is_explained() -> None:
    assert list(COLUMNS) == SCHEMA.names


# Both by mlcroissant 1.1.1, under rdflib 7.6 and pandas 3.1.
@pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.reset_index")
def test_mlcroissant_validates_and_reads(
    dataset: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    import mlcroissant

    described = mlcroissant.Dataset(jsonld=dataset.folder / "croissant.json")
    assert not described.metadata.ctx.issues.errors
    said = [w for w in described.metadata.ctx.issues.warnings if "recommended" not in w]
    assert not said
    table = read_manifest(dataset.root)
    (manifest, encoded) = described.metadata.distribution
    assert manifest.sha256 == hashlib.sha256(dataset.read("manifest.parquet")).hexdigest()
    assert encoded.includes == ["encoded/*/*"]
    records = list(described.records("samples"))
    assert len(records) == len(table)
    for record, row in zip(records, table.to_pylist(), strict=True):
        assert set(record) == {f"samples/{name}" for name in SCHEMA.names}
        assert record["samples/path"] == row["path"].encode()
        assert record["samples/seed"] == row["seed"]
        assert record["samples/reached"] == row["reached"]
        if row["ratio"] is not None:
            assert record["samples/ratio"] == row["ratio"]


def test_croissant_is_json_without_surprises(dataset: Storage) -> None:
    content = json.loads(dataset.read("croissant.json"))
    assert content["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    fields = content["recordSet"][0]["field"]
    assert [field["name"] for field in fields] == SCHEMA.names
    assert all(field["description"] for field in fields)
