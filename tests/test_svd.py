"""The SVD codec and its container; what holds for every codec is in test_codecs.py."""

from __future__ import annotations

import hashlib
import json
import lzma
import struct
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import photograph_like
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from imagecompression import global_svd, patch_svd
from imagecompression.codec import CodecError
from imagecompression.metrics import psnr, ssim
from imagecompression.rate import RatioTarget, SsimTarget, encode_to_target
from imagecompression.svd import Svd
from imagecompression.svd_search import CANDIDATES, best_svd

GOLDEN = Path(__file__).parent / "golden"
VERSION_1 = (GOLDEN / "svd.svd").read_bytes()
SETTINGS = (
    Svd(),
    Svd(block=4, step=6, subsampling="4:2:0"),
    Svd(block=16, step=40),
    Svd(mode="global"),
    Svd(mode="global", step=4, subsampling="4:2:0", chroma_step=2),
)
FILES = tuple(
    setting.encode(photograph_like(*shape))
    for setting in SETTINGS
    for shape in ((33, 40, 3), (37, 22, 1))
)


def repaired(data: bytes) -> bytes:
    """`data` with the checksum it should have, as a careful attacker would write it."""
    end = 14 + 2 * data[5] if data[4] == 1 else 20 + 2 * data[6]
    if len(data) < end + 4:
        return data
    payload = data[end + 4 :]
    return data[:end] + struct.pack("<I", zlib.crc32(payload, zlib.crc32(data[:end]))) + payload


def with_header(
    block: int = 8,
    planes: int = 3,
    halved: int = 0,
    size: tuple[int, int] = (40, 33),
    steps: tuple[int, int] = (20_480, 20_480),
    payload: bytes = FILES[0][30:],
) -> bytes:
    """A file of version 2 with the given header fields and the right checksum."""
    header = struct.pack("<4sBBBBHHII", b"\x8fSVD", 2, block, planes, halved, *size, *steps)
    return repaired(header + bytes(2 * planes + 4) + payload)


def version_1(
    size: tuple[int, int] = (3, 2),
    ranks: tuple[int, ...] = (2,),
    step: float = 1.0,
    stream: bytes = b"",
) -> bytes:
    """A file of version 1 with the right checksum around a payload that is compressed here."""
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 16, "lc": 0, "lp": 0, "pb": 0}]
    header = struct.pack("<4sBBHHf", b"\x8fSVD", 1, len(ranks), *size, step)
    header += struct.pack(f"<{len(ranks)}HI", *ranks, 0)
    return repaired(header + lzma.compress(stream, lzma.FORMAT_RAW, filters=filters))


# --- fidelity and size -----------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 5, 20])
def test_global_mode_is_the_truncated_svd(gray: np.ndarray, rank: int) -> None:
    plane = gray - gray.mean()
    strengths = np.linalg.svd(plane, compute_uv=False)
    best = 10 * np.log10(255**2 * plane.size / (strengths[rank:] ** 2).sum())
    data = Svd(mode="global", rank=rank, step=1.0).encode(gray)
    assert psnr(gray, Svd.decode(data)) == pytest.approx(best, abs=0.1)


def test_the_step_decides_how_many_terms_the_global_mode_keeps(gray: np.ndarray) -> None:
    strengths = np.linalg.svd(gray - gray.mean(), compute_uv=False)
    for rank in (3, 12, 30):
        step = 1.5 * float(strengths[rank - 1 : rank + 1].mean()) / np.sqrt(max(gray.shape))
        kept = Svd(mode="global", step=step).encode(gray)
        assert kept == Svd(mode="global", step=step, rank=rank).encode(gray)
        assert kept != Svd(mode="global", step=step, rank=rank - 1).encode(gray)


def test_patch_mode_beats_global_mode(rgb: np.ndarray) -> None:
    # The generated picture has rows and columns of one kind, which suits the global mode; sheared,
    # its structures lie obliquely, as a photograph's do.
    rows, columns = np.mgrid[0:144, 0:200]
    sheared = rgb[rows, (columns + rows) % 200]
    for ratio in (12, 25, 50):
        patch, whole = (
            encode_to_target(sheared, Svd(mode=mode), RatioTarget(ratio))
            for mode in ("patch", "global")
        )
        assert len(patch.data) < 1.05 * len(whole.data)
        gain = psnr(sheared, Svd.decode(patch.data)) - psnr(sheared, Svd.decode(whole.data))
        assert gain > 2


