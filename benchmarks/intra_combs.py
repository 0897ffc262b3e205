"""How often the combs of HEVC's and AV1's predictions are found, and where there are none.

Each picture through each codec, as it is less a few rows and columns, and squares cut out of that
anywhere. The limits of `imagecompression.evidence.intra_comb` were set on the training photographs.

    python -m benchmarks.intra_combs --data ../shared/data --out results/intra_combs.csv
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np

from benchmarks.environment import write_environment, write_table
from benchmarks.progress import log
from benchmarks.source_pictures import pictures_in
from imagecompression import (
    Avif,
    Bpg,
    Codec,
    Heic,
    Image,
    Jpeg,
    Jpeg2000,
    JpegXl,
    JpegXr,
    KMeans,
    Svd,
    WebP,
)
from imagecompression.evidence.hevc_intra import HEVC
from imagecompression.evidence.intra_comb import PERIOD, intra_combs
from imagecompression.evidence.jpeg_history import windows_of
from imagecompression.image_io import read_image
from imagecompression.thread_limit import one_thread

CUT = (3, 6)
"""Rows and columns cut off before the first."""

SQUARES = (224, 64)
"""Sides of squares, in pixels."""

PIXELS = 1 << 19
"""Looked at, as `pixel_evidence` does."""

CODECS: dict[str, tuple[str | None, Codec | None]] = {
    "uncompressed": (None, None),
    **{f"bpg {qp}": (HEVC, Bpg(qp=qp, bit_depth=8)) for qp in (8, 14, 20, 26, 32)},
    "bpg 20, 10 bit": (HEVC, Bpg(qp=20, bit_depth=10)),
    "bpg 20, 4:4:4": (HEVC, Bpg(qp=20, bit_depth=8, subsampling="4:4:4")),
    **{f"heic {quality}": (HEVC, Heic(quality=quality)) for quality in (85, 70, 55, 40)},
    **{
        f"avif {quality}, {tune}": ("avif", Avif(quality=quality, tune=tune))
        for tune in ("psnr", "ssim", "iq")
        for quality in (90, 75, 60)
    },
    **{f"jpeg {quality}": (None, Jpeg(quality=quality)) for quality in (95, 75, 30)},
    "jpeg2000 10:1": (None, Jpeg2000(ratio=10)),
    "jpegxr 60": (None, JpegXr(quality=60)),
    **{f"webp {quality}": (None, WebP(quality=quality)) for quality in (95, 75)},
    "jpegxl 1": (None, JpegXl(distance=1.0)),
    "svd 5": (None, Svd(step=5)),
    "svd 40": (None, Svd(step=40)),
    "kmeans 64": (None, KMeans(colors=64)),
}  # fmt: skip
"""The opinion that is right, and what a picture went through, by name."""


def rows_of(path: Path, seed: int) -> list[dict]:
    """What is found of one picture."""
    random = np.random.default_rng(seed)
    whole = read_image(path)
    found = []
    for name, (right, codec) in CODECS.items():
        decoded = whole if codec is None else codec.decode(codec.encode(whole))
        decoded = decoded[CUT[0] :, CUT[1] :]
        for side in (None, *SQUARES):
            top, left = 0, 0
            seen = decoded
            if side is not None:
                top, left = (int(random.integers(0, one - side)) for one in decoded.shape[:2])
                seen = decoded[top : top + side, left : left + side]
            grid = tuple(-(cut + one) % PERIOD for cut, one in zip(CUT, (top, left), strict=True))
            found.append({"codec": name, "side": side or "whole"} | judged(seen, right, grid))
    return found


def judged(image: Image, right: str | None, grid: tuple[int, ...]) -> dict:
    """Whether a comb is found where there is one, on its grid, and what else is."""
    with one_thread():
        combs = intra_combs(list(windows_of(image, PIXELS, multiple=16)))
    decisive = [comb for comb in combs if comb.decisive]
    return {
        "found": any(comb.opinion == right for comb in decisive),
        "on its grid": any(
            comb.opinion == right and (comb.row, comb.column) == grid for comb in decisive
        ),
        "false": any(comb.opinion != right for comb in decisive),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("results/intra_combs.csv"))
    parser.add_argument("--folders", default="kodak")
    parser.add_argument("--pictures", type=int, help="of each folder; all if left out")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    files = [
        path
        for folder in arguments.folders.split(",")
        for path in pictures_in(arguments.data / folder)[: arguments.pictures]
    ]
    found: list[dict] = []
    with Pool(arguments.processes) as pool:
        for done, rows in enumerate(pool.imap(partial(rows_of, seed=1), files), start=1):
            found += rows
            log("pictures", done, len(files))
    groups: dict[tuple, list[dict]] = {}
    for row in found:
        groups.setdefault((row["codec"], row["side"]), []).append(row)
    table = [
        {"codec": codec, "side": side, "n": len(rows)}
        | {key: sum(row[key] for row in rows) for key in ("found", "on its grid", "false")}
        for (codec, side), rows in groups.items()
    ]
    write_table(arguments.out, table)
    write_environment(arguments.out)
    for row in table:
        text = "{codec:16} {side!s:>5}: found in {found} of {n}, on its grid {on its grid}, "
        print((text + "false {false}").format(**row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
