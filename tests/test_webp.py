"""WebP: what its files hold; the contract is in test_codecs."""

from __future__ import annotations

import struct

import imagecodecs
import numpy as np
import pytest
from conftest import photograph_like

from imagecompression import CodecError, WebP


def chunks(data: bytes) -> dict[bytes, bytes]:
    """The chunks of a RIFF file by their four-letter names."""
    assert struct.unpack_from("<I", data, 4)[0] + 8 == len(data)
    found, at = {}, 12
    while at < len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        found[name] = data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    return found


def test_files_are_lossy_up_to_the_highest_quality(rgb: np.ndarray, gray: np.ndarray) -> None:
    assert list(chunks(WebP(quality=100).encode(rgb))) == [b"VP8 "]
    assert list(chunks(WebP(quality=100).encode(gray))) == [b"VP8X", b"VP8 ", b"EXIF"]


def test_a_gray_valued_colour_picture_stays_colour() -> None:
    picture = np.repeat(photograph_like(20, 30, 1)[..., None], 3, axis=2)
    assert WebP.decode(WebP().encode(picture)).shape == (20, 30, 3)


def test_other_decoders_give_the_same_pixels(rgb: np.ndarray, gray: np.ndarray) -> None:
    data = WebP().encode(rgb)
    assert np.array_equal(imagecodecs.webp_decode(data), WebP.decode(data))
    data = WebP().encode(gray)
    assert np.array_equal(imagecodecs.webp_decode(data)[..., 1], WebP.decode(data))


def test_a_thorough_method_takes_fewer_bytes() -> None:
    picture = photograph_like(256, 256, 3)
    assert len(WebP(method=6).encode(picture)) < len(WebP(method=0).encode(picture))


def test_lossless_files_are_read(rgb: np.ndarray) -> None:
    data = imagecodecs.webp_encode(rgb, lossless=True)
    assert np.array_equal(WebP.decode(data), rgb)


def test_a_canvas_beyond_the_limit_is_refused_unread() -> None:
    header = b"\x10\0\0\0" + (16383 - 1).to_bytes(3, "little") * 2
    body = b"WEBPVP8X" + struct.pack("<I", 10) + header
    with pytest.raises(CodecError, match="limit"):
        WebP.decode(b"RIFF" + struct.pack("<I", len(body)) + body)


@pytest.mark.parametrize("shape", [(1, 16384, 3), (16384, 1)])
def test_sides_beyond_the_format_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CodecError, match="16383"):
        WebP().encode(np.zeros(shape, np.uint8))
