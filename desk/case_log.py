"""The case log: one line for each picture examined, each with the hash of the line before.

``case.jsonl`` only grows. A line is ``{"entry": …, "sha256": …}`` in one canonical form, where
``sha256`` is that of the entry alone; the entry names, as ``previous``, the SHA-256 of the whole
line before. So a change of any byte shows, in the last line too, and so does a line that was taken
out, put in or moved. What does not show is a log that was cut off after a whole line, or written
anew from a changed line on: keep the hash of the last line (`CaseCheck.head`) somewhere else.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from imagecompression.errors import ImageCompressionError
from imagecompression.file_hash import file_sha256

CASE_FILE = "case.jsonl"
LOCK_FILE = "case.jsonl.lock"
SCHEMA = "imagecompression-case/1"

FIRST = "0" * 64
"""`previous` of the first entry."""

MAX_LINE = 1 << 20
"""Bytes of a line; longer ones are damage."""

MAX_COMMAND = 20_000

LOCK_SECONDS = 30.0


class CaseLogError(ImageCompressionError):
    """A case log that is missing, damaged or in use."""


@dataclass(frozen=True)
class CaseEntry:
    """What one line says, beside its number, time and the hash of the line before.

    Attributes:
        evidence: The picture file's name.
        evidence_bytes: Its size.
        evidence_sha256: Of its bytes.
        pixel_sha256: Of its pixels; None if they cannot be read.
        reports: SHA-256 of each report, by its path from the case's folder where it lies there,
            else by its name.
        command: As it was typed; its first `MAX_COMMAND` characters are kept.
    """

    evidence: str
    evidence_bytes: int
    evidence_sha256: str
    pixel_sha256: str | None
    reports: dict[str, str]
    command: str


@dataclass(frozen=True)
class CaseCheck:
    """What a check of a case log found.

    Attributes:
        entries: Number of sound entries, up to the first broken one.
        head: SHA-256 of the last sound line; `FIRST` if there is none.
        broken: Number of the first broken entry, from 1; None if the chain is whole.
        problem: What is wrong with it; empty if nothing is.
        changed: Reports that lie in the folder with other bytes than logged, with the number of
            the last entry that names them.
        absent: Reports that do not lie in the folder; they may lie elsewhere.
    """

    entries: int = 0
    head: str = FIRST
    broken: int | None = None
    problem: str = ""
    changed: dict[str, int] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether chain and reports are as they were logged."""
        return self.broken is None and not self.changed


def append_entry(folder: Path, entry: CaseEntry) -> str:
    """Append an entry to the log of a case's folder, which is made if missing.

    One process writes at a time, and the line is on the disk when this returns.

    Returns:
        SHA-256 of the line: the new head.

    Raises:
        CaseLogError: The log's last line is damaged, so that nothing can be chained to it, or
            another process holds the log for longer than `LOCK_SECONDS`.
        OSError: The log cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CASE_FILE
    try:
        with FileLock(folder / LOCK_FILE, timeout=LOCK_SECONDS):
            count, previous = log_head(folder)
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            line = _line(
                {
                    "schema": SCHEMA,
                    "number": count + 1,
                    "time": now,
                    "previous": previous,
                    **dataclasses.asdict(entry),
                    "command": entry.command[:MAX_COMMAND],
                }
            )
            with path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            _sync_folder(folder)
    except Timeout as error:
        raise CaseLogError(f"{path}: another process is writing to it. Try again later.") from error
    return _sha256(line)


def log_head(folder: Path) -> tuple[int, str]:
    """Number of the last entry of a case's log, and the SHA-256 of its line; (0, `FIRST`) if none.

    Raises:
        CaseLogError: The last line is damaged, so that nothing can be chained to it.
        OSError: The log cannot be read.
    """
    path = folder / CASE_FILE
    last = _last_line(path)
    if last is None:
        return 0, FIRST
    found = _parsed(last)
    if isinstance(found, str):
        raise CaseLogError(
            f"{path}: its last line is damaged ({found}). Check it (main.py verify-case), keep it "
            "as it is, and start a new case."
        )
    return int(found["number"]), _sha256(last)


def verify_case(folder: Path) -> CaseCheck:
    """Check the chain of a case's log, and the hashes of those reports that lie in its folder.

    Of a report that was made again, the last entry counts.

    Raises:
        CaseLogError: There is no log, or it cannot be read.
    """
    path = folder / CASE_FILE
    if not path.is_file():
        raise CaseLogError(
            f"{path}: no case log there. Give the folder that report --case was given."
        )
    head, count, broken, problem = FIRST, 0, None, ""
    reports: dict[str, tuple[int, str]] = {}
    try:
        for number, line in enumerate(_lines(path), start=1):
            found = _parsed(line)
            if isinstance(found, str):
                problem = found
            elif found["number"] != number:
                problem = f"it calls itself number {found['number']}"
            elif found["previous"] != head:
                problem = "it does not follow the line before, or that one was changed"
            if problem or isinstance(found, str):
                broken = number
                break
            head, count = _sha256(line), number
            reports |= {name: (number, digest) for name, digest in found["reports"].items()}
        changed, absent = {}, []
        for name, (number, digest) in reports.items():
            file = folder / name
            if not file.is_file():
                absent.append(name)
            elif file_sha256(file) != digest:
                changed[name] = number
    except OSError as error:
        raise CaseLogError(f"{path}: cannot be read: {error}") from error
    return CaseCheck(count, head, broken, problem, changed, sorted(absent))


def _line(entry: dict[str, Any]) -> bytes:
    """The canonical line of an entry: ASCII JSON, keys sorted, no spaces, one line break."""
    body = _canonical(entry)
    return _canonical({"entry": entry, "sha256": _sha256(body)}) + b"\n"


def _canonical(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii")


def _parsed(line: bytes) -> dict[str, Any] | str:
    """The entry of a line, or what is wrong with it."""
    if not line.endswith(b"\n"):
        return "the line is cut off, or longer than any entry"
    try:
        content = json.loads(line.decode("ascii"))
        entry = content["entry"]
        if _line(entry) != line:
            return "its hash does not fit what it says"
        sound = (
            entry["schema"] == SCHEMA
            and isinstance(entry["number"], int)
            and isinstance(entry["previous"], str)
            and all(
                isinstance(digest, str) and _lies_below(name)
                for name, digest in entry["reports"].items()
            )
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "it is no entry of a case log"
    return entry if sound else "it is no entry of this schema"


def _lies_below(name: str) -> bool:
    """Whether a report's path leads nowhere but into the folder."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name and name != ""


def _lines(path: Path) -> Iterator[bytes]:
    """Lines with their break; one that is too long comes in pieces without."""
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE):
            yield line


def _last_line(path: Path) -> bytes | None:
    """The last line, or the last `MAX_LINE` bytes of a longer one; None for an empty log."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        if end == 0:
            return None
        file.seek(max(0, end - MAX_LINE - 1))
        tail = file.read(MAX_LINE + 1)
    start = tail.rfind(b"\n", 0, len(tail) - 1)
    return tail[start + 1 :]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Put a new file's name on the disk, too; Windows knows no such thing."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
