"""The SVD codec and its container; what holds for every codec is in test_codecs.py."""

from __future__ import annotations

import hashlib
import json
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import photograph_like
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from imagecompression.codec import CodecError
from imagecompression.metrics import psnr
from imagecompression.svd import Svd

GOLDEN = Path(__file__).parent / "golden"
SMALL = Svd(rank=5).encode(photograph_like(20, 24, 3))


def repaired(data: bytes, planes: int = 3) -> bytes:
    """`data` with the checksum it should have, as a careful attacker would write it."""
    end = 14 + 2 * planes
    payload = data[end + 4 :]
    return data[:end] + struct.pack("<I", zlib.crc32(payload, zlib.crc32(data[:end]))) + payload


def with_header(
    width: int = 24,
    height: int = 20,
    step: float = 1.0,
    ranks: tuple[int, ...] = (5, 2, 2),
    payload: bytes = SMALL[24:],
) -> bytes:
    """A file with the given header fields and the right checksum."""
    header = struct.pack("<4sBBHHf", b"\x8fSVD", 1, len(ranks), width, height, step)
    return repaired(header + struct.pack(f"<{len(ranks)}HI", *ranks, 0) + payload, len(ranks))


def best_psnr(plane: np.ndarray, rank: int) -> float:
    """PSNR in dB of the best approximation by `rank` terms (Eckart and Young)."""
    strengths = np.linalg.svd(plane - 128.0, compute_uv=False)
    return float(10 * np.log10(255**2 * plane.size / (strengths[rank:] ** 2).sum()))


@pytest.mark.parametrize("rank", [2, 8, 24])
def test_fidelity_is_near_that_of_the_unquantised_svd(gray: np.ndarray, rank: int) -> None:
    best = best_psnr(gray, rank)
    fine = psnr(gray, Svd.decode(Svd(rank=rank, step=0.1).encode(gray)))
    usual = psnr(gray, Svd.decode(Svd(rank=rank).encode(gray)))
    assert fine == pytest.approx(best, abs=0.3)
    assert best - 2.5 < usual <= best + 0.1


def test_full_rank_is_nearly_lossless(rgb: np.ndarray) -> None:
    decoded = Svd.decode(Svd(rank=1024, chroma_rank=1).encode(rgb))
    assert psnr(rgb, decoded) > 48
    assert np.abs(decoded.astype(int) - rgb).max() <= 4


def test_size_and_fidelity_rise_with_rank(rgb: np.ndarray) -> None:
    files = [Svd(rank=rank).encode(rgb) for rank in (*range(1, 30), 40, 60, 100, 143, 144, 1024)]
    sizes = np.array([len(data) for data in files])
    assert (sizes[1:] >= 0.98 * sizes[:-1] - 16).all(), sizes
    fidelity = [psnr(rgb, Svd.decode(data)) for data in files]
    assert (np.diff(fidelity) > -0.3).all(), fidelity


def test_chroma_rank_zero_keeps_luma_only(rgb: np.ndarray) -> None:
    decoded = Svd.decode(Svd(rank=20, chroma_rank=0).encode(rgb))
    assert np.ptp(decoded.astype(int), axis=2).max() <= 1


@pytest.mark.parametrize("value", [0, 1, 77, 128, 255])
@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (40, 30), (40, 30, 3)], ids=str)
def test_a_constant_picture_needs_one_term(value: int, shape: tuple[int, ...]) -> None:
    picture = np.full(shape, value, np.uint8)
    data = Svd(rank=1).encode(picture)
    assert len(data) < 80
    assert np.abs(Svd.decode(data).astype(int) - value).max() <= 2


def test_extreme_pictures_stay_within_the_levels() -> None:
    # One bright line holds all energy in a single entry of the factors.
    picture = np.zeros((3, 40_000), np.uint8)
    picture[1] = 255
    assert np.abs(Svd.decode(Svd(rank=3).encode(picture)).astype(int) - picture).max() <= 2
    noise = np.random.default_rng(0).integers(0, 2, (64, 64), np.uint8) * 255
    assert psnr(noise, Svd.decode(Svd(rank=64).encode(noise))) > 45


def test_a_picture_with_too_many_factor_entries_is_refused_at_once() -> None:
    with pytest.raises(CodecError, match="entries"):
        Svd(rank=1024, chroma_rank=1).encode(np.broadcast_to(np.uint8(0), (1024, 40_000, 3)))


def test_sides_beyond_the_header_are_refused() -> None:
    with pytest.raises(CodecError, match="65535"):
        Svd().encode(np.zeros((65_536, 1), np.uint8))


