"""Container evidence: what files show of themselves, read back against what wrote them."""

from __future__ import annotations

import functools
import io
import json
import random
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from conftest import photograph_like
from PIL import Image as PilImage
from typer.testing import CliRunner

import imagecompression.jpegxr as jpegxr
import main
from benchmarks.container_quality import (
    MAX_JSON,
    fault,
    file_with,
    foreign_tables,
    hostile_files,
    mutated,
    seed_files,
)
from imagecompression import (
    CODECS,
    Avif,
    Bpg,
    Extras,
    Heic,
    Jpeg,
    Jpeg2000,
    JpegXl,
    JpegXr,
    KMeans,
    Svd,
    WebP,
)
from imagecompression.bpg_container import parse_bpg
from imagecompression.evidence.container import FORMATS, ContainerEvidence, container_evidence
from imagecompression.evidence.finding import Finding
from imagecompression.evidence.jpeg_quality import fit_tables
from imagecompression.evidence.record import MAX_ENTRIES, MAX_TEXT, Record, text
from imagecompression.jpeg import SUBSAMPLINGS
from imagecompression.quantisation_tables import photoshop_quality, unclipped_tables

COLOUR, GRAY = photograph_like(40, 56, 3), photograph_like(40, 56, 1)
KEPT = sorted((Path(__file__).parent / "golden/fuzz").iterdir())


@functools.cache
def seeds() -> dict[str, list[bytes]]:
    """Small files of every format."""
    return seed_files()


def finding(data: bytes | ContainerEvidence, name: str) -> Finding:
    evidence = container_evidence(data) if isinstance(data, bytes) else data
    found = evidence.finding(name)
    assert found is not None, f"no {name} among {[each.name for each in evidence.findings]}"
    return found


def value(data: bytes | ContainerEvidence, name: str) -> Any:
    return finding(data, name).value


def pillow_bytes(form: str, picture: np.ndarray = COLOUR, **options: Any) -> bytes:
    out = io.BytesIO()
    PilImage.fromarray(picture).save(out, form, **options)
    return out.getvalue()