def test_the_basis_is_the_pictures_own() -> None:
    """Blocks of one odd pattern need one term, whatever the pattern."""
    rng = np.random.default_rng(3)
    pattern = rng.choice((-1.0, 1.0), (8, 8))
    weights = rng.uniform(-40, 40, (12, 15))
    picture = np.rint(128 + np.kron(weights, pattern)).astype(np.uint8)
    one = Svd(rank=1, step=4).encode(picture)
    assert psnr(picture, Svd.decode(one)) > 42
    assert len(one) < 350


@pytest.mark.parametrize("mode", ["patch", "global"])
def test_rank_caps_the_terms(rgb: np.ndarray, mode: str) -> None:
    files = [Svd(mode=mode, step=2, rank=rank).encode(rgb) for rank in (1, 2, 6, 20, 60, 1024)]
    sizes = [len(data) for data in files]
    assert sizes == sorted(set(sizes))
    fidelity = [psnr(rgb, Svd.decode(data)) for data in files]
    assert fidelity == sorted(fidelity)
    assert fidelity[-1] > 40


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_size_and_fidelity_rise_as_the_step_falls(setting: Svd, rgb: np.ndarray) -> None:
    files = [setting.with_knob(step).encode(rgb) for step in (512, 90, 40, 17, 7, 2, 0.5)]
    sizes = [len(data) for data in files]
    assert sizes == sorted(sizes)
    fidelity = [psnr(rgb, Svd.decode(data)) for data in files]
    assert (np.diff(fidelity) > -0.1).all(), fidelity
    assert fidelity[-1] > (35 if setting.subsampling == "4:2:0" else 48)


def test_chroma_step_moves_bits_from_chroma_to_luma(rgb: np.ndarray) -> None:
    fine, coarse = (Svd(chroma_step=factor).encode(rgb) for factor in (1, 4))
    assert len(coarse) < len(fine)
    assert ssim(rgb, Svd.decode(coarse)) > ssim(rgb, Svd.decode(fine)) - 0.01


@pytest.mark.parametrize("value", [0, 1, 77, 128, 255])
@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (40, 30), (41, 31, 3)], ids=str)
@pytest.mark.parametrize(
    "setting", [*SETTINGS, Svd(step=512), Svd(mode="global", step=512)], ids=str
)
def test_a_constant_picture_is_exact_and_tiny(
    setting: Svd, value: int, shape: tuple[int, ...]
) -> None:
    picture = np.full(shape, value, np.uint8)
    data = setting.encode(picture)
    assert len(data) < 50
    assert np.array_equal(Svd.decode(data), picture)


@pytest.mark.parametrize("mode", ["patch", "global"])
def test_extreme_pictures_stay_within_the_levels(mode: str) -> None:
    line = np.zeros((3, 40_000), np.uint8)
    line[1] = 255
    noise = np.random.default_rng(0).integers(0, 2, (64, 65, 3), np.uint8) * 255
    for picture in (line, noise):
        setting = Svd(mode=mode, step=0.5)
        assert np.abs(Svd.decode(setting.encode(picture)).astype(int) - picture).max() <= 3


def test_primaries_keep_their_colour() -> None:
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 0, 0]], np.uint8)
    picture = np.repeat(np.repeat(colours[None], 16, axis=0), 16, axis=1)
    for setting in (Svd(step=1), Svd(step=1, subsampling="4:2:0"), Svd(step=1, mode="global")):
        decoded = Svd.decode(setting.encode(picture)).astype(int)
        centres = np.abs(decoded - picture)[:, [8, 24, 40, 56, 72]]
        assert centres.max() <= 2


def test_sides_beyond_the_header_are_refused() -> None:
    with pytest.raises(CodecError, match="65535"):
        Svd().encode(np.zeros((65_536, 1), np.uint8))


@pytest.mark.parametrize("mode", ["patch", "global"])
def test_the_second_encode_of_a_picture_is_the_same(
    rgb: np.ndarray, gray: np.ndarray, mode: str
) -> None:
    # The decomposition is kept between encodes; another picture, another shape of the same bytes,
    # or another block size must not be served from it.
    setting = Svd(mode=mode)
    first = setting.encode(rgb)
    flat = rgb.reshape(rgb.shape[0], -1)
    for other in (gray, flat, rgb.reshape(rgb.shape[1], rgb.shape[0], 3)):
        assert Svd.decode(setting.encode(other)).shape == other.shape
    for other in (Svd(mode=mode, block=4), Svd(mode=mode, subsampling="4:2:0")):
        assert Svd.decode(other.encode(rgb)).shape == rgb.shape
    assert setting.encode(rgb) == first


# --- search ----------------------------------------------------------------------------------


