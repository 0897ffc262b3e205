"""Mixed pictures: borders, abstaining places, twins, and what reports tell of them."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from brightness_run import write_run
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PilImage

import desk.regions as regions_module
from datasets.photographs import PHOTOGRAPHS, read_photograph
from desk.batch import write_reports
from desk.examination import examine
from desk.map_picture import map_picture
from desk.regions import BORDER_COST, THRESHOLDS, Regions, Thresholds, find_regions
from desk.trace_map import ABSTAIN, TraceMap, trace_map
from imagecompression import Jpeg, Jpeg2000, RatioTarget, encode_to_target
from train.classification import DEFAULT_RUN
from train.run import Run

LABELS = ("uncompressed", "jpeg", "jpeg2000", "bpg", "heic", "webp")
UNCOMPRESSED, JPEG, JPEG2000, BPG, HEIC, WEBP = range(6)
SIZE, STRIDE = 64, 31

GIVEN = Thresholds(least_gain=1.5, least_gain_of_uncompressed=2.5, smallest_region=8)
"""For inputs near the border: those that are shipped are set anew for each network."""


def map_of(probabilities: np.ndarray, labels: tuple[str, ...] = LABELS) -> TraceMap:
    """The map of a picture whose patches say this, `(R, K, C)`."""
    rows, columns = probabilities.shape[:2]
    tops, lefts = (tuple(STRIDE * place for place in range(count)) for count in (rows, columns))
    edges = [
        (0, *(offset + (SIZE + STRIDE) // 2 for offset in offsets[:-1]), offsets[-1] + SIZE)
        for offsets in (tops, lefts)
    ]
    return TraceMap(labels, SIZE, STRIDE, tops, lefts, edges[0], edges[1], probabilities, True)


def saying(classes: np.ndarray, sure: float = 0.9, wrong: float = 0.0, seed: int = 0) -> np.ndarray:
    """Probabilities of patches of these classes; a share of them is wrong; -1 abstains."""
    random = np.random.default_rng(seed)
    told = np.where(
        random.random(classes.shape) < wrong,
        random.integers(0, len(LABELS), classes.shape),
        classes,
    )
    found = random.dirichlet(np.ones(len(LABELS)), classes.shape) * (1 - sure)
    found += sure * np.eye(len(LABELS))[told]
    found[classes == ABSTAIN] = 0
    return found


def square(
    ground: int, pasted: int, side: int = 5, shape: tuple[int, int] = (16, 20)
) -> np.ndarray:
    classes = np.full(shape, ground)
    classes[4 : 4 + side, 9 : 9 + side] = pasted
    return classes


def pixels(found: TraceMap, cells: np.ndarray) -> np.ndarray:
    """Cells painted over the picture pixel by pixel."""
    heights, widths = np.diff(found.row_edges), np.diff(found.column_edges)
    return np.repeat(np.repeat(cells, heights, axis=0), widths, axis=1)


def f1(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * float(np.sum(one & other)) / float(one.sum() + other.sum())


# Mixed or not ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ground", "pasted", "side", "sure"),
    [
        (JPEG, WEBP, 3, 0.9),
        (WEBP, JPEG2000, 5, 0.8),
        (HEIC, JPEG, 8, 0.8),
        (UNCOMPRESSED, JPEG, 5, 0.95),
        (HEIC, UNCOMPRESSED, 8, 0.95),
    ],
)
def test_a_pasted_square_is_found(ground: int, pasted: int, side: int, sure: float) -> None:
    classes = square(ground, pasted, side)
    told = map_of(saying(classes, sure, wrong=0.03, seed=side))
    found = find_regions(told, GIVEN)
    assert found.status == "mixed"
    whole, part = found.regions
    assert (whole.label, part.label) == (LABELS[ground], LABELS[pasted])
    assert min(whole.confidence, part.confidence) > sure
    truth = pixels(told, classes == pasted)
    assert f1(found.mask(1, *truth.shape), truth) > 0.8
    for measured, wanted in zip(
        part.box, (9 * STRIDE, 4 * STRIDE, (9 + side) * STRIDE, (4 + side) * STRIDE), strict=True
    ):
        assert abs(measured - wanted - SIZE / 4) < SIZE / 2
    assert part.area_share == pytest.approx(truth.mean(), rel=0.25)


@pytest.mark.parametrize("label", range(len(LABELS)))
def test_a_picture_of_one_codec_is_uniform_though_single_patches_err(label: int) -> None:
    for seed in range(5):
        said = saying(np.full((16, 16), label), sure=0.8, wrong=0.15, seed=seed)
        found = find_regions(map_of(said))
        assert (found.status, found.regions) == ("uniform", ())
        assert (found.cells == ABSTAIN).all()


def test_a_mild_codec_that_looks_uncompressed_in_places_is_uniform() -> None:
    """Which places do depends on content; a clear codec beside such a picture is found."""
    mild = np.zeros((16, 16, len(LABELS)))
    mild[..., UNCOMPRESSED], mild[..., WEBP] = 0.7, 0.2
    mild[:11, :, UNCOMPRESSED], mild[:11, :, WEBP] = 0.05, 0.85
    mild += 0.1 / len(LABELS)
    assert find_regions(map_of(mild), GIVEN).status == "uniform"
    clear = saying(np.full((16, 16), JPEG2000))
    both = np.concatenate([mild, clear], axis=1)
    found = find_regions(map_of(both), GIVEN)
    assert {region.label for region in found.regions} == {"webp", "jpeg2000"}
    assert (found.cells[:, :16] != found.cells[0, 16]).all()
    assert (found.cells[:, 16:] == found.cells[0, 16]).all()


def test_near_twins_count_as_one() -> None:
    assert find_regions(map_of(saying(square(BPG, HEIC, 8)))).status == "uniform"
    twins = square(BPG, JPEG, 8)
    twins[8:] = np.where(twins[8:] == BPG, HEIC, twins[8:])
    found = find_regions(map_of(saying(twins)))
    assert [region.family for region in found.regions] == ["HEVC intra", "DCT 8×8 (JPEG)"]


def test_small_specks_are_no_regions() -> None:
    classes = np.full((16, 20), JPEG)
    classes[5, 5 : 5 + THRESHOLDS.smallest_region - 1] = WEBP
    assert find_regions(map_of(saying(classes, sure=1.0))).status == "uniform"
    classes[3:6, 4:10] = WEBP
    classes[12:14, 2:4] = WEBP
    assert len(find_regions(map_of(saying(classes, sure=1.0))).regions) == 2


def test_two_pasted_parts_are_two_regions() -> None:
    classes = square(JPEG, WEBP)
    classes[11:15, 1:5] = WEBP
    found = find_regions(map_of(saying(classes)))
    assert [region.label for region in found.regions] == ["jpeg", "webp", "webp"]
    assert [region.patches for region in found.regions[1:]] == [25, 16]


def test_flat_places_tell_nothing() -> None:
    classes = square(JPEG, WEBP)
    classes[:3, :4] = ABSTAIN
    classes[5:7, 10:12] = ABSTAIN
    found = find_regions(map_of(saying(classes)))
    assert [(region.label, region.patches, region.flat) for region in found.regions] == [
        ("jpeg", 16 * 20 - 25 - 12, 12),
        ("webp", 21, 4),
    ]
    flat = np.full((9, 9), ABSTAIN)
    assert find_regions(map_of(saying(flat))).status == "not enough evidence"
    flat[0, :7] = np.array([JPEG, JPEG, JPEG, WEBP, WEBP, WEBP, WEBP])
    assert find_regions(map_of(saying(flat))).status == "not enough evidence"


def test_a_run_without_uncompressed_pictures() -> None:
    labels = LABELS[1:]
    said = np.eye(5)[square(JPEG - 1, WEBP - 1)]
    assert len(find_regions(map_of(said, labels)).regions) == 2
    assert find_regions(map_of(said[..., :1] * 0 + 1, ("jpeg",))).status == "uniform"


# The border --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), spread=st.sampled_from([0.3, 1.0, 3.0]))
def test_the_minimum_cut_is_the_best_of_all_divisions(seed: int, spread: float) -> None:
    margins = np.random.default_rng(seed).normal(0, spread, (3, 3)).clip(-3, 3).round(2)

    def score(second: np.ndarray) -> float:
        cost = 0.0
        for (i, j), (k, m) in itertools.combinations(list(np.ndindex(3, 3)), 2):
            distance = (abs(i - k), abs(j - m))
            if max(distance) == 1 and second[i, j] != second[k, m]:
                cost += BORDER_COST * (0.7 if distance == (1, 1) else 1.0)
        return float(margins[second].sum()) - cost

    every = (np.array(bits).reshape(3, 3) for bits in itertools.product((False, True), repeat=9))
    cut = regions_module._minimum_cut(margins)
    assert score(cut) == pytest.approx(max(map(score, every)))


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    concentration=st.sampled_from([0.02, 0.2, 1.0]),
    block=st.integers(1, 6),
    seed=st.integers(0, 10**6),
)
def test_any_map_gives_sound_regions(
    shape: tuple[int, int], concentration: float, block: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    said = random.dirichlet(np.full(len(LABELS), concentration), shape)
    said = np.repeat(np.repeat(said, block, 0), block, 1)[: shape[0], : shape[1]]
    said[random.random(shape) < 0.1] = 0
    told = map_of(said)
    found = find_regions(told)
    assert json.loads(json.dumps(found.to_json()))["status"] == found.status
    if found.status != "mixed":
        assert found.regions == ()
        return
    assert len({region.family for region in found.regions}) == 2
    height, width = told.row_edges[-1], told.column_edges[-1]
    masks = np.stack([found.mask(place, height, width) for place in range(len(found.regions))])
    assert masks.sum(axis=0).max() == 1
    for place, region in enumerate(found.regions):
        assert region.patches >= THRESHOLDS.smallest_region
        assert region.patches + region.flat == np.sum(found.cells == place)
        assert region.area_share == pytest.approx(masks[place].mean())
        rows, columns = np.nonzero(masks[place])
        ends = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert region.box == ends
        # A centre of a patch lies in its own region.
        for i, j in np.argwhere(found.cells == place):
            assert masks[place, told.rows[i] + SIZE // 2, told.columns[j] + SIZE // 2]
        shrunk = found.mask(place, max(1, height // 3), max(1, width // 3))
        assert shrunk.mean() == pytest.approx(masks[place].mean(), abs=0.05)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), side=st.integers(4, 7))
def test_a_mirrored_picture_has_mirrored_regions(seed: int, side: int) -> None:
    said = saying(square(JPEG, WEBP, side, (14, 23)), 0.95, 0.02, seed)
    one, other = find_regions(map_of(said)), find_regions(map_of(said[:, ::-1].copy()))
    assert one.status == other.status == "mixed"
    assert f1(one.mask(1, 400, 700)[:, ::-1], other.mask(1, 400, 700)) > 0.99


def test_the_border_runs_nearer_to_the_less_clear_side() -> None:
    said = saying(np.repeat([[JPEG] * 8 + [WEBP] * 8], 8, axis=0), sure=1.0)
    weak = said.copy()
    weak[:, 8] = 0.45 * np.eye(len(LABELS))[WEBP] + 0.25 * np.eye(len(LABELS))[JPEG]
    weak[:, 8, BPG] = 0.3
    shares = []
    for each in (said, weak):
        found = find_regions(map_of(each))
        jpeg = [region.label for region in found.regions].index("jpeg")
        shares.append(found.mask(jpeg, *found.size).mean())
    assert shares[1] > shares[0] + 0.01


# In examinations and reports ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that calls dark patches uncompressed and bright ones jpeg."""
    return write_run(tmp_path_factory.mktemp("regions") / "run")


