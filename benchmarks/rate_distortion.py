"""How many dB does each codec give at a rate, and are they those of published tables?

Encodes the 24 Kodak pictures with each codec at a grid of knob values, takes the means of bits
per pixel (of the whole file) and PSNR (of a picture, on RGB samples) at each value,
interpolates between these points, and compares with tables that others have published. Prints the
dB at four rates and the required figures, writes points, figures and a plot, and exits with 1 when
a required figure is missed.

    python -m benchmarks.rate_distortion --data ../shared/data/kodak --reference ../shared/reference

Thorough presets take hours for all pictures. Each finished picture is kept in `--cache`, and the
next run goes on from there; it measures one kept point of each curve again, and where that has
changed, it measures the whole curve again.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import multiprocessing
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.environment import write_environment
from imagecompression import (
    CODECS,
    Codec,
    Image,
    Jpeg,
    RateSearch,
    RatioTarget,
    codec_from_params,
    read_image,
)
from imagecompression.metrics import measure
from imagecompression.thread_limit import one_thread

PICTURES = 24
RATES = (0.25, 0.5, 1.0, 2.0)
"""Bits per pixel at which curves are compared."""
QUARTER_RATES = tuple(0.25 * step for step in range(1, 9))
QMF_DB = {0.25: 25.54, 0.5: 27.85}
"""What quantised matrix factorisation is credited with at these rates: a little more than its
published table (arXiv 2408.12691, mean over Kodak) gives between its points."""
SEARCHED_RATES = (0.1, 0.2, 0.35, 0.6, 0.9, 1.3, 1.9, 2.7, 3.8)
"""Bits per pixel of the first picture, whose knob values a curve without its own grid uses."""

JPEG_QUALITIES = tuple(range(5, 100, 5))
"""Those of the published table."""
JPEG2000_RATIOS = tuple(
    24 / rate for rate in (0.1, 0.2, *np.arange(0.25, 2.76, 0.25).tolist())
)  # fmt: skip

Curve = list[tuple[float, float]]
"""(bits per pixel, PSNR in dB), by rate."""


@dataclass(frozen=True)
class Setting:
    """One curve: a codec's parameters but for the knob.

    Attributes:
        curve: What the curve is called.
        codec: With any knob value.
        values: Knob values, or empty to take those that reach `SEARCHED_RATES`.
    """

    curve: str
    codec: Codec
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Point:
    """Means over all pictures of one codec at one knob value; a row of the table of points."""

    curve: str
    codec: str
    params: str
    pictures: int
    bits_per_pixel: float
    psnr_db: float
    ssim: float
    ms_ssim: float
    encode_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class Figure:
    """One measured figure and what is required of it.

    Attributes:
        curve: The curve it belongs to.
        figure: What is measured, with its unit.
        wanted: The required range, empty for a figure that is only reported.
        measured: NaN where the curve does not reach the rate.
        met: None where nothing is required.
    """

    curve: str
    figure: str
    wanted: str
    measured: float
    met: bool | None


@dataclass(frozen=True)
class Requirement:
    """`curve` must be at least `least` dB above (or, if negative, below) `row` at `rates`."""

    curve: str
    row: str
    rates: tuple[float, ...]
    least: float


REQUIREMENTS = (
    Requirement("jpeg2000", "CompressAI jpeg2000", QUARTER_RATES, 0.0),
    Requirement("jpeg2000 9/7", "CompressAI jpeg2000", QUARTER_RATES, 0.0),
    Requirement("jpeg2000", "jpeg", (0.5,), 2.0),
    Requirement("jpeg2000", "CompressAI jpeg", (0.5,), 2.0),
    Requirement("bpg 4:4:4", "CompressAI bpg_444_x265_ycbcr", RATES, -0.3),
    Requirement("bpg 4:2:0", "TFC bpg420", RATES, -0.3),
    Requirement("webp method 6", "CompressAI webp", RATES, -0.3),
    Requirement("avif 4:4:4 10 bit", "CompressAI av1", RATES, -0.3),
)


@dataclass(frozen=True)
class Libjpeg9d(Jpeg):
    """JPEG by the library that made the published table, jpeg-9d inside Pillow 7.1.2's wheel.

    It scales 4:2:0 chroma in the DCT domain where libjpeg-turbo filters it.
    """

    def encode(self, image: Image) -> bytes:
        import jpeglib

        with jpeglib.version("9d"), tempfile.NamedTemporaryFile(suffix=".jpg") as file:
            jpeglib.from_spatial(image).write_spatial(
                file.name, qt=self.quality, flags=["+FORCE_BASELINE"]
            )
            return Path(file.name).read_bytes()

    @classmethod
    def decode(cls, data: bytes) -> Image:
        import jpeglib

        with jpeglib.version("9d"), tempfile.NamedTemporaryFile(suffix=".jpg") as file:
            Path(file.name).write_bytes(data)
            return np.ascontiguousarray(jpeglib.read_spatial(file.name).spatial)

    @classmethod
    def version(cls) -> str:
        return f"libjpeg 9d (jpeglib {version('jpeglib')})"


def settings() -> list[Setting]:
    """All curves: those compared with published ones, then each other codec's defaults."""
    found = [Setting("jpeg by libjpeg 9d", Libjpeg9d(), JPEG_QUALITIES)]
    seen = {setting.codec for setting in found}
    named: list[tuple[str, str, dict[str, Any], tuple[float, ...]]] = [
        ("jpeg", "jpeg", {}, JPEG_QUALITIES),
        ("jpeg2000", "jpeg2000", {}, JPEG2000_RATIOS),
        ("jpeg2000 9/7", "jpeg2000", {"reversible": False}, JPEG2000_RATIOS),
        ("jpeg2000 5/3", "jpeg2000", {"reversible": True}, JPEG2000_RATIOS),
        # The table's own QPs where they are known.
        (
            "bpg 4:4:4",
            "bpg",
            {"subsampling": "4:4:4", "preset": "placebo"},
            (47, 42, 37, 32, 27, 22, 17),
        ),
        (
            "bpg 4:2:0",
            "bpg",
            {"subsampling": "4:2:0", "preset": "placebo"},
            tuple(range(47, 15, -3)),
        ),
        (
            "avif 4:4:4 10 bit",
            "avif",
            {"subsampling": "4:4:4", "bit_depth": 10, "speed": 3, "tune": "psnr"},
            (5, 15, 25, 35, 45, 55, 65, 75, 85),
        ),
        # Slower, but chroma and luma are rounded to 8 bits before they are coded.
        (
            "avif 4:4:4 8 bit",
            "avif",
            {"subsampling": "4:4:4", "speed": 0, "tune": "psnr"},
            (5, 15, 25, 35, 45, 55, 65, 75, 85),
        ),
        ("webp method 6", "webp", {"method": 6}, tuple(range(0, 100, 5))),
        ("svd global", "svd", {"mode": "global"}, ()),
    ]
    for curve, name, params, values in named:
        codec = codec_from_params(name, params)
        if codec not in seen:  # a setting that is named may be the default
            found.append(Setting(curve, codec, values))
            seen.add(codec)
    for name, kind in CODECS.items():
        if kind.knob is not None and kind() not in seen:
            found.append(Setting(name, kind()))
    return found


