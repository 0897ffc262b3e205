"""Where a format's reader writes down what it finds: every value bounded and ready for JSON."""

from __future__ import annotations

import math
import struct
from typing import Any

from imagecompression.errors import ImageCompressionError
from imagecompression.evidence.finding import Finding, Status

MAX_TEXT = 200
"""Characters of a text that are kept."""

MAX_ENTRIES = 500
"""Entries of a list or a table of facts that are kept; the note then tells how many there were."""


class DamageError(ImageCompressionError):
    """A file cannot be read on; `container_evidence` turns it into a finding.

    Attributes:
        offset: Byte from which on nothing could be read.
        problem: What is wrong there.
    """

    def __init__(self, offset: int, problem: str) -> None:
        super().__init__(f"Damaged at byte {offset}: {problem}")
        self.offset = offset
        self.problem = problem


class Record:
    """The findings of one file, one for each name, in the order in which they came.

    Attributes:
        codec: What the container itself shows of the codec, see `ContainerEvidence.codec`.
    """

    def __init__(self) -> None:
        self.codec: str | None = None
        self._findings: dict[str, Finding] = {}  # values are bounded in the end
        self._damage: list[dict[str, Any]] = []

    def observed(self, name: str, value: Any, note: str = "") -> None:
        """Write down what stands in the bytes."""
        self._add("OBSERVED", name, value, note)

    def derived(self, name: str, value: Any, note: str = "") -> None:
        """Write down what follows exactly from what stands in the bytes."""
        self._add("DERIVED", name, value, note)

    def inferred(self, name: str, value: Any, note: str) -> None:
        """Write down a best fit that may be wrong; the note says by which rule."""
        self._add("INFERRED", name, value, note)

    def not_available(self, name: str, note: str) -> None:
        """Write down that something was asked and cannot be told, and why."""
        self._add("NOT_AVAILABLE", name, None, note)

    def damaged(self, offset: int, problem: str) -> None:
        """Write down where and how the file is damaged."""
        if len(self._damage) < MAX_ENTRIES:
            self._damage.append({"offset": offset, "problem": problem})

    def adopt(self, name: str, finding: Finding) -> None:
        """Write down a finding of another record under a name of this one's."""
        self._add(finding.status, name, finding.value, finding.note)

    def findings(self) -> tuple[Finding, ...]:
        """All findings; ``damage`` comes last, and only where there is any."""
        found = list(self._findings.values())
        if self._damage:
            found.append(Finding("damage", self._damage, "OBSERVED"))
        return tuple(_bounded_finding(finding) for finding in found)

    def _add(self, status: Status, name: str, value: Any, note: str) -> None:
        self._findings.setdefault(name, Finding(name, value, status, note))


def text(value: bytes | str) -> str:
    """A text of a file for people: printable, in one line, at most `MAX_TEXT` characters.

    >>> text(b"Camera\\0\\0"), text(b"a\\x1b[31m")
    ('Camera', 'a [31m')
    """
    if isinstance(value, bytes):
        begun = value[: 4 * MAX_TEXT]
        try:
            value = begun.decode("utf-8")
        except UnicodeDecodeError:
            value = begun.decode("latin-1")
    begun_text = value.rstrip("\0 ")[: MAX_TEXT + 1]
    shown = "".join(each if each.isprintable() else " " for each in begun_text)
    return shown if len(shown) <= MAX_TEXT else shown[: MAX_TEXT - 1] + "…"


def unpack(layout: str, data: bytes, at: int, what: str, end: int | None = None) -> tuple[Any, ...]:
    """`struct.unpack_from` of `data` before `end`, in which a lack of bytes is a `DamageError`."""
    size = struct.calcsize(layout)
    if at < 0 or at + size > min(len(data), len(data) if end is None else end):
        raise DamageError(at, f"the file ends within {what}")
    return struct.unpack_from(layout, data, at)


def _bounded_finding(finding: Finding) -> Finding:
    value, cut = _bounded(finding.value)
    note = "; ".join(filter(None, (finding.note, cut)))
    return Finding(finding.name, value, finding.status, note)


def _bounded(value: Any) -> tuple[Any, str]:
    """`value` within the limits, and a note where something was left out."""
    if isinstance(value, (str, bytes)):
        return text(value), ""
    if isinstance(value, (list, tuple)):
        pairs = [_bounded(each) for each in value[:MAX_ENTRIES]]
        note = next((note for _, note in pairs if note), "")
        if len(value) > MAX_ENTRIES:
            note = f"only the first {MAX_ENTRIES} of {len(value)} entries"
        return [kept for kept, _ in pairs], note
    if isinstance(value, dict):
        kept, note = _bounded(list(value.values()))
        keys = [text(str(key)) for key in list(value)[:MAX_ENTRIES]]
        return dict(zip(keys, kept, strict=True)), note
    if isinstance(value, float) and not math.isfinite(value):
        return None, ""
    return value, ""
