"""BPG: the container, the colours and the decoder's manners; the contract is in test_codecs."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import flat_to_busy, photograph_like
from hypothesis import given, settings
from hypothesis import strategies as st

from imagecompression.bpg import COLOR_SPACES, PIXEL_FORMATS, Bpg
from imagecompression.bpg_container import (
    ALPHA_STRAIGHT,
    UE7_MAX,
    ByteReader,
    encode_ue7,
    parse_bpg,
)
from imagecompression.codec import MAX_PIXELS, CodecError, Extras
from imagecompression.hevc import (
    START_CODE,
    SequenceHeader,
    first_picture,
    nal_layer,
    nal_type,
    split_nals,
)
from imagecompression.metrics import psnr
from imagecompression.ycbcr import ColorSpace, halve_chroma, rgb_to_ycbcr, ycbcr_to_rgb

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_FILES = json.loads((GOLDEN / "bpg.json").read_text(encoding="utf-8"))

SIZE_AT = 6
"""Position of the width; magic and two bytes of flags come before."""


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A crop of one smooth picture, so that also tiny sizes have little texture."""
    whole = photograph_like(height + 40, width + 40, channels, seed=3)
    return np.ascontiguousarray(whole[20 : 20 + height, 20 : 20 + width])


def pieces(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Magic and flags, width and height, and all that follows the data length."""
    reader = ByteReader(data)
    reader.take(SIZE_AT)
    reader.ue7()
    reader.ue7()
    size = data[SIZE_AT : len(data) - len(reader.rest())]
    reader.ue7()
    return data[:SIZE_AT], size, reader.rest()


@pytest.fixture(scope="module")
def small() -> bytes:
    """A valid file of 24×40 pixels in 4:2:0."""
    return Bpg(qp=20, preset="superfast").encode(picture(40, 24))


@pytest.mark.parametrize("bit_depth", [8, 10])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2", "4:4:4"])
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (7, 9), (16, 17), (17, 24), (33, 31), (61, 130)])
def test_round_trip(size: tuple[int, int], subsampling: str, bit_depth: int) -> None:
    codec = Bpg(qp=8, subsampling=subsampling, bit_depth=bit_depth, preset="superfast")
    for channels, lowest in ((3, 44.0 if subsampling == "4:4:4" else 30.0), (1, 46.0)):
        source = picture(*size, channels)
        decoded = Bpg.decode(codec.encode(source))
        assert decoded.shape == source.shape
        assert psnr(source, decoded) > lowest


@pytest.mark.parametrize("preset", ["ultrafast", "slower", "placebo"])
@pytest.mark.parametrize("size", [(1, 1), (17, 24), (24, 100), (25, 25)])
def test_presets_with_few_pixels(size: tuple[int, int], preset: str) -> None:
    # Placebo's four levels of transforms do not fit into x265's tree blocks of 16 pixels.
    source = picture(*size, 1)
    decoded = Bpg.decode(Bpg(qp=8, preset=preset).encode(source))
    assert psnr(source, decoded) > 44


@pytest.mark.parametrize("limited_range", [False, True])
@pytest.mark.parametrize("color_space", COLOR_SPACES)
@pytest.mark.parametrize("bit_depth", [8, 10, 12])
@pytest.mark.parametrize("subsampling", PIXEL_FORMATS)
def test_each_mode_round_trips(
    subsampling: str, bit_depth: int, color_space: str, limited_range: bool
) -> None:
    fields: dict[str, Any] = {
        "subsampling": subsampling,
        "bit_depth": bit_depth,
        "color_space": color_space,
        "limited_range": limited_range,
    }
    if color_space == "rgb" and subsampling not in ("4:2:0", "4:4:4"):
        with pytest.raises(CodecError, match="subsampling"):
            Bpg(**fields)
        return
    codec = Bpg(qp=4, preset="ultrafast", **fields)
    for channels, size in ((3, (61, 83)), (3, (1, 3)), (1, (21, 17))):
        source = picture(*size, channels)
        data = codec.encode(source)
        halved = channels == 3 and codec.subsampling != "4:4:4"
        assert psnr(source, Bpg.decode(data)) > (30 if halved else 44)
        file = parse_bpg(data)
        assert (file.bit_depth, file.limited_range) == (bit_depth, limited_range)
        assert file.color_space == (COLOR_SPACES[color_space] if channels == 3 else 0)
        assert file.pixel_format == (PIXEL_FORMATS[codec.subsampling] if channels == 3 else 0)


@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3])),
    seed=st.integers(0, 1000),
    with_alpha=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_lossless_is_exact(shape: tuple[int, int, int], seed: int, with_alpha: bool) -> None:
    rng = np.random.default_rng(seed)
    source = rng.integers(0, 256, shape, np.uint8)
    if seed % 2:
        source = source // 128 * 255
    source = source[..., 0] if shape[2] == 1 else source
    alpha = rng.integers(0, 256, shape[:2], np.uint8) if with_alpha else None
    codec = Bpg(lossless=True, preset="ultrafast")
    decoded, extras = Bpg.decode_with(codec.encode_with(source, Extras(alpha=alpha)))
    assert np.array_equal(decoded, source)
    assert extras.held() == (("alpha",) if with_alpha else ())
    assert alpha is None or np.array_equal(extras.alpha, alpha)


def test_lossless_is_8_bit_rgb_in_the_file(rgb: np.ndarray) -> None:
    codec = Bpg(lossless=True)
    assert codec == Bpg(lossless=True, subsampling="4:4:4", color_space="rgb")
    data = codec.encode(rgb)
    file = parse_bpg(data)
    assert (file.color_space, file.pixel_format, file.bit_depth) == (ColorSpace.RGB, 3, 8)
    assert len(data) < rgb.size
    assert np.array_equal(Bpg.decode(data), rgb)


blocks = st.one_of(st.none(), st.binary(max_size=300))


@given(exif=blocks, icc=blocks, xmp=blocks, with_alpha=st.booleans(), gray=st.booleans())
@settings(max_examples=40, deadline=None)
def test_extras_round_trip(
    exif: bytes | None, icc: bytes | None, xmp: bytes | None, with_alpha: bool, gray: bool
) -> None:
    source = picture(19, 33, 1 if gray else 3)
    alpha = np.linspace(0, 255, 19 * 33).astype(np.uint8).reshape(19, 33) if with_alpha else None
    codec = Bpg(qp=5, preset="ultrafast", bit_depth=10, limited_range=True)
    data = codec.encode_with(source, Extras(alpha=alpha, exif=exif, icc=icc, xmp=xmp))
    decoded, extras = Bpg.decode_with(data)
    assert (extras.exif, extras.icc, extras.xmp) == (exif, icc, xmp)
    assert (extras.alpha is None) == (alpha is None)
    if alpha is not None:
        assert np.abs(extras.alpha.astype(int) - alpha).max() <= 6
    assert np.array_equal(Bpg.decode(data), decoded)
    assert np.array_equal(decoded, Bpg.decode(codec.encode(source)))


def test_alpha_comes_before_its_colors_as_layer_1() -> None:
    source = picture(24, 40)
    data = Bpg(preset="superfast").encode_with(source, Extras(alpha=source[..., 0].copy()))
    file = parse_bpg(data)
    assert file.alpha == ALPHA_STRAIGHT
    units = [(nal_type(nal), nal_layer(nal)) for nal in split_nals(file.hevc_data)]
    assert [layer for _, layer in units] == [1, 0] * (len(units) // 2)
    assert [kind for kind, _ in units[::2]] == [kind for kind, _ in units[1::2]]


@pytest.mark.parametrize("size", [(1, 4300), (4300, 20)])
@pytest.mark.parametrize("preset", ["ultrafast", "superfast"])
def test_long_thin_pictures(size: tuple[int, int], preset: str) -> None:
    source = picture(*size, 1)
    decoded = Bpg.decode(Bpg(qp=8, preset=preset).encode(source))
    assert decoded.shape == size
    assert psnr(source, decoded) > 40


@pytest.mark.parametrize("codec", Bpg.variants(), ids=str)
def test_variants_encode(codec: Bpg, rgb: np.ndarray) -> None:
    data = codec.encode(rgb)
    file = parse_bpg(data)
    assert (file.width, file.height, file.bit_depth) == (200, 144, codec.bit_depth)
    assert file.pixel_format == PIXEL_FORMATS[codec.subsampling]
    assert not codec.lossless
    assert psnr(rgb, Bpg.decode(data)) > 27


def test_qp_and_depth_change_the_bytes(rgb: np.ndarray) -> None:
    sizes = [len(Bpg(qp=qp, preset="superfast").encode(rgb)) for qp in (5, 15, 25, 35, 45)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 10 * sizes[-1]


@pytest.mark.parametrize("qp", [2, 15, 30, 45])
@pytest.mark.parametrize("fields", [{}, {"bit_depth": 10, "subsampling": "4:4:4"}], ids=str)
def test_the_fraction_leads_from_one_qp_to_the_next(qp: int, fields: dict) -> None:
    image = flat_to_busy(320, 448)
    codec = Bpg(qp=qp, preset="fast", **fields)
    ends = [len(codec.with_knob(each).encode(image)) for each in (qp, qp + 1)]
    step = ends[0] - ends[1]
    files = [codec.with_fine_knob(part).encode(image) for part in (0, 0.05, 0.3, 0.5, 0.8, 1)]
    sizes = [len(data) for data in files]
    assert files[0] == codec.encode(image)
    # Signalling of QPs for blocks costs up to a hundredth.
    slack = 0.01 * ends[0] + 0.1 * step
    assert abs(sizes[-1] - ends[1]) <= slack
    assert abs(sizes[1] - ends[0]) <= slack
    assert all(second <= first + slack for first, second in itertools.pairwise(sizes))
    if qp > 2:  # all under 3 ask for less than 0
        assert ends[1] + 0.1 * step < sizes[3] < ends[0] - 0.1 * step
    assert Bpg.decode(files[3]).shape == image.shape


@pytest.mark.parametrize("size", [(1, 1), (9, 5), (16, 70), (33, 17)], ids=str)
@pytest.mark.parametrize("preset", ["ultrafast", "medium", "placebo"])
def test_the_fraction_on_small_pictures(size: tuple[int, int], preset: str) -> None:
    image = photograph_like(*size, 3)
    data = Bpg(qp=30, preset=preset, qp_fraction=0.4).encode(image)
    assert Bpg.decode(data).shape == image.shape


def test_version_names_the_encoder() -> None:
    assert re.match(r"x265 \d+\.\d+\S* \(libavcodec [\d.]+, PyAV [\d.]+\)$", Bpg.version())


@pytest.mark.parametrize(
    "fields",
    [
        {"qp": 52},
        {"qp": -1},
        {"qp": 2.5},
        {"qp_fraction": 1.01},
        {"qp_fraction": 0.5, "qp": 51},
        {"qp_fraction": 0.5, "lossless": True},
        {"subsampling": "4:1:1"},
        {"bit_depth": 9},
        {"color_space": "bt601"},
        {"limited_range": 1},
        {"lossless": "yes"},
        {"qp": 20, "lossless": True},
        {"bit_depth": 10, "lossless": True},
        {"limited_range": True, "lossless": True},
        {"color_space": "bt709", "lossless": True},
        {"subsampling": "4:2:2", "lossless": True},
        {"subsampling": "4:2:0-video", "color_space": "rgb"},
    ],
    ids=str,
)
def test_bad_parameters_are_refused(fields: dict) -> None:
    with pytest.raises(CodecError, match=next(iter(fields))):
        Bpg(**fields)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str], small: bytes) -> None:
    Bpg.decode(Bpg(qp=30).encode(picture(20, 20)))
    with pytest.raises(CodecError):
        Bpg.decode(small[:-200])
    with pytest.raises(CodecError):
        Bpg.decode(small[:30] + bytes(300))
    assert capfd.readouterr() == ("", "")


# Golden files: the decoder is specified, so its pixels never change.


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_golden_pixels(name: str) -> None:
    decoded = Bpg.decode((GOLDEN / name).read_bytes())
    assert list(decoded.shape) == GOLDEN_FILES[name]["shape"]
    assert hashlib.sha256(decoded.tobytes()).hexdigest() == GOLDEN_FILES[name]["sha256"]


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_golden_extras(name: str) -> None:
    _, extras = Bpg.decode_with((GOLDEN / name).read_bytes())
    digests = {
        held: hashlib.sha256(bytes(memoryview(getattr(extras, held)))).hexdigest()
        for held in extras.held()
    }
    assert digests == GOLDEN_FILES[name]["extras"]


# Container.


def test_ue7_examples() -> None:
    assert encode_ue7(512) == bytes([0x84, 0x00])
    assert encode_ue7(542) == bytes([0x84, 0x1E])
    assert encode_ue7(0) == b"\0"
    assert encode_ue7(127) == b"\x7f"


@given(st.integers(0, UE7_MAX))
def test_ue7_round_trip(value: int) -> None:
    reader = ByteReader(encode_ue7(value) + b"x")
    assert reader.ue7() == value
    assert reader.rest() == b"x"


@pytest.mark.parametrize("data", [b"", b"\x80\x01", b"\x81", b"\xff\xff\xff\xff\x7f", b"\x81\x80"])
def test_ue7_refuses(data: bytes) -> None:
    with pytest.raises(CodecError):
        ByteReader(data).ue7()


@pytest.mark.parametrize("header", ["924740", "924250", "924d00", "b924"])
def test_hevc_header_examples(header: str) -> None:
    parsed = SequenceHeader.from_bpg(bytes.fromhex(header))
    assert parsed.to_bpg().hex() == header
    assert (parsed.log2_min_cb, parsed.log2_min_tb) == (3, 2)
    assert parsed.sao == (header != "b924")
    again = SequenceHeader.from_sps(parsed.to_sps(64, 136, chroma_format_idc=3, bit_depth=10))
    assert again == (parsed, 64, 136)


def test_sps_with_pcm_and_range_extension_round_trips() -> None:
    # CB 8..32, TB 4..16, depth 1, SAO, PCM 8 and 8 bits of 8..32 with filter, smoothing, rotation.
    bits = "1 011 1 011 010 1 1 0111 0111 1 011 0 1 1 10000000 100000000".replace(" ", "")
    header = int(bits.ljust(48, "0"), 2).to_bytes(6, "big")
    parsed = SequenceHeader.from_bpg(header)
    assert parsed.pcm is not None
    assert parsed.range_flags == 0b100000000
    assert parsed.to_bpg() == header[: len(parsed.to_bpg())]
    assert SequenceHeader.from_sps(parsed.to_sps(72, 8, 1, 8)) == (parsed, 72, 8)


def test_header_fields(small: bytes) -> None:
    file = parse_bpg(small)
    assert (file.width, file.height, file.pixel_format, file.bit_depth) == (24, 40, 1, 8)
    assert file.color_space is ColorSpace.YCBCR_BT601
    assert not file.limited_range


@pytest.mark.parametrize("missing", [1, 2, 10, 100])
def test_data_length_is_exact(small: bytes, missing: int) -> None:
    with pytest.raises(CodecError, match="Truncated"):
        Bpg.decode(small[:-missing])
    expected = Bpg.decode(small)
    assert np.array_equal(Bpg.decode(small + b"trailing"), expected)


def test_length_zero_means_to_the_end(small: bytes) -> None:
    kind, size, body = pieces(small)
    endless = kind + size + b"\0" + body
    assert np.array_equal(Bpg.decode(endless), Bpg.decode(small))
    for missing in (20, 60, len(body) // 2):
        with pytest.raises(CodecError, match=r"[Tt]runcated"):
            Bpg.decode(endless[:-missing])


def test_short_start_codes_and_empty_nals(small: bytes) -> None:
    kind, size, body = pieces(small)
    for code in (b"\0\0\1", START_CODE + b"\0\0\1", b"\0\0\1" + START_CODE):
        changed = kind + size + b"\0" + body.replace(START_CODE, code)
        assert np.array_equal(Bpg.decode(changed), Bpg.decode(small))


def test_an_animation_gives_its_first_picture(small: bytes) -> None:
    kind, size, body = pieces(small)
    other = Bpg(qp=20, preset="superfast").encode(255 - picture(40, 24))
    second = START_CODE.join(split_nals(parse_bpg(other).hevc_data))
    block = b"\5\3\0\1\x14"
    flagged = kind[:5] + bytes([kind[5] | 9])
    data = flagged + size + b"\0" + encode_ue7(len(block)) + block + body + START_CODE + second
    image, extras = Bpg.decode_with(data)
    assert np.array_equal(image, Bpg.decode(small))
    assert extras.held() == ()
    alone = first_picture(split_nals(parse_bpg(small).hevc_data), layer=0)
    assert first_picture(split_nals(parse_bpg(data).hevc_data), layer=0) == alone


def test_extensions_are_kept_and_unknown_ones_skipped(small: bytes) -> None:
    kind, size, body = pieces(small)
    block = b"\1\4Exif" + encode_ue7(700) + encode_ue7(200) + bytes(200)
    flagged = kind[:5] + bytes([kind[5] | 8])
    changed = flagged + size + encode_ue7(len(body)) + encode_ue7(len(block)) + block + body
    assert parse_bpg(changed).extensions == ((1, b"Exif"), (700, bytes(200)))
    assert np.array_equal(Bpg.decode(changed), Bpg.decode(small))
    with pytest.raises(CodecError):
        parse_bpg(changed.replace(b"\1\4Exif", b"\1\x7fExif"))


def with_alpha(color: bytes, gray: bytes, flags: tuple[int, int]) -> bytes:
    """The file `color` with the picture of the gray file as its alpha (or W) plane."""
    kind, size, body = pieces(color)
    alpha = parse_bpg(gray)
    moved = [bytes([nal[0], nal[1] | 8]) + nal[2:] for nal in split_nals(alpha.hevc_data)]
    header_bytes = alpha.header.to_bpg()
    reader = ByteReader(body)
    color_header = reader.take(reader.ue7())
    body = (
        encode_ue7(len(header_bytes))
        + header_bytes
        + encode_ue7(len(color_header))
        + color_header
        + START_CODE.join([*moved, reader.rest()])
    )
    flagged = kind[:4] + bytes([kind[4] | flags[0] << 4, kind[5] | flags[1] << 2])
    return flagged + size + encode_ue7(len(body)) + body


def test_alpha_is_dropped_divided_or_multiplied(small: bytes) -> None:
    shape = Bpg.decode(small).shape[:2]
    gray = Bpg(qp=0).encode(np.full(shape, 128, np.uint8))
    level = int(Bpg.decode(gray)[0, 0])
    color = Bpg.decode(small).astype(float)
    assert np.array_equal(Bpg.decode(with_alpha(small, gray, (1, 0))), color)
    divided = Bpg.decode(with_alpha(small, gray, (1, 1)))
    assert np.abs(divided - np.minimum(color * 255 / level, 255)).max() <= 0.51
    for flags, kept in (((1, 0), True), ((1, 1), True), ((0, 1), False)):
        image, extras = Bpg.decode_with(with_alpha(small, gray, flags))
        assert np.array_equal(image, Bpg.decode(with_alpha(small, gray, flags)))
        assert (extras.alpha is not None) == kept
        assert not kept or (extras.alpha == level).all()
    multiplied = Bpg.decode(with_alpha(small, gray, (0, 1)))
    assert np.abs(multiplied - color * level / 255).max() <= 0.51


def test_premultiplied_gray_is_divided() -> None:
    gray = Bpg(lossless=True).encode(np.array([[0, 20, 100], [100, 200, 255]], np.uint8))
    alpha = Bpg(lossless=True).encode(np.array([[0, 40, 100], [200, 100, 255]], np.uint8))
    image, extras = Bpg.decode_with(with_alpha(gray, alpha, (1, 1)))
    assert image.tolist() == [[255, 128, 255], [128, 255, 255]]
    assert extras.alpha is not None
    assert extras.alpha.tolist() == [[0, 40, 100], [200, 100, 255]]


def test_the_first_block_of_a_kind_counts(small: bytes) -> None:
    kind, size, body = pieces(small)
    block = b"\1\2MM\1\2II\2\3icc"
    flagged = kind[:5] + bytes([kind[5] | 8])
    _, extras = Bpg.decode_with(flagged + size + b"\0" + encode_ue7(len(block)) + block + body)
    assert (extras.exif, extras.icc, extras.xmp) == (b"MM", b"icc", None)


# Files that must be refused.


@pytest.fixture(scope="module")
def dense() -> bytes:
    """A valid file of noise, 200×130 pixels in 4:4:4: enough data to make big claims credible."""
    noise = np.random.default_rng(3).integers(0, 256, (130, 200, 3), np.uint8)
    return Bpg(lossless=True, preset="superfast").encode(noise)


@pytest.mark.parametrize("grown", [(200, 194), (200, 3000), (10_000, 10_000)], ids=str)
def test_pictures_that_end_too_early_are_refused(dense: bytes, grown: tuple[int, int]) -> None:
    kind, _, body = pieces(dense)
    for length in (0, len(body)):
        claim = kind + encode_ue7(grown[0]) + encode_ue7(grown[1]) + encode_ue7(length) + body
        with pytest.raises(CodecError, match=r"Damaged|Truncated"):
            Bpg.decode(claim)


@pytest.mark.parametrize("grown", [(10_000, 10_000), (8192, 12_000), (60_000, 1600)], ids=str)
def test_credible_claims_take_no_memory(
    dense: bytes, grown: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, _, body = pieces(dense)
    asked = []
    to_sps = SequenceHeader.to_sps

    def recorded(header: SequenceHeader, width: int, height: int, *rest: int) -> bytes:
        asked.append(width * height)
        return to_sps(header, width, height, *rest)

    monkeypatch.setattr(SequenceHeader, "to_sps", recorded)
    with pytest.raises(CodecError):
        Bpg.decode(kind + encode_ue7(grown[0]) + encode_ue7(grown[1]) + b"\0" + body)
    assert 0 < max(asked) < 5_000_000


@pytest.mark.parametrize("channels", [1, 3])
def test_large_even_pictures_are_read(channels: int) -> None:
    # Black is what FFmpeg leaves of a picture without data, and takes few bytes besides.
    source = np.zeros((3000, 2500, 3)[: 2 + channels // 3], np.uint8)
    data = Bpg(preset="ultrafast", lossless=True).encode(source)
    assert len(data) < 8000
    assert not Bpg.decode(data).any()


@pytest.mark.parametrize(
    ("width", "height"),
    [(MAX_PIXELS, 1), (12_000, 12_000), (UE7_MAX, UE7_MAX), (0, 5), (9999,) * 2],
)
def test_huge_headers_are_refused_without_memory(small: bytes, width: int, height: int) -> None:
    kind, _, body = pieces(small)
    claim = kind + encode_ue7(width) + encode_ue7(height) + b"\0" + body
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match=f"{width}×{height}|pixels"):
            Bpg.decode(claim)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("bit_depth", [9, 11, 13, 14, 15])
def test_other_depths_are_refused(small: bytes, bit_depth: int) -> None:
    changed = small[:4] + bytes([small[4] & 0xF0 | bit_depth - 8]) + small[5:]
    with pytest.raises(CodecError, match=str(bit_depth)):
        Bpg.decode(changed)


def test_a_second_sps_is_ignored(small: bytes) -> None:
    kind, size, body = pieces(small)
    reader = ByteReader(body)
    header_bytes = reader.take(reader.ue7())
    sps = SequenceHeader.from_bpg(header_bytes).to_sps(4096, 4096, 1, 8)
    body = encode_ue7(len(header_bytes)) + header_bytes + sps + START_CODE + reader.rest()
    assert np.array_equal(Bpg.decode(kind + size + b"\0" + body), Bpg.decode(small))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_gives_an_array_or_a_codec_error(small: bytes, data: st.DataObject) -> None:
    damaged = bytearray(small)
    # Half of the changes go to the headers, which are the first few bytes.
    places = st.one_of(st.integers(0, 20), st.integers(0, len(small) - 1))
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=4)):
        damaged[place] = value
    cut = data.draw(st.one_of(st.just(len(small)), st.integers(0, len(small))))
    try:
        decoded = Bpg.decode(bytes(damaged[:cut]))
    except CodecError:
        return
    assert decoded.dtype == np.uint8
    assert decoded.ndim == 2 or decoded.shape[2] == 3


# Colours.


@pytest.mark.parametrize("bit_depth", [8, 10, 12])
def test_matrix_agrees_with_bt601(bit_depth: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, (50, 40, 3), np.uint8)
    planes = rgb_to_ycbcr(image, bit_depth)
    full = 2**bit_depth - 1
    red, green, blue = np.moveaxis(image / 255, -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    expected = [luma, (blue - luma) / 1.772, (red - luma) / 1.402]
    for plane, value, centre in zip(planes, expected, (0, 1, 1), strict=True):
        exact = (value * full + centre * 2 ** (bit_depth - 1)).clip(0, full)
        assert np.abs(plane - exact).max() <= 0.51
    back = ycbcr_to_rgb(planes, bit_depth).astype(int)
    assert np.abs(back - image).max() <= (2 if bit_depth == 8 else 1)


@pytest.mark.parametrize("limited_range", [False, True])
@pytest.mark.parametrize("color_space", ColorSpace)
@pytest.mark.parametrize("bit_depth", [8, 10, 12])
def test_conversion_there_and_back(
    bit_depth: int, color_space: ColorSpace, limited_range: bool
) -> None:
    corners = np.array(list(itertools.product((0, 255), repeat=3)), np.uint8)
    inside = np.random.default_rng(4).integers(0, 256, (992, 3), np.uint8)
    image = np.concatenate([corners, inside]).reshape(40, 25, 3)
    planes = rgb_to_ycbcr(image, bit_depth, color_space=color_space, limited_range=limited_range)
    assert planes[0].dtype == (np.uint8 if bit_depth == 8 else np.uint16)
    if limited_range:
        unit = 1 << (bit_depth - 8)
        assert all(16 * unit <= plane.min() and plane.max() <= 240 * unit for plane in planes)
        assert planes[0].min() == 16 * unit
        assert planes[0].max() == 235 * unit
    back = ycbcr_to_rgb(planes, bit_depth, color_space=color_space, limited_range=limited_range)
    most = 0 if color_space == ColorSpace.RGB and not (bit_depth == 8 and limited_range) else 1
    if bit_depth == 8 and color_space != ColorSpace.RGB:
        most = 3 if limited_range else 2
    assert np.abs(back.astype(int) - image).max() <= most
    gray = image[..., 0]
    luma = rgb_to_ycbcr(gray, bit_depth, limited_range=limited_range)
    again = ycbcr_to_rgb(luma, bit_depth, limited_range=limited_range)
    assert np.abs(again.astype(int) - gray).max() <= (1 if bit_depth == 8 and limited_range else 0)


@pytest.mark.parametrize("limited_range", [False, True])
@pytest.mark.parametrize("color_space", ColorSpace)
def test_each_color_space_agrees_with_its_formula(
    color_space: ColorSpace, limited_range: bool
) -> None:
    planes = list(np.random.default_rng(2).integers(0, 1024, (3, 40, 30)).astype(np.uint16))
    actual = ycbcr_to_rgb(planes, 10, color_space=color_space, limited_range=limited_range)
    low, luma_span, chroma_span = (64, 876, 896) if limited_range else (0, 1023, 1023)
    first = [(plane - float(low)) / luma_span for plane in planes]
    chroma_1, chroma_2 = ((plane - 512.0) / chroma_span for plane in planes[1:])
    if color_space == ColorSpace.RGB:
        channels = [first[2], first[0], first[1]]
    elif color_space == ColorSpace.YCGCO:
        # Also in the limited range libbpg gives the chroma of YCgCo the scale of luma.
        chroma_1, chroma_2 = ((plane - 512.0) / luma_span for plane in planes[1:])
        rest = first[0] - chroma_1
        channels = [rest + chroma_2, first[0] + chroma_1, rest - chroma_2]
    else:
        kr, kb = {0: (0.299, 0.114), 3: (0.2126, 0.0722), 4: (0.2627, 0.0593)}[color_space]
        red = first[0] + 2 * (1 - kr) * chroma_2
        blue = first[0] + 2 * (1 - kb) * chroma_1
        channels = [red, (first[0] - kr * red - kb * blue) / (1 - kr - kb), blue]
    expected = (255 * np.stack(channels, axis=-1)).clip(0, 255)
    assert np.abs(actual - expected).max() <= 0.51


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (130, 9), (257, 64)])
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("cosited", [False, True])
def test_chroma_of_a_ramp_survives_halving_and_doubling(
    size: tuple[int, int], rows: bool, cosited: bool
) -> None:
    height, width = size
    ramp = 200 + np.add.outer(np.arange(height), 2 * np.arange(width)).astype(np.uint16)
    chroma = halve_chroma(ramp, 10, rows=rows, cosited=cosited)
    assert chroma.shape == ((height + 1) // 2 if rows else height, (width + 1) // 2)
    luma = np.zeros(size, np.uint16)
    image = ycbcr_to_rgb([luma, chroma, chroma], 10, color_space=ColorSpace.RGB, cosited=cosited)
    # Red is the second chroma plane. Near the edges the replicated samples bend the ramp.
    error = np.abs(image[..., 0] - ramp * (255 / 1023))
    assert error.max() <= 2
    assert error[8:-8, 8:-8].size == 0 or error[8:-8, 8:-8].max() <= 1


@pytest.mark.parametrize("cosited", [False, True])
@pytest.mark.parametrize("bit_depth", [8, 12])
def test_halving_agrees_with_its_formula(bit_depth: int, cosited: bool) -> None:
    plane = np.random.default_rng(5).integers(0, 2**bit_depth, (11, 14)).astype(np.uint16)
    plane = plane.astype(np.uint8) if bit_depth == 8 else plane
    centred = dict(enumerate(np.array([2, -4, -8, 17, 57, 57, 17, -8, -4, 2]) / 128, -4))
    steps = {0: 64, 1: 40, 3: -11, 5: 4, 7: -1}
    on_column = {sign * step: steps[step] / 128 for step in steps for sign in (-1, 1)}
    taps = on_column if cosited else centred
    columns = np.zeros((14, 7))
    for new, (step, weight) in itertools.product(range(7), taps.items()):
        columns[min(max(2 * new + step, 0), 13), new] += weight
    wide = plane @ columns
    full = 2**bit_depth - 1
    halved = halve_chroma(plane, bit_depth, rows=False, cosited=cosited)
    assert np.abs(halved - wide.clip(0, full)).max() <= 0.51
    lines = np.zeros((6, 11))
    for new, (step, weight) in itertools.product(range(6), centred.items()):
        lines[new, min(max(2 * new + step, 0), 10)] += weight
    halved = halve_chroma(plane, bit_depth, rows=True, cosited=cosited)
    assert np.abs(halved - (lines @ wide).clip(0, full)).max() <= 0.6


def test_cosited_chroma_lies_on_luma_columns() -> None:
    chroma = 300 + 20 * np.arange(40, dtype=np.uint16)[None, :].repeat(6, axis=0)
    luma = np.zeros((6, 80), np.uint16)
    for cosited, shift in ((True, 0.0), (False, 0.5)):
        image = ycbcr_to_rgb(
            [luma, chroma, chroma], 10, color_space=ColorSpace.RGB, cosited=cosited
        )
        expected = (300 + 10 * (np.arange(80) - shift)) * (255 / 1023)
        assert np.abs(image[0, 10:-10, 0] - expected[10:-10]).max() <= 0.75


def test_sides_beyond_the_limit_are_refused() -> None:
    with pytest.raises(CodecError, match="65535"):
        Bpg().encode(np.zeros((1, 65536), np.uint8))
    magic, _, rest = pieces(Bpg().encode(picture(8, 8)))
    with pytest.raises(CodecError, match="65535"):
        parse_bpg(magic + encode_ue7(65536) + encode_ue7(1) + rest)