def test_the_second_encode_of_a_picture_is_the_same(rgb: np.ndarray, gray: np.ndarray) -> None:
    # The decomposition is kept between encodes; another picture, or another shape of the same
    # bytes, must not be served from it.
    first = Svd(rank=9).encode(rgb)
    flat = rgb.reshape(rgb.shape[0], -1)
    for other in (gray, flat, rgb.reshape(rgb.shape[1], rgb.shape[0], 3)):
        assert Svd.decode(Svd(rank=9).encode(other)).shape == other.shape
    assert Svd(rank=9).encode(rgb) == first


def test_golden_file_decodes_to_the_same_pixels() -> None:
    expected = json.loads((GOLDEN / "svd.json").read_text())
    decoded = Svd.decode((GOLDEN / expected["file"]).read_bytes())
    assert list(decoded.shape) == expected["shape"]
    assert hashlib.sha256(decoded.tobytes()).hexdigest() == expected["sha256"]


@pytest.mark.parametrize("length", [0, 3, 4, 13, 14, 23, 24, 40, len(SMALL) - 1])
def test_truncated_files_are_refused(length: int) -> None:
    with pytest.raises(CodecError):
        Svd.decode(SMALL[:length])
    with pytest.raises(CodecError):
        Svd.decode(repaired(SMALL[:length]) if length >= 24 else SMALL[:length])


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (lambda: SMALL[:4] + b"\x02" + SMALL[5:], "version 2"),
        (lambda: repaired(SMALL + b"\0"), "payload"),
        (lambda: SMALL + b"\0", "checksum"),
        (lambda: with_header(width=0), "Received"),
        (lambda: with_header(width=65535, height=65535), "limit"),
        (lambda: with_header(width=10_000, height=10_000, ranks=(1024, 1025, 0)), "ranks"),
        (lambda: with_header(width=60_000, height=1000, ranks=(800, 0, 0)), "entries"),
        (lambda: with_header(width=20_000, height=1000, ranks=(500, 400, 400)), "payload"),
        (lambda: with_header(ranks=(21, 2, 2)), "ranks"),
        (lambda: with_header(ranks=(5, 2, 1)), "payload"),
        (lambda: with_header(step=float("nan")), "step"),
        (lambda: with_header(step=float("inf")), "step"),
        (lambda: with_header(step=0.0), "step"),
        (lambda: with_header(step=1e30), "do not fit"),
    ],
)
def test_lying_headers_are_refused_quickly(damaged: Callable[[], bytes], message: str) -> None:
    data = damaged()
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(CodecError, match=message):
        Svd.decode(data)
    seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 2
    assert peak < 5_000_000


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_mutated_files_are_refused_or_decoded(data: st.DataObject) -> None:
    damaged = bytearray(SMALL)
    places = st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(places, min_size=1, max_size=4)):
        damaged[place] = value
    candidates = [bytes(damaged)]
    if damaged[5] in (1, 3):
        candidates.append(repaired(bytes(damaged), damaged[5]))
    for candidate in candidates:
        try:
            decoded = Svd.decode(candidate)
        except CodecError:
            continue
        assert decoded.dtype == np.uint8
        assert decoded.ndim in (2, 3)


@given(
    levels=st.binary(min_size=2 * 2 * 5, max_size=2 * 2 * 5),
    strengths=st.lists(st.floats(width=32), min_size=2, max_size=2),
    flags=st.integers(0, 255),
)
@example(levels=b"\xff" * 20, strengths=[1.0, 1.0], flags=255)
@example(levels=b"\0" * 20, strengths=[float("nan"), 1.0], flags=0)
@example(levels=b"\0" * 20, strengths=[1e-45, 1.0], flags=0)
@settings(max_examples=150, deadline=None)
def test_any_payload_of_the_right_length_is_refused_or_decoded(
    levels: bytes, strengths: list[float], flags: int
) -> None:
    from imagecompression.svd import _compress

    section = struct.pack("<2fB", *strengths, flags) + levels
    data = with_header(width=3, height=2, ranks=(2,), payload=_compress(section))
    try:
        decoded = Svd.decode(data)
    except CodecError:
        return
    assert decoded.shape == (2, 3)
    assert all(0 < strength < float("inf") for strength in strengths)


@pytest.mark.parametrize(
    "fields",
    [
        {"rank": 0}, {"rank": 1025}, {"rank": 2.5}, {"chroma_rank": -0.1}, {"chroma_rank": 1.5},
        {"step": 0.0}, {"step": float("nan")}, {"step": "1"},
    ],
    ids=str,
)  # fmt: skip
def test_parameters_out_of_range_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(CodecError, match="Received"):
        Svd(**fields)  # type: ignore[arg-type]
