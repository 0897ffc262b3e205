"""Palettes on Kodak: error, size and time against Pillow's quantisers and libimagequant.

The mean squared error (over R, G and B) of `KMeans` at its default setting must be at most that of
every quantiser of Pillow on every picture, and on the mean at most libimagequant's (default speed,
no dithering). Pictures of one megapixel, cut from
the middle of four Kodak pictures side by side, must take at most a second of one core. Exits with
1 when a figure is missed. Pillow's quantisers followed by its own k-means are a stricter witness:
where they are better is printed, and is no failure.

Sizes compare PNG writers on the same palettes and pixels: ours, Pillow's (optimize) and oxipng's
(level 6). Times are CPU seconds of this process on one core: the quicker of two runs, but one run
for Pillow, whose k-means takes long.

    python -m benchmarks.palettes --data ../shared/data/kodak --out results/palettes.csv
"""

from __future__ import annotations

import argparse
import csv
import gc
import io
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage

from benchmarks.environment import write_environment
from imagecompression import Image, KMeans
from imagecompression.image_io import read_image
from imagecompression.palette import ColorHistogram

COLORS = (16, 64, 256)
PILLOW_METHODS = {
    "median_cut": PilImage.Quantize.MEDIANCUT,
    "max_coverage": PilImage.Quantize.MAXCOVERAGE,
    "fast_octree": PilImage.Quantize.FASTOCTREE,
}
PILLOW = tuple(f"pillow_{name}{tail}" for tail in ("", "_kmeans") for name in PILLOW_METHODS)
SECONDS_PER_MEGAPIXEL = 1.0


def mse(image: Image, shown: npt.NDArray[np.uint8]) -> float:
    """Mean squared error over all samples."""
    difference = image.astype(np.int32) - shown
    return float((difference * difference).mean())


def pillow_quantized(image: Image, colors: int, name: str) -> Image:
    """The picture after one of `PILLOW`, without dithering."""
    rounds = int(name.endswith("_kmeans"))
    method = PILLOW_METHODS[name.removeprefix("pillow_").removesuffix("_kmeans")]
    quantized = PilImage.fromarray(image).quantize(
        colors, method=method, kmeans=rounds, dither=PilImage.Dither.NONE
    )
    return np.array(quantized.convert("RGB"))


def imagequant_quantized(image: Image, colors: int) -> Image:
    """The picture after libimagequant at its default speed, without dithering."""
    import imagequant

    height, width = image.shape[:2]
    opaque = np.dstack([image, np.full((height, width), 255, np.uint8)])
    indices, palette = imagequant.quantize_raw_rgba_bytes(
        opaque.tobytes(), width, height, dithering_level=0.0, max_colors=colors
    )
    entries = np.array(palette, np.uint8).reshape(-1, 4)[:, :3]
    return entries[np.frombuffer(indices, np.uint8)].reshape(image.shape)


def seconds(work: Callable[[], Any], runs: int = 2) -> float:
    """CPU seconds of the quickest run."""
    took = []
    for _ in range(runs):
        gc.collect()
        begin = time.process_time()
        work()
        took.append(time.process_time() - begin)
    return min(took)


def quality_row(path: Path, colors: int) -> dict[str, Any]:
    """Errors and sizes on one picture."""
    import oxipng

    image = read_image(path)
    data = KMeans(colors=colors).encode(image)
    row: dict[str, Any] = {
        "kind": "quality",
        "picture": path.name,
        "colors": colors,
        "kmeans_mse": mse(image, KMeans.decode(data)),
        "imagequant_mse": mse(image, imagequant_quantized(image, colors)),
    }
    for name in PILLOW:
        row[f"{name}_mse"] = mse(image, pillow_quantized(image, colors, name))
    with PilImage.open(io.BytesIO(data)) as picture:
        out = io.BytesIO()
        picture.save(out, "PNG", optimize=True)
    row["kmeans_bytes"], row["pillow_bytes"] = len(data), len(out.getvalue())
    row["oxipng_bytes"] = len(
        oxipng.optimize_from_memory(
            out.getvalue(),
            level=6,
            deflate=oxipng.Deflaters.libdeflater(12),
        )
    )
    return row


