"""HEVC's prediction, and the comb that it leaves in BPG and HEIC alone."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import photograph_like

from imagecompression import Avif, Bpg, Codec, Heic, Image, Jpeg, JpegXl, Lossless, Svd, WebP
from imagecompression.evidence.intra_comb import HEVC, STEPS, IntraComb, intra_comb
from imagecompression.evidence.intra_prediction import (
    ACROSS,
    AROUND,
    DOWN,
    MEAN,
    PLANAR,
    SIDE,
    flat_predictions,
    prediction,
    predictions,
)
from imagecompression.evidence.pixel_evidence import pixel_evidence
from train.decisive_signs import decisive_sign

PICTURE = photograph_like(400, 480, 3)
NOISY = np.clip(
    PICTURE + np.random.default_rng(3).normal(0, 3, (400, 480, 1)).round(), 1, 254
).astype(np.uint8)


def found(codec: Codec, picture: Image = NOISY) -> IntraComb:
    """The comb of a picture from a file, cut off its grid."""
    return intra_comb([codec.decode(codec.encode(picture))[3:, 6:]])


def around(value: np.ndarray) -> np.ndarray:
    """Samples around the block at row 8, column 8 of a plane, as predictions take them."""
    left, top = value[8 : 8 + 2 * SIDE, 7][::-1], value[7, 8 : 8 + 2 * SIDE]
    return np.concatenate([left, [value[7, 7]], top])


def test_predictions_of_planes() -> None:
    """A constant is predicted by all, and a slope by the plane and along its lines."""
    matrices = predictions()
    assert matrices.shape[1:] == (SIDE * SIDE, AROUND)
    assert np.allclose(matrices.sum(axis=2), 1)
    rows, columns = np.indices((24, 24)).astype(float)
    block = (slice(8, 16), slice(8, 16))
    for plane, modes in (
        (columns, (DOWN,)),
        (rows, (ACROSS,)),
        (rows + columns, (2, 34)),
        (rows - columns, (18,)),
    ):
        for mode in modes:
            guess = (prediction(mode) @ around(plane)).reshape(SIDE, SIDE)
            if mode in (DOWN, ACROSS):
                assert np.allclose(guess, plane[block])
            else:  # smoothing bends the ends, and the corner of the falling slope
                assert np.allclose(guess[2:6, 2:6], plane[block][2:6, 2:6], atol=0.3)


def test_predictions_by_hand() -> None:
    samples = np.random.default_rng(0).integers(0, 256, AROUND).astype(float)
    left, corner, top = samples[:16][::-1], samples[16], samples[17:]
    mean = (left[:8].sum() + top[:8].sum()) / 16
    guess = (prediction(MEAN) @ samples).reshape(SIDE, SIDE)
    assert guess[3, 4] == pytest.approx(mean)
    assert guess[0, 0] == pytest.approx((left[0] + 2 * mean + top[0]) / 4)
    assert guess[0, 5] == pytest.approx((top[5] + 3 * mean) / 4)
    guess = (prediction(DOWN) @ samples).reshape(SIDE, SIDE)
    assert guess[5, 3] == pytest.approx(top[3])
    assert guess[5, 0] == pytest.approx(top[0] + (left[5] - corner) / 2)
    guess = (prediction(30) @ samples).reshape(SIDE, SIDE)  # 13/32 to the right a row
    assert guess[0, 0] == pytest.approx((19 * top[0] + 13 * top[1]) / 32)
    assert guess[7, 2] == pytest.approx((24 * top[5] + 8 * top[6]) / 32)  # 8·13 = 3·32 + 8
    guess = (prediction(22) @ samples).reshape(SIDE, SIDE)  # 13/32 to the left a row
    assert guess[0, 0] == pytest.approx((13 * corner + 19 * top[0]) / 32)
    assert guess[4, 0] == pytest.approx((left[4] + 31 * left[1]) / 32)  # 5·13 = 2·32 + 1


def test_the_plane_is_between_smoothed_borders() -> None:
    samples = np.random.default_rng(1).integers(0, 256, AROUND).astype(float)
    smooth = samples.copy()
    smooth[1:-1] = np.convolve(samples, [0.25, 0.5, 0.25], "valid")
    left, top = smooth[:16][::-1], smooth[17:]
    guess = (prediction(PLANAR) @ samples).reshape(SIDE, SIDE)
    assert guess[6, 2] == pytest.approx((5 * left[6] + 3 * top[8] + top[2] + 7 * left[8]) / 16)


def test_flat_predictions_are_the_mean_and_both_axes() -> None:
    matrices = predictions()[flat_predictions()]
    assert [
        mode
        for mode in range(35)
        if any(np.allclose(prediction(mode), one, atol=1e-6) for one in matrices)
    ] == [MEAN, ACROSS, DOWN]


@pytest.mark.parametrize(("depth", "quantiser"), [(8, 12), (8, 20), (10, 20)])
def test_bpg(depth: int, quantiser: int) -> None:
    comb = found(Bpg(qp=quantiser, bit_depth=depth))
    assert comb.decisive
    assert (comb.row, comb.column) == (5, 2)
    assert comb.quantiser == quantiser - 3  # x265 lowers it in pictures that stand alone
    assert (comb.exact, comb.varied) == (depth == 8, False)
    assert "one step" in comb.reason


def test_heic() -> None:
    comb = found(Heic(quality=70))
    assert comb.decisive and comb.exact
    assert (comb.row, comb.column) == (5, 2)


@pytest.mark.parametrize(
    "codec",
    [
        Lossless(),
        Jpeg(quality=90),
        JpegXl(distance=0.5),
        WebP(quality=90),
        Avif(quality=90),
        Svd(step=3),
    ],
)
@pytest.mark.parametrize("picture", [PICTURE, NOISY])
def test_no_other_codec_has_it(codec: Codec, picture: Image) -> None:
    comb = found(codec, picture)
    assert not comb.decisive
    assert comb.nats < 30


def test_small_gray_flat_and_clipped_pictures() -> None:
    gray = NOISY[..., 1]
    decoded = Bpg(qp=18, bit_depth=8).decode(Bpg(qp=18, bit_depth=8).encode(gray))
    assert intra_comb([decoded[3:, 6:]]).decisive
    assert intra_comb([decoded[3:200, 6:], decoded[3:, 246:]]).decisive  # two windows of one grid
    crop = intra_comb([decoded[3:67, 6:70]])
    assert crop.blocks < 40
    for blank in (np.full((64, 64, 3), 9, np.uint8), np.zeros((80, 70), np.uint8)):
        comb = intra_comb([blank])
        assert (comb.blocks, comb.nats, comb.decisive) == (0, 0.0, False)


def test_steps_are_hevcs() -> None:
    assert STEPS[6:12] == pytest.approx(2 * STEPS[:6])
    assert STEPS[0] == 1.25  # quantiser 6: 40/64 doubled


def test_opinion_and_sign() -> None:
    for codec in (Bpg(qp=20), Heic(quality=70)):
        decoded = codec.decode(codec.encode(NOISY))[3:, 6:]
        assert pixel_evidence(decoded).opinion == HEVC
        sign = decisive_sign(decoded)
        factors = sign.factors(["uncompressed", "jpeg", "bpg", "heic", "avif"])
        assert factors == pytest.approx([1e-6, 1, 1, 1, 1e-6])
