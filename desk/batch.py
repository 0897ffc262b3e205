"""Reports on many pictures: one bad file stops nothing, and no evidence is written over."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from desk.case_log import CASE_FILE, CaseEntry, append_entry, log_head
from desk.error_rates import read_error_rates
from desk.examination import examine
from desk.report import Report, family_title, json_bytes, make_report, plain, region_rows
from desk.report_page import index_page
from desk.tool_facts import tool_facts
from imagecompression.atomic_file import write_bytes_atomic
from imagecompression.errors import ImageCompressionError
from train.classification import find_pictures

if TYPE_CHECKING:
    from train.run import Run

INDEX_SCHEMA = "imagecompression-report-index/1"
INDEX = "index"
KINDS = ("json", "html", "pdf")

MAX_NAME = 80
"""Bytes of a report's name, before what makes it unique; file systems allow 255."""


class ReportError(ImageCompressionError):
    """Reports that cannot be written where they were asked for."""


@dataclass(frozen=True)
class Written:
    """What a batch left behind.

    Attributes:
        reports: A JSON-ready dict for each report: file (as it was given), verdict, probability,
            family, agreement, sentence, sha256, error, and the names and hashes of its files.
        errors: (file, problem) for files without a report, and those whose pixels are unreadable.
        index: The index page.
        judged: Reports with readable pixels.
    """

    reports: list[dict[str, Any]]
    errors: list[tuple[str, str]]
    index: Path
    judged: int


def write_reports(
    paths: Iterable[Path],
    run: Run,
    out: Path,
    *,
    case: Path | None = None,
    command: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Examine picture files and write for each ``NAME.json``, ``NAME.html`` and ``NAME.pdf``.

    ``index.html`` and ``index.json`` list them. NAME is the file's name without its suffix, with
    "-2" and so on where several have it.

    Args:
        paths: Files and folders; they are only read.
        run: The run whose model is asked.
        out: Folder of the reports; made if it is missing.
        case: Folder whose case log gets an entry for each picture.
        command: As it was typed; for the case log.
        progress: Called with (done, total).

    Raises:
        ReportError: A report would be written over one of the pictures.
        CaseLogError: The case log is damaged, or in use.
        ImageCompressionError: The run's model, calibration, rejection or error rates cannot be
            loaded.
        OSError: A report or an entry cannot be written.
    """
    files, missing = find_pictures(paths)
    run.prepare()
    read_error_rates(run.path, run.model_sha256)
    names = report_names(files)
    targets = [out / f"{name}.{kind}" for name in names for kind in KINDS]
    targets += [out / f"{INDEX}.html", out / f"{INDEX}.json"]
    _spare_evidence(files, targets if case is None else [*targets, case / CASE_FILE])
    if case is not None:
        log_head(case)  # raises before anything is written
    out.mkdir(parents=True, exist_ok=True)
    tool = tool_facts()
    reports: list[dict[str, Any]] = []
    errors = list(missing)
    judged = 0
    for done, (path, name) in enumerate(zip(files, names, strict=True), start=1):
        try:
            found = examine(path, run)
            report = make_report(found, run, tool)
        except (ImageCompressionError, MemoryError) as error:
            errors.append((str(path), str(error) or "not enough memory"))
            continue
        finally:
            if progress is not None:
                progress(done, len(files))
        hashes = _write(report, out, name)
        reports.append({"file": str(path), **_summary(report, hashes)})
        judged += found.picture is not None
        if found.error:
            errors.append((str(path), found.error))
        if case is not None:
            append_entry(
                case,
                CaseEntry(
                    evidence=found.file.name,
                    evidence_bytes=found.file.byte_count,
                    evidence_sha256=found.file.sha256,
                    pixel_sha256=found.picture.pixel_sha256 if found.picture else None,
                    reports={_from(case, out / file): digest for file, digest in hashes.items()},
                    command=command,
                ),
            )
    _write_index(reports, errors, out)
    return Written(reports, errors, out / f"{INDEX}.html", judged)


def report_names(files: Iterable[Path]) -> list[str]:
    """A name for the report on each file, that every file system takes, none of them twice.

    >>> report_names([Path("a/x.jpg"), Path("b/X.png"), Path("index.png"), Path("a<b>.png")])
    ['x', 'X-2', 'index-2', 'a_b_']
    """
    taken = {INDEX}
    names = []
    for file in files:
        # Letters and digits of any language; what is special to a shell or a system is not.
        kept = [c if c.isalnum() or c in "-_. " else "_" for c in file.stem[:MAX_NAME]]
        stem = "".join(kept).encode()[:MAX_NAME].decode(errors="ignore").strip(". ") or "picture"
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _spare_evidence(files: Iterable[Path], targets: Iterable[Path]) -> None:
    """Raise if one of the targets is one of the files, under whatever name."""
    evidence = {_identity(file.stat()) for file in files}
    for target in targets:
        try:
            found = _identity(target.stat())
        except OSError:
            continue
        if found in evidence:
            raise ReportError(
                f"{target}: a report would be written over this picture. Choose another folder "
                "for the reports."
            )


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _write(report: Report, out: Path, name: str) -> dict[str, str]:
    """Write the three files and return their names and hashes."""
    hashes = {}
    for kind, data in zip(KINDS, (report.json, report.html, report.pdf), strict=True):
        write_bytes_atomic(out / f"{name}.{kind}", data)
        hashes[f"{name}.{kind}"] = hashlib.sha256(data).hexdigest()
    return hashes


def _summary(report: Report, hashes: dict[str, str]) -> dict[str, Any]:
    model = report.model
    verdict = model["verdict"]
    is_one = bool(verdict.get("label")) and not region_rows(model)
    return {
        "name": model["file"]["name"],
        "sha256": model["file"]["sha256"],
        "verdict": verdict["verdict"],
        "probability": verdict["probability"] if is_one else None,
        "family": family_title(model) if is_one else "",
        "agreement": model["agreement"]["status"],
        "sentence": model["agreement"]["sentence"],
        "error": model["error"],
        "files": {
            kind: {"name": name, "sha256": digest}
            for kind, (name, digest) in zip(KINDS, hashes.items(), strict=True)
        },
    }


def _write_index(reports: list[dict[str, Any]], errors: list[tuple[str, str]], out: Path) -> None:
    """The index as JSON and as a page, without the folders of the pictures."""
    content = plain(
        {
            "schema": INDEX_SCHEMA,
            "reports": [
                {key: value for key, value in row.items() if key != "file"} for row in reports
            ],
            "errors": [
                {"name": Path(file).name, "error": error.replace(repr(file), repr(Path(file).name))}
                for file, error in errors
            ],
        }
    )
    write_bytes_atomic(out / f"{INDEX}.json", json_bytes(content))
    write_bytes_atomic(out / f"{INDEX}.html", index_page(content))


def _from(case: Path, file: Path) -> str:
    """The report's path from the case's folder where it lies there, else its name."""
    try:
        return file.resolve().relative_to(case.resolve()).as_posix()
    except ValueError:
        return file.name
