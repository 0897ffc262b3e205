"""Enlargements: how often their size is found, and how often one is seen where there is none.

Each picture, as it is and through codecs, is enlarged by factors with Pillow's and OpenCV's
interpolations, and by those of displays cropped too, as a piece of a screen is; and each picture
through codecs, cropped, blurred and reduced is looked at without.
The limits of `imagecompression.evidence.enlargement` were set on the training photographs.

    python -m benchmarks.enlargements --data ../shared/data --out results/enlargements.csv
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as PilImage

from benchmarks.environment import write_environment, write_table
from benchmarks.progress import log
from benchmarks.source_pictures import pictures_in
from imagecompression import (
    Avif,
    Bpg,
    Codec,
    Image,
    Jpeg,
    Jpeg2000,
    JpegXl,
    JpegXr,
    KMeans,
    Svd,
    WebP,
)
from imagecompression.evidence.enlargement import before_enlargement
from imagecompression.image_io import read_image

CROPPED_FACTORS = (1.25, 1.5, 2.0)
CROP = (7, 11)
"""Rows and columns cut off before the first; as many, and one more, after the last."""

FACTORS = (1.05, 1.1, 1.25, 1.33, 1.5, 2.0, 3.0)
PILLOW = {
    f"Pillow {name}": PilImage.Resampling[name.upper()]
    for name in ("nearest", "bilinear", "bicubic", "lanczos")
}
OPENCV = {"OpenCV linear": cv2.INTER_LINEAR, "OpenCV cubic": cv2.INTER_CUBIC}
BEFORE: dict[str, Codec | None] = {
    "uncompressed": None, "jpeg 75": Jpeg(quality=75), "jpeg 30": Jpeg(quality=30),
}  # fmt: skip
AFTER: dict[str, Codec] = {
    **{f"jpeg {quality}": Jpeg(quality=quality) for quality in (3, 8, 15, 30, 60, 90)},
    **{f"jpeg2000 {ratio}:1": Jpeg2000(ratio=ratio) for ratio in (10, 60, 250)},
    "jpegxr 20": JpegXr(quality=20), "bpg 45": Bpg(qp=45), "bpg 30": Bpg(qp=30),
    "webp 5": WebP(quality=5), "webp 40": WebP(quality=40), "avif 20": Avif(quality=20),
    "jpegxl 4": JpegXl(distance=4.0), "svd 10": Svd(rank=10), "kmeans 16": KMeans(colors=16),
}  # fmt: skip
LEAST_SIDE = 64
MOST_PIXELS = 768 * 512
"""Larger pictures are cropped, so that enlargements by three stay at hand."""


def scaled(image: Image, factor: float, interpolation: str) -> Image:
    """A picture enlarged."""
    height, width = (round(side * factor) for side in image.shape[:2])
    if interpolation in PILLOW:
        return np.asarray(PilImage.fromarray(image).resize((width, height), PILLOW[interpolation]))
    return cv2.resize(image, (width, height), interpolation=OPENCV[interpolation])


def through(codec: Codec | None, image: Image) -> Image:
    """A picture through a codec."""
    return image if codec is None else codec.decode(codec.encode(image))


def found_rows(image: Image) -> Iterator[dict]:
    """What is found of one picture's enlargements, whole and cropped."""
    shown = [(factor, (0, 0)) for factor in FACTORS] + [(one, CROP) for one in CROPPED_FACTORS]
    for before, codec in BEFORE.items():
        decoded = through(codec, image)
        for factor, (top, left) in shown:
            for interpolation in (*PILLOW, *OPENCV):
                large = scaled(decoded, factor, interpolation)
                if top:
                    large = np.ascontiguousarray(large[top : -top - 1, left : -left - 1])
                small, seen = before_enlargement(large, LEAST_SIDE)
                rows, columns = (
                    slice(first := math.ceil(cut / factor - 0.5), first + side)
                    for cut, side in zip((top, left), small.shape[:2], strict=True)
                )
                there = decoded[rows, columns]
                right = seen is not None and math.isclose(seen.factor, factor, rel_tol=2e-3)
                right &= small.shape == (there if top else decoded).shape
                error = np.abs(small.astype(int) - there).mean() if right else np.nan
                yield {
                    "picture": before, "enlarged": factor, "seen": "crop" if top else "whole",
                    "by": interpolation, "found": right,
                    "elsewhere": seen is not None and not right, "error": error,
                }  # fmt: skip


def other_pictures(image: Image) -> Iterator[tuple[str, Image]]:
    """A picture in ways that are no enlargement, or of which none can be told."""
    yield "as it is", image
    yield "blurred", cv2.GaussianBlur(image, (0, 0), 1.5)
    height, width = image.shape[:2]
    yield (
        "reduced",
        np.asarray(
            PilImage.fromarray(image).resize(
                (round(0.7 * width), round(0.7 * height)), PilImage.Resampling.LANCZOS
            )
        ),
    )
    larger = scaled(image, 1.37, "Pillow bicubic")
    yield "enlarged by 1.37 and cropped", larger[5:, 9:]
    yield "enlarged, then jpeg 95", through(Jpeg(quality=95), larger)
    for name, codec in AFTER.items():
        yield name, through(codec, image)


def summed(rows: list[dict], keys: tuple[str, ...]) -> list[dict]:
    """Shares and means of rows that agree in `keys`."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    found = []
    for group, members in groups.items():
        errors = [row["error"] for row in members if row["found"]]
        found.append(
            dict(zip(keys, group, strict=True))
            | {
                "n": len(members),
                "found": round(float(np.mean([row["found"] for row in members])), 4),
                "elsewhere": round(float(np.mean([row["elsewhere"] for row in members])), 4),
                "mean_error": round(float(np.mean(errors)), 3) if errors else None,
            }
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("results/enlargements.csv"))
    parser.add_argument("--folders", default="kodak")
    parser.add_argument("--pictures", type=int, help="of each folder; all if left out")
    arguments = parser.parse_args()
    found: list[dict] = []
    for folder in arguments.folders.split(","):
        files = pictures_in(arguments.data / folder)[: arguments.pictures]
        for done, path in enumerate(files, start=1):
            whole = read_image(path)
            image = whole if whole.size // 3 <= MOST_PIXELS else whole[:512, :768]
            found += [{"folder": folder} | row for row in found_rows(image)]
            for name, other in other_pictures(image):
                seen = before_enlargement(other, LEAST_SIDE)[1]
                found.append(
                    {
                        "folder": folder, "picture": name,
                        "enlarged": None, "seen": None, "by": None,
                        "found": False, "elsewhere": seen is not None, "error": np.nan,
                    }
                )  # fmt: skip
            log("pictures", done, len(files))
    rows = summed(found, ("folder", "picture", "enlarged", "seen", "by"))
    write_table(arguments.out, rows)
    write_environment(arguments.out)
    enlarged = [row for row in found if row["enlarged"]]
    for row in summed(enlarged, ("picture", "enlarged", "seen")):
        text = "{picture:14} enlarged by {enlarged:4}, {seen}: size found {found:6.1%} of {n}"
        print(text.format(**row))
    others = [row for row in found if not row["enlarged"]]
    seen = sum(row["elsewhere"] for row in others)
    print(f"an enlargement seen in {seen} of {len(others)} pictures without one that can be told")
    return 0


if __name__ == "__main__":
    sys.exit(main())
