"""The trace map: patches, cells, shares and the picture drawn of them."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from brightness_run import LABELS, PATCH_SIZE, probability_of_jpeg, write_run
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PilImage
from skimage.color import deltaE_ciede2000, rgb2lab

from desk.map_picture import ABSTAINING_COLOR, CLASS_COLORS, MAX_SIDE, class_colors, map_picture
from desk.trace_map import ABSTAIN, TraceMap, trace_map
from imagecompression import CODECS
from train.calibration import Calibration, FittedOn, Sharpness
from train.run import Run
from train.verdict import VerdictError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("map") / "run")


def noisy(height: int, width: int, level: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(-20, 21, (height, width, 3))
    return (noise + level).astype(np.uint8)


def halves(height: int = 160, width: int = 256) -> np.ndarray:
    """Dark on the left, bright on the right."""
    picture = noisy(height, width, 60)
    picture[:, width // 2 :] += 140
    return picture


def test_the_map_shows_which_half_is_which(run: Run) -> None:
    found = trace_map(halves(), run)
    shares = found.area_shares
    assert shares["uncompressed"] == pytest.approx(0.5, abs=PATCH_SIZE / 256)
    assert shares["jpeg"] == pytest.approx(0.5, abs=PATCH_SIZE / 256)
    assert shares["bpg"] == shares["abstained"] == 0
    assert set(found.label_map[:, 0]) == {0}
    assert set(found.label_map[:, -1]) == {1}
    summary = found.to_json()
    assert summary["label_map"] == found.label_map.tolist()
    assert summary["area_shares"] == shares


@pytest.mark.parametrize("stride", [None, 5, 16, 40])
def test_probabilities_are_those_of_the_patches(run: Run, stride: int | None) -> None:
    picture = halves(90, 110)
    found = trace_map(picture, run, stride=stride)
    assert found.probabilities.shape == (len(found.rows), len(found.columns), len(LABELS))
    for (i, top), (j, left) in itertools.product(enumerate(found.rows), enumerate(found.columns)):
        patch = picture[top : top + PATCH_SIZE, left : left + PATCH_SIZE]
        assert patch.shape == (PATCH_SIZE, PATCH_SIZE, 3)
        wanted = probability_of_jpeg(float(patch.mean()))
        assert found.probabilities[i, j, 1] == pytest.approx(wanted, abs=1e-4)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(PATCH_SIZE, 400),
    width=st.integers(PATCH_SIZE, 400),
    stride=st.one_of(st.none(), st.integers(1, 80)),
    most=st.integers(1, 60),
)
def test_cells_tile_the_picture_and_patches_are_bounded(
    run: Run, height: int, width: int, stride: int | None, most: int
) -> None:
    # Flat, so that no patch is asked and the example is quick.
    found = trace_map(np.zeros((height, width), np.uint8), run, stride=stride, max_patches=most)
    assert len(found.rows) * len(found.columns) <= most
    for offsets, edges, length in (
        (found.rows, found.row_edges, height),
        (found.columns, found.column_edges, width),
    ):
        assert len(edges) == len(offsets) + 1
        assert (edges[0], edges[-1]) == (0, length)
        assert (np.diff(edges) > 0).all()
        assert min(offsets) >= 0
        assert max(offsets) <= length - PATCH_SIZE
        assert (np.diff(offsets) <= found.stride).all()
        centres = np.array(offsets) + PATCH_SIZE / 2
        for pixel in (0, length // 3, length - 1):  # the cell of a pixel is the nearest centre's
            cell = int(np.searchsorted(edges, pixel, side="right")) - 1
            nearest = np.abs(centres - pixel - 0.5)
            assert nearest[cell] <= nearest.min() + 1
    assert found.area_shares["abstained"] == 1
    assert sum(found.area_shares.values()) == pytest.approx(1)


def test_shares_count_pixels(run: Run) -> None:
    """Against a count over a map painted pixel by pixel."""
    picture = halves(100, 150)
    picture[:60, :60] = 7  # flat
    found = trace_map(picture, run)
    painted = np.empty(picture.shape[:2], int)
    for i, j in np.ndindex(found.label_map.shape):
        rows = slice(*found.row_edges[i : i + 2])
        painted[rows, slice(*found.column_edges[j : j + 2])] = found.label_map[i, j]
    for number, label in [*enumerate(LABELS), (ABSTAIN, "abstained")]:
        assert found.area_shares[label] == pytest.approx(np.mean(painted == number))
    assert found.area_shares["abstained"] > 0
    abstaining = found.label_map == ABSTAIN
    assert (found.probabilities[abstaining] == 0).all()
    assert found.probabilities[~abstaining].sum(-1) == pytest.approx(1)
    assert (found.to_json()["label_map"][0][0] is None) == bool(abstaining[0, 0])


def test_gray_equals_three_equal_channels(run: Run) -> None:
    gray = halves()[:, :, 0]
    one, three = trace_map(gray, run), trace_map(np.dstack([gray] * 3), run)
    np.testing.assert_array_equal(one.probabilities, three.probabilities)


def test_calibration_sharpens_no_order(run: Run) -> None:
    warm = Run.load(run.path)
    fitted = FittedOn("val", run.model_sha256, "", 3, 3, 3, dict.fromkeys(LABELS, 1))
    bounds, sharp = dict.fromkeys(LABELS, (-1.0, 1.0)), Sharpness(4.0, 1.0, 0.5)
    warm.__dict__["calibration"] = Calibration(sharp, sharp, 64, tuple(LABELS), bounds, fitted)
    raw, soft = trace_map(halves(), run), trace_map(halves(), warm)
    assert soft.calibrated
    assert not raw.calibrated
    np.testing.assert_array_equal(raw.label_map, soft.label_map)
    assert (soft.confidence_map < raw.confidence_map).all()


@pytest.mark.parametrize(
    ("picture", "options"),
    [
        (np.zeros((PATCH_SIZE - 1, 99), np.uint8), {}),
        (np.zeros((99, 99), np.float32), {}),
        (np.zeros((99, 99, 4), np.uint8), {}),
        (np.zeros((99, 99), np.uint8), {"stride": 0}),
        (np.zeros((99, 99), np.uint8), {"max_patches": 0}),
    ],
)
def test_refusals(run: Run, picture: np.ndarray, options: dict[str, int]) -> None:
    with pytest.raises(VerdictError, match="Received"):
        trace_map(picture, run, **options)


def test_a_very_long_picture_is_sampled(run: Run) -> None:
    strip = np.tile(noisy(PATCH_SIZE, 1000, 200), (1, 100, 1))
    found = trace_map(strip, run, max_patches=50)
    assert 25 < len(found.columns) <= 50
    assert (found.columns[0], found.columns[-1]) == (0, 100_000 - PATCH_SIZE)


# The picture -------------------------------------------------------------------------------------


def test_the_picture_shows_the_colours_of_the_classes(run: Run) -> None:
    found = trace_map(halves(), run)
    drawn = np.asarray(PilImage.open(io.BytesIO(map_picture(halves(), found)))).astype(float)
    assert drawn.shape == (160, 256, 3)
    colors = class_colors(found.labels)
    gray = np.asarray(PilImage.fromarray(halves()).convert("L")).astype(float)
    for place, label in ((slice(0, 60), "uncompressed"), (slice(196, 256), "jpeg")):
        color = np.array([int(colors[label][i : i + 2], 16) for i in (1, 3, 5)], float)
        # Mixing gray with a colour moves each pixel towards it by one share in all channels.
        share = (drawn[:, place] - gray[:, place, None]) / (color - gray[:, place, None] + 1e-9)
        steady = np.abs(color - gray[:, place, None]) > 60
        assert 0.2 < share[steady].min() <= share[steady].max() < 0.75


def test_large_pictures_are_drawn_small_and_abstaining_places_gray(run: Run) -> None:
    white = np.full((2000, 1000, 3), 255, np.uint8)
    picture = PilImage.open(io.BytesIO(map_picture(white, trace_map(white, run))))
    assert picture.size == (MAX_SIDE // 2, MAX_SIDE)
    levels = np.asarray(picture)
    assert (levels == levels[..., :1]).all()
    assert 150 < levels.max() < 240  # neither the white below nor any colour


def test_colors_stay_apart_for_the_colour_blind() -> None:
    """Machado, Oliveira and Fernandes (2009), severity 1, in linear light; CIEDE2000 distances."""
    assert set(CLASS_COLORS) == set(CODECS)
    names = [*CLASS_COLORS.values(), ABSTAINING_COLOR]
    srgb = np.array([[int(name[i : i + 2], 16) for i in (1, 3, 5)] for name in names]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    sights = {
        "normal": np.eye(3),
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                   [-0.011820, 0.042940, 0.968881]],
        "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
    }  # fmt: skip
    for sight, matrix in sights.items():
        seen = np.clip(linear @ np.array(matrix).T, 0, 1)
        seen = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
        lab = rgb2lab(seen[np.newaxis])[0]
        for one, other in itertools.combinations(range(len(names)), 2):
            apart = deltaE_ciede2000(lab[one], lab[other])
            assert apart > 10, (sight, names[one], names[other], apart)


def test_unknown_classes_get_colours_of_their_own() -> None:
    colors = class_colors(["jpeg", "fractal", "wavelet", "bpg"])
    assert len(set(colors.values())) == 4
    assert colors["jpeg"] == CLASS_COLORS["jpeg"]


def test_map_of_one_patch(run: Run, tmp_path: Path) -> None:
    found = trace_map(noisy(PATCH_SIZE, PATCH_SIZE, 200), run)
    assert isinstance(found, TraceMap)
    assert found.label_map.tolist() == [[1]]
    assert found.row_edges == found.column_edges == (0, PATCH_SIZE)
