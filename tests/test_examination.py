"""The examination of one file: evidence untouched, hashes, witnesses, odd files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from brightness_run import LABELS, PATCH_SIZE, write_run
from conftest import photograph_like
from PIL import Image as PilImage

import desk.examination as examination
from datasets.sources import pixel_hash
from desk.agreement import agreement
from desk.error_rates import ErrorRatesError, error_rates_finding, read_error_rates
from desk.examination import NOT_ENOUGH_PIXELS, examine, known_confusions
from imagecompression.errors import ImageCompressionError
from imagecompression.evidence.common_comb import SOME_CODEC
from imagecompression.evidence.container import ContainerEvidence
from imagecompression.evidence.finding import Finding
from imagecompression.evidence.hevc_intra import HEVC
from imagecompression.evidence.pixel_evidence import PixelEvidence
from imagecompression.image_io import ImageReadError, load_image
from train.classification import DEFAULT_RUN, classify
from train.run import Run
from train.verdict import Verdict


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("examination") / "run")


@pytest.fixture(autouse=True)
def witnesses(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What container and classical signs say; tests change it."""
    said: dict[str, Any] = {"codec": None, "container": [], "opinion": None, "pixels": []}
    monkeypatch.setattr(
        examination,
        "_container_evidence",
        lambda data: ContainerEvidence(
            format="some format", codec=said["codec"], findings=tuple(said["container"])
        ),
    )
    monkeypatch.setattr(
        examination,
        "_pixel_evidence",
        lambda encoded: PixelEvidence(opinion=said["opinion"], findings=tuple(said["pixels"])),
    )
    return said


def bright(height: int = 80, width: int = 120) -> np.ndarray:
    noise = np.random.default_rng(1).integers(180, 240, (height, width, 3))
    return noise.astype(np.uint8)


def saved(tmp_path: Path, name: str, image: np.ndarray | None = None, **options: Any) -> Path:
    path = tmp_path / name
    PilImage.fromarray(bright() if image is None else image).save(path, **options)
    return path


def test_facts_and_hashes(run: Run, tmp_path: Path) -> None:
    path = saved(tmp_path, "photo.png")
    path.chmod(0o444)
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    found = examine(path, run)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert found.file.name == "photo.png"
    assert found.file.byte_count == len(before[0])
    assert found.file.sha256 == hashlib.sha256(before[0]).hexdigest() == found.file.sha256_after
    assert found.file.unchanged
    assert found.picture is not None
    assert found.picture.pixel_sha256 == pixel_hash(load_image(path).pixels)
    assert (found.picture.width, found.picture.height, found.picture.channels) == (120, 80, 3)
    assert found.verdict == classify(load_image(path).pixels, run)
    assert found.answer == "jpeg"
    assert found.trace_map is not None
    assert found.trace_map.area_shares["jpeg"] == 1
    assert found.map_picture.startswith(b"\x89PNG")


def test_a_file_that_changes_meanwhile_is_told(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, "photo.png")
    original = hashlib.sha256(path.read_bytes()).hexdigest()

    def changed(encoded: object) -> PixelEvidence:
        path.write_bytes(b"other")
        return PixelEvidence(opinion=None, findings=())

    monkeypatch.setattr(examination, "_pixel_evidence", changed)
    found = examine(path, run)
    assert found.file.sha256 == original
    assert found.file.sha256_after == hashlib.sha256(b"other").hexdigest()
    assert not found.file.unchanged
    path = saved(tmp_path, "photo.png")
    monkeypatch.setattr(
        examination,
        "_pixel_evidence",
        lambda encoded: (path.unlink(), PixelEvidence(opinion=None, findings=()))[1],
    )
    assert examine(path, run).file.sha256_after == ""


@pytest.mark.parametrize(
    ("make", "note"),
    [
        (lambda p: PilImage.fromarray(bright()).convert("RGBA").save(p, "PNG"), "alpha dropped"),
        (lambda p: PilImage.fromarray(bright()).convert("CMYK").save(p, "JPEG"), "CMYK"),
        (lambda p: tifffile.imwrite(p, bright().astype(np.uint16) * 257), "16 bit"),
        (
            lambda p: PilImage.fromarray(bright()).save(
                p, "PNG", save_all=True, append_images=[PilImage.fromarray(bright())]
            ),
            "first picture of several",
        ),
        (lambda p: PilImage.fromarray(bright()).quantize(9).save(p, "PNG"), "palette"),
    ],
    ids=["alpha", "cmyk", "16 bit", "animated", "palette"],
)
def test_unusual_pictures_are_judged_and_conversions_told(
    run: Run, tmp_path: Path, make: Any, note: str
) -> None:
    path = tmp_path / "no-suffix"
    make(path)
    found = examine(path, run)
    assert found.verdict is not None
    assert found.picture is not None
    assert any(note in line for line in found.picture.notes)


