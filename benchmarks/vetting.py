"""Vet the shared pictures and copies of them, and record what is accepted, refused and why.

Pictures of train, val and kodak are to be accepted. Copies that were first saved as JPEG (quality
60 to 95, 4:4:4 or 4:2:0, one in four in gray) and then cropped at any offset are to be refused.
Copies that went through the other codecs are reported without a claim. TIFF files with lossy data
inside, told apart here by their compression tag alone, are to be named as such.

    python -m benchmarks.vetting --data ../shared/data --out results/vetting.csv

Prints and writes the figures (results/vetting_figures.txt), and exits with 1 where one is missed.
Thresholds were chosen on train alone.
"""

from __future__ import annotations

import argparse
import io
import os
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image as PilImage

from benchmarks.environment import write_environment, write_table
from datasets.near_duplicates import near_duplicates, perceptual_hash
from datasets.seeds import generator
from datasets.sources import find_source_files, open_source, vet
from datasets.workers import worker_pool
from imagecompression import CODECS, Image
from imagecompression.evidence.jpeg_history import jpeg_history
from imagecompression.image_io import read_image

SETS = ("train", "val", "kodak")
COPIES = 2
"""JPEG copies of each picture, every one cropped to each of `CROPS`."""
CROPS = ("whole", 256, 128, 64)
"""The whole picture less 1 to 15 pixels a side, or a square of that many pixels."""
OTHER_CODECS = {"jpeg2000": 15, "jpegxr": 45, "bpg": 32, "webp": 75, "avif": 60, "heic": 60}
"""Setting of the knob for the copies that went through other codecs."""
TO_FIND = 0.99
SEARCHED_HASHES = 100_000

# TIFF 6.0 and registered: none, CCITT, LZW, Deflate, PackBits, LZMA, PNG, Zstandard.
LOSSLESS_TAGS = {1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 34933, 50000}
LOSSY_TAGS = {6, 7, 34892, 34712, 34934, 50001, 34887, 52546, 50002}
"""JPEG (three tags), JPEG 2000, JPEG XR, WebP, LERC, JPEG XL (two tags)."""


@dataclass(frozen=True)
class Row:
    """Judgement of one picture or copy.

    Attributes:
        data: Set of pictures.
        file: Name in it.
        copy: ``original``, or the codec that it went through.
        setting: Quality and subsampling, or the knob's value.
        crop: Which part of it.
        found: Whether a JPEG history was found.
        right: Whether grid position and (to 2) quality are those of the copy.
    """

    data: str
    file: str
    copy: str
    setting: str
    crop: str
    found: bool
    right: bool
    vote_ratio: float
    vote_share: float
    comb: float
    quality: int | None
    seconds_a_megapixel: float


def judge(image: Image, facts: dict[str, str], grid: tuple[int, int] | None, quality: int) -> Row:
    started = time.perf_counter()
    history = jpeg_history(image)
    seconds = time.perf_counter() - started
    near = history.quality is not None and abs(history.quality - quality) <= 2
    return Row(
        **facts,
        found=history.found,
        right=(history.top, history.left) == grid and near,
        vote_ratio=round(history.vote_ratio, 3),
        vote_share=round(history.vote_share, 4),
        comb=round(history.comb, 1),
        quality=history.quality,
        seconds_a_megapixel=round(seconds / (image.shape[0] * image.shape[1]) * 1e6, 3),
    )


def cropped(
    image: Image, crop: str | int, rng: np.random.Generator
) -> tuple[Image, tuple[int, int]]:
    """A part of `image` at random, and the first row and column of whole 8×8 blocks in it."""
    height, width = image.shape[:2]
    if crop == "whole":
        top, left, bottom, right = rng.integers(1, 16, 4).tolist()
        part = image[top : height - bottom, left : width - right]
    else:
        rows, columns = min(int(crop), height), min(int(crop), width)
        top = int(rng.integers(0, height - rows + 1))
        left = int(rng.integers(0, width - columns + 1))
        part = image[top : top + rows, left : left + columns]
    return np.ascontiguousarray(part), (-top % 8, -left % 8)


