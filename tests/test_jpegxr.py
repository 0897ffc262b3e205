"""JPEG XR: jxrlib's options in the header, its own rules, and files that are not plain."""

from __future__ import annotations

import struct
import time
from typing import Any

import imagecodecs
import numpy as np
import pytest
from conftest import photograph_like

import imagecompression.jpegxr as jpegxr
from imagecompression import CodecError, CodecUnavailableError, JpegXr
from imagecompression.jpegxr import Header, parse_header
from imagecompression.metrics import psnr

ODD = {
    "two levels": JpegXr(quality=20, overlap=2, subsampling="4:2:2", tile=16),
    "none": JpegXr(quality=99, overlap=0, subsampling="4:2:0", trim_flexbits=3, tile=32),
    "full": JpegXr(quality=1, overlap=2, subsampling="4:4:4", frequency_order=False, tile=48),
    "bands": JpegXr(quality=60, bands="no highpass", tile=16),
    "one band": JpegXr(quality=60, bands="dc only", overlap=2),
}


def header(codec: JpegXr, picture: np.ndarray) -> Header:
    return parse_header(codec.encode(picture))


def entry(data: bytes, tag: int) -> int:
    """Where the entry of a tag starts in the file's directory."""
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    places = range(start + 2, start + 2 + 12 * count, 12)
    return next(at for at in places if struct.unpack_from("<H", data, at)[0] == tag)


@pytest.mark.parametrize("quality", [1, 13, 30, 49.75, 50, 66.25, 80, 80.25, 91, 99])
def test_files_are_imagecodecs_where_that_can_say_the_same(
    rgb: np.ndarray, gray: np.ndarray, quality: float
) -> None:
    """imagecodecs writes no overlap from quality 50 on, and never the frequency order."""
    codec = JpegXr(quality=quality, overlap=0 if quality >= 50 else 2, frequency_order=False)
    for picture in (rgb, gray):
        assert codec.encode(picture) == imagecodecs.jpegxr_encode(picture, level=quality / 100)


@pytest.mark.parametrize(
    ("quality", "overlap", "subsampling"),
    [(1, 2, "4:2:0"), (49.75, 2, "4:2:0"), (50, 1, "4:4:4"), (99, 1, "4:4:4")],
)
def test_defaults_are_those_of_jxrlibs_command_line(
    rgb: np.ndarray, gray: np.ndarray, quality: float, overlap: int, subsampling: str
) -> None:
    found = header(JpegXr(quality=quality), rgb)
    assert (found.width, found.height) == (200, 144)
    assert (found.overlap, found.subsampling) == (overlap, subsampling)
    assert (found.bands, found.flexbits_trimmed, found.frequency_order) == ("all", False, True)
    assert (found.columns, found.rows, found.gray) == (1, 1, False)
    found = header(JpegXr(quality=quality), gray)
    assert (found.overlap, found.subsampling, found.gray) == (overlap, "4:0:0", True)


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"overlap": 0}, {"overlap": 0}),
        ({"overlap": 2}, {"overlap": 2}),
        ({"subsampling": "4:2:0"}, {"subsampling": "4:2:0"}),
        ({"subsampling": "4:2:2"}, {"subsampling": "4:2:2"}),
        ({"subsampling": "4:4:4", "quality": 30}, {"subsampling": "4:4:4", "overlap": 2}),
        ({"bands": "no flexbits"}, {"bands": "no flexbits"}),
        ({"bands": "no highpass"}, {"bands": "no highpass"}),
        ({"bands": "dc only"}, {"bands": "dc only"}),
        ({"trim_flexbits": 2}, {"flexbits_trimmed": True}),
        ({"tile": 64}, {"columns": 4, "rows": 3}),
        ({"tile": 208}, {"columns": 1, "rows": 1}),
        ({"frequency_order": False}, {"frequency_order": False}),
    ],
    ids=str,
)
def test_every_option_is_in_the_header(
    rgb: np.ndarray, options: dict[str, Any], seen: dict[str, Any]
) -> None:
    data = JpegXr(**options).encode(rgb)
    found = parse_header(data)
    assert {name: getattr(found, name) for name in seen} == seen
    assert found.picture.stop == len(data)
    assert psnr(rgb, JpegXr.decode(data)) > 20


