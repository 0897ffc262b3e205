"""Reports: equal bytes, escaping, one bad file stops nothing, evidence is never written over."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brightness_run import write_run
from PIL import Image as PilImage
from PIL import PngImagePlugin
from typer.testing import CliRunner, Result

import desk.examination as examination
import main
from desk.batch import ReportError, report_names, write_reports
from desk.report import MAX_TEXT, plain, printable
from desk.report_pdf import MAX_FINDINGS
from imagecompression.evidence.container import ContainerEvidence
from imagecompression.evidence.finding import Finding
from imagecompression.evidence.pixel_evidence import PixelEvidence
from train.run import Run

ROOT = Path(__file__).parent.parent
EVIL = "<script>alert('x')</script>&amp;<img src=http://x.test/a.png>{{ 7*7 }}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(autouse=True)
def hostile_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Findings whose texts come out of a hostile file."""
    container = tuple(
        Finding(name, value, "OBSERVED", note)
        for name, value, note in (
            ("comment", EVIL, EVIL),
            (EVIL, {EVIL: [EVIL, float("nan"), float("inf")]}, ""),
            ("line breaks", "a\r\nb\0c\u202ed\ud800", "</style></title>]]>"),
            ("long", "x" * 50_000, "y" * 50_000),
            ("other scripts", "größe Ж 中文 \U0001f600", ""),
            ("steps", np.arange(64).reshape(8, 8).tolist(), ""),
        )
    )
    monkeypatch.setattr(
        examination,
        "_container_evidence",
        lambda data: ContainerEvidence(format=EVIL, codec=None, findings=container),
    )
    monkeypatch.setattr(
        examination,
        "_pixel_evidence",
        lambda encoded: PixelEvidence(opinion=None, findings=()),
    )


def picture(path: Path, seed: int = 0, side: int = 70) -> Path:
    levels = np.random.default_rng(seed).integers(0, 256, (side, side + 20, 3), np.uint8)
    PilImage.fromarray(levels).save(path, "PNG")
    return path


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main.app, [str(argument) for argument in arguments])


