"""What classical signs in pixels tell, on pictures that no limit was chosen on.

Kodak's pictures are saved as JPEG by Pillow at its default 4:2:0, decoded, and cropped: a square of
256 pixels at random, and the whole picture less 1 to 7 pixels at the top and the left. The quality
and the grid that `jpeg_grid` finds are compared with the truth; where no JPEG is found, the grid
counts as wrong, and the quality's error is left out and counted. Then `pixel_evidence` says its
opinion of pictures that were never compressed, and of Kodak's through each codec.

    python -m benchmarks.pixel_quality --data ../shared/data --out results/pixel_quality.csv

Prints and writes the figures, and exits with 1 where one is missed. Limits were chosen on train.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image as PilImage

from benchmarks.environment import write_environment, write_table
from benchmarks.vetting import OTHER_CODECS
from datasets.seeds import generator
from datasets.sources import find_source_files
from datasets.workers import worker_pool
from imagecompression import CODECS, Image
from imagecompression.evidence.jpeg_grid import SURE, jpeg_grid
from imagecompression.evidence.pixel_evidence import pixel_evidence
from imagecompression.image_io import read_image

QUALITIES = range(30, 96, 5)
CROPS = ("256", "whole")
MOST_ERROR, LEAST_GRIDS = 3.0, 0.97
MOST_SECONDS = {1: 1.0, 12: 2.0}
"""By megapixels, on one core."""

CODEC_SETTINGS = (
    *(OTHER_CODECS | {"jpeg": 60, "svd": 40, "kmeans": 64, "jpegxl": 2}).items(),
    *(("jpegxr", quality) for quality in (60, 70, 80, 90)),
    *(("svd", step) for step in (10, 4)),
    *(("bpg", qp) for qp in (24, 18, 12)),
    *(("avif", quality) for quality in (80, 90)),
    *(("heic", quality) for quality in (80, 90)),
    *(("jpegxl", distance) for distance in (1, 0.5)),
)
PRISTINE = ("train", "val", "kodak")


@dataclass(frozen=True)
class Row:
    """What `jpeg_grid` found in one crop of one JPEG file."""

    file: str
    quality: int
    crop: str
    found: bool
    grid_right: bool
    estimate: int | None
    table: str | None
    sure_steps: int
    sure_steps_right: int
    subsampling: str | None
    chroma_estimate: int | None


def judge_jpegs(path: Path) -> list[Row]:
    image = read_image(path)
    rng = generator(0, "pixel_quality", path.name)
    rows = []
    for quality in QUALITIES:
        out = io.BytesIO()
        PilImage.fromarray(image).save(out, "JPEG", quality=quality)
        file = PilImage.open(out)
        table = np.array(file.quantization[0]).reshape(8, 8)
        decoded = np.array(file)
        for crop in CROPS:
            part, place = cropped(decoded, crop, rng)
            grid = jpeg_grid(part)
            luma, chroma = grid.luma, grid.chroma
            sure = np.zeros((8, 8), bool) if luma is None else luma.lead >= SURE
            rows.append(
                Row(
                    file=path.name,
                    quality=quality,
                    crop=crop,
                    found=grid.decisive,
                    grid_right=grid.decisive and (grid.history.top, grid.history.left) == place,
                    estimate=None if luma is None else luma.quality,
                    table=None if luma is None else luma.school,
                    sure_steps=int(sure.sum()),
                    sure_steps_right=0 if luma is None else int((luma.steps == table)[sure].sum()),
                    subsampling=grid.subsampling,
                    chroma_estimate=None if chroma is None else chroma.quality,
                )
            )
    return rows


def cropped(image: Image, crop: str, rng: np.random.Generator) -> tuple[Image, tuple[int, int]]:
    """A part of `image`, and the first row and column of whole 8×8 blocks in it."""
    height, width = image.shape[:2]
    if crop == "whole":
        top, left = rng.integers(1, 8, 2).tolist()
        part = image[top:, left:]
    else:
        side = int(crop)
        top = int(rng.integers(0, height - side + 1))
        left = int(rng.integers(0, width - side + 1))
        part = image[top : top + side, left : left + side]
    return np.ascontiguousarray(part), (-top % 8, -left % 8)


def opinion_on_pristine(path: Path, data: str) -> list[dict[str, object]]:
    """The picture as it is, and a part of it."""
    image = read_image(path)
    part, _ = cropped(image, "256", generator(0, "pristine", data, path.name))
    return [
        {
            "data": data,
            "file": path.name,
            "crop": crop,
            "codec": "uncompressed",
            "setting": "",
            "opinion": pixel_evidence(some).opinion or "",
        }
        for crop, some in (("uncropped", image), ("256", part))
    ]


def opinions_on_codecs(path: Path) -> list[dict[str, object]]:
    """The picture through each codec, less a few rows and columns."""
    image = read_image(path)
    rng = generator(0, "codecs", path.name)
    rows: list[dict[str, object]] = []
    for name, value in CODEC_SETTINGS:
        codec = CODECS[name]().with_knob(value)
        part, _ = cropped(codec.decode(codec.encode(image)), "whole", rng)
        rows.append(
            {
                "data": "kodak",
                "file": path.name,
                "crop": "whole",
                "codec": name,
                "setting": value,
                "opinion": pixel_evidence(part).opinion or "",
            }
        )
    return rows


def seconds(path: Path, megapixels: int) -> float:
    """Time of `pixel_evidence` on a JPEG of so many megapixels, made of copies of one picture."""
    image = read_image(path)
    side = round((megapixels * 1e6) ** 0.5)
    times = [-(-side // length) for length in image.shape[:2]]
    out = io.BytesIO()
    large = np.tile(image, (*times, 1))[:side, :side]
    PilImage.fromarray(large).save(out, "JPEG", quality=80)
    decoded = np.array(PilImage.open(out))
    started = time.process_time()
    pixel_evidence(decoded)
    return time.process_time() - started


def quality_figures(rows: list[Row], missed: list[str]) -> Iterator[str]:
    yield "quality crop    found  grid right  quality told  mean error  largest  sure steps right"
    for quality in (*QUALITIES, None):
        for crop in CROPS:
            some = [r for r in rows if r.crop == crop and quality in (r.quality, None)]
            name = "all" if quality is None else str(quality)
            yield f"{name:7} {crop:6} {_line(some)}"
    error, right = _error(rows), float(np.mean([row.grid_right for row in rows]))
    if error > MOST_ERROR:
        missed.append(f"mean error of the quality {error:.2f}, allowed {MOST_ERROR}")
    if right < LEAST_GRIDS:
        missed.append(f"grid right in {right:.1%}, at least {LEAST_GRIDS:.0%} asked for")
    told = [row for row in rows if row.subsampling is not None]
    halved = sum(row.subsampling == "4:2:0" for row in told)
    yield f"Subsampling told of {len(told)} of {len(rows)}, right (4:2:0) of {halved}"


def _line(rows: list[Row]) -> str:
    count = len(rows)
    found, grids = sum(r.found for r in rows), sum(r.grid_right for r in rows)
    errors = [abs(r.estimate - r.quality) for r in rows if r.estimate is not None]
    sure = sum(row.sure_steps for row in rows)
    steps = sum(row.sure_steps_right for row in rows) / max(sure, 1)
    return (
        f"{found / count:6.1%}  {grids / count:10.1%}  {len(errors) / count:12.1%}  "
        f"{_error(rows):10.2f}  {max(errors, default=0):7}  {steps:.1%} of {sure / count:.0f}"
    )


def _error(rows: Iterable[Row]) -> float:
    return float(
        np.mean([abs(r.estimate - r.quality) for r in rows if r.estimate is not None] or [0])
    )


def opinion_figures(opinions: list[dict[str, object]], missed: list[str]) -> Iterator[str]:
    for data in PRISTINE:
        some = [o for o in opinions if (o["data"], o["codec"]) == (data, "uncompressed")]
        alarms = [o for o in some if o["opinion"]]
        yield f"{data:6} uncompressed: {len(alarms)} false alarms of {len(some)} pictures and crops"
        for alarm in alarms:
            yield f"  {alarm['file']} ({alarm['crop']}): {alarm['opinion']}"
            missed.append(f"{alarm['file']} was called {alarm['opinion']}")
    for setting in CODEC_SETTINGS:
        some = [o for o in opinions if (o["codec"], o["setting"]) == setting]
        counts = Counter(str(o["opinion"]) or "none" for o in some)
        told = ", ".join(f"{opinion} {count}" for opinion, count in counts.most_common())
        yield f"kodak  through {setting[0]:9} at {setting[1]}: {told}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("results/pixel_quality.csv"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    report: list[str] = []
    missed: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        report.append(line)

    kodak = sorted((options.data / "kodak").glob("*.png"))
    files = find_source_files([options.data / name for name in PRISTINE])[0]
    pristine = [(path, path.parent.name) for path, _ in files]
    with worker_pool(options.workers) as pool:
        jpegs = pool.run(judge_jpegs, [(path,) for path in kodak])
        rows = [row for _, found in jpegs for row in found]
        opinions = [row for _, r in pool.run(opinion_on_pristine, pristine) for row in r]
        opinions += [
            row for _, r in pool.run(opinions_on_codecs, [(path,) for path in kodak]) for row in r
        ]
    rows.sort(key=lambda row: (row.file, row.quality, row.crop))
    opinions.sort(key=lambda row: [str(value) for value in row.values()])
    write_table(options.out, [asdict(row) for row in rows])
    write_table(options.out.with_name(f"{options.out.stem}_opinions.csv"), opinions)
    for line in (*quality_figures(rows, missed), *opinion_figures(opinions, missed)):
        say(line)
    for megapixels, allowed in MOST_SECONDS.items():
        taken = seconds(kodak[0], megapixels)
        say(f"{megapixels} megapixels: {taken:.2f} s of one core")
        if taken > allowed:
            missed.append(f"{megapixels} megapixels take {taken:.2f} s, allowed {allowed}")
    write_environment(options.out)
    for text in missed:
        say(f"MISSED {text}")
    figures = options.out.with_name(f"{options.out.stem}_figures.txt")
    figures.write_text("\n".join([*report, ""]), encoding="utf-8")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
