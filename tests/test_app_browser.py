"""The web app in a real browser: Chromium without a window, driven through Playwright.

Pictures of the pages are left in ``screenshots/``. The server's process is watched, too: its memory
stays flat, it leaves no file behind, and the browser is never sent to another host.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from brightness_run import write_run
from chromium import needs_chromium
from conftest import photograph_like
from tiny_dataset import write_tiny_dataset

from imagecompression import CODECS, Lossless
from imagecompression.image_io import read_image
from imagecompression.metrics import psnr

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

ROOT = Path(__file__).parent.parent
SCREENSHOTS = ROOT / "screenshots"
PATIENCE = 120_000
"""Milliseconds: machines that run tests are busy."""

UPLOADS = 50
WARM = 15
"""Uploads before memory is first read."""

MEBIBYTE = 1 << 20

pytestmark = needs_chromium


class Server:
    """The app in a process of its own, as ``main.py app`` starts it."""

    def __init__(self, folder: Path) -> None:
        self.home, self.root = folder, folder / "root"
        write_run(self.root / "run")
        write_tiny_dataset(self.root / "tiny")
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "main.py", "app", "--port", str(self.port)]
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--run", str(self.root / "run"), "--root", str(self.root)],
                cwd=ROOT,
                env={**os.environ, "TMPDIR": str(self.temporary), "HOME": str(folder)},
                stdout=log,
                stderr=log,
            )

    def wait(self) -> None:
        for _ in range(600):
            try:
                with urllib.request.urlopen(self.url("/_stcore/health"), timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.2)
        raise AssertionError(f"the app does not start: {self.log.read_text()}")

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def memory(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = Server(tmp_path_factory.mktemp("app"))
    try:
        found.wait()
        yield found
    finally:
        found.process.terminate()
        try:
            found.process.wait(30)
        except subprocess.TimeoutExpired:
            found.process.kill()
            found.process.wait()
    assert not list(found.temporary.iterdir()), "the app left files behind"
    assert not (found.home / ".streamlit").exists()
    assert "Traceback" not in found.log.read_text()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """A page of a fresh session. No host but the app's is asked for anything."""
    context = browser.new_context(viewport={"width": 1300, "height": 900}, accept_downloads=True)
    context.set_default_timeout(PATIENCE)
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    opened = context.new_page()
    yield opened
    context.close()
    hosts = {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {f"127.0.0.1:{server.port}"}


def picture(brightness: int, seed: int = 0, height: int = 96, width: int = 128) -> bytes:
    """A PNG that the run calls by its brightness: dark uncompressed, bright jpeg."""
    noise = np.random.default_rng(seed).integers(-20, 20, (height, width, 3))
    return Lossless().encode((brightness + noise).astype(np.uint8))


def upload(page: Any, name: str, data: bytes) -> None:
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": data}
    page.locator("input[type=file]").first.set_input_files([file])


def expect_text(page: Any, text: str) -> None:
    playwright.expect(page.get_by_text(text).first).to_be_visible(timeout=PATIENCE)


def settle(page: Any) -> None:
    """Wait until the server has run the page to its end."""
    running = page.locator("[data-test-script-state]")
    playwright.expect(running).to_have_attribute(
        "data-test-script-state", "notRunning", timeout=PATIENCE
    )


def screenshot(page: Any, name: str) -> None:
    """The page in its whole height, once all of it is there."""
    settle(page)
    playwright.expect(page.get_by_test_id("stSkeleton")).to_have_count(0, timeout=PATIENCE)
    height = page.get_by_test_id("stMain").evaluate("main => main.scrollHeight")
    page.set_viewport_size({"width": 1300, "height": min(height, 4000)})
    page.wait_for_timeout(500)  # tables are drawn on canvas; nothing tells when
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def test_identify(page: Any, server: Server, tmp_path: Path) -> None:
    page.goto(server.url())
    upload(page, "bright.png", picture(220))
    expect_text(page, "Verdict: jpeg")
    expect_text(page, "The same on the command line:")  # the page is complete
    screenshot(page, "identify")
    shown = page.get_by_test_id("stImage").locator("img").first
    before = shown.get_attribute("src")
    slider = page.get_by_role("slider").first
    slider.focus()
    for _ in range(12):
        slider.press("ArrowLeft")
    playwright.expect(shown).not_to_have_attribute("src", before, timeout=PATIENCE)
    reports = {}
    for kind in ("JSON", "HTML", "PDF"):
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Report as {kind}").click()
        assert download.value.suggested_filename == f"bright.{kind.lower()}"
        reports[kind] = Path(download.value.path()).read_bytes()
    assert json.loads(reports["JSON"])["verdict"]["verdict"] == "jpeg"
    assert b"<!doctype html>" in reports["HTML"].lower()
    assert reports["PDF"].startswith(b"%PDF")


def test_a_broken_file_is_told_in_a_sentence(page: Any, server: Server) -> None:
    page.goto(server.url())
    upload(page, "broken.jpg", b"\xff\xd8\xff\xe0 this is no picture")
    expect_text(page, "The pixels could not be read.")
    screenshot(page, "broken-file")
    text = page.locator("body").inner_text()
    assert "Traceback" not in text and "Error:" not in text
    assert str(server.temporary) not in text and str(server.root) not in text


def test_a_name_is_no_markup(page: Any, server: Server) -> None:
    page.goto(server.url())
    upload(page, "![x](http://elsewhere.example/x.png) <img src=x>.png", picture(220))
    expect_text(page, "Verdict: jpeg")
    assert page.locator("img[src*=elsewhere]").count() == 0
    assert page.locator("img[src=x]").count() == 0


def test_compress(page: Any, server: Server, tmp_path: Path) -> None:
    page.goto(server.url("/compress"))
    source = photograph_like(144, 200, 3)
    upload(page, "photo.png", Lossless().encode(source))
    playwright.expect(page.get_by_text("photo.png").first).to_be_visible(timeout=PATIENCE)
    page.get_by_role("button", name="Compress", exact=True).click()
    frame = page.frame_locator("iframe")
    handle = frame.locator("#handle")
    handle.wait_for()
    left = frame.locator("#left")
    assert left.evaluate("image => image.naturalWidth") == 200
    assert left.evaluate("image => getComputedStyle(image).clipPath") == "inset(0px 50% 0px 0px)"
    handle.fill("20")
    assert left.evaluate("image => getComputedStyle(image).clipPath") == "inset(0px 80% 0px 0px)"
    frame.locator("#zoom").select_option("4")
    assert left.evaluate("image => image.clientWidth") == 800
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the file").click()
    assert download.value.suggested_filename == "photo_jpeg.jpg"
    path = Path(download.value.path())
    assert CODECS["jpeg"].matches(path.read_bytes())
    assert psnr(source, read_image(path)) > 30
    expect_text(page, "python main.py compress photo.png photo_jpeg.jpg")
    screenshot(page, "compress")


def test_compare(page: Any, server: Server) -> None:
    page.goto(server.url("/compare"))
    upload(page, "photo.png", Lossless().encode(photograph_like(96, 128, 3)))
    playwright.expect(page.get_by_text("photo.png").first).to_be_visible(timeout=PATIENCE)
    page.get_by_role("button", name="Compare", exact=True).click()
    expect_text(page, "At equal size")
    playwright.expect(page.get_by_test_id("stImage").nth(4)).to_be_visible(timeout=PATIENCE)
    screenshot(page, "compare")


def test_datasets_and_runs(page: Any, server: Server) -> None:
    page.goto(server.url("/datasets-and-runs"))
    expect_text(page, "samples, patches of 32 pixels")
    playwright.expect(page.get_by_test_id("stImage").first).to_be_visible(timeout=PATIENCE)
    assert str(server.root) not in page.locator("body").inner_text()
    screenshot(page, "datasets")
    page.get_by_role("tab", name="Run").click()
    expect_text(page, "3 classes: uncompressed, jpeg, bpg")
    screenshot(page, "runs")


def test_other_names_of_this_machine_are_refused(server: Server) -> None:
    """A page elsewhere whose name was made to point here gets no session."""
    for host, accepted in ((f"127.0.0.1:{server.port}", True), ("elsewhere.example", False)):
        lines = [
            "GET /_stcore/stream HTTP/1.1", f"Host: {host}", "Upgrade: websocket",
            "Connection: Upgrade", "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", "",
        ]  # fmt: skip
        with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
            connection.sendall("\r\n".join(lines).encode())
            status = connection.recv(64).split()[1]
        assert (status == b"101") == accepted


def test_only_this_machine_is_served(server: Server) -> None:
    connections = psutil.Process(server.process.pid).net_connections("tcp")
    listening = {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def test_memory_stays_flat(page: Any, server: Server) -> None:
    page.set_viewport_size({"width": 900, "height": 300})  # little to draw
    page.goto(server.url())
    ballast = bytes(2 * MEBIBYTE)  # behind the PNG's end: quick to examine, seen if it is kept
    at = []
    for number in range(UPLOADS):
        if number:
            page.get_by_role("button", name=re.compile("^Remove picture")).first.click()
            playwright.expect(page.locator("h3")).to_have_count(0, timeout=PATIENCE)
        data = picture(220 if number % 2 else 30, number, 40, 48) + ballast
        upload(page, f"picture-{number}.png", data)
        playwright.expect(page.locator("h3")).to_have_text(
            f"picture-{number}.png", timeout=PATIENCE
        )
        expect_text(page, "Verdict: jpeg" if number % 2 else "Verdict: uncompressed")
        at.append(server.memory())
    settled, end = at[WARM - 1], at[-1]
    assert end - settled < 48 * MEBIBYTE, [round(one / MEBIBYTE) for one in at]
