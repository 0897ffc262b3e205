"""JPEG: each parameter's effect in the written markers, the tables' numbers, and refusals."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import itertools
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import photograph_like
from PIL import Image as PilImage

from imagecompression import CodecError, CodecUnavailableError, Extras, Jpeg
from imagecompression import jpeg as jpeg_module
from imagecompression.jpeg import ENCODERS, SUBSAMPLINGS
from imagecompression.metrics import psnr
from imagecompression.quantisation_tables import SCHOOLS, photoshop_quality, quantisation_tables

BY_JPEGLIB = tuple(encoder for encoder, library in ENCODERS.items() if library)
MOZJPEG_INDEX = {
    school: index for index, school in enumerate(SCHOOLS) if index < SCHOOLS.index("photoshop")
}


@dataclasses.dataclass
class Markers:
    """What a JPEG file's marker segments say."""

    frame: int = 0
    bits: int = 0
    sampling: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    tables: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    table_bits: set[int] = dataclasses.field(default_factory=set)
    restart_interval: int = 0
    restarts: int = 0
    huffman: bytes = b""
    arithmetic_conditioning: int = 0
    scans: int = 0


def zigzag() -> np.ndarray:
    """Natural position of each coefficient in zigzag order (ISO/IEC 10918-1, figure A.6)."""
    places = sorted(
        itertools.product(range(8), range(8)),
        key=lambda p: (sum(p), p[0] if sum(p) % 2 else p[1]),
    )
    return np.array([8 * row + column for row, column in places])


def parse(data: bytes) -> Markers:
    found, at = Markers(), 2
    assert data[:2] == b"\xff\xd8"
    assert data[-2:] == b"\xff\xd9"
    while at < len(data) - 2:
        assert data[at] == 0xFF
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        body, at = data[at + 4 : at + 2 + length], at + 2 + length
        if marker == 0xDB:
            while body:
                wide, slot = body[0] >> 4, body[0] & 15
                found.table_bits.add(16 if wide else 8)
                table = np.zeros(64, np.uint8)
                table[zigzag()] = np.frombuffer(body[1:65], np.uint8)
                found.tables[slot], body = table.reshape(8, 8), body[65:]
        elif marker == 0xDD:
            found.restart_interval = found.restart_interval or struct.unpack(">H", body)[0]
        elif marker == 0xC4:
            found.huffman += body
        elif marker == 0xCC:
            found.arithmetic_conditioning += 1
        elif 0xC0 <= marker <= 0xCF:
            found.frame, found.bits = marker, body[0]
            found.sampling = [(c >> 4, c & 15) for c in body[7::3]]
        elif marker == 0xDA:
            found.scans += 1
            start = at
            while data[at] != 0xFF or data[at + 1] == 0 or 0xD0 <= data[at + 1] <= 0xD7:
                at += 1
            found.restarts += sum(data[start:at].count(bytes([0xFF, 0xD0 + n])) for n in range(8))
    return found


def written(picture: np.ndarray, **parameters: object) -> Markers:
    return parse(Jpeg(**parameters).encode(picture))  # type: ignore[arg-type]


def all_settings() -> list[Jpeg]:
    """Each allowed combination of encoder, subsampling and coding."""
    settings = []
    for encoder, subsampling, progressive, optimize, arithmetic in itertools.product(
        ENCODERS, SUBSAMPLINGS, (False, True), (False, True), (False, True)
    ):
        try:
            settings.append(
                Jpeg(
                    encoder=encoder,
                    subsampling=subsampling,
                    progressive=progressive,
                    optimize=optimize,
                    arithmetic=arithmetic,
                )
            )
        except CodecError:
            continue
    return sorted(set(settings), key=repr)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_allowed_combination_takes_effect(encoder: str, rgb: np.ndarray) -> None:
    picture = rgb[:67, :90]
    settings = [each for each in all_settings() if each.encoder == encoder]
    assert len(settings) >= 5
    for setting in settings:
        data = setting.encode(picture)
        found = parse(data)
        across_down = SUBSAMPLINGS[setting.subsampling]
        assert found.sampling == [across_down, (1, 1), (1, 1)], setting
        assert (found.bits, found.table_bits) == (8, {8})
        expected = (0xCA if setting.progressive else 0xC9) if setting.arithmetic else (
            0xC2 if setting.progressive else 0xC0
        )  # fmt: skip
        assert found.frame == expected, setting
        assert (found.scans > 1) == setting.progressive
        assert bool(found.arithmetic_conditioning) == setting.arithmetic
        assert bool(found.huffman) != setting.arithmetic
        if not setting.arithmetic:
            # Annex K's four Huffman tables: 2 × (17 + 12) and 2 × (17 + 162) bytes.
            assert (len(found.huffman) == 416) == (not setting.optimize), setting
        for table, own in zip(
            quantisation_tables("standard", 75), found.tables.values(), strict=True
        ):
            assert np.array_equal(table, own)
        assert psnr(picture, Jpeg.decode(data)) > 24, setting


