"""Reading and writing picture files; every input is generated here."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PilImage
from PIL import ImageCms

from imagecompression import CODECS
from imagecompression.codec import CodecError
from imagecompression.image_io import (
    ImageReadError,
    ImageWriteError,
    LoadedImage,
    decode_image,
    load_image,
    load_srgb,
    read_image,
    suffix_codec,
    write_bytes_atomic,
    write_image,
)

RANDOM = np.random.default_rng(7)
GRAY = RANDOM.integers(0, 256, (37, 53), np.uint8)
RGB = RANDOM.integers(0, 256, (37, 53, 3), np.uint8)
GRAY16 = RANDOM.integers(0, 65536, (37, 53), np.uint16)
RGB16 = RANDOM.integers(0, 65536, (37, 53, 3), np.uint16)


def rounded(samples: np.ndarray, top: int = 65535) -> np.ndarray:
    """Samples scaled to 0 … 255, in floating point."""
    return np.floor(samples * 255.0 / top + 0.5).astype(np.uint8)


def tiff(tmp_path: Path, image: np.ndarray, **options: object) -> Path:
    """A TIFF file that tifffile wrote without its own metadata."""
    path = tmp_path / "picture.tif"
    tifffile.imwrite(path, image, **{"metadata": None, **options})
    return path


def check_contract(loaded: LoadedImage) -> None:
    pixels = loaded.pixels
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.ndim == 2 or pixels.shape[2:] == (3,)


def assert_refused(path: Path, *words: str, **options: int) -> None:
    with pytest.raises(ImageReadError) as caught:
        load_image(path, **options)
    message = str(caught.value)
    assert path.name in message
    for word in words:
        assert word in message


def test_bytes_in_memory_are_read_as_their_file(tmp_path):
    path = tiff(tmp_path, RGB16)
    from_file, from_bytes = load_image(path), decode_image(path.read_bytes(), "exhibit 1")
    assert np.array_equal(from_file.pixels, from_bytes.pixels)
    assert from_file.notes == from_bytes.notes
    assert from_file.sha256 == from_bytes.sha256
    with pytest.raises(ImageReadError, match="'exhibit 1'"):
        decode_image(path.read_bytes()[:50], "exhibit 1")


# TIFF -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [{}, {"tile": (16, 32)}, {"rowsperstrip": 5}])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize(
    "image", [GRAY, RGB, GRAY16, RGB16], ids=["gray", "rgb", "gray16", "rgb16"]
)
def test_tiff_layouts(tmp_path, image, layout, byteorder, bigtiff):
    kind = "rgb" if image.ndim == 3 else "minisblack"
    path = tiff(tmp_path, image, photometric=kind, byteorder=byteorder, bigtiff=bigtiff, **layout)
    loaded = load_image(path)
    check_contract(loaded)
    wide = image.dtype == np.uint16
    np.testing.assert_array_equal(loaded.pixels, rounded(image) if wide else image)
    assert loaded.notes == (("16 bit reduced to 8",) if wide else ())
    assert loaded.format == "tiff"
    assert loaded.bit_depth == (16 if wide else 8)
    assert loaded.inner_codec is None
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("compression", "predictor"),
    [
        *itertools.product(("lzw", "zlib", "zstd", "lzma"), (False, True)),
        ("packbits", False),  # takes no predictor
    ],
)
def test_tiff_lossless_compressions(tmp_path, compression, predictor):
    path = tiff(tmp_path, RGB, photometric="rgb", compression=compression, predictor=predictor)
    loaded = load_image(path)
    np.testing.assert_array_equal(loaded.pixels, RGB)
    assert loaded.notes == ()


@pytest.mark.parametrize("image", [RGB, RGB16], ids=["8", "16"])
@pytest.mark.parametrize("layout", [{}, {"tile": (16, 32)}])
def test_tiff_planar(tmp_path, image, layout):
    planes = np.moveaxis(image, 2, 0)
    path = tiff(tmp_path, planes, photometric="rgb", planarconfig="separate", **layout)
    expected = rounded(image) if image.dtype == np.uint16 else image
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha", "unspecified"])
def test_tiff_alpha_is_dropped_and_noted(tmp_path, kind):
    rgba = np.dstack([RGB, GRAY])
    loaded = load_image(tiff(tmp_path, rgba, photometric="rgb", extrasamples=[kind]))
    np.testing.assert_array_equal(loaded.pixels, RGB)
    assert len(loaded.notes) == 1
    assert "dropped" in loaded.notes[0]
    assert ("premultiplied" in loaded.notes[0]) == (kind == "assocalpha")


def test_tiff_gray_alpha(tmp_path):
    image = np.dstack([GRAY, 255 - GRAY])
    loaded = load_image(
        tiff(tmp_path, image, photometric="minisblack", extrasamples=["unassalpha"])
    )
    np.testing.assert_array_equal(loaded.pixels, GRAY)
    assert loaded.notes == ("alpha dropped",)


@pytest.mark.parametrize("scale", [256, 257], ids=["Pillow", "libtiff"])
def test_tiff_palette(tmp_path, scale):
    colors = RANDOM.integers(0, 256, (3, 256), np.uint16)
    path = tiff(tmp_path, GRAY, photometric="palette", colormap=colors * np.uint16(scale))
    loaded = load_image(path)
    np.testing.assert_array_equal(loaded.pixels, colors.T[GRAY].astype(np.uint8))
    assert loaded.notes == ("palette of 256 colours expanded",)


@pytest.mark.parametrize("bits", [2, 4, 6, 10, 12, 14])
def test_tiff_odd_bit_depths(tmp_path, bits):
    top = (1 << bits) - 1
    dtype = np.uint8 if bits < 8 else np.uint16
    samples = RANDOM.integers(0, top + 1, (9, 16)).astype(dtype)
    samples[0, :2] = 0, top
    packed = imagecodecs.packints_encode(samples, bits)
    path = tmp_path / "picture.tif"
    path.write_bytes(bare_tiff({256: 16, 257: 9, 258: bits, 259: 1, 262: 1, 277: 1}, packed))
    loaded = load_image(path)
    np.testing.assert_array_equal(loaded.pixels, rounded(samples, top))
    assert loaded.bit_depth == bits


@pytest.mark.parametrize("kind", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("image", [GRAY, GRAY16, GRAY > 99], ids=["8", "16", "1"])
def test_tiff_gray_polarity(tmp_path, kind, image):
    loaded = load_image(tiff(tmp_path, image, photometric=kind))
    expected = rounded(
        image, {"b": 1, "u": 65535 if image.itemsize == 2 else 255}[image.dtype.kind]
    )
    white_is_zero = kind == "miniswhite"
    np.testing.assert_array_equal(loaded.pixels, 255 - expected if white_is_zero else expected)
    assert ("min-is-white inverted" in loaded.notes) == white_is_zero


@pytest.mark.parametrize("compression", ["group3", "group4", "raw"])
def test_tiff_bilevel_fax(tmp_path, compression):
    picture = PilImage.fromarray(GRAY > 128)
    path = tmp_path / "fax.tif"
    picture.save(path, compression=None if compression == "raw" else compression)
    np.testing.assert_array_equal(read_image(path), np.asarray(picture) * np.uint8(255))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_orientations(tmp_path, orientation):
    upright = RGB
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),  # shown turned clockwise by 90°, so stored anticlockwise
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    path = tiff(
        tmp_path,
        np.ascontiguousarray(turned),
        photometric="rgb",
        extratags=[(274, 3, 1, orientation, True)],
    )
    loaded = load_image(path)
    check_contract(loaded)
    np.testing.assert_array_equal(loaded.pixels, upright)
    expected = () if orientation == 1 else (f"orientation {orientation} applied",)
    assert loaded.notes == expected


def test_tiff_pages(tmp_path):
    path = tmp_path / "pages.tif"
    with tifffile.TiffWriter(path) as writer:
        for image in (GRAY, RGB, GRAY16):
            kind = "rgb" if image.ndim == 3 else "minisblack"
            writer.write(image, photometric=kind, metadata=None)
    np.testing.assert_array_equal(read_image(path), GRAY)
    np.testing.assert_array_equal(read_image(path, page=1), RGB)
    loaded = load_image(path, page=2)
    np.testing.assert_array_equal(loaded.pixels, rounded(GRAY16))
    assert loaded.notes[0] == "page 2 of 3 read, counted from 0"
    assert_refused(path, "3 pages", "page=3", "0 to 2", page=3)
    assert_refused(path, "page=-1", page=-1)


def test_tiff_page_loop_ends(tmp_path):
    """Two hundred pages of which the last points back to the first: longer than tifffile checks."""
    pages = bytearray(b"II*\0" + struct.pack("<I", 8))
    for index in range(200):
        following = 8 + 18 * ((index + 1) % 200)
        pages += struct.pack("<HHHIII", 1, 256, 4, 1, 5, following)
    path = tmp_path / "loop.tif"
    path.write_bytes(bytes(pages))
    assert_refused(path, "200 pages", page=500)
    assert_refused(path)


def test_tiff_cmyk_without_profile(tmp_path):
    cmyk = RANDOM.integers(0, 256, (12, 10, 4), np.uint8)
    loaded = load_image(tiff(tmp_path, cmyk, photometric="separated"))
    ink = 255.0 - cmyk
    expected = ink[:, :, :3] * ink[:, :, 3:] / 255
    assert np.abs(loaded.pixels - expected).max() <= 1
    assert loaded.notes == ("CMYK converted to RGB without a profile",)
    wide = load_image(tiff(tmp_path, cmyk.astype(np.uint16) * 257, photometric="separated"))
    np.testing.assert_array_equal(wide.pixels, loaded.pixels)


def cmyk_profile() -> bytes:
    """A printer profile with a table of 2⁴ points that knows black ink only: L* = 100 − 100·K."""
    ramp = bytes(range(256))
    table = bytes(
        value for point in range(16) for value in (0 if point & 1 else 255, 128, 128)
    )  # K varies fastest
    identity = b"".join(struct.pack(">i", 65536 * (at % 4 == 0)) for at in range(9))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + 4 * ramp + table + 3 * ramp
    white = b"XYZ \0\0\0\0" + struct.pack(">iii", 63190, 65536, 54061)
    header = bytearray(128)
    header[8:12] = b"\x02\x40\0\0"
    header[12:24] = b"prtrCMYKLab "
    header[36:40] = b"acsp"
    header[68:80] = struct.pack(">iii", 63190, 65536, 54061)
    tags = struct.pack(">I", 2)
    tags += b"A2B0" + struct.pack(">II", 156, len(lut))
    lut += bytes(-len(lut) % 4)
    tags += b"wtpt" + struct.pack(">II", 156 + len(lut), len(white))
    header[0:4] = struct.pack(">I", 156 + len(lut) + len(white))
    return bytes(header) + tags + lut + white


def test_tiff_cmyk_by_its_profile(tmp_path):
    cmyk = np.zeros((2, 3, 4), np.uint8)
    cmyk[:, :, 0] = 255  # full cyan, which this profile shows as white
    cmyk[:, 2, 3] = 255
    path = tiff(tmp_path, cmyk, photometric="separated", iccprofile=cmyk_profile())
    loaded = load_image(path)
    assert loaded.notes == ("CMYK converted to sRGB by the embedded ICC profile",)
    assert loaded.pixels[:, :2].min() >= 250
    assert loaded.pixels[:, 2].max() <= 5


def test_tiff_cmyk_with_a_broken_profile(tmp_path):
    cmyk = RANDOM.integers(0, 256, (12, 10, 4), np.uint8)
    expected = read_image(tiff(tmp_path, cmyk, photometric="separated"))
    path = tiff(tmp_path, cmyk, photometric="separated", iccprofile=b"no profile" * 20)
    loaded = load_image(path)
    np.testing.assert_array_equal(loaded.pixels, expected)
    assert any("profile unusable" in note for note in loaded.notes)


def test_tiff_lab(tmp_path):
    lab = np.zeros((2, 3, 3), np.uint8)
    lab[:, :, 0] = 128, 255, 0
    lab[1, 0, 1] = 60  # a* = 60: reddish
    path = tmp_path / "lab.tif"
    path.write_bytes(bare_tiff({256: 3, 257: 2, 258: 8, 259: 1, 262: 8, 277: 3}, lab.tobytes()))
    loaded = load_image(path)
    assert loaded.notes == ("CIELab converted to sRGB",)
    grays = loaded.pixels[0].astype(int)
    assert np.ptp(grays, axis=1).max() <= 2
    assert np.abs(grays[:, 0] - [119, 255, 0]).max() <= 2
    red, green, blue = loaded.pixels[1, 0].astype(int)
    assert red > green + 60
    assert red > blue


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2)])
def test_tiff_with_jpeg_inside(tmp_path, subsampling):
    smooth = np.asarray(PilImage.fromarray(RGB).resize((64, 48), PilImage.Resampling.BICUBIC))
    path = tiff(
        tmp_path,
        smooth,
        photometric="ycbcr",
        compression="jpeg",
        compressionargs={"level": 95},
        subsampling=subsampling,
    )
    loaded = load_image(path)
    assert loaded.inner_codec == "jpeg"
    assert loaded.notes == ("lossy data inside: JPEG",)
    with PilImage.open(path) as picture:
        np.testing.assert_array_equal(loaded.pixels, np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize(
    ("compression", "codec"), [("jpeg2000", "jpeg2000"), ("jpegxr", "jpegxr"), ("webp", "webp")]
)
def test_tiff_with_other_codecs_inside(tmp_path, compression, codec):
    path = tiff(tmp_path, RGB, photometric="rgb", tile=(16, 16), compression=compression)
    loaded = load_image(path)
    assert loaded.inner_codec == codec
    assert "lossy data inside" in loaded.notes[0]
    assert loaded.pixels.shape == RGB.shape


@pytest.mark.parametrize("factors", [(1, 1), (2, 1), (2, 2)])
def test_tiff_plain_ycbcr(tmp_path, factors):
    """A flat picture, so that chroma subsampling loses nothing: h·v luma and two chroma a unit."""
    across, down = factors
    unit = bytes([81] * (across * down) + [90, 240])  # red by ITU-R BT.601
    tags = {256: 8, 257: 4, 258: (8, 8, 8), 259: 1, 262: 6, 277: 3, 530: factors}
    path = tmp_path / "ycbcr.tif"
    path.write_bytes(bare_tiff(tags, unit * (8 // across * (4 // down))))
    loaded = load_image(path)
    assert loaded.pixels.shape == (4, 8, 3)
    assert loaded.notes == (f"YCbCr with chroma subsampling {across}×{down} converted to RGB",)
    red, green, blue = loaded.pixels[0, 0]
    assert red > 200
    assert max(green, blue) < 40


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (GRAY.astype(np.float32), "float, bits=32"),
        (GRAY.astype(np.int16), "signed, bits=16"),
        (GRAY.astype(np.uint32), "unsigned, bits=32"),
        (GRAY.astype(np.complex64), "complex"),
    ],
)
def test_tiff_samples_without_a_fixed_range_are_refused(tmp_path, image, word):
    assert_refused(tiff(tmp_path, image, photometric="minisblack"), word, "Allowed", "Save")


def test_tiff_volume_and_many_channels_are_refused(tmp_path):
    volume = RANDOM.integers(0, 256, (16, 32, 48), np.uint8)
    path = tiff(tmp_path, volume, photometric="minisblack", tile=(16, 16, 16), volumetric=True)
    assert_refused(path, "volume")
    channels = RANDOM.integers(0, 256, (9, 8, 5), np.uint8)
    path = tiff(tmp_path, channels, photometric="minisblack", planarconfig="contig")
    assert_refused(path, "5 samples")


# TIFF that is broken or hostile -----------------------------------------------------------------


def bare_tiff(tags: dict[int, int | tuple[int, ...]], strip: bytes, count: int = 1) -> bytes:
    """A little-endian TIFF of one page, whose `count` strips all are the bytes `strip`."""
    entries: dict[int, int | tuple[int, ...]] = {278: 1 << 31 if count == 1 else 1, **tags}
    tiled = 322 in tags
    entries[324 if tiled else 273] = (8,) * count
    entries[325 if tiled else 279] = (len(strip),) * count
    body = bytearray(strip + bytes(len(strip) % 2))
    ifd = struct.pack("<H", len(entries))
    for code, value in sorted(entries.items()):
        values = value if isinstance(value, tuple) else (value,)
        kind = "H" if code in (258, 262, 277, 530) else "I"
        packed = struct.pack(f"<{len(values)}{kind}", *values)
        if len(packed) > 4:
            offset = 8 + len(body)
            body += packed
            packed = struct.pack("<I", offset)
        ifd += struct.pack("<HHI", code, 3 if kind == "H" else 4, len(values))
        ifd += packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + bytes(body) + ifd + bytes(4)


GRAY_TAGS: dict[int, int | tuple[int, ...]] = {258: 8, 259: 1, 262: 1, 277: 1}


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (bare_tiff({256: 30_000, 257: 30_000, **GRAY_TAGS}, b"x" * 10), "30000×30000"),
        (bare_tiff({256: 0, 257: 10, **GRAY_TAGS}, b"x" * 10), "0×10"),
        (bare_tiff({256: 10, 257: 10, **GRAY_TAGS}, b"x" * 10)[:-40], ""),
        (bare_tiff({256: 100, 257: 100, **GRAY_TAGS}, b"x" * 10_000)[:9000], ""),
        (bare_tiff({256: 9, 257: 9, **GRAY_TAGS, 322: 65520, 323: 65520}, b"x" * 81), "unpack to"),
        (bare_tiff({256: 9, 257: 9, **GRAY_TAGS, 322: 16, 323: 0}, b"x" * 81), "tiles of 16×0"),
        (bare_tiff({256: 9, 257: 9, **GRAY_TAGS, 262: 32803}, b"x" * 81), "CFA"),
        (bare_tiff({256: 9, 257: 9, **GRAY_TAGS, 259: 50002}, b"x" * 81), "JPEGXL"),
        (bare_tiff({256: 9, 257: 9, **GRAY_TAGS, 277: 60_000}, b"x" * 81), "60000 samples"),
        (bare_tiff({256: 1, 257: 600_000, **GRAY_TAGS}, b"x", count=600_000), "600,000"),
        (bare_tiff({256: 9, 257: 9, **GRAY_TAGS, 262: 3}, b"x" * 81), "palette"),
        (b"II*\0" + struct.pack("<I", 1 << 31), "no page"),
        (b"MM\0*\0\0\0\0", "no page"),
        (b"II+\0\x08\0\0\0" + b"\xff" * 8, "no page"),
        (b"II*\0", "no page"),
    ],
)  # fmt: skip
def test_hostile_tiff_is_refused(tmp_path, data, word):
    path = tmp_path / "hostile.tif"
    path.write_bytes(data)
    assert_refused(path, word)


def test_strip_that_unpacks_to_more_than_announced_is_bounded(tmp_path):
    path = tmp_path / "bomb.tif"
    bomb = zlib.compress(bytes(50_000_000))
    path.write_bytes(bare_tiff({256: 9, 257: 9, **GRAY_TAGS, 259: 8}, bomb))
    assert_refused(path)


def test_large_picture_inside_a_small_tile_is_refused(tmp_path):
    jpeg = bytearray(imagecodecs.jpeg_encode(np.zeros((16, 16), np.uint8)))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    path = tmp_path / "inner.tif"
    path.write_bytes(bare_tiff({256: 16, 257: 16, **GRAY_TAGS, 259: 7}, bytes(jpeg)))
    assert_refused(path, "60000×60000")


# PNG --------------------------------------------------------------------------------------------


def png(width: int, height: int, bits: int, kind: int, raw: bytes, *chunks: bytes) -> bytes:
    """A PNG file of the given header, filtered rows and further chunks (type and content)."""

    def chunk(content: bytes) -> bytes:
        length = struct.pack(">I", len(content) - 4)
        return length + content + struct.pack(">I", zlib.crc32(content))

    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    parts = (header, *chunks, b"IDAT" + zlib.compress(raw), b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(chunk, parts))


def rows(samples: np.ndarray) -> bytes:
    """PNG rows without filter; 16-bit samples big-endian."""
    if samples.dtype == np.uint16:
        samples = samples.astype(">u2")
    return b"".join(b"\0" + row.tobytes() for row in samples)


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (GRAY16, 0),
        (RGB16, 2),
        (np.dstack([GRAY16, GRAY16[::-1]]), 4),
        (np.dstack([RGB16, GRAY16]), 6),
    ],
    ids=["gray", "rgb", "gray-alpha", "rgb-alpha"],
)
def test_png_16_bit_is_rounded(tmp_path, image, kind):
    path = tmp_path / "wide.png"
    path.write_bytes(png(53, 37, 16, kind, rows(image)))
    loaded = load_image(path)
    check_contract(loaded)
    colours = rounded(RGB16 if kind in (2, 6) else GRAY16)
    np.testing.assert_array_equal(loaded.pixels, colours)
    alpha = ("alpha dropped",) if kind >= 4 else ()
    assert loaded.notes == ("16 bit reduced to 8", *alpha)
    assert loaded.bit_depth == 16


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA", "1", "P"])
def test_png_kinds(tmp_path, mode):
    path = tmp_path / "picture.png"
    picture = PilImage.fromarray(RGB).convert("L" if mode == "LA" else mode)
    expected = np.asarray(picture.convert("L" if mode in ("L", "LA", "1") else "RGB"))
    if mode in ("LA", "RGBA"):
        picture.putalpha(PilImage.fromarray(GRAY))
    picture.save(path)
    loaded = load_image(path)
    check_contract(loaded)
    np.testing.assert_array_equal(loaded.pixels, expected)
    assert loaded.notes == {
        "LA": ("alpha dropped",),
        "RGBA": ("alpha dropped",),
        "1": ("1 bit expanded to 8",),
        "P": ("palette expanded",),
    }.get(mode, ())
    assert loaded.format in CODECS


def test_png_with_a_transparent_colour(tmp_path):
    path = tmp_path / "trns.png"
    path.write_bytes(png(53, 37, 8, 2, rows(RGB), b"tRNS" + bytes([0, 1, 0, 2, 0, 3])))
    loaded = load_image(path)
    np.testing.assert_array_equal(loaded.pixels, RGB)
    assert loaded.notes == ("transparent colour dropped",)


def test_png_with_a_huge_header(tmp_path):
    path = tmp_path / "huge.png"
    path.write_bytes(png(30_000, 30_000, 16, 2, b""))
    assert_refused(path, "30000×30000")


def test_truncated_png_is_refused(tmp_path):
    path = tmp_path / "cut.png"
    for bits, image in ((8, RGB), (16, RGB16)):
        data = png(53, 37, bits, 2, rows(image))
        for length in (9, 20, 40, len(data) // 2, len(data) - 60):
            path.write_bytes(data[:length])
            assert_refused(path)


# Codecs' own files ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(CODECS))
def test_codec_files_under_any_name(tmp_path, name):
    codec = CODECS[name]()
    data = codec.encode(RGB)
    path = tmp_path / "misnamed.tif"
    path.write_bytes(data)
    loaded = load_image(path)
    np.testing.assert_array_equal(loaded.pixels, codec.decode(data))
    assert loaded.format == name
    assert loaded.bit_depth == 8
    assert_refused(path, "page=1", page=1)
    path.write_bytes(data[: len(data) // 3])
    assert_refused(path)


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("image", [GRAY16, RGB16], ids=["gray", "rgb"])
def test_deep_jpeg2000_is_rounded(tmp_path, image, bits):
    path = tmp_path / "deep.jp2"
    image = image >> (16 - bits)
    path.write_bytes(imagecodecs.jpeg2k_encode(image, level=0, bitspersample=bits))
    loaded = load_image(path)
    np.testing.assert_array_equal(loaded.pixels, rounded(image, (1 << bits) - 1))
    assert loaded.notes == (f"{bits} bit reduced to 8",)
    assert loaded.bit_depth == bits


def test_tiff_under_another_name(tmp_path):
    path = tmp_path / "holiday.jpg"
    tifffile.imwrite(path, RGB, photometric="rgb")
    np.testing.assert_array_equal(read_image(path), RGB)
    assert load_image(path).format == "tiff"


def test_jpeg_header_notes(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = PilImage.Exif()
    exif[274] = 6
    PilImage.fromarray(RGB).save(path, exif=exif, icc_profile=b"x" * 200)
    loaded = load_image(path)
    assert loaded.pixels.shape == RGB.shape
    assert loaded.notes == (
        "ICC profile present, not applied",
        "EXIF orientation 6 not applied",
    )
    PilImage.fromarray(RGB).convert("CMYK").save(path)
    assert load_image(path).notes == ("CMYK converted to RGB without a profile",)


# Colour profiles -------------------------------------------------------------------------------

ADOBE_RGB = imagecodecs.cms_profile("adobergb")
WIDE_GAMUT = imagecodecs.cms_profile(  # ProPhoto's primaries and gamma
    "rgb",
    whitepoint=(0.3457, 0.3585, 1.0),
    primaries=(0.7347, 0.2653, 1.0, 0.1596, 0.8404, 1.0, 0.0366, 0.0001, 1.0),
    gamma=1.8,
)
MUTED = (RANDOM.integers(90, 166, (24, 31, 3))).astype(np.uint8)  # inside every gamut


def by_formula(rgb: np.ndarray) -> np.ndarray:
    """Adobe RGB (1998) to sRGB by the two standards' matrices and curves (both of white D65)."""
    to_xyz = np.array(
        [[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]]
    )
    from_xyz = np.array(
        [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]
    )
    linear = (rgb / 255.0) ** (563 / 256) @ to_xyz.T @ from_xyz.T
    linear = np.clip(linear, 0, 1)
    curve = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return 255 * curve