def judge_file(path: Path, data: str) -> list[Row]:
    """The original and its crops, then JPEG copies and their crops."""
    image = read_image(path)
    rng = generator(0, data, path.name)
    name = {"data": data, "file": path.name}
    original = name | {"copy": "original", "setting": ""}
    rows = [judge(image, original | {"crop": "uncropped"}, None, 0)]
    for crop in CROPS:
        facts = original | {"crop": str(crop)}
        rows.append(judge(cropped(image, crop, rng)[0], facts, None, 0))
    for _ in range(COPIES):
        quality, subsampling = int(rng.integers(60, 96)), int(rng.choice([0, 2]))
        picture = PilImage.fromarray(image)
        out = io.BytesIO()
        if image.ndim == 2 or rng.random() < 0.25:
            picture.convert("L").save(out, "JPEG", quality=quality)
            kind = "gray"
        else:
            picture.save(out, "JPEG", quality=quality, subsampling=subsampling)
            kind = "4:2:0" if subsampling else "4:4:4"
        jpeg = np.array(PilImage.open(out))
        for crop in CROPS:
            part, grid = cropped(jpeg, crop, rng)
            facts = name | {"copy": "jpeg", "setting": f"{quality} {kind}", "crop": str(crop)}
            rows.append(judge(part, facts, grid, quality))
    return rows


def judge_other_codecs(path: Path, data: str) -> list[Row]:
    """Copies that went through the other codecs, uncropped."""
    image = read_image(path)
    rows = []
    for name, value in OTHER_CODECS.items():
        codec = CODECS[name]().with_knob(value)
        decoded = codec.decode(codec.encode(image))
        facts = {"data": data, "file": path.name, "copy": name, "setting": str(value)}
        rows.append(judge(decoded, facts | {"crop": "uncropped"}, None, 0))
    return rows


