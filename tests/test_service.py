"""The service: the same answers as the command line, and nothing but answers and reasons."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import io
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import psutil
import pytest
import schemathesis
from brightness_run import write_run
from conftest import photograph_like
from hypothesis import HealthCheck, given, settings
from PIL import Image as PilImage
from typer.testing import CliRunner

import main
from desk.batch import write_reports
from desk.error_rates import read_error_rates
from desk.jobs import clean_name, prepare
from desk.service import ServiceError, ServiceLimits, create_app, read_token
from desk.timed_workers import JobCrashedError, JobTimeoutError, WorkersBusyError
from imagecompression.codec import MAX_PIXELS, CodecError, check_size, lower_pixel_limit
from imagecompression.image_io import decode_image
from imagecompression.metrics import psnr, ssim
from train.classification import DEFAULT_RUN
from train.run import Run, RunError

ROOT = Path(__file__).parent.parent
LIMITS = ServiceLimits(workers=1, queue=1, body_bytes=100_000)
TOKEN = "correct-horse-battery-staple"


class HereWorkers:
    """Does jobs in this process, so that most tests need start none."""

    prepared: ClassVar[dict[str, Any]] = {
        "tool": {"imagecompression": "0"},
        "model": {"run": "here"},
    }

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault = fault

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self.fault is not None:
            raise self.fault
        return function(*arguments)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("service") / "run")


def png(height: int = 70, width: int = 90, seed: int = 0) -> bytes:
    out = io.BytesIO()
    PilImage.fromarray(photograph_like(height, width, 3, seed)).save(out, "PNG")
    return out.getvalue()


def send(
    run: Run,
    method: str,
    path: str,
    *,
    workers: Any = None,
    token: str | None = None,
    limits: ServiceLimits = LIMITS,
    **request: Any,
) -> httpx.Response:
    app = create_app(workers or HereWorkers(), run.path, limits, token)

    async def sending() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **request)

    return asyncio.run(sending())


def error_of(response: httpx.Response) -> str:
    content = response.json()
    assert set(content) == {"error"}
    assert isinstance(content["error"], str)
    assert content["error"]
    return str(content["error"])


# Answers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "größe 中.png"])
def test_classify_says_what_the_command_prints(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_bytes(png())
    monkeypatch.chdir(tmp_path)
    command = ["classify", name, "--run", str(run.path), "--json"]
    printed = CliRunner().invoke(main.app, command).stdout
    answer = send(run, "POST", "/classify", files={"file": (f"C:\\photos\\{name}", png())})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.text == printed


@pytest.mark.parametrize("kind", ["json", "html", "pdf"])
@pytest.mark.parametrize("data", [png(), png(20, 20), png()[:600]], ids=["good", "small", "cut"])
def test_reports_are_those_that_the_command_writes(
    run: Run, tmp_path: Path, kind: str, data: bytes
) -> None:
    (tmp_path / "a.png").write_bytes(data)
    write_reports([tmp_path / "a.png"], run, tmp_path / "out")
    answer = send(run, "POST", f"/report?format={kind}", files={"file": ("a.png", data)})
    assert answer.status_code == 200
    assert answer.content == (tmp_path / "out" / f"a.{kind}").read_bytes()
    assert kind in answer.headers["content-type"]


@pytest.mark.parametrize(
    ("form", "header", "close_to"),
    [
        ({"codec": "jpeg", "ratio": "8"}, "x-ratio", 8),
        ({"codec": "jpeg2000", "bytes": "2000"}, None, 2000),
        ({"codec": "webp", "ssim": "0.9"}, "x-ssim", 0.9),
        ({"codec": "kmeans", "set": ["colors=16", "space=rgb"]}, None, None),
        ({"codec": "uncompressed"}, "x-ratio", None),
    ],
)
def test_compress_tells_what_it_made(
    run: Run, form: dict[str, Any], header: str | None, close_to: float | None
) -> None:
    source = png()
    answer = send(run, "POST", "/compress", files={"file": ("a.png", source)}, data=form)
    assert answer.status_code == 200, answer.text
    made = decode_image(answer.content, "made")
    given = decode_image(source, "given").pixels
    facts = answer.headers
    assert facts["x-codec"] == made.format or form["codec"] == "uncompressed"
    assert float(facts["x-ratio"]) == pytest.approx(given.nbytes / len(answer.content), rel=1e-5)
    assert float(facts["x-ssim"]) == pytest.approx(ssim(given, made.pixels), abs=1e-5)
    assert float(facts["x-psnr"]) == pytest.approx(psnr(given, made.pixels), abs=1e-4)
    params = json.loads(facts["x-params"])
    knob, _, value = facts["x-knob"].partition("=")
    assert not knob or params[knob] == json.loads(value)
    if form["codec"] == "kmeans":
        assert (params["colors"], params["space"]) == (16, "rgb")
    if close_to is not None:
        measured = float(facts[header]) if header else len(answer.content)
        assert measured == pytest.approx(close_to, rel=0.06)
        assert facts["x-reached"] == "true"


def test_health_and_version(run: Run) -> None:
    assert send(run, "GET", "/health").json() == {"status": "ok"}
    assert send(run, "GET", "/version").json() == HereWorkers.prepared


def test_what_version_tells(run: Run) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("desk.jobs.lower_pixel_limit", lambda pixels: None)
        patch.setattr("desk.jobs._limit_memory", lambda memory: None)
        facts = prepare(run.path, 1, 1)
    assert facts["model"]["model_sha256"] == run.model_sha256
    assert "jpeg" in facts["tool"]["decoders"]
    assert str(run.path.parent) not in json.dumps(facts)


def test_the_shipped_run_can_be_served() -> None:
    run = Run.load(DEFAULT_RUN)
    assert run.onnx is not None
    assert read_error_rates(run.path, run.model_sha256)


# Refusals ----------------------------------------------------------------------------------------

PNG = {"file": ("a.png", png())}
BOMB = png()[:16] + (30_000).to_bytes(4, "big") * 2 + png()[24:]


@pytest.mark.parametrize(
    ("path", "request_", "status", "word"),
    [
        ("/classify", {"files": {"other": ("a.png", png())}}, 422, "file"),
        ("/classify", {"data": {"file": "text"}, "files": {"x": ("x", b"x")}}, 422, "file"),
        ("/classify", {"json": {"file": "x"}}, 415, "multipart"),
        ("/classify", {}, 415, "multipart"),
        (
            "/classify",
            {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
            400,
            "boundary",
        ),
        (
            "/classify",
            {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}},
            400,
            "",
        ),
        ("/classify", {"files": {"file": ("a.png", b"")}}, 415, "known kind"),
        ("/classify", {"files": {"file": ("a.png", b"no picture")}}, 415, "known kind"),
        ("/report", {"files": {"file": ("a.png", b"no picture")}}, 415, "known kind"),
        ("/classify", {"files": {"file": ("a.png", png()[:-40])}}, 422, "a.png"),
        ("/classify", {"files": {"file": ("a.png", png(8, 8))}}, 422, "32×32"),
        ("/classify", {"files": {"file": ("a.png", BOMB)}}, 413, "pixels"),
        ("/report", {"files": {"file": ("a.png", BOMB)}}, 413, "pixels"),
        ("/compress", {"files": {"file": ("a.png", BOMB)}, "data": {"codec": "uncompressed"}}, 413,
         "pixels"),
        ("/classify", {"files": {"file": ("a.png", bytes(200_000))}}, 413, "100,000"),
        ("/report?format=exe", {"files": PNG}, 422, "format"),
        ("/compress", {"files": PNG}, 422, "codec"),
        ("/compress", {"files": PNG, "data": {"codec": "gif"}}, 422, "jpegxl"),
        ("/compress", {"files": PNG, "data": {"codec": "jpeg"}}, 422, "quality"),
        ("/compress", {"files": PNG, "data": {"codec": "jpeg", "ratio": "nan"}}, 422, "ratio"),
        ("/compress", {"files": PNG, "data": {"codec": "jpeg", "ratio": "1e999"}}, 422, "ratio"),
        ("/compress", {"files": PNG, "data": {"codec": "jpeg", "bytes": "999999"}}, 422, "1"),
        ("/compress", {"files": PNG, "data": {"codec": "jpeg", "ssim": "1"}}, 422, "ssim"),
        ("/compress", {"files": PNG, "data": {"codec": "jpeg", "ssim": ".9", "ratio": "5"}}, 422,
         "one of"),
        ("/compress", {"files": PNG, "data": {"codec": "jpeg", "set": "quality=x"}}, 422, "int"),
        ("/compress", {"files": PNG, "data": {"codec": "jpeg", "set": "no=1"}}, 422, "quality"),
        ("/compress", {"files": PNG, "data": {"codec": "jpeg", "set": ["quality=9"] * 41}}, 422,
         "set"),
        ("/compress", {"files": PNG, "data": {"codec": "jpeg", "set": "quality=" + "9" * 5000}},
         422, "set"),
        ("/nothing", {"files": PNG}, 404, "openapi"),
        ("/health", {"files": PNG}, 405, "POST"),
    ],
)  # fmt: skip
def test_refused_with_a_reason(
    run: Run, path: str, request_: dict[str, Any], status: int, word: str
) -> None:
    answer = send(run, "POST", path, **request_)
    assert answer.status_code == status, answer.text
    assert word in error_of(answer)
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("fault", "status", "word"),
    [
        (JobTimeoutError("Not done within 9 s"), 504, "9 s"),
        (WorkersBusyError("No worker was free"), 503, "free"),
        (JobCrashedError("It ended the process"), 422, "ended"),
        (RuntimeError("/secret/path"), 500, "log"),
    ],
)
def test_faults_of_workers(run: Run, fault: Exception, status: int, word: str) -> None:
    answer = send(run, "POST", "/classify", workers=HereWorkers(fault), files=PNG)
    assert answer.status_code == status
    assert word in error_of(answer)
    assert "secret" not in answer.text
    assert ("retry-after" in answer.headers) == (status == 503)


@pytest.mark.parametrize(
    "message", ["std::bad_alloc", "bad allocation", "(-4:Insufficient memory)"]
)
def test_a_picture_that_takes_too_much_memory(
    run: Run, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    def lacking(*args: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr("desk.jobs.classify", lacking)
    answer = send(run, "POST", "/classify", files=PNG)
    assert answer.status_code == 413
    assert "memory" in error_of(answer)


def test_other_errors_of_jobs_are_faults(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: object) -> None:
        raise RuntimeError("anything")

    monkeypatch.setattr("desk.jobs.classify", failing)
    answer = send(run, "POST", "/classify", files=PNG)
    assert (answer.status_code, "anything" in answer.text) == (500, False)


def test_errors_of_the_run_are_faults(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: object) -> None:
        raise RunError(f"{run.path}: a file of the run cannot be read")

    monkeypatch.setattr("desk.jobs.classify", failing)
    answer = send(run, "POST", "/classify", files=PNG)
    assert answer.status_code == 500
    assert str(run.path) not in answer.text


def test_no_reason_tells_of_temporary_folders(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: object) -> None:
        raise CodecError(f"cannot write {tempfile.gettempdir()}{os.sep}a.jpg")

    monkeypatch.setattr("desk.jobs.compress_picture", failing)
    answer = send(run, "POST", "/compress", files=PNG, data={"codec": "uncompressed"})
    assert answer.status_code == 422
    assert error_of(answer) == "cannot write a.jpg"


@pytest.mark.parametrize("given", [None, "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer ü"])
def test_the_token_is_asked_for(run: Run, given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given.encode()}
    for method, path in (("POST", "/classify"), ("GET", "/version"), ("GET", "/openapi.json")):
        answer = send(run, method, path, token=TOKEN, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        error_of(answer)
    assert send(run, "GET", "/health", token=TOKEN, headers=headers).status_code == 200


def test_the_token_opens(run: Run) -> None:
    headers = {"Authorization": f"bearer {TOKEN}"}
    answer = send(run, "POST", "/classify", token=TOKEN, headers=headers, files=PNG)
    assert answer.status_code == 200
    schema = send(run, "GET", "/openapi.json", token=TOKEN, headers=headers).json()
    assert schema["paths"]["/classify"]["post"]["security"]
    assert "security" not in schema["paths"]["/health"]["get"]


def test_a_full_queue_refuses_and_a_place_is_given_back(run: Run) -> None:
    waiting = asyncio.Event()

    class Waiting(HereWorkers):
        async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
            await waiting.wait()
            return function(*arguments)

    app = create_app(Waiting(), run.path, LIMITS)  # type: ignore[arg-type]

    async def sending() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            held = [asyncio.ensure_future(client.post("/classify", files=PNG)) for _ in range(2)]
            for _ in range(20):
                await asyncio.sleep(0)
            refused = await client.post("/classify", files=PNG)
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
            error_of(refused)
            assert (await client.get("/health")).status_code == 200
            waiting.set()
            assert [(await one).status_code for one in held] == [200, 200]
            assert (await client.post("/classify", files=PNG)).status_code == 200

    asyncio.run(sending())


# Bodies that lie ---------------------------------------------------------------------------------

HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'


def send_raw(run: Run, chunks: list[bytes], limits: ServiceLimits, hang: bool = False) -> Any:
    """Status and body for a body that comes in chunks; `hang` leaves its end out."""
    app = create_app(HereWorkers(), run.path, limits)  # type: ignore[arg-type]
    left = list(chunks)
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.sleep(600)
        return {"type": "http.request", "body": left.pop(0), "more_body": hang or bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/classify", "raw_path": b"/classify",
        "query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1",
        "headers": [(b"content-type", b"multipart/form-data; boundary=b"),
                    (b"content-length", b"10")],
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"]), len(left), dict(sent[0]["headers"])


def test_bytes_are_counted_whatever_the_head_says(run: Run) -> None:
    status, body, left, _ = send_raw(run, [HEAD, *[bytes(60_000)] * 3], LIMITS)
    assert (status, left) == (413, 0)
    assert "100,000" in body["error"]


def test_an_endless_body_is_not_read_to_its_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("desk.gate.DROPPED_BYTES", 300_000)
    status, _, left, headers = send_raw(run, [HEAD, *[bytes(60_000)] * 100], LIMITS)
    assert status == 413
    assert left > 90
    assert headers[b"connection"] == b"close"


def test_a_slow_body_is_given_up(run: Run) -> None:
    limits = replace(LIMITS, body_seconds=0.1)
    status, body, _, headers = send_raw(run, [HEAD], limits, hang=True)
    assert status == 408
    assert "0.1 s" in body["error"]
    assert headers[b"connection"] == b"close"


# Settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        ("a.png", "a.png"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("/", "upload"),
        ("", "upload"),
        (None, "upload"),
        ("a\r\nb\0\u202e.png", "a\\r\\nb\\x00\\u202e.png"),
        ("\ud800.png", "\\ud800.png"),
    ],
)
def test_names_of_uploads(given: str | None, clean: str) -> None:
    assert clean_name(given) == clean


def test_tokens(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert read_token(path) == TOKEN
    for text in ("", "short", "a b" * 20, "ü" * 20, "x" * 5000):
        path.write_text(text)
        with pytest.raises(ServiceError, match="token"):
            read_token(path)
    with pytest.raises(ServiceError, match="absent"):
        read_token(tmp_path / "absent")


@pytest.mark.parametrize(
    "wrong",
    [{"workers": 0}, {"queue": -1}, {"pixels": MAX_PIXELS + 1}, {"seconds": float("nan")},
     {"worker_bytes": 1000}],
)  # fmt: skip
def test_impossible_limits(wrong: dict[str, Any]) -> None:
    with pytest.raises(ServiceError, match=next(iter(wrong))):
        replace(LIMITS, **wrong)


def test_the_pixel_limit_can_only_be_lowered() -> None:
    contextvars.copy_context().run(_lower_the_pixel_limit)
    check_size(100, 51)


def _lower_the_pixel_limit() -> None:
    for wrong in (0, MAX_PIXELS + 1):
        with pytest.raises(CodecError, match="limit"):
            lower_pixel_limit(wrong)
    lower_pixel_limit(5000)
    check_size(100, 50)
    with pytest.raises(CodecError, match="5,000"):
        check_size(100, 51)
    with pytest.raises(CodecError, match="5,000"):
        decode_image(png(), "a.png")


def test_no_page_of_the_description_loads_anything(run: Run) -> None:
    assert send(run, "GET", "/openapi.json").json()["openapi"].startswith("3.")
    for path in ("/docs", "/redoc", "/docs/oauth2-redirect"):
        assert send(run, "GET", path).status_code == 404


def test_bad_settings_of_serve(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for options, word in (
        (["--run", str(tmp_path)], "run directory"),
        (["--token-file", str(tmp_path / "absent")], "absent"),
        (["--max-megapixels", "101"], "pixels"),
        (["--host", "host.invalid"], ""),
    ):
        result = CliRunner().invoke(main.app, ["serve", "--port", "0", "--workers", "1", *options])
        assert result.exit_code == 2
        assert word in result.stderr
        assert "Traceback" not in result.stderr
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# The real thing ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any, Path]]:
    """URL, process, and folder of logs and of temporary files of a service of one worker."""
    folder = tmp_path_factory.mktemp("served")
    # Where CI is set, onnxruntime tells its makers nothing of itself.
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    (folder / "temporary").mkdir()
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = psutil.Popen(
            [sys.executable, "main.py", "serve", "--port", "0", "--run", str(run.path), "--json",
             "--workers", "1", "--max-megabytes", "1", "--max-megapixels", "1"],
            cwd=ROOT, stdout=out, stderr=err,
            env=environment | {"TMPDIR": str(folder / "temporary")},
        )  # fmt: skip
    try:
        while not (folder / "out").read_text().endswith("}\n"):
            assert process.poll() is None, (folder / "err").read_text()
            time.sleep(0.05)
        yield json.loads((folder / "out").read_text())["url"], process, folder
    finally:
        if process.poll() is None:
            for each in [*process.children(recursive=True), process]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            process.wait()


def test_a_served_request(served: tuple[str, Any, Path], run: Run) -> None:
    url, process, folder = served
    assert {each.laddr.ip for each in process.net_connections() if each.status == "LISTEN"} == {
        "127.0.0.1"
    }
    answer = httpx.post(f"{url}/classify", files=PNG, timeout=120)
    assert answer.json() == send(run, "POST", "/classify", files=PNG).json()
    big = io.BytesIO()
    PilImage.fromarray(np.zeros((1001, 1000), np.uint8)).save(big, "PNG")
    answer = httpx.post(f"{url}/classify", files={"file": ("a.png", big.getvalue())}, timeout=120)
    assert answer.status_code == 413
    assert "1,000,000" in error_of(answer)
    answer = httpx.post(f"{url}/classify", files={"file": ("a", bytes(2 << 20))}, timeout=120)
    assert answer.status_code == 413
    form = {"codec": "jpeg2000", "ratio": "9"}
    answer = httpx.post(f"{url}/compress", files=PNG, data=form, timeout=120)
    assert answer.status_code == 200
    (base,) = (folder / "temporary").iterdir()
    assert [list(each.iterdir()) for each in base.iterdir()] == [[]]
    log = (folder / "err").read_text()
    assert '"POST /classify HTTP/1.1" 200' in log
    assert "PNG" not in log
    assert (folder / "out").read_text().count("\n") == 3  # the URL alone


def test_schemathesis_finds_nothing(served: tuple[str, Any, Path]) -> None:
    """No server error, nothing that the description does not tell."""
    url, process, folder = served
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    seen = set()
    for operation in (found.ok() for found in schema.get_all_operations()):
        seen.add(operation.path)

        @given(case=operation.as_strategy())
        @settings(
            max_examples=6, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def check(case: schemathesis.Case) -> None:
            answer = case.call(timeout=120)
            # No schema tells which bytes are a picture, so refusals of sound forms are no finding.
            case.validate_response(
                answer,
                excluded_checks=[schemathesis.checks.CHECKS.get_one("positive_data_acceptance")],
            )
            assert str(ROOT) not in answer.text

        check()
    assert seen == {"/health", "/version", "/classify", "/report", "/compress"}
    assert process.poll() is None
    assert "Traceback" not in (folder / "err").read_text()


def test_a_signal_ends_it_and_all_it_has_started(served: tuple[str, Any, Path]) -> None:
    _, process, folder = served
    children = process.children(recursive=True)
    assert children
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    assert list((folder / "temporary").iterdir()) == []