@pytest.mark.parametrize("wide", [False, True], ids=["8 bit", "16 bit"])
@pytest.mark.parametrize("kind", ["tiff", "png"])
def test_adobe_rgb_becomes_srgb(tmp_path, kind, wide):
    samples = MUTED * np.uint16(257) if wide else MUTED
    path = tmp_path / "picture.tif"
    if kind == "tiff":
        tifffile.imwrite(path, samples, photometric="rgb", iccprofile=ADOBE_RGB, metadata=None)
    else:
        profile = b"iCCPname\0\0" + zlib.compress(ADOBE_RGB)
        path.write_bytes(png(31, 24, 16 if wide else 8, 2, rows(samples), profile))
    stored, srgb = load_srgb(path)
    np.testing.assert_array_equal(stored.pixels, MUTED)
    check_contract(srgb)
    assert np.abs(srgb.pixels - by_formula(MUTED)).max() < 2.5
    assert np.abs(srgb.pixels.astype(int) - MUTED).max() > 10
    assert any("converted to sRGB" in note for note in srgb.notes)
    assert not any("not applied" in note for note in srgb.notes)
    assert ("16 bit reduced to 8" in srgb.notes) == wide


def test_a_wide_gamut_becomes_more_colourful_and_grays_stay_gray(tmp_path):
    path = tiff(tmp_path, MUTED, photometric="rgb", iccprofile=WIDE_GAMUT)
    assert load_srgb(path)[1].pixels.std(axis=2).mean() > 1.5 * MUTED.std(axis=2).mean()
    gray = np.repeat(MUTED[:, :, :1], 3, axis=2)
    converted = load_srgb(tiff(tmp_path, gray, photometric="rgb", iccprofile=WIDE_GAMUT))[1]
    assert np.ptp(converted.pixels, axis=2).max() <= 1


