"""Screenshots as Chromium takes them: the photograph on a page is found, and brought back."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from chromium import needs_chromium
from conftest import photograph_like
from PIL import Image as PilImage

from imagecompression import Image, Jpeg, Lossless
from imagecompression.evidence.encoded_picture import encoded_picture
from imagecompression.evidence.jpeg_history import jpeg_history

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = needs_chromium

PICTURE = photograph_like(400, 528, 3)
TEXT = "The quick brown fox jumps over the lazy dog. " * 12
PAGE = """
<body style="margin:0; font-family:sans-serif; background:#f7f7f9">
<div style="background:#223344; color:#fff; padding:12px; font-size:20px">News of the day</div>
<div style="display:flex">
<div style="width:200px; background:#e8e8ee; padding:10px; font-size:14px">{text}</div>
<div style="padding:16px"><h2>A photograph</h2>
<img src="data:{kind};base64,{data}" width="{width}"><p style="font-size:14px">{text}</p></div>
</div></body>
"""


def screenshot(browser: Any, file: bytes, kind: str, *, scale: float, width: int) -> Image:
    """A page with a picture, on a display of a scale."""
    page = browser.new_page(viewport={"width": 1100, "height": 760}, device_scale_factor=scale)
    try:
        data = base64.b64encode(file).decode()
        page.set_content(PAGE.format(text=TEXT, kind=kind, data=data, width=width))
        return np.asarray(PilImage.open(io.BytesIO(page.screenshot())).convert("RGB"))
    finally:
        page.close()


def test_at_its_own_size_it_is_found_to_the_pixel(browser: Any) -> None:
    found = encoded_picture(
        screenshot(browser, Lossless().encode(PICTURE), "image/png", scale=1, width=528), 64
    )
    assert found.enlargement is None
    assert np.array_equal(found.pixels, PICTURE)


@pytest.mark.parametrize(
    ("scale", "width"), [(1.25, 528), (1.5, 528), (1, 686)], ids=["125 %", "150 %", "wide"]
)
def test_enlarged_it_is_brought_back(browser: Any, scale: float, width: int) -> None:
    """Whether by the display or by the page; the grid of a JPEG in it shows again."""
    decoded = (jpeg := Jpeg(quality=80)).decode(file := jpeg.encode(PICTURE))
    shown = screenshot(browser, file, "image/jpeg", scale=scale, width=width)
    found = encoded_picture(shown, 64)
    assert found.inset is not None
    assert found.enlargement is not None
    assert found.enlargement.factor == pytest.approx(scale * width / 528, abs=0.01)
    height, wide = found.pixels.shape[:2]
    assert abs(height - 400) <= 2
    assert abs(wide - 528) <= 2
    # Lines more than there were are at edges within a pixel of the display.
    inner = decoded[4:-4, 4:-4]
    errors = [
        np.abs(found.pixels[top:, left:][: len(inner), : inner.shape[1]].astype(int) - inner).mean()
        for top in range(4, 7)
        for left in range(4, 7)
    ]
    assert min(errors) < 0.4
    assert jpeg_history(found.pixels).quality == 80