def test_best_svd_meets_a_ratio_with_the_best_candidate(rgb: np.ndarray) -> None:
    rgb = rgb[:96, :120]
    candidates = CANDIDATES[:3]
    best = best_svd(rgb, RatioTarget(30), candidates=candidates)
    assert best.reached
    assert best.measured == pytest.approx(30, rel=Svd.ratio_tolerance)
    for candidate in candidates:
        other = encode_to_target(rgb, candidate, RatioTarget(30))
        assert psnr(rgb, Svd.decode(best.data)) >= psnr(rgb, Svd.decode(other.data))


def test_best_svd_meets_an_ssim_with_the_smallest_file(rgb: np.ndarray) -> None:
    rgb = rgb[:96, :120]
    candidates = CANDIDATES[:2]
    best = best_svd(rgb, SsimTarget(0.8), candidates=candidates)
    assert best.reached
    assert ssim(rgb, Svd.decode(best.data)) == pytest.approx(0.8, abs=Svd.ssim_tolerance)
    others = [encode_to_target(rgb, candidate, SsimTarget(0.8)) for candidate in candidates]
    assert len(best.data) == min(len(other.data) for other in others)
    assert best.encodes == sum(other.encodes for other in others)


def test_best_svd_says_why_a_target_is_out_of_reach(gray: np.ndarray) -> None:
    best = best_svd(gray, RatioTarget(100_000), candidates=CANDIDATES[:2])
    assert not best.reached
    assert "out of reach" in best.reason
    for arguments in ({"measure": "mse"}, {"candidates": ()}):
        with pytest.raises(CodecError, match="Received"):
            best_svd(gray, RatioTarget(9), **arguments)  # type: ignore[arg-type]


# --- the format ------------------------------------------------------------------------------


def test_golden_files_decode_to_the_same_pixels() -> None:
    expected = json.loads((GOLDEN / "svd.json").read_text())
    assert {"svd.svd", "svd_patch.svd", "svd_patch_420.svd", "svd_global.svd"} == set(expected)
    for name, facts in expected.items():
        decoded = Svd.decode((GOLDEN / name).read_bytes())
        assert list(decoded.shape) == facts["shape"]
        assert hashlib.sha256(decoded.tobytes()).hexdigest() == facts["sha256"], name


def test_files_hold_a_byte_for_so_many_pixels() -> None:
    picture = np.full((1000, 1500), 9, np.uint8)
    data = Svd().encode(picture)
    assert len(data) < 800
    assert np.array_equal(Svd.decode(data), picture)
    with pytest.raises(CodecError, match="payload"):
        Svd.decode(repaired(data[:-100]))


@pytest.mark.parametrize("data", [*FILES, VERSION_1], ids=lambda data: f"{len(data)} bytes")
def test_truncated_files_are_refused(data: bytes) -> None:
    for length in (0, 3, 4, 5, 13, 14, 19, 20, 25, 26, 29, len(data) - 1):
        with pytest.raises(CodecError):
            Svd.decode(data[:length])
    with pytest.raises(CodecError, match="checksum"):
        Svd.decode(data + b"\0")
    with pytest.raises(CodecError, match="checksum"):
        Svd.decode(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (repaired(FILES[0][:4] + b"\x03" + FILES[0][5:]), "version 3"),
        (with_header(planes=2), "2 planes"),
        (with_header(size=(0, 33)), "Received"),
        (with_header(size=(65_535, 65_535)), "limit"),
        (with_header(size=(9000, 9000)), "payload"),
        (with_header(block=5), "blocks of 5"),
        (with_header(halved=2), "halving 2"),
        (with_header(planes=1, halved=1), "halving 1"),
        (with_header(steps=(0, 20_480)), "steps"),
        (with_header(steps=(20_480, 0)), "steps"),
        (with_header(steps=(2**32 - 1, 20_480)), "steps"),
        (version_1(size=(60_000, 1000), ranks=(800, 0, 0)), "pixels|entries"),
        (version_1(size=(20_000, 150), ranks=(150, 0, 0)), "entries"),
        (version_1(size=(2000, 2000), ranks=(50, 150, 150)), "entries|products"),
        (version_1(size=(4000, 4000), ranks=(0,)), "pixels"),
        (version_1(size=(900, 900), ranks=(145, 0, 0)), "payload"),
        (version_1(size=(20, 24), ranks=(21, 2, 2)), "ranks"),
        (version_1(step=float("nan")), "step"),
        (version_1(step=float("inf")), "step"),
        (version_1(step=0.0), "step"),
        (version_1(step=1e30, stream=struct.pack("<2fB", 1, 1, 0) + b"\1" * 20), "do not fit"),
        (version_1(stream=bytes(30)), "payload"),
    ],
)
def test_lying_headers_are_refused_quickly(data: bytes, message: str) -> None:
    start = time.process_time()
    with pytest.raises(CodecError, match=message):
        Svd.decode(data)
    assert time.process_time() - start < 2