def test_an_srgb_profile_changes_no_sample(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    stored, srgb = load_srgb(tiff(tmp_path, RGB, photometric="rgb", iccprofile=profile))
    np.testing.assert_array_equal(srgb.pixels, RGB)
    assert stored.notes == ("ICC profile present, not applied",)
    assert len(srgb.notes) == 1
    assert srgb.notes[0].endswith("is sRGB")
    plain, same = load_srgb(tiff(tmp_path, RGB, photometric="rgb"))
    assert same is plain


def test_a_gray_profile_is_applied(tmp_path):
    profile = imagecodecs.cms_profile("gray", whitepoint=(0.3457, 0.3585, 1.0), gamma=1.8)
    path = tiff(tmp_path, GRAY, photometric="minisblack", iccprofile=profile)
    _, srgb = load_srgb(path)
    check_contract(srgb)
    x = (GRAY / 255.0) ** 1.8
    expected = 255 * np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    assert np.abs(srgb.pixels - expected).max() < 2


@pytest.mark.parametrize(
    "profile", [b"no profile" * 20, "gray", "lab2", "xyz", "null", ADOBE_RGB[:300]]
)
def test_profiles_that_do_not_fit_are_left_aside_with_a_note(tmp_path, profile):
    if isinstance(profile, str):
        profile = imagecodecs.cms_profile(profile)
    _, srgb = load_srgb(tiff(tmp_path, RGB, photometric="rgb", iccprofile=profile))
    np.testing.assert_array_equal(srgb.pixels, RGB)
    assert srgb.notes == ("embedded ICC profile unusable, not applied",)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    changes=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 255)), max_size=12),
    cut=st.integers(0, 500),
)
def test_hostile_profiles_do_no_harm(tmp_path, changes, cut):
    profile = bytearray(ADOBE_RGB)
    for at, value in changes:
        profile[at % len(profile)] = value
    profile = bytes(profile[: len(profile) - cut])
    _, srgb = load_srgb(tiff(tmp_path, MUTED, photometric="rgb", iccprofile=profile))
    check_contract(srgb)
    assert "ICC" in srgb.notes[-1]


