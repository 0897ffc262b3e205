"""Command line of the toolkit: parse, one dataclass, one library call, print.

Results go to standard output, progress and problems to standard error. Exit status: 0 success,
1 some files of a batch failed, 2 bad input.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import typer

if TYPE_CHECKING:
    from train.run import Run

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

SHOWN_CHARACTERS = 400
"""Of a finding's value, in text for people."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Fixes everything random.")]
OptionalSeed = Annotated[
    int | None, typer.Option(min=0, max=2**32 - 1, help="Fixes everything random.")
]
ConfigFile = Annotated[
    Path | None, typer.Option(help="JSON of settings, as tune writes; options below go first.")
]
ModelName = Annotated[str | None, typer.Option(help="Model name; see docs/reference.")]
RunOrShipped = Annotated[
    Path | None, typer.Option(help="Run folder made by train; the shipped one if left out.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes; all cores if none.")]
Groups = Annotated[
    Path | None, typer.Option(help="CSV with columns file, group and, if known, origin.")
]
CodecNames = Annotated[
    str | None, typer.Option(help="Codec names with commas between them; all when left out.")
]


@app.command("build-dataset")
def build_dataset_command(
    sources: Annotated[list[Path], typer.Argument(help="Pristine TIFF or PNG files, or folders.")],
    out: Annotated[
        str, typer.Option(help="Folder or URL of the dataset; a build that was killed goes on.")
    ],
    codecs: CodecNames = None,
    ratios: Annotated[str, typer.Option(help="Compression ratios, 20 for 20:1.")] = "5,10,20,40",
    ssims: Annotated[str, typer.Option(help="SSIM targets.")] = "0.8,0.9,0.95",
    target_spread: Annotated[
        float, typer.Option(help="Each of these is moved at random by up to this share.")
    ] = 0.1,
    target_tolerance: Annotated[
        float | None,
        typer.Option(
            help="Error at which a search stops, 0.1 for 10 %; each codec's best if none."
        ),
    ] = None,
    random_ratios: Annotated[int, typer.Option(help="Further ratios, drawn log-uniformly.")] = 0,
    ratio_range: Annotated[
        tuple[float, float], typer.Option(help="Least and greatest random ratio.")
    ] = (4.0, 60.0),
    random_ssims: Annotated[int, typer.Option(help="Further SSIM targets, drawn uniformly.")] = 0,
    ssim_range: Annotated[
        tuple[float, float], typer.Option(help="Least and greatest random SSIM.")
    ] = (0.75, 0.98),
    settings_per_source: Annotated[
        int, typer.Option(help="Encoder settings drawn for each source and codec.")
    ] = 1,
    histories: Annotated[
        str, typer.Option(help="What else happens to the pictures: names, or a JSON file.")
    ] = "single",
    label_rule: Annotated[
        Literal["last", "first"], typer.Option(help="Which codec of several gives the label.")
    ] = "last",
    patch_size: Annotated[int, typer.Option(help="Side of the patches in pixels.")] = 64,
    patches_per_class: Annotated[
        int, typer.Option(help="Patches for each source and class, over all its targets.")
    ] = 42,
    groups: Groups = None,
    seed: Seed = 0,
    workers: Workers = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler whose workers do the work.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Make samples that failed before again.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be made, with an estimate, and stop.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Encode sources with every codec at every target, split them, cut patches, and audit it."""
    with user_errors(json_output):
        from datasets.build import build_dataset
        from datasets.estimate import estimate_build
        from datasets.plan import BuildConfig

        config = BuildConfig(
            codecs=tuple(_codec_names(codecs)),
            ratios=_numbers(ratios, "--ratios"),
            ssims=_numbers(ssims, "--ssims"),
            patch_size=patch_size,
            patches_per_class=patches_per_class,
            seed=seed,
            settings_per_source=settings_per_source,
            target_spread=target_spread,
            target_tolerance=target_tolerance,
            random_ratios=random_ratios,
            ratio_range=ratio_range,
            random_ssims=random_ssims,
            ssim_range=ssim_range,
            histories=_histories(histories),
            label_rule=label_rule,
        )
        if dry_run:
            with staged_progress() as progress:
                estimate = estimate_build(sources, config, workers, progress, groups)
            if json_output:
                print_json(dataclasses.asdict(estimate))
            else:
                print_estimate(estimate)
            return
        with staged_progress() as progress:
            result = build_dataset(
                sources, out, config, workers, progress, scheduler, retry_failed, groups
            )
        if json_output:
            print_json(dataclasses.asdict(result) | {"audit": result.audit.to_json()})
        else:
            print_build(result)
        complain_of_sources(result)


@app.command("vet-sources")
def vet_sources_command(
    sources: Annotated[list[Path], typer.Argument(help="Pristine TIFF or PNG files, or folders.")],
    out: Annotated[
        Path | None, typer.Option(help="CSV to write, with everything as JSON beside it.")
    ] = None,
    groups: Groups = None,
    min_side: Annotated[int, typer.Option(min=1, help="Least width and height.")] = 64,
    workers: Workers = None,
    json_output: Json = False,
) -> None:
    """Judge whether pictures are pristine: lossy data, JPEG history, duplicates, flatness."""
    with user_errors(json_output):
        from datasets.sources import vet
        from datasets.workers import worker_pool

        with staged_progress() as progress, worker_pool(workers) as pool:
            vetting = vet(
                sources,
                min_side,
                lambda done, total: progress("vetting sources", done, total),
                pool,
                groups,
            )
        if out is not None:
            vetting.save(out)
        if json_output:
            print_json(vetting.to_json())
        else:
            print_table(
                ("file", "verdict", "why or group"),
                [(r["file"], r["verdict"], r["explanation"] or r["group"]) for r in vetting.rows()],
            )
            for one, other, cosine in vetting.near_duplicates:
                print(f"One group for their likeness ({cosine:.2f}): {one}, {other}")
            reasons = ", ".join(f"{count} {reason}" for reason, count in vetting.reasons.items())
            print(
                f"{len(vetting.sources)} accepted, {len(vetting.rejected)} rejected"
                + (f": {reasons}" if reasons else "")
            )
        for note in vetting.notes:
            announce(note)
        if vetting.exit_status:
            raise typer.Exit(vetting.exit_status)


@app.command("audit")
def audit_command(
    dataset: Annotated[str, typer.Argument(help="Folder or URL made by build-dataset.")],
    json_output: Json = False,
) -> None:
    """Look for shortcuts: whether facts about the files tell the class, and for leaks."""
    with user_errors(json_output):
        from datasets.audit import audit_manifest
        from datasets.build import find_leaks, read_dataset
        from datasets.manifest import read_manifest

        seed = read_dataset(dataset)["seed"]
        table = read_manifest(dataset)
        audit, leaks = audit_manifest(table, seed), find_leaks(dataset, table)
        if json_output:
            print_json({**audit.to_json(), "leaks": leaks})
        else:
            for line in [*audit.lines(), *(f"LEAK {leak}" for leak in leaks)]:
                print(line)
        if audit.verdict == "fail" or leaks:
            raise typer.Exit(1)


@app.command("verify")
def verify_command(
    dataset: Annotated[str, typer.Argument(help="Folder or URL made by build-dataset.")],
    pixels: Annotated[bool, typer.Option(help="Decode each file and check its pixels too.")] = True,
    workers: Workers = None,
    json_output: Json = False,
) -> None:
    """Recompute every hash of a dataset."""
    with user_errors(json_output):
        from datasets.verification import verify
        from datasets.workers import worker_pool

        with staged_progress() as progress, worker_pool(workers) as pool:
            found = verify(
                dataset, pool, pixels, lambda done, total: progress("verifying", done, total)
            )
        if json_output:
            print_json(dataclasses.asdict(found))
        else:
            decoded = ", decoded" if found.pixels else ""
            print(
                f"{found.samples} files, {found.bytes / 1e6:,.1f} MB{decoded}: "
                f"{len(found.faults) or 'no'} faults"
            )
        for fault in found.faults:
            complain(fault.file, fault.problem)
        if found.faults:
            raise typer.Exit(1)


@app.command("export")
def export_command(
    dataset: Annotated[str, typer.Argument(help="Folder or URL made by build-dataset.")],
    form: Annotated[
        str, typer.Option("--format", help="patches, tfrecord, webdataset or huggingface.")
    ],
    out: Annotated[Path, typer.Option(help="New folder.")],
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "all",
    workers: Workers = None,
    json_output: Json = False,
) -> None:
    """Write a dataset in the format of another framework."""
    with user_errors(json_output):
        from datasets.export import export_dataset
        from datasets.splits import SPLITS
        from datasets.workers import worker_pool

        splits = SPLITS if split == "all" else (split,)
        with staged_progress() as progress, worker_pool(workers) as pool:
            result = export_dataset(
                dataset,
                out,
                form,
                pool,
                splits,
                lambda done, total: progress("exporting", done, total),
            )
        if json_output:
            print_json(dataclasses.asdict(result))
        else:
            counts = ", ".join(f"{count} {name}" for name, count in result.samples.items())
            print(f"{out}: {counts}; {result.files} files, {result.bytes / 1e6:,.1f} MB")


@app.command("train")
def train_command(
    datasets: Annotated[list[Path], typer.Argument(help="Folders made by build-dataset.")],
    out: Annotated[Path, typer.Option(help="Run folder; a killed training goes on in it.")],
    config: ConfigFile = None,
    model: ModelName = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Most epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Patches in a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak of the schedule.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of AdamW.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="The model's width.")] = None,
    dropout: Annotated[float | None, typer.Option(help="The model's dropout.")] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Epochs without a better loss before the end.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Wall-clock budget; the schedule anneals over it.")
    ] = None,
    patch_sizes: Annotated[
        str | None, typer.Option(help="Sides to crop batches to, such as 64,96,128.")
    ] = None,
    balance: Annotated[
        str | None, typer.Option(help="What weighs the same: class, class-band or none.")
    ] = None,
    schedule: Annotated[str | None, typer.Option(help="cosine or plateau.")] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="Share of the truth spread over all classes.")
    ] = None,
    average: Annotated[
        float | None, typer.Option(help="Momentum of the averaged weights, such as 0.999.")
    ] = None,
    checkpoint_minutes: Annotated[
        float | None, typer.Option(help="Time between checkpoints within an epoch.")
    ] = None,
    grayscale: Annotated[
        float | None, typer.Option(help="Share of the patches shown without colour.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="Run folder whose weights to begin with.")
    ] = None,
    strategy: Annotated[
        str | None, typer.Option(help="none, mirrored or multi-worker; see docs/how-to/train.md.")
    ] = None,
    seed: OptionalSeed = None,
    json_output: Json = False,
) -> None:
    """Train a classifier on the patches of one or several datasets."""
    with user_errors(json_output):
        from train.backend import load_keras_to_train

        load_keras_to_train()
        from train.run import Run
        from train.trainer import train

        settings = _train_config(
            config,
            model=model,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            width=width,
            dropout=dropout,
            patience=patience,
            minutes=minutes,
            patch_sizes=_whole_numbers(patch_sizes, "--patch-sizes"),
            balance=balance,
            schedule=schedule,
            label_smoothing=label_smoothing,
            average=average,
            grayscale=grayscale,
            checkpoint_minutes=checkpoint_minutes,
            strategy=strategy,
            seed=seed,
        )
        with training_progress() as progress:
            first = None if start is None else Run.load(start)
            trained = train(datasets, out, settings, progress, start=first)
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


@app.command("cross-validate")
def cross_validate_command(
    dataset: Annotated[Path, typer.Argument(help="Folder made by build-dataset.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs; what was killed goes on in it.")],
    folds: Annotated[int, typer.Option(help="Trainings; each is judged on its own pictures.")] = 5,
    config: ConfigFile = None,
    model: ModelName = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Most epochs of a fold.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Wall-clock budget of a fold.")] = None,
    seed: OptionalSeed = None,
    json_output: Json = False,
) -> None:
    """Train and judge on folds of the sources outside the test split."""
    with user_errors(json_output):
        from train.backend import load_keras_to_train

        load_keras_to_train()
        from train.cross_validation import cross_validate

        settings = _train_config(config, model=model, epochs=epochs, minutes=minutes, seed=seed)
        with training_progress() as progress:
            result = cross_validate(dataset, out, settings, folds, progress)
        if json_output:
            print_json(dataclasses.asdict(result))
        else:
            head = ("fold", "sources", "patches", "epochs", "accuracy", "by image")
            rows = [
                (
                    *(f.fold, f.sources, f.patches, f.epochs),
                    *(f"{value:.4f}" for value in (f.patch_accuracy, f.image_accuracy)),
                )
                for f in result.folds
            ]
            print_table(head, rows)
            print(
                f"mean ± standard deviation: patches {result.patch_accuracy_mean:.4f} "
                f"± {result.patch_accuracy_std:.4f}, images {result.image_accuracy_mean:.4f} "
                f"± {result.image_accuracy_std:.4f}"
            )


@app.command("tune")
def tune_command(
    dataset: Annotated[Path, typer.Argument(help="Folder made by build-dataset.")],
    out: Annotated[Path, typer.Option(help="Folder of the search; a killed one goes on in it.")],
    method: Annotated[
        Literal["random", "bayesian", "hyperband"], typer.Option(help="How settings are chosen.")
    ] = "random",
    max_trials: Annotated[
        int | None, typer.Option(help="Trainings, 12 if left out; hyperband needs none.")
    ] = None,
    models: Annotated[
        str | None, typer.Option(help="Model names with commas between; the usual one if none.")
    ] = None,
    epochs: Annotated[
        int, typer.Option(min=1, help="Of a trial; of the longest with hyperband.")
    ] = 3,
    config: Annotated[
        Path | None, typer.Option(help="JSON of the settings that are not searched over.")
    ] = None,
    seed: OptionalSeed = None,
    json_output: Json = False,
) -> None:
    """Search for good training settings; train takes the best by --config."""
    with user_errors(json_output):
        from train.backend import load_keras_to_train

        load_keras_to_train()
        from train.tuner import BEST_FILE, TRIALS_FILE, tune

        base = _train_config(config, epochs=epochs, seed=seed)
        with training_progress() as progress:
            best = tune(
                dataset,
                out,
                method=method,
                max_trials=max_trials,
                models=models.split(",") if models else None,
                base=base,
                progress=progress,
            )
        if json_output:
            print_json(dataclasses.asdict(best))
        else:
            for name, value in dataclasses.asdict(best).items():
                print(f"  {name} {_plain(value)}")
            print(f"All trials: {out / TRIALS_FILE}\nTrain with them: --config {out / BEST_FILE}")


@app.command("benchmark-models")
def benchmark_models_command(
    dataset: Annotated[Path, typer.Argument(help="Folder made by build-dataset.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs; what was killed goes on in it.")],
    models: Annotated[
        str | None, typer.Option(help="Model names and baseline, with commas; all when left out.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Training of each network; the usual epochs if none.")
    ] = None,
    seed: Seed = 0,
    json_output: Json = False,
) -> None:
    """Train every model alike and rank them by validation accuracy."""
    with user_errors(json_output):
        from train.backend import load_keras_to_train

        load_keras_to_train()
        from train.leaderboard import LEADERBOARD_CSV, benchmark_models

        features = progress_lines()
        with training_progress() as training:

            def progress(event: dict[str, Any]) -> None:
                if event["event"] == "model":
                    announce(f"model {event['model']}")
                elif event["event"] == "features":
                    features("features", event["done"], event["total"])
                else:
                    training(event)

            entries = benchmark_models(
                dataset,
                out,
                models=None if models is None else [name.strip() for name in models.split(",")],
                minutes=minutes,
                seed=seed,
                progress=progress,
            )
        if json_output:
            print_json({"models": [dataclasses.asdict(entry) for entry in entries]})
        else:
            head = ("model", "parameters", "seconds", "patches/s a core", "val accuracy")
            print_table(
                (*head, "test accuracy", "by image", "worst class"),
                [
                    (
                        e.model,
                        "-" if e.parameters is None else f"{e.parameters:,}",
                        f"{e.seconds:.0f}",
                        f"{e.patches_per_second:.0f}",
                        f"{e.val_accuracy:.1%}",
                        f"{e.test_accuracy:.1%}",
                        f"{e.test_image_accuracy:.1%}",
                        f"{e.test_worst_recall:.1%}",
                    )
                    for e in entries
                ],
            )
            print(f"Leaderboard: {out / LEADERBOARD_CSV}")


@app.command("evaluate")
def evaluate_command(
    run: Annotated[Path, typer.Argument(help="Run folder made by train.")],
    dataset: Annotated[Path, typer.Argument(help="Folder made by build-dataset.")],
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "test",
    out: Annotated[
        Path | None, typer.Option(help="Report folder; RUN/evaluation-SPLIT if left out.")
    ] = None,
    protocols: Annotated[
        str | None, typer.Option(help="Protocols with commas between them, or all; see docs.")
    ] = None,
    kinds: Annotated[
        Path | None, typer.Option(help="CSV with columns file and history, for source-kind.")
    ] = None,
    workers: Workers = None,
    json_output: Json = False,
) -> None:
    """Judge a run on a split of a dataset; write JSON, CSV and pictures."""
    with user_errors(json_output):
        from train.backend import load_keras
        from train.evaluation_report import write_report
        from train.evaluator import evaluate_run
        from train.protocols import protocol_names, run_protocols, run_settings, write_protocols
        from train.run import Run
        from train.source_kind import read_kinds

        names = () if protocols is None else protocol_names(protocols)
        known = {} if kinds is None else read_kinds(kinds)
        loaded = Run.load(run)
        load_keras()
        with staged_progress() as progress:
            report = evaluate_run(
                loaded, dataset, split, lambda done, total: progress("classifying", done, total)
            )
            folder = out or run / f"evaluation-{split}"
            write_report(report, folder, loaded.history)
            content = report.to_json()
            skipped: dict[str, str] = {}
            if names:
                settings = dataclasses.replace(
                    run_settings(loaded, split),
                    kinds=known,
                    cache=folder / "ais22",
                    workers=workers,
                )
                found = run_protocols(names, loaded.predict, dataset, settings, progress)
                write_protocols(found, folder / "protocols")
                content |= found.to_json()
                skipped = found.skipped
        if json_output:
            print_json(content)
        else:
            print_report(report)
            print(f"Report: {folder}")
            if names:
                print(f"Protocols: {folder / 'protocols' / 'protocols.md'}")
        for name, reason in skipped.items():
            announce(f"{name} not run: {reason}")


@app.command("classify")
def classify_command(
    images: Annotated[list[Path], typer.Argument(help="Picture files, or folders to walk.")],
    run: RunOrShipped = None,
    json_output: Json = False,
) -> None:
    """Name the codec that has compressed each picture."""
    with user_errors(json_output):
        from train.classification import DEFAULT_RUN, classify_files
        from train.run import Run
        from train.verdict import as_json

        loaded = Run.load(run or DEFAULT_RUN)
        with staged_progress() as progress:
            results, errors = classify_files(
                images, loaded, lambda done, total: progress("classifying", done, total)
            )
        announce_notes(loaded)
        if json_output:
            print_json(
                {
                    "results": [{"file": file, **as_json(verdict)} for file, verdict in results],
                    "errors": [{"file": file, "error": error} for file, error in errors],
                }
            )
        else:
            print_verdicts(results)
            if run is None:
                announce(f"What not to conclude from the default run: {DEFAULT_RUN / 'README.md'}")
        for file, error in errors:
            complain(file, error)
        if errors:
            raise typer.Exit(1 if results else 2)


@app.command("inspect")
def inspect_command(
    files: Annotated[list[Path], typer.Argument(help="Picture files of any format.")],
    json_output: Json = False,
) -> None:
    """Tell what the containers of files show of their compression; no pixel is decoded."""
    with user_errors(json_output):
        from imagecompression.evidence.container import container_evidence
        from imagecompression.image_io import ImageReadError, read_bytes

        results: list[tuple[str, Any]] = []
        errors: list[tuple[str, str]] = []
        for file in files:
            try:
                results.append((str(file), container_evidence(read_bytes(file))))
            except ImageReadError as error:
                errors.append((str(file), str(error)))
        if json_output:
            print_json(
                {
                    "results": [{"file": file, **found.to_json()} for file, found in results],
                    "errors": [{"file": file, "error": error} for file, error in errors],
                }
            )
        else:
            print_evidence(results)
        for name, problem in errors:
            complain(name, problem)
        if errors:
            raise typer.Exit(1 if results else 2)


@app.command("report")
def report_command(
    images: Annotated[list[Path], typer.Argument(help="Picture files, or folders to walk.")],
    out: Annotated[Path, typer.Option(help="Folder of the reports and their index.")],
    run: RunOrShipped = None,
    case: Annotated[
        Path | None, typer.Option(help="Folder whose case log gets an entry for each picture.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Examine pictures and write a report on each, as JSON, HTML and PDF."""
    with user_errors(json_output):
        from desk.batch import write_reports
        from train.classification import DEFAULT_RUN
        from train.run import Run

        loaded = Run.load(run or DEFAULT_RUN)
        announce_notes(loaded)
        options = (("--out", out), ("--run", run), ("--case", case))
        given = [str(word) for option in options if option[1] is not None for word in option]
        words = ["report", *map(str, images), *given, *(["--json"] if json_output else [])]
        with staged_progress() as progress:
            written = write_reports(
                images,
                loaded,
                out,
                case=case,
                command=shlex.join(["python", "main.py", *words]),
                progress=lambda done, total: progress("examining", done, total),
            )
        if json_output:
            print_json(
                {
                    "results": written.reports,
                    "errors": [{"file": file, "error": error} for file, error in written.errors],
                    "index": written.index,
                }
            )
        else:
            for row in written.reports:
                print(f"{row['file']}: {row['verdict']}: {row['sentence']}")
            print(f"Reports: {written.index}")
        for file, error in written.errors:
            complain(file, error)
        if written.errors:
            raise typer.Exit(1 if written.judged else 2)


@app.command("serve")
def serve_command(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the bearer token that requests must bear.")
    ] = None,
    run: RunOrShipped = None,
    workers: Workers = None,
    queue: Annotated[int, typer.Option(help="Uploads that may wait for a worker.")] = 16,
    max_megabytes: Annotated[int, typer.Option(help="Of a request.")] = 32,
    max_megapixels: Annotated[int, typer.Option(help="Of a picture.")] = 24,
    seconds: Annotated[float, typer.Option(help="That a worker may take for a request.")] = 60.0,
    worker_megabytes: Annotated[int, typer.Option(help="Memory of a worker.")] = 2048,
    json_output: Json = False,
) -> None:
    """Classify, report and compress over HTTP, until it is stopped."""
    with user_errors(json_output):
        from desk.service import ServiceLimits, read_token, serve
        from train.classification import DEFAULT_RUN

        limits = ServiceLimits(
            workers=workers or os.cpu_count() or 1,
            queue=queue,
            body_bytes=max_megabytes * 2**20,
            pixels=max_megapixels * 1_000_000,
            seconds=seconds,
            worker_bytes=worker_megabytes * 2**20,
        )
        token = None if token_file is None else read_token(token_file)
        if token is None and host not in ("127.0.0.1", "::1", "localhost"):
            announce(f"Whoever can reach {host} may use this service: there is no --token-file")

        def ready(url: str) -> None:
            if json_output:
                print_json({"url": url})
            else:
                print(url)
            sys.stdout.flush()

        ends = (signal.SIGINT, signal.SIGTERM)  # uvicorn sends them on when it is done
        before = [signal.signal(number, lambda *_: sys.exit(0)) for number in ends]
        try:
            serve(run or DEFAULT_RUN, host, port, limits, token, ready)
        finally:
            for number, handler in zip(ends, before, strict=True):
                signal.signal(number, handler)


