"""The protocols, asked of fakes whose answers are known, on datasets written by hand."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import photograph_like
from tiny_dataset import HerePool, write_tiny_dataset
from typer.testing import CliRunner, Result

import main
from datasets.manifest import SCHEMA, read_manifest, write_manifest
from datasets.patches import PatchConfig, extract_patches
from datasets.seeds import generator
from datasets.sources import pixel_hash
from datasets.storage import Storage
from datasets.workers import Crashed, WorkerError
from imagecompression import CODECS, Jpeg, Jpeg2000, Lossless, RateSearch, RatioTarget
from imagecompression.metrics import measure
from train import ais22 as ais22_module
from train.ais22 import PUBLISHED, ais22, ais22_pictures
from train.answers import (
    Answers,
    ProtocolSettings,
    RememberedAnswers,
    RememberedSigns,
    UnsuitableDatasetError,
    View,
    ask,
)
from train.calibration import Calibration, FittedOn, Sharpness
from train.cross_encoder import cross_encoder, without
from train.decisive_signs import DecisiveSign
from train.evaluator import EvaluationError
from train.held_out_reliability import held_out_reliability
from train.pictures import Picture, random_patches, read_pictures, sampled
from train.protocols import (
    PROTOCOLS,
    bands,
    first_codec,
    grid_phase,
    protocol_names,
    run_protocols,
    run_settings,
    write_protocols,
)
from train.robustness import OPERATIONS, robustness
from train.run import Run
from train.source_kind import read_kinds, source_kind
from train.verdict import pooled_probabilities, telling_patches, verdict_from_patches

LABELS = ("uncompressed", "jpeg", "jpeg2000")
SIZE = 32
SETTINGS = ProtocolSettings(LABELS, patch_sizes=(SIZE, 48), image_patch=SIZE, patches=3)


class Finder:
    """Finds patches in the pictures of a dataset by their pixels."""

    def __init__(self, dataset: Path) -> None:
        self._places: dict[bytes, list[tuple[Picture, np.ndarray, int, int]]] = {}
        for picture in read_pictures(dataset):
            image = picture.decoded()
            for y, x in np.ndindex(image.shape[0], image.shape[1] - 3):
                place = (picture, image, y, x)
                self._places.setdefault(image[y, x : x + 4].tobytes(), []).append(place)

    def find(self, patch: np.ndarray) -> list[tuple[Picture, int, int]]:
        """Each picture that holds the patch, with top and left."""
        side = len(patch)
        return [
            (picture, y, x)
            for picture, image, y, x in self._places.get(patch[0, :4].tobytes(), [])
            if np.array_equal(image[y : y + side, x : x + side], patch)
        ]


class Knowing:
    """Knows each patch of a dataset's pictures by its pixels; elsewhere says `otherwise`."""

    def __init__(
        self, dataset: Path, otherwise: str = "uncompressed", wrong: Callable = lambda row: None
    ) -> None:
        self._finder = Finder(dataset)
        self._otherwise = otherwise
        self._wrong = wrong
        self.asked = 0

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        assert pixels.dtype == np.uint8
        self.asked += len(pixels)
        answers = [LABELS.index(self._named(patch)) for patch in pixels]
        return np.where(np.eye(len(LABELS))[answers] == 1, 0.8, 0.1).astype(np.float32)

    def _named(self, patch: np.ndarray) -> str:
        for picture, _, _ in self._finder.find(patch):
            return self._wrong(picture.row) or picture.label
        return self._otherwise


