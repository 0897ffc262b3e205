"""AVIF's own parameters and files; what holds for every codec is in test_codecs.py."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from conftest import flat_to_busy
from PIL import Image as PilImage

from imagecompression.avif import MAX_SIDE, SUBSAMPLINGS, TUNES, Avif
from imagecompression.codec import CodecError
from imagecompression.isobmff import boxes
from imagecompression.metrics import psnr

MATRIX_AND_RANGE = slice(8, 11)
"""In the content of a colr box of type nclx: the matrix and the range flag."""


def box_content(data: bytes, kind: bytes) -> bytes:
    """Content of the only box of a kind that the encoder writes."""
    assert data.count(kind) == 1
    at = data.index(kind)
    return data[at + 4 : at - 4 + int.from_bytes(data[at - 4 : at], "big")]


def av1_flags(data: bytes) -> tuple[int, bool, str]:
    """Bits a sample, monochrome and chroma format from av1C (AV1-ISOBMFF, section 2.3.3)."""
    flags = box_content(data, b"av1C")[2]
    chroma = {0b00: "4:4:4", 0b10: "4:2:2", 0b11: "4:2:0"}[flags >> 2 & 3]
    return (10 if flags & 0x40 else 8), bool(flags & 0x10), chroma


@pytest.mark.parametrize("bit_depth", [8, 10])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_file_has_the_format_asked_for(rgb: np.ndarray, subsampling: str, bit_depth: int) -> None:
    data = Avif(subsampling=subsampling, bit_depth=bit_depth, speed=9).encode(rgb)
    assert av1_flags(data) == (bit_depth, False, subsampling)
    colour = box_content(data, b"colr")
    assert colour[:4] == b"nclx"
    assert colour[MATRIX_AND_RANGE] == bytes([0, 6, 0x80])  # BT.601, full range


@pytest.mark.parametrize("bit_depth", [8, 10])
def test_gray_is_monochrome_and_lossy(gray: np.ndarray, bit_depth: int) -> None:
    data = Avif(quality=60, bit_depth=bit_depth, speed=9).encode(gray)
    assert av1_flags(data)[:2] == (bit_depth, True)
    assert len(data) < gray.size / 2
    decoded = Avif.decode(data)
    assert decoded.shape == gray.shape
    assert 30 < psnr(gray, decoded) < 50


def test_range_is_in_the_file_and_in_the_bytes(rgb: np.ndarray) -> None:
    limited = Avif(full_range=False, speed=9).encode(rgb)
    assert box_content(limited, b"colr")[MATRIX_AND_RANGE] == bytes([0, 6, 0])
    decoded = Avif.decode(limited)
    assert abs(float(decoded.mean()) - float(rgb.mean())) < 1
    assert not np.array_equal(decoded, Avif.decode(Avif(speed=9).encode(rgb)))


def test_tune_and_speed_change_the_file(rgb: np.ndarray) -> None:
    files = {Avif(tune=tune, speed=speed).encode(rgb) for tune in TUNES for speed in (6, 9)}
    assert len(files) == 6


@pytest.mark.parametrize("bit_depth", [8, 10])
def test_less_deltaq_makes_smaller_files(bit_depth: int) -> None:
    image = flat_to_busy(320, 448)
    codec = Avif(quality=60, bit_depth=bit_depth)
    sizes = [len(codec.with_fine_knob(value).encode(image)) for value in (50, 75, 99)]
    usual = codec.encode(image)
    assert codec.with_fine_knob(100).encode(image) == usual
    assert sizes[0] < sizes[1] < sizes[2] <= len(usual)
    assert sizes[0] < 0.97 * len(usual)


def test_deltaq_goes_with_one_tune() -> None:
    assert Avif().fine_knob is not None
    for tune in ("ssim", "psnr"):
        assert Avif(tune=tune).fine_knob is None
        with pytest.raises(CodecError, match="deltaq_strength=90"):
            Avif(tune=tune, deltaq_strength=90)
        with pytest.raises(CodecError, match="no fine knob"):
            Avif(tune=tune).with_fine_knob(90)
    with pytest.raises(CodecError, match="deltaq_strength"):
        Avif(deltaq_strength=101)


def test_more_chroma_is_more_faithful(rgb: np.ndarray) -> None:
    errors = [
        psnr(rgb, Avif.decode(Avif(95, subsampling=subsampling, speed=9).encode(rgb)))
        for subsampling in SUBSAMPLINGS
    ]
    assert errors == sorted(errors)
    assert errors[2] > errors[0] + 0.5


def test_best_quality_is_lossy(gray: np.ndarray) -> None:
    assert not np.array_equal(Avif.decode(Avif(99, speed=9).encode(gray)), gray)
    with pytest.raises(CodecError, match="Received"):
        Avif(quality=100)


def test_ten_bits_lose_less_in_the_conversion_of_colours(rgb: np.ndarray) -> None:
    settings = {"quality": 95, "subsampling": "4:4:4", "speed": 9}
    eight, ten = (
        psnr(rgb, Avif.decode(Avif(bit_depth=bits, **settings).encode(rgb)))  # type: ignore[arg-type]
        for bits in (8, 10)
    )
    assert ten > eight + 0.5


def test_damaged_ten_bits_are_refused(rgb: np.ndarray) -> None:
    data = Avif(bit_depth=10, speed=9).encode(rgb[:40, :40])
    rng = np.random.default_rng(3)
    for _ in range(150):
        damaged = bytearray(data)
        damaged[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
        with contextlib.suppress(CodecError):
            Avif.decode(bytes(damaged[: int(rng.integers(len(data) // 2, len(data) + 1))]))
    with pytest.raises(CodecError):
        Avif.decode(data[: len(data) // 2])


@pytest.mark.parametrize("setting", [{"tune": "psnr"}, {"tune": "ssim"}, {"full_range": False}])
def test_ten_bits_have_every_setting(rgb: np.ndarray, setting: dict[str, Any]) -> None:
    data = Avif(bit_depth=10, speed=9, **setting).encode(rgb)
    assert data != Avif(bit_depth=10, speed=9).encode(rgb)
    assert psnr(rgb, Avif.decode(data)) > 30


def test_ten_bits_without_a_library_are_unavailable() -> None:
    script = (
        "import imagecodecs, numpy as np\n"
        "imagecodecs.__spec__.origin = '/nowhere/imagecodecs/__init__.py'\n"
        "from imagecompression import Avif, CodecUnavailableError\n"
        "try:\n"
        "    Avif(bit_depth=10).encode(np.zeros((8, 8), np.uint8))\n"
        "except CodecUnavailableError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert "take bit_depth=8" in done.stdout


def test_every_variant_is_told_from_other_files(rgb: np.ndarray, gray: np.ndarray) -> None:
    for variant in Avif.variants():
        for picture in (rgb[:33, :30], gray[:33, :30]):
            assert Avif.matches(variant.encode(picture))
    assert not Avif.matches(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert not Avif.matches(b"\0\0\0\x18ftypisom\0\0\0\0mp42avc1")
    assert Avif.matches(b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif")
    # A brand after the end of the first box is no brand.
    assert not Avif.matches(b"\0\0\0\x14ftypmif1\0\0\0\0mif1avif")


def test_files_of_other_encoders(rgb: np.ndarray) -> None:
    """Alpha is dropped, rotation is left to the viewer, of an animation the first frame counts."""
    plain, alpha = io.BytesIO(), io.BytesIO()
    picture = PilImage.fromarray(rgb)
    exif = PilImage.Exif()
    exif[0x0112] = 6
    picture.save(plain, "AVIF", quality=80, max_threads=1, speed=9, exif=exif)
    assert Avif.decode(plain.getvalue()).shape == rgb.shape
    transparent = picture.copy()
    transparent.putalpha(90)
    transparent.save(alpha, "AVIF", quality=80, max_threads=1, speed=9)
    assert psnr(rgb, Avif.decode(alpha.getvalue())) > 30
    frames = io.BytesIO()
    other = PilImage.fromarray(255 - rgb)
    picture.save(
        frames, "AVIF", save_all=True, append_images=[other], quality=80, max_threads=1, speed=9
    )
    assert Avif.matches(frames.getvalue())
    assert psnr(rgb, Avif.decode(frames.getvalue())) > 30


def test_size_in_the_header_is_checked(rgb: np.ndarray) -> None:
    data = Avif(speed=9).encode(rgb)
    size = rgb.shape[1].to_bytes(4, "big") + rgb.shape[0].to_bytes(4, "big")
    for side in (20_000, 1 << 31):
        hostile = data.replace(
            b"ispe\0\0\0\0" + size, b"ispe\0\0\0\0" + side.to_bytes(4, "big") * 2
        )
        assert hostile != data
        with pytest.raises(CodecError):
            Avif.decode(hostile)


def test_sides_beyond_the_reader_are_refused() -> None:
    with pytest.raises(CodecError, match="Received: 32769×1"):
        Avif().encode(np.zeros((1, MAX_SIDE + 1), np.uint8))


def test_any_truncation_is_refused(gray: np.ndarray) -> None:
    data = Avif(speed=9).encode(gray)
    for length in range(0, len(data), 41):
        with pytest.raises(CodecError):
            Avif.decode(data[:length])


def test_boxes_of_a_file_cover_it(gray: np.ndarray) -> None:
    data = Avif(speed=9).encode(gray)
    found = list(boxes(data))
    assert [kind for kind, _, _ in found] == [b"ftyp", b"meta", b"mdat"]
    assert found[-1][2] == len(data)
    assert [kind for kind, _, _ in boxes(data[:-1])] == [b"ftyp", b"meta"]
    # A 64-bit size, a size up to the end of the file, and a size too small for its own header.
    assert list(boxes(b"\0\0\0\1wide" + (20).to_bytes(8, "big") + b"1234" + b"\0\0\0\0last!")) == [
        (b"wide", 16, 20),
        (b"last", 28, 29),
    ]
    assert list(boxes(b"\0\0\0\4tiny1234")) == []