def with_segment(data: bytes, marker: int, content: bytes) -> bytes:
    """A JPEG file with a further segment right after SOI."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + data[2:]


# --- all formats -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", CODECS)
def test_every_codecs_files_show_their_codec(name: str) -> None:
    kind = CODECS[name]
    form = {"uncompressed": "png", "kmeans": "png"}.get(name, name)
    for setting in dict.fromkeys((kind(), *kind.variants()[::3])):
        for picture in (COLOUR, GRAY):
            evidence = container_evidence(setting.encode(picture))
            assert (evidence.format, evidence.codec) == (form, name)
            assert evidence.finding("damage") is None


def test_every_format_has_seed_files_that_it_reads_without_damage() -> None:
    assert set(seeds()) == set(FORMATS)
    for form, files in seeds().items():
        for data in files:
            evidence = container_evidence(data)
            assert evidence.format == form
            assert evidence.finding("damage") is None, (form, evidence.finding("damage"))


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "jpegxl"])
def test_a_cut_file_says_so_and_keeps_what_came_before(form: str) -> None:
    """A bare JPEG XL codestream tells no length, so its end cannot be missed."""
    data = seeds()[form][0]
    whole = container_evidence(data)
    for length in range(len(data) - 1, 12, -max(1, len(data) // 60)):
        cut = container_evidence(data[:length])
        damage = finding(cut, "damage")
        assert damage.status == "OBSERVED"
        assert damage.value[0]["problem"]
        assert cut.format == form
    nearly = container_evidence(data[: len(data) - 1])
    assert nearly.codec == whole.codec or form == "tiff"
    if whole.finding("size") is not None and form != "tiff":
        assert value(nearly, "size") == value(whole, "size")


@pytest.mark.parametrize("data", [b"", b"G", b"GIF89a" + bytes(100), b"\xff\xd8"])
def test_unknown_bytes_are_shown(data: bytes) -> None:
    evidence = container_evidence(data)
    assert (evidence.format, evidence.codec) == ("unknown", None)
    assert value(evidence, "first_bytes")["hex"] == data[:16].hex(" ")
    assert value(evidence, "file_bytes") == len(data)


def test_findings_are_bounded_and_printable() -> None:
    assert text("a\x1b[31m\u202eb\n" + "c" * 500) == "a [31m b " + "c" * (MAX_TEXT - 10) + "…"
    assert text(b"\xe9t\xe9\0") == "été"
    record = Record()
    entries = [{"name": "\x07" * 300}] * (MAX_ENTRIES + 3)
    record.observed("many", entries)
    record.derived("number", float("nan"))
    record.observed("many", "said twice")
    many, number = record.findings()
    assert many.value == [{"name": " " * (MAX_TEXT - 1) + "…"}] * MAX_ENTRIES
    assert many.note == f"only the first {MAX_ENTRIES} of {MAX_ENTRIES + 3} entries"
    assert number.value is None


@pytest.mark.parametrize("form", FORMATS)
def test_mutated_files_never_raise(form: str) -> None:
    rng = random.Random(1)
    for _ in range(400):
        assert fault(mutated(seeds()[form], rng)) is None


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)
def test_files_that_were_hostile_to_decoders(path: Path) -> None:
    assert fault(path.read_bytes()) is None


@pytest.mark.parametrize("name", hostile_files(0))
def test_hostile_files_take_little_memory(name: str) -> None:
    data = hostile_files(1 << 19)[name]()
    tracemalloc.start()
    try:
        evidence = container_evidence(data)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert len(json.dumps(evidence.to_json())) < MAX_JSON


def test_a_fault_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "png", FORMATS["png"].__class__(lambda data: True, {}.__getitem__))
    assert "TypeError" in str(fault(b""))


# --- JPEG ------------------------------------------------------------------------------------


@pytest.mark.parametrize("picture", [COLOUR[:16, :16], GRAY[:16, :16]], ids=["colour", "gray"])
def test_standard_qualities_are_exact(picture: np.ndarray) -> None:
    for quality in range(1, 101):
        found = finding(pillow_bytes("JPEG", picture, quality=quality), "jpeg_quality")
        assert (found.value, found.status) == (quality, "DERIVED")


@pytest.mark.parametrize("name", foreign_tables())
def test_no_quality_where_no_table_fits(name: str) -> None:
    assert len(foreign_tables()) == 20
    evidence = container_evidence(file_with(*foreign_tables()[name]))
    found = finding(evidence, "jpeg_quality")
    assert (found.value, found.status) == (None, "NOT_AVAILABLE")
    assert "no known school" in found.note
    assert evidence.finding("jpeg_quality_school") is None
    steps = [np.array(table["steps"]) for table in value(evidence, "quantisation_tables")]
    assert np.array_equal(steps, foreign_tables()[name])


def test_schools_are_named() -> None:
    photoshop = Jpeg(photoshop_quality(10), tables="photoshop").encode(COLOUR)
    found = finding(photoshop, "jpeg_quality_school")
    assert (found.value["school"], found.status) == ("photoshop", "DERIVED")
    assert "Photoshop's step 10" in found.note
    between = Jpeg(photoshop_quality(10) + 1, tables="photoshop").encode(COLOUR)
    assert "between Photoshop's own steps" in finding(between, "jpeg_quality").note
    canon = finding(Jpeg(96, tables="canon").encode(COLOUR), "jpeg_quality_school")
    assert canon.value["school"] == "canon"
    assert "own tables" in canon.note
    scaled = finding(Jpeg(70, tables="canon").encode(COLOUR), "jpeg_quality_school")
    assert "scaled by another program" in scaled.note
    several = container_evidence(Jpeg(81, tables="flat").encode(COLOUR))
    assert value(several, "jpeg_quality_school")["qualities"] == [80, 81, 82]
    assert finding(several, "jpeg_quality").status == "NOT_AVAILABLE"


def test_wide_tables_and_mixed_qualities_are_exact() -> None:
    luminance, chrominance = unclipped_tables("standard", 8)
    assert luminance.max() > 255
    fit = fit_tables(luminance, chrominance)
    assert fit is not None and (fit.quality, fit.exact, fit.school) == (8, True, "standard")
    mixed = fit_tables(unclipped_tables("standard", 80)[0], unclipped_tables("standard", 60)[1])
    assert mixed is not None and (mixed.quality, mixed.chroma_qualities) == (80, (60,))
    # In a file, too: 16-bit entries, big-endian, in zigzag order.
    data = pillow_bytes("JPEG", quality=50)
    parts = data.split(b"\xff\xdb\0\x43")
    assert len(parts) == 3
    head, first, second = parts
    places = sorted(range(64), key=lambda place: _zigzag_rank(*divmod(place, 8)))
    for number, (part, table) in enumerate(((first, luminance), (second, chrominance))):
        content = table.ravel()[places].astype(">u2").tobytes()
        head += b"\xff\xdb\0\x83" + bytes([0x10 | number]) + content + part[65:]
    evidence = container_evidence(head)
    assert [table["bits"] for table in value(evidence, "quantisation_tables")] == [16, 16]
    assert value(evidence, "jpeg_quality") == 8


def _zigzag_rank(row: int, column: int) -> tuple[int, int]:
    """Sorts 8×8 places as figure A.6 of T.81 does: odd diagonals run down, even ones up."""
    diagonal = row + column
    return diagonal, row if diagonal % 2 else column


@pytest.mark.parametrize("percent", [41, 83, 101, 163])
def test_a_quality_between_two_is_inferred_by_a_common_factor(percent: int) -> None:
    base = np.stack(unclipped_tables("standard", 50))
    for rounding in (50, 0):
        tables = np.clip((base * percent + rounding) // 100, 1, 255)
        fit = fit_tables(*tables)
        assert fit is not None and not fit.exact and fit.quality is not None
        assert abs(fit.quality - (100 - percent / 2 if percent < 100 else 5000 / percent)) <= 1
        nearest = np.clip(np.stack(unclipped_tables("standard", fit.quality)), 1, 255)
        assert fit.residual == np.abs(nearest - tables).max() > 0
        evidence = container_evidence(file_with(*tables))
        assert finding(evidence, "jpeg_quality").status == "INFERRED"
        assert str(fit.residual) in finding(evidence, "jpeg_quality").note
        tables[0, 2, 3] += 3
        assert fit_tables(*tables) is None


@pytest.mark.parametrize("setting", Jpeg.variants()[::2], ids=repr)
def test_jpeg_facts_are_the_encoders_and_pillows(setting: Jpeg) -> None:
    data = setting.encode(COLOUR)
    evidence = container_evidence(data)
    with PilImage.open(io.BytesIO(data)) as picture:
        tables = {
            entry["table"]: entry["steps"] for entry in value(evidence, "quantisation_tables")
        }
        assert {number: np.ravel(steps).tolist() for number, steps in tables.items()} == {
            number: list(steps) for number, steps in picture.quantization.items()
        }
        assert ("progressive" in picture.info) == ("progressive" in value(evidence, "process"))
        layers = [
            [entry["id"], *entry["sampling"], entry["table"]]
            for entry in value(evidence, "components")
        ]
        assert layers == [list(layer) for layer in picture.layer]
    assert value(evidence, "size") == {"width": 56, "height": 40}
    assert value(evidence, "subsampling") == setting.subsampling
    assert value(evidence, "colour_model") == "YCbCr"
    interval = setting.restart_blocks
    if setting.restart_rows:
        interval = setting.restart_rows * -(-56 // (8 * SUBSAMPLINGS[setting.subsampling][0]))
    assert value(evidence, "restart_interval") == interval
    if setting.encoder == "libjpeg-turbo":
        standard = not setting.optimize
        assert value(evidence, "huffman") == ("standard" if standard else "optimised")
        assert (len(value(evidence, "scans")) > 1) == setting.progressive


def test_jpeg_segments_lie_where_they_are_said_to_lie() -> None:
    data = seeds()["jpeg"][-3]
    evidence = container_evidence(data)
    segments = value(evidence, "segments")
    end = 0
    for segment in segments:
        assert segment["offset"] == end
        assert data[end] == 0xFF
        alone = segment["marker"] in ("SOI", "EOI")
        end += 2 if alone else 4 + segment["length"] + segment.get("scan_bytes", 0)
    assert segments[-1]["marker"] == "EOI"
    trailing = value(evidence, "trailing_bytes")
    assert trailing["count"] == len(data) - end > 0
    assert trailing["kind"] == "JPEG"
    assert value(evidence, "photoshop") == {"resources": [1030], "quality": 12}
    assert value(evidence, "adobe_transform") == "YCbCr"


def test_jpeg_metadata() -> None:
    picture = photograph_like(40, 56, 3)
    xmp = b'<rdf xmp:CreatorTool="Editor 2"/>'
    profile = b"\0" * 36 + b"acsp" + b"\0" * 100_000
    exif = PilImage.Exif()
    exif[271], exif[305] = "Maker", "Editor 1\x1b[2J"
    exif.get_ifd(34665)[36867] = "2020:02:02 02:02:02"
    extras = Extras(exif=exif.tobytes().removeprefix(b"Exif\0\0"), icc=profile, xmp=xmp)
    data = Jpeg(80).encode_with(picture, extras)
    data = with_segment(data, 0xFE, b"a comment\0")
    ducky = b"Ducky\0\1\0\4\0\0\0\x3c"
    data = with_segment(data, 0xEC, ducky)
    claim = b"JP\0\1\0\0\0\1\0\0\0\x20jumb\0\0\0\x18jumdc2pa"
    data = with_segment(data, 0xEB, claim)
    evidence = container_evidence(data)
    assert value(evidence, "exif") == {
        "make": "Maker",
        "software": "Editor 1 [2J",
        "taken": "2020:02:02 02:02:02",
    }
    assert value(evidence, "icc_profile")["bytes"] == len(profile)
    assert value(evidence, "xmp") == {"bytes": len(xmp), "creator_tool": "Editor 2"}
    assert value(evidence, "comments") == ["a comment"]
    assert value(evidence, "save_for_web_quality") == 60
    identifiers = [entry["identifier"] for entry in value(evidence, "applications")]
    assert identifiers == ["JUMBF, C2PA", "Ducky", "JFIF", "Exif", "XMP", "ICC", "ICC"]
    assert evidence.finding("damage") is None


def test_a_thumbnail_has_its_own_quality() -> None:
    (data,) = (each for each in seeds()["jpeg"] if b"Maker" in each)
    evidence = container_evidence(data)
    thumbnail = value(evidence, "thumbnail")
    assert (thumbnail["width"], thumbnail["height"]) == (16, 12)
    assert value(evidence, "thumbnail_quality") == 60
    assert value(evidence, "jpeg_quality") == 75
    assert value(evidence, "exif")["make"] == "Maker"


def test_lossless_jpeg_is_told_apart() -> None:
    assert container_evidence(imagecodecs.ljpeg_encode(GRAY)).codec == "uncompressed"
    assert container_evidence(imagecodecs.jpegls_encode(COLOUR)).codec == "uncompressed"
    near = container_evidence(imagecodecs.jpegls_encode(COLOUR, level=2))
    assert (near.codec, value(near, "process")) == (None, "JPEG-LS")


def test_cmyk_and_rgb_jpeg() -> None:
    cmyk = io.BytesIO()
    PilImage.fromarray(COLOUR).convert("CMYK").save(cmyk, "JPEG", quality=70)
    evidence = container_evidence(cmyk.getvalue())
    assert value(evidence, "colour_model") == "CMYK"
    assert value(evidence, "jpeg_quality") == 70
    rgb = pillow_bytes("JPEG", quality=70, keep_rgb=True)
    assert value(rgb, "colour_model") == "RGB"
    assert "one table" in finding(rgb, "jpeg_quality").note


# --- the other formats -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        Jpeg2000(),
        Jpeg2000(layers=3, progression="RPCL", reversible=True, tile=32, mct=False, ratio=4),
        Jpeg2000(resolutions=3, code_block_width=16, code_block_height=32, sop=True, eph=True),
        Jpeg2000(precinct=128, reversible=True, ratio=1),
    ],
    ids=repr,
)
def test_jpeg2000_facts_are_the_settings(setting: Jpeg2000) -> None:
    evidence = container_evidence(setting.encode(photograph_like(64, 96, 3)))
    assert evidence.codec == "jpeg2000"
    assert value(evidence, "progression") == setting.progression
    assert value(evidence, "layers") == setting.layers
    assert value(evidence, "levels") == setting.resolutions - 1
    assert value(evidence, "code_block") == {
        "width": setting.code_block_width,
        "height": setting.code_block_height,
    }
    facts = {name: value(evidence, name) for name in ("sop", "eph", "component_transform")}
    assert facts == {"sop": setting.sop, "eph": setting.eph, "component_transform": setting.mct}
    assert value(evidence, "precincts") == bool(setting.precinct)
    assert value(evidence, "tiles") == value(evidence, "tile_parts")["tiles"]
    assert value(evidence, "tiles") == (6 if setting.tile else 1)
    assert "OpenJPEG" in value(evidence, "comments")[0]
    if setting.reversible:
        assert "reversible" in value(evidence, "wavelet")
        assert value(evidence, "quantisation") == "none"
        assert finding(evidence, "lossless").status == "NOT_AVAILABLE"
    else:
        assert value(evidence, "wavelet") == "9/7 irreversible"
        assert len(value(evidence, "steps")) == 3 * setting.resolutions - 2


@pytest.mark.parametrize("setting", [*JpegXr.variants()[::3], JpegXr(20), JpegXr(bands="dc only")])
def test_jpegxr_facts_are_the_settings(setting: JpegXr) -> None:
    data = setting.encode(COLOUR)
    evidence, header = container_evidence(data), jpegxr.parse_header(data)
    indices = jpegxr._quantisers(setting.quality, header.subsampling)
    expected = {"dc": indices[:3], "lowpass": indices[:3], "highpass": indices[3:]}
    if setting.bands == "dc only":
        expected = {"dc": indices[:3]}
    assert value(evidence, "quantisers") == expected
    for name in ("overlap", "subsampling", "bands", "frequency_order", "flexbits_trimmed"):
        assert value(evidence, name) == getattr(header, name)
    assert value(evidence, "tiles") == {"columns": header.columns, "rows": header.rows}
    assert value(evidence, "lossless") is False


def test_lossless_jpegxr_is_told_apart() -> None:
    for picture in (COLOUR, GRAY):
        data = imagecodecs.jpegxr_encode(picture)
        assert np.array_equal(imagecodecs.jpegxr_decode(data), picture)
        assert container_evidence(data).codec == "uncompressed"


@pytest.mark.parametrize("qp", [8, 20, 37, 50])
def test_bpg_facts_are_the_settings(qp: int) -> None:
    """x265 codes a lone intra picture three steps finer than its --qp says (--ipratio 1.4)."""
    for setting in (Bpg(qp=qp), Bpg(qp=qp, subsampling="4:4:4", bit_depth=10)):
        data = setting.encode(COLOUR)
        evidence, parsed = container_evidence(data), parse_bpg(data)
        assert value(evidence, "slice_qp") == max(qp - 3, 0)
        assert value(evidence, "subsampling") == setting.subsampling
        assert value(evidence, "precision") == setting.bit_depth
        side = 1 << parsed.header.log2_min_cb + parsed.header.log2_diff_cb
        assert value(evidence, "coding_tree_block") == side
        assert value(evidence, "size") == {"width": 56, "height": 40}
    lossless = container_evidence(Bpg(lossless=True).encode(COLOUR))
    assert value(lossless, "picture_parameters")["lossless_blocks_allowed"] is True
    assert finding(lossless, "lossless").status == "NOT_AVAILABLE"


def test_heic_facts_are_the_settings() -> None:
    qps = []
    for quality in (10, 50, 90):
        setting = Heic(quality=quality, subsampling="4:4:4", bit_depth=10)
        evidence = container_evidence(setting.encode(COLOUR))
        qps.append(value(evidence, "slice_qp"))
        assert value(evidence, "coding_parameters")["subsampling"] == "4:4:4"
        assert value(evidence, "sequence")["chroma_format"] == "4:4:4"
        assert value(evidence, "sequence")["bits"] == [10, 10]
        assert value(evidence, "shown_size") == {"width": 56, "height": 40}
        size = value(evidence, "size")
        assert value(evidence, "sequence")["coded_size"] == [size["width"], size["height"]]
        assert value(evidence, "item_types")["hvc1"] == 1
        assert value(evidence, "primary_item") == "hvc1"
    assert sorted(qps, reverse=True) == qps
    assert len(set(qps)) == 3


@pytest.mark.parametrize("setting", [Avif(), Avif(subsampling="4:4:4", bit_depth=10)], ids=repr)
def test_avif_facts_are_the_settings(setting: Avif) -> None:
    evidence = container_evidence(setting.encode(COLOUR))
    facts = value(evidence, "coding_parameters")
    assert (facts["subsampling"], facts["bits"]) == (setting.subsampling, setting.bit_depth)
    assert value(evidence, "size") == {"width": 56, "height": 40}
    assert "avif" in value(evidence, "brands")
    assert value(evidence, "alpha") is False
    transparent = pillow_bytes("AVIF", np.dstack((COLOUR, GRAY)))
    assert value(transparent, "alpha") is True
    assert value(container_evidence(transparent), "item_types")["av01"] == 2


def test_an_encoder_that_names_itself_is_quoted() -> None:
    name = b"x265 (build 199) - 3.5+1\x1b"
    data = seeds()["heic"][0] + struct.pack(">I4s", 8 + len(name), b"free") + name
    assert value(data, "encoder_texts") == ["x265 (build 199) - 3.5+1"]
    assert finding(seeds()["heic"][0], "encoder_texts").status == "NOT_AVAILABLE"


def test_webp_quantisers_follow_the_quality() -> None:
    found = []
    for quality in (0, 30, 60, 90, 100):
        evidence = container_evidence(WebP(quality=quality).encode(COLOUR))
        found.append(value(evidence, "quantiser"))
        segments = evidence.finding("segment_quantisers")
        if segments is not None:  # libwebp's base is its first segment's
            assert segments.value[0] == found[-1]
            assert max(segments.value) <= 127
        assert value(evidence, "size") == {"width": 56, "height": 40}
    assert sorted(found, reverse=True) == found
    assert (found[0], found[-1]) == (127, 0)
    lossless = container_evidence(pillow_bytes("WEBP", lossless=True))
    assert (lossless.codec, value(lossless, "size")["width"]) == ("uncompressed", 56)
    mixed = pillow_bytes("WEBP", np.dstack((COLOUR, GRAY)), quality=50)
    assert "alpha" in value(mixed, "features")
    assert value(mixed, "canvas") == {"width": 56, "height": 40}


def test_png_facts() -> None:
    data = seeds()["png"][-1]
    evidence = container_evidence(data)
    assert evidence.codec == "uncompressed"
    assert value(evidence, "texts") == {
        "Software": "Editor 1", "Comment": "packed", "Title": "title",
    }  # fmt: skip
    assert "sRGB" in value(evidence, "icc_profile")["description"]
    assert value(evidence, "trailing_bytes")["count"] == 4
    assert value(evidence, "wrong_checksums") == []
    kinds = [chunk["type"] for chunk in value(evidence, "chunks")]
    assert (kinds[0], kinds[-1]) == ("IHDR", "IEND")
    gamma = b"gAMA" + struct.pack(">I", 45455)
    chunk = struct.pack(">I", 4) + gamma + struct.pack(">I", zlib.crc32(gamma) ^ 1)
    changed = container_evidence(data[:33] + chunk + data[33:])
    assert value(changed, "gamma") == 0.45455
    assert value(changed, "wrong_checksums") == ["gAMA"]
    palette = container_evidence(KMeans(colors=7).encode(COLOUR))
    assert value(palette, "palette_entries") == 7
    assert finding(palette, "palette").status == "INFERRED"


@pytest.mark.parametrize(
    ("compression", "codec", "lossy"),
    [
        (None, "uncompressed", "no"),
        ("zlib", "uncompressed", "no"),
        ("jpeg", "jpeg", "yes"),
        ("jpeg2000", "jpeg2000", "possibly"),
        ("webp", "uncompressed", "no"),
        ("jpegxr", "uncompressed", "no"),
        ("lerc", None, "possibly"),
    ],
)
def test_tiff_tells_what_is_inside(compression: str | None, codec: str | None, lossy: str) -> None:
    out = io.BytesIO()
    tifffile.imwrite(
        out, COLOUR, photometric="rgb", compression=compression, software="Editor", tile=(16, 16)
    )
    evidence = container_evidence(out.getvalue())
    (page,) = value(evidence, "pages")
    assert (evidence.codec, page["lossy"]) == (codec, lossy)
    with tifffile.TiffFile(io.BytesIO(out.getvalue())) as file:
        ifd = file.pages[0]
        assert page["compression"] == ifd.compression.name
        assert page["photometric"] == ifd.photometric.name
        assert page["tiles"]["count"] == len(ifd.dataoffsets)
    assert value(evidence, "texts")["software"] == "Editor"
    if compression == "jpeg":
        assert value(evidence, "inner_jpeg_quality") == 95
        assert value(evidence, "inner_process") == "baseline"


def test_tiff_pages() -> None:
    out = io.BytesIO()
    with tifffile.TiffWriter(out, byteorder=">", bigtiff=True) as writer:
        writer.write(GRAY, compression="jpeg", subfiletype=1)
        writer.write(COLOUR, photometric="rgb", subifds=1)
        writer.write(GRAY[:8, :8])
        writer.write(GRAY, photometric="palette", colormap=np.zeros((3, 256), np.uint16))
    evidence = container_evidence(out.getvalue())
    pages = value(evidence, "pages")
    assert [page["width"] for page in pages] == [56, 56, 8, 56]
    assert [page["lossy"] for page in pages] == ["yes", "no", "no", "possibly"]
    assert evidence.codec == "uncompressed"  # page 0 is a reduced version
    assert (value(evidence, "byte_order"), value(evidence, "big_tiff")) == ("big", True)


def test_jpegxl_facts() -> None:
    evidence = container_evidence(JpegXl().encode(COLOUR))
    assert value(evidence, "size") == {"width": 56, "height": 40}
    assert evidence.codec == "jpegxl"
    lossless = container_evidence(imagecodecs.jpegxl_encode(COLOUR, lossless=True))
    assert (lossless.codec, finding(lossless, "coding").status) == (None, "NOT_AVAILABLE")
    rebuilt = container_evidence(imagecodecs.jpegxl_encode_jpeg(Jpeg(80).encode(COLOUR)))
    assert rebuilt.codec == "jpeg"


def test_svd_facts() -> None:
    data = Svd(step=12.5, block=16, subsampling="4:2:0").encode(COLOUR)
    evidence = container_evidence(data)
    assert value(evidence, "steps") == [12.5, 6.25]
    assert (value(evidence, "block"), value(evidence, "chroma_halved")) == (16, True)
    changed = container_evidence(data[:-1] + bytes([data[-1] ^ 1]))
    assert value(changed, "checksum_fits") is False


# --- the command -----------------------------------------------------------------------------


def inspect(*arguments: object) -> Any:
    return CliRunner().invoke(main.app, ["inspect", *map(str, arguments)])


def test_inspect(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(with_segment(Jpeg(77).encode(COLOUR), 0xFE, b"\x1b[2J red"))
    answer = inspect(path)
    assert answer.exit_code == 0
    assert "jpeg, codec shown: jpeg" in answer.stdout
    assert "= jpeg_quality  77" in answer.stdout
    assert "+ process" in answer.stdout
    assert "\x1b" not in answer.stdout
    document = json.loads(inspect(path, "--json").stdout)
    (result,) = document["results"]
    assert result["codec"] == "jpeg"
    assert {"name", "value", "status", "note"} == set(result["findings"][0])
    missing = inspect(path, tmp_path / "none.jpg", "--json")
    assert missing.exit_code == 1
    assert len(json.loads(missing.stdout)["errors"]) == 1
    assert inspect(tmp_path / "none.jpg").exit_code == 2