def always(label: str, labels: tuple[str, ...] = LABELS) -> Callable:
    return lambda pixels: np.eye(len(labels), dtype=np.float32)[
        np.full(len(pixels), labels.index(label))
    ]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three test sources with five files each, JPEG of two chroma subsamplings, one origin."""
    folder = tmp_path_factory.mktemp("protocols") / "dataset"
    storage = Storage(folder)
    rows = []
    for number in range(3):
        image = photograph_like(72, 96, 3, seed=number)
        for label, codec, history in (
            ("uncompressed", Lossless(), "single"),
            ("jpeg", Jpeg(quality=20, subsampling="4:2:0"), "single"),
            ("jpeg", Jpeg(quality=80, subsampling=("4:4:4", "4:2:0")[number % 2]), "single"),
            ("jpeg2000", Jpeg2000(ratio=12.0), "single"),
            ("jpeg2000", Jpeg2000(ratio=20.0 + number), "double"),
        ):
            before = Jpeg(quality=70).decode(Jpeg(quality=70).encode(image))
            data = codec.encode(image if history == "single" else before)
            decoded = codec.decode(data)
            chain = [{"step": "compress", "codec": "jpeg"}] if history == "double" else []
            name = f"s{number}_{label}_{len(rows)}"
            path = f"encoded/{name}{codec.suffix}"
            storage.write(path, data)
            sha = hashlib.sha256(str(number).encode()).hexdigest()
            row = {field.name: None if field.nullable else "" for field in SCHEMA} | {
                "sample_id": name,
                "status": "ok",
                "source_id": f"s{number}",
                "source_file": f"deep/s{number}.tif",
                "source_sha256": sha,
                "origin": "camera" if number else "",
                "split": "test",
                "label": label,
                "codec": label,
                "params": json.dumps(codec.params()),
                "reached": True,
                "encodes": 1,
                "history": history,
                "chain": json.dumps([*chain, {"step": "compress", "codec": label}]),
                "container": codec.name,
                "path": path,
                "file_bytes": len(data),
                "file_sha256": hashlib.sha256(data).hexdigest(),
                "pixel_sha256": pixel_hash(decoded),
                "width": 96,
                "height": 72,
                "channels": 3,
                "seed": 0,
            }
            rows.append(row | measure(image, decoded, len(data)))
    write_manifest(storage, rows)
    return folder


def row_of(rows: list[dict], **wanted: object) -> dict:
    """The one row with these values."""
    found = [row for row in rows if all(row[name] == v for name, v in wanted.items())]
    assert len(found) == 1, (wanted, found)
    return found[0]


# Pictures.


def test_pictures_are_those_that_can_be_judged(tmp_path: Path) -> None:
    write_tiny_dataset(tmp_path)
    pictures = read_pictures(tmp_path, "all")
    rows = [r for r in read_manifest(tmp_path).to_pylist() if r["status"] == "ok"]
    # One of them decoded to its very source.
    traced = [r["sample_id"] for r in rows if r["history"] == "single"]
    assert [p.row["sample_id"] for p in pictures] == traced
    write_manifest(Storage(tmp_path), [*rows, rows[1] | {"sample_id": "another-target-same-file"}])
    assert [p.row["sample_id"] for p in read_pictures(tmp_path, "all")] == traced
    assert {p.decoded().shape[2] for p in pictures} == {3}
    assert len(read_pictures(tmp_path)) == 5
    for wrong, words in (({"split": "dev"}, "split must be"), ({"labels": ["jpeg"]}, "not know")):
        with pytest.raises(EvaluationError, match=words):
            read_pictures(tmp_path, **wrong)  # type: ignore[arg-type]
    path = tmp_path / rows[0]["path"]
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(EvaluationError, match="hash"):
        pictures[0].decoded()
    path.unlink()
    with pytest.raises(EvaluationError, match="missing"):
        pictures[0].decoded()


def test_training_sources_are_refused(dataset: Path) -> None:
    seen = read_pictures(dataset)[0].source
    settings = ProtocolSettings(LABELS, trained_on=frozenset([seen, "another"]))
    for protocol in PROTOCOLS.values():
        with pytest.raises(EvaluationError, match="trained on 1 of the 3 source pictures"):
            protocol(always("jpeg"), dataset, settings, None)


def test_patches_and_samples_follow_from_the_seed(dataset: Path) -> None:
    pictures = read_pictures(dataset)
    image = pictures[0].decoded()
    cuts = random_patches(image, 32, 200, np.random.default_rng(0))
    places = [np.argwhere((image == cut[0, 0]).all(axis=2)).tolist() for cut in cuts]
    phases = {(place[0][0] % 8, place[0][1] % 8) for place in places if len(place) == 1}
    assert len(phases) > 55
    assert len(random_patches(image, 72, 500, np.random.default_rng(0))) == 25
    assert random_patches(image, 73, 5, np.random.default_rng(0)).shape == (0, 73, 73, 3)
    one = sampled(pictures, 1, 0)
    assert len(one) == 9
    assert [p.row["sample_id"] for p in one] == [
        p.row["sample_id"] for p in sampled(pictures, 1, 0)
    ]
    draws = {tuple(p.row["sample_id"] for p in sampled(pictures, 1, seed)) for seed in range(5)}
    assert len(draws) > 1
    assert sampled(pictures, 9, 0) == pictures


def test_equal_patches_are_asked_about_once(dataset: Path) -> None:
    knowing = Knowing(dataset)
    remembered = RememberedAnswers(knowing)
    first = bands(remembered, dataset, SETTINGS)
    asked = knowing.asked
    assert (
        bands(remembered, dataset, SETTINGS) == first == bands(Knowing(dataset), dataset, SETTINGS)
    )
    assert knowing.asked == asked
    pixels = np.zeros((3, 32, 32, 3), np.uint8)
    pixels[1] = 9
    np.testing.assert_array_equal(remembered(pixels), knowing(pixels))
    assert knowing.asked == asked + 2 + 3
    forgetful = RememberedAnswers(knowing, most=1)
    for _ in range(2):
        np.testing.assert_array_equal(forgetful(pixels), knowing(pixels))
    assert knowing.asked == asked + 2 + 3 + (2 + 3) + (1 + 3)


# Protocols.


def test_reliability_tells_honest_probabilities_from_boasts(dataset: Path) -> None:
    knowing = Knowing(dataset)

    def modest(patches: np.ndarray) -> np.ndarray:
        return 0.4 * knowing(patches) + 0.2  # 0.52 for the true class, which is always right

    alone = dataclasses.replace(SETTINGS, signs=lambda images: [DecisiveSign()] * len(images))
    plain = held_out_reliability(modest, dataset, alone)
    assert [row["probabilities"] for row in plain.rows] == ["network", "network"]
    sharp = Sharpness(temperature=0.05, scale=20.0, correlation=1.0)
    sharper = Calibration(
        between=sharp, within=sharp, most_patches=64, labels=LABELS,
        bounds=dict.fromkeys(LABELS, (-2.0, 2.0)), fitted_on=FittedOn("val", "0", "0", 1, 1, 1, {}),
    )  # fmt: skip
    settings = dataclasses.replace(alone, calibration=sharper)
    rows = held_out_reliability(modest, dataset, settings).rows
    for level in (f"patch-{SIZE}", "image"):
        network = row_of(rows, level=level, probabilities="network")
        calibrated = row_of(rows, level=level, probabilities="calibrated")
        assert network["accuracy"] == calibrated["accuracy"] == 1.0
        assert network["ece"] == pytest.approx(1 - 0.52, abs=0.001)
        assert calibrated["ece"] < 0.01 and calibrated["log_loss"] < 0.01 < network["log_loss"]


def test_a_near_miss_is_right_about_the_family() -> None:
    labels = ("uncompressed", "jpeg", "bpg", "heic")
    probabilities = np.array(
        [[0.1, 0.0, 0.4, 0.5], [0.4, 0.0, 0.3, 0.3], [0.6, 0.0, 0.2, 0.2]], np.float32
    )
    answers = Answers("image", "bpg", "s", {}, probabilities)
    assert (answers.right(labels), answers.right_families(labels)) == (0, 2)


def test_bands_and_levels(dataset: Path) -> None:
    """Wrong about the mild JPEGs of one source."""

    def wrong(row: dict) -> str | None:
        mild = row["label"] == "jpeg" and row["source_id"] == "s1" and row["ssim"] > 0.8
        return "uncompressed" if mild else None

    done: list[tuple[str, int, int]] = []
    alone = dataclasses.replace(SETTINGS, signs=lambda images: [DecisiveSign()] * len(images))
    result = bands(Knowing(dataset, wrong=wrong), dataset, alone, lambda *told: done.append(told))
    assert done[-1] == ("bands", 15, 15)
    for level, each in (("patch-32", 3), ("patch-48", 3), ("image", 1)):
        jpeg = row_of(result.rows, level=level, measure="class", label="jpeg")
        assert (jpeg["n"], jpeg["sources"]) == (6 * each, 3)
        assert jpeg["accuracy"] == pytest.approx(5 / 6)
        assert (jpeg["low"], jpeg["high"]) == (0.5, 1.0)
        assert row_of(result.rows, level=level, label="all")["accuracy"] == pytest.approx(14 / 15)
        family = row_of(result.rows, level=level, label="all families")
        assert family["accuracy"] == pytest.approx(14 / 15), "each class is a family of its own"
        worst = row_of(result.rows, level=level, measure="worst class")
        assert (worst["label"], worst["accuracy"]) == ("jpeg", pytest.approx(5 / 6))
        assert (worst["low"], worst["high"]) == (0.5, 1.0)
    manifest = read_manifest(dataset).to_pylist()
    for name, label in (("ratio", "compressed"), ("ssim", "jpeg"), ("psnr_db", "jpeg2000")):
        rows = [
            r
            for r in result.rows
            if (r["level"], r["measure"], r["label"]) == ("image", name, label)
        ]
        for r in rows:
            inside = [
                m
                for m in manifest
                if m["label"] in ((label,) if label != "compressed" else LABELS[1:])
                and r["from"] <= m[name] < (r["to"] or 1e9)
            ]
            assert r["n"] == len(inside)
            named = [m for m in inside if wrong(m) is None]
            assert r["accuracy"] == pytest.approx(len(named) / len(inside))
        assert sum(r["n"] for r in rows) == (12 if label == "compressed" else 6)
    assert len({tuple(row) for row in result.rows}) == 1


def test_signs_of_whole_pictures_take_wrong_answers_back(dataset: Path) -> None:
    def wrong(row: dict) -> str | None:
        return "uncompressed" if row["label"] == "jpeg" and row["ssim"] > 0.8 else None

    def unsure(patches: np.ndarray) -> np.ndarray:
        answers = Knowing(dataset, wrong=wrong)(patches)
        return 0.8 * answers + 0.2 * np.eye(len(LABELS))[LABELS.index("jpeg")]

    rows = bands(unsure, dataset, dataclasses.replace(SETTINGS, signs=RememberedSigns())).rows
    assert rows == bands(unsure, dataset, SETTINGS).rows
    patches, pictures = (
        row_of(rows, level=level, measure="class", label="jpeg")["accuracy"]
        for level in (f"patch-{SIZE}", "image")
    )
    assert patches < pictures


def test_image_level_is_the_verdict_on_the_picture(dataset: Path) -> None:
    rng = np.random.default_rng(0)
    projection = rng.normal(0, 1e-4, (SIZE * SIZE * 3, 3))

    def predict(pixels: np.ndarray) -> np.ndarray:
        powers = np.exp(pixels.reshape(len(pixels), -1) @ projection)
        return powers / powers.sum(axis=1, keepdims=True)

    settings = ProtocolSettings(LABELS, patch_sizes=(), image_patch=SIZE)
    result = bands(predict, dataset, settings)
    right = [
        verdict_from_patches(predict(telling_patches(p.decoded(), SIZE)[0]), LABELS).label
        == p.label
        for p in read_pictures(dataset)
    ]
    assert row_of(result.rows, label="all")["accuracy"] == pytest.approx(np.mean(right))
    assert {row["level"] for row in result.rows} == {"image"}
    with pytest.raises(EvaluationError, match="predict must answer"):
        bands(lambda pixels: np.ones((len(pixels), 2)), dataset, settings)


def test_grid_phase(dataset: Path) -> None:
    """A classifier that is right only where a patch starts in the first row of a block."""
    finder = Finder(dataset)

    def predict(pixels: np.ndarray) -> np.ndarray:
        answers = []
        for patch in pixels:
            picture, y, _ = finder.find(patch)[0]
            answers.append(LABELS.index(picture.label if y % 8 == 0 else "uncompressed"))
        return np.eye(3)[answers]

    result = grid_phase(predict, dataset, SETTINGS)
    assert len(result.rows) == 64 + 3
    for y in range(8):
        for x in (0, 5):
            row = row_of(result.rows, phase=f"{y},{x}")
            assert (row["n"], row["sources"]) == (15, 3)
            assert row["accuracy"] == (1 if y == 0 else pytest.approx(3 / 15))
    mean = row_of(result.rows, phase="mean")
    assert mean["accuracy"] == pytest.approx((1 + 7 / 5) / 8)
    assert mean["n"] == 64 * 15
    assert row_of(result.rows, phase="max")["at"].startswith("0,")
    assert row_of(result.rows, phase="min")["accuracy"] == pytest.approx(1 / 5)
    large = ProtocolSettings(LABELS, image_patch=70)
    with pytest.raises(UnsuitableDatasetError, match="77 pixels"):
        grid_phase(predict, dataset, large)


def test_robustness(dataset: Path) -> None:
    """A classifier that knows untouched pixels alone, and calls all else JPEG."""
    settings = ProtocolSettings(
        LABELS, patch_sizes=(SIZE,), image_patch=SIZE, patches=1, image_patches=2, sampled_files=1
    )
    result = robustness(Knowing(dataset, otherwise="jpeg"), dataset, settings)
    assert {(r["operation"], r["strength"]) for r in result.rows} == {
        (o.name, o.strength) for o in OPERATIONS
    }
    assert len({(o.name, o.strength) for o in OPERATIONS}) == len(OPERATIONS)
    for level in ("patch-32", "image"):
        for operation, strength, accuracy, count in (
            ("none", 0.0, 1, 9),
            ("crop", "1-15", 1, 9),
            ("noise", 8.0, 1 / 3, 9),
            ("blur", 2.0, 1 / 3, 9),
            ("resize", 2.0, 1 / 3, 9),
            ("gamma", 1.4, 1 / 3, 9),
            ("jpeg", 75.0, 1 / 2, 6),  # not the uncompressed ones
        ):
            row = row_of(
                result.rows, level=level, operation=operation, strength=strength, label="all"
            )
            assert row["accuracy"] == pytest.approx(accuracy), (level, operation)
            assert row["n"] == count
    # 72×96 at half the size has 36 rows: enough for patches of 32, not for those of 48.
    rows = robustness(always("jpeg"), dataset, SETTINGS).rows
    halves = {r["level"] for r in rows if (r["operation"], r["strength"]) == ("resize", 0.5)}
    assert halves == {"patch-32", "image"}


def test_source_kind(dataset: Path, tmp_path: Path) -> None:
    table = tmp_path / "kinds.csv"
    table.write_text(
        'file,history\nval/s0.tif,"downscaled JPEG, no trace"\nx/s1.tif,never lossy\n'
        "y/s2.tif,never lossy\n"
    )
    kinds = read_kinds(table)
    assert kinds == {"s0.tif": "downscaled", "s1.tif": "never lossy", "s2.tif": "never lossy"}
    settings = ProtocolSettings(LABELS, patch_sizes=(), image_patch=SIZE, kinds=kinds)

    def wrong(row: dict) -> str | None:
        alarm = row["label"] == "uncompressed" and row["source_id"] == "s1"
        return "jpeg" if alarm else None

    rows = source_kind(Knowing(dataset, wrong=wrong), dataset, settings).rows
    own = row_of(rows, by="kind", value="never lossy", label="uncompressed")
    assert (own["n"], own["sources"], own["accuracy"], own["called_compressed"]) == (2, 2, 0.5, 0.5)
    other = row_of(rows, by="kind", value="downscaled", label="uncompressed")
    assert (other["accuracy"], other["low"]) == (1, None)
    lossy = row_of(rows, by="kind", value="never lossy", label="compressed")
    assert (lossy["n"], lossy["accuracy"], lossy["called_compressed"]) == (8, 1, 1)
    assert {r["value"] for r in rows if r["by"] == "origin"} == {"camera"}
    table.write_text("name\n")
    with pytest.raises(EvaluationError, match="Missing: file, history"):
        read_kinds(table)
    with pytest.raises(EvaluationError, match="not a readable CSV"):
        read_kinds(tmp_path / "absent.csv")


def test_nothing_known_of_sources(tmp_path: Path) -> None:
    write_tiny_dataset(tmp_path)
    with pytest.raises(UnsuitableDatasetError, match="nothing is known"):
        source_kind(always("jpeg"), tmp_path, SETTINGS)


def test_cross_encoder(dataset: Path) -> None:
    def wrong(row: dict) -> str | None:
        return "jpeg2000" if json.loads(row["params"]).get("subsampling") == "4:4:4" else None

    rows = cross_encoder(Knowing(dataset, wrong=wrong), dataset, SETTINGS).rows
    assert {(row["label"], row["field"]) for row in rows} == {("jpeg", "subsampling")}
    spoilt = row_of(rows, level="image", value='"4:4:4"')
    assert (spoilt["n"], spoilt["sources"], spoilt["accuracy"]) == (2, 2, 0)
    assert row_of(rows, level="image", value='"4:2:0"')["accuracy"] == 1


def test_training_without_one_encoder_setting(dataset: Path) -> None:
    kept = without(dataset, "jpeg", "subsampling", "4:4:4")
    rows = {row["sample_id"]: row for row in read_manifest(dataset).to_pylist()}
    left_out = [rows[name] for name in rows if name not in kept]
    assert len(left_out) == 2
    assert {json.loads(row["params"])["subsampling"] for row in left_out} == {"4:4:4"}
    assert kept == [name for name in rows if name in kept]
    for field, value in (("subsampling", "4:1:1"), ("encoder", "libjpeg-turbo"), ("qp", 3)):
        with pytest.raises(EvaluationError, match="to leave out"):
            without(dataset, "jpeg", field, value)


def test_first_codec(dataset: Path, tmp_path: Path) -> None:
    rows = first_codec(Knowing(dataset), dataset, SETTINGS).rows
    last = row_of(rows, level="image", truth="last", label="all")
    assert (last["history"], last["n"], last["accuracy"]) == ("double", 3, 1)
    assert row_of(rows, level="image", truth="last", label="jpeg2000")["n"] == 3
    first = row_of(rows, level="image", truth="first", label="jpeg")
    assert (first["n"], first["accuracy"]) == (3, 0)
    # Whoever does not know the first codec is not asked for it.
    rows = first_codec(always("jpeg"), dataset, SETTINGS).rows
    assert row_of(rows, level="image", truth="first", label="all")["accuracy"] == 1
    write_tiny_dataset(tmp_path)
    with pytest.raises(UnsuitableDatasetError, match="--histories double"):
        first_codec(always("jpeg"), tmp_path, SETTINGS)


# AIS-22.


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One uncompressed test source of 530×540 pixels."""
    folder = tmp_path_factory.mktemp("ais22") / "dataset"
    storage = write_tiny_dataset(folder)
    rows = read_manifest(folder).to_pylist()
    row = next(r for r in rows if r["split"] == "test" and r["label"] == "uncompressed")
    data = Lossless().encode(photograph_like(530, 540, 3, seed=5))
    storage.write(row["path"], data)
    row |= {"file_sha256": hashlib.sha256(data).hexdigest(), "width": 540, "height": 530}
    write_manifest(storage, rows)
    return folder


