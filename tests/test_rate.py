"""Rate control: targets are met within tolerance, or the result says why not."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from conftest import photograph_like
from hypothesis import given, settings
from hypothesis import strategies as st

from imagecompression import (
    CODECS,
    Codec,
    CodecError,
    Image,
    Jpeg,
    Jpeg2000,
    KMeans,
    Knob,
    Lossless,
    RateSearch,
    RatioTarget,
    SsimTarget,
    Svd,
    encode_to_target,
)
from imagecompression.metrics import Reference, compression_ratio, ssim
from imagecompression.rate import RATIO_AIM, SSIM_AIM, Target, search_order
from imagecompression.target_search import MAX_ENCODES

NINE_TARGETS: tuple[Target, ...] = (
    *(RatioTarget(ratio) for ratio in (5, 8, 12, 20, 40)),
    *(SsimTarget(value) for value in (0.80, 0.90, 0.95, 0.98)),
)


@dataclass(frozen=True)
class Coarse(Codec):
    """Quantised samples, deflated: few steps of the knob, each 1.6 times the one before."""

    level: int = 5
    name: ClassVar[str] = "coarse"
    suffix: ClassVar[str] = ".coarse"
    knob: ClassVar[Knob] = Knob("level", 0, 8, 1, rises_with_size=True)
    ratio_tolerance: ClassVar[float] = 0.3
    ssim_tolerance: ClassVar[float] = 0.1

    def coarse_rows(self, height: int) -> int:
        return 0

    def encode(self, image: Image) -> bytes:
        steps = np.full((len(image), *[1] * (image.ndim - 1)), round(2 * 1.6 ** (8 - self.level)))
        steps[: self.coarse_rows(len(image))] = round(2 * 1.6 ** (9 - self.level))
        levels = (image + steps // 2) // steps
        body = zlib.compress(steps.astype(np.uint8).tobytes() + levels.astype(np.uint8).tobytes())
        return b"COAR" + struct.pack("<BHH", image.ndim, *image.shape[:2]) + body

    @classmethod
    def decode(cls, data: bytes) -> Image:
        ndim, height, width = struct.unpack_from("<BHH", data, 4)
        values = np.frombuffer(zlib.decompress(data[9:]), np.uint8)
        shape = (height, width, 3) if ndim == 3 else (height, width)
        steps = values[:height].reshape(height, *[1] * (ndim - 1)).astype(int)
        return np.minimum(values[height:].reshape(shape) * steps, 255).astype(np.uint8)

    @classmethod
    def matches(cls, data: bytes) -> bool:
        return data[:4] == b"COAR"

    @classmethod
    def version(cls) -> str:
        return "1"


@dataclass(frozen=True)
class Fine(Coarse):
    """The same; `trim` of 100 are the rows that are not quantised by the next coarser step."""

    trim: int = 100
    name: ClassVar[str] = "fine"
    fine_knob: ClassVar[Knob] = Knob("trim", 0, 100, 1, rises_with_size=True)

    def coarse_rows(self, height: int) -> int:
        return height * (100 - self.trim) // 100


LOSSY = [name for name, codec in CODECS.items() if codec.knob is not None]


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("target", [RatioTarget(8), RatioTarget(20), SsimTarget(0.9)], ids=str)
def test_target_is_met_or_the_reason_given(
    name: str, target: RatioTarget | SsimTarget, rgb: np.ndarray
) -> None:
    codec = CODECS[name]()
    found = encode_to_target(rgb, codec, target)
    assert found.data == found.codec.encode(rgb), "the bytes returned are not those measured"
    decoded = found.codec.decode(found.data)
    if target.kind == "ratio":
        assert found.measured == compression_ratio(rgb, len(found.data))
    else:
        assert found.measured == ssim(rgb, decoded)
    within = abs(found.measured - target.value) <= target.tolerance(codec)
    assert found.reached is within
    assert bool(found.reason) is not within
    assert 1 <= found.encodes <= 12


@settings(max_examples=40, deadline=None)
@given(
    ratio=st.floats(1, 200),
    sides=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    channels=st.sampled_from([1, 3]),
)
def test_any_ratio_on_any_picture(ratio: float, sides: tuple[int, int], channels: int) -> None:
    picture = photograph_like(*sides, channels)
    search = RateSearch(picture, Jpeg())
    target = RatioTarget(ratio)
    found = search.to(target)
    assert found.encodes <= MAX_ENCODES
    if not found.reached:
        # Every quality is tried: none may meet what the search said cannot be met.
        every = [len(Jpeg(quality=q).encode(picture)) for q in range(1, 101)]
        nearest = min(abs(np.log(picture.size / size / ratio)) for size in every)
        own = abs(np.log(found.measured / ratio))
        assert own <= nearest + np.log(1.02), (own, nearest, found.reason)


def test_unreachable_targets_name_the_bound(rgb: np.ndarray) -> None:
    high = encode_to_target(rgb, Jpeg(), RatioTarget(1000))
    assert not high.reached
    assert "out of reach: the smallest file (quality=1)" in high.reason
    low = encode_to_target(rgb, Jpeg(), RatioTarget(1.01))
    assert not low.reached
    assert "the largest file (quality=100)" in low.reason


def test_targets_share_encodes(rgb: np.ndarray) -> None:
    search = RateSearch(rgb, Jpeg2000())
    first = search.to(RatioTarget(10))
    assert search.to(RatioTarget(10)).encodes == 0
    assert search.to(RatioTarget(10)).data == first.data
    assert search.to(RatioTarget(14)).encodes == 1
    assert search.to(SsimTarget(first.measures()["ssim"])).encodes == 0


def test_many_targets_do_not_use_up_each_others_encodes() -> None:
    picture = photograph_like(128, 128, 3)
    search = RateSearch(picture, Jpeg2000())
    found = [search.to(RatioTarget(3 + 0.7 * step)) for step in range(40)]
    alone = [encode_to_target(picture, Jpeg2000(), one.target) for one in found]
    assert [one.reached for one in found] == [one.reached for one in alone]


def test_a_measure_that_is_no_number_ends_the_search(rgb: np.ndarray) -> None:
    class Broken(RatioTarget):
        def measure(self, probe: object) -> float:
            return float("nan")

    assert not encode_to_target(rgb, Jpeg(), Broken(10)).reached


def test_a_fine_knob_reaches_what_the_knob_cannot() -> None:
    picture = photograph_like(96, 120, 3)
    coarse, fine = RateSearch(picture, Coarse()), RateSearch(picture, Fine())
    missed = 0
    for number in search_order(NINE_TARGETS):
        target = NINE_TARGETS[number]
        smallest = target.measure(coarse.probe(0))
        if smallest < target.value if target.kind == "ratio" else smallest > target.value:
            continue  # out of reach
        aim = RATIO_AIM * target.value if target.kind == "ratio" else SSIM_AIM
        found = fine.to(target)
        assert found.encodes <= 10
        assert found.data == found.codec.encode(picture)
        assert abs(found.measured - target.value) <= 2 * aim, found
        missed += abs(coarse.to(target).measured - target.value) > 2 * aim
    assert missed >= 3, "the coarse knob alone would have done"


@pytest.mark.parametrize("name", ["jpeg", "jpeg2000", "svd", "kmeans", "fine"])
def test_a_search_goes_on_as_if_it_had_never_stopped(name: str) -> None:
    codec = Fine() if name == "fine" else CODECS[name]()
    picture = photograph_like(72, 88, 3)
    order = [NINE_TARGETS[number] for number in search_order(NINE_TARGETS)]
    straight = RateSearch(picture, codec)
    whole = [straight.to(target) for target in order]
    saved: list[dict[str, object]] = []
    for target, before in zip(order, whole, strict=True):
        search = RateSearch(picture, codec, probes=json.loads(json.dumps(saved)))
        after = search.to(target)
        assert (after.data, after.encodes) == (before.data, before.encodes), target
        assert (after.codec, after.measured) == (before.codec, before.measured)
        assert (after.reached, after.reason) == (before.reached, before.reason)
        after.measures()  # whether anyone asks for more must not matter
        saved = search.probes()
    assert [one["bytes"] for one in saved] == [one["bytes"] for one in straight.probes()]
    assert sum(one.encodes for one in whole) == sum(not one["draft"] for one in saved)


def test_a_restored_search_encodes_only_what_it_returns(rgb: np.ndarray) -> None:
    first = RateSearch(rgb, Jpeg())
    found = first.to(RatioTarget(10))
    again = RateSearch(rgb, Jpeg(), probes=first.probes()).to(RatioTarget(10))
    assert again.encodes == 0
    assert again.data == found.data


def test_nothing_is_decoded_or_measured_twice(
    rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    decode, measure = Jpeg.decode, Reference.measure
    counted = staticmethod(lambda data: (calls.append("decode"), decode(data))[1])
    monkeypatch.setattr(Jpeg, "decode", counted)
    monkeypatch.setattr(
        Reference, "measure", lambda *all: (calls.append("measure"), measure(*all))[1]
    )
    search = RateSearch(rgb, Jpeg())
    for target in (RatioTarget(8), SsimTarget(0.9)):
        found = search.to(target)
        assert found.measures()["ssim"] == ssim(rgb, found.decoded())
        assert found.measures()["ratio"] == compression_ratio(rgb, len(found.data))
    assert calls.count("measure") == len(search.probes())
    assert calls.count("decode") <= len(search.probes()) + 1


@pytest.mark.parametrize("dithering", [0.0, 1.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_palette_draft_tells_the_pixels(channels: int, dithering: float) -> None:
    picture, codec = photograph_like(90, 120, channels), KMeans(colors=12, dithering=dithering)
    draft, data = codec.draft(picture), codec.encode(picture)
    assert draft.decoded is not None
    assert np.array_equal(draft.decoded, codec.decode(data))
    assert draft.finish() == data
    assert draft.file_bytes == pytest.approx(len(data), rel=0.25)


def test_an_svd_draft_tells_the_size() -> None:
    picture, codec = photograph_like(192, 256, 3), Svd(step=8)
    draft = codec.draft(picture)
    assert draft is not None
    assert draft.file_bytes == pytest.approx(len(codec.encode(picture)), rel=0.3)
    assert Svd(mode="global").draft(picture) is None


def test_an_ssim_target_takes_one_encode_where_drafts_tell_the_pixels() -> None:
    picture = photograph_like(128, 160, 3)
    search = RateSearch(picture, KMeans())
    found = search.to(SsimTarget(0.9))
    assert found.encodes == 1
    assert found.measured == ssim(picture, KMeans.decode(found.data))
    worse = [abs(told - 0.9) for _, told in search.drafts.values() if told is not None]
    assert abs(found.measured - 0.9) == min(worse)


def test_search_order_is_a_permutation_that_starts_inside() -> None:
    order = search_order(NINE_TARGETS)
    assert sorted(order) == list(range(9))
    assert NINE_TARGETS[order[0]].value == 12
    assert search_order([]) == []
    assert search_order([SsimTarget(0.9), SsimTarget(0.9)]) in ([0, 1], [1, 0])


def test_own_tolerance_is_honoured() -> None:
    picture = photograph_like(400, 500, 3)
    tight = encode_to_target(picture, Jpeg2000(), RatioTarget(12, relative_tolerance=0.005))
    assert tight.reached
    assert tight.measured == pytest.approx(12, rel=0.005)


def test_lossless_has_nothing_to_search(rgb: np.ndarray) -> None:
    found = encode_to_target(rgb, Lossless(), RatioTarget(50))
    assert not found.reached
    assert "lossless" in found.reason
    assert found.encodes == 1


@pytest.mark.parametrize("value", [0, 0.99, -3, float("nan"), float("inf")])
def test_bad_ratio_targets(value: float) -> None:
    with pytest.raises(CodecError, match="Received"):
        RatioTarget(value)


@pytest.mark.parametrize("value", [0, 1, -0.5, 1.5, float("nan")])
def test_bad_ssim_targets(value: float) -> None:
    with pytest.raises(CodecError, match="Received"):
        SsimTarget(value)


@pytest.mark.parametrize(
    "knob",
    [
        Knob("quality", 1, 100, 1, True),
        Knob("qp", 0, 51, 1, False),
        Knob("ratio", 1, 1000, 0.05, False, logarithmic=True),
        Knob("rank", 1, 1024, 1, True, logarithmic=True),
    ],
    ids=lambda knob: knob.field,
)
def test_knob_grid(knob: Knob) -> None:
    ends = {knob.value(0), knob.value(knob.last_index)}
    assert ends == {knob.low, knob.high}
    coordinates = [knob.coordinate(i) for i in range(0, knob.last_index + 1, 7)]
    assert coordinates == sorted(coordinates)
    for index in range(0, knob.last_index + 1, 13):
        assert knob.index_at(knob.coordinate(index)) == index
    assert knob.index_at(1e9) == knob.last_index
    assert knob.index_at(-1e9) == 0
