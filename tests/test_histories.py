"""Histories: a step does what it says, its draws follow from the generator, labels are right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from datasets.histories import (
    HISTORIES,
    History,
    history_from_json,
    label_of,
    read_histories,
)
from datasets.operations import (
    MIN_SIDE,
    STEPS,
    Blur,
    Compress,
    Crop,
    DisplayScale,
    Gamma,
    HistoryError,
    Noise,
    Resize,
    SavePng,
    Step,
)
from imagecompression import CODECS, Jpeg
from imagecompression.codec import CodecUnavailableError
from imagecompression.lossless import Lossless
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
    step = Compress(QUICK) if kind == "compress" else STEPS[kind]()
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
    assert kind == "png" or any(other != record for other in others), "the draws never change"


def test_draws_do_not_depend_on_the_pixels() -> None:
    """So that pictures of all classes go through the same crops and scales."""
    steps = (Compress(QUICK), Noise(), Crop(), Resize(), Blur(), DisplayScale(), Gamma())
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
    assert len(before) == len(history.before) and len(finished.steps) == len(history.after)
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
    elif history.recompresses:
        assert finished.container == finished.steps[-1]["codec"]
    else:
        assert finished.container == Lossless.name
    chain = [*before, {"step": "compress", "codec": "bpg"}, *finished.steps]
    lossy = [step["codec"] for step in chain if step["step"] == "compress"]
    assert (label_of(chain), label_of(chain, "first")) == (lossy[-1], lossy[0])
    assert history.recompresses == any(step["step"] == "compress" for step in finished.steps)


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
            "names among nearest, bilinear, bicubic, lanczos",
        ),
        (
            '[{"name": "a", "after": [{"step": "display-scale", "factors": [0]}]}]',
            "factors must be a list of numbers",
        ),
        (
            '[{"name": "a", "after": [{"step": "compress", "codecs": ["uncompressed"]}]}]',
            "codecs must be a list of names among jpeg",
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
