"""JPEG 2000: each option in the codestream, odd pictures, and files by other encoders."""

from __future__ import annotations

import dataclasses
import struct
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from conftest import photograph_like

from imagecompression import CodecError, Jpeg2000, RatioTarget, encode_to_target
from imagecompression.metrics import psnr

ODD = {
    "all": Jpeg2000(
        psnr_db=35, layers=5, tile=32, precinct=64, code_block_width=32, code_block_height=16,
        progression="RPCL", mct=False, sop=True, eph=True, reversible=True,
    ),
    "layers": Jpeg2000(ratio=50, layers=32, progression="RLCP"),
    "tiles": Jpeg2000(ratio=10, tile=16, resolutions=33, progression="CPRL"),
    "thin blocks": Jpeg2000(code_block_width=4, code_block_height=1024, progression="PCRL"),
    "small precincts": Jpeg2000(precinct=8, code_block_width=4, code_block_height=4, layers=3),
    "lossless": Jpeg2000(ratio=1, reversible=True, layers=4, tile=64),
}  # fmt: skip


def segments(data: bytes) -> dict[int, bytes]:
    """Marker segments of the main header by marker, without their lengths (A.2)."""
    at = data.index(b"\xff\x4f\xff\x51") + 2
    found: dict[int, bytes] = {}
    while (marker := struct.unpack_from(">H", data, at)[0]) != 0xFF90:
        (length,) = struct.unpack_from(">H", data, at + 2)
        found[marker] = data[at + 4 : at + 2 + length]
        at += 2 + length
    return found


def coding(data: bytes) -> dict[str, Any]:
    """The fields of SIZ (A.5.1), COD (A.6.1) and QCD (A.6.4)."""
    found = segments(data)
    size = struct.unpack_from(">HIIIIIIIIH", found[0xFF51])
    style, order, layers, mct, levels, *code = struct.unpack_from(">BBHB5B", found[0xFF52])
    return {
        "size": size[1:3],
        "tile": size[5:7],
        "components": size[9],
        "precincts": [(1 << (p & 15), 1 << (p >> 4)) for p in found[0xFF52][10:]],
        "sop": bool(style & 2),
        "eph": bool(style & 4),
        "progression": order,
        "layers": layers,
        "mct": mct,
        "resolutions": levels + 1,
        "code_block": (4 << code[0], 4 << code[1]),
        "reversible": code[3] == 1,
        "quantised": found[0xFF5C][0] & 31,
    }


def jp2(codestream: bytes, width: int, height: int, components: int, space: int = 16,
        bits: int = 8, boxes: bytes = b"") -> bytes:  # fmt: skip
    """A JP2 file around a codestream (I.5), saying whatever is wanted."""

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(content), kind) + content

    image = struct.pack(">IIHBBBB", height, width, components, bits - 1, 7, 0, 0)
    header = box(b"ihdr", image) + box(b"colr", struct.pack(">BBBI", 1, 0, 0, space)) + boxes
    return (
        box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
        + box(b"jp2h", header) + box(b"jp2c", codestream)
    )  # fmt: skip


def bare(pixels: np.ndarray, **options: Any) -> bytes:
    """A lossless bare codestream by imagecodecs."""
    return imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, codecformat="j2k", **options)


