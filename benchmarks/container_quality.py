"""Does the container evidence name JPEG qualities rightly, and nothing where nothing fits?

Three parts, all read back from complete files:

1. libjpeg's standard tables at all 100 qualities, colour and gray, and all tables of the other
   schools: school and quality must be found.
2. Twenty pairs of tables of other families: no quality may be named. Published: MPEG-2's default
   intra matrix (ISO/IEC 13818-2, 6.3.11), the default intra and inter matrices of 8×8 blocks of
   H.265 (table 7-6), MPEG-4 Part 2's default non-intra matrix (6.3.3), and Nelson's 1 + (1 + x + y)
   · q ("The Data Compression Book", 1991) for two q. Made: random tables, random rising ones, the
   standard's with each entry changed by up to 3 levels, transposed, with luminance and chrominance
   swapped, and raised to the power 0.9.
3. Files of every format, mutated: no exception, findings bounded, time and memory measured.

    python -m benchmarks.container_quality --inputs 10000 --seed 1
"""

from __future__ import annotations

import argparse
import io
import json
import random
import struct
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage
from PIL import ImageCms, PngImagePlugin

from benchmarks.environment import write_environment
from benchmarks.fuzzing import MUTATORS
from benchmarks.generated_picture import generated_picture
from imagecompression import CODECS, Extras, Jpeg
from imagecompression.evidence.container import ContainerEvidence, container_evidence
from imagecompression.evidence.jpeg_quality import fit_tables
from imagecompression.quantisation_tables import SCHOOLS, quantisation_tables, unclipped_tables

Table = npt.NDArray[np.int64]

MAX_JSON = 2_000_000
"""Characters of the findings of one file; a mutated file with more is a fault."""

_MPEG_2_INTRA = """
8 16 19 22 26 27 29 34 16 16 22 24 27 29 34 37 19 22 26 27 29 34 34 38 22 22 26 27 29 34 37 40
22 26 27 29 32 35 40 48 26 27 29 32 35 40 48 58 26 27 29 34 38 46 56 69 27 29 35 38 46 56 69 83
"""
_HEVC_INTRA = """
16 16 16 16 17 18 21 24 16 16 16 16 17 19 22 25 16 16 17 18 20 22 25 29 16 16 18 21 24 27 31 36
17 17 20 24 30 35 41 47 18 19 22 27 35 44 54 65 21 22 25 31 41 54 70 88 24 25 29 36 47 65 88 115
"""
_HEVC_INTER = """
16 16 16 16 17 18 20 24 16 16 16 17 18 20 24 25 16 16 17 18 20 24 25 28 16 17 18 20 24 25 28 33
17 18 20 24 25 28 33 41 18 20 24 25 28 33 41 54 20 24 25 28 33 41 54 71 24 25 28 33 41 54 71 91
"""
_MPEG_4_INTER = """
16 17 18 19 20 21 22 23 17 18 19 20 21 22 23 24 18 19 20 21 22 23 24 25 19 20 21 22 23 24 26 27
20 21 22 23 25 26 27 28 21 22 23 24 26 27 28 30 22 23 24 26 27 28 30 31 23 24 25 27 28 30 31 33
"""