@pytest.mark.parametrize("encoder", ["libjpeg-turbo", "libjpeg-9e", "mozjpeg-4.0.3"])
def test_written_tables_are_the_schools(encoder: str, rgb: np.ndarray, gray: np.ndarray) -> None:
    files = set()
    for school, quality in itertools.product(SCHOOLS, (1, 37, 75, 96)):
        setting = Jpeg(quality, tables=school, encoder=encoder, progressive=True)
        luminance, chrominance = quantisation_tables(school, quality)
        data = setting.encode(rgb[:40, :40])
        files.add(data)
        found = parse(data)
        assert found.table_bits == {8}
        assert np.array_equal(found.tables[0], luminance)
        assert np.array_equal(found.tables.get(1, luminance), chrominance)
        in_gray = parse(setting.encode(gray[:40, :40]))
        assert len(in_gray.sampling) == 1
        assert list(in_gray.tables) == [0]
        assert np.array_equal(in_gray.tables[0], luminance)
    assert len(files) >= 3 * len(SCHOOLS)  # at quality 1 several schools are 255 throughout


def test_standard_tables_are_libjpegs() -> None:
    for quality in range(1, 101):
        out = io.BytesIO()
        PilImage.new("RGB", (8, 8)).save(out, "JPEG", quality=quality)
        found = parse(out.getvalue())
        luminance, chrominance = quantisation_tables("standard", quality)
        assert np.array_equal(found.tables[0], luminance)
        assert np.array_equal(found.tables.get(1, luminance), chrominance)


def test_scaled_tables_are_mozjpegs(tmp_path) -> None:
    import jpeglib

    picture = jpeglib.from_spatial(np.zeros((8, 8, 3), np.uint8))
    path = tmp_path / "table.jpg"
    with jpeglib.version("mozjpeg403"):
        for (school, index), quality in itertools.product(MOZJPEG_INDEX.items(), (5, 30, 75, 98)):
            picture.write_spatial(
                str(path), qt=quality, base_quant_tbl_idx=index, flags=["+FORCE_BASELINE"]
            )
            found = parse(path.read_bytes())
            luminance, chrominance = quantisation_tables(school, quality)
            assert np.array_equal(found.tables[0], luminance), school
            assert np.array_equal(found.tables.get(1, luminance), chrominance), school


def test_tables_of_photoshop_and_cameras() -> None:
    steps = [quantisation_tables("photoshop", photoshop_quality(step)) for step in range(13)]
    assert [table[0][0, 0] for table in steps] == [32, 27, 20, 18, 16, 12, 8, 10, 6, 4, 2, 1, 1]
    assert [table[1][0, 0] for table in steps] == [34, 29, 21, 20, 17, 13, 9, 11, 7, 4, 3, 1, 1]
    for table in itertools.chain(*steps):
        assert np.array_equal(table, table.T)
    assert photoshop_quality(0) == 40
    assert photoshop_quality(12) == 100
    between = quantisation_tables("photoshop", 43)[0].astype(int)
    assert (between <= steps[0][0]).all()
    assert (between >= steps[1][0]).all()
    assert quantisation_tables("canon", 96)[0][0].tolist() == [2, 2, 2, 2, 2, 3, 5, 5]
    assert quantisation_tables("sony", 91)[1][0].tolist() == [4, 4, 4, 6, 12, 24, 30, 30]
    assert quantisation_tables("casio", 86)[0][0, 0] == 1
    assert quantisation_tables("panasonic", 84)[0][7, 7] == 34


@pytest.mark.parametrize("school", SCHOOLS)
def test_tables_get_finer_with_quality(school: str) -> None:
    sums = [quantisation_tables(school, quality)[0].astype(int).sum() for quality in range(1, 101)]
    assert all(b <= a for a, b in itertools.pairwise(sums))
    assert sums[0] > 100 * sums[-1]
    with pytest.raises(KeyError):
        quantisation_tables(school + "?", 50)


