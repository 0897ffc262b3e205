"""Does our BPG decoder agree with the reference decoder, and read other people's files?

Decodes files of the reference encoder bpgenc 0.9.8 in every mode and compares colours and alpha
with the reference decoder's, then decodes BPG files that other people's encoders made of six known
pictures. As the mode files show one picture, and one of them is lossless, the planes that we would
code of it are compared with those that bpgenc coded: ours at the file's settings must come nearer
than ours at any other color space, range or chroma siting. Prints a table, writes a CSV file and
the tools' versions beside it, and exits with 1 when a required figure is missed.

    python -m benchmarks.bpg_conformance --data ../shared/data
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage

from benchmarks.environment import write_environment, write_table
from imagecompression.bpg import Bpg, coded_planes, decode_planes
from imagecompression.bpg_container import CHROMA_FORMAT_IDC, parse_bpg
from imagecompression.codec import CodecError, Extras, Image
from imagecompression.ycbcr import ColorSpace, Plane

MODE_FILES = 23
FOREIGN_FILES = 24
LOWEST_PSNR_DB = {"large": 28.0, "small": 24.0}
EXTRAS = {"alpha.bpg": "alpha", "premul.bpg": "alpha", "exif.bpg": "exif", "clock.bpg": "alpha"}
"""What goes along with the colours; nothing in all other files. None has an ICC profile or XMP."""

LOSSLESS = "ll.bpg"
OTHER_COLORS = ("gray.bpg", "premul.bpg")
"""Mode files whose planes are not those of the lossless file's colours."""


@dataclass(frozen=True)
class Row:
    """One line of the table; figures that a kind of file does not have are None.

    Attributes:
        kind: ``"mode"``, ``"demo"``, ``"planes"`` or ``"foreign"``.
        file: File name.
        status: ``"ok"``, or what is wrong.
        width: Pixels, of the decoded picture.
        height: Pixels, of the decoded picture.
        extras: What was found beside the colours.
        max_difference: Largest absolute difference of a sample from the reference decoder's.
        equal_pixels: Share of pixels, 0 … 1, that equal the reference decoder's.
        planes_psnr_db: PSNR of the planes that we would code against the coded ones, in dB.
        other_planes_psnr_db: The same at the best of all other settings.
        luma_psnr_db: PSNR of BT.601 luma against the source, in dB.
        decode_seconds: Wall-clock time.
    """

    kind: str
    file: str
    status: str
    width: int | None = None
    height: int | None = None
    extras: str | None = None
    max_difference: int | None = None
    equal_pixels: float | None = None
    planes_psnr_db: float | None = None
    other_planes_psnr_db: float | None = None
    luma_psnr_db: float | None = None
    decode_seconds: float | None = None


def luma(image: Image) -> npt.NDArray[np.float64]:
    """BT.601 luma `(H, W)`, 0 … 255, of an RGB or a gray image."""
    return image @ [0.299, 0.587, 0.114] if image.ndim == 3 else image.astype(np.float64)


def decode(path: Path) -> tuple[Image, Extras, float]:
    """The decoded picture, what goes along with it, and the seconds it took."""
    data = path.read_bytes()
    started = time.perf_counter()
    image, extras = Bpg.decode_with(data)
    return image, extras, time.perf_counter() - started


def read_samples(path: Path) -> Image:
    """Samples of a PNG as `uint8` `(H, W, 3)`, or `(H, W, 4)` with alpha, as they are stored."""
    with PilImage.open(path) as picture:
        return np.array(picture if picture.mode == "RGBA" else picture.convert("RGB"))


def compare_with_reference(kind: str, path: Path) -> Row:
    """Decode a file of the reference encoder and compare with the reference decoder's PNG."""
    try:
        image, extras, seconds = decode(path)
    except CodecError as error:
        return Row(kind, path.name, f"not decoded: {error}")
    reference = read_samples(path.with_suffix(".reference.png"))
    # The reference decoder writes a gray picture as RGB.
    samples = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    if extras.alpha is not None:
        samples = np.dstack([samples, extras.alpha])
    height, width = image.shape[:2]
    held = " ".join(extras.held())
    if samples.shape != reference.shape:
        status = f"reference has shape {reference.shape}"
        return Row(kind, path.name, status, width, height, held)
    difference = np.abs(samples.astype(int) - reference)
    largest = int(difference.max())
    status = "ok" if held == EXTRAS.get(path.name, "") else "other extras than expected"
    return Row(
        kind,
        path.name,
        status if largest == 0 else "differs",
        width,
        height,
        held,
        max_difference=largest,
        equal_pixels=round(float((difference.max(axis=2) == 0).mean()), 6),
        decode_seconds=round(seconds, 4),
    )


