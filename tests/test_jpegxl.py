"""JPEG XL's own parameters and files; what holds for every codec is in test_codecs.py."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from conftest import photograph_like

from imagecompression import jpegxl
from imagecompression.codec import CodecError, CodecUnavailableError
from imagecompression.jpegxl import CONTAINER, JpegXl
from imagecompression.metrics import psnr

SMALL = photograph_like(40, 56, 3)


class BitWriter:
    """Collects the fields of a JPEG XL header, from the least significant bit on."""

    def __init__(self) -> None:
        self._bits: list[int] = []

    def put(self, *fields: tuple[int, int]) -> BitWriter:
        """Append pairs of a value and its number of bits."""
        for value, count in fields:
            self._bits += [value >> bit & 1 for bit in range(count)]
        return self

    def codestream(self) -> bytes:
        """The bits as a codestream, with some zeros behind them."""
        value = sum(bit << at for at, bit in enumerate(self._bits))
        return b"\xff\x0a" + value.to_bytes(len(self._bits) // 8 + 9, "little")


def is_modular(data: bytes) -> bool:
    """Whether the first frame is in modular mode: the third bit of its header (Annex F).

    Only for files of this codec, whose metadata end with the transform data being default.
    """
    bits = int.from_bytes(data[2:64], "little")
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return bits >> (at - count) & ((1 << count) - 1)

    small = take(1)
    for ratio_follows in (True, False):
        take(5 if small else (9, 13, 18, 30)[take(2)])
        if ratio_follows and take(3):
            break
    if not take(1):  # ImageMetadata is not all default
        assert take(1) == 0  # no extra fields
        assert take(1) == 0  # integer samples
        assert take(2) == 0  # of 8 bits
        take(1)
        assert take(2) == 0  # no extra channels
        assert take(1) == 1  # XYB
        if not take(1):  # the colour encoding is not all default
            assert take(1) == 0  # no ICC profile
            space = take(2)
            assert space == 1  # gray
            assert take(2) == 1  # D65
            assert take(1) == 0
            take_enum = (0, 1, 2, 18)[take(2)]
            if take_enum == 2:
                take(4)
            elif take_enum == 18:
                take(6)
            rendering = (0, 1, 2, 18)[take(2)]
            if rendering == 2:
                take(4)
        assert take(2) == 0  # no extensions
    assert take(1) == 1  # default transform data
    at = -(-at // 8) * 8
    if take(1):  # an all-default frame is VarDCT
        return False
    assert take(2) == 0  # a regular frame
    return take(1) == 1


@pytest.mark.parametrize("modular", [False, True])
def test_frame_is_in_the_mode_asked_for(gray: np.ndarray, modular: bool) -> None:
    for picture in (SMALL, gray):
        data = JpegXl(modular=modular, distance=2).encode(picture)
        assert is_modular(data) is modular
        assert len(data) < picture.size / 2
        decoded = JpegXl.decode(data)
        assert not np.array_equal(decoded, picture)
        assert psnr(picture, decoded) > 25


@pytest.mark.parametrize("modular", [False, True])
def test_size_and_fidelity_follow_the_distance(rgb: np.ndarray, modular: bool) -> None:
    files = [
        JpegXl(distance, modular=modular, effort=4).encode(rgb) for distance in (0.1, 1, 5, 25)
    ]
    sizes = [len(data) for data in files]
    assert sizes == sorted(sizes, reverse=True)
    fidelity = [psnr(rgb, JpegXl.decode(data)) for data in files]
    assert fidelity == sorted(fidelity, reverse=True)
    assert sizes[0] > 8 * sizes[-1]


@pytest.mark.parametrize("effort", [3, 7])
def test_the_direct_door_writes_what_imagecodecs_writes(
    rgb: np.ndarray, gray: np.ndarray, effort: int
) -> None:
    """Where both doors to libjxl lead to VarDCT, they must give the same bytes."""
    for picture in (rgb, gray):
        for distance, speed in ((0.5, 0), (3, 2)):
            codec = JpegXl(distance, effort=effort, decoding_speed=speed)
            assert jpegxl._encode_directly(picture, codec) == codec.encode(picture)


@pytest.mark.parametrize("modular", [False, True])
def test_files_larger_than_one_output_buffer(modular: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 500, 3), np.uint8)
    data = JpegXl(0.1, effort=1, modular=modular).encode(noise)
    assert len(data) > 300_000
    assert JpegXl.decode(data).shape == noise.shape


def test_effort_and_decoding_speed_change_the_file(rgb: np.ndarray) -> None:
    for modular in (False, True):
        assert len({JpegXl(effort=e, modular=modular).encode(rgb) for e in (3, 4, 5, 7)}) == 4
        files = {JpegXl(decoding_speed=s, modular=modular).encode(rgb) for s in (0, 1, 4)}
        assert len(files) == 3


def test_distance_zero_is_refused() -> None:
    for distance in (0, 0.05, 25.5):
        with pytest.raises(CodecError, match="Received"):
            JpegXl(distance=distance)


def test_every_variant_is_told_from_other_files(gray: np.ndarray) -> None:
    for variant in JpegXl.variants():
        assert JpegXl.matches(variant.encode(gray[:20, :30]))
    assert not JpegXl.matches(b"\xff\xd8\xff\xe0")
    assert not JpegXl.matches(b"\0\0\0\x0cjP  \r\n\x87\n")


def test_containers_are_read() -> None:
    bare = JpegXl().encode(SMALL)
    expected = JpegXl.decode(bare)
    boxed = imagecodecs.jpegxl_encode(
        SMALL, distance=1.0, lossless=False, effort=7, usecontainer=True, numthreads=1
    )
    brand = b"\0\0\0\x14ftypjxl \0\0\0\0jxl "
    parts = [(0, bare[:5]), (1, bare[5:900]), (1 << 31 | 2, bare[900:])]
    split = CONTAINER + brand
    for number, part in parts:
        split += (len(part) + 12).to_bytes(4, "big") + b"jxlp" + number.to_bytes(4, "big") + part
    for data in (boxed, split):
        assert data[:12] == CONTAINER
        assert JpegXl.matches(data)
        assert np.array_equal(JpegXl.decode(data), expected)
    with pytest.raises(CodecError, match="holds no codestream"):
        JpegXl.decode(CONTAINER + brand)


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_deep_samples_are_rounded(bits: int) -> None:
    samples = np.random.default_rng(0).integers(0, 1 << bits, (40, 50, 3), np.uint16)
    top = (1 << bits) - 1
    for picture in (samples, samples[:, :, 0].copy()):
        data = imagecodecs.jpegxl_encode(picture, lossless=True, bitspersample=bits)
        expected = (picture.astype(np.uint32) * 255 + top // 2) // top
        assert np.array_equal(JpegXl.decode(data), expected)


def test_files_of_other_encoders(gray: np.ndarray) -> None:
    alpha = np.full((*SMALL.shape[:2], 1), 90, np.uint8)
    decoded = JpegXl.decode(imagecodecs.jpegxl_encode(np.dstack([SMALL, alpha]), lossless=True))
    assert np.array_equal(decoded, SMALL)
    gray_alpha = np.dstack([gray, np.full(gray.shape, 90, np.uint8)])
    assert np.array_equal(JpegXl.decode(imagecodecs.jpegxl_encode(gray_alpha, lossless=True)), gray)
    planes = np.stack([gray, gray // 2, gray // 3])
    data = imagecodecs.jpegxl_encode(planes, lossless=True, photometric="gray", planar=True)
    assert np.array_equal(JpegXl.decode(data), gray)
    frames = np.stack([SMALL, 255 - SMALL])
    assert np.array_equal(JpegXl.decode(imagecodecs.jpegxl_encode(frames, lossless=True)), SMALL)
    real = imagecodecs.jpegxl_encode(SMALL.astype(np.float32) / 255, lossless=True)
    with pytest.raises(CodecError, match="Received: 32 bits, floating-point"):
        JpegXl.decode(real)


@pytest.mark.parametrize(
    "size",
    [
        (1, 1), (8, 8), (256, 256), (8, 16), (120, 100), (400, 300), (1920, 1080), (7, 513),
        (300, 9000),
    ],
)  # fmt: skip
def test_header_holds_the_size(size: tuple[int, int]) -> None:
    width, height = size
    data = JpegXl(effort=1).encode(np.zeros((height, width), np.uint8))
    header = jpegxl.Header(data)
    assert (header.width, header.height, header.bits) == (width, height, 8)


def test_header_of_an_animation_with_preview_and_many_channels() -> None:
    size = ((1, 1), (9, 5), (0, 3), (19, 5))  # 160×80
    preview = ((1, 1), (2, 2), (3, 5), (1, 3))
    animation = ((3, 2), (5, 30), (2, 2), (9, 8), (1, 2), (5, 3), (0, 1))
    rest = ((0, 1), (2, 2), (1, 1), (3, 2), (299, 12))  # 12 bits, 300 channels
    header = BitWriter().put(*size, (0, 1), (1, 1), (0, 3), (1, 1), *size, (1, 1), *preview)
    data = header.put((1, 1), *animation, *rest).codestream()
    read = jpegxl.Header(data)
    assert (read.width, read.height) == (160, 80)
    assert (read.bits, read.is_float, read.extra_channels) == (12, False, 300)
    with pytest.raises(CodecError, match="Received: 300"):
        JpegXl.decode(data)


def test_size_in_the_header_is_checked() -> None:
    huge = BitWriter().put((0, 1), (3, 2), ((1 << 30) - 1, 30), (1, 3), (1, 1)).codestream()
    with pytest.raises(CodecError, match="Received: 1073741824×1073741824"):
        JpegXl.decode(huge)


def test_any_truncation_is_refused(gray: np.ndarray) -> None:
    for modular in (False, True):
        data = JpegXl(modular=modular).encode(gray)
        for length in range(0, len(data), 41):
            with pytest.raises(CodecError):
                JpegXl.decode(data[:length])


def test_modular_without_a_shared_library_is_unavailable(
    gray: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    jpegxl._libjxl.cache_clear()
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    try:
        with pytest.raises(CodecUnavailableError, match="take modular=False"):
            JpegXl(modular=True).encode(gray)
        assert JpegXl.decode(JpegXl().encode(gray)).shape == gray.shape
    finally:
        jpegxl._libjxl.cache_clear()