CLAIMS: tuple[tuple[tuple[int, ...], int, dict[str, Any]], ...] = (
    ((2048, 4096, 3), 0, {}),
    ((2048, 2048, 3), 2, {"block": 4}),
    ((2896, 2896), 16, {}),
    ((2896, 2896), 60, {"block": 16}),
    ((1500, 1500), 180, {"mode": "global"}),
    ((60, 65_535), 8, {"mode": "global"}),
)


@pytest.mark.parametrize(("shape", "terms", "fields"), CLAIMS, ids=str)
def test_small_files_that_claim_much_are_decoded_quickly(
    shape: tuple[int, ...], terms: int, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a file of 4 kB can ask for at most: many empty terms of a large picture."""
    monkeypatch.setattr(patch_svd, "_useful_terms", lambda *_: np.arange(terms))
    monkeypatch.setattr(global_svd, "_useful_terms", lambda *_: terms)
    picture = np.full(shape, 77, np.uint8)
    picture[0, 0] = 90
    monkeypatch.setattr(global_svd, "decompose", _empty_terms)
    data = Svd(step=512, **fields).encode(picture)
    assert len(data) < 4200
    tracemalloc.start()
    start = time.process_time()
    decoded = Svd.decode(data)
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert decoded.shape == shape
    assert seconds < 4
    assert peak < 200_000_000


def _empty_terms(plane: np.ndarray) -> global_svd.Terms:
    """Terms of a plane that quantise to nothing."""
    count = min(global_svd.MAX_TERMS, *plane.shape)
    factors = np.zeros((count, sum(plane.shape)), np.float32)
    return global_svd.Terms(factors, np.ones(count, np.float32))


@given(st.data())
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_mutated_files_are_refused_or_decoded(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from((*FILES, VERSION_1))))
    places = st.tuples(st.integers(5, min(len(damaged), 200) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(places, min_size=1, max_size=4)):
        damaged[place] = value
    for candidate in (bytes(damaged), repaired(bytes(damaged))):
        try:
            decoded = Svd.decode(candidate)
        except CodecError:
            continue
        assert decoded.dtype == np.uint8
        assert decoded.ndim in (2, 3)


@given(
    st.binary(max_size=300),
    st.sampled_from((0, 4, 8, 16)),
    st.sampled_from(((1, 1), (7, 40), (65, 64), (1, 3000))),
)
@settings(max_examples=150, deadline=None)
def test_any_payload_is_refused_or_decoded(
    payload: bytes, block: int, size: tuple[int, int]
) -> None:
    for planes, halved in ((1, 0), (3, 0), (3, 1)):
        try:
            decoded = Svd.decode(with_header(block, planes, halved, size, payload=payload))
        except CodecError:
            continue
        assert decoded.shape[:2] == size[::-1]


@given(
    levels=st.binary(min_size=2 * 2 * 5, max_size=2 * 2 * 5),
    strengths=st.lists(st.floats(width=32), min_size=2, max_size=2),
    flags=st.integers(0, 255),
)
@example(levels=b"\xff" * 20, strengths=[1.0, 1.0], flags=255)
@example(levels=b"\0" * 20, strengths=[float("nan"), 1.0], flags=0)
@example(levels=b"\0" * 20, strengths=[1e-45, 1.0], flags=0)
@settings(max_examples=100, deadline=None)
def test_any_version_1_payload_is_refused_or_decoded(
    levels: bytes, strengths: list[float], flags: int
) -> None:
    data = version_1(stream=struct.pack("<2fB", *strengths, flags) + levels)
    try:
        decoded = Svd.decode(data)
    except CodecError:
        return
    assert decoded.shape == (2, 3)
    assert all(0 < strength < float("inf") for strength in strengths)


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": "block"}, {"step": 0.4}, {"step": 513}, {"step": float("nan")}, {"step": "1"},
        {"rank": 0}, {"rank": 1025}, {"rank": 2.5}, {"block": 5}, {"block": 8.0},
        {"subsampling": "4:2:2"}, {"chroma_step": 0.2}, {"chroma_step": 9},
    ],
    ids=str,
)  # fmt: skip
def test_parameters_out_of_range_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(CodecError, match="Received"):
        Svd(**fields)  # type: ignore[arg-type]
