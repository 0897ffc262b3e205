"""The web app: its plain functions, and each page run by Streamlit without a browser."""

from __future__ import annotations

import json
import shlex
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brightness_run import write_run
from conftest import photograph_like
from streamlit.testing.v1 import AppTest
from tiny_dataset import LABELS, write_tiny_dataset
from typer.testing import CliRunner

import main
from desk.app import upload
from desk.app.codec_comparison import compare, crops, encoded_files, parse_ratios
from desk.app.compression import Wish, available_codecs, compress
from desk.app.dataset_view import (
    audit_rows,
    distribution,
    read_dataset_view,
    read_sample,
    samples,
)
from desk.app.folders import below, find_datasets, find_runs, read_json
from desk.app.identification import error_rate_rows, identify, probability_rows
from desk.app.page import literal
from desk.app.picture_view import Window, difference, png, slider_page, window
from desk.app.run_view import find_evaluations, read_evaluation
from desk.app.server import server_options
from desk.app.settings import AppError, AppSettings, configure
from desk.app.upload import MAX_UPLOAD_BYTES, MAX_UPLOADS, Upload, on_disk, one_at_a_time
from desk.tool_facts import tool_facts
from imagecompression import CODECS, Lossless, codec_from_params
from imagecompression.codec import CodecError, check_size, pixel_limit
from imagecompression.codec_options import codec_options
from imagecompression.errors import ImageCompressionError
from imagecompression.image_io import decode_image
from imagecompression.metrics import compression_ratio
from train.evaluation_report import write_report
from train.evaluator import Band, Report, scores
from train.run import Run