def test_tiles_and_order_change_bytes_and_no_pixel(rgb: np.ndarray) -> None:
    for quality in (30, 80):
        files = [
            JpegXr(quality=quality, tile=tile, frequency_order=order).encode(rgb)
            for tile in (0, 16, 64)
            for order in (False, True)
        ]
        assert len(set(files)) == 6
        assert len({JpegXr.decode(data).tobytes() for data in files}) == 1


def test_what_is_left_out_is_missed(rgb: np.ndarray) -> None:
    for options in (
        [{"bands": bands} for bands in ("all", "no flexbits", "no highpass", "dc only")],
        [{"trim_flexbits": bits} for bits in (0, 1, 2)],
    ):
        files = [JpegXr(quality=85, **one).encode(rgb) for one in options]
        assert np.diff([len(data) for data in files]).max() < 0
        assert np.diff([psnr(rgb, JpegXr.decode(data)) for data in files]).max() < 0


def test_overlap_smooths_block_edges(rgb: np.ndarray) -> None:
    """Steps over the edges of 4×4 blocks against steps inside them, at a low quality."""

    def blockiness(overlap: int) -> float:
        codec = JpegXr(quality=10, overlap=overlap, subsampling="4:4:4")
        steps = np.abs(np.diff(JpegXr.decode(codec.encode(rgb)).astype(int), axis=1)).mean((0, 2))
        return steps[3::4].mean() / steps[1::4].mean()

    assert blockiness(0) > 1.3 * blockiness(1)


@pytest.mark.parametrize("name", ODD)
def test_odd_settings_take_any_size(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    for shape in ((1, 1), (1, 1, 3), (2, 1), (1, 300, 3), (300, 1, 3), (17, 15, 3), (40, 17, 3),
                  (33, 64, 3), (49, 65), (64, 33, 3)):  # fmt: skip
        picture = photograph_like(shape[0], shape[1], 3 if len(shape) == 3 else 1)
        assert JpegXr.decode(ODD[name].encode(picture)).shape == shape
    assert capfd.readouterr() == ("", "")


def test_two_levels_are_lowered_where_jxrlib_refuses_them() -> None:
    for width, automatic, asked in ((16, 1, 1), (17, 1, 2), (31, 1, 2), (32, 2, 2)):
        picture = photograph_like(40, width, 3)
        assert header(JpegXr(quality=30), picture).overlap == automatic
        assert header(JpegXr(quality=30, overlap=2), picture).overlap == asked
        assert header(JpegXr(overlap=2), picture).overlap == 2  # not subsampled


def test_noise_at_the_highest_quality_fits() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    for picture in (noise, noise[:, :, 0].copy(), noise[:1, :1], noise[:, :17].copy()):
        for subsampling in ("4:4:4", "4:2:0"):
            data = JpegXr(quality=99, subsampling=subsampling, tile=16).encode(picture)
            assert parse_header(data).picture.stop == len(data)
            assert psnr(picture, JpegXr.decode(data)) > (40 if subsampling == "4:4:4" else 8)


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 100}, {"quality": 0}, {"overlap": 3}, {"overlap": None}, {"overlap": True},
        {"subsampling": "4:0:0"}, {"subsampling": "420"}, {"bands": "none"}, {"bands": 0},
        {"trim_flexbits": 16}, {"trim_flexbits": -1}, {"tile": 20}, {"tile": 65536}, {"tile": -16},
        {"frequency_order": 1},
    ],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(CodecError, match="Received"):
        JpegXr(**options)


def test_more_tiles_than_the_format_has_are_refused() -> None:
    with pytest.raises(CodecError, match="4096 tiles"):
        JpegXr(tile=16).encode(np.zeros((1, 4097 * 16), np.uint8))


