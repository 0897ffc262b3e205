"""Signs of whole pictures in the verdict: what they rule out, and what they leave alone."""

from __future__ import annotations

from pathlib import Path

import brightness_run
import numpy as np
import pytest
from conftest import photograph_like

from imagecompression import Avif, Codec, Image, Jpeg, Jpeg2000, JpegXr, KMeans, Lossless, Svd
from imagecompression.evidence.common_comb import SOME_CODEC
from imagecompression.evidence.hevc_intra import HEVC
from imagecompression.evidence.pixel_evidence import pixel_evidence
from train.classification import classify
from train.decisive_signs import MISSED, RULED_OUT, DecisiveSign, decisive_sign, sign_in
from train.verdict import as_json, verdict_from_patches

LABELS = ["uncompressed", "jpeg", "jpegxr", "bpg"]
PICTURE = photograph_like(400, 480, 3)


SMOOTH = photograph_like(800, 960, 3).reshape(400, 2, 480, 2, 3).mean((1, 3)).astype(np.uint8)


def through(codec: Codec, picture: Image = PICTURE) -> Image:
    """A picture from a file, off its grid."""
    return codec.decode(codec.encode(picture))[3:, 6:]


@pytest.mark.parametrize(
    ("opinion", "labels", "possible"),
    [
        (None, LABELS, [1, 1, 1, 1]),
        (SOME_CODEC, LABELS, [0, 1, 1, 1]),
        ("jpegxr", LABELS, [0, 1, 1, 0]),
        ("jpegxr", ["uncompressed", "jpeg", "bpg"], [0, 1, 1]),  # not known to the run
        ("svd", ["uncompressed", "svd", "bpg"], [0, 1, 0]),
        (SOME_CODEC, ["jpeg", "bpg"], [1, 1]),
        (HEVC, ["uncompressed", "jpeg", "bpg", "heic", "avif"], [0, 1, 1, 1, 0]),
        (HEVC, ["uncompressed", "jpeg", "avif"], [0, 1, 1]),  # no class of the run
    ],
)
def test_what_a_sign_rules_out(opinion: str | None, labels: list[str], possible: list[int]) -> None:
    expected = [1.0 if one else RULED_OUT for one in possible]
    assert DecisiveSign(opinion).factors(labels).tolist() == expected
    applied = DecisiveSign(opinion).applied(np.full(len(labels), 1 / len(labels)), labels)
    assert applied.sum() == pytest.approx(1)
    assert (applied == applied.max()).tolist() == [bool(one) for one in possible]


def test_signs_of_files_and_of_none() -> None:
    assert decisive_sign(PICTURE[:20]) == DecisiveSign()
    for picture in (PICTURE, SMOOTH):
        sign = decisive_sign(picture)
        assert (sign.opinion, sign.missed) == (None, "jpeg2000")
    assert decisive_sign(PICTURE[:180]) == DecisiveSign()  # too small to miss anything
    assert decisive_sign(through(JpegXr(quality=90))).opinion == "jpegxr"
    assert decisive_sign(through(Jpeg2000(ratio=5))).opinion == "jpeg2000"
    for codec in (Svd(step=3), Svd(step=3, block=4)):
        sign = decisive_sign(through(codec, SMOOTH))
        assert (sign.opinion, "blocks" in sign.reason) == ("svd", True)
    sign = decisive_sign(through(Avif(quality=90)))
    assert sign.opinion == SOME_CODEC
    assert "row 5, column 2" in sign.reason


@pytest.mark.parametrize(
    "codec", [Lossless(), JpegXr(quality=90), Jpeg2000(ratio=5), KMeans(), Avif(quality=90)]
)
def test_evidence_taken_once_gives_the_same_sign(codec: Codec) -> None:
    picture = through(codec)
    evidence = pixel_evidence(picture)
    assert sign_in(evidence) == decisive_sign(picture)
    assert (
        tuple(one for sign in evidence.signs.values() for one in sign.findings)
        == (
            evidence.findings[2:]  # after the inset's and the enlargement's
        )
    )


@pytest.mark.parametrize("colors", [16, 256])
def test_a_palette_is_seen_in_a_crop(colors: int) -> None:
    decoded = KMeans.decode(KMeans(colors=colors).encode(PICTURE))
    assert decisive_sign(decoded[3:303, 5:305]).opinion == "kmeans"