PICTURE = photograph_like(96, 128, 3)
PNG = Lossless().encode(PICTURE)
EVIL = "![x](http://elsewhere.example/x.png).png"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset and a run that has an evaluation."""
    root = tmp_path_factory.mktemp("root")
    write_tiny_dataset(root / "sets" / "tiny")
    audit = {
        "verdict": "undecided",
        "checks": [{"name": "balance", "status": "undecided", "text": "3 sources"}],
        "limits": ["few sources"],
        "leaks": [],
    }
    (root / "sets" / "tiny" / "audit.json").write_text(json.dumps(audit))
    run = write_run(root / "run")
    truth = np.array([0, 0, 1, 2])
    answers = np.eye(3)[[0, 1, 1, 2]] * 0.9 + 0.03
    found = scores(truth, answers, run.labels)
    band = Band("image", "ratio", 7.5, 15.0, "compressed", 2, 0.5, None, None)
    report = Report("test", tuple(run.labels), 4, 4, 4, 0, found, found, (band,))
    write_report(report, run.path / "evaluation-test")
    return root


@pytest.fixture(autouse=True)
def settings(root: Path) -> Iterator[None]:
    configure(AppSettings(run=root / "run", root=root))
    yield
    configure(AppSettings())


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test does, no temporary file stays."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


def page(name: str) -> AppTest:
    script = f"from desk.app.pages.{name} import show\nshow()"
    return AppTest.from_string(script, default_timeout=120).run()


def texts(app: AppTest) -> str:
    """All that a page says in text, errors among it."""
    kinds = ("title", "subheader", "markdown", "caption", "error", "info", "warning", "code")
    return "\n".join(str(one.value) for kind in kinds for one in app.get(kind))


# ---------------------------------------------------------------- plain functions


def test_options_are_those_that_the_codecs_check() -> None:
    for codec in CODECS.values():
        options = codec_options(codec)
        assert [option.name for option in options] == list(codec().params())
        assert sum(option.is_knob for option in options) == (codec.knob is not None)
        for option in options:
            if option.choices:
                assert option.default in option.choices
                refused: Any = "no such choice"
            else:
                assert option.low is not None and option.high is not None
                assert option.low <= option.default <= option.high
                refused = option.high + 1
            with pytest.raises(CodecError):
                codec_from_params(codec.name, {option.name: refused})


def test_pixel_limit_holds_here_only() -> None:
    with pixel_limit(100), pixel_limit(1000):
        with pytest.raises(CodecError, match="limit of 100"):
            check_size(101, 1)
        elsewhere = threading.Thread(target=check_size, args=(101, 1))
        elsewhere.start()
        elsewhere.join()
        with pytest.raises(ImageCompressionError, match="limit of 100"):
            decode_image(PNG, "a.png")
    check_size(101, 1)


def test_uploads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AppError, match="Received: 0"):
        Upload("a.png", b"")
    with pytest.raises(AppError, match=f"{MAX_UPLOAD_BYTES + 1:,}"):
        Upload("a.png", bytes(MAX_UPLOAD_BYTES + 1))
    monkeypatch.setattr(upload, "MAX_UPLOAD_PIXELS", 1000)
    with pytest.raises(ImageCompressionError, match="limit of 1,000"):
        compress(Upload("a.png", PNG), Wish("jpeg", {"quality": 50}))


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a\0b.png", "..", "", "ü" * 300 + ".png", "x." + "y" * 400, "-a\n"]
)
def test_names_are_safe_on_disk(name: str) -> None:
    with on_disk(Upload(name, b"data")) as path:
        assert path.read_bytes() == b"data"
        assert path.parent.parent == Path(tempfile.gettempdir())
        assert path.name.isprintable()
    assert not path.exists()


def test_the_turn_is_given_back_after_a_failure() -> None:
    for _ in range(2):
        with pytest.raises(ImageCompressionError):
            compress(Upload("a.png", b"no picture"), Wish("jpeg", {"quality": 50}))
    with one_at_a_time():
        pass


def test_report_is_that_of_the_command(root: Path, tmp_path: Path) -> None:
    run = Run.load(root / "run")
    found = identify(Upload("photo.png", PNG), run, tool_facts())
    assert found.trace_map is not None
    path = tmp_path / "photo.png"
    path.write_bytes(PNG)
    arguments = ["report", str(path), "--run", str(run.path), "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(main.app, arguments).exit_code == 0
    for kind in ("json", "html", "pdf"):
        assert (tmp_path / "out" / f"photo.{kind}").read_bytes() == getattr(found.report, kind)
    gray = decode_image(found.drawn(0.0), "map").pixels
    assert np.ptp(gray.astype(int), axis=-1).max() == 0
    assert np.ptp(decode_image(found.drawn(1.0), "map").pixels.astype(int), axis=-1).max() > 0


@pytest.mark.parametrize(
    "wish",
    [
        Wish("jpeg", {"quality": 40, "subsampling": "4:4:4", "progressive": True}),
        Wish("jpeg2000", {"ratio": 9.0, "mct": False}, "ratio", 12.0),
        Wish("webp", {"method": 2}, "bytes", 2000),
        Wish("jpeg", {}, "ssim", 0.9),
        Wish("uncompressed", {}),
    ],
)
def test_command_makes_the_same_bytes(
    wish: Wish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compress(Upload("my photo.png", PNG), wish)
    (tmp_path / "my photo.png").write_bytes(PNG)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(found.command)
    assert words[:2] == ["python", "main.py"]
    assert CliRunner().invoke(main.app, words[2:]).exit_code == 0
    assert (tmp_path / found.name).read_bytes() == found.data
    assert np.array_equal(found.decoded, CODECS[wish.codec].decode(found.data))
    if wish.target == "bytes":
        assert abs(len(found.data) - wish.value) / wish.value < 0.1
    if wish.target == "ratio":
        assert abs(compression_ratio(PICTURE, len(found.data)) - wish.value) / wish.value < 0.05


def test_errors_do_not_tell_folders() -> None:
    with pytest.raises(AppError) as caught:
        compress(Upload("a.png", PNG), Wish("jpeg", {"quality": 40, "arithmetic": "maybe"}))
    assert tempfile.gettempdir() not in str(caught.value)


def test_comparison_and_its_crops() -> None:
    progress: list[tuple[int, int]] = []
    found = compare(
        Upload("a.png", PNG), ["jpeg", "webp", "uncompressed"], (5.0, 15.0),
        lambda done, total: progress.append((done, total)),
    )  # fmt: skip
    assert [point.codec for point in found.points] == ["jpeg"] * 2 + ["webp"] * 2 + ["uncompressed"]
    assert (
        found.command
        == "python main.py compare a.png --codecs jpeg,webp,uncompressed --ratios 5,15"
    )
    assert progress[-1] == (6, 6)
    near = found.nearest(15.0)
    assert [point.codec for point in near] == ["jpeg", "webp"]
    assert all(abs(point.ratio - 15) < 3 for point in near)
    files = encoded_files(found, near)
    assert [len(data) for data in files] == [point.bytes for point in near]
    part = Window(8, 16, 40, 30)
    (_, source), (caption, jpeg), _ = crops(found, near, files, part)
    assert np.array_equal(source, PICTURE[16:46, 8:48])
    assert np.array_equal(jpeg, CODECS["jpeg"].decode(files[0])[16:46, 8:48])
    assert f"{len(files[0]):,} bytes" in caption
    assert Lossless.matches(found.plot)
    with pytest.raises(AppError, match="at least one codec"):
        compare(Upload("a.png", PNG), [], (5.0,))


@pytest.mark.parametrize("text", ["", "x", "0.5", "5,nan", "1e9", ",".join(["2"] * 9)])
def test_ratios_are_checked(text: str) -> None:
    with pytest.raises(AppError, match="Give one to"):
        parse_ratios(text)


def test_views_of_pictures() -> None:
    other = PICTURE[::-1].copy()
    expected = np.clip(3 * np.abs(PICTURE.astype(int) - other.astype(int)), 0, 255)
    assert np.array_equal(difference(PICTURE, other, 3), expected)
    assert window(PICTURE, 1.0, 1.0, 32) == Window(96, 64, 32, 32)
    assert window(PICTURE, 0.0, 0.5, 1000) == Window(0, 0, 128, 96)
    assert np.array_equal(decode_image(png(PICTURE), "a").pixels, PICTURE)


def test_slider_page_loads_nothing_and_escapes() -> None:
    text = slider_page(PICTURE, PICTURE, "<b>source</b>", "jpeg")
    assert "<b>" not in text
    assert "default-src 'none'" in text
    assert "http" not in text.replace("http-equiv", "")


def test_nothing_outside_of_the_root_is_read(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    write_run(outside / "run")
    (root / "link").symlink_to(outside)
    assert list(find_datasets(root)) == ["sets/tiny"]
    assert list(find_runs(root)) == ["run"]
    for names in (("..",), ("link", "run"), (str(outside),), ("a\0b",)):
        with pytest.raises(AppError):
            below(root, *names)
    with pytest.raises(AppError, match="lies outside"):
        read_json(root, "link", "run", "config.json")
    (root / "link").unlink()
    view = read_dataset_view(root / "sets" / "tiny")
    with pytest.raises(AppError, match="lies outside"):
        read_sample(view, "../../run/config.json")


def test_dataset_view(root: Path) -> None:
    view = read_dataset_view(root / "sets" / "tiny")
    assert view.labels == tuple(LABELS)
    table = view.table.to_pylist()
    for split, counts in view.splits.items():
        for label, count in counts.items():
            own = [row for row in table if (row["split"], row["label"]) == (split, label)]
            assert len(own) == count
    edges, counts_by_label = distribution(view, "ratio")
    well = [row for row in table if row["status"] == "ok" and row["ratio"] is not None]
    assert {label: int(n.sum()) for label, n in counts_by_label.items()} == {
        label: sum(row["label"] == label for row in well) for label in LABELS
    }
    assert edges[0] == min(row["ratio"] for row in well)
    rows, total = samples(view, ["jpeg"], ["train"], 1, 2)
    expected = [
        row["sample_id"]
        for row in table
        if (row["label"], row["split"], row["status"]) == ("jpeg", "train", "ok")
    ]
    assert total == len(expected) == 3
    assert [row["sample_id"] for row in rows] == expected[1:3]
    assert read_sample(view, rows[0]["path"]).shape == (64, 80, 3)
    audit = audit_rows(view)
    assert audit is not None and audit[0] == "undecided" and audit[2] == ["few sources"]


@pytest.mark.parametrize(
    "damage", ["{", "[]", '{"labels": ["a"], "patch": {"confusion": [[1, 2]]}}', '{"labels": []}']
)
def test_damaged_evaluations_are_told(damage: str, tmp_path: Path) -> None:
    (tmp_path / "evaluation-test").mkdir()
    (tmp_path / "evaluation-test" / "report.json").write_text(damage)
    found = find_evaluations(tmp_path, tmp_path)
    assert list(found) == ["evaluation-test"]
    with pytest.raises(AppError, match=r"evaluation-test/report\.json"):
        read_evaluation(found["evaluation-test"])


def test_evaluation_view(root: Path) -> None:
    found = read_evaluation(find_evaluations(root, root / "run")["evaluation-test"])
    assert found.accuracy == {"patch": 0.75, "image": 0.75}
    assert found.confusion["patch"].tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert found.bands[0]["band"] == "7.5–15"


def test_evaluation_beside_a_run_is_found_as_the_quick_start_lays_it(tmp_path: Path) -> None:
    run, beside, elsewhere = (tmp_path / name for name in ("run", "evaluation", "elsewhere"))
    for folder in (run, beside, elsewhere):
        folder.mkdir()
        (folder / "report.json").write_text("{}")
    assert find_evaluations(tmp_path, run) == {"evaluation": beside}
    assert find_evaluations(run, run) == {}
    (run / "evaluation-link").symlink_to(elsewhere)
    with pytest.raises(AppError, match="lies outside"):
        read_evaluation(find_evaluations(tmp_path, run)["evaluation-link"])


def test_rows_about_a_verdict() -> None:
    band = {"short_side": [256, 512], "ratio": [None, 7.5], "quality": [90, None]}
    rate = {"level": "picture", "class": "jpeg", "accuracy": 0.9, "n": 30}
    model = {
        "verdict": {"probabilities": {"jpeg": 0.2, "bpg": 0.7, "webp": 0.1}},
        "error_rates": {"value": [{**rate, "band": band}, {**rate, "band": {}}]},
    }
    assert [row["class"] for row in probability_rows(model)] == ["bpg", "jpeg", "webp"]
    where = [row["where"] for row in error_rate_rows(model)]
    assert where == ["short side 256 to 512 and ratio < 7.5 and quality ≥ 90", ""]
    nothing: dict[str, Any] = {"verdict": {}, "error_rates": {"value": None}}
    assert probability_rows(nothing) == [] and error_rate_rows(nothing) == []


def test_server_keeps_to_itself() -> None:
    options = server_options("127.0.0.1", 8501)
    assert options["server.address"] == "127.0.0.1"
    assert options["browser.gatherUsageStats"] is False
    assert options["client.showErrorDetails"] == "none"
    assert "elsewhere.example" not in options["server.allowedHosts"]
    assert len(options["server.allowedHosts"]) > 0
    assert server_options("0.0.0.0", 8501)["server.allowedHosts"] == []
    with pytest.raises(AppError, match="--host"):
        server_options("elsewhere.example; rm", 1)


def test_server_options_are_known_to_streamlit() -> None:
    from streamlit import config

    known = config.get_config_options()
    assert set(server_options("127.0.0.1", 8501)) <= set(known)


@pytest.mark.parametrize("option", ["--run", "--root"])
def test_app_command_refuses_wrong_folders(option: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main.app, ["app", option, str(tmp_path / "none")])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1


# ---------------------------------------------------------------- pages


def test_identify_page() -> None:
    app = page("identify")
    app.file_uploader[0].set_value([("photo.png", PNG, "image/png")]).run()
    assert not app.exception
    assert "photo\\.png" in texts(app)
    assert "python main.py report photo.png --out DIR --run run" in texts(app)
    verdict = app.dataframe[0].value.to_dict("records")[0]
    assert verdict["file"] == "photo.png" and verdict["verdict"] in ("uncompressed", "jpeg")
    labels = [button.label for button in app.get("download_button")]
    assert labels == ["Report as JSON", "Report as HTML", "Report as PDF"]
    app.slider[0].set_value(0).run()
    assert not app.exception
    app.file_uploader[0].clear().run()
    assert len(app.dataframe) == 0
    assert app.session_state["identified"] == {}


def test_identify_page_tells_of_bad_files_in_a_sentence() -> None:
    app = page("identify")
    files = [("broken.jpg", b"\xff\xd8\xff nothing", ""), ("empty.png", b"", ""), (EVIL, PNG, "")]
    app.file_uploader[0].set_value(files).run()
    assert not app.exception
    assert any("could not be read" in error.value for error in app.error)
    assert any("Received\\: 0" in error.value for error in app.error)
    assert app.dataframe[0].value["verdict"].tolist()[0] == "unreadable"
    app.selectbox[0].set_value(1).run()
    assert "](http" not in texts(app).replace("\\](", "").replace("\\]\\(", "")
    assert tempfile.gettempdir() not in texts(app)


def test_identify_page_takes_so_many_files_and_no_more() -> None:
    app = page("identify")
    small = Lossless().encode(PICTURE[:40, :40].copy())
    files = [(f"{n}.png", small, "") for n in range(MAX_UPLOADS + 1)]
    app.file_uploader[0].set_value(files).run()
    assert not app.exception
    assert len(app.dataframe[0].value) == MAX_UPLOADS
    assert "first 20 of 21" in texts(app)


def test_identify_page_without_a_run(root: Path) -> None:
    configure(AppSettings(run=root / "absent"))
    from desk.app.page import loaded_run

    loaded_run.clear()
    app = page("identify")
    app.file_uploader[0].set_value([("photo.png", PNG, "")]).run()
    loaded_run.clear()
    assert not app.exception
    assert "not a run directory" in app.error[0].value
    assert str(root) not in app.error[0].value


def test_compress_page_by_hand() -> None:
    app = page("compress")
    app.file_uploader[0].set_value(("photo.png", PNG, "image/png")).run()
    app.number_input(key="jpeg-quality").set_value(30).run()
    app.button(key="compress-go").click().run()
    assert not app.exception
    expected = compress(Upload("photo.png", PNG), Wish("jpeg", {"quality": 30}))
    assert app.metric[0].value == f"{len(expected.data):,}"
    assert app.code[0].value == expected.command
    assert app.session_state["compressed"][1].data == expected.data
    assert len(app.get("iframe")) == 1
    app.slider(key="compress-gain").set_value(20).run()
    assert "Difference × 20" in str(app.get("image")[0].proto)


def test_every_codec_has_its_fields() -> None:
    app = page("compress")
    for codec in available_codecs():
        app.selectbox(key="compress-codec").set_value(codec).run()
        assert not app.exception
        kinds = ("number_input", "selectbox", "checkbox")
        keys = {one.key for kind in kinds for one in app.get(kind)}
        assert {f"{codec}-{option.name}" for option in codec_options(CODECS[codec])} <= keys


@pytest.mark.parametrize(
    ("target", "key", "value", "word"),
    [
        ("ratio", "compress-ratio", 12.0, "--ratio 12.0"),
        ("bytes", "compress-bytes", 2000, "--ratio 18.432"),
        ("SSIM", "compress-ssim", 0.9, "--ssim 0.9"),
    ],
)
def test_compress_page_to_a_target(target: str, key: str, value: float, word: str) -> None:
    app = page("compress")
    app.file_uploader[0].set_value(("photo.png", PNG, "")).run()
    app.radio(key="compress-mode").set_value("to a target").run()
    app.selectbox(key="compress-target").set_value(target).run()
    app.number_input(key=key).set_value(value).run()
    app.button(key="compress-go").click().run()
    assert not app.exception and not app.error
    assert word in app.code[0].value


def test_compress_page_refuses_in_a_sentence() -> None:
    app = page("compress")
    app.file_uploader[0].set_value(("photo.png", b"no picture", "")).run()
    app.button(key="compress-go").click().run()
    assert not app.exception
    assert len(app.error) == 1 and "photo\\.png" in app.error[0].value
    app.file_uploader[0].set_value(("photo.png", PNG, "")).run()
    app.checkbox(key="jpeg-arithmetic").set_value(True)
    app.checkbox(key="jpeg-optimize").set_value(True)
    app.button(key="compress-go").click().run()
    assert not app.exception
    assert "Arithmetic coding" in app.error[0].value


def test_compare_page() -> None:
    app = page("compare")
    app.file_uploader[0].set_value(("photo.png", PNG, "")).run()
    app.multiselect(key="compare-codecs").set_value(["jpeg", "webp"])
    app.text_input(key="ratios").set_value("6,12")
    app.button(key="compare-go").click().run()
    assert not app.exception and not app.error
    assert app.dataframe[0].value["codec"].tolist() == ["jpeg", "jpeg", "webp", "webp"]
    assert "compare photo.png --codecs jpeg,webp --ratios 6,12" in app.code[0].value
    assert len(app.get("image")) == 4  # the plot, the source, two codecs
    app.slider(key="crop-across").set_value(0).run()
    assert not app.exception
    assert [len(files) for files in app.session_state["compared"][2].values()] == [2]
    app.text_input(key="ratios").set_value("nothing")
    app.button(key="compare-go").click().run()
    assert "Give one to" in app.error[0].value


def test_datasets_and_runs_page(root: Path) -> None:
    app = page("datasets_and_runs")
    assert not app.exception and not app.error
    assert app.selectbox(key="dataset").value == "sets/tiny"
    assert app.selectbox(key="run").value == "run"
    assert "python main.py audit sets/tiny" in texts(app)
    assert "python main.py evaluate run DATASET --split test" in texts(app)
    assert str(root) not in texts(app)
    app.multiselect(key="sample-labels").set_value(["jpeg2000"]).run()
    assert set(app.dataframe[2].value["label"]) == {"jpeg2000"}
    app.selectbox(key="measure").set_value("psnr_db").run()
    assert not app.exception and not app.error


def test_datasets_and_runs_page_with_damage(root: Path, tmp_path: Path) -> None:
    for name in ("dataset.json", "manifest.parquet", "config.json", "labels.json"):
        (tmp_path / name).write_text("{")
    configure(AppSettings(root=tmp_path))
    app = page("datasets_and_runs")
    assert not app.exception
    assert len(app.error) == 2
    assert str(tmp_path) not in texts(app)


def test_datasets_and_runs_page_without_a_root() -> None:
    configure(AppSettings())
    assert "--root DIR" in texts(page("datasets_and_runs"))


def test_start_has_four_pages() -> None:
    start = Path(main.__file__).parent / "desk" / "app" / "start.py"
    app = AppTest.from_file(start, default_timeout=60).run()
    assert not app.exception
    assert app.title[0].value == "Identify"


def test_markdown_is_shown_as_it_is() -> None:
    for mark in "*_[]()!#`<>$:|~":
        assert literal(mark) == f"\\{mark}"
    assert literal("plain words 12") == "plain words 12"