# --- measuring -------------------------------------------------------------------------------


def searched_values(task: tuple[Codec, Path]) -> tuple[float, ...]:
    """Knob values that bring one picture near each of `SEARCHED_RATES`."""
    codec, path = task
    assert codec.knob is not None
    with one_thread():
        image = read_image(path)
        search = RateSearch(image, codec)
        bits = 8.0 * image.nbytes / (image.shape[0] * image.shape[1])
        found = [search.to(RatioTarget(bits / rate, 0.12)).codec for rate in SEARCHED_RATES]
    return tuple(dict.fromkeys(one.params()[codec.knob.field] for one in found))


def measure_picture(task: tuple[Codec, Path, list[float]]) -> list[dict[str, Any]]:
    """Measures of one picture at each knob value, with what identifies them."""
    codec, path, values = task
    records = []
    with one_thread():
        image = read_image(path)
        for value in values:
            at = codec.with_knob(value)
            started = time.perf_counter()
            data = at.encode(image)
            encoded = time.perf_counter()
            decoded = at.decode(data)
            finished = time.perf_counter()
            records.append(
                identity(at, picture_hash(path))
                | measure(image, decoded, len(data))
                | {"encode_seconds": encoded - started, "decode_seconds": finished - encoded}
            )
    return records


def picture_hash(path: Path) -> str:
    """SHA-256 of a picture's file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def identity(codec: Codec, picture: str) -> dict[str, Any]:
    """What a kept measurement must have in common with the one that is wanted."""
    return {
        "codec": codec.name,
        "params": codec.params(),
        "encoder": codec.version(),
        "picture": picture,
    }


class Cache:
    """Finished measurements of one curve, a JSON line each."""

    def __init__(self, folder: Path, curve: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / (re.sub(r"[^a-z0-9]+", "_", curve) + ".jsonl")
        self._records: dict[str, dict[str, Any]] = {}
        for line in self._path.read_text().splitlines() if self._path.exists() else []:
            try:
                self._take(json.loads(line))
            except json.JSONDecodeError:
                continue  # cut off when a run was killed

    def _take(self, record: dict[str, Any]) -> None:
        key = {name: record[name] for name in ("codec", "params", "encoder", "picture")}
        self._records[json.dumps(key, sort_keys=True)] = record

    def get(self, codec: Codec, picture: str) -> dict[str, Any] | None:
        """The measurement of a codec on a picture, None where it is still to be made."""
        return self._records.get(json.dumps(identity(codec, picture), sort_keys=True))

    def add(self, records: list[dict[str, Any]]) -> None:
        """Keep measurements, on disk first."""
        with self._path.open("a") as file:
            # A newline first: the last line of a killed run may lack its own.
            file.writelines("\n" + json.dumps(record) for record in records)
        for record in records:
            self._take(record)

    def clear(self) -> None:
        """Forget all measurements."""
        self._path.unlink(missing_ok=True)
        self._records.clear()


def drop_if_changed(setting: Setting, cache: Cache, pictures: dict[Path, str]) -> None:
    """Clear `cache` unless its quickest measurement comes out the same when it is made again."""
    kept = [
        (record["encode_seconds"], value, path)
        for path, picture in pictures.items()
        for value in setting.values
        if (record := cache.get(setting.codec.with_knob(value), picture)) is not None
    ]
    if not kept:
        return
    _, value, path = min(kept)
    old = cache.get(setting.codec.with_knob(value), pictures[path])
    (new,) = measure_picture((setting.codec, path, [value]))
    assert old is not None
    if any(old[name] != new[name] for name in ("bits_per_pixel", "psnr_db")):
        print(f"{setting.curve}: the codec has changed, its cache is dropped", file=sys.stderr)
        cache.clear()


def measure_all(
    wanted: list[Setting], pictures: dict[Path, str], folder: Path, processes: int
) -> Iterator[Point]:
    """The points of all curves in the order of `wanted`, measured as far as not in the cache."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        first = next(iter(pictures))
        searches = {
            setting.curve: pool.submit(searched_values, (setting.codec, first))
            for setting in wanted
            if not setting.values
        }
        jobs, caches = {}, {}
        for number, setting in enumerate(wanted):
            if not setting.values:
                values = searches[setting.curve].result()
                setting = wanted[number] = Setting(setting.curve, setting.codec, values)
            cache = caches[setting.curve] = Cache(folder, setting.curve)
            drop_if_changed(setting, cache, pictures)
            for path, picture in pictures.items():
                missing = [
                    value
                    for value in setting.values
                    if cache.get(setting.codec.with_knob(value), picture) is None
                ]
                if missing:
                    job = pool.submit(measure_picture, (setting.codec, path, missing))
                    jobs[job] = (setting.curve, path)
        for done, job in enumerate(as_completed(jobs), start=1):
            curve, path = jobs[job]
            caches[curve].add(job.result())
            print(f"{done}/{len(jobs)} {curve} {path.name}", file=sys.stderr)
    for setting in wanted:
        for value in setting.values:
            yield mean_point(setting, value, caches[setting.curve], pictures)