def test_defaults_are_pillows(rgb: np.ndarray, gray: np.ndarray) -> None:
    """The comparison with CompressAI's published table stands on this."""
    for picture in (rgb, gray):
        for quality in (1, 20, 75, 95, 100):
            out = io.BytesIO()
            PilImage.fromarray(picture).save(out, "JPEG", quality=quality)
            assert Jpeg(quality).encode(picture) == out.getvalue()
    found = written(rgb)
    assert (found.frame, found.scans, len(found.huffman)) == (0xC0, 1, 416)
    assert found.sampling[0] == (2, 2)
    assert (found.restart_interval, found.restarts) == (0, 0)


def test_restart_interval(rgb: np.ndarray) -> None:
    blocks = written(rgb, restart_blocks=5)  # 9 × 13 MCUs of 16 × 16 pixels
    assert (blocks.restart_interval, blocks.restarts) == (5, (9 * 13 - 1) // 5)
    rows = written(rgb, restart_rows=2)
    assert (rows.restart_interval, rows.restarts) == (26, 4)
    assert written(rgb, restart_rows=1, progressive=True).restarts > 9
    plain = Jpeg().encode(rgb)
    assert np.array_equal(Jpeg.decode(plain), Jpeg.decode(Jpeg(restart_rows=1).encode(rgb)))


def test_arithmetic_coding_keeps_the_pixels_and_is_smaller(
    rgb: np.ndarray, gray: np.ndarray
) -> None:
    for picture, encoder, progressive in itertools.product(
        (rgb, gray), ("libjpeg-turbo-2.1.0", "libjpeg-8d", "libjpeg-9e"), (False, True)
    ):
        setting = Jpeg(encoder=encoder, progressive=progressive, arithmetic=True)
        huffman = dataclasses.replace(setting, arithmetic=False)
        data, longer = setting.encode(picture), huffman.encode(picture)
        assert len(data) < len(longer)
        assert np.array_equal(Jpeg.decode(data), Jpeg.decode(longer))


def test_progressive_and_optimized_files_hold_the_same_pixels(rgb: np.ndarray) -> None:
    plain = Jpeg(optimize=False).encode(rgb)
    optimized = Jpeg(optimize=True).encode(rgb)
    progressive = Jpeg(progressive=True)
    assert progressive.optimize
    assert progressive == Jpeg(progressive=True, optimize=True)
    assert len(optimized) < len(plain)
    for data in (optimized, progressive.encode(rgb)):
        assert np.array_equal(Jpeg.decode(data), Jpeg.decode(plain))


def test_encoders_differ_where_they_should(rgb: np.ndarray) -> None:
    pixels = {
        encoder: Jpeg.decode(Jpeg(encoder=encoder, progressive=True).encode(rgb)).tobytes()
        for encoder in ENCODERS
    }
    assert pixels["libjpeg-6b"] == pixels["libjpeg-turbo"] == pixels["libjpeg-turbo-2.1.0"]
    assert pixels["libjpeg-8d"] != pixels["libjpeg-6b"], "chroma is scaled in the DCT domain"
    assert pixels["mozjpeg-4.0.3"] != pixels["libjpeg-6b"], "trellis quantisation"
    full = {
        encoder: Jpeg.decode(Jpeg(encoder=encoder, subsampling="4:4:4").encode(rgb)).tobytes()
        for encoder in ("libjpeg-turbo", "libjpeg-6b", "libjpeg-8d", "libjpeg-9e")
    }
    assert len(set(full.values())) == 1
    moz = Jpeg(encoder="mozjpeg-4.0.3", progressive=True).encode(rgb)
    assert len(moz) < 0.95 * len(Jpeg(progressive=True).encode(rgb))


@pytest.mark.parametrize("encoder", BY_JPEGLIB)
def test_jpeglib_is_deterministic_quiet_and_leaves_its_version(
    encoder: str, capfd: pytest.CaptureFixture[str]
) -> None:
    import jpeglib

    before = jpeglib.version.get()
    setting = Jpeg(encoder=encoder, progressive=True)
    for shape in ((1, 1), (1, 1, 3), (1, 33, 3), (33, 1), (7, 5, 3), (17, 16), (2, 300, 3)):
        picture = photograph_like(shape[0], shape[1], 3 if len(shape) == 3 else 1)
        data = setting.encode(picture)
        assert data == setting.encode(picture.copy())
        assert Jpeg.decode(data).shape == shape
    assert jpeglib.version.get() == before
    assert capfd.readouterr() == ("", "")


def test_variants_give_the_same_bytes_in_another_process() -> None:
    script = (
        "import hashlib, sys\n"
        "sys.path.insert(0, 'tests')\n"
        "from conftest import photograph_like\n"
        "from imagecompression import Jpeg\n"
        "picture = photograph_like(61, 75, 3)\n"
        "data = b''.join(each.encode(picture) for each in Jpeg.variants())\n"
        "print(hashlib.sha256(data).hexdigest())\n"
    )
    picture = photograph_like(61, 75, 3)
    here = hashlib.sha256(b"".join(each.encode(picture) for each in Jpeg.variants())).hexdigest()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == here


def test_threads_with_different_encoders_do_not_mix(rgb: np.ndarray) -> None:
    settings = [Jpeg(encoder=encoder, progressive=True) for encoder in ENCODERS]
    expected = [setting.encode(rgb) for setting in settings]
    got: dict[int, bool] = {}

    def work(index: int) -> None:
        got[index] = all(settings[index].encode(rgb) == expected[index] for _ in range(3))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(settings))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == dict.fromkeys(range(len(settings)), True)


