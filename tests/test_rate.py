"""Rate control: targets are met within tolerance, or the result says why not."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import photograph_like
from hypothesis import given, settings
from hypothesis import strategies as st

from imagecompression import (
    CODECS,
    CodecError,
    Jpeg,
    Jpeg2000,
    Knob,
    Lossless,
    RateSearch,
    RatioTarget,
    SsimTarget,
    encode_to_target,
)
from imagecompression.metrics import compression_ratio, ssim
from imagecompression.rate import MAX_ENCODES

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
    alone = encode_to_target(rgb, Jpeg2000(), RatioTarget(14)).encodes
    assert search.to(RatioTarget(14)).encodes < alone


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
