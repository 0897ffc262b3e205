"""Photographs in screenshots: how often the codec is named, and whether the photograph is found.

Each picture goes through a setting of each class, and is judged as it is; then in a window that is
drawn around it with a bar, a list and text, at its own size and enlarged, as browsers show
pictures. Windows without a photograph are judged too. The limits of
`imagecompression.evidence.inset` were set on training and validation photographs, and windows of
other looks.

    python -m benchmarks.screenshots --data ../shared/data --pictures 8
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image as PilImage
from PIL import ImageDraw

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
from imagecompression.evidence.inset import Inset, find_inset
from imagecompression.image_io import read_image
from train.classification import DEFAULT_RUN, classify
from train.families import family_of
from train.run import Run

CODECS: dict[str, Codec | None] = {
    "uncompressed": None, "jpeg": Jpeg(quality=80), "jpeg2000": Jpeg2000(ratio=15),
    "jpegxr": JpegXr(quality=60), "bpg": Bpg(qp=26), "svd": Svd(step=20), "kmeans": KMeans(),
    "webp": WebP(quality=75), "avif": Avif(quality=60), "jpegxl": JpegXl(distance=1.5),
}  # fmt: skip
SHOWN = {"as it is": None, "in a window": 1.0, "in a window, enlarged by 1.25": 1.25}
TOP, LEFT = 93, 214
PICTURE = (448, 576)
"""Height and width of the middle of a picture that is shown, at most."""

WINDOWS = 8


def window(photograph: Image | None, seed: int) -> Image:
    """A program's window around a photograph."""
    height, width = (0, 600) if photograph is None else photograph.shape[:2]
    screen = PilImage.new("RGB", (LEFT + width + 180, TOP + height + 320), (250, 250, 250))
    draw, random = ImageDraw.Draw(screen), np.random.default_rng(seed)
    draw.rectangle((0, 0, screen.width, 36), fill=(38, 50, 64))
    for place in range(6):
        draw.rounded_rectangle((14 + 44 * place, 8, 46 + 44 * place, 28), 6, fill=(90, 120, 160))
    draw.rectangle((0, 37, LEFT - 24, screen.height), fill=(228, 232, 236))
    for line in range(50, screen.height, 22):
        draw.text((16, line), words(random, 3), fill=(50, 54, 60))
    draw.text((LEFT, 50), words(random, 6), fill=(0, 0, 0), font_size=20)
    for line in range(TOP + height + 14, screen.height, 17):
        draw.text((LEFT, line), words(random, 14), fill=(20, 20, 20), font_size=12)
    if photograph is not None:
        screen.paste(PilImage.fromarray(photograph), (LEFT, TOP))
    return np.asarray(screen)


def words(random: np.random.Generator, count: int) -> str:
    """Words of random letters."""
    letters = random.integers(ord("a"), ord("z") + 1, (count, 6))
    return " ".join("".join(map(chr, word)) for word in letters)


def judged(pictures: list[Path], run: Run) -> Iterator[dict[str, object]]:
    """A row for each picture, class and way of showing it."""
    for number, path in enumerate(pictures):
        image = np.asarray(PilImage.fromarray(read_image(path)).convert("RGB"))
        top, left = (
            max(0, side - most) // 2 for side, most in zip(image.shape[:2], PICTURE, strict=True)
        )
        image = np.ascontiguousarray(image[top : top + PICTURE[0], left : left + PICTURE[1]])
        for label, codec in CODECS.items():
            decoded = image if codec is None else codec.decode(codec.encode(image))
            for shown, factor in SHOWN.items():
                picture, found = decoded, None
                if factor is not None:
                    height, width = (round(side * factor) for side in decoded.shape[:2])
                    large = PilImage.fromarray(decoded).resize(
                        (width, height), PilImage.Resampling.BILINEAR
                    )
                    picture = window(np.asarray(large), number)
                    found = find_inset(picture) == Inset(TOP, LEFT, height, width)
                verdict = classify(picture, run)
                family = verdict.status == "named" and verdict.family == family_of(label)
                yield {
                    "class": label, "shown": shown, "found": found,
                    "right": verdict.answer == label, "family": family,
                }  # fmt: skip
        log("pictures", number + 1, len(pictures))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--run", type=Path, default=DEFAULT_RUN)
    parser.add_argument("--out", type=Path, default=Path("results/screenshots.csv"))
    parser.add_argument("--pictures", type=int, help="the first so many; all if left out")
    arguments = parser.parse_args()
    run = Run.load(arguments.run)
    rows = list(judged(pictures_in(arguments.data / "kodak")[: arguments.pictures], run))
    table: list[dict[str, object]] = []
    for shown in SHOWN:
        for label in (*CODECS, "all"):
            some = [r for r in rows if r["shown"] == shown and label in (r["class"], "all")]
            shares = {
                name: np.mean([bool(row[name]) for row in some]) for name in ("right", "family")
            }
            place = np.mean([bool(row["found"]) for row in some])
            table.append(
                {"shown": shown, "class": label, "n": len(some)}
                | {name: round(float(share), 4) for name, share in shares.items()}
                | {"place found": None if SHOWN[shown] is None else round(float(place), 4)}
            )
    named = [classify(window(None, seed), run).status == "named" for seed in range(WINDOWS)]
    table.append(
        {"shown": "no photograph", "class": "none", "n": WINDOWS, "right": 1 - np.mean(named)}
    )
    write_table(arguments.out, table)
    write_environment(arguments.out)
    for row in table:
        if row["class"] in ("all", "none"):
            print(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