def test_svd_of_the_whole_picture_by_factors_and_in_a_crop_by_rank() -> None:
    codec = Svd(mode="global", step=8)
    decoded = codec.decode(codec.encode(SMOOTH))
    whole, crop = decisive_sign(decoded), decisive_sign(decoded[40:, :380])
    assert (whole.opinion, "entries" in whole.reason) == ("svd", True)
    assert (crop.opinion, "singular values" in crop.reason) == ("svd", True)


def test_a_verdict_tells_what_took_the_networks_answer_back() -> None:
    patches = [[0.7, 0.05, 0.05, 0.2], [0.6, 0.05, 0.05, 0.3]]
    plain = verdict_from_patches(patches, LABELS)
    assert (plain.label, plain.network_label, plain.reason) == ("uncompressed", None, "")
    found = verdict_from_patches(patches, LABELS, sign=DecisiveSign(SOME_CODEC, "A comb."))
    assert (found.answer, found.network_label) == ("bpg", "uncompressed")
    assert found.reason == "The network alone says uncompressed. A comb."
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert as_json(found)["network_label"] == "uncompressed"
    agreed = verdict_from_patches(
        [[0.1, 0.1, 0.1, 0.7]], LABELS, sign=DecisiveSign(SOME_CODEC, "A")
    )
    assert (agreed.answer, agreed.network_label, agreed.reason) == ("bpg", None, "")


def test_a_sign_of_a_codec_that_the_run_does_not_know() -> None:
    sign = DecisiveSign("avif", "A comb.")
    patches = [[0.1, 0.1, 0.1, 0.7]]
    found = verdict_from_patches(patches, LABELS, sign=sign)
    assert (found.answer, found.label, found.known) == ("unknown", LABELS[3], False)
    assert found.reason == "A comb. That is none of the classes that this run knows."
    known = verdict_from_patches(patches, [*LABELS[:3], "avif"], sign=sign)
    assert (known.answer, known.reason) == ("avif", "")
    jpeg = LABELS.index("jpeg")
    shows_any = [[0.9 if place == jpeg else 0.03 for place in range(len(LABELS))]]
    assert verdict_from_patches(shows_any, LABELS, sign=sign).answer == "jpeg"


def test_a_missing_sign_makes_its_codec_less_likely() -> None:
    labels = ["uncompressed", "jpeg2000", "bpg"]
    missing = DecisiveSign(None, "No zeros.", "jpeg2000")
    assert missing.factors(labels).tolist() == [1, MISSED, 1]
    assert missing.factors(["jpeg"]).tolist() == [1]
    both = DecisiveSign(SOME_CODEC, "A comb.", "jpeg2000")
    assert both.factors(labels).tolist() == [RULED_OUT, MISSED, 1]
    unsure = verdict_from_patches([[0.3, 0.7, 0.0]], labels, sign=missing)
    assert (unsure.answer, unsure.network_label) == ("uncompressed", "jpeg2000")
    assert unsure.reason == "The network alone says jpeg2000. No zeros."
    sure = verdict_from_patches([[0.01, 0.99, 0.0]], labels, sign=missing)
    assert (sure.answer, sure.reason) == ("jpeg2000", "")


def test_zeros_of_jpeg2000_stay_where_its_comb_does_not() -> None:
    sign = decisive_sign(through(Jpeg(quality=95), through(Jpeg2000(ratio=40))))
    assert (sign.opinion, sign.missed) == ("jpeg2000", None)
    assert "zeros" in sign.reason


def test_a_sure_network_is_not_overruled_by_one_sign() -> None:
    sure = verdict_from_patches([[1.0, 0.0, 0.0, 1e-7]], LABELS, sign=DecisiveSign(SOME_CODEC, "A"))
    assert sure.answer == "uncompressed"
    less = verdict_from_patches([[1.0, 0.0, 0.0, 1e-5]], LABELS, sign=DecisiveSign(SOME_CODEC, "A"))
    assert less.answer == "bpg"


def test_classify_heeds_signs(tmp_path: Path) -> None:
    run = brightness_run.write_run(tmp_path / "run")
    dim = (PICTURE * (118 / PICTURE.mean())).clip(0, 255).astype(np.uint8)
    before, after = classify(dim, run), classify(Avif.decode(Avif(quality=90).encode(dim)), run)
    assert (before.label, before.network_label) == ("uncompressed", None)
    assert (after.label, after.network_label) == ("jpeg", "uncompressed")
    assert after.reason.startswith("The network alone says uncompressed. Was compressed by a codec")
