"""Histories: a step does what it says, its draws follow from the generator, labels are right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from datasets.camera import METHODS, PATTERNS, Demosaic
from datasets.chroma import (
    COSITED,
    SCALINGS,
    SUBSAMPLINGS,
    ChromaPath,
    between,
    photoycc_to_rgb,
    rgb_to_photoycc,
    scaled_plane,
)
from datasets.decoders import OWN, PLANES, Decode
from datasets.histories import (
    HISTORIES,
    History,
    history_from_json,
    label_of,
    read_histories,
)
from datasets.operations import (
    DENOISERS,
    STEPS,
    Blur,
    Compress,
    Crop,
    Denoise,
    DisplayScale,
    Noise,
    OneOf,
    Resize,
    SavePng,
    Sharpen,
    Window,
)
from datasets.step import MIN_SIDE, HistoryError, Step
from datasets.tone import Contrast, Gamma, Saturation
from imagecompression import CODECS, Jpeg
from imagecompression.codec import CodecUnavailableError
from imagecompression.lossless import Lossless
from imagecompression.metrics import psnr
from imagecompression.ycbcr import rgb_to_ycbcr
from tests.conftest import photograph_like

QUICK = ("jpeg", "webp", "jpeg2000")
"""Codecs that encode a small picture in milliseconds."""


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def quick(history: History) -> History:
    """The same history with quick codecs where any lossy one may be drawn."""

    def swap(steps: tuple[Step, ...]) -> tuple[Step, ...]:
        return tuple(
            Compress(QUICK) if isinstance(s, Compress) and s.knob is None else s for s in steps
        )

    return History(history.name, swap(history.before), swap(history.after))


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("shape", [(60, 83, 3), (47, 50)])
def test_step_contract(kind: str, shape: tuple[int, ...]) -> None:
    usual = {
        "compress": Compress(QUICK),
        "window": Window((20, 40)),
        "one-of": OneOf(((Gamma(),), (Noise(),)), (1, 2)),
    }
    step = usual.get(kind) or STEPS[kind]()
    image = photograph_like(shape[0], shape[1], len(shape) * 2 - 3)
    before = image.copy()
    first, record = step.apply(image, generator(3))
    again, same = step.apply(image, generator(3))
    assert np.array_equal(image, before), "the picture given was changed"
    assert np.array_equal(first, again) and record == same
    assert first.dtype == np.uint8 and first.ndim == image.ndim and first.flags.c_contiguous
    assert record["step"] == kind
    assert json.loads(json.dumps(record)) == record
    others = [step.apply(image, generator(seed))[1] for seed in range(4, 8)]
    assert kind in ("png", "decode") or any(other != record for other in others), (
        "the draws never change"
    )


def test_draws_do_not_depend_on_the_pixels() -> None:
    """So that pictures of all classes go through the same crops and scales."""
    steps = (Compress(QUICK), Noise(), Crop(), Resize(), Blur(), DisplayScale(), Gamma())
    steps += (Sharpen(), Demosaic(), ChromaPath(), Window((40, 60)))
    steps += (Denoise(), Contrast(), Saturation())
    history = History("long", before=steps)
    pictures = [photograph_like(80, 90, 3, seed) for seed in (1, 2)]
    results = [history.prepare(picture, generator(9)) for picture in pictures]
    assert results[0][0].shape == results[1][0].shape
    for one, other in zip(results[0][1], results[1][1], strict=True):
        if one["step"] == "compress":
            assert one["codec"] == other["codec"]
        else:
            assert one == other


def test_crop_cuts_what_it_says(rgb: np.ndarray) -> None:
    for seed in range(20):
        image, done = Crop((1, 15)).apply(rgb, generator(seed))
        right, bottom = rgb.shape[1] - done["right"], rgb.shape[0] - done["bottom"]
        assert np.array_equal(image, rgb[done["top"] : bottom, done["left"] : right])
        assert 1 <= done["left"] <= 15 and 1 <= done["top"] <= 15
        assert 0 <= done["right"] <= 15 and 0 <= done["bottom"] <= 15


@pytest.mark.parametrize("size", [(17, 300), (16, 16), (9, 40)])
def test_no_step_makes_a_side_too_short(size: tuple[int, int]) -> None:
    image = photograph_like(*size, 3)
    for step in (Crop((15, 15)), Resize((0.5, 0.5)), DisplayScale((0.5,))):
        smaller, _ = step.apply(image, generator())
        for before, after in zip(size, smaller.shape[:2], strict=True):
            assert after >= min(before, MIN_SIDE)


def test_resize_stays_within_the_pixel_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.operations.MAX_PIXELS", 5000)
    image, done = Resize((2.0, 2.0)).apply(photograph_like(50, 61, 3), generator())
    assert 3050 <= image.shape[0] * image.shape[1] <= 5000
    assert image.shape[:2] == (done["height"], done["width"])


def test_resize_factor_and_filters(rgb: np.ndarray) -> None:
    seen = set()
    for seed in range(12):
        image, done = Resize().apply(rgb, generator(seed))
        seen.add(done["filter"])
        assert 0.5 <= done["factor"] <= 2
        assert image.shape[1] == round(rgb.shape[1] * done["factor"])
    assert seen == {"bilinear", "bicubic", "lanczos"}


def test_operations_by_second_means(rgb: np.ndarray) -> None:
    flat = np.full((200, 200), 128, np.uint8)
    grainy, done = Noise((5.0, 5.0)).apply(flat, generator())
    assert abs(float(grainy.std()) - 5.0) < 0.1 and done["sigma"] == 5.0
    darker, _ = Gamma((2.0, 2.0)).apply(flat, generator())
    assert int(darker[0, 0]) == round(255 * (128 / 255) ** 2)
    point = np.zeros((41, 41), np.uint8)
    point[20, 20] = 255
    spread, _ = Blur((1.0, 1.0)).apply(point, generator())
    assert int(spread[20, 20]) == round(255 / (2 * np.pi))  # the peak of the Gaussian
    assert np.array_equal(Blur((0.0, 0.0)).apply(rgb, generator())[0], rgb)
    doubled, _ = DisplayScale((2.0,), ("nearest",)).apply(rgb, generator())
    assert np.array_equal(doubled[::2, ::2], rgb) and np.array_equal(doubled[1::2, 1::2], rgb)


def test_compress_by_ratio_and_by_knob(rgb: np.ndarray) -> None:
    for seed in range(5):
        data, done = Compress(("jpeg",), ratio=(8, 12)).encode(rgb, generator(seed))
        assert done["ratio"] == rgb.nbytes / len(data)
        assert 8 / 1.3 <= done["ratio"] <= 12 * 1.3
        image, same = Compress(("jpeg",), ratio=(8, 12)).apply(rgb, generator(seed))
        assert same == done and np.array_equal(image, Jpeg.decode(data))
    qualities = [
        Compress(("jpeg",), knob=(75, 98)).encode(rgb, generator(seed))[1]["params"]["quality"]
        for seed in range(12)
    ]
    assert 75 <= min(qualities) < max(qualities) <= 98
    for name in ("jpeg2000", "webp"):  # one knob falls with the size of the file, steps are broken
        knob = CODECS[name].knob
        assert knob is not None
        value = knob.value(knob.last_index // 2)
        done = Compress((name,), knob=(value, value)).encode(rgb, generator())[1]
        assert done["params"][knob.field] == pytest.approx(value)


def test_compress_passes_over_what_is_missing(
    rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> str:
        raise CodecUnavailableError("not here")

    drawn = [Compress(QUICK).encode(rgb, generator(seed))[1]["codec"] for seed in range(6)]
    monkeypatch.setattr(CODECS["jpeg"], "check_available", missing)
    left = [Compress(QUICK).encode(rgb, generator(seed))[1]["codec"] for seed in range(6)]
    assert "jpeg" in drawn and "jpeg" not in left
    # What others were drawn for stays theirs.
    assert all(new == old for new, old in zip(left, drawn, strict=True) if old != "jpeg")
    with pytest.raises(HistoryError, match="none of jpeg is available here"):
        Compress(("jpeg",)).encode(rgb, generator())


@pytest.mark.parametrize("name", HISTORIES)
def test_history_from_source_to_stored_file(name: str) -> None:
    history = quick(HISTORIES[name])
    source = photograph_like(64, 96, 3)
    image, before = history.prepare(source, generator(1))
    data = Jpeg(quality=60).encode(image)
    decoded = Jpeg.decode(data)
    finished = history.finish(data, "jpeg", decoded, generator(2))
    for asked, done in ((history.before, before), (history.after, finished.steps)):
        kinds = iter([record["step"] for record in done])
        assert all(step.kind in kinds for step in asked), "a step is missing or out of order"
        if not any(isinstance(step, OneOf) for step in asked):
            assert len(done) == len(asked)
    # What is stored is a whole file of its container, with the pixels that are told.
    container = CODECS[finished.container]
    assert container.matches(finished.data)
    assert np.array_equal(container.decode(finished.data), finished.image)
    if name in ("single", "resaved-png"):
        assert np.array_equal(finished.image, decoded)
    elif history.after:
        assert not np.array_equal(finished.image, decoded)
    if not history.after:
        assert finished.data == data and finished.container == "jpeg"
    elif isinstance(history.after[-1], Compress):
        assert finished.container == finished.steps[-1]["codec"]
    else:
        assert finished.container == Lossless.name
    chain = [*before, {"step": "compress", "codec": "bpg"}, *finished.steps]
    lossy = [step["codec"] for step in chain if step["step"] == "compress"]
    assert (label_of(chain), label_of(chain, "first")) == (lossy[-1], lossy[0])
    recompressed = any(step["step"] == "compress" for step in finished.steps)
    assert history.recompresses or not recompressed
    assert recompressed or not history.recompresses or isinstance(history.after[-1], OneOf)


def test_labels_of_chains() -> None:
    png = {"step": "png"}
    kept = {"step": "compress", "codec": Lossless.name}
    bpg, jpeg = ({"step": "compress", "codec": name} for name in ("bpg", "jpeg"))
    assert label_of([]) == label_of([kept, png]) == Lossless.name
    assert label_of([bpg, {"step": "crop"}, png, kept]) == "bpg"
    assert label_of([bpg, png, jpeg], "last") == "jpeg"
    assert label_of([bpg, png, jpeg], "first") == "bpg"
    with pytest.raises(HistoryError, match=r"last, first. Received: 'middle'"):
        label_of([bpg], "middle")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", HISTORIES)
def test_histories_survive_json(name: str) -> None:
    history = HISTORIES[name]
    assert history_from_json(json.loads(json.dumps(history.to_json()))) == history


def test_read_histories(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(
        json.dumps(
            [
                {"name": "soft", "after": [{"step": "blur", "sigma": [0.5, 1]}, {"step": "png"}]},
                {"name": "phone", "before": [{"step": "compress", "codecs": ["heic"]}]},
            ]
        )
    )
    soft, phone = read_histories(path)
    assert soft == History("soft", after=(Blur((0.5, 1)), SavePng()))
    assert phone == History("phone", before=(Compress(("heic",)),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not a readable JSON file"),
        ("{}", "must hold a list of histories"),
        ("[]", "at least one"),
        ("[3]", 'entry 1: A history is an object with "name"'),
        ('[{"name": "No Good"}]', "lower-case letters.*Received: 'No Good'"),
        ('[{"name": "a", "then": []}]', "entry 1: History 'a'.*Received: 'then'"),
        ('[{"name": "a", "after": {}}]', "after must be a list"),
        ('[{"name": "a"}, {"name": "a"}]', "Received twice: a"),
        (
            '[{"name": "a", "after": [{"step": "png"}, {"step": "melt"}]}]',
            "entry 1: History 'a', after, step 2: .*crop, resize.*melt",
        ),
        (
            '[{"name": "a", "after": [{"step": "crop", "size": 3}]}]',
            "crop has the fields pixels. Received: size",
        ),
        (
            '[{"name": "a", "after": [{"step": "crop", "pixels": [1.5, 3]}]}]',
            "pixels must be two integers",
        ),
        (
            '[{"name": "a", "after": [{"step": "blur", "sigma": [3, 1]}]}]',
            r"sigma must be two numbers, the lowest and the highest, from 0 to 50. Received: \(3",
        ),
        (
            '[{"name": "a", "after": [{"step": "resize", "filters": ["cubic"]}]}]',
            "values among nearest, bilinear, bicubic, lanczos",
        ),
        (
            '[{"name": "a", "after": [{"step": "display-scale", "factors": [0]}]}]',
            "factors must be a list of numbers",
        ),
        (
            '[{"name": "a", "after": [{"step": "compress", "codecs": ["uncompressed"]}]}]',
            "codecs must be a list of values among jpeg",
        ),
        (
            '[{"name": "a", "after": [{"step": "compress", "codecs": ["jpeg", "bpg"], '
            '"knob": [1, 2]}]}]',
            "knob goes with one codec and without ratio",
        ),
        (
            '[{"name": "a", "after": [{"step": "compress", "codecs": ["jpeg"], "knob": [0, 2]}]}]',
            "knob must be two numbers.*from 1 to 100",
        ),
    ],
)
def test_bad_histories_are_refused_clearly(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(HistoryError, match=message) as caught:
        read_histories(path)
    assert str(path) in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=r"none\.json: not a readable JSON file"):
        read_histories(tmp_path / "none.json")


def test_window_lies_inside_and_everywhere(rgb: np.ndarray) -> None:
    places = set()
    for seed in range(200):
        image, done = Window((30, 40)).apply(rgb, generator(seed))
        assert 30 <= done["width"] == done["height"] <= 40
        top, left = done["top"], done["left"]
        assert np.array_equal(image, rgb[top : top + done["height"], left : left + done["width"]])
        places.add((top % 8, left % 8))
    assert len(places) > 50, "all grid phases must occur"
    whole, _ = Window((1000, 1000)).apply(rgb, generator())
    assert np.array_equal(whole, rgb)


def test_sharpen_undoes_some_blur(rgb: np.ndarray) -> None:
    blurred, _ = Blur((0.8, 0.8)).apply(rgb, generator())
    sharper, _ = Sharpen((0.8, 0.8), (0.7, 0.7)).apply(blurred, generator())
    assert psnr(rgb, sharper) > psnr(rgb, blurred) + 0.5


@pytest.mark.parametrize("method", DENOISERS)
def test_denoising_takes_noise_away(method: str) -> None:
    y, x = np.mgrid[0:96, 0:120]
    for clean in ((x + y).astype(np.uint8), np.stack([x, y, x + y], 2).astype(np.uint8)):
        noisy, _ = Noise((6.0, 6.0)).apply(clean, generator())
        better, done = Denoise((method,), (10.0, 10.0)).apply(noisy, generator())
        assert done["method"] == method
        assert psnr(clean, better) > psnr(clean, noisy) + 1


def test_tone_by_second_means(rgb: np.ndarray) -> None:
    from PIL import Image as Picture
    from PIL import ImageEnhance

    flat = np.full((20, 20, 3), 100, np.uint8)
    assert Contrast((2.0, 2.0), (128.0, 128.0)).apply(flat, generator())[0].max() == 128 - 56
    assert np.array_equal(Contrast((1.0, 1.0)).apply(rgb, generator())[0], rgb)
    for factor in (0.0, 0.5, 1.7):
        ours, _ = Saturation((factor, factor)).apply(rgb, generator())
        theirs = ImageEnhance.Color(Picture.fromarray(rgb)).enhance(factor)
        assert np.abs(ours.astype(int) - np.asarray(theirs)).max() <= 2
    gray, _ = Saturation((0.0, 0.0)).apply(rgb, generator())
    assert np.array_equal(gray[..., 0], gray[..., 2])


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_chroma_path_keeps_luma_and_halves_chroma(subsampling: str) -> None:
    picture = photograph_like(60, 83, 3)
    path = ChromaPath(("bt601",), ("full",), (10,), (subsampling,), ("box",), ("nearest",))
    image, _ = path.apply(picture, generator())
    before, after = rgb_to_ycbcr(picture, 8), rgb_to_ycbcr(image, 8)
    assert np.abs(before[0].astype(int) - after[0]).max() <= 8  # clipping to RGB moves a little
    if subsampling == "4:4:4":
        assert np.abs(image.astype(int) - picture).max() <= 1
    if subsampling == "4:2:0":
        blocks = after[1][:60, :82].astype(int).reshape(30, 2, 41, 2)
        spread = blocks.max(axis=(1, 3)) - blocks.min(axis=(1, 3))
        assert np.median(spread) <= 1
        assert psnr(picture, image) < 45


@pytest.mark.parametrize("subsampling", ["4:2:2", "4:2:0", "4:1:1"])
def test_cosited_chroma_lies_on_pixels(subsampling: str) -> None:
    picture = photograph_like(61, 83, 3)
    rows, columns = SUBSAMPLINGS[subsampling]
    plane = picture[::rows, ::columns, 0]
    larger = between(plane, (rows, columns))
    assert larger.shape == (plane.shape[0] * rows, plane.shape[1] * columns)
    assert np.array_equal(larger[::rows, ::columns], plane)
    last = plane.shape[1] * columns - columns
    grid = np.arange(larger.shape[1])
    wanted = np.interp(np.minimum(grid, last), np.arange(0, last + 1, columns), plane[0])
    assert np.abs(larger[0] - wanted).max() <= 0.5
    path = ChromaPath(("bt601",), ("full",), (10,), (subsampling,), ("box",), (COSITED,))
    image, done = path.apply(picture, generator())
    assert image.shape == picture.shape and done["up"] == COSITED
    assert 28 < psnr(picture, image) < 50


def test_photo_cd_colours_lose_levels_and_little_else() -> None:
    picture = photograph_like(60, 83, 3)
    planes = rgb_to_photoycc(picture)
    assert [plane.dtype for plane in planes] == [np.uint8] * 3
    white, gray = (rgb_to_photoycc(np.full((1, 1, 3), v, np.uint8)) for v in (255, 128))
    assert [int(plane[0, 0]) for plane in white] == [182, 156, 137]
    assert [int(plane[0, 0]) for plane in gray] == [91, 156, 137]
    assert np.abs(photoycc_to_rgb(planes).astype(int) - picture).max() <= 3
    path = ChromaPath(("photoycc",), ("limited",), (10,), ("4:2:0",), ("box",), ("bilinear",))
    image, done = path.apply(picture, generator())
    assert (done["range"], done["bit_depth"]) == ("full", 8)
    assert 30 < psnr(picture, image) < 50
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    levels = np.unique(path.apply(ramp, generator())[0][..., 1])
    assert len(levels) <= 183, "levels of luma must be lost, as on Photo CD"


@pytest.mark.parametrize("scaling", SCALINGS)
def test_scaled_planes_stay_in_place(scaling: str) -> None:
    ramp = np.tile(np.arange(0, 240, 6, dtype=np.uint8), (20, 1))
    double = scaled_plane(ramp, (40, 80), scaling, (20, 40), 8).astype(float)
    exact = np.interp((np.arange(80) + 0.5) / 2 - 0.5, np.arange(40), ramp[0])
    tolerance = 3.5 if scaling in ("nearest", "box") else 1.5
    assert np.abs(double[:, 8:-8] - exact[8:-8]).max() <= tolerance
    odd = scaled_plane(ramp, (39, 79), scaling, (19.5, 39.5), 8)
    assert np.array_equal(odd, double[:39, :79])


def test_demosaic_keeps_the_sensor_s_samples_and_flat_colours() -> None:
    picture = photograph_like(40, 52, 3)
    flat = np.full((30, 31, 3), (200, 90, 40), np.uint8)
    for pattern in PATTERNS:
        for method in METHODS:
            step = Demosaic((pattern,), (method,), (0.0, 0.0), (0.0, 0.0))
            image, _ = step.apply(picture, generator())
            for place, color in enumerate(pattern):
                sites = np.s_[place // 2 :: 2, place % 2 :: 2, "rgb".index(color)]
                assert np.array_equal(image[sites], picture[sites])
            assert not np.array_equal(image, picture)
            assert np.array_equal(step.apply(flat, generator())[0], flat)


def test_malvar_is_the_better_interpolation() -> None:
    """Where colours go together, as in a gray photograph, other colours' gradients help."""
    gray = photograph_like(120, 140, 1)
    picture = np.repeat(gray[..., None], 3, axis=2)
    quality = {}
    for method in METHODS:
        image, _ = Demosaic(("rggb",), (method,), (0.0, 0.0), (0.0, 0.0)).apply(
            picture, generator()
        )
        quality[method] = psnr(picture, image)
    assert quality["malvar"] > quality["bilinear"] + 1