def time_row(name: str, image: Image, colors: int) -> dict[str, Any]:
    """CPU seconds for a picture of one megapixel."""
    codec = KMeans(colors=colors)

    histogram = ColorHistogram.of(image)
    palette = codec.palette(histogram)
    data = codec.encode_with_palette(image, histogram, palette)
    return {
        "kind": "time",
        "picture": name,
        "colors": colors,
        "kmeans_seconds": seconds(lambda: codec.encode(image)),
        "kmeans_palette_seconds": seconds(lambda: codec.palette(ColorHistogram.of(image))),
        "kmeans_png_seconds": seconds(lambda: codec.encode_with_palette(image, histogram, palette)),
        "kmeans_decode_seconds": seconds(lambda: codec.decode(data)),
        "kmeans_dithered_seconds": seconds(lambda: KMeans(colors, dithering=1.0).encode(image)),
        "imagequant_seconds": seconds(lambda: imagequant_quantized(image, colors)),
        **{
            f"{way}_seconds": seconds(partial(pillow_quantized, image, colors, way), 1)
            for way in PILLOW
        },
    }


def mosaics(paths: list[Path]) -> list[tuple[str, Image]]:
    """1000×1000 pixels from the middle of each four landscape pictures laid two by two."""
    pictures = [read_image(path) for path in paths]
    pictures = [p if p.shape[1] > p.shape[0] else np.rot90(p) for p in pictures]
    result = []
    for first in range(0, len(pictures) - 3, 4):
        a, b, c, d = pictures[first : first + 4]
        whole = np.vstack([np.hstack([a, b]), np.hstack([c, d])])
        top, left = (whole.shape[0] - 1000) // 2, (whole.shape[1] - 1000) // 2
        name = f"{paths[first].stem}-{paths[first + 3].stem}"
        result.append((name, np.ascontiguousarray(whole[top : top + 1000, left : left + 1000])))
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/kodak"))
    parser.add_argument("--out", type=Path, default=Path("results/palettes.csv"))
    arguments = parser.parse_args()
    paths = sorted(arguments.data.glob("*.png"))
    if len(paths) < 4:
        parser.error(f"at least four PNG pictures are needed in {arguments.data}")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = []
    for path in paths:
        rows += [quality_row(path, colors) for colors in COLORS]
        print(path.name, file=sys.stderr)
    for name, image in mosaics(paths):
        rows += [time_row(name, image, colors) for colors in COLORS]
        print(name, file=sys.stderr)

    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    fields = list(dict.fromkeys(field for row in rows for field in row))
    with arguments.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    write_environment(arguments.out)

    missed: list[str] = []
    stricter: list[str] = []
    for colors in COLORS:
        own = [row for row in rows if row["colors"] == colors]
        quality = [row for row in own if row["kind"] == "quality"]
        timed = [row for row in own if row["kind"] == "time"]
        print(f"\n{colors} colours: mean of the mean squared errors, seconds for a megapixel")
        for name in ("kmeans", "imagequant", *PILLOW):
            error = np.mean([row[f"{name}_mse"] for row in quality])
            took = np.mean([row[f"{name}_seconds"] for row in timed])
            print(f"  {name:28} {error:8.2f} {took:8.3f}")
            worse = [row["picture"] for row in quality if row["kmeans_mse"] > row[f"{name}_mse"]]
            line = f"{colors} colours: worse than {name} on {', '.join(worse)}"
            if name in PILLOW and worse:
                (stricter if name.endswith("_kmeans") else missed).append(line)
        for part in ("palette", "png", "decode", "dithered"):
            took = np.mean([row[f"kmeans_{part}_seconds"] for row in timed])
            print(f"  {'kmeans ' + part:28} {'':8} {took:8.3f}")
        sizes = {
            name: int(np.mean([row[f"{name}_bytes"] for row in quality]))
            for name in ("kmeans", "pillow", "oxipng")
        }
        print(f"  bytes of the same pixels: {sizes}")
        ours, theirs = (
            float(np.mean([row[f"{name}_mse"] for row in quality]))
            for name in ("kmeans", "imagequant")
        )
        if ours > theirs:
            missed.append(f"{colors} colours: mean error {ours:.3f}, libimagequant's {theirs:.3f}")
        slowest = max(row["kmeans_seconds"] for row in timed)
        print(f"  slowest megapixel {slowest:.3f} s")
        if slowest > SECONDS_PER_MEGAPIXEL:
            missed.append(f"{colors} colours: a megapixel took {slowest:.3f} s")
    print("\nStricter witness:", *(stricter or ["never better"]), sep="\n  ")
    for line in missed:
        print("MISSED", line, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