def foreign_tables() -> dict[str, tuple[Table, Table]]:
    """Twenty pairs of tables, by what they are; none is of a known school."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:8, 0:8]
    found: dict[str, tuple[Table, Table]] = {}
    for name, text in (
        ("MPEG-2 intra", _MPEG_2_INTRA),
        ("H.265 intra", _HEVC_INTRA),
        ("H.265 inter", _HEVC_INTER),
        ("MPEG-4 non-intra", _MPEG_4_INTER),
    ):
        table = np.array(text.split(), np.int64).reshape(8, 8)
        found[name] = (table, table)
    for step in (2, 5):
        table = 1 + (1 + rows + columns) * step
        found[f"Nelson, {step}"] = (table, table)
    for number in range(3):
        luminance, chrominance = rng.integers(1, 256, (2, 8, 8))
        found[f"random {number}"] = (luminance, chrominance)
    for number in range(3):
        noise = rng.integers(0, 12, (2, 8, 8))
        luminance, chrominance = 3 + 4 * (rows + columns) + noise
        found[f"random rising {number}"] = (luminance, chrominance)
    for quality in (40, 60, 75, 85, 95):
        standard = np.stack(unclipped_tables("standard", quality))
        changed = np.clip(standard + rng.integers(-3, 4, standard.shape), 1, 255)
        found[f"standard {quality}, changed by up to 3"] = (changed[0], changed[1])
    luminance, chrominance = unclipped_tables("standard", 70)
    found["standard 70, transposed"] = (luminance.T.copy(), chrominance)
    found["standard 70, swapped"] = (chrominance, luminance)
    powers = np.rint(np.stack((luminance, chrominance)) ** 0.9).astype(np.int64)
    found["standard 70, to the power 0.9"] = (powers[0], powers[1])
    return found


def file_with(luminance: Table, chrominance: Table) -> bytes:
    """A small JPEG file with these tables."""
    out = io.BytesIO()
    tables = [luminance.ravel().tolist(), chrominance.ravel().tolist()]
    PilImage.fromarray(generated_picture(16, 16, 3)).save(out, "JPEG", qtables=tables)
    return out.getvalue()


def value(evidence: ContainerEvidence, name: str) -> Any:
    """The value of a finding, or None."""
    finding = evidence.finding(name)
    return None if finding is None else finding.value


def standard_qualities() -> dict[str, int]:
    """How many of the 100 qualities are named exactly, as DERIVED, in colour and in gray."""
    found = {}
    for kind, channels in (("colour", 3), ("gray", 1)):
        picture = generated_picture(16, 16, channels)
        exact = 0
        for quality in range(1, 101):
            finding = container_evidence(Jpeg(quality).encode(picture)).finding("jpeg_quality")
            exact += finding is not None and (finding.value, finding.status) == (quality, "DERIVED")
        found[kind] = exact
    return found


def schools() -> dict[str, dict[str, int]]:
    """For each school, how many of its 100 pairs of tables are fitted, and to itself alone."""
    rows = {}
    for school in SCHOOLS:
        own = alone = 0
        for quality in range(1, 101):
            tables = [table.astype(np.int64) for table in quantisation_tables(school, quality)]
            fit = fit_tables(tables[0], tables[1])
            assert fit is not None and fit.exact
            same = fit.school == school and quality in fit.qualities
            own += same or school in fit.others
            alone += same and not fit.others and fit.quality == quality
        rows[school] = {"fitted": own, "unique": alone}
    return rows


def between_qualities() -> dict[str, int]:
    """Standard tables scaled by factors that no whole quality has: which quality is inferred."""
    base = np.stack(unclipped_tables("standard", 50))
    tried = named = right = 0
    for percent in range(3, 200, 2):
        tables = np.clip((base * percent + 50) // 100, 1, 255)
        fit = fit_tables(tables[0], tables[1])
        quality = 100 - percent / 2 if percent < 100 else 5000 / percent
        if fit is not None and fit.exact:
            continue
        tried += 1
        named += fit is not None
        right += fit is not None and fit.quality is not None and abs(fit.quality - quality) <= 1
    return {"tables": tried, "named": named, "within_1": right}


def one_entry_changed() -> dict[str, int]:
    """Standard tables with a single entry one level off: how many are named all the same."""
    rng = np.random.default_rng(0)
    tried = named = exact = 0
    for quality in range(30, 99):
        for _ in range(20):
            tables = np.clip(np.stack(unclipped_tables("standard", quality)), 1, 255)
            place = rng.integers(0, tables.size)
            tables.flat[place] = max(1, tables.flat[place] + rng.choice((-1, 1)))
            if (tables == np.clip(unclipped_tables("standard", quality), 1, 255)).all():
                continue
            fit = fit_tables(tables[0], tables[1])
            tried += 1
            named += fit is not None
            exact += fit is not None and fit.exact
    return {"tables": tried, "named": named, "of_these_exact": exact}


# --- files of every format -------------------------------------------------------------------


def _exif_with_thumbnail(picture: PilImage.Image) -> bytes:
    """A TIFF block with a maker, an EXIF directory and a JPEG thumbnail."""
    out = io.BytesIO()
    picture.resize((16, 12)).save(out, "JPEG", quality=60)
    small = out.getvalue()
    texts = b"Maker\0\0\0" + b"Model\0\0\0" + b"2001:01:01 10:00:00\0"
    start = 8 + 2 + 4 * 12 + 4
    photo = start + len(texts)
    second = photo + 2 + 2 * 12 + 4
    thumbnail = second + 2 + 2 * 12 + 4

    def directory(entries: list[tuple[int, int, int, int]], following: int) -> bytes:
        coded = b"".join(struct.pack("<HHII", *entry) for entry in entries)
        return struct.pack("<H", len(entries)) + coded + struct.pack("<I", following)

    return (
        b"II*\0\x08\0\0\0"
        + directory(
            [
                (271, 2, 6, start),
                (272, 2, 6, start + 8),
                (306, 2, 20, start + 16),
                (34665, 4, 1, photo),
            ],
            second,
        )
        + texts
        + directory([(36867, 2, 20, start + 16), (40962, 4, 1, 48)], 0)
        + directory([(513, 4, 1, thumbnail), (514, 4, 1, len(small))], 0)
        + small
    )


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind) + content


def seed_files() -> dict[str, list[bytes]]:
    """Small files of every format in `FORMATS`, most of them with metadata."""
    import imagecodecs
    import tifffile

    colour, gray = generated_picture(40, 48, 3), generated_picture(40, 48, 1)
    picture = PilImage.fromarray(colour)
    extras = Extras(
        alpha=gray,
        exif=_exif_with_thumbnail(picture),
        icc=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        xmp=b'<x:xmpmeta><rdf xmp:CreatorTool="Editor 1"/></x:xmpmeta>',
    )
    found: dict[str, list[bytes]] = {}
    for name, kind in CODECS.items():
        own = {"uncompressed": "png", "kmeans": "png"}.get(name, name)
        settings = kind.variants()
        files = found.setdefault(own, [])
        files += [setting.encode(colour) for setting in settings[:: max(1, len(settings) // 4)]]
        files.append(kind().encode(gray))
        kept = extras.only(kind.keeps)
        if kept.held():
            files.append(kind().encode_with(colour, kept))
    irb = b"8BIM\x04\x06\0\0\0\0\0\x02\0\x08"
    block = b"Photoshop 3.0\0" + irb
    jpeg = Jpeg(80, progressive=True).encode(colour)
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x01"
    found["jpeg"].append(
        jpeg[:2] + struct.pack(">BBH", 0xFF, 0xED, len(block) + 2) + block + adobe + jpeg[2:] + jpeg
    )
    found["jpeg"] += [imagecodecs.ljpeg_encode(gray), imagecodecs.jpegls_encode(colour)]
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", "Editor 1")
    text.add_text("Comment", "packed", zip=True)
    text.add_itxt("Title", "title", "en", "title", zip=True)
    out = io.BytesIO()
    picture.save(out, "PNG", pnginfo=text, dpi=(72, 72), icc_profile=extras.icc)
    found["png"].append(out.getvalue() + b"more")
    lossless = io.BytesIO()
    picture.save(lossless, "WEBP", lossless=True, exif=extras.exif)
    animated = io.BytesIO()
    picture.save(animated, "WEBP", save_all=True, append_images=[PilImage.fromarray(gray)])
    found["webp"] += [lossless.getvalue(), animated.getvalue()]
    bare = CODECS["jpegxl"]().encode(colour)
    container = b"\0\0\0\x0cJXL \r\n\x87\n" + _box(b"ftyp", b"jxl \0\0\0\0jxl ")
    exif = _box(b"Exif", b"\0\0\0\0" + (extras.exif or b""))
    found["jpegxl"].append(
        container + exif + _box(b"xml ", extras.xmp or b"") + _box(b"jxlc", bare)
    )
    found["isobmff"] = [_box(b"ftyp", b"mif1\0\0\0\0mif1") + found["avif"][0][32:]]
    found["tiff"] = []
    for compression in (None, "zlib", "jpeg", "jpeg2000", "webp", "jpegxr", "lzw"):
        tiff = io.BytesIO()
        with tifffile.TiffWriter(tiff, bigtiff=compression == "lzw") as writer:
            writer.write(
                colour, photometric="rgb", compression=compression, software="Editor 1",
                iccprofile=extras.icc, tile=(16, 16) if compression == "jpeg" else None,
            )  # fmt: skip
            writer.write(gray, subfiletype=1)
        found["tiff"].append(tiff.getvalue())
    return found


def mutated(seeds: list[bytes], rng: random.Random) -> bytes:
    """A damaged file made from one or two of `seeds`; most keep their magic bytes."""
    original = rng.choice(seeds)
    data = bytearray(original)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        data = rng.choice(MUTATORS)(data, rng, seeds) or bytearray(1)
    if rng.random() < 0.9:
        data[:12] = original[:12]
    return bytes(data)


def fault(data: bytes) -> str | None:
    """What is wrong with the evidence of a file, None where nothing is."""
    try:
        evidence = container_evidence(data)
        shown = json.dumps(evidence.to_json(), allow_nan=False)
    except Exception as error:  # the very thing that is looked for
        return f"{type(error).__name__}: {error}"
    names = [finding.name for finding in evidence.findings]
    if len(set(names)) < len(names):
        return "two findings of one name"
    if len(shown) > MAX_JSON:
        return f"{len(shown)} characters of findings"
    if evidence.codec is not None and evidence.codec not in CODECS:
        return f"the unknown codec {evidence.codec!r}"
    return None


def peak_mib(data: bytes) -> float:
    """The most memory that reading a file takes beyond the file itself, in MiB."""
    tracemalloc.start()
    fault(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def fuzzed(seeds: dict[str, list[bytes]], inputs: int, seed: int) -> list[dict[str, Any]]:
    """One row a format: inputs, faults, most CPU seconds; most memory of every hundredth input."""
    rows = []
    for name, files in seeds.items():
        rng = random.Random(f"{seed} {name}")
        slowest, peak, faults = 0.0, 0.0, []
        for number in range(inputs):
            data = mutated(files, rng)
            started = time.process_time()
            wrong = fault(data)
            slowest = max(slowest, time.process_time() - started)
            if number % 100 == 0:
                peak = max(peak, peak_mib(data))
            if wrong is not None:
                faults.append(wrong)
        rows.append(
            {
                "format": name,
                "inputs": inputs,
                "faults": len(faults),
                "first_fault": faults[0] if faults else None,
                "slowest_seconds": round(slowest, 3),
                "peak_mib": round(peak, 1),
            }
        )
    return rows


# --- large hostile files ---------------------------------------------------------------------


def hostile_files(size: int) -> dict[str, Callable[[], bytes]]:
    """Files of about `size` bytes that would cost much if their counts were believed."""
    chunk = struct.pack(">I4s", 0, b"abCd") + zlib.crc32(b"abCd").to_bytes(4, "big")
    png = CODECS["uncompressed"]().encode(generated_picture(8, 8, 1))
    bpg = CODECS["bpg"]().encode(generated_picture(8, 8, 3))
    jp2 = CODECS["jpeg2000"]().encode(generated_picture(8, 8, 1))
    header = jp2[jp2.index(b"\xff\x4f\xff\x51") : jp2.index(b"\xff\x90")]
    packed = b"zTXtname\0\0" + zlib.compress(bytes(1 << 20), 9)
    bomb = struct.pack(">I", len(packed) - 4) + packed + bytes(4)
    page = struct.pack("<HHHII", 1, 256, 4, 1, 8)
    return {
        "jpeg, empty segments": lambda: b"\xff\xd8" + b"\xff\xe1\0\x02" * (size // 4),
        "jpeg, stuffed zeros": lambda: b"\xff\xd8\xff\xda\0\x02" + b"\xff\0" * (size // 2),
        "jpeg, fill bytes": lambda: b"\xff\xd8" + b"\xff" * size,
        "jpeg, tables": lambda: (
            b"\xff\xd8" + (b"\xff\xdb\xff\xff" + bytes(65_533)) * (size // 65_537)
        ),
        "png, empty chunks": lambda: png[:33] + chunk * (size // 12) + png[33:],
        "png, bomb": lambda: (
            png[:33]
            + struct.pack(">I4s", size // 1000 + 6, b"iCCP")
            + b"name\0\0"
            + zlib.compress(bytes(size), 9)[: size // 1000]
            + bytes(4)
        ),
        "png, text bombs": lambda: png[:33] + bomb * (size // len(bomb)) + png[33:],
        "tiff, wide pages": lambda: (
            b"II*\0\x08\0\0\0"
            + b"".join(
                struct.pack("<HHHII", 1000, 273, 4, 1 << 20, 8)
                + (bytes(range(256)) * 47)[: 999 * 12]
                + struct.pack("<I", 8 + 12_006 * (number + 1))
                for number in range(size // 12_006)
            )
        ),
        "tiff, pages": lambda: (
            b"II*\0\x08\0\0\0"
            + b"".join(
                page + struct.pack("<I", 8 + 18 * (number + 1)) for number in range(size // 18)
            )
        ),
        "bpg, start codes": lambda: bpg + b"\0\0\1" * (size // 3),
        "jp2, boxes": lambda: (
            b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I4s", 8, b"free") * (size // 8)
        ),
        "jpeg 2000, tile-parts": lambda: (
            header + struct.pack(">HHHIHxx", 0xFF90, 10, 0, 14, 1) * (size // 14)
        ),
        "avif, boxes": lambda: (
            _box(b"ftyp", b"avif\0\0\0\0avif")
            + _box(b"meta", bytes(4) + struct.pack(">I4s", 8, b"free") * (size // 8))
        ),
        "webp, chunks": lambda: (
            b"RIFF" + struct.pack("<I", size) + b"WEBP" + b"abcd\0\0\0\0" * (size // 8)
        ),
    }


def hostile_rows(size: int) -> list[dict[str, Any]]:
    """CPU seconds and memory beyond the file itself for each hostile file."""
    rows = []
    for name, make in hostile_files(size).items():
        data = make()
        started = time.process_time()
        wrong = fault(data)
        seconds = time.process_time() - started
        rows.append(
            {
                "file": name,
                "mib": round(len(data) / 2**20, 1),
                "fault": wrong,
                "seconds": round(seconds, 2),
                "peak_mib": round(peak_mib(data), 1),
            }
        )
    return rows


def main() -> int:
    """Measure, print, write; status 1 where a figure is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000, help="mutated files of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hostile-mib", type=int, default=64, help="size of large hostile files")
    parser.add_argument("--out", type=Path, default=Path("results/container_quality.json"))
    arguments = parser.parse_args()
    named = {
        name: value(container_evidence(file_with(*tables)), "jpeg_quality")
        for name, tables in foreign_tables().items()
    }
    content: dict[str, Any] = {
        "standard_qualities_exact": standard_qualities(),
        "foreign_tables_quality": named,
        "schools_of_100": schools(),
        "between_whole_qualities": between_qualities(),
        "one_entry_changed": one_entry_changed(),
        "hostile": hostile_rows(arguments.hostile_mib << 20),
        "mutated": fuzzed(seed_files(), arguments.inputs, arguments.seed),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    write_environment(arguments.out)
    print(json.dumps(content, indent=2))
    missed = [f"{kind}: {count} of 100" for kind, count in
              content["standard_qualities_exact"].items() if count < 100]  # fmt: skip
    missed += [f"{name}: named {quality}" for name, quality in named.items() if quality is not None]
    missed += [
        f"{row['format']}: {row['first_fault']}" for row in content["mutated"] if row["faults"]
    ]
    missed += [f"{row['file']}: {row['fault']}" for row in content["hostile"] if row["fault"]]
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
