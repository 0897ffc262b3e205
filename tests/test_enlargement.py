"""Enlargements: found with their size and undone, and none seen where there is none."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import brightness_run
import cv2
import numpy as np
import pytest
from conftest import photograph_like
from PIL import Image as PilImage

from desk.examination import examine
from desk.report import make_report
from desk.tool_facts import tool_facts
from imagecompression import Avif, Bpg, Codec, Image, Jpeg, Jpeg2000, JpegXr, KMeans, Svd, WebP
from imagecompression.evidence.enlargement import (
    KERNELS,
    SCREEN_FACTORS,
    Scale,
    before_enlargement,
    enlargement,
)
from imagecompression.evidence.jpeg_history import GRID_RATIO, jpeg_history
from imagecompression.evidence.pixel_evidence import pixel_evidence
from train.classification import classify

PICTURE = photograph_like(240, 304, 3)
SMOOTH = cv2.GaussianBlur(PICTURE, (0, 0), 1.5)
PILLOW = {
    "nearest": PilImage.Resampling.NEAREST,
    "bilinear": PilImage.Resampling.BILINEAR,
    "bicubic": PilImage.Resampling.BICUBIC,
    "Lanczos": PilImage.Resampling.LANCZOS,
}
OPENCV = {"bilinear": cv2.INTER_LINEAR, "sharp bicubic": cv2.INTER_CUBIC}


def enlarged(picture: Image, factor: float, kernel: str, *, library: str = "pillow") -> Image:
    height, width = (round(side * factor) for side in picture.shape[:2])
    if library == "opencv":
        return cv2.resize(picture, (width, height), interpolation=OPENCV[kernel])
    return np.asarray(PilImage.fromarray(picture).resize((width, height), PILLOW[kernel]))


def through(codec: Codec, picture: Image = PICTURE) -> Image:
    return codec.decode(codec.encode(picture))


@pytest.mark.parametrize("factor", [1.1, 1.37, 1.5, 2.0, 3.0])
@pytest.mark.parametrize(
    ("library", "kernel"),
    [*(("pillow", kernel) for kernel in PILLOW), *(("opencv", kernel) for kernel in OPENCV)],
)
def test_size_is_found_and_the_picture_from_before(
    library: str, kernel: str, factor: float
) -> None:
    large = enlarged(PICTURE, factor, kernel, library=library)
    small, found = before_enlargement(large, 64)
    assert found is not None
    assert (found.height, found.width) == PICTURE.shape[:2] == small.shape[:2]
    assert found.factor == pytest.approx(factor, abs=0.005)
    assert f"{factor:.2f} from 304×240" in found.reason
    assert found.kernel == kernel
    assert np.mean(np.abs(small.astype(int) - PICTURE) <= 1) > 0.93
    assert (small == PICTURE).all() or kernel != "nearest"


@pytest.mark.parametrize("factor", SCREEN_FACTORS, ids=str)
@pytest.mark.parametrize("kernel", PILLOW)
def test_crops_of_enlargements_by_a_display(kernel: str, factor: Fraction) -> None:
    picture = PICTURE[:, :300]  # so that all factors give whole sides
    large = enlarged(picture, float(factor), kernel)
    for top, left in ((3, 8), (10, 5)):
        crop = np.ascontiguousarray(large[top:-6, left:-9])
        small, found = before_enlargement(crop, 64)
        assert found is not None
        first = [math.ceil(cut / factor - Fraction(1, 2)) for cut in (top, left)]
        there = picture[first[0] : first[0] + found.height, first[1] : first[1] + found.width]
        assert small.shape == there.shape
        assert np.mean(np.abs(small.astype(int) - there) <= 1) > 0.9
        assert (small == there).all() or kernel != "nearest"
        assert found.factor == pytest.approx(float(factor), rel=2e-3)
        assert found.reason.startswith("Is a crop of what was enlarged by ")
        assert found.kernel == kernel


def test_a_crop_of_an_enlarged_jpeg_shows_its_grid() -> None:
    decoded = through(Jpeg(quality=70))
    crop = enlarged(decoded, 1.5, "bicubic")[5:, 7:]
    evidence = pixel_evidence(np.ascontiguousarray(crop))
    assert evidence.opinion == "jpeg"
    assert "quality 70" in evidence.reason
    found = evidence.finding("enlargement")
    assert found is not None
    assert found.value["cropped"]
    vote = evidence.finding("jpeg_grid_vote")
    assert vote is not None
    assert (vote.value["row"], vote.value["column"]) == (-3 % 8, -5 % 8)  # of 5 and 7, divided


@pytest.mark.parametrize(("seen", "factor", "cut"), [(40, "3/2", 0), (41, "3/2", 2), (9, "2", 1)])
def test_a_crop_holds_the_lines_whose_middles_it_shows(seen: int, factor: str, cut: int) -> None:
    scale = Scale.crop(seen, Fraction(factor), cut)
    middles = (np.arange(200) + 0.5) * Fraction(factor)
    inside = np.flatnonzero((middles >= cut) & (middles < cut + seen))
    assert scale.lines == len(inside)
    lines, weights = scale.weights("bilinear", 0, seen)
    nearest = np.take_along_axis(lines, weights.argmax(axis=1)[:, None], axis=1)[:, 0]
    places = scale.places(0, seen) - 0.5 - inside[0]
    assert np.abs(nearest - places).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("quality", [50, 75])
def test_the_grid_of_a_jpeg_from_before_is_not_one_of_now(quality: int) -> None:
    decoded = through(Jpeg(quality=quality))
    large = enlarged(decoded, 2.0, "Lanczos")
    assert jpeg_history(large).vote_ratio >= GRID_RATIO
    small, found = before_enlargement(large, 64)
    assert found is not None
    assert found.factor == 2
    assert (small == decoded).mean() > 0.9


def test_gray_pictures() -> None:
    gray = PICTURE[..., 0]
    small, found = before_enlargement(enlarged(gray, 1.3, "Lanczos"), 64)
    assert found is not None
    assert found.kernel == "Lanczos"
    assert np.mean(small == gray) > 0.8


def test_neighbours_that_were_equal_before_do_not_hide_repeated_lines() -> None:
    twins = PICTURE.copy()
    twins[100] = twins[99]
    for factor in (1.37, 2.0):
        small, found = before_enlargement(enlarged(twins, factor, "nearest"), 64)
        assert found is not None
        assert (small == twins).all()


UNTOUCHED: dict[str, Image] = {
    "sharp": PICTURE,
    "smooth": SMOOTH,
    "flat": np.full((300, 300, 3), 90, np.uint8),
    "noise": np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8),
    "letterbox": np.pad(PICTURE, ((60, 60), (0, 0), (0, 0))),
    "reduced": np.asarray(PilImage.fromarray(PICTURE).resize((220, 170), PILLOW["Lanczos"])),
    "cropped": enlarged(PICTURE, 1.37, "bicubic")[9:, 5:],  # no display scales so
    "saved as JPEG": through(Jpeg(quality=95), enlarged(PICTURE, 1.37, "bicubic")),
    "stretched": np.asarray(PilImage.fromarray(PICTURE).resize((456, 320), PILLOW["bicubic"])),
    "blurred": cv2.GaussianBlur(enlarged(PICTURE, 1.37, "bicubic"), (0, 0), 1.5),
    "small": enlarged(PICTURE[:60, :60], 1.5, "bicubic"),
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_other_pictures_are_left_as_they_are(name: str) -> None:
    picture = UNTOUCHED[name]
    same, found = before_enlargement(picture, 64)
    assert found is None
    assert same is picture


@pytest.mark.parametrize("picture", [PICTURE, SMOOTH], ids=["sharp", "smooth"])
@pytest.mark.parametrize(
    "codec",
    [
        *(Jpeg(quality=quality) for quality in (3, 8, 15, 30, 60, 90)),
        *(Jpeg2000(ratio=ratio) for ratio in (10, 60, 250)),
        *(WebP(quality=quality) for quality in (5, 40)),
        *(Bpg(qp=qp) for qp in (28, 45)),
        Avif(quality=20),
        JpegXr(quality=20),
        KMeans(colors=8),
        Svd(rank=10),
    ],
    ids=lambda codec: str(codec)[:40],
)
def test_what_codecs_leave_is_no_enlargement(codec: Codec, picture: Image) -> None:
    assert before_enlargement(through(codec, picture), 64)[1] is None


def test_a_picture_from_before_is_not_made_too_small() -> None:
    large = enlarged(PICTURE, 3.0, "bicubic")
    assert before_enlargement(large, 240)[1] is not None
    assert before_enlargement(large, 241)[0] is large


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_interpolations(name: str) -> None:
    kernel = KERNELS[name]
    places = np.arange(-4, 5) + np.linspace(0, 1, 11)[:, np.newaxis]
    weights = kernel.weight(places)
    assert weights[np.abs(places) >= kernel.reach] == pytest.approx(0)
    # Lanczos' sums are not quite 1, so enlarging divides by them.
    assert weights.sum(axis=1) == pytest.approx(1, abs=0.02 if name == "Lanczos" else 1e-9)
    if name != "Mitchell":  # which smooths
        assert kernel.weight(np.arange(-3.0, 4.0)) == pytest.approx([0, 0, 0, 1, 0, 0, 0])


@pytest.mark.parametrize("size", [(312, 395), (360, 456), (331, 419)])
def test_a_browser_s_enlargement(size: tuple[int, int]) -> None:
    # As Chromium's screenshots show pictures: weights in sixteenths, sums rounded down.
    matrices = []
    for large, small in zip(size, PICTURE.shape[:2], strict=True):
        places = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
        lines = np.minimum(places.astype(int), small - 2)
        shares = np.floor(16 * (places - lines) + 1e-9) / 16
        matrix = np.zeros((large, small))
        matrix[np.arange(large), lines] = 1 - shares
        matrix[np.arange(large), lines + 1] += shares
        matrices.append(matrix)
    decoded = through(Jpeg(quality=75))
    large = np.floor(np.einsum("ya,abc,xb->yxc", matrices[0], decoded, matrices[1]) + 1e-9)
    small, found = before_enlargement(large.astype(np.uint8), 64)
    assert found is not None
    assert "bilinear" in found.kernel
    assert small.shape == decoded.shape
    error = small.astype(int) - decoded
    assert np.abs(error).mean() < 0.35
    assert abs(error.mean()) < 0.1  # although all sums were rounded down


@pytest.mark.parametrize("library", ["pillow", "opencv"])
@pytest.mark.parametrize("turned", [False, True], ids=["across first", "down first"])
@pytest.mark.parametrize("factor", [1.37, 2.0])
def test_axes_are_undone_in_turn(library: str, turned: bool, factor: float) -> None:
    """Pillow rounds between both axes, OpenCV does not; some scale the columns first."""
    axes = (1, 0, 2) if turned else (0, 1, 2)
    kernel = "bicubic" if library == "pillow" else "sharp bicubic"
    large = enlarged(PICTURE.transpose(axes), factor, kernel, library=library).transpose(axes)
    small, found = before_enlargement(large, 64)
    assert found is not None
    assert found.kernel == kernel
    assert (small == PICTURE).mean() > (0.8 if library == "pillow" else 0.9)


@pytest.mark.parametrize("kernel", ["bilinear", "sharp bicubic"])
def test_kernels_that_explain_an_enlargement_by_two_alike(kernel: str) -> None:
    large = enlarged(PICTURE, 2.0, kernel, library="opencv")
    small, found = before_enlargement(large, 64)
    assert found is not None
    assert found.kernel == kernel
    assert (small == PICTURE).mean() > 0.85


def test_signs_are_of_the_picture_from_before() -> None:
    decoded = through(Jpeg(quality=70))
    evidence = pixel_evidence(enlarged(decoded, 1.37, "bicubic"))
    assert evidence.opinion == "jpeg"
    assert evidence.reason.startswith("Was enlarged by 1.37 from 304×240 pixels (bicubic)")
    assert "quality 70" in evidence.reason
    found = evidence.finding("enlargement")
    assert found is not None
    assert (found.value["width"], found.value["height"], found.value["kernel"]) == (
        304,
        240,
        "bicubic",
    )
    plain = pixel_evidence(decoded).finding("enlargement")
    assert plain is not None
    assert plain.value is None
    repeated = pixel_evidence(enlarged(decoded, 2, "nearest")).finding("enlargement")
    assert repeated is not None
    assert repeated.value["beside"] is None


def test_verdict_and_report_say_so(tmp_path: Path) -> None:
    run = brightness_run.write_run(tmp_path / "run")
    large = enlarged(PICTURE, 1.5, "bilinear")
    verdict = classify(large, run)
    sentence = "Was enlarged by 1.50 from 304×240 pixels (bilinear)"
    assert verdict.judged.startswith(sentence)
    assert classify(PICTURE, run).judged == ""
    path = tmp_path / "large.png"
    PilImage.fromarray(large).save(path)
    found = examine(path, run)
    assert found.verdict == verdict
    assert found.picture is not None
    assert (found.picture.width, found.picture.height) == (456, 360)
    report = make_report(found, run, tool_facts())
    assert report.model["verdict"]["judged"].startswith(sentence)
    assert "Was enlarged by 1.50" in report.html.decode()


def test_residuals_are_those_of_rounding() -> None:
    found = enlargement(enlarged(PICTURE, 1.37, "bicubic"))
    assert found is not None
    assert found.residual[0] == pytest.approx(math.sqrt(1 / 12), abs=0.04)  # scaled last
    assert 1.5 < found.peakedness < 3.3
    assert found.beside > 3