def planes_psnr(planes: list[Plane], others: list[Plane], bit_depth: int) -> float:
    """PSNR in dB over the mean of the planes' squared errors."""
    errors = [np.mean((a.astype(float) - b) ** 2) for a, b in zip(planes, others, strict=True)]
    error = float(np.mean(errors))
    return 10 * float(np.log10((2**bit_depth - 1) ** 2 / error)) if error else float("inf")


def compare_planes(path: Path, source: Image) -> Row:
    """Compare the planes of a file with those that we would code of `source`, its picture."""
    file = parse_bpg(path.read_bytes())
    coded = decode_planes(file)
    own, best_other = 0.0, 0.0
    for pixel_format, color_space, limited_range in itertools.product(
        range(1, 6), ColorSpace, (False, True)
    ):
        if CHROMA_FORMAT_IDC[pixel_format] != CHROMA_FORMAT_IDC[file.pixel_format]:
            continue
        planes = coded_planes(
            source, file.bit_depth, pixel_format, color_space, limited_range=limited_range
        )
        psnr_db = planes_psnr(planes, coded, file.bit_depth)
        setting = (pixel_format, color_space, limited_range)
        if setting == (file.pixel_format, file.color_space, file.limited_range):
            own = psnr_db
        else:
            best_other = max(best_other, psnr_db)
    return Row(
        "planes",
        path.name,
        "ok" if own > best_other else "other settings come nearer",
        file.width,
        file.height,
        planes_psnr_db=round(own, 2),
        other_planes_psnr_db=round(best_other, 2),
    )


def compare_with_source(path: Path) -> Row:
    """Decode a foreign file and compare its luma with the picture it was made of."""
    try:
        image, _, seconds = decode(path)
    except CodecError as error:
        return Row("foreign", path.name, f"not decoded: {error}")
    name, size = path.stem.rsplit("-", 2)[:2]
    source = read_samples(path.with_name(f"{name}-original.png"))
    height, width = image.shape[:2]
    if source.shape[:2] != (height, width):
        status = f"source has {source.shape[1]}×{source.shape[0]} pixels"
        return Row("foreign", path.name, status, width, height, decode_seconds=round(seconds, 4))
    squared_error = float(np.mean((luma(image) - luma(source[..., :3])) ** 2))
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
    """All rows: modes, demonstration files, planes of the modes, foreign files."""
    modes = sorted((data / "bpg/modes").glob("*.bpg"))
    rows = [compare_with_reference("mode", path) for path in modes]
    rows += [compare_with_reference("demo", path) for path in sorted((data / "bpg").glob("*.bpg"))]
    source = Bpg.decode((data / "bpg/modes" / LOSSLESS).read_bytes())
    rows += [compare_planes(path, source) for path in modes if path.name not in OTHER_COLORS]
    rows += [compare_with_source(path) for path in sorted((data / "foreign").glob("*-x265*.bpg"))]
    return rows


def print_table(rows: list[Row]) -> None:
    """One line a file; a figure that does not apply is a dash."""
    print(
        f"{'file':<32}{'size':>11}{'extras':>8}{'max diff':>10}{'equal':>10}{'planes dB':>11}"
        f"{'others dB':>11}{'luma dB':>9}{'ms':>7}  status"
    )
    for row in rows:
        size = f"{row.width}×{row.height}" if row.width else "-"
        equal = "-" if row.equal_pixels is None else f"{row.equal_pixels:.4%}"
        largest = "-" if row.max_difference is None else row.max_difference
        own, other, luma_db = (
            "-" if value is None else f"{value:.2f}"
            for value in (row.planes_psnr_db, row.other_planes_psnr_db, row.luma_psnr_db)
        )
        milliseconds = "-" if row.decode_seconds is None else f"{1000 * row.decode_seconds:.0f}"
        print(
            f"{row.file:<32}{size:>11}{row.extras or '-':>8}{largest:>10}{equal:>10}{own:>11}"
            f"{other:>11}{luma_db:>9}{milliseconds:>7}  {row.status}"
        )


def failures(rows: list[Row]) -> list[str]:
    """What is missed of the required figures, one sentence each."""
    missed = [f"{row.file}: {row.status}" for row in rows if row.status != "ok"]
    required_files = {
        "mode": MODE_FILES,
        "demo": 2,
        "planes": MODE_FILES - len(OTHER_COLORS),
        "foreign": FOREIGN_FILES,
    }
    for kind, required in required_files.items():
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
    write_table(arguments.out, (asdict(row) for row in rows))
    write_environment(arguments.out)
    missed = failures(rows)
    exact = sum(row.max_difference == 0 for row in rows)
    nearest = sum(row.kind == "planes" and row.status == "ok" for row in rows)
    print(f"\n{exact} files equal the reference decoder's output exactly, alpha included; in")
    print(f"{nearest} files our planes are nearest at the file's settings; {Bpg.version()}")
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
