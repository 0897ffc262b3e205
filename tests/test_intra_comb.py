"""The predictions of HEVC and AV1, and the combs that they leave in BPG, HEIC and AVIF alone."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import photograph_like

from imagecompression import Avif, Bpg, Codec, Heic, Image, Jpeg, JpegXl, Lossless, Svd, WebP
from imagecompression.evidence import av1_intra
from imagecompression.evidence.av1_intra import AV1_INTRA
from imagecompression.evidence.hevc_intra import (
    ACROSS,
    DOWN,
    HEVC,
    HEVC_INTRA,
    MEAN,
    PLANAR,
    STEPS,
    prediction,
)
from imagecompression.evidence.intra_coding import USUAL, IntraCoding
from imagecompression.evidence.intra_comb import IntraComb, intra_combs
from imagecompression.evidence.pixel_evidence import pixel_evidence
from imagecompression.thread_limit import one_thread
from train.decisive_signs import decisive_sign

PICTURE = photograph_like(400, 480, 3)
SIDE = av1_intra.SIDE
AROUND = 4 * SIDE + 1
NOISY = np.clip(
    PICTURE + np.random.default_rng(3).normal(0, 3, (400, 480, 1)).round(), 1, 254
).astype(np.uint8)


def found(codec: Codec, picture: Image = NOISY) -> tuple[IntraComb, ...]:
    """The combs of HEVC and AV1 in a picture from a file, cut off its grid."""
    return combs_of(codec.decode(codec.encode(picture))[3:, 6:])


def combs_of(*windows: Image) -> tuple[IntraComb, ...]:
    with one_thread():
        return intra_combs(windows)


def around(value: np.ndarray) -> np.ndarray:
    """Samples around the block at row 8, column 8 of a plane, as predictions take them."""
    left, top = value[8 : 8 + 2 * SIDE, 7][::-1], value[7, 8 : 8 + 2 * SIDE]
    return np.concatenate([left, [value[7, 7]], top])


def test_predictions_of_planes() -> None:
    """A slope is predicted by the plane and along its lines."""
    rows, columns = np.indices((24, 24)).astype(float)
    block = (slice(8, 16), slice(8, 16))
    for plane, modes in (
        (columns, (DOWN,)),
        (rows, (ACROSS,)),
        (rows + columns, (2, 34)),
        (rows - columns, (18,)),
    ):
        for mode in modes:
            guess = (prediction(mode, SIDE) @ around(plane)).reshape(SIDE, SIDE)
            if mode in (DOWN, ACROSS):
                assert np.allclose(guess, plane[block])
            else:  # smoothing bends the ends, and the corner of the falling slope
                assert np.allclose(guess[2:6, 2:6], plane[block][2:6, 2:6], atol=0.3)


@pytest.mark.parametrize(("coding", "side"), [(HEVC_INTRA, 4), (HEVC_INTRA, 8), (AV1_INTRA, 8)])
def test_predictions_keep_constants(coding: IntraCoding, side: int) -> None:
    block = np.full((1, side**2), 9, np.float32)
    blank = np.full((1, 4 * side + 1), 9, np.float32)
    left = coding.block(side).residuals(block, blank, 500, exact=False)
    assert left.shape[1] > 20
    assert np.allclose(left, 0, atol=1e-3)


def test_predictions_by_hand() -> None:
    samples = np.random.default_rng(0).integers(0, 256, AROUND).astype(float)
    left, corner, top = samples[:16][::-1], samples[16], samples[17:]
    mean = (left[:8].sum() + top[:8].sum()) / 16
    guess = (prediction(MEAN, SIDE) @ samples).reshape(SIDE, SIDE)
    assert guess[3, 4] == pytest.approx(mean)
    assert guess[0, 0] == pytest.approx((left[0] + 2 * mean + top[0]) / 4)
    assert guess[0, 5] == pytest.approx((top[5] + 3 * mean) / 4)
    guess = (prediction(DOWN, SIDE) @ samples).reshape(SIDE, SIDE)
    assert guess[5, 3] == pytest.approx(top[3])
    assert guess[5, 0] == pytest.approx(top[0] + (left[5] - corner) / 2)
    guess = (prediction(30, SIDE) @ samples).reshape(SIDE, SIDE)  # 13/32 to the right a row
    assert guess[0, 0] == pytest.approx((19 * top[0] + 13 * top[1]) / 32)
    assert guess[7, 2] == pytest.approx((24 * top[5] + 8 * top[6]) / 32)  # 8·13 = 3·32 + 8
    guess = (prediction(22, SIDE) @ samples).reshape(SIDE, SIDE)  # 13/32 to the left a row
    assert guess[0, 0] == pytest.approx((13 * corner + 19 * top[0]) / 32)
    assert guess[4, 0] == pytest.approx((left[4] + 31 * left[1]) / 32)  # 5·13 = 2·32 + 1


def test_the_plane_is_between_smoothed_borders() -> None:
    samples = np.random.default_rng(1).integers(0, 256, AROUND).astype(float)
    smooth = samples.copy()
    smooth[1:-1] = np.convolve(samples, [0.25, 0.5, 0.25], "valid")
    left, top = smooth[:16][::-1], smooth[17:]
    guess = (prediction(PLANAR, SIDE) @ samples).reshape(SIDE, SIDE)
    assert guess[6, 2] == pytest.approx((5 * left[6] + 3 * top[8] + top[2] + 7 * left[8]) / 16)


def test_small_blocks_are_not_smoothed() -> None:
    samples = np.random.default_rng(2).integers(0, 256, 17).astype(float)
    left, top = samples[:8][::-1], samples[9:]
    guess = (prediction(PLANAR, 4) @ samples).reshape(4, 4)
    assert guess[2, 1] == pytest.approx((2 * left[2] + 2 * top[4] + top[1] + 3 * left[4]) / 8)
    guess = (prediction(34, 4) @ samples).reshape(4, 4)
    assert guess[1, 2] == pytest.approx(top[4])


def av1(kind: str, *arguments: object) -> np.ndarray:
    """A prediction of AV1 for blocks of 8×8."""
    matrix = getattr(av1_intra._Borders.of(), kind)(*arguments)
    return np.asarray(matrix).reshape(SIDE**2, AROUND)


def test_av1_predictions_by_hand() -> None:
    samples = np.random.default_rng(4).integers(0, 256, AROUND).astype(float)
    left, corner, top = samples[:16][::-1], samples[16], samples[17:]
    guess = (av1("mean") @ samples).reshape(SIDE, SIDE)
    assert guess == pytest.approx((left[:8].sum() + top[:8].sum()) / 16)
    for angle, expected in ((90, np.tile(top[:8], (8, 1))), (180, np.tile(left[:8, None], 8))):
        assert np.allclose((av1("direction", angle) @ samples).reshape(8, 8), expected)
    smooth = list(av1_intra._Borders.of().smooth())[1].reshape(SIDE**2, AROUND)
    guess = (smooth @ samples).reshape(SIDE, SIDE)
    assert guess[2, 5] == pytest.approx((146 * top[5] + 110 * left[7]) / 256)
    # 45 degrees: samples above are filtered with (4, 8, 4)/16
    guess = (av1("direction", 45) @ samples).reshape(SIDE, SIDE)
    assert guess[1, 2] == pytest.approx((top[3] + 2 * top[4] + top[5]) / 4)
    # 113 degrees, 27/64 to the left a row: samples above, by less than 40 degrees, are doubled
    guess = (av1("direction", 113) @ samples).reshape(SIDE, SIDE)
    half = (9 * (corner + top[0]) - corner - top[1]) / 16
    assert guess[0, 0] == pytest.approx((half * 27 + top[0] * 5) / 32)


def test_av1_nearest_sample() -> None:
    """Of left, above and corner that which is nearest to left + above - corner."""
    around = np.zeros((1, AROUND), np.float32)
    around[0, 17:] = 100  # above; left and corner are 0, so above is the guess itself
    block = np.full((1, 64), 100, np.float32)
    left = AV1_INTRA.block(SIDE).residuals(block, around, 1, exact=True)
    assert np.allclose(left, 0, atol=1e-3)


def test_usual_predictions_are_some() -> None:
    block, blank = np.zeros((1, 64), np.float32), np.zeros((1, AROUND), np.float32)
    some = AV1_INTRA.block(SIDE).residuals(block, blank, 500, exact=False, kind=USUAL)
    every = AV1_INTRA.block(SIDE).residuals(block, blank, 500, exact=False)
    assert some.shape[1] == 2 * 12  # predictions and two transforms
    assert every.shape[1] > 4 * 150


@pytest.mark.parametrize(("depth", "quantiser"), [(8, 12), (8, 20), (10, 20)])
def test_bpg(depth: int, quantiser: int) -> None:
    comb, rival = found(Bpg(qp=quantiser, bit_depth=depth))
    assert comb.decisive and not rival.decisive
    assert (comb.row, comb.column) == (5, 2)
    assert comb.quantiser == quantiser - 3  # x265 lowers it in pictures that stand alone
    assert (comb.exact, comb.varied) == (depth == 8, False)
    assert "one step" in comb.reason and "HEVC" in comb.reason


def test_heic() -> None:
    comb, rival = found(Heic(quality=70))
    assert comb.decisive and comb.exact and not rival.decisive
    assert (comb.row, comb.column) == (5, 2)


@pytest.mark.parametrize("depth", [8, 10])
def test_avif(depth: int) -> None:
    rival, comb = found(Avif(quality=80, tune="psnr", bit_depth=depth))
    assert comb.decisive and not rival.decisive
    assert (comb.row, comb.column) == (5, 2)
    assert comb.exact == (depth == 8)
    assert comb.quantiser is None
    assert "AV1" in comb.reason


@pytest.mark.parametrize(
    "codec",
    [
        Lossless(),
        Jpeg(quality=90),
        JpegXl(distance=0.5),
        WebP(quality=90),
        Svd(step=3),
    ],
)
@pytest.mark.parametrize("picture", [PICTURE, NOISY])
def test_no_other_codec_has_it(codec: Codec, picture: Image) -> None:
    for comb in found(codec, picture):
        assert not comb.decisive
        assert comb.nats < 30


def test_small_gray_flat_and_clipped_pictures() -> None:
    gray = NOISY[..., 1]
    decoded = Bpg(qp=18, bit_depth=8).decode(Bpg(qp=18, bit_depth=8).encode(gray))
    assert combs_of(decoded[3:, 6:])[0].decisive
    two = [decoded[3:200, 6:], decoded[3:, 246:]]  # windows of one grid
    assert combs_of(*two)[0].decisive
    crop, _ = combs_of(decoded[3:67, 6:70])
    assert crop.decisive
    assert crop.blocks < 300
    for blank in (np.full((64, 64, 3), 9, np.uint8), np.zeros((80, 70), np.uint8)):
        for comb in combs_of(blank):
            assert (comb.blocks, comb.decisive) == (0, False)
            assert comb.nats == pytest.approx(0, abs=1e-6)


def test_steps_are_hevcs() -> None:
    assert STEPS[6:12] == pytest.approx(2 * STEPS[:6])
    assert STEPS[3] == 1.25  # quantiser 6: 40/64 doubled


def test_opinion_and_sign() -> None:
    labels = ["uncompressed", "jpeg", "bpg", "heic", "avif"]
    for codec, opinion, left in (
        (Bpg(qp=20), HEVC, [1e-6, 1, 1, 1, 1e-6]),
        (Heic(quality=70), HEVC, [1e-6, 1, 1, 1, 1e-6]),
        (Avif(quality=80, tune="psnr"), "avif", [1e-6, 1, 1e-6, 1e-6, 1]),
    ):
        decoded = codec.decode(codec.encode(NOISY))[3:, 6:]
        assert pixel_evidence(decoded).opinion == opinion
        assert decisive_sign(decoded).factors(labels) == pytest.approx(left)