@app.command("verify-case")
def verify_case_command(
    folder: Annotated[Path, typer.Argument(help="Folder that report --case was given.")],
    json_output: Json = False,
) -> None:
    """Check the chain of a case log, and the reports that lie in its folder."""
    with user_errors(json_output):
        from desk.case_log import verify_case

        check = verify_case(folder)
        if json_output:
            print_json({"sound": check.sound, **dataclasses.asdict(check)})
        else:
            print(f"{folder}: {check.entries} sound entries, head {check.head}")
            for name in check.absent:
                print(f"  {name}: not in this folder, not checked")
        if check.broken is not None:
            complain(folder, f"entry {check.broken} is broken: {check.problem}")
        for name, number in check.changed.items():
            complain(name, f"not the report that entry {number} logged")
        if not check.sound:
            raise typer.Exit(1)


@app.command("calibrate")
def calibrate_command(
    run: Annotated[Path, typer.Argument(help="Run folder made by train.")],
    dataset: Annotated[Path, typer.Argument(help="Dataset that the run was trained on.")],
    others: Annotated[
        Path | None,
        typer.Option(help="Dataset of other pictures, to calibrate on instead of the split val."),
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Most validation pictures to look at.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Calibrate a run's probabilities and its "unknown" on validation pictures."""
    with user_errors(json_output):
        from train.backend import load_keras
        from train.run import Run
        from train.validation import VALIDATION_IMAGES, calibrate_run

        loaded = Run.load(run)
        if loaded.onnx is None:
            load_keras()
        with staged_progress() as progress:
            calibrated = calibrate_run(
                loaded,
                dataset,
                others=others,
                images=images or VALIDATION_IMAGES,
                progress=progress,
            )
        if json_output:
            print_json(
                {
                    "run": run,
                    "calibration": dataclasses.asdict(calibrated.calibration),
                    "rejection": {
                        "units": calibrated.rejection.units,
                        "threshold": calibrated.rejection.threshold,
                    },
                    "patch": dataclasses.asdict(calibrated.patch),
                    "image": dataclasses.asdict(calibrated.image),
                }
            )
        else:
            print_calibration(run, calibrated)


@app.command("export-model")
def export_model_command(
    run: Annotated[Path, typer.Argument(help="Run folder made by train.")],
    json_output: Json = False,
) -> None:
    """Write a run's model as ONNX, which classifies without TensorFlow."""
    with user_errors(json_output):
        from train.backend import load_keras
        from train.onnx_export import export_onnx
        from train.run import Run

        loaded = Run.load(run)
        load_keras()
        path = export_onnx(loaded)
        if json_output:
            print_json({"run": run, "model": path, "bytes": path.stat().st_size})
        else:
            print(f"{path}: {path.stat().st_size / 1e6:,.1f} MB")


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


@app.command("app")
def app_command(
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than the usual are reached by others.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8501,
    run: RunOrShipped = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder whose datasets and runs may be browsed.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Serve the web app: identify, compress, compare, browse; until it is interrupted."""
    with user_errors(json_output):
        from desk.app.server import serve
        from desk.app.settings import AppSettings

        shown = "localhost" if host in ("127.0.0.1", "::1") else host
        address = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
        if json_output:
            print_json({"url": address})
        else:
            print(f"The web app: {address} (end it with Ctrl+C)", flush=True)
        serve(AppSettings(run, root), host, port)


@app.command("quickstart")
def quickstart_command(
    out: Annotated[Path, typer.Option(help="Folder for everything made.")] = Path("quickstart"),
    json_output: Json = False,
) -> None:
    """Do the main job on real photographs: build, train, evaluate, classify, report."""
    with user_errors(json_output):
        from train.backend import load_keras_to_train

        load_keras_to_train()
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
                    (file, truth, v.answer, f"{v.probability:.3f}", f"{v.agreement:.2f}")
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
    for note in result.notes:
        announce(note)
    problems = [*result.rejected, *result.failed]
    for problem in problems:
        complain(problem.file, problem.error)
    if problems:
        raise typer.Exit(1)


def announce_notes(run: Run) -> None:
    """What a user should know before believing a run."""
    for note in run.notes:
        announce(note)


def announce(line: str) -> None:
    """A line on standard error that says what is being done."""
    print(line, file=sys.stderr, flush=True)


class Progress(Protocol):
    """Shows how much of a stage is done, and what else there is to say of it."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None: ...


@contextmanager
def staged_progress() -> Iterator[Progress]:
    """Progress of each stage on standard error: bars on a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        yield progress_lines()
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[note]}"),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int, note: str = "") -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, note=note)
            bars.update(tasks[stage], completed=done, total=total, note=note)

        yield show


def progress_lines() -> Progress:
    """A line every ten seconds, and one when a stage is done."""
    said: dict[str, float] = {}

    def show(stage: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if done == total or now - said.setdefault(stage, now) >= LINE_SECONDS:
            said[stage] = now
            announce(f"{stage} {done}/{total}" + (f", {note}" if note else ""))

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
        where = "".join(f"{name} {event[name]}  " for name in ("trial", "fold") if name in event)
        head = f"{where}epoch {event['epoch']:.0f}/{event['epochs']}"
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
    unreached = sum(one.unreached for one in result.classes)
    print(
        f"  samples   {result.samples}, {unreached} off their target, {len(result.failed)} failed; "
        f"{result.encodes_per_target:.2f} encodes a target, {result.seconds:.0f} s"
    )
    print(f"  patches   {result.patches}")
    head = ("  class", "samples", "failed", "off target", "encodes", "ratio", "SSIM")
    print_table(
        head,
        [
            (
                f"  {one.label}",
                one.samples,
                one.failed,
                one.unreached,
                _figure(one.encodes_per_target, ".2f"),
                _figure(one.median_ratio, ".1f"),
                _figure(one.median_ssim, ".3f"),
            )
            for one in result.classes
        ],
    )
    for check in result.audit.checks:
        if check.status == "fail":
            print(f"  FAIL {check.name}: {check.text}")
    for leak in result.leaks:
        print(f"  LEAK {leak}")
    print(f"  bias audit: {result.audit.verdict}; the whole: main.py audit {result.folder}")


def print_estimate(estimate: Any) -> None:
    """What a build would make."""
    print(
        f"{estimate.sources} sources ({len(estimate.rejected)} rejected), {estimate.samples} "
        f"samples, {estimate.patches} patches at most"
    )
    print(
        f"about {estimate.seconds / 60:.0f} minutes with {estimate.workers} processes, "
        f"{estimate.encoded_bytes / 1e6:,.0f} MB encoded and {estimate.patch_bytes / 1e6:,.0f} MB "
        f"of patches; judged by {estimate.probe}, "
        f"{estimate.encodes_per_target:.2f} encodes a target"
    )
    print_table(
        ("  class", "samples", "seconds each"),
        [(f"  {c.label}", c.samples, f"{c.seconds_per_sample:.3f}") for c in estimate.classes],
    )
    for item in estimate.rejected:
        complain(item.file, item.error)


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
    if patch.accuracy_low is not None:
        print(
            f"95 % over sources: accuracy {patch.accuracy_low:.1%}–{patch.accuracy_high:.1%} "
            f"(patches), {image.accuracy_low:.1%}–{image.accuracy_high:.1%} (images)"
        )
    print(
        f"macro F1 {patch.macro_f1:.3f} (patches), {image.macro_f1:.3f} (images); "
        f"log loss {patch.log_loss:.3f}, {image.log_loss:.3f}"
    )


def print_verdicts(results: Sequence[tuple[str, Any]]) -> None:
    """The table of `classify`, and below it why a picture was not named, or not as the network."""
    rows = []
    for file, v in results:
        ratio = v.log10_likelihood_ratio
        rows.append(
            (
                file,
                v.answer,
                f"{v.probability:.3f}" if v.label else "-",
                f"{v.family} {v.family_probability:.3f}" if v.family else "-",
                f"{10**ratio:.3g}" if ratio is not None else "-",
                f"{v.agreement:.2f}" if v.label else "-",
                f"{v.patches}" + (f" (+{v.left_out} flat or drawn)" if v.left_out else ""),
            )
        )
    print_table(
        ("file", "verdict", "probability", "family", "LR", "agreement", "patches"),
        rows,
    )
    for file, v in results:
        if v.reason:
            nearest = f"; nearest: {v.label}" if v.label and v.status != "named" else ""
            print(f"{file}: {v.answer}: {v.reason}{nearest}")
        if v.judged:
            print(f"{file}: {v.judged}")


def print_evidence(results: Sequence[tuple[str, Any]]) -> None:
    """A paragraph for each file: format, codec, and a line for each finding with its status."""
    marks = {"OBSERVED": "+", "DERIVED": "=", "INFERRED": "~", "NOT_AVAILABLE": "-"}
    for file, evidence in results:
        print(f"{file}: {evidence.format}, codec shown: {evidence.codec or 'none'}")
        for finding in evidence.findings:
            value = json.dumps(finding.value, ensure_ascii=False)
            if len(value) > SHOWN_CHARACTERS:
                value = f"{value[:SHOWN_CHARACTERS]}… (all of it by --json)"
            shown = "not available" if finding.value is None else value
            note = f"  ({finding.note})" if finding.note else ""
            print(f"  {marks[finding.status]} {finding.name}  {shown}{note}")
    if results:
        print("+ read from the bytes   = computed from them   ~ a best fit   - not available")


def print_calibration(run: Path, calibrated: Any) -> None:
    """What `calibrate` fitted, and the quality before and after."""
    c = calibrated.calibration
    f = c.fitted_on
    print(f"{run}: {f.images} validation pictures of {f.sources} sources, {f.patches} patches")
    for name, sharp in (("between classes", c.between), ("within a family", c.within)):
        print(
            f"  {name}: temperature {sharp.temperature:.3f}; images: scale {sharp.scale:.3f}, "
            f"correlation {sharp.correlation:.3f}"
        )
    rows = []
    for level, change in (("patches", calibrated.patch), ("images", calibrated.image)):
        for name in ("before", "after"):
            q = getattr(change, name)
            figures = (q.log_loss, q.brier, q.ece, q.cllr)
            rows.append((f"  {level}", name, *(f"{figure:.4f}" for figure in figures)))
    print_table(("", "", "log loss", "Brier", "ECE", "Cllr"), rows)
    print(
        "  unknown: strangeness over "
        f"{calibrated.rejection.threshold:.3f}; "
        f"likelihood ratios up to {10 ** max(high for _, high in c.bounds.values()):.0f}"
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


def _histories(text: str) -> tuple[Any, ...]:
    """Histories by name, from a comma list, or those of a JSON file."""
    from datasets.histories import HISTORIES, HistoryError, read_histories

    if text.lower().endswith(".json"):
        return tuple(read_histories(Path(text)))
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in HISTORIES]
    if unknown or not names:
        raise HistoryError(
            f"--histories takes names among {', '.join(HISTORIES)}, or the name of a .json file. "
            f"Received: {', '.join(unknown) or repr(text)}"
        )
    return tuple(HISTORIES[name] for name in names)


def _numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers from a comma list; an empty one gives none."""
    from imagecompression import CodecError

    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise CodecError(
            f"{option} takes numbers with commas between them. Received: {text!r}"
        ) from None


def _train_config(file: Path | None, **options: Any) -> Any:
    """The training settings of a file, or the usual ones, with the options that were given."""
    from train.settings import TrainConfig, read_config

    given = {name: value for name, value in options.items() if value is not None}
    return TrainConfig(**given) if file is None else read_config(file, **given)


def _whole_numbers(text: str | None, option: str) -> tuple[int, ...] | None:
    """Whole numbers with commas between them; None for None."""
    if text is None:
        return None
    from imagecompression import CodecError

    numbers = _numbers(text, option)
    if not all(number.is_integer() for number in numbers):
        raise CodecError(f"{option} takes whole numbers. Received: {text!r}")
    return tuple(int(number) for number in numbers)


def _settings(params: dict[str, Any]) -> str:
    return " ".join(f"{name}={_plain(value)}" for name, value in params.items())


def _figure(value: float, form: str) -> str:
    """A number, or a dash where there is none."""
    return format(value, form) if math.isfinite(value) else "-"


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
