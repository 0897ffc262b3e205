"""Chromium without a window, for tests that drive it through Playwright."""

from __future__ import annotations

import shutil

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None,
    reason="there is no Chromium here; as root, `apt-get install chromium` brings one",
)