def dark_and_bright(path: Path) -> Path:
    levels = np.random.default_rng(0).integers(0, 40, (200, 300, 3)).astype(np.uint8)
    levels[40:160, 130:260] += 215
    PilImage.fromarray(levels).save(path)
    return path


def test_an_examination_says_mixed(run: Run, tmp_path: Path) -> None:
    found = examine(dark_and_bright(tmp_path / "a.png"), run)
    assert found.regions is not None
    assert (found.answer, found.is_mixed) == ("mixed", True)
    assert [region.label for region in found.regions.regions] == ["uncompressed", "jpeg"]
    box = found.regions.regions[1].box
    assert np.abs(np.array(box) - (130, 40, 260, 160)).max() <= 12
    assert found.agreement.network is None
    assert "the network says “mixed”" in found.agreement.sentence
    assert found.confusions == ()


def test_reports_list_the_regions(run: Run, tmp_path: Path) -> None:
    from test_report import Page, pdf_text, squeezed

    written = write_reports([dark_and_bright(tmp_path / "a.png")], run, tmp_path / "out")
    assert written.reports[0]["verdict"] == "mixed"
    assert written.reports[0]["probability"] is None
    model = json.loads((tmp_path / "out" / "a.json").read_bytes())
    assert model["verdict"]["verdict"] == model["regions"]["status"] == "mixed"
    regions = model["regions"]["regions"]
    assert sum(region["area_share"] for region in regions) == pytest.approx(1, abs=0.01)
    page = Page((tmp_path / "out" / "a.html").read_bytes()).text
    paper = squeezed(pdf_text((tmp_path / "out" / "a.pdf").read_bytes()))
    for region in regions:
        left, top, right, bottom = region["box"]
        told = [f"{right - left}×{bottom - top} at ({left}, {top})"]
        told += [f"{100 * region['area_share']:.1f} %", region["label"]]
        for text in (*told, "as a whole nearest to", "regions with different histories"):
            assert text in page
            assert squeezed(text) in paper
    uniform = np.random.default_rng(0).integers(200, 240, (99, 99, 3)).astype(np.uint8)
    PilImage.fromarray(uniform).save(tmp_path / "b.png")
    write_reports([tmp_path / "b.png"], run, tmp_path / "out")
    model = json.loads((tmp_path / "out" / "b.json").read_bytes())
    assert (model["verdict"]["verdict"], model["regions"]["status"]) == ("jpeg", "uniform")
    assert "different histories" not in Page((tmp_path / "out" / "b.html").read_bytes()).text


