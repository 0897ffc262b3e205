"""Insets: photographs in screenshots are found to the pixel, and none where there is none."""

from __future__ import annotations

from pathlib import Path

import brightness_run
import numpy as np
import pytest
from conftest import photograph_like
from PIL import Image as PilImage
from PIL import ImageDraw

from desk.examination import examine
from imagecompression import Avif, Bpg, Codec, Image, Jpeg, Jpeg2000, KMeans, Svd
from imagecompression.evidence.encoded_picture import encoded_picture
from imagecompression.evidence.inset import Inset, find_inset
from imagecompression.evidence.pixel_evidence import pixel_evidence
from train.classification import classify
from train.verdict import traceless_patches

PICTURE = photograph_like(240, 304, 3)
TOP, LEFT = 67, 133
WHERE = Inset(TOP, LEFT, *PICTURE.shape[:2])


def through(codec: Codec, picture: Image = PICTURE) -> Image:
    return codec.decode(codec.encode(picture))


def screenshot(picture: Image | None, height: int = 480, width: int = 640) -> Image:
    """A window with a bar, a list at the left, and text below the picture."""
    screen = PilImage.new("RGB", (width, height), (246, 246, 248))
    draw = ImageDraw.Draw(screen)
    draw.rectangle((0, 0, width, 40), fill=(52, 58, 70))
    draw.rectangle((0, 41, 120, height), fill=(232, 234, 238))
    below = TOP + 6 + (240 if picture is None else len(picture))
    for line in range(0, height, 18):
        draw.text((12, 60 + line), "documents", fill=(60, 60, 70))
        draw.text((LEFT, below + line), "The quick brown fox jumps over the lazy dog " * 3, fill=0)
    if picture is not None:
        colours = picture if picture.ndim == 3 else np.dstack([picture] * 3)
        screen.paste(PilImage.fromarray(colours), (LEFT, TOP))
    return np.asarray(screen)


@pytest.mark.parametrize(
    "picture",
    [
        PICTURE,
        PICTURE[..., 1],
        through(Jpeg(quality=75)),
        through(Jpeg2000(ratio=30)),
        through(Bpg(qp=32)),
        through(Avif(quality=50)),
        through(KMeans(colors=128)),
    ],
)
def test_a_photograph_is_found_to_the_pixel(picture: Image) -> None:
    assert find_inset(screenshot(picture)) == WHERE


def test_gray_screens_and_bars() -> None:
    gray = screenshot(PICTURE)[..., 1]
    assert find_inset(np.ascontiguousarray(gray)) == WHERE
    barred = np.pad(PICTURE, ((40, 40), (0, 0), (0, 0)))
    assert find_inset(barred) == Inset(40, 0, 240, 304)


def test_a_photograph_at_the_edge_of_the_screen() -> None:
    screen = screenshot(None).copy()
    screen[-240:, -304:] = PICTURE
    assert find_inset(screen) == Inset(240, 336, 240, 304)


@pytest.mark.parametrize(
    "image",
    [
        PICTURE,
        screenshot(None),
        screenshot(PICTURE[:100]),  # too small
        through(KMeans(colors=16)),
        through(Jpeg(quality=8)),
        through(Svd(rank=4)),
        np.zeros((300, 300, 3), np.uint8),
        np.zeros((100, 900, 3), np.uint8),
        PICTURE.astype(np.float32),
    ],
)
def test_no_inset(image: Image) -> None:
    assert find_inset(image) is None
    assert encoded_picture(image, 64).pixels is image


def test_the_largest_of_several() -> None:
    screen = np.full((700, 700, 3), 255, np.uint8)
    screen[20:160, 30:200] = PICTURE[:140, :170]
    screen[300:540, 350:654] = PICTURE
    assert find_inset(screen) == Inset(300, 350, 240, 304)


def test_signs_are_of_the_inset() -> None:
    evidence = pixel_evidence(screenshot(through(Jpeg(quality=75))))
    found, vote = evidence.finding("inset"), evidence.finding("jpeg_grid_vote")
    assert found is not None
    assert vote is not None
    assert found.value == {"left": LEFT, "top": TOP, "width": 304, "height": 240}
    assert (vote.value["row"], vote.value["column"]) == (0, 0)
    assert evidence.opinion == "jpeg"
    assert evidence.reason.startswith("Signs and verdict are of 304×240 pixels from row 67, column")
    # Saved again as a whole, the screen shows that.
    again = pixel_evidence(through(Jpeg(quality=80), screenshot(PICTURE)))
    assert again.opinion == "jpeg"
    plain = pixel_evidence(PICTURE).finding("inset")
    assert plain is not None
    assert plain.value is None


def test_an_inset_is_brought_back_to_its_size() -> None:
    large = PilImage.fromarray(PICTURE).resize((416, 329), PilImage.Resampling.BICUBIC)
    found = encoded_picture(screenshot(np.asarray(large), 600, 700), 64)
    assert found.inset == Inset(TOP, LEFT, 329, 416)
    assert found.enlargement is not None
    assert found.pixels.shape == PICTURE.shape
    assert np.abs(found.pixels.astype(int) - PICTURE).mean() < 1


def test_an_enlarged_screen() -> None:
    screen = PilImage.fromarray(screenshot(PICTURE))
    large = screen.resize((960, 720), PilImage.Resampling.BILINEAR)
    found = encoded_picture(np.asarray(large), 64)
    assert found.enlargement is not None
    assert (found.enlargement.height, found.enlargement.width) == (480, 640)
    assert found.inset == WHERE  # in the screen as it was before
    assert np.abs(found.pixels.astype(int) - PICTURE)[2:-2, 2:-2].mean() < 1
    assert found.reason == f"{found.enlargement.reason} {WHERE.reason}"


def test_verdict_and_report_say_so(tmp_path: Path) -> None:
    run = brightness_run.write_run(tmp_path / "run")
    screen = screenshot(PICTURE)
    verdict = classify(screen, run)
    assert verdict.judged == WHERE.reason
    assert verdict.probabilities == classify(PICTURE, run).probabilities
    path = tmp_path / "screen.png"
    PilImage.fromarray(screen).save(path)
    found = examine(path, run)
    assert found.verdict == verdict
    assert found.trace_map is not None
    assert found.trace_map.row_edges[-1] == 240


def patches_of(image: Image) -> Image:
    rows, columns = (range(0, side - 63, 64) for side in image.shape[:2])
    return np.stack([image[y : y + 64, x : x + 64] for y in rows for x in columns])


def test_drawn_patches_carry_no_trace() -> None:
    assert traceless_patches(patches_of(screenshot(None)[64:])).mean() > 0.95
    text = screenshot(None)[320:448, LEFT : LEFT + 448]
    assert traceless_patches(patches_of(text)).all()
    assert not traceless_patches(patches_of(PICTURE)).any()


@pytest.mark.parametrize("colors", [4, 8, 64])
def test_a_small_palette_is_no_drawing(colors: int) -> None:
    smooth = photograph_like(960, 1216, 3).reshape(240, 4, 304, 4, 3).mean((1, 3))
    patches = patches_of(through(KMeans(colors=colors), smooth.astype(np.uint8)))
    assert not traceless_patches(patches).any()