def test_defaults_are_one_tile_and_layer_of_the_irreversible_wavelet(rgb: np.ndarray) -> None:
    assert coding(Jpeg2000().encode(rgb)) == {
        "size": (200, 144), "tile": (200, 144), "components": 3, "precincts": [], "sop": False,
        "eph": False, "progression": 0, "layers": 1, "mct": 1, "resolutions": 6,
        "code_block": (64, 64), "reversible": False, "quantised": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"reversible": True}, {"reversible": True, "quantised": 0}),
        ({"resolutions": 4}, {"resolutions": 4}),
        ({"resolutions": 33}, {"resolutions": 8}),
        ({"layers": 3}, {"layers": 3}),
        ({"psnr_db": 40.0, "layers": 4}, {"layers": 4}),
        ({"psnr_db": 24.0, "layers": 4}, {"layers": 2}),
        ({"tile": 64}, {"tile": (64, 64)}),
        ({"tile": 150}, {"tile": (150, 144)}),
        ({"tile": 200}, {"tile": (200, 144)}),
        ({"tile": 16}, {"tile": (16, 16), "resolutions": 5}),
        ({"precinct": 128}, {"precincts": [(128, 128)] * 6}),
        ({"code_block_width": 16}, {"code_block": (16, 64)}),
        ({"code_block_height": 4, "code_block_width": 1024}, {"code_block": (1024, 4)}),
        ({"progression": "RLCP"}, {"progression": 1}),
        ({"progression": "RPCL"}, {"progression": 2}),
        ({"progression": "PCRL"}, {"progression": 3}),
        ({"progression": "CPRL"}, {"progression": 4}),
        ({"mct": False}, {"mct": 0}),
        ({"sop": True}, {"sop": True}),
        ({"eph": True}, {"eph": True}),
    ],
    ids=str,
)
def test_every_option_is_in_the_codestream(
    rgb: np.ndarray, options: dict[str, Any], seen: dict[str, Any]
) -> None:
    data = Jpeg2000(**options).encode(rgb)
    assert coding(data).items() >= seen.items()
    assert psnr(rgb, Jpeg2000.decode(data)) > 22


def test_markers_are_where_they_were_asked_for(rgb: np.ndarray) -> None:
    plain = Jpeg2000().encode(rgb)
    for marker, codec in (
        (b"\xff\x91\x00\x04", Jpeg2000(sop=True)),
        (b"\xff\x92", Jpeg2000(eph=True)),
    ):
        # One packet for each of 3 components and 6 resolutions.
        assert codec.encode(rgb).count(marker) == 18
        assert marker not in plain


def test_orders_of_packets_change_bytes_and_no_pixel(rgb: np.ndarray) -> None:
    files = [
        Jpeg2000(layers=4, progression=order).encode(rgb)
        for order in ("LRCP", "RLCP", "RPCL", "PCRL", "CPRL")
    ]
    assert len(set(files)) == 5
    assert len({Jpeg2000.decode(data).tobytes() for data in files}) == 1


@pytest.mark.parametrize("name", ODD)
def test_odd_settings_take_any_size(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    for shape in ((1, 1), (1, 1, 3), (2, 1), (1, 300, 3), (300, 1), (17, 15, 3), (33, 64, 3)):
        picture = photograph_like(shape[0], shape[1], 3 if len(shape) == 3 else 1)
        decoded = Jpeg2000.decode(ODD[name].encode(picture))
        assert decoded.shape == shape
        if name == "lossless":
            assert np.array_equal(decoded, picture)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("options", [{}, {"layers": 6, "tile": 50}, {"mct": False}], ids=str)
def test_ratio_1_of_the_reversible_wavelet_is_lossless(
    rgb: np.ndarray, gray: np.ndarray, options: dict[str, Any]
) -> None:
    codec = Jpeg2000(ratio=1, reversible=True, **options)
    for picture in (rgb, gray, np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)):
        assert np.array_equal(Jpeg2000.decode(codec.encode(picture)), picture)


@pytest.mark.parametrize("reversible", [False, True])
@pytest.mark.parametrize("asked", [26, 32, 38])
def test_a_psnr_is_met(rgb: np.ndarray, asked: float, reversible: bool) -> None:
    for layers in (1, 4):
        codec = Jpeg2000(ratio=999, psnr_db=asked, reversible=reversible, layers=layers)
        assert psnr(rgb, Jpeg2000.decode(codec.encode(rgb))) == pytest.approx(asked, abs=0.8)
        assert codec.encode(rgb) == dataclasses.replace(codec, ratio=3).encode(rgb)


def test_turning_the_knob_takes_the_ratio_back(rgb: np.ndarray) -> None:
    codec = Jpeg2000(psnr_db=40, layers=2)
    assert codec.with_knob(30) == Jpeg2000(ratio=30, layers=2)
    found = encode_to_target(rgb, codec, RatioTarget(25, relative_tolerance=0.06))
    assert found.reached
    assert found.codec.params()["psnr_db"] == 0