def test_the_map_shows_the_border(run: Run, tmp_path: Path) -> None:
    image = np.asarray(PilImage.open(dark_and_bright(tmp_path / "a.png")))
    told = trace_map(image, run)
    found = find_regions(told)

    def drawn(regions: Regions | None) -> np.ndarray:
        return np.asarray(PilImage.open(io.BytesIO(map_picture(image, told, regions)))).astype(int)

    changed = (drawn(None) != drawn(found)).any(axis=-1)
    border = np.zeros_like(changed)
    height, width = changed.shape
    mask = found.mask(1, height, width)
    border[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    border[1:] |= mask[1:] != mask[:-1]
    rows, columns = np.nonzero(border)
    near = np.zeros_like(border)
    for i, j in itertools.product((-2, -1, 0, 1, 2), repeat=2):
        near[(rows + i).clip(0, 199), (columns + j).clip(0, 299)] = True
    assert changed.any()
    assert near[changed].all()
    lines = drawn(found)[changed]
    assert set(np.unique(lines)) == {0, 255}
    np.testing.assert_array_equal(drawn(None), drawn(find_regions(map_of(np.ones((3, 3, 6)) / 6))))


def test_a_real_splice_by_the_default_run() -> None:
    """JPEG 2000 pasted into a JPEG, both at 15:1; neither alone is mixed."""
    picture = read_photograph(PHOTOGRAPHS[0])[:384, :384]
    ground, other = (
        codec.decode(encode_to_target(picture, codec, RatioTarget(15)).data)
        for codec in (Jpeg(), Jpeg2000())
    )
    spliced, truth = ground.copy(), np.zeros(picture.shape[:2], np.bool_)
    truth[101 : 101 + 190, 83 : 83 + 190] = True
    spliced[truth] = other[truth]
    run = Run.load(DEFAULT_RUN)
    assert find_regions(trace_map(ground, run)).status == "uniform"
    found = find_regions(trace_map(spliced, run))
    assert [region.label for region in found.regions] == ["jpeg", "jpeg2000"]
    assert f1(found.mask(1, *truth.shape), truth) > 0.8