class Page(HTMLParser):
    """Elements and attributes of a page, and its texts."""

    def __init__(self, data: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(data.decode("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def assert_self_contained(page: Page) -> None:
    """Nothing is fetched: no address but embedded pictures and files beside the page."""
    for tag, attributes in page.tags:
        for name in attributes:
            assert not name.startswith("on"), (tag, name)
        for name in ("src", "href", "action", "data", "srcset", "xlink:href"):
            address = attributes.get(name)
            if address is not None:
                embedded = tag == "img" and address.startswith("data:image/png;base64,")
                assert embedded or (tag == "a" and ":" not in address and "//" not in address)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"link", "iframe", "object", "embed", "base", "form", "video", "audio"}


# The files ---------------------------------------------------------------------------------------


def test_equal_input_gives_equal_bytes_wherever_it_lies(run: Run, tmp_path: Path) -> None:
    contents = []
    for place in ("one", "another/place"):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        picture(folder / "a.png", 1)
        picture(folder / "b.png", 2)
        (folder / "c.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
        write_reports([folder], run, folder / "out", command=f"typed in {place}")
        files = sorted((folder / "out").iterdir())
        contents.append({file.name: file.read_bytes() for file in files})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {
        f"{name}.{kind}" for name in "abc" for kind in ("json", "html", "pdf")
    } | {"index.html", "index.json"}
    together = b"".join(contents[0].values())
    assert str(tmp_path).encode() not in together


def test_equal_bytes_in_another_process(tmp_path: Path) -> None:
    """Nothing depends on the order of sets or on what a process has done before."""
    run = write_run(tmp_path / "run")
    picture(tmp_path / "a.png")
    script = (
        "import sys, main\n"
        "sys.argv = ['main.py', 'report', 'a.png', '--out', sys.argv[1], '--run', 'run']\n"
        "try: main.app()\n"
        "finally: print(sorted({'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)))\n"
    )
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", script, f"out{seed}"], cwd=tmp_path, text=True, check=True,
            capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": seed,
                 "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        )  # fmt: skip
        assert done.stdout.splitlines()[-1] == "[]"
    assert run.path.is_dir()
    for kind in ("json", "html", "pdf"):
        one, two = (tmp_path / f"out{seed}" / f"a.{kind}" for seed in "12")
        assert one.read_bytes() == two.read_bytes(), kind


def test_the_model_holds_what_a_reader_needs(run: Run, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    write_reports([path], run, tmp_path / "out")
    model = json.loads((tmp_path / "out" / "a.json").read_bytes())
    assert model["schema"] == "imagecompression-report/1"
    assert model["file"] == {
        "name": "a.png",
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "sha256_after": hashlib.sha256(path.read_bytes()).hexdigest(),
        "unchanged": True,
    }
    assert model["model"]["model_sha256"] == run.model_sha256
    assert model["model"]["dataset"]["patches_sha256"] == "5e" * 32
    assert model["command"] == "python main.py report a.png --out DIR --run run"
    assert "libjpeg" in model["tool"]["decoders"]["jpeg"]
    assert sum(model["map"]["area_shares"].values()) == pytest.approx(1, abs=1e-5)
    assert sum(model["verdict"]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert model["error_rates"]["status"] == "NOT_AVAILABLE"
    assert model["limits"]


def test_page_and_pdf_show_the_model(run: Run, tmp_path: Path) -> None:
    write_reports([picture(tmp_path / "a.png")], run, tmp_path / "out")
    model = json.loads((tmp_path / "out" / "a.json").read_bytes())
    page = Page((tmp_path / "out" / "a.html").read_bytes())
    written = pdf_text((tmp_path / "out" / "a.pdf").read_bytes())
    for text in (
        model["agreement"]["sentence"],
        model["file"]["sha256"],
        model["file"]["sha256_after"],
        model["picture"]["pixel_sha256"],
        model["model"]["model_sha256"],
        model["command"],
        "größe Ж",
        *model["limits"],
    ):
        assert text in page.text
        assert squeezed(text) in squeezed(written)
    image = next(attributes["src"] for tag, attributes in page.tags if tag == "img")
    assert image is not None
    png = base64.b64decode(image.split(",")[1])
    assert png.startswith(b"\x89PNG")
    bars = [attributes for tag, attributes in page.tags if tag == "rect" and "stroke" in attributes]
    wide = [float(bar["width"] or 0) / 360 for bar in bars]
    assert wide == pytest.approx(list(model["verdict"]["probabilities"].values()), abs=1e-3)


def squeezed(text: str) -> str:
    return "".join(text.split())


def pdf_text(data: bytes) -> str:
    """Text of a PDF of ours: glyph numbers of its streams through the fonts' ToUnicode maps."""
    assert data.startswith(b"%PDF-1.")
    assert data.rstrip().endswith(b"%%EOF")
    objects = {
        int(number): body
        for number, body in re.findall(rb"(?s)\b(\d+) 0 obj\b(.*?)\bendobj\b", data)
    }

    def stream(body: bytes) -> bytes:
        found = re.search(rb"(?s)stream\r?\n(.*?)\r?\n?endstream", body)
        assert found is not None
        raw = found[1]
        if b"ASCII85Decode" in body:
            raw = base64.a85decode(raw.strip().removesuffix(b"~>"))
        return zlib.decompress(raw) if b"FlateDecode" in body else raw

    fonts: dict[bytes, dict[int, str]] = {}
    for body in objects.values():
        name, link = re.search(rb"/Name /(F\d+\+\d+)", body), re.search(rb"/ToUnicode (\d+)", body)
        if name and link:
            table = stream(objects[int(link[1])])
            pairs = re.findall(rb"<([0-9A-F]{2,4})> <([0-9A-F]{4})>", table)
            fonts[name[1]] = {int(code, 16): chr(int(char, 16)) for code, char in pairs}
            for low, chars in re.findall(rb"(?s)<([0-9A-F]{2})> <[0-9A-F]{2}> \[(.*?)\]", table):
                for place, char in enumerate(re.findall(rb"<([0-9A-F]{4})>", chars)):
                    fonts[name[1]][int(low, 16) + place] = chr(int(char, 16))
    assert fonts
    text = ""
    for body in objects.values():
        if b"stream" not in body or b"/Length1" in body or b"/Image" in body:
            continue
        content = stream(body)
        font: dict[int, str] = {}
        token = rb"/(F\d+\+\d+) [\d.]+ Tf|\(((?:\\.|[^\\)])*)\) Tj"
        for chosen, shown in re.findall(token, content, re.S):
            if chosen:
                font = fonts[chosen]
            else:
                codes = re.sub(
                    rb"\\([0-7]{3}|.)",
                    lambda m: (
                        bytes([int(m[1], 8)])
                        if m[1].isdigit()
                        else {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}.get(
                            m[1], m[1]
                        )
                    ),
                    shown,
                    flags=re.S,
                )
                text += "".join(font.get(code, "?") for code in codes)
    return text


# Hostile texts -----------------------------------------------------------------------------------


def test_texts_of_the_evidence_stay_texts(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    name = "<script>alert(1)<b>\"'&{{x}}\n\u202egpj.png"
    write_reports([picture(tmp_path / name)], run, out)
    (report,) = json.loads((out / "index.json").read_bytes())["reports"]
    data = (out / report["files"]["html"]["name"]).read_bytes()
    page = Page(data)
    assert_self_contained(page)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "img" in {tag for tag, _ in page.tags}
    assert sum(tag == "img" for tag, _ in page.tags) == 1  # the map, not the evil one
    assert EVIL in page.text
    assert "\\n\\u202egpj.png" in page.text
    assert "\u202e".encode() not in data
    assert b"\0" not in data
    assert "a\\r\\nb\\x00c\\u202ed\\ud800" in page.text
    index = Page((out / "index.html").read_bytes())
    assert_self_contained(index)
    assert [tag for tag, _ in index.tags].count("script") == 1
    assert not {tag for tag, _ in index.tags} & {"img", "b"}
    written = pdf_text((out / report["files"]["pdf"]["name"]).read_bytes())
    assert squeezed("<script>alert('x')</script>&amp;<imgsrc=") in squeezed(written)


def test_the_pdf_prints_a_part_of_very_many_findings(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = tuple(Finding(f"marker {n}", n, "OBSERVED") for n in range(MAX_FINDINGS + 7))
    monkeypatch.setattr(
        examination,
        "_pixel_evidence",
        lambda encoded: PixelEvidence(opinion=None, findings=many),
    )
    write_reports([picture(tmp_path / "a.png")], run, tmp_path / "out")
    written = squeezed(pdf_text((tmp_path / "out" / "a.pdf").read_bytes()))
    assert f"marker{MAX_FINDINGS - 1}" in written
    assert f"marker{MAX_FINDINGS}" not in written
    assert "7more:seetheJSONfile." in written
    model = json.loads((tmp_path / "out" / "a.json").read_bytes())
    assert len(model["pixel_evidence"]["findings"]) == len(many)


def test_the_policy_lets_only_the_indexs_own_script_run(run: Run, tmp_path: Path) -> None:
    write_reports([picture(tmp_path / "a.png")], run, tmp_path / "out")
    policies = {}
    for name in ("a", "index"):
        data = (tmp_path / "out" / f"{name}.html").read_bytes()
        meta = [a for tag, a in Page(data).tags if tag == "meta" and "http-equiv" in a]
        policies[name] = str(meta[0]["content"])
        assert "default-src 'none'" in policies[name]
    assert "script-src 'none'" in policies["a"]
    data = (tmp_path / "out" / "index.html").read_bytes()
    script = re.findall(rb"(?s)<script>(.*?)</script>", data)
    digest = base64.b64encode(hashlib.sha256(script[0]).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policies["index"]


def test_printable_and_plain() -> None:
    assert printable("größe 中 \t\x1b[0m") == "größe 中 \\t\\x1b[0m"
    assert len(printable("x" * 10**6)) == MAX_TEXT + 1
    odd = {1: np.float32(0.5), "b": (float("nan"), b"x"), "c": [[True, None, 2**70]]}
    assert plain(odd) == {"1": 0.5, "b": [None, "b'x'"], "c": [[True, None, 2**70]]}
    assert plain({"a": [[[[1.23456789]]]]}) == {"a": [[[[1.234568]]]]}
    deep: Any = []
    for _ in range(500):
        deep = [deep]
    assert len(json.dumps(plain(deep))) < 1.1 * MAX_TEXT


# Batches -----------------------------------------------------------------------------------------


def test_one_bad_file_stops_nothing(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    good = [picture(folder / "a.png"), picture(folder / "z.png")]
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (folder / "empty.png").touch()
    picture(folder / "tiny.png", side=1)
    absent = tmp_path / "absent.png"
    out = tmp_path / "out"
    result = command("report", folder, absent, "--out", out, "--run", run.path, "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    verdicts = {Path(row["file"]).name: row["verdict"] for row in answer["results"]}
    assert verdicts["broken.png"] == "unreadable"
    assert verdicts["tiny.png"] == "not enough pixels"
    assert set(verdicts) == {"a.png", "broken.png", "tiny.png", "z.png"}
    failed = {Path(row["file"]).name for row in answer["errors"]}
    assert failed == {"broken.png", "empty.png", "absent.png"}
    assert all(f"{name}: " in result.stderr for name in failed)
    for row in answer["results"]:
        for file in row["files"].values():
            data = (out / file["name"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == file["sha256"]
    index = json.loads((out / "index.json").read_bytes())
    assert [row["name"] for row in index["reports"]] == sorted(verdicts)
    assert {row["name"] for row in index["errors"]} == failed
    assert str(tmp_path) not in (out / "index.json").read_text()
    links = [a["href"] for tag, a in Page((out / "index.html").read_bytes()).tags if tag == "a"]
    assert {str(link) for link in links} <= {path.name for path in out.iterdir()}
    assert len(links) == 3 * len(verdicts)
    fine = command("report", *good, "--out", tmp_path / "fine", "--run", run.path)
    assert fine.exit_code == 0
    assert "index.html" in fine.stdout
    for hopeless in (folder / "broken.png", absent, folder / "empty.png"):
        result = command("report", hopeless, "--out", tmp_path / "none", "--run", run.path)
        assert result.exit_code == 2, hopeless


def test_a_report_is_the_same_alone_and_in_a_batch(run: Run, tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{name}.png", seed) for seed, name in enumerate("abc")]
    write_reports(paths, run, tmp_path / "all")
    write_reports(paths[1:2], run, tmp_path / "one")
    for kind in ("json", "html", "pdf"):
        assert (tmp_path / "all" / f"b.{kind}").read_bytes() == (
            tmp_path / "one" / f"b.{kind}"
        ).read_bytes()


def test_names_are_unique_and_safe() -> None:
    hostile = ["../../x.png", "a/b.png", "CON.png", ".hidden.png", "a\nb.png", "bad\udcff.png"]
    hostile += ["...png", "é" * 200 + ".png", "中.png", "a.tar.gz", "INDEX.png", "a_b.png", " .png"]
    names = report_names([Path(name) for name in hostile])
    assert len({name.casefold() for name in names}) == len(hostile)
    for name in names:
        assert 0 < len(name.encode()) <= 100
        assert not set(name) & set("/\\\n\0<>&:*?\"'|")
        assert not name.startswith((".", " "))
        assert name.casefold() != "index"


def test_evidence_is_never_written_over(run: Run, tmp_path: Path) -> None:
    """A picture whose suffix is that of a report, and one reached through a link."""
    picture(tmp_path / "a.html")
    picture(tmp_path / "b.png")
    (tmp_path / "out").mkdir()
    os.link(tmp_path / "b.png", tmp_path / "out" / "b.pdf")
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    with pytest.raises(ReportError, match=r"a\.html"):
        write_reports([tmp_path / "a.html"], run, tmp_path)
    with pytest.raises(ReportError, match=r"b\.pdf"):
        write_reports([tmp_path / "b.png"], run, tmp_path / "out")
    picture(tmp_path / "case.jsonl")
    with pytest.raises(ReportError, match=r"case\.jsonl"):
        write_reports([tmp_path / "case.jsonl"], run, tmp_path / "new", case=tmp_path)
    assert not (tmp_path / "new").exists()
    assert {path: path.read_bytes() for path in before} == before
    result = command("report", tmp_path / "a.html", "--out", tmp_path, "--run", run.path)
    assert result.exit_code == 2
    assert result.stderr.count("error: ") == 1


def test_metadata_of_a_real_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the real reading of containers: hostile PNG texts end as texts."""
    monkeypatch.undo()
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", EVIL)
    levels = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    PilImage.fromarray(levels).save(tmp_path / "a.png", pnginfo=info)
    write_reports([tmp_path / "a.png"], run, tmp_path / "out")
    page = Page((tmp_path / "out" / "a.html").read_bytes())
    assert_self_contained(page)
    assert "script" not in {tag for tag, _ in page.tags}