def test_each_layer_adds_to_the_picture(rgb: np.ndarray, tmp_path: Path) -> None:
    data = Jpeg2000(ratio=8, layers=4).encode(rgb)
    path = tmp_path / "layers.jp2"
    path.write_bytes(data)
    import glymur  # after imagecompression has found it a library

    quality = []
    for layer in (1, 2, 3, 0):  # 0 is all of them
        picture = glymur.Jp2kr(path)
        picture.layer = layer
        quality.append(psnr(rgb, picture[:]))
    assert np.diff(quality).min() > 1
    assert quality[3] == psnr(rgb, Jpeg2000.decode(data))


def test_layers_of_headers_alone_are_left_out(rgb: np.ndarray) -> None:
    # 86,400 bytes at 20:1 are 4320: halved four times that still leaves 256.
    assert coding(Jpeg2000(ratio=20, layers=32).encode(rgb))["layers"] == 5
    assert coding(Jpeg2000(ratio=20, layers=32).encode(rgb[:8, :8]))["layers"] == 1


@pytest.mark.parametrize(
    "options",
    [
        {"psnr_db": 5}, {"psnr_db": 101}, {"psnr_db": float("nan")}, {"layers": 0}, {"layers": 33},
        {"layers": 2.0}, {"tile": 8}, {"tile": 65536}, {"tile": -1}, {"precinct": 100},
        {"precinct": 64}, {"precinct": 65536}, {"code_block_width": 128}, {"code_block_width": 2},
        {"code_block_height": 48}, {"progression": "lrcp"}, {"mct": 1}, {"sop": None},
        {"eph": "yes"}, {"reversible": 0}, {"resolutions": 34},
    ],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(CodecError, match="Received"):
        Jpeg2000(**options)


def test_more_tiles_than_the_format_has_are_refused() -> None:
    with pytest.raises(CodecError, match="66049 tiles"):
        Jpeg2000(tile=16).encode(np.zeros((4112, 4112), np.uint8))


@pytest.mark.parametrize("bits", [1, 2, 4, 5, 7, 10, 12])
def test_other_depths_are_scaled_to_eight_bits(bits: int) -> None:
    top = (1 << bits) - 1
    kind = np.uint8 if bits < 8 else np.uint16
    samples = np.random.default_rng(bits).integers(0, top + 1, (30, 41, 3), kind)
    expected = (samples.astype(int) * 255 + top // 2) // top
    for picture, result in ((samples, expected), (samples[:, :, 0].copy(), expected[:, :, 0])):
        assert np.array_equal(Jpeg2000.decode(bare(picture, bitspersample=bits)), result)


def test_alpha_is_dropped() -> None:
    for shape, kept in (((30, 41, 2), 0), ((30, 41, 4), slice(0, 3))):
        picture = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
        assert np.array_equal(Jpeg2000.decode(bare(picture)), picture[:, :, kept])


@pytest.mark.parametrize("bits", [8, 4])
def test_a_palette_is_looked_up(bits: int) -> None:
    entries = 1 << bits
    index = np.random.default_rng(1).integers(0, entries, (40, 50), np.uint8)
    palette = np.random.default_rng(2).integers(0, 256, (entries, 3), np.uint8)
    content = struct.pack(">HB", entries, 3) + b"\7\7\7" + palette.tobytes()
    boxes = struct.pack(">I4s", 8 + len(content), b"pclr") + content
    boxes += struct.pack(">I4s", 20, b"cmap") + b"".join(
        struct.pack(">HBB", 0, 1, channel) for channel in range(3)
    )
    data = jp2(bare(index, bitspersample=bits), 50, 40, 1, bits=bits, boxes=boxes)
    assert np.array_equal(Jpeg2000.decode(data), palette[index])


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv444p", "rgb24", "gray"])
def test_ffmpegs_files_are_read(rgb: np.ndarray, pixel_format: str) -> None:
    """Among them YCC with subsampled components (I.5.3.3)."""
    import av

    encoder = av.CodecContext.create("jpeg2000", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 199, 143, pixel_format
    encoder.time_base, encoder.thread_count = Fraction(1, 25), 1
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb[:143, :199]), format="rgb24")
    frame = frame.reformat(format=pixel_format, dst_color_range="JPEG")
    data = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    decoded = Jpeg2000.decode(data)
    if pixel_format == "gray":
        assert decoded.shape == (143, 199)
    else:
        assert psnr(np.ascontiguousarray(rgb[:143, :199]), decoded) > 24


def test_components_that_are_no_picture_are_refused() -> None:
    for picture, words in (
        (np.zeros((9, 9), np.int8), "signed"),
        (np.zeros((9, 9), np.int16), "signed"),
        (np.zeros((9, 9, 5), np.uint8), "components"),
    ):
        with pytest.raises(CodecError, match=words):
            Jpeg2000.decode(bare(picture))


@pytest.mark.parametrize(
    "size",
    [
        # right, bottom, left, top, then width, height, left and top of the first tile
        (1 << 31, 1 << 31, 0, 0, 1 << 31, 1 << 31, 0, 0), (9999, 9999, 0, 0, 1, 1, 0, 0),
        (9960, 9960, 0, 0, 40, 40, 0, 0), (65535, 1, 0, 0, 1, 1, 0, 0),
        (64, 64, 0, 0, 0, 64, 0, 0), (64, 64, 64, 0, 64, 64, 0, 0), (64, 64, 0, 0, 32, 32, 0, 0),
        (64, 64, 0, 0, 64, 64, 9, 9),
    ],
    ids=str,
)  # fmt: skip
def test_hostile_sizes_are_refused_at_once(
    size: tuple[int, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(bare(photograph_like(64, 64, 3)))
    struct.pack_into(">8I", data, 8, *size)
    for file in (bytes(data), jp2(bytes(data), 64, 64, 3)):
        start = time.process_time()
        with pytest.raises(CodecError):
            Jpeg2000.decode(file)
        assert time.process_time() - start < 2
    assert capfd.readouterr() == ("", "")


def test_headers_that_disagree_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    codestream = bare(photograph_like(64, 64, 3))
    assert Jpeg2000.decode(jp2(codestream, 64, 64, 3)).shape == (64, 64, 3)
    for width, height in ((8, 8), (65, 64), (20_000, 20_000)):
        with pytest.raises(CodecError):
            Jpeg2000.decode(jp2(codestream, width, height, 3))
    # A decoy codestream in a box that nobody reads.
    with pytest.raises(CodecError, match="no codestream"):
        Jpeg2000.decode(jp2(codestream, 64, 64, 3).replace(b"jp2c", b"free"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("codec", [Jpeg2000(), Jpeg2000(tile=64, layers=3)], ids=["one", "tiles"])
def test_truncated_files_are_refused(
    codec: Jpeg2000, rgb: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    data = codec.encode(rgb)
    for end in (-1, -2, -3, -100, len(data) // 2, len(data) // 10):
        with pytest.raises(CodecError, match="Not a readable"):
            Jpeg2000.decode(data[:end])
    assert capfd.readouterr() == ("", "")


def test_damaged_files_are_refused_or_read(capfd: pytest.CaptureFixture[str]) -> None:
    """A fault among the coefficients cannot be seen; nothing but a CodecError may come of it."""
    rng = np.random.default_rng(7)
    files = [Jpeg2000(**options).encode(photograph_like(48, 61, 3))
             for options in ({}, {"tile": 32, "layers": 3, "progression": "RPCL"})]  # fmt: skip
    refused = 0
    for turn in range(200):
        damaged = bytearray(files[turn % 2])
        for at in rng.integers(0, 300, 3):
            damaged[at] = rng.integers(0, 256)
        try:
            Jpeg2000.decode(bytes(damaged))
        except CodecError:
            refused += 1
    assert refused > 50
    assert capfd.readouterr() == ("", "")
