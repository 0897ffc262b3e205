"""The command line as a contract: arguments, JSON, exit status, one line a problem."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import photograph_like
from PIL import Image as PilImage
from typer.testing import CliRunner, Result

import main
from datasets.photographs import PHOTOGRAPHS, read_photograph
from imagecompression import CODECS, Jpeg, RatioTarget, encode_to_target, write_image
from imagecompression.image_io import read_image
from imagecompression.metrics import psnr
from train.classification import DEFAULT_RUN
from train.families import family_of
from train.run import Run

ROOT = Path(__file__).parent.parent
COMMANDS = (
    "vet-sources", "build-dataset", "audit", "verify", "export", "train", "evaluate", "classify",
    "inspect", "serve", "calibrate", "export-model", "tune", "cross-validate", "benchmark-models",
    "compress", "decompress", "compare", "codecs", "quickstart", "report", "verify-case", "app",
)  # fmt: skip


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main.app, [str(argument) for argument in arguments])


def run_json(*arguments: object) -> dict:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "picture.tif"
    tifffile.imwrite(path, photograph_like(200, 240, 3, seed=3))
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout


def test_help_is_light() -> None:
    script = (
        "import sys; sys.argv = ['main.py', 'train', '--help']\n"
        "import main\n"
        "try: main.app()\n"
        "except SystemExit: pass\n"
        "heavy = {'tensorflow', 'keras', 'sklearn', 'numpy', 'PIL', 'imagecompression'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stderr.strip() == "[]"


def test_codecs() -> None:
    rows = run_json("codecs")["codecs"]
    assert [row["codec"] for row in rows] == list(CODECS)
    assert all(row["available"] and row["library"] for row in rows)
    assert "jpeg2000" in run("codecs").stdout


@pytest.mark.parametrize("name", CODECS)
def test_compress_and_decompress(name: str, picture: Path, tmp_path: Path) -> None:
    encoded, back = tmp_path / f"out{CODECS[name].suffix}", tmp_path / "back.tif"
    goal = [] if name == "uncompressed" else ["--ratio", 12]
    answer = run_json("compress", picture, encoded, "--codec", name, *goal)
    assert answer["codec"] == name
    assert answer["bytes"] == encoded.stat().st_size
    assert answer["ratio"] == pytest.approx(200 * 240 * 3 / answer["bytes"])
    assert answer["bits_per_pixel"] == pytest.approx(24 / answer["ratio"])
    assert answer["reached"] is True, answer["reason"]
    assert answer["encodes"] >= 1
    assert set(answer["params"]) == set(CODECS[name]().params())
    opened = run_json("decompress", encoded, back)
    assert (opened["width"], opened["height"], opened["channels"]) == (240, 200, 3)
    source, decoded = read_image(picture), tifffile.imread(back)
    if name == "uncompressed":
        assert answer["psnr_db"] is None
        assert np.array_equal(source, decoded)
    else:
        assert psnr(source, decoded) == pytest.approx(answer["psnr_db"])


def test_compress_to_a_palette_quality(picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    low = run_json("compress", picture, out, "--quality", "20-50")
    high = run_json("compress", picture, out, "--quality", "20-80")
    assert low["codec"] == high["codec"] == "kmeans"
    assert 2 <= low["params"]["colors"] < high["params"]["colors"] <= 256
    assert low["psnr_db"] < high["psnr_db"]
    before = out.read_bytes()
    for quality in ("99-100", "80-60", "fine", "-", "101-"):
        refused = run("compress", picture, out, "--quality", quality)
        assert refused.exit_code == 2
        assert refused.stderr.count("\n") == 1
    assert run("compress", picture, tmp_path / "o.jpg", "--quality", "1-2").exit_code == 2
    assert out.read_bytes() == before


def test_compress_follows_the_suffix_and_settings(picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.JPEG"
    answer = run_json(
        "compress", picture, out, "--set", "quality=33", "--set", "subsampling=4:4:4",
        "--set", "progressive=true",
    )  # fmt: skip
    assert answer["codec"] == "jpeg"
    settings = Jpeg(quality=33, subsampling="4:4:4", progressive=True)
    assert answer["params"] == settings.params()
    answer = run_json("compress", picture, tmp_path / "o.jp2", "--ssim", "0.9")
    assert answer["ssim"] == pytest.approx(0.9, abs=0.01)
    text = run("compress", picture, tmp_path / "o.jxr", "--ratio", "9")
    assert text.exit_code == 0
    assert "jpegxr" in text.stdout


def test_compress_says_when_a_target_is_out_of_reach(picture: Path, tmp_path: Path) -> None:
    result = run("compress", picture, tmp_path / "out.jpg", "--ratio", "900", "--json")
    answer = json.loads(result.stdout)
    assert result.exit_code == 0
    assert answer["reached"] is False
    assert "out of reach" in answer["reason"]
    assert "out of reach" in result.stderr
    assert (tmp_path / "out.jpg").stat().st_size == answer["bytes"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compress", "IN", "out.jpg"], "--ratio"),
        (["compress", "IN", "out.jpg", "--ratio", "5", "--ssim", "0.9"], "one of"),
        (["compress", "IN", "out.jpg", "--ratio", "0"], "at least 1"),
        (["compress", "IN", "out.jpg", "--ssim", "2"], "between 0 and 1"),
        (["compress", "IN", "out.xyz", "--ratio", "5"], ".xyz"),
        (["compress", "IN", "out.jpg", "--codec", "gif", "--ratio", "5"], "gif"),
        (["compress", "IN", "out.jpg", "--codec", "bpg", "--ratio", "5"], ".bpg"),
        (["compress", "IN", "out.jpg", "--set", "quality=101"], "quality=101"),
        (["compress", "IN", "out.jpg", "--set", "quality=good"], "good"),
        (["compress", "IN", "out.jpg", "--set", "colour=1"], "colour"),
        (["compress", "IN", "out.jpg", "--set", "quality"], "name=value"),
        (["compress", "absent.tif", "out.jpg", "--ratio", "5"], "absent.tif"),
        (["compress", "TEXT", "out.jpg", "--ratio", "5"], "text.tif"),
        (["compress", "IN", "absent/out.jpg", "--ratio", "5"], "absent"),
        (["decompress", "TEXT", "out.tif"], "text.tif"),
        (["decompress", "IN", "out.jpg"], ".jpg"),
        (["compare", "IN", "--codecs", "jpeg,gif"], "gif"),
        (["compare", "IN", "--ratios", "ten"], "ten"),
        (["compare", "TEXT"], "text.tif"),
        (["compare", "IN", "--ratios", ""], "at least one"),
        (["compare", "IN", "--plot", "plot.jpg"], "PNG"),
        (["compare", "IN", "--plot", "absent/plot.png"], "absent"),
        (["compress", "IN", ".", "--codec", "jpeg", "--ratio", "5"], "writes .jpg"),
        (["build-dataset", "TEXT", "--out", "set"], "text.tif"),
        (["build-dataset", "IN", "--out", "set", "--ssims", "7"], "7"),
        (["build-dataset", "IN", "--out", "set", "--patch-size", "1"], "patch_size"),
        (["train", "absent", "--out", "run"], "absent"),
        (["evaluate", "absent", "absent"], "absent"),
        (["classify", "IN", "--run", "absent"], "absent"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_bad_input_gets_one_line_and_status_2(
    arguments: list[str], words: str, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.tif").write_text("no picture at all")
    arguments = [{"IN": str(picture), "TEXT": "text.tif"}.get(a, a) for a in arguments]
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    problem = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(problem) == 1, result.stderr
    assert words in problem[0]
    assert "Traceback" not in result.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"text.tif", "set"}
    with_json = run(*arguments, "--json")
    assert with_json.exit_code == 2
    assert words in json.loads(with_json.stdout)["errors"][0]["error"]


def test_input_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "evidence.png"
    PilImage.fromarray(photograph_like(40, 50, 3)).save(path)
    before = path.read_bytes()
    assert run("compress", path, path, "--codec", "uncompressed").exit_code == 2
    assert run("decompress", path, path).exit_code == 2
    assert run("compare", path, "--codecs", "jpeg", "--plot", path).exit_code == 2
    assert path.read_bytes() == before


def test_compare(picture: Path, tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    answer = run_json(
        "compare", picture, "--codecs", "jpeg,svd", "--ratios", "6,12", "--plot", plot
    )
    assert [point["codec"] for point in answer["points"]] == ["jpeg", "jpeg", "svd", "svd"]
    for point in answer["points"]:
        assert {"bytes", "psnr_db", "ssim", "ms_ssim", "encode_seconds"} <= set(point)
    with PilImage.open(plot) as drawn:
        assert drawn.format == "PNG"
    text = run("compare", picture, "--codecs", "uncompressed,jpeg", "--plot", plot)
    assert text.exit_code == 0
    assert len(text.stdout.splitlines()) == 1 + 1 + 4 + 1


def test_file_names_can_be_odd(tmp_path: Path) -> None:
    """A line break, a formula and a byte that is no text, each in a name."""
    picture = photograph_like(70, 80, 3)
    for name in ("two\nlines.png", "a$\\frac$.png", "bad\udcff.png", "größe 1.png"):
        PilImage.fromarray(picture).save(tmp_path / name)
        plot = tmp_path / "plot.png"
        result = run("compare", tmp_path / name, "--codecs", "jpeg", "--plot", plot)
        assert result.exit_code == 0, result.output
        plot.unlink()
    (tmp_path / "no\npicture.png").touch()
    result = run(
        "build-dataset", tmp_path, "--out", tmp_path.with_name("odd-set"), "--codecs", "jpeg",
        "--ratios", "8", "--ssims", "", "--workers", "1",
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    lines = [line for line in result.stderr.splitlines() if "/" not in line[:12]]
    assert sum("UTF-8" in line for line in lines) == 1
    assert sum("no picture.png: " in line for line in lines) == 1


def test_whole_road_from_sources_to_a_verdict(tmp_path: Path) -> None:
    """build-dataset → train → evaluate → classify, on tiny data."""
    sources, dataset, run_folder = tmp_path / "tiff", tmp_path / "set", tmp_path / "run"
    sources.mkdir()
    for number in range(4):
        tifffile.imwrite(sources / f"{number}.tif", photograph_like(96, 96, 3, seed=number))
    (sources / "broken.tif").write_text("no picture")
    built = run(
        "build-dataset", sources, "--out", dataset, "--codecs", "uncompressed,jpeg",
        "--ratios", "20", "--ssims", "", "--patch-size", "32", "--patches-per-class", "12",
        "--workers", "1", "--json",
    )  # fmt: skip
    assert built.exit_code == 1, built.output
    answer = json.loads(built.stdout)
    assert answer["sources"] == 4
    assert "broken.tif" in answer["rejected"][0]["file"]
    assert "broken.tif" in built.stderr

    trained = run_json("train", dataset, "--out", run_folder, "--epochs", 2, "--batch-size", 8)
    assert trained["epochs"] == 2

    report = run_json("evaluate", run_folder, dataset)
    assert report["split"] == "test"
    assert 0 <= report["patch"]["accuracy"] <= 1
    assert (run_folder / "evaluation-test" / "report.json").exists()

    folder = tmp_path / "evidence"
    folder.mkdir()
    PilImage.fromarray(photograph_like(70, 90, 3, seed=9)).save(folder / "a.jpg", quality=50)
    PilImage.fromarray(photograph_like(70, 90, 1, seed=8)).save(folder / "b.png")
    (folder / "c.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    tifffile.imwrite(folder / "tiny.tif", photograph_like(8, 8, 3))
    result = run("classify", folder, tmp_path / "absent.png", "--run", run_folder, "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert [Path(item["file"]).name for item in answer["results"]] == ["a.jpg", "b.png"]
    for item in answer["results"]:
        assert item["label"] in ("uncompressed", "jpeg")
        assert sum(item["probabilities"].values()) == pytest.approx(1)
        assert item["patches"] >= 1
    failed = {Path(item["file"]).name for item in answer["errors"]}
    assert failed == {"c.png", "tiny.tif", "absent.png"}
    assert len(result.stderr.splitlines()) >= 3
    text = run("classify", folder / "a.jpg", "--run", run_folder)
    assert text.exit_code == 0
    assert "a.jpg" in text.stdout


def test_default_run_names_codecs_of_a_photograph(tmp_path: Path) -> None:
    picture = read_photograph(next(p for p in PHOTOGRAPHS if p.name == "astronaut"))
    run = Run.load(DEFAULT_RUN)
    assert run.onnx is not None and run.notes == [], "classify must start without TensorFlow"
    assert set(run.labels) == set(CODECS)
    for name in run.labels:
        codec = CODECS[name]()
        if codec.knob is not None:
            codec = encode_to_target(picture, codec, RatioTarget(15)).codec
        write_image(tmp_path / f"{name}.png", codec.decode(codec.encode(picture)))
    results = run_json("classify", tmp_path)["results"]
    answers = {Path(item["file"]).stem: item["label"] for item in results}
    families = {name: family_of(answer) for name, answer in answers.items()}
    assert families == {name: family_of(name) for name in run.labels}


@pytest.fixture(scope="module")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    (folder / "sources").mkdir()
    for number in range(3):
        picture = photograph_like(70, 80, 3, seed=number)
        tifffile.imwrite(folder / "sources" / f"{number}.tif", picture)
    answer = run_json(
        "build-dataset", folder / "sources", "--out", folder / "set", "--codecs", "jpeg,webp",
        "--ratios", "8", "--ssims", "", "--random-ssims", "1", "--histories", "single,cropped",
        "--patch-size", "32", "--workers", "1",
    )  # fmt: skip
    assert answer["samples"] == 3 * 2 * 2 * 2
    assert answer["leaks"] == []
    return folder / "set"


def test_vet_sources(small_dataset: Path, tmp_path: Path) -> None:
    sources = small_dataset.parent / "sources"
    answer = run_json("vet-sources", sources, "--out", tmp_path / "verdicts.csv")
    assert (answer["accepted"], answer["rejected"]) == (3, 0)
    assert (tmp_path / "verdicts.csv").read_text().startswith("file,verdict")
    assert (tmp_path / "verdicts.json").exists()
    PilImage.fromarray(photograph_like(200, 260, 3)).save(tmp_path / "photo.jpg", quality=80)
    PilImage.open(tmp_path / "photo.jpg").save(tmp_path / "photo.tif")
    result = run("vet-sources", sources, tmp_path / "photo.tif")
    assert result.exit_code == 1
    assert "photo.tif" in result.stdout
    assert "1 rejected" in result.stdout
    assert run("vet-sources", tmp_path / "absent.tif").exit_code == 2


def test_a_dry_run_makes_nothing(small_dataset: Path, tmp_path: Path) -> None:
    answer = run_json(
        "build-dataset", small_dataset.parent / "sources", "--out", tmp_path / "set", "--dry-run",
        "--codecs", "uncompressed,jpeg", "--ratios", "8,16", "--ssims", "0.9", "--workers", "1",
    )  # fmt: skip
    assert answer["sources"] == 3
    assert answer["samples"] == 3 * (1 + 3)
    assert answer["seconds"] > 0
    assert [one["samples"] for one in answer["classes"]] == [3, 9]
    assert not (tmp_path / "set").exists()


def test_audit_verify_and_export(small_dataset: Path, tmp_path: Path) -> None:
    assert run_json("audit", small_dataset)["leaks"] == []
    assert "Bias audit" in run("audit", small_dataset).stdout
    assert run_json("verify", small_dataset, "--workers", "1")["faults"] == []
    out = tmp_path / "tars"
    answer = run_json(
        "export", small_dataset, "--format", "webdataset", "--out", out, "--workers", "1"
    )
    assert sum(answer["samples"].values()) == 24
    assert list(out.glob("*.tar"))
    assert run("export", small_dataset, "--format", "zip", "--out", tmp_path / "z").exit_code == 2
    victim = next((small_dataset / "encoded" / "jpeg").glob("*ratio8.jpg"))
    data = victim.read_bytes()
    victim.write_bytes(data[:-2] + b"xx")
    result = run("verify", small_dataset, "--no-pixels", "--workers", "1")
    victim.write_bytes(data)
    assert result.exit_code == 1
    assert victim.name in result.stderr


def test_the_card_gives_the_command_that_builds_it_again(
    small_dataset: Path, tmp_path: Path
) -> None:
    card = (small_dataset / "README.md").read_text(encoding="utf-8")
    command = card.split("python main.py ")[2].split("```")[0]
    places = {"SOURCES": str(small_dataset.parent / "sources"), "FOLDER": str(tmp_path / "set")}
    words = shlex.split(command.replace("\\\n", " "))
    result = run(*(places.get(word, word) for word in words))
    assert result.exit_code == 0, (command, result.stderr)
    before, after = small_dataset / "manifest.parquet", tmp_path / "set" / "manifest.parquet"
    assert before.read_bytes() == after.read_bytes()