def test_ais22_pictures_are_resumed(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [p for p in read_pictures(large) if p.label == "uncompressed"]
    arguments = (sources, tmp_path, HerePool(), ("jpeg", "webp"), (5, 25))
    pictures = ais22_pictures(*arguments)
    assert [(p.label, p.row["kilobytes"]) for p in pictures] == [
        ("jpeg", 5), ("jpeg", 25), ("webp", 5), ("webp", 25),
    ]  # fmt: skip
    for picture in pictures:
        assert picture.decoded().shape == (512, 512, 3)
        size = (tmp_path / picture.row["path"]).stat().st_size
        assert picture.row["measured"] == pytest.approx(786432 / size)
        assert picture.row["reached"] == (
            abs(size / (1000 * picture.row["kilobytes"]) - 1) < 0.06
        ), size
    # The crop is the source's middle.
    jpeg = RateSearch(np.ascontiguousarray(sources[0].decoded()[9:521, 14:526]), Jpeg())
    assert pictures[1].row["file_sha256"] in {
        hashlib.sha256(jpeg.to(RatioTarget(786432 / 25000)).data).hexdigest()
    }
    made: list[str] = []
    search = ais22_module.RateSearch

    def counting(image: np.ndarray, codec: Jpeg) -> RateSearch:
        made.append(codec.name)
        return search(image, codec)

    monkeypatch.setattr(ais22_module, "RateSearch", counting)
    again = ais22_pictures(*arguments)
    assert not made
    assert [p.row for p in again] == [p.row for p in pictures]
    (tmp_path / pictures[2].row["path"]).write_bytes(b"damaged")
    assert [p.row for p in ais22_pictures(*arguments)] == [p.row for p in pictures]
    assert made == ["webp"]
    small = [p for p in read_pictures(large) if p.label == "jpeg"]
    with pytest.raises(EvaluationError, match="512 pixels a side"):
        ais22_pictures(small, *arguments[1:])


def test_ais22(large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ais22_module, "CLASSES", ("jpeg", "webp"))
    monkeypatch.setattr(ais22_module, "KILOBYTES", (5,))
    monkeypatch.setattr(
        ais22_module, "ais22_pictures",
        lambda *a, **k: ais22_pictures(a[0], a[1], HerePool(), a[3], (5,), k["progress"]),
    )  # fmt: skip
    shown: dict[int, np.ndarray] = {}

    def predict(pixels: np.ndarray) -> np.ndarray:
        """Says uncompressed, and of the two classes always WebP rather than JPEG."""
        shown.setdefault(pixels.shape[1], pixels)
        return np.tile(np.array([0.7, 0.1, 0.2, 0.0], np.float32), (len(pixels), 1))

    labels = ("uncompressed", "jpeg", "webp", "jpeg2000")
    settings = ProtocolSettings(
        labels, patches=2, image_patch=224, cache=tmp_path / "kept", workers=1
    )
    done: list[str] = []
    rows = ais22(predict, large, settings, lambda stage, *_: done.append(stage)).rows
    assert set(done) == {"ais22, encoding", "ais22"}
    assert (tmp_path / "kept" / "encoded" / "webp").is_dir()
    for crop in ("middle", "off grid"):
        for level, each in (("patch-64", 2), ("patch-224", 1), ("image", 1)):
            among = {"level": level, "crop": crop, "choice": "protocol's classes"}
            assert row_of(rows, **among, label="webp")["accuracy"] == 1
            assert row_of(rows, **among, label="jpeg")["accuracy"] == 0
            assert row_of(rows, **among, label="all")["n"] == 2 * each
            everything = row_of(rows, level=level, crop=crop, choice="all classes", label="all")
            assert everything["accuracy"] == 0
    published = {(r["level"], r["crop"], r["published"]) for r in rows if r["published"]}
    assert published == {("patch-224", "middle", PUBLISHED[5]), ("image", "middle", PUBLISHED[5])}
    decoded = [p.decoded() for p in ais22_pictures(
        [p for p in read_pictures(large) if p.label == "uncompressed"], tmp_path / "kept",
        HerePool(), ("jpeg", "webp"), (5,),
    )]  # fmt: skip
    np.testing.assert_array_equal(shown[224][0], decoded[0][144:368, 144:368])
    corners = np.argwhere((decoded[0] == shown[224][1][0, 0]).all(axis=2))
    places = [
        (y, x)
        for y, x in corners
        if np.array_equal(decoded[0][y : y + 224, x : x + 224], shown[224][1])
    ]
    assert len(places) == 1
    assert all(offset % 8 for offset in places[0])


def test_large_patches_are_judged_as_pictures_of_their_size() -> None:
    image = np.random.default_rng(0).integers(0, 256, (150, 170, 3), np.uint8)
    view = View("a", "jpeg", "source", image, {})
    sides: set[int] = set()

    def predict(pixels: np.ndarray) -> np.ndarray:
        sides.add(pixels.shape[1])
        share = pixels[:, 0, 0, :1] / 512.0  # another answer for each patch
        return np.concatenate([share, 1 - share], axis=1).astype(np.float32)

    settings = ProtocolSettings(("jpeg", "webp"), patch_sizes=(64, 32, 100), image_patch=32)
    found = {one.level: one.probabilities for one in ask(predict, [view], settings)}
    assert sides == {32}
    assert {level: len(part) for level, part in found.items()} == {
        "patch-32": settings.patches, "patch-64": settings.patches, "patch-100": settings.patches,
        "image": 1,
    }  # fmt: skip
    large = random_patches(image, 100, settings.patches, generator(0, "a", "patch-100"))
    for patch, answer in zip(large, found["patch-100"], strict=True):
        parts, _ = telling_patches(patch, 32)
        assert len(parts) == 9
        np.testing.assert_allclose(answer, pooled_probabilities(predict(parts)), atol=1e-6)


def test_what_ais22_cannot_judge(dataset: Path) -> None:
    with pytest.raises(UnsuitableDatasetError, match="at least 512 pixels"):
        ais22(always("jpeg"), dataset, SETTINGS)
    with pytest.raises(UnsuitableDatasetError, match="at least two of"):
        ais22(always("svd", ("svd", "jpeg")), dataset, ProtocolSettings(("svd", "jpeg")))
    assert set(ais22_module.CLASSES) <= set(CODECS)
    assert tuple(PUBLISHED) == ais22_module.KILOBYTES


# All of them.


def test_protocols_are_run_by_name_and_written(dataset: Path, tmp_path: Path) -> None:
    assert protocol_names("all") == tuple(PROTOCOLS)
    assert protocol_names("ais22, bands") == ("bands", "ais22")
    for wrong in ("band", "", "bands,none"):
        with pytest.raises(EvaluationError, match="Protocols are"):
            protocol_names(wrong)
    report = run_protocols(["ais22", "first-codec"], always("jpeg"), dataset, SETTINGS)
    assert [result.name for result in report.results] == ["first-codec"]
    assert "512" in report.skipped["ais22"]
    with pytest.raises(EvaluationError, match="ais22: "):
        run_protocols(["ais22"], always("jpeg"), dataset, SETTINGS)
    written = write_protocols(report, tmp_path / "out")
    assert {path.name for path in written} == {"protocols.json", "protocols.md", "first-codec.csv"}
    content = json.loads((tmp_path / "out" / "protocols.json").read_text())
    assert content["protocols"]["first-codec"] == report.results[0].rows
    with (tmp_path / "out" / "first-codec.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rows] == [
        row["accuracy"] for row in report.results[0].rows
    ]
    text = (tmp_path / "out" / "protocols.md").read_text()
    assert "## first-codec" in text
    assert "- ais22: " in text


def test_command_line(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extract_patches(dataset, PatchConfig(SIZE, 4, 0), HerePool())
    Storage(dataset).write(
        "dataset.json", json.dumps({"labels": LABELS, "patch_size": SIZE, "seed": 0}).encode()
    )
    run = Run(tmp_path / "run", {}, list(LABELS), SIZE, {"train": [], "val": []}, [])
    run.__dict__["model"] = SimpleNamespace(input_shape=(None, SIZE, SIZE, 3))
    run.__dict__["predict"] = always("jpeg")
    monkeypatch.setattr(Run, "load", lambda path: run)
    monkeypatch.setattr("train.backend.load_keras", lambda: None)
    kinds = tmp_path / "kinds.csv"
    kinds.write_text("file,history\ns0.tif,downscaled\n")
    arguments = ["evaluate", tmp_path / "run", dataset, "--out", tmp_path / "report"]

    def call(*more: object) -> Result:
        return CliRunner().invoke(main.app, [str(a) for a in (*arguments, *more)])

    result = call("--protocols", "source-kind,bands,ais22", "--kinds", kinds, "--json")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert content["patch"]["accuracy"] == pytest.approx(1 / 3)
    assert list(content["protocols"]) == ["bands", "source-kind"]
    assert row_of(content["protocols"]["source-kind"], level="image", value="downscaled",
                  label="uncompressed")["accuracy"] == 0  # fmt: skip
    assert "ais22 not run: " in result.stderr
    assert "bands 15/15" in result.stderr
    assert (tmp_path / "report" / "report.md").is_file()
    assert (tmp_path / "report" / "protocols" / "bands.csv").is_file()
    text = call("--protocols", "bands")
    assert "protocols.md" in text.stdout
    assert "95 % over sources: accuracy " in text.stdout
    for more, words in (
        (["--protocols", "band"], "Protocols are bands, "),
        (["--kinds", tmp_path / "absent.csv"], "absent.csv"),
    ):
        refused = call(*more)
        assert refused.exit_code == 2
        assert words in refused.stderr


@pytest.mark.parametrize(("shape", "sizes"), [((None, 96, 96, 3), (96,)), ((None,) * 4, (64, 224))])
def test_settings_of_a_run(shape: tuple, sizes: tuple, tmp_path: Path) -> None:
    run = Run(tmp_path, {}, list(LABELS), 96, {"train": ["a"], "val": ["b"]}, [])
    run.__dict__["model"] = SimpleNamespace(input_shape=shape)
    settings = run_settings(run, "val")
    assert settings == ProtocolSettings(
        LABELS, "val", patch_sizes=sizes, image_patch=96, trained_on=frozenset(["a"])
    )


def test_signs_by_processes_are_those_of_one() -> None:
    """And equal pictures are looked at once."""
    image = np.random.default_rng(0).integers(0, 256, (80, 90, 3)).astype(np.uint8)
    palette = (image[..., :1] // 128 * 90).repeat(3, axis=2)
    asked = []

    class Counting:
        processes = 1

        def run(self, function: Callable[..., object], tasks: Iterable[tuple]) -> Iterator[tuple]:
            tasks = list(tasks)
            asked.append(len(tasks))
            yield from reversed([(number, function(*task)) for number, task in enumerate(tasks)])

    alone, pooled = RememberedSigns(), RememberedSigns(Counting())
    for images in ([image, palette, image], [palette]):
        assert pooled(images) == alone(images)
    assert asked == [2]


def test_a_picture_that_ends_its_process_is_told() -> None:
    class Ending:
        processes = 1

        def run(self, function: Callable[..., object], tasks: Iterable[tuple]) -> Iterator[tuple]:
            yield 0, Crashed(0, "killed three times")

    with pytest.raises(WorkerError, match="killed three times"):
        RememberedSigns(Ending())([np.zeros((64, 64, 3), np.uint8)])