def test_variants_hold_few_settings_mostly_the_usual() -> None:
    variants = [each for each in Jpeg.variants() if isinstance(each, Jpeg)]
    assert 20 <= len(variants) <= 40
    assert Jpeg() in variants
    assert {each.subsampling for each in variants} == set(SUBSAMPLINGS)
    assert sum(each.tables == "standard" for each in variants) > len(variants) / 2
    assert not any(each.arithmetic for each in variants)
    pixels = [Jpeg.decode(each.encode(photograph_like(64, 64, 3))).tobytes() for each in variants]
    assert len(set(pixels)) >= 18


def test_size_and_fidelity_rise_with_quality_in_every_variant(rgb: np.ndarray) -> None:
    picture = rgb[:96, :128]
    for variant in Jpeg.variants():
        files = [variant.with_knob(quality).encode(picture) for quality in (1, 20, 50, 75, 90, 100)]
        sizes = [len(data) for data in files]
        # At quality 1 little but headers is left.
        assert all(b > a - 32 for a, b in itertools.pairwise(sizes)), (variant, sizes)
        assert sizes[-1] > 4 * sizes[0], variant
        best, worst = (psnr(picture, Jpeg.decode(files[index])) for index in (-1, 0))
        assert best > worst + 8, variant


def test_decoders_agree(rgb: np.ndarray, gray: np.ndarray, tmp_path) -> None:
    import imagecodecs
    import jpeglib

    settings = [
        Jpeg(subsampling="4:4:4"),
        Jpeg(subsampling="4:4:4", tables="photoshop", restart_rows=1),
        Jpeg(subsampling="4:4:4", encoder="libjpeg-9e", tables="sony"),
        Jpeg(subsampling="4:4:4", encoder="mozjpeg-4.0.3", progressive=True),
    ]
    path = tmp_path / "picture.jpg"
    for setting, picture in itertools.product(settings, (rgb, gray)):
        data = setting.encode(picture)
        ours = Jpeg.decode(data)
        assert np.array_equal(imagecodecs.jpeg8_decode(data), ours)
        path.write_bytes(data)
        with jpeglib.version("6b"):
            theirs = jpeglib.read_spatial(
                str(path),
                jpeglib.JCS_GRAYSCALE if picture.ndim == 2 else jpeglib.JCS_RGB,
            ).spatial
        assert np.array_equal(theirs.reshape(ours.shape), ours)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"subsampling": "4:1:1"}, "libjpeg-turbo-2.1.0"),
        ({"subsampling": "4:4:0"}, "another encoder"),
        ({"subsampling": "4:1:0"}, "4:4:4"),
        ({"subsampling": 2}, "4:4:4"),
        ({"tables": "gimp"}, "photoshop"),
        ({"encoder": "libjpeg-10"}, "libjpeg-6b"),
        ({"restart_blocks": 3, "restart_rows": 1}, "One of restart_blocks"),
        ({"restart_rows": 1, "encoder": "libjpeg-6b"}, "with encoder libjpeg-turbo"),
        ({"restart_blocks": 65_536}, "65535"),
        ({"restart_rows": -1}, "restart_rows"),
        ({"restart_rows": True}, "restart_rows"),
        ({"arithmetic": True}, "needs encoder"),
        ({"arithmetic": True, "encoder": "libjpeg-6b"}, "needs encoder"),
        ({"arithmetic": True, "encoder": "libjpeg-9e", "optimize": True}, "no Huffman"),
        ({"arithmetic": True, "encoder": "mozjpeg-4.0.3", "progressive": True}, "needs encoder"),
        ({"encoder": "mozjpeg-4.0.3"}, "progressive=True"),
        ({"optimize": 1}, "optimize"),
        ({"quality": 75.5}, "integer"),
        ({"quality": 0}, "from 1 to 100"),
    ],
    ids=str,
)
def test_refused_parameters(parameters: dict, message: str) -> None:
    with pytest.raises(CodecError, match=message) as caught:
        Jpeg(**parameters)
    assert "Received" in str(caught.value)