def test_suffix_codec():
    assert suffix_codec("a/b.JPG") == "jpeg"
    assert suffix_codec(Path("b.jxr")) == "jpegxr"
    assert suffix_codec("b.tif") is None
    assert suffix_codec("b") is None


# Files that are no pictures ---------------------------------------------------------------------


def test_missing_folder_empty_text_and_pipe(tmp_path):
    assert_refused(tmp_path / "missing.tif", "No such file")
    assert_refused(tmp_path, "folder")
    path = tmp_path / "file.png"
    path.write_bytes(b"")
    assert_refused(path, "empty")
    path.write_text("This is no picture.")
    assert_refused(path, "TIFF, PNG", "jpeg2000")
    with pytest.raises(ImageReadError):
        read_image("nul\0byte")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert_refused(tmp_path / "pipe", "special file")


def test_too_large_a_file_is_not_read(tmp_path):
    path = tmp_path / "large.tif"
    with open(path, "wb") as file:
        file.truncate((1 << 30) + 1)
    assert_refused(path, "too large", "1,073,741,825")


# Writing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".tif", ".tiff", ".png", ".PNG"])
@pytest.mark.parametrize("image", [GRAY, RGB, GRAY[:1, :1], RGB[:3, :1]])
def test_write_and_read_back(tmp_path, suffix, image):
    path = tmp_path / f"picture{suffix}"
    write_image(path, image)
    write_image(path, image)  # an existing file is replaced
    loaded = load_image(path)
    np.testing.assert_array_equal(loaded.pixels, image)
    assert loaded.pixels.shape == image.shape
    assert loaded.notes == ()
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_write_refuses_lossy_suffixes_and_odd_arrays(tmp_path):
    with pytest.raises(ImageWriteError, match=r"\.png, \.tif, \.tiff"):
        write_image(tmp_path / "picture.jpg", RGB)
    with pytest.raises(CodecError, match="uint16"):
        write_image(tmp_path / "picture.tif", RGB16)
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "data.bin"
    write_bytes_atomic(path, b"old")

    def fail(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["data.bin"]
    with pytest.raises(FileNotFoundError):
        write_bytes_atomic(tmp_path / "no folder" / "data.bin", b"new")


# Any bytes at all -------------------------------------------------------------------------------


def seeds() -> list[bytes]:
    """Small valid files of several kinds, to be damaged."""
    found = []
    small, small16 = RGB[:8, :9], RGB16[:8, :9]
    for options in (
        {},
        {"compression": "zlib", "predictor": True},
        {"compression": "lzw", "tile": (16, 16)},
        {"compression": "jpeg", "bigtiff": True},
        {"byteorder": ">", "rowsperstrip": 2},
    ):
        for image in (small, small16):
            if options.get("compression") == "jpeg" and image is small16:
                continue
            out = io.BytesIO()
            tifffile.imwrite(out, image, photometric="rgb", metadata=None, **options)
            found.append(out.getvalue())
    for image, bits in ((small, 8), (small16, 16)):
        found.append(png(9, 8, bits, 2, rows(image)))
    return found


SEEDS = seeds()


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 60),
)
def test_damaged_files_give_a_picture_or_the_one_error(tmp_path_factory, seed, changes, cut):
    data = bytearray(seed)
    for at, value in changes:
        data[at % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(bytes(data[: len(data) - cut]))
    try:
        loaded = load_image(path)
    except ImageReadError as error:
        assert "damaged" in str(error)  # the file's name
    else:
        check_contract(loaded)