def mean_point(setting: Setting, value: float, cache: Cache, pictures: dict[Path, str]) -> Point:
    """The means over all pictures at one knob value."""
    codec = setting.codec.with_knob(value)
    records = [cache.get(codec, picture) for picture in pictures.values()]
    means = {
        name: round(fmean(record[name] for record in records if record is not None), 6)
        for name in (
            *("bits_per_pixel", "psnr_db", "ssim", "ms_ssim", "encode_seconds", "decode_seconds"),
        )
    }
    return Point(setting.curve, codec.name, json.dumps(codec.params()), len(pictures), **means)


# --- published tables ------------------------------------------------------------------------


def published_curves(reference: Path) -> dict[str, Curve]:
    """The curves of the tables in the folder `reference`; see its README for their origin."""
    curves: dict[str, set[tuple[float, float]]] = {}
    with (reference / "compressai_kodak.csv").open() as file:
        for row in csv.DictReader(file):
            if row["codec"] in ("jpeg", "jpeg2000", "webp", "bpg_444_x265_ycbcr", "av1"):
                curve = curves.setdefault(f"CompressAI {row['codec']}", set())
                curve.add((float(row["bpp"]), float(row["psnr_rgb"])))
    with (reference / "tfc_kodak_all.csv").open() as file:
        for row in csv.DictReader(file):
            if row["metric"] == "PSNR_sRGB_RGB" and not row["codec"].startswith("minnen"):
                curve = curves.setdefault(f"TFC {row['codec']}", set())
                curve.add((float(row["bpp"]), float(row["value"])))
    with (reference / "qmf_kodak_mean.csv").open() as file:
        for row in csv.DictReader(file):
            if row["method"] != "JPEG":
                name = "QMF" if row["method"] == "QMF" else "QMF paper's SVD"
                curves.setdefault(name, set()).add((float(row["bpp"]), float(row["psnr"])))
    return {name: sorted(curve) for name, curve in curves.items()}