def test_missing_jpeglib_is_told(monkeypatch: pytest.MonkeyPatch, rgb: np.ndarray) -> None:
    monkeypatch.setitem(sys.modules, "jpeglib", None)
    with pytest.raises(CodecUnavailableError, match=r"pip install 'imagecompression\[encoders\]'"):
        Jpeg(encoder="libjpeg-6b").encode(rgb)
    assert Jpeg.decode(Jpeg().encode(rgb)).shape == rgb.shape


def test_too_long_sides_are_refused_before_any_library() -> None:
    for encoder in ("libjpeg-turbo", "libjpeg-6b"):
        with pytest.raises(CodecError, match="65500"):
            Jpeg(encoder=encoder).encode(np.zeros((1, 65_501), np.uint8))


def test_a_library_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, rgb: np.ndarray) -> None:
    import jpeglib

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no space")

    before = jpeglib.version.get()
    monkeypatch.setattr(jpeglib.SpatialJPEG, "write_spatial", fail)
    with pytest.raises(CodecError, match="libjpeg-9e could not write"):
        Jpeg(encoder="libjpeg-9e").encode(rgb)
    assert jpeglib.version.get() == before


def test_twelve_bits_are_refused_clearly(rgb: np.ndarray) -> None:
    import imagecodecs

    wide = imagecodecs.jpeg8_encode(rgb.astype(np.uint16) * 16, bitspersample=12)
    with pytest.raises(CodecError, match=r"8 bits per sample.*12 bits"):
        Jpeg.decode(wide)


def test_inverted_cmyk_is_read_as_rgb(rgb: np.ndarray) -> None:
    out = io.BytesIO()
    cmyk = np.concatenate([255 - rgb, np.zeros((*rgb.shape[:2], 1), np.uint8)], axis=2)
    PilImage.fromarray(cmyk, "CMYK").save(out, "JPEG", quality=95)
    decoded = Jpeg.decode(out.getvalue())
    assert decoded.shape == rgb.shape
    assert psnr(rgb, decoded) > 25


def test_size_is_checked_before_anything_is_allocated(rgb: np.ndarray) -> None:
    data = bytearray(Jpeg().encode(rgb))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65_000, 65_000)
    with pytest.raises(CodecError, match="more pixels than the limit"):
        Jpeg.decode(bytes(data))


def test_endless_scans_are_refused_at_once(rgb: np.ndarray, monkeypatch) -> None:
    data = Jpeg(progressive=True).encode(rgb)
    assert Jpeg.decode(data).shape == rgb.shape
    header = struct.pack(">BBHBBBBBB", 0xFF, 0xDA, 8, 1, 1, 0, 1, 5, 0x02)
    many = data[:-2] + header * 400_000 + data[-2:]
    with pytest.raises(CodecError, match="pixels times scans"):
        Jpeg.decode(many)


def test_damaged_headers_never_escape_as_other_errors(rgb: np.ndarray) -> None:
    data = Jpeg(tables="photoshop", restart_rows=1).encode(rgb[:40, :40])
    rng = np.random.default_rng(2)
    for _ in range(150):
        broken = bytearray(data)
        for place in rng.integers(2, len(data), 3):
            broken[place] = rng.integers(0, 256)
        with contextlib.suppress(CodecError):
            assert Jpeg.decode(bytes(broken)).dtype == np.uint8


def test_importing_the_module_loads_no_jpeglib() -> None:
    script = (
        "import sys, imagecompression.jpeg\n"
        "print('jpeglib' in sys.modules or 'imagecodecs' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"
    assert jpeg_module.Jpeg is Jpeg


def test_long_profiles_are_cut_into_segments(rgb: np.ndarray) -> None:
    profile = bytes(16) + b"RGB " + bytes(range(256)) * 600
    for setting in (Jpeg(), Jpeg(encoder="libjpeg-6b")):
        data = setting.encode_with(rgb, Extras(icc=profile))
        pixels, found = Jpeg.decode_with(data)
        assert found.icc == profile
        assert np.array_equal(pixels, Jpeg.decode(setting.encode(rgb)))


def test_metadata_too_long_for_a_segment_are_refused(rgb: np.ndarray) -> None:
    for extras in (Extras(exif=bytes(65_530)), Extras(xmp=bytes(65_510))):
        with pytest.raises(CodecError, match="JPEG holds up to"):
            Jpeg().encode_with(rgb, extras)
