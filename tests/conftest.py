"""Shared test pictures, made here: no file outside the repository is needed."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from chromium import CHROMIUM, FLAGS


def photograph_like(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    """A picture with edges, gradients and noise, `uint8` `(H, W)` or `(H, W, 3)`."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = []
    for _ in range(channels):
        fx, fy, px, py = rng.uniform(0.01, 0.09, 2).tolist() + rng.uniform(0, 6, 2).tolist()
        plane = 110 + 60 * np.sin(fx * columns + px) * np.cos(fy * rows + py)
        for _ in range(6):
            top, left = rng.uniform(0, height), rng.uniform(0, width)
            radius = rng.uniform(0.05, 0.3) * max(height, width)
            inside = (rows - top) ** 2 + (columns - left) ** 2 < radius**2
            plane = np.where(inside, plane * 0.6 + rng.uniform(0, 100), plane)
        planes.append(plane)
    texture = rng.normal(0, 6, (height, width, 1))
    picture = np.clip(np.stack(planes, axis=-1) + texture, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(picture[:, :, 0] if channels == 1 else picture)


def flat_to_busy(height: int, width: int) -> np.ndarray:
    """A picture whose contrast and noise rise from left to right: blocks of all activities."""
    strength = np.linspace(0.0, 1.0, width)[:, np.newaxis]
    noise = np.random.default_rng(0).normal(0, 50, (height, width, 1))
    picture = 128 + (photograph_like(height, width, 3) - 128.0 + noise) * strength
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def rgb() -> np.ndarray:
    """RGB picture of 144×200 pixels; read-only, so that no codec can change it."""
    picture = photograph_like(144, 200, 3)
    picture.flags.writeable = False
    return picture


@pytest.fixture(scope="session")
def gray() -> np.ndarray:
    """Gray picture of 101×77 pixels; read-only."""
    picture = photograph_like(101, 77, 1, seed=1)
    picture.flags.writeable = False
    return picture


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of a bucket on an S3-like server in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        try:
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert server.poll() is None, "the S3-like server does not start"
                    time.sleep(0.1)
            import fsspec

            fsspec.filesystem("s3").mkdir("bucket")
            yield "s3://bucket"
        finally:
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for modules marked with `chromium.needs_chromium`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()
