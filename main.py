"""Command line of the toolkit: parse, one dataclass, one library call, print.

Results go to standard output, progress and problems to standard error. Exit status: 0 success,
1 some files of a batch failed, 2 bad input.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

# Quiet TensorFlow's start-up notes; they would drown the progress on standard error.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

app = typer.Typer(
    help="Which codec has compressed this picture? Encode, build datasets, train, classify.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

LINE_SECONDS = 10.0
"""Least time between two lines of progress where standard error is no terminal."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Fixes everything random.")]
CodecNames = Annotated[
    str | None, typer.Option(help="Codec names with commas between them; all when left out.")
]


@app.command("build-dataset")
def build_dataset_command(
    sources: Annotated[list[Path], typer.Argument(help="Pristine TIFF or PNG files, or folders.")],
    out: Annotated[Path, typer.Option(help="Folder of the dataset; a killed build goes on in it.")],
    codecs: CodecNames = None,
    ratios: Annotated[str, typer.Option(help="Compression ratios, 20 for 20:1.")] = "5,10,20,40",
    ssims: Annotated[str, typer.Option(help="SSIM targets.")] = "0.8,0.9,0.95",
    patch_size: Annotated[int, typer.Option(help="Side of the patches in pixels.")] = 64,
    patches_per_class: Annotated[
        int, typer.Option(help="Patches for each source and class, over all its targets.")
    ] = 42,
    seed: Seed = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; all cores if none.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Encode sources with every codec at every target, split them, and cut patches."""
    with user_errors(json_output):
        from datasets.build import BuildConfig, build_dataset

        config = BuildConfig(
            codecs=tuple(_codec_names(codecs)),
            ratios=_numbers(ratios, "--ratios"),
            ssims=_numbers(ssims, "--ssims"),
            patch_size=patch_size,
            patches_per_class=patches_per_class,
            seed=seed,
        )
        with staged_progress() as progress:
            result = build_dataset(sources, out, config, workers, progress)
        if json_output:
            print_json(dataclasses.asdict(result))
        else:
            print_build(result)
        complain_of_sources(result)


@app.command("train")
def train_command(
    dataset: Annotated[Path, typer.Argument(help="Folder made by build-dataset.")],
    out: Annotated[Path, typer.Option(help="Run folder; a killed training goes on in it.")],
    model: Annotated[str | None, typer.Option(help="Model name; see docs/reference.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Most epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Patches in a step.")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Wall-clock budget; the schedule anneals over it.")
    ] = None,
    seed: Seed = 0,
    json_output: Json = False,
) -> None:
    """Train a classifier on a dataset's patches."""
    with user_errors(json_output):
        from train.backend import load_keras

        load_keras()
        from train.trainer import TrainConfig, train

        usual = TrainConfig()
        config = TrainConfig(
            model=model or usual.model,
            epochs=epochs or usual.epochs,
            batch_size=batch_size or usual.batch_size,
            minutes=minutes,
            seed=seed,
        )
        with training_progress() as progress:
            trained = train(dataset, out, config, progress)
        if json_output:
            print_json(
                {
                    "run": trained.path,
                    "labels": trained.labels,
                    "patch_size": trained.patch_size,
                    "epochs": len(trained.history),
                    "history": trained.history,
                }
            )
        else:
            figures = "  ".join(f"{k} {_plain(v)}" for k, v in trained.history[-1].items())
            print(f"Run {trained.path}\n  {len(trained.history)} epochs, last: {figures}")


@app.command("evaluate")
def evaluate_command(
    run: Annotated[Path, typer.Argument(help="Run folder made by train.")],
    dataset: Annotated[Path, typer.Argument(help="Folder made by build-dataset.")],
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "test",
    out: Annotated[
        Path | None, typer.Option(help="Report folder; RUN/evaluation-SPLIT if left out.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Judge a run on a split of a dataset; write JSON, CSV and pictures."""
    with user_errors(json_output):
        from train.backend import load_keras
        from train.evaluator import evaluate_run, write_report
        from train.run import Run

        loaded = Run.load(run)
        load_keras()
        with staged_progress() as progress:
            report = evaluate_run(
                loaded, dataset, split, lambda done, total: progress("classifying", done, total)
            )
        folder = out or run / f"evaluation-{split}"
        write_report(report, folder, loaded.history)
        if json_output:
            print_json(report.to_json())
        else:
            print_report(report)
            print(f"Report: {folder}")


@app.command("classify")
def classify_command(
    images: Annotated[list[Path], typer.Argument(help="Picture files, or folders to walk.")],
    run: Annotated[
        Path | None, typer.Option(help="Run folder made by train; the shipped one if left out.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Name the codec that has compressed each picture."""
    with user_errors(json_output):
        from train.backend import load_keras
        from train.classification import DEFAULT_RUN, classify_files
        from train.run import Run
        from train.verdict import as_json

        loaded = Run.load(run or DEFAULT_RUN)
        load_keras()
        with staged_progress() as progress:
            results, errors = classify_files(
                images, loaded, lambda done, total: progress("classifying", done, total)
            )
        if json_output:
            print_json(
                {
                    "results": [{"file": file, **as_json(verdict)} for file, verdict in results],
                    "errors": [{"file": file, "error": error} for file, error in errors],
                }
            )
        else:
            rows = [
                (file, v.label, f"{v.probabilities[v.label]:.3f}", f"{v.agreement:.2f}", v.patches)
                for file, v in results
            ]
            print_table(("file", "label", "probability", "agreement", "patches"), rows)
            if run is None:
                announce(f"What not to conclude from the default run: {DEFAULT_RUN / 'README.md'}")
        for file, error in errors:
            complain(file, error)
        if errors:
            raise typer.Exit(1 if results else 2)


@app.command("compress")
def compress_command(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Picture to encode.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write.")],
    codec: Annotated[str | None, typer.Option(help="Codec; else by OUT's suffix.")] = None,
    ratio: Annotated[float | None, typer.Option(help="Compression ratio, 20 for 20:1.")] = None,
    ssim: Annotated[float | None, typer.Option(help="SSIM to reach.")] = None,
    quality: Annotated[
        str | None,
        typer.Option(metavar="MIN-MAX", help="Palette quality 0-100, as pngquant's; kmeans only."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Codec parameter as name=value; repeatable.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Encode a picture with a codec, at a ratio, an SSIM, a quality, or given parameters."""
    with user_errors(json_output):
        from imagecompression.transcoding import compress_file

        compressed = compress_file(source, out, codec, ratio, ssim, settings or [], quality)
        if json_output:
            print_json(dataclasses.asdict(compressed))
        else:
            print(
                f"{out}: {compressed.codec}, {compressed.bytes:,} bytes, "
                f"ratio {compressed.ratio:.2f}, {compressed.bits_per_pixel:.3f} bits per pixel, "
                f"PSNR {compressed.psnr_db:.2f} dB, SSIM {compressed.ssim:.4f}, "
                f"{compressed.encodes} encodes, {_settings(compressed.params)}"
            )
        for note in compressed.notes:
            complain(source, note)
        if not compressed.reached:
            complain(out, compressed.reason)


@app.command("decompress")
def decompress_command(
    source: Annotated[Path, typer.Argument(metavar="IN", help="File of any codec.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="TIFF or PNG file to write.")],
    json_output: Json = False,
) -> None:
    """Decode a file of any codec to a TIFF or PNG."""
    with user_errors(json_output):
        from imagecompression.transcoding import decompress_file

        decompressed = decompress_file(source, out)
        if json_output:
            print_json(dataclasses.asdict(decompressed))
        else:
            d = decompressed
            print(f"{out}: {d.width}×{d.height}, {d.channels} channels, from {d.format}")
        for note in decompressed.notes:
            complain(source, note)


@app.command("compare")
def compare_command(
    image: Annotated[Path, typer.Argument(help="Picture to encode.")],
    codecs: CodecNames = None,
    ratios: Annotated[str, typer.Option(help="Compression ratios.")] = "5,10,20,40",
    plot: Annotated[
        Path | None, typer.Option(help="PNG to draw; IMAGE's name + _rate_distortion.png if none.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Measure size, quality and time of codecs on a picture; draw rate against distortion."""
    with user_errors(json_output):
        from imagecompression import CODECS, CodecError, RatioTarget
        from imagecompression.comparison import compare_codecs, plot_rate_distortion
        from imagecompression.image_io import read_image
        from imagecompression.transcoding import check_output

        path = plot or Path(f"{image.stem}_rate_distortion.png")
        if path.suffix.lower() != ".png":
            raise CodecError(f"--plot takes the name of a PNG file. Received: {path}")
        check_output(image, path)
        targets = [RatioTarget(value) for value in _numbers(ratios, "--ratios")]
        chosen = [CODECS[name]() for name in _codec_names(codecs)]
        picture = read_image(image)
        with staged_progress() as progress:
            points, errors = compare_codecs(
                picture, chosen, targets, lambda done, total: progress("encoding", done, total)
            )
        plot_rate_distortion(points, path, image.name)
        if json_output:
            print_json(
                {
                    "file": str(image),
                    "plot": str(path),
                    "points": [dataclasses.asdict(point) for point in points],
                    "errors": [{"codec": name, "error": error} for name, error in errors],
                }
            )
        else:
            print_points(points)
            print(f"Plot: {path}")
        for name, error in errors:
            complain(name, error)
        if errors:
            raise typer.Exit(1 if points else 2)


@app.command("codecs")
def codecs_command(json_output: Json = False) -> None:
    """List the codecs: availability, knob, parameters, tolerances, library and version."""
    with user_errors(json_output):
        from imagecompression import CODECS, CodecUnavailableError

        rows: list[dict[str, Any]] = []
        for name, codec in CODECS.items():
            try:
                available, library = True, codec.version()
            except CodecUnavailableError as error:
                available, library = False, str(error)
            knob = codec.knob and dataclasses.asdict(codec.knob)
            rows.append(
                {
                    "codec": name,
                    "available": available,
                    "suffix": codec.suffix,
                    "knob": knob,
                    "params": codec().params(),
                    "ratio_tolerance": codec.ratio_tolerance if knob else None,
                    "ssim_tolerance": codec.ssim_tolerance if knob else None,
                    "library": library,
                }
            )
        if json_output:
            print_json({"codecs": rows})
        else:
            print_table(
                ("codec", "suffix", "available", "knob", "ratio within", "SSIM within", "library"),
                [
                    (
                        row["codec"],
                        row["suffix"],
                        "yes" if row["available"] else "no",
                        "{field} {low:g}…{high:g}".format(**row["knob"]) if row["knob"] else "-",
                        f"{row['ratio_tolerance']:.0%}" if row["knob"] else "-",
                        row["ssim_tolerance"] if row["knob"] else "-",
                        row["library"],
                    )
                    for row in rows
                ],
            )
            print("\nOptions for --set, with their defaults:")
            print_table(
                (), [(f"  {row['codec']}", _settings(row["params"]) or "-") for row in rows]
            )


@app.command("quickstart")
def quickstart_command(
    out: Annotated[Path, typer.Option(help="Folder for everything made.")] = Path("quickstart"),
    json_output: Json = False,
) -> None:
    """Do the main job on real photographs: build, train, evaluate, classify, report."""
    with user_errors(json_output):
        from train.backend import load_keras

        load_keras()
        from train.quickstart import run_quickstart
        from train.verdict import as_json

        # Lines, not bars: a live bar and the training's running line would overwrite each other.
        with training_progress() as training:
            result = run_quickstart(out, announce, progress_lines(), training)
        if json_output:
            print_json(
                {
                    "folder": result.folder,
                    "seconds": result.seconds,
                    "build": dataclasses.asdict(result.build),
                    "evaluation": result.report.to_json(),
                    "verdicts": [
                        {"file": file, "truth": truth, **as_json(verdict)}
                        for file, truth, verdict in result.verdicts
                    ],
                }
            )
        else:
            print_build(result.build)
            print_report(result.report)
            print_table(
                ("file", "truth", "verdict", "probability", "agreement"),
                [
                    (file, truth, v.label, f"{v.probabilities[v.label]:.3f}", f"{v.agreement:.2f}")
                    for file, truth, v in result.verdicts
                ],
            )
            print(f"Report: {result.folder / 'report.md'}  ({sum(result.seconds.values()):.0f} s)")
        complain_of_sources(result.build)


@contextmanager
def user_errors(json_output: bool) -> Iterator[None]:
    """Turn errors meant for the user into one line on standard error and exit status 2."""
    from imagecompression.errors import ImageCompressionError

    try:
        yield
    except (ImageCompressionError, OSError, MemoryError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        complain("error", message)
        if json_output:
            print_json({"results": [], "errors": [{"file": None, "error": message}]})
        raise typer.Exit(2) from None


def complain(about: object, problem: str) -> None:
    """One line on standard error, whatever line breaks a name or a message holds."""
    print(" ".join(f"{about}: {problem}".split()), file=sys.stderr)


def complain_of_sources(result: Any) -> None:
    """A line for each source refused and each sample failed by a build; status 1 if any."""
    problems = [*result.rejected, *result.failed]
    for problem in problems:
        complain(problem.file, problem.error)
    if problems:
        raise typer.Exit(1)


def announce(line: str) -> None:
    """A line on standard error that says what is being done."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def staged_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Progress of each stage on standard error: bars on a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        yield progress_lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show


def progress_lines() -> Callable[[str, int, int], None]:
    """A line every ten seconds, and one when a stage is done."""
    said: dict[str, float] = {}

    def show(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - said.setdefault(stage, now) >= LINE_SECONDS:
            said[stage] = now
            announce(f"{stage} {done}/{total}")

    return show


@contextmanager
def training_progress() -> Iterator[Callable[[dict[str, Any]], None]]:
    """A line an epoch on standard error; between them a running line, or one now and then."""
    last = time.monotonic()
    interactive = sys.stderr.isatty()

    def show(event: dict[str, Any]) -> None:
        nonlocal last
        names = ("loss", "accuracy", "val_loss", "val_accuracy")
        figures = "  ".join(f"{name} {event[name]:.4f}" for name in names if name in event)
        head = f"epoch {event['epoch']:.0f}/{event['epochs']}"
        if event["event"] == "epoch":
            announce(("\r" if interactive else "") + f"{head}  {event['seconds']:.0f} s  {figures}")
        elif interactive:
            line = f"\r{head}  {event['batch']}/{event['batches']}  {figures}  "
            print(line, end="", file=sys.stderr, flush=True)
        elif time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            announce(f"{head}  {event['batch']}/{event['batches']}  {figures}")

    yield show


def print_json(content: object) -> None:
    """One JSON document on standard output; what JSON has no number for becomes null."""
    print(json.dumps(_json_ready(content), indent=2, ensure_ascii=False))


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Left-aligned text columns on standard output; an empty head is left out."""
    cells = [[str(cell) for cell in row] for row in [head, *rows] if row]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    for row in cells:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


def print_build(result: Any) -> None:
    """Summary of a build."""
    splits = ", ".join(f"{count} {split}" for split, count in result.splits.items())
    print(f"Dataset {result.folder}")
    print(f"  sources   {result.sources} ({splits}), {len(result.rejected)} rejected")
    print(
        f"  samples   {result.samples}, {result.unreached} off their target, "
        f"{len(result.failed)} failed; {result.encodes_per_sample:.1f} encodes each"
    )
    print(f"  patches   {result.patches}")
    print_table(("  class", "samples"), [(f"  {k}", n) for k, n in result.samples_by_label.items()])


def print_report(report: Any) -> None:
    """Accuracy of an evaluation, in all and by class."""
    print(
        f"Split {report.split}: {report.sources} sources, {report.samples} encoded pictures, "
        f"{report.patches} patches"
    )
    rows = [
        (p.label, p.support, f"{p.recall:.1%}", i.support, f"{i.recall:.1%}")
        for p, i in zip(report.patch.per_class, report.image.per_class, strict=True)
    ]
    patch, image = report.patch, report.image
    rows.append(("all", patch.count, f"{patch.accuracy:.1%}", image.count, f"{image.accuracy:.1%}"))
    print_table(("class", "patches", "recall", "images", "recall"), rows)
    print(
        f"macro F1 {patch.macro_f1:.3f} (patches), {image.macro_f1:.3f} (images); "
        f"log loss {patch.log_loss:.3f}, {image.log_loss:.3f}"
    )


def print_points(points: Sequence[Any]) -> None:
    """The table of `compare`."""
    head = ("codec", "setting", "bytes", "ratio", "bpp", "PSNR dB", "SSIM", "MS-SSIM")
    print_table(
        (*head, "encode s", "decode s", "reached"),
        [
            (
                p.codec,
                _settings(p.params),
                p.bytes,
                f"{p.ratio:.2f}",
                f"{p.bits_per_pixel:.3f}",
                f"{p.psnr_db:.2f}",
                f"{p.ssim:.4f}",
                f"{p.ms_ssim:.4f}",
                f"{p.encode_seconds:.3f}",
                f"{p.decode_seconds:.3f}",
                "yes" if p.reached else f"no: {p.reason}",
            )
            for p in points
        ],
    )


def _codec_names(text: str | None) -> list[str]:
    """Names from a comma list, all of them for None; unknown ones are refused."""
    from imagecompression import CODECS, CodecError

    if text is None:
        return list(CODECS)
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in CODECS]
    if unknown or not names:
        raise CodecError(
            f"--codecs takes names among {', '.join(CODECS)}. "
            f"Received: {', '.join(unknown) or text!r}"
        )
    return names


def _numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers from a comma list; an empty one gives none."""
    from imagecompression import CodecError

    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise CodecError(
            f"{option} takes numbers with commas between them. Received: {text!r}"
        ) from None


def _settings(params: dict[str, Any]) -> str:
    return " ".join(f"{name}={_plain(value)}" for name, value in params.items())


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _json_ready(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _json_ready(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_json_ready(value) for value in content]
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, (str, int, bool)) or content is None:
        return content
    if hasattr(content, "item"):
        return _json_ready(content.item())
    return str(content)


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        # File names may hold bytes that the terminal's encoding cannot show.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    app()