def test_without_the_library_files_are_read_and_not_written(
    rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = JpegXr().encode(rgb)
    monkeypatch.setattr(jpegxr, "_library_path", lambda name: f"/nowhere/lib{name}.so")
    jpegxr._jxrlib.cache_clear()
    try:
        with pytest.raises(CodecUnavailableError, match="libjxrglue"):
            JpegXr.check_available()
        with pytest.raises(CodecUnavailableError, match="libjxrglue"):
            JpegXr().encode(rgb)
        assert JpegXr.decode(data).shape == rgb.shape
    finally:
        jpegxr._jxrlib.cache_clear()


def test_alpha_is_dropped(rgb: np.ndarray) -> None:
    alpha = np.full((*rgb.shape[:2], 1), 77, np.uint8)
    data = imagecodecs.jpegxr_encode(np.concatenate([rgb, alpha], axis=2), level=0.9)
    assert imagecodecs.jpegxr_decode(data).shape[2] == 4
    assert np.array_equal(JpegXr.decode(data), imagecodecs.jpegxr_decode(data)[:, :, :3])


@pytest.mark.parametrize("last", [0x0C, 0x0E, 0x0F, 0x10])
def test_other_formats_of_rgb_are_read(rgb: np.ndarray, last: int) -> None:
    """The format names the order in memory, blue first here: the picture's bytes are the same."""
    data = bytearray(JpegXr().encode(rgb))
    (place,) = struct.unpack_from("<I", data, entry(bytes(data), 0xBC01) + 8)
    data[place + 15] = last
    assert np.array_equal(JpegXr.decode(bytes(data)), JpegXr.decode(JpegXr().encode(rgb)))


def test_pictures_that_are_not_8_bit_gray_or_rgb_are_refused(rgb: np.ndarray) -> None:
    cmyk = np.concatenate([rgb, rgb[:, :, :1]], axis=2)
    for data in (
        imagecodecs.jpegxr_encode(cmyk, level=0.8, photometric="cmyk"),
        imagecodecs.jpegxr_encode(rgb.astype(np.uint16), level=0.8),
        imagecodecs.jpegxr_encode(rgb.astype(np.float32), level=0.8),
        imagecodecs.jpegxr_encode(rgb[:, :, 0] > 99),
    ):
        with pytest.raises(CodecError, match="8-bit gray or RGB"):
            JpegXr.decode(data)


@pytest.mark.parametrize("codec", [JpegXr(), JpegXr(quality=20, tile=64)], ids=["one", "tiles"])
def test_truncated_files_are_refused(codec: JpegXr, rgb: np.ndarray) -> None:
    data = codec.encode(rgb)
    for end in (-1, -2, -100, len(data) // 2, 200, 150, 140, 60, 33):
        with pytest.raises(CodecError, match="Not a readable"):
            JpegXr.decode(data[:end])


def test_hostile_sizes_are_refused_at_once(
    rgb: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    plain = JpegXr().encode(rgb)
    picture = parse_header(plain).picture.start
    files = []
    for tag in (0xBC80, 0xBC81):  # the directory's
        data = bytearray(plain)
        struct.pack_into("<I", data, entry(plain, tag) + 8, 1 << 30)
        files.append(bytes(data))
    data = bytearray(plain)  # the picture's own
    struct.pack_into(">HH", data, picture + 12, 65535, 65535)
    files.append(bytes(data))
    tiled = bytearray(JpegXr(tile=16).encode(rgb))
    at = parse_header(bytes(tiled)).picture.start
    tiled[at + 16 : at + 19] = b"\xff\xff\xff"
    files.append(bytes(tiled))
    for file in files:
        start = time.process_time()
        with pytest.raises(CodecError):
            JpegXr.decode(file)
        assert time.process_time() - start < 2
    assert capfd.readouterr() == ("", "")


def test_unknown_entries_pass_in_silence(
    rgb: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    """jxrlib itself names them on standard error."""
    plain = JpegXr().encode(rgb)
    data = bytearray(plain)
    struct.pack_into("<H", data, entry(plain, 0xBC82), 0xABCD)
    assert np.array_equal(JpegXr.decode(bytes(data)), JpegXr.decode(plain))
    assert capfd.readouterr() == ("", "")


def test_damaged_files_are_refused_or_read(capfd: pytest.CaptureFixture[str]) -> None:
    """A fault among the coefficients cannot be seen; nothing but a CodecError may come of it."""
    rng = np.random.default_rng(7)
    picture = photograph_like(48, 61, 3)
    files = [JpegXr().encode(picture), JpegXr(quality=30, tile=16).encode(picture),
             JpegXr(quality=30).encode(picture[:, :, 0].copy())]  # fmt: skip
    refused = 0
    for turn in range(300):
        damaged = bytearray(files[turn % 3])
        for at in rng.integers(0, 300, 3):
            damaged[at] = rng.integers(0, 256)
        try:
            JpegXr.decode(bytes(damaged))
        except CodecError:
            refused += 1
    assert refused > 50
    assert capfd.readouterr() == ("", "")