def compression_tag(data: bytes) -> int | None:
    """Tag 259 of a TIFF's first page, read here and not by any library; None if there is none."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return None
    try:
        if struct.unpack_from(order + "H", data, 2) == (43,):
            (at,) = struct.unpack_from(order + "Q", data, 8)
            (entries,) = struct.unpack_from(order + "Q", data, at)
            first, size, value = at + 8, 20, 12
        else:
            (at,) = struct.unpack_from(order + "I", data, 4)
            (entries,) = struct.unpack_from(order + "H", data, at)
            first, size, value = at + 2, 12, 8
        for entry in range(first, first + min(entries, 1000) * size, size):
            if struct.unpack_from(order + "H", data, entry) == (259,):
                return int(struct.unpack_from(order + "H", data, entry + value)[0])
    except (struct.error, OverflowError):  # beyond the end of the file
        return None
    return 1


def vet_tiffs(folder: Path) -> list[dict[str, object]]:
    """Verdict on each TIFF file whose tag says that it holds lossy data."""
    rows = []
    for path, file in find_source_files([folder])[0]:
        tag = compression_tag(path.read_bytes())
        if tag is not None and tag not in LOSSLESS_TAGS:
            result = open_source(path, file, 1)
            reason = getattr(result, "reason", "accepted")
            error = getattr(result, "error", "")
            lossy = tag in LOSSY_TAGS
            rows.append(
                {"file": file, "tag": tag, "lossy": lossy, "reason": reason, "message": error}
            )
    return rows


def share(rows: list[Row]) -> str:
    return f"{sum(row.found for row in rows)} of {len(rows)}"


def history_figures(rows: list[Row]) -> Iterator[str]:
    """Print-ready lines on the JPEG history."""
    for data in (*SETS, "foreign"):
        for crop in ("uncropped", *map(str, CROPS)):
            some = [r for r in rows if (r.data, r.copy, r.crop) == (data, "original", crop)]
            if some:
                ratio, comb = max(r.vote_ratio for r in some), max(r.comb for r in some)
                yield (
                    f"{data:8} original, {crop:9} found {share(some):12} "
                    f"highest vote ratio {ratio:.2f}, comb {comb:.0f}"
                )
    for data in SETS:
        for crop in map(str, CROPS):
            some = [r for r in rows if (r.data, r.copy, r.crop) == (data, "jpeg", crop)]
            if some:
                rate = np.mean([r.found for r in some])
                right = np.mean([r.right for r in some])
                yield (
                    f"{data:8} JPEG 60-95, {crop:7} found {share(some):12} {rate:.2%}, grid and "
                    f"quality right {right:.1%}"
                )
    for name in OTHER_CODECS:
        some = [r for r in rows if r.copy == name]
        if some:
            yield f"{some[0].data:8} through {name:9} found {share(some)} (no claim)"
    speed = np.mean([r.seconds_a_megapixel for r in rows if r.crop == "uncropped"])
    yield f"JPEG history: {speed:.2f} s a megapixel and core"


def changed(image: Image) -> dict[str, Image]:
    """Copies of a picture as people make them."""
    picture = PilImage.fromarray(image)
    height, width = image.shape[:2]
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=30)
    copies = {
        "half the size": picture.resize((width // 2, height // 2), PilImage.Resampling.LANCZOS),
        "a fifth of the size": picture.resize((width // 5, height // 5), PilImage.Resampling.BOX),
        "JPEG at quality 30": PilImage.open(out),
        "40 levels brighter": picture.point(lambda value: min(255, value + 40)),
        "gamma 0.6": picture.point(lambda value: round(255 * (value / 255) ** 0.6)),
        "gray": picture.convert("L"),
        "mirrored": picture.transpose(PilImage.Transpose.FLIP_LEFT_RIGHT),
        "turned by 90 degrees": picture.transpose(PilImage.Transpose.ROTATE_90),
    }
    for percent in (2, 5, 10):
        # All cut off at one corner, the worst case.
        box = (width * percent // 100, height * percent // 100, width, height)
        copies[f"{percent} % cropped"] = picture.crop(box)
    return {name: np.array(copy) for name, copy in copies.items()}


def likeness_of_copies(path: Path) -> list[tuple[str, bool]]:
    """Which changed copies of a picture are found to be its near-duplicates."""
    image = read_image(path)
    own = perceptual_hash(image)
    return [
        (name, any(True for _ in near_duplicates([own, perceptual_hash(copy)])))
        for name, copy in changed(image).items()
    ]


def search_seconds() -> float:
    """Time to compare `SEARCHED_HASHES` made-up hashes."""
    rng = np.random.default_rng(0)
    noise = rng.integers(-127, 128, (SEARCHED_HASHES, len(bytes.fromhex(perceptual_hash(FLAT)))))
    hashes = [row.tobytes().hex() for row in noise.astype(np.int8)]
    started = time.perf_counter()
    found = len(list(near_duplicates(hashes)))
    assert found == 0
    return time.perf_counter() - started


FLAT = np.zeros((32, 32), np.uint8)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("results/vetting.csv"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--skip-search", action="store_true", help="do not time 100,000 hashes")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    missed: list[str] = []
    report: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        report.append(line)

    with worker_pool(options.workers) as pool:
        folders = [options.data / name for name in SETS]
        started = time.perf_counter()
        vetting = vet(folders, 64, pool=pool)
        seconds = time.perf_counter() - started
        files = find_source_files(folders)[0]
        tasks = [(path, path.parent.name) for path, _ in files]
        originals = sorted((options.data / "foreign").rglob("*-original.png"))
        tasks += [(path, "foreign") for path in originals]
        rows = [row for _, result in pool.run(judge_file, tasks) for row in result]
        val = [(path, "val") for path, _ in files if path.parent.name == "val"][::6]
        rows += [row for _, result in pool.run(judge_other_codecs, val) for row in result]
        likeness = [
            r
            for _, found in pool.run(likeness_of_copies, ((path,) for path, _ in files[::4]))
            for r in found
        ]
    rows = [row for row in rows if row.data != "foreign" or row.copy == "original"]
    rows.sort(key=lambda row: (row.data, row.file, row.copy, row.setting, row.crop))
    write_table(options.out, [asdict(row) for row in rows])

    say(f"Vetting of {len(files)} pictures: {len(vetting.sources)} accepted, {seconds:.0f} s")
    for item in vetting.rejected:
        say(f"  {item.file}: {item.error}")
        missed.append(f"{item.file} was refused")
    for one, other, cosine in vetting.near_duplicates:
        say(f"  one group: {one} and {other}, cosine {cosine:.3f}")
    for line in history_figures(rows):
        say(line)
    copies: list[dict[str, object]] = []
    for name in dict(likeness):
        hits = [found for other, found in likeness if other == name]
        copies.append({"copy": name, "found": sum(hits), "pictures": len(hits)})
        say(f"near-duplicate, {name:21} found {sum(hits)} of {len(hits)}")
    write_table(options.out.with_name(f"{options.out.stem}_near_duplicates.csv"), copies)
    for data in SETS:
        some = [r for r in rows if (r.data, r.copy, r.crop) == (data, "jpeg", "whole")]
        if np.mean([r.found for r in some]) < TO_FIND:
            missed.append(f"JPEG copies of {data}: {share(some)}")

    tiffs = vet_tiffs(options.data / "tiff")
    write_table(options.out.with_name(f"{options.out.stem}_tiff.csv"), tiffs)
    lossy = [row for row in tiffs if row["lossy"]]
    named = [row for row in lossy if row["reason"] == "lossy-inside"]
    say(f"TIFF files with lossy data inside: {len(lossy)}; named as such: {len(named)}")
    missed += [f"{row['file']}: {row['reason']}" for row in lossy if row not in named]
    if not options.skip_search:
        say(f"{SEARCHED_HASHES:,} perceptual hashes compared in {search_seconds():.0f} s")
    write_environment(options.out)
    for text in missed:
        say(f"MISSED {text}")
    report_file = options.out.with_name(f"{options.out.stem}_figures.txt")
    report_file.write_text("\n".join([*report, ""]), encoding="utf-8")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
