"""The page *Compare*: several codecs on one uploaded picture, as the command ``compare``."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from desk.app.compression import argument, command
from desk.app.picture_view import Window
from desk.app.settings import AppError
from desk.app.upload import Upload, decode, one_at_a_time
from imagecompression import CODECS, RatioTarget, codec_from_params
from imagecompression.codec import Image
from imagecompression.comparison import ComparisonPoint, compare_codecs, plot_rate_distortion

MAX_RATIOS = 8

HIGHEST_RATIO = 1000.0


@dataclass(frozen=True, eq=False)
class Compared:
    """What is kept of a comparison while its session lasts.

    Attributes:
        name: Of the picture.
        source: The picture.
        points: One for each codec and ratio, in this order; lossless codecs have one.
        ratios: What was asked.
        errors: (codec, error) for those that failed.
        plot: PNG of rate against distortion.
        command: The command line that does the same.
    """

    name: str
    source: Image
    points: list[ComparisonPoint]
    ratios: tuple[float, ...]
    errors: list[tuple[str, str]]
    plot: bytes
    command: str

    def rows(self) -> list[dict[str, Any]]:
        """The table: a row a point."""
        return [
            {
                "codec": point.codec,
                "bytes": point.bytes,
                "ratio": point.ratio,
                "bits per pixel": point.bits_per_pixel,
                "PSNR dB": point.psnr_db if math.isfinite(point.psnr_db) else None,
                "SSIM": point.ssim,
                "MS-SSIM": point.ms_ssim if math.isfinite(point.ms_ssim) else None,
                "encode s": point.encode_seconds,
                "decode s": point.decode_seconds,
                "reached": "yes" if point.reached else f"no: {point.reason}",
            }
            for point in self.points
        ]

    def nearest(self, ratio: float) -> list[ComparisonPoint]:
        """For each codec the point whose size is nearest to a ratio, lossless codecs left out."""
        lossy = [point for point in self.points if CODECS[point.codec].knob is not None]
        names = dict.fromkeys(point.codec for point in lossy)
        return [
            min(
                (point for point in lossy if point.codec == name),
                key=lambda point: abs(math.log(point.ratio / ratio)),
            )
            for name in names
        ]


def parse_ratios(text: str) -> tuple[float, ...]:
    """Ratios from a text with commas between them.

    >>> parse_ratios("10, 20")
    (10.0, 20.0)

    Raises:
        AppError: No number, a ratio outside of 1 to 1000, or more than `MAX_RATIOS`.
    """
    try:
        ratios = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        ratios = ()
    if not 0 < len(ratios) <= MAX_RATIOS or not all(1 <= r <= HIGHEST_RATIO for r in ratios):
        raise AppError(
            f"Give one to {MAX_RATIOS} ratios from 1 to {HIGHEST_RATIO:g} with commas between "
            f"them, such as 10,20,40. Received: {text[:100]!r}"
        )
    return ratios


def compare(
    upload: Upload,
    codecs: Sequence[str],
    ratios: tuple[float, ...],
    progress: Callable[[int, int], None] | None = None,
) -> Compared:
    """Encode an upload with codecs at their usual settings, at several ratios.

    Args:
        upload: The file.
        codecs: Registry names, at least one.
        ratios: See `parse_ratios`.
        progress: Called with (done, total).

    Raises:
        AppError: No codec.
        ImageCompressionError: The picture cannot be read.
    """
    if not codecs:
        raise AppError("Choose at least one codec.")
    with one_at_a_time():
        source = decode(upload)
        targets = [RatioTarget(ratio) for ratio in ratios]
        values = [CODECS[name]() for name in codecs]
        points, errors = compare_codecs(source, values, targets, progress)
        with tempfile.TemporaryDirectory(prefix="imagecompression-") as folder:
            plot = Path(folder) / "plot.png"
            plot_rate_distortion(points, plot, upload.safe_name)
            drawn = plot.read_bytes()
    words = ["compare", argument(upload.safe_name), "--codecs", ",".join(codecs)]
    words += ["--ratios", ",".join(f"{ratio:g}" for ratio in ratios)]
    return Compared(upload.safe_name, source, points, ratios, errors, drawn, command(words))


def encoded_files(compared: Compared, points: Sequence[ComparisonPoint]) -> list[bytes]:
    """The files of some points, made again: equal parameters give equal bytes.

    Raises:
        CodecError: A codec fails that did not before.
    """
    with one_at_a_time():
        return [
            codec_from_params(point.codec, point.params).encode(compared.source) for point in points
        ]


def crops(
    compared: Compared, points: Sequence[ComparisonPoint], files: Sequence[bytes], part: Window
) -> list[tuple[str, Image]]:
    """A part of the picture as each file shows it, with a caption; the source first.

    Args:
        compared: The comparison.
        points: Some of its points.
        files: See `encoded_files`.
        part: Which part.
    """
    found = [("source", part.of(compared.source))]
    with one_at_a_time():
        for point, data in zip(points, files, strict=True):
            caption = f"{point.codec}, {point.bytes:,} bytes ({point.ratio:.1f}:1)"
            found.append((caption, part.of(CODECS[point.codec].decode(data)).copy()))
    return found