def published_jpeg(reference: Path) -> dict[int, tuple[float, float]]:
    """(bits per pixel, PSNR) of Pillow's JPEG by quality."""
    with (reference / "compressai_kodak.csv").open() as file:
        return {
            int(row["q"]): (float(row["bpp"]), float(row["psnr_rgb"]))
            for row in csv.DictReader(file)
            if row["codec"] == "jpeg"
        }


def psnr_at(curve: Curve, rate: float) -> float:
    """PSNR in dB at `rate` bits per pixel; NaN outside of the curve.

    Piecewise cubic (PCHIP) over the logarithm of the rate, as for Bjøntegaard deltas: straight
    lines between far points would cost the coarser of two curves up to 0.3 dB.
    """
    from scipy.interpolate import PchipInterpolator

    rising = dict(curve)
    rates = np.array(list(rising))
    if not rates[0] <= rate <= rates[-1]:
        return math.nan
    return float(PchipInterpolator(np.log(rates), list(rising.values()))(math.log(rate)))


# --- figures ---------------------------------------------------------------------------------


def jpeg_figures(points: list[Point], published: dict[int, tuple[float, float]]) -> list[Figure]:
    """The largest differences to the published JPEG at the same quality.

    The table's own library must give its very figures; ours may be better, but not worse.
    """
    found = []
    for curve in ("jpeg by libjpeg 9d", "jpeg"):
        own = {
            json.loads(point.params)["quality"]: (point.bits_per_pixel, point.psnr_db)
            for point in points
            if point.curve == curve
        }
        if not own:
            continue
        gains = [own[q][1] - published[q][1] for q in published]
        least, most = min(gains), max(gains)
        percent = max(100 * abs(own[q][0] / published[q][0] - 1) for q in published)
        same_library = curve != "jpeg"
        at = f"at {len(published)} qualities"
        found += [
            Figure(curve, f"least dB over CompressAI jpeg {at}", "≥ -0.1", least, least >= -0.1),
            Figure(curve, f"most dB over CompressAI jpeg {at}", "≤ 0.1" if same_library else "",
                   most, most <= 0.1 if same_library else None),
            Figure(curve, f"largest % difference in size {at}", "≤ 2", percent, percent <= 2),
        ]  # fmt: skip
    return found


def figures(points: list[Point], reference: Path) -> list[Figure]:
    """All figures, required and reported."""
    own: dict[str, Curve] = {}
    for point in points:
        own.setdefault(point.curve, []).append((point.bits_per_pixel, point.psnr_db))
    own = {name: sorted(curve) for name, curve in own.items()}
    rows = own | published_curves(reference)
    pictures = {point.pictures for point in points}
    found = [Figure("all", "pictures", str(PICTURES), max(pictures), pictures == {PICTURES})]
    found += jpeg_figures(points, published_jpeg(reference))
    for required in REQUIREMENTS:
        if required.curve not in own or required.row not in rows:
            continue
        for rate in required.rates:
            published = psnr_at(rows[required.row], rate)
            if math.isnan(published):
                continue
            above = psnr_at(own[required.curve], rate) - published
            found.append(
                Figure(
                    required.curve,
                    f"dB over {required.row} at {rate:g} bit/pixel",
                    f"≥ {required.least:g}",
                    above,
                    above >= required.least,
                )
            )
    for rate, least in QMF_DB.items() if "svd" in own else ():
        measured = psnr_at(own["svd"], rate)
        found.append(
            Figure("svd", f"dB at {rate:g} bit/pixel", f"> {least}", measured, measured > least)
        )
    for name, curve in rows.items():
        for rate in RATES:
            found.append(Figure(name, f"dB at {rate:g} bit/pixel", "", psnr_at(curve, rate), None))
    return found


