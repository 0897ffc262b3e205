"""Several codecs on one picture: size, quality and time at matched targets."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagecompression.atomic_file import write_bytes_atomic
from imagecompression.codec import Codec, CodecError, Image
from imagecompression.rate import RateSearch, Target


@dataclass(frozen=True)
class ComparisonPoint:
    """One codec at one target on one picture.

    Attributes:
        codec: Registry name.
        params: The resolved parameters.
        bytes: Size of the file.
        ratio: Uncompressed bytes ÷ `bytes`.
        bits_per_pixel: Bits of the file for each pixel.
        psnr_db: On RGB samples; infinite when lossless.
        ssim: On luma.
        ms_ssim: On luma; NaN for a side under 176 pixels.
        encode_seconds: Wall time of one encode at these parameters.
        decode_seconds: Wall time of one decode.
        encodes: Encodes that the target cost.
        reached: Whether the target was met.
        reason: Why not; empty when it was.
    """

    codec: str
    params: dict[str, Any]
    bytes: int
    ratio: float
    bits_per_pixel: float
    psnr_db: float
    ssim: float
    ms_ssim: float
    encode_seconds: float
    decode_seconds: float
    encodes: int
    reached: bool
    reason: str


def compare_codecs(
    image: Image,
    codecs: Sequence[Codec],
    targets: Sequence[Target],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[ComparisonPoint], list[tuple[str, str]]]:
    """Points of every codec at every target, and (codec, error) for those that failed.

    A lossless codec gives one point, whatever the targets.

    Args:
        image: The picture, see `imagecompression.codec.Image`.
        codecs: Their knob is searched, the other parameters are kept.
        targets: What each codec should reach.
        progress: Called with (done, total).

    Raises:
        CodecError: There is no target.
    """
    if not targets:
        raise CodecError("Give at least one target to compare codecs at.")
    points, errors = [], []
    total, done = len(codecs) * len(targets), 0
    for codec in codecs:
        search = RateSearch(image, codec)
        for target in targets if codec.knob is not None else targets[:1]:
            try:
                found = search.to(target)
                started = time.perf_counter()
                found.codec.encode(image)
                encoded = time.perf_counter()
                found.codec.decode(found.data)
                finished = time.perf_counter()
            except CodecError as error:
                errors.append((codec.name, str(error)))
                break
            points.append(
                ComparisonPoint(
                    codec=codec.name,
                    params=found.codec.params(),
                    bytes=len(found.data),
                    **found.measures(),
                    encode_seconds=encoded - started,
                    decode_seconds=finished - encoded,
                    encodes=found.encodes,
                    reached=found.reached or codec.knob is None,
                    reason=found.reason if codec.knob is not None else "",
                )
            )
            done += 1
            if progress is not None:
                progress(done, total)
    if progress is not None:
        progress(total, total)
    return points, errors


def plot_rate_distortion(points: Sequence[ComparisonPoint], path: Path, title: str) -> None:
    """Draw PSNR and SSIM over bits per pixel, a line a codec, as a PNG file.

    Needs matplotlib, which the library itself does not depend on.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    panels = figure.subplots(1, 2)
    names = list(dict.fromkeys(point.codec for point in points))
    for name in names:
        own = sorted((p for p in points if p.codec == name), key=lambda p: p.bits_per_pixel)
        own = [point for point in own if math.isfinite(point.psnr_db)]
        if not own:
            continue
        rates = [point.bits_per_pixel for point in own]
        panels[0].plot(rates, [point.psnr_db for point in own], marker="o", label=name)
        panels[1].plot(rates, [point.ssim for point in own], marker="o", label=name)
    for panel, label in zip(panels, ("PSNR (dB, RGB)", "SSIM (luma)"), strict=True):
        panel.set_xlabel("bits per pixel")
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
    if panels[0].lines:
        panels[0].legend()
    # A file name may hold bytes that are no text, and dollar signs that are no formula.
    figure.suptitle(title.encode("utf-8", "replace").decode(), parse_math=False)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120)
    write_bytes_atomic(path, drawn.getvalue())
