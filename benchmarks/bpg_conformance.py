"""Does our BPG decoder agree with the reference decoder, and read other people's files?

Decodes files of the reference encoder bpgenc 0.9.8 in every mode and compares the colours with
the reference decoder's, then decodes BPG files that other people's encoders made of six known
pictures. Prints a table, writes a CSV file and the tools' versions beside it, and exits with 1
when a required figure is missed.

    python -m benchmarks.bpg_conformance --data ../shared/data
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage

from benchmarks.environment import write_environment
from imagecompression.bpg import Bpg
from imagecompression.codec import CodecError, Image

MODE_FILES = 23
FOREIGN_FILES = 24
LOWEST_PSNR_DB = {"large": 28.0, "small": 24.0}
LARGEST_DIFFERENCE = 1


@dataclass(frozen=True)
class Row:
    """One line of the table; figures that a kind of file does not have are None.

    Attributes:
        kind: ``"mode"``, ``"demo"`` or ``"foreign"``.
        file: File name.
        status: ``"ok"``, or what is wrong.
        width: Pixels, of the decoded picture.
        height: Pixels, of the decoded picture.
        max_difference: Largest absolute difference of a sample from the reference decoder's.
        equal_pixels: Share of pixels, 0 … 1, that equal the reference decoder's.
        luma_psnr_db: PSNR of BT.601 luma against the source, in dB.
        decode_seconds: Wall-clock time.
    """

    kind: str
    file: str
    status: str
    width: int | None = None
    height: int | None = None
    max_difference: int | None = None
    equal_pixels: float | None = None
    luma_psnr_db: float | None = None
    decode_seconds: float | None = None


def read_colors(path: Path) -> Image:
    """Colours of a PNG as `uint8` `(H, W, 3)`, without its alpha."""
    with PilImage.open(path) as picture:
        if picture.mode == "RGBA":
            # Not convert("RGB"): the colours of transparent pixels count too, as they are stored.
            return np.array(picture)[..., :3]
        return np.array(picture.convert("RGB"))


def luma(image: Image) -> npt.NDArray[np.float64]:
    """BT.601 luma `(H, W)`, 0 … 255, of an RGB or a gray image."""
    return image @ [0.299, 0.587, 0.114] if image.ndim == 3 else image.astype(np.float64)


def decode(path: Path) -> tuple[Image, float]:
    """The decoded picture and the seconds it took."""
    data = path.read_bytes()
    started = time.perf_counter()
    image = Bpg.decode(data)
    return image, time.perf_counter() - started


def compare_with_reference(kind: str, path: Path) -> Row:
    """Decode a file of the reference encoder and compare with the reference decoder's PNG."""
    try:
        image, seconds = decode(path)
    except CodecError as error:
        return Row(kind, path.name, f"not decoded: {error}")
    reference = read_colors(path.with_suffix(".reference.png"))
    # The reference decoder writes a gray picture as RGB.
    colors = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    height, width = image.shape[:2]
    if colors.shape != reference.shape:
        return Row(kind, path.name, f"reference has shape {reference.shape}", width, height)
    difference = np.abs(colors.astype(int) - reference)
    largest = int(difference.max())
    return Row(
        kind,
        path.name,
        "ok" if largest <= LARGEST_DIFFERENCE else "differs",
        width,
        height,
        max_difference=largest,
        equal_pixels=round(float((difference.max(axis=2) == 0).mean()), 6),
        decode_seconds=round(seconds, 4),
    )


def compare_with_source(path: Path) -> Row:
    """Decode a foreign file and compare its luma with the picture it was made of."""
    try:
        image, seconds = decode(path)
    except CodecError as error:
        return Row("foreign", path.name, f"not decoded: {error}")
    name, size = path.stem.rsplit("-", 2)[:2]
    source = read_colors(path.with_name(f"{name}-original.png"))
    height, width = image.shape[:2]
    if source.shape[:2] != (height, width):
        status = f"source has {source.shape[1]}×{source.shape[0]} pixels"
        return Row("foreign", path.name, status, width, height, decode_seconds=round(seconds, 4))
    squared_error = float(np.mean((luma(image) - luma(source)) ** 2))
    psnr_db = 10 * float(np.log10(255**2 / squared_error)) if squared_error else float("inf")
    lowest = LOWEST_PSNR_DB[size]
    return Row(
        "foreign",
        path.name,
        "ok" if psnr_db > lowest else f"luma PSNR is not over {lowest} dB",
        width,
        height,
        luma_psnr_db=round(psnr_db, 2),
        decode_seconds=round(seconds, 4),
    )


def run(data: Path) -> list[Row]:
    """All rows: modes, demonstration files, foreign files."""
    rows = [
        compare_with_reference("mode", path) for path in sorted((data / "bpg/modes").glob("*.bpg"))
    ]
    rows += [compare_with_reference("demo", path) for path in sorted((data / "bpg").glob("*.bpg"))]
    rows += [compare_with_source(path) for path in sorted((data / "foreign").glob("*-x265*.bpg"))]
    return rows


def print_table(rows: list[Row]) -> None:
    """One line a file; a figure that does not apply is a dash."""
    print(f"{'file':<32}{'size':>11}{'max diff':>10}{'equal':>10}{'luma dB':>9}{'ms':>7}  status")
    for row in rows:
        size = f"{row.width}×{row.height}" if row.width else "-"
        equal = "-" if row.equal_pixels is None else f"{row.equal_pixels:.4%}"
        largest = "-" if row.max_difference is None else row.max_difference
        psnr_db = "-" if row.luma_psnr_db is None else f"{row.luma_psnr_db:.2f}"
        milliseconds = "-" if row.decode_seconds is None else f"{1000 * row.decode_seconds:.0f}"
        print(
            f"{row.file:<32}{size:>11}{largest:>10}{equal:>10}{psnr_db:>9}{milliseconds:>7}"
            f"  {row.status}"
        )


def failures(rows: list[Row]) -> list[str]:
    """What is missed of the required figures, one sentence each."""
    missed = [f"{row.file}: {row.status}" for row in rows if row.status != "ok"]
    for kind, required in (("mode", MODE_FILES), ("demo", 2), ("foreign", FOREIGN_FILES)):
        found = sum(row.kind == kind for row in rows)
        if found != required:
            missed.append(f"{required} {kind} files are required. Received: {found}")
    return missed


def main() -> int:
    """Run, print, write; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("results/bpg_conformance.csv"))
    arguments = parser.parse_args()
    Bpg.version()  # loads FFmpeg, which must not count as decoding time
    rows = run(arguments.data)
    print_table(rows)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    write_environment(arguments.out)
    missed = failures(rows)
    exact = sum(row.max_difference == 0 for row in rows)
    print(f"\n{exact} files equal the reference decoder's output exactly; {Bpg.version()}")
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