def test_demosaic_noise_grows_with_the_light() -> None:
    step = Demosaic(("rggb",), ("bilinear",), (1e-3, 1e-3), (0.0, 0.0))
    deviations = []
    for level in (60, 220):
        flat = np.full((100, 100, 3), level, np.uint8)
        image, _ = step.apply(flat, generator())
        light = (image[::2, ::2, 0] / 255) ** 2.2
        deviations.append(float(light.std()) / np.sqrt(1e-3 * (level / 255) ** 2.2))
    assert deviations == pytest.approx([1, 1], rel=0.1)


def test_one_of_follows_its_shares() -> None:
    step = OneOf(((), (Gamma(),), (Noise(), SavePng())), (6, 3, 1))
    image = photograph_like(20, 20, 3)
    records = [step.apply(image, generator(seed))[1] for seed in range(600)]
    counts = np.bincount([record["chosen"] for record in records], minlength=3)
    assert np.abs(counts / 600 - [0.6, 0.3, 0.1]).max() < 0.06
    for record in records:
        kinds = [done["step"] for done in record["steps"]]
        assert kinds == [[], ["gamma"], ["noise", "png"]][record["chosen"]]


def test_a_chosen_codec_gives_the_label() -> None:
    history = History("maybe", after=(OneOf(((Compress(("webp",), ratio=(5, 9)),),)), SavePng()))
    assert history.recompresses
    image = photograph_like(40, 40, 3)
    data = Jpeg().encode(image)
    finished = history.finish(data, "jpeg", Jpeg.decode(data), generator())
    assert [step["step"] for step in finished.steps] == ["one-of", "compress", "png"]
    chain = [{"step": "compress", "codec": "jpeg"}, *finished.steps]
    assert label_of(chain) == "webp" and label_of(chain, "first") == "jpeg"
    assert json.loads(json.dumps(chain)) == chain