@pytest.mark.parametrize("side", [1, PATCH_SIZE - 1])
def test_too_small_for_a_verdict(run: Run, tmp_path: Path, side: int) -> None:
    found = examine(saved(tmp_path, "small.png", bright(side, 200)), run)
    assert found.answer == NOT_ENOUGH_PIXELS
    assert f"200×{side}" in found.not_enough
    assert found.verdict is found.trace_map is None
    assert found.container.format == "some format"
    assert found.pixels is not None
    assert found.agreement.status == "no witness"


def test_flat_pictures_have_no_evidence(run: Run, tmp_path: Path) -> None:
    found = examine(saved(tmp_path, "flat.png", np.full((90, 90, 3), 200, np.uint8)), run)
    assert found.answer == "not enough evidence"
    assert found.trace_map is not None
    assert found.trace_map.area_shares["abstained"] == 1
    assert found.agreement.status == "no witness"


def test_unreadable_pixels_leave_the_container(run: Run, tmp_path: Path) -> None:
    whole = saved(tmp_path, "whole.png").read_bytes()
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (10**6).to_bytes(4, "big") * 2 + b"\x08\2\0\0\0"
    for name, data in (
        ("cut.png", whole[: len(whole) // 2]),
        ("huge.png", header + b"\0" * 50),
        ("text.jpg", b"no picture"),
    ):
        (tmp_path / name).write_bytes(data)
        found = examine(tmp_path / name, run)
        assert found.answer == "unreadable"
        assert found.picture is found.pixels is found.verdict is None
        assert name in found.error
        assert str(tmp_path) not in found.error
        assert found.container.format == "some format"
        assert found.file.sha256 == hashlib.sha256(data).hexdigest()


def test_what_cannot_be_read_is_refused_by_name(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("empty.png", "absent.png", "pipe.png", "."):
        with pytest.raises(ImageReadError, match=name.replace(".", r"\.")):
            examine(tmp_path / name, run)


def test_damaged_files_leave_no_other_exception(run: Run, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    seeds = [
        saved(tmp_path, f"a{suffix}").read_bytes() for suffix in (".png", ".jpg", ".webp", ".tif")
    ]
    for number in range(80):
        data = bytearray(seeds[number % len(seeds)])
        for _ in range(int(random.integers(1, 6))):
            data[int(random.integers(0, len(data)))] = int(random.integers(0, 256))
        path = tmp_path / "mutated"
        path.write_bytes(data)
        try:
            assert examine(path, run).answer
        except ImageCompressionError as error:
            pytest.fail(f"refused although its bytes can be read: {error}")


def test_evidence_modules_that_refuse_are_told(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the real seams
    import imagecompression.evidence.container as container_module

    def refuse(*_: object) -> None:
        raise ImageCompressionError("no reading this")

    monkeypatch.setattr(container_module, "container_evidence", refuse)
    monkeypatch.setattr(examination, "evidence_of", refuse)
    found = examine(saved(tmp_path, "a.png"), run)
    assert found.pixels is not None
    for findings in (found.container.findings, found.pixels.findings):
        assert [(one.status, one.note) for one in findings] == [
            ("NOT_AVAILABLE", "no reading this")
        ]


# Agreement ---------------------------------------------------------------------------------------


def test_the_sentence_tells_quality_and_grid(
    run: Run, tmp_path: Path, witnesses: dict[str, Any]
) -> None:
    witnesses["codec"], witnesses["opinion"] = "uncompressed", "jpeg"
    witnesses["pixels"] = [
        Finding("jpeg_chroma", {"quality": 70}, "INFERRED"),
        Finding("jpeg_luma", {"quality": 80}, "INFERRED"),
        Finding("jpeg_grid_vote", {"ratio": 3.5, "row": 3, "column": 5}, "DERIVED"),
    ]
    found = examine(saved(tmp_path, "a.png"), run).agreement
    assert found.status == "agree"
    assert found.sentence == (
        "A PNG whose pixels were JPEG, quality about 80, grid offset (3, 5): "
        "the network and the classical signs agree."
    )


def test_the_names_of_findings_are_those_of_the_evidence_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the real seams
    run = write_run(tmp_path / "run")
    image = (photograph_like(200, 240, 3) * 0.5 + 127).astype(np.uint8)  # bright
    jpeg = saved(tmp_path, "a.jpg", image, quality=70)
    write_rates(run, [rate("jpeg", {"quality": [70, 71]}), rate("jpeg", {"quality": [71, 72]})])
    decoded = saved(tmp_path, "a.png", load_image(jpeg).pixels[3:, 6:])
    for path in (jpeg, decoded):
        found = examine(path, run)
        assert "JPEG, quality about 70, grid offset" in found.agreement.sentence
        assert [row["band"] for row in found.error_rates.value] == [{"quality": [70, 71]}]
    assert "grid offset (5, 2)" in found.agreement.sentence


def test_a_conflict_shows_both(run: Run, tmp_path: Path, witnesses: dict[str, Any]) -> None:
    witnesses["opinion"] = "jpeg2000"
    found = examine(saved(tmp_path, "a.png"), run)
    assert found.agreement.status == "conflict"
    assert "the network for JPEG;" in found.agreement.sentence
    assert "the classical signs for JPEG 2000" in found.agreement.sentence
    assert (found.agreement.network, found.agreement.classical) == ("jpeg", "jpeg2000")
    assert found.answer == "jpeg"  # the verdict stays the network's


def verdict(label: str, status: Any = "named") -> Verdict:
    probabilities = {**dict.fromkeys(["jpeg", "bpg", "webp", "uncompressed"], 0.0), label: 1.0}
    return Verdict(label, probabilities, 4, 1.0, status=status)


@pytest.mark.parametrize(
    ("container", "network", "classical", "status", "words"),
    [
        ("jpeg", "jpeg", "jpeg", "agree", "as its container says"),
        ("jpeg", "jpeg", None, "agree", "the container and the network agree"),
        ("heic", "bpg", None, "agree", "one family: HEVC intra"),
        ("uncompressed", "webp", None, "one witness", "so says the network alone"),
        ("uncompressed", "uncompressed", None, "one witness", "show no trace of a codec"),
        ("jpeg", "uncompressed", None, "conflict", "the network for no trace of a codec"),
        ("jpeg", "bpg", "jpeg", "conflict", "the container for JPEG; the network for BPG"),
        (None, "uncompressed", "jpeg", "conflict", "the classical signs for JPEG"),
        ("avif", "bpg", None, "conflict", "the network for BPG (the network knows no AVIF)"),
        ("avif", None, None, "one witness", "so says the container alone"),
        ("uncompressed", None, None, "no witness", "the network was not asked"),
        (None, "uncompressed", SOME_CODEC, "conflict", "signs for traces of some lossy codec."),
        (None, "bpg", SOME_CODEC, "agree", "were BPG: the network and the classical signs agree."),
        (None, "bpg", HEVC, "agree", "were BPG: the network and the classical signs agree."),
        (None, "avif", HEVC, "conflict", "the classical signs for HEVC intra (BPG or HEIC)."),
        (None, None, HEVC, "one witness", "pixels were HEVC intra (BPG or HEIC): so says"),
        ("heic", "bpg", SOME_CODEC, "agree", "show BPG, as its container says: the container, the"),
        (None, None, SOME_CODEC, "one witness", "pixels show traces of some lossy codec: so says"),
    ],
)
def test_agreement(
    container: str | None, network: str | None, classical: str | None, status: str, words: str
) -> None:
    asked = None if network is None else verdict(network)
    found = agreement("png", container, asked, classical)
    assert found.status == status
    assert words in found.sentence
    assert ("knows no" in found.sentence) == ("knows no" in words)
    assert found.sentence.startswith("A PNG ")
    assert found.sentence.endswith(".")


def test_an_unknown_verdict_is_no_witness() -> None:
    found = agreement("jpeg", "jpeg", verdict("bpg", "unknown"), None)
    assert (found.status, found.network) == ("one witness", None)
    assert "the network says “unknown”" in found.sentence
    assert agreement("strange", None, None, None).sentence.startswith("A file of unknown format")


# Error rates and confusions ----------------------------------------------------------------------


def write_rates(run: Run, rows: list[dict[str, Any]], **changes: Any) -> None:
    content = {
        "schema": "imagecompression-error-rates/1",
        "model_sha256": run.model_sha256,
        "rows": rows,
        **changes,
    }
    (run.path / "error_rates.json").write_text(json.dumps(content))


def rate(label: str, band: dict[str, Any], accuracy: float = 0.9) -> dict[str, Any]:
    return {"level": "picture", "class": label, "band": band, "accuracy": accuracy, "n": 30}


def test_error_rates_of_pictures_like_this_one(tmp_path: Path, witnesses: dict[str, Any]) -> None:
    run = write_run(tmp_path / "run")
    path = saved(tmp_path, "a.png")
    assert examine(path, run).error_rates.status == "NOT_AVAILABLE"
    here = rate("jpeg", {"short_side": [80, 81]}, 0.5)
    rows = [
        rate("jpeg", {}, 0.7),
        here,
        rate("jpeg", {"short_side": [81, None]}),
        rate("bpg", {}),
        rate("jpeg", {"ratio": [None, None]}),
        rate("jpeg", {"quality": [0, 101]}),
    ]
    write_rates(run, rows)
    finding = examine(path, run).error_rates
    assert finding.status == "OBSERVED"
    assert finding.value == [here, rows[0]]  # the narrower band first
    witnesses |= {
        "codec": "jpeg",
        "container": [
            Finding("thumbnail_quality", 12, "DERIVED"),
            Finding("jpeg_quality", 75, "DERIVED"),
        ],
    }
    assert examine(path, run).error_rates.value == [here, rows[4], rows[5], rows[0]]
    write_rates(run, rows, model_sha256="0" * 64)
    assert examine(path, run).error_rates.status == "NOT_AVAILABLE"


def test_the_default_run_tells_its_error_rates() -> None:
    run = Run.load(DEFAULT_RUN)
    rates = read_error_rates(run.path, run.model_sha256)
    assert rates is not None
    for label in run.labels:
        finding = error_rates_finding(rates, label, {"short_side": 512.0, "ratio": 10.0})
        assert finding.status == "OBSERVED"
        assert [row["level"] for row in finding.value].count("picture") >= 1


@pytest.mark.parametrize(
    ("rows", "changes"),
    [
        ([rate("jpeg", {}, 1.5)], {}),
        ([rate("jpeg", {"colour": [0, 1]})], {}),
        ([rate("jpeg", {"ratio": 3})], {}),
        ([{}], {}),
        ([], {"schema": "other/1"}),
        (3, {}),
    ],
)
def test_damaged_error_rates_are_the_runs_fault(
    tmp_path: Path, rows: Any, changes: dict[str, Any]
) -> None:
    run = write_run(tmp_path / "run")
    write_rates(run, rows, **changes)
    with pytest.raises(ErrorRatesError, match=r"error_rates\.json"):
        examine(saved(tmp_path, "a.png"), run)
    (run.path / "error_rates.json").write_text("[" * 100_000)
    with pytest.raises(ErrorRatesError):
        examine(tmp_path / "a.png", run)


def test_known_confusions_follow_the_families() -> None:
    assert known_confusions(None, LABELS) == ()
    assert known_confusions("jpeg", ["jpeg", "webp"]) == ()
    both = known_confusions("bpg", ["bpg", "heic"])
    assert len(both) == 1
    assert "HEIC is of the same family" in both[0]
    absent = known_confusions("bpg", LABELS)
    assert len(absent) == 1
    assert "HEIC, of the same family, is no class of this run" in absent[0]


def test_an_examination_is_frozen(run: Run, tmp_path: Path) -> None:
    found = examine(saved(tmp_path, "a.png"), run)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.error = "changed"  # type: ignore[misc]


def test_a_photograph(run: Run, tmp_path: Path) -> None:
    found = examine(saved(tmp_path, "p.jpg", photograph_like(100, 140, 1), quality=70), run)
    assert found.picture is not None
    assert (found.picture.format, found.picture.channels) == ("jpeg", 1)
    assert found.trace_map is not None