def print_tables(found: list[Figure]) -> None:
    """dB at all rates, a line a curve, and then the required figures."""
    reported = {(one.curve, one.figure): one.measured for one in found if not one.wanted}
    print(f"{'bits per pixel':<32}" + "".join(f"{rate:>8g}" for rate in RATES))
    for name in dict.fromkeys(curve for curve, figure in reported if figure.startswith("dB at")):
        values = [reported[name, f"dB at {rate:g} bit/pixel"] for rate in RATES]
        shown = "".join("       –" if math.isnan(value) else f"{value:8.2f}" for value in values)
        print(f"{name:<32}{shown}")
    print(f"\n{'curve':<20}{'figure':<58}{'wanted':>8}{'measured':>10}  met")
    for one in found:
        if not one.figure.startswith("dB at") or one.wanted:
            met = {True: "yes", False: "NO", None: ""}[one.met]
            print(f"{one.curve:<20}{one.figure:<58}{one.wanted:>8}{one.measured:>10.3f}  {met}")


def plot(points: list[Point], path: Path) -> None:
    """PSNR over bits per pixel, a line a curve."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(9, 6), layout="constrained")
    panel = canvas.subplots()
    shown = [point for point in points if not point.curve.endswith("libjpeg 9d")]
    codecs = list(dict.fromkeys(point.codec for point in shown))
    styles = dict.fromkeys(codecs, 0)
    for name, codec in dict.fromkeys((point.curve, point.codec) for point in shown):
        own = sorted((p.bits_per_pixel, p.psnr_db) for p in shown if p.curve == name)
        # A colour for each codec; dashes tell its settings apart.
        line = ("-", "--", ":", "-.")[styles[codec] % 4]
        styles[codec] += 1
        panel.plot(*zip(*own, strict=True), label=name, marker=".", linewidth=1.3,
                   color=f"C{codecs.index(codec)}", linestyle=line)  # fmt: skip
    panel.set(xlim=(0, 2.5), ylim=(20, 45), xlabel="bits per pixel", ylabel="PSNR (dB, RGB)")
    panel.set_title(f"Mean of {max(point.pictures for point in points)} Kodak pictures")
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small", ncols=2, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=110)


def write_rows(path: Path, rows: list[Point] | list[Figure]) -> None:
    """A CSV file of dataclass rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        names = [field.name for field in fields(rows[0])]
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            content = asdict(row)
            if isinstance(row, Figure):
                content["measured"] = round(row.measured, 4)
            writer.writerow(content)


def main() -> int:
    """Run, print, write; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/kodak"))
    parser.add_argument("--reference", type=Path, default=Path("../shared/reference"))
    parser.add_argument("--only", action="append", help="a curve's name; may be repeated")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "imagecompression-rate-distortion",
    )
    parser.add_argument("--out", type=Path, default=Path("results/rate_distortion.csv"))
    parser.add_argument("--plot", type=Path, default=Path("docs/images/kodak_rate_distortion.png"))
    arguments = parser.parse_args()
    pictures = {path: picture_hash(path) for path in sorted(arguments.data.glob("*.png"))}
    if not pictures:
        parser.error(f"no PNG in {arguments.data}")
    wanted = settings()
    if arguments.only:
        names = [setting.curve for setting in wanted]
        unknown = set(arguments.only) - set(names)
        if unknown:
            parser.error(f"curves are {', '.join(names)}. Received: {', '.join(unknown)}")
        wanted = [setting for setting in wanted if setting.curve in arguments.only]
    points = list(measure_all(wanted, pictures, arguments.cache, max(1, arguments.processes)))
    found = figures(points, arguments.reference)
    print_tables(found)
    write_rows(arguments.out, points)
    write_rows(arguments.out.with_name(f"{arguments.out.stem}_figures.csv"), found)
    write_environment(arguments.out)
    plot(points, arguments.plot)
    missed = [one for one in found if one.met is False]
    for one in missed:
        print(
            f"missed: {one.curve}: {one.figure}: {one.measured:.3f}, wanted {one.wanted}",
            file=sys.stderr,
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