@pytest.mark.parametrize("chains", [(), ({"step": "blur"},), ([{"step": "nothing"}],)])
def test_one_of_refuses_what_is_no_chain(chains: tuple) -> None:
    with pytest.raises(HistoryError):
        OneOf(chains)


def test_one_of_refuses_wrong_shares_and_decoding() -> None:
    with pytest.raises(HistoryError, match="shares"):
        OneOf(((), ()), (1.0,))
    with pytest.raises(HistoryError, match="shares"):
        OneOf(((), ()), (1.0, 0.0))
    with pytest.raises(HistoryError, match="decode"):
        OneOf(((Decode(),),))


@pytest.mark.parametrize("codec", PLANES)
def test_other_decoders_differ_in_chroma_alone(codec: str) -> None:
    CODECS[codec].check_available()
    image = photograph_like(64, 96, 3)
    data = CODECS[codec]().encode(image)
    own = CODECS[codec].decode(data)
    other, done = Decode(("nearest",)).decode(data, codec, own, generator())
    assert done == {"step": "decode", "decoder": "nearest"}
    assert other.shape == own.shape and not np.array_equal(other, own)
    luma = [rgb_to_ycbcr(each, 8)[0].astype(int) for each in (own, other)]
    assert np.mean(np.abs(luma[0] - luma[1])) < 1.0
    same, done = Decode((OWN,)).decode(data, codec, own, generator())
    assert same is own and done["decoder"] == OWN


def test_files_without_chroma_planes_keep_their_decoder() -> None:
    step = Decode(("bilinear",))
    image = photograph_like(40, 40, 3)
    data = CODECS["jpeg2000"]().encode(image)
    kept, done = step.decode(data, "jpeg2000", image, generator())
    assert kept is image and done["decoder"] == OWN
    broken, done = step.decode(b"no jpeg", "jpeg", image, generator())
    assert broken is image and done["decoder"] == OWN


def test_decoding_stands_first_after_the_encode() -> None:
    History("well", after=(Decode(), Blur()))
    for history in ({"before": (Decode(),)}, {"after": (Blur(), Decode())}):
        with pytest.raises(HistoryError, match="decode"):
            History("wrong", **history)


@pytest.mark.parametrize("name", ["varied", "varied-widely"])
def test_varied_prepares_like_pictures_for_every_codec(name: str) -> None:
    history = HISTORIES[name]
    image = photograph_like(300, 330, 3)
    prepared = [history.prepare(image, generator(seed)) for seed in range(12)]
    kinds = {step["step"] for _, chain in prepared for step in chain}
    assert {"window", "resize", "demosaic", "sharpen", "noise", "chroma"} <= kinds
    for picture, _ in prepared:
        assert max(picture.shape) <= 256 and min(picture.shape[:2]) >= 100
    data = Jpeg().encode(prepared[0][0])
    finished = history.finish(data, "jpeg", Jpeg.decode(data), generator())
    assert finished.container == "uncompressed"
    assert np.array_equal(Lossless.decode(finished.data), finished.image)
