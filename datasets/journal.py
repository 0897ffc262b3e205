"""The journal of a task: one line for each finished sample, flushed before the next is begun.

Each task has a journal of its own, so that no two processes ever write one file, and a task that is
run again, here or on another machine, goes on after its last whole line.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from datasets.storage import Storage

JOURNAL_FOLDER = "journal"


@dataclass(frozen=True)
class Entry:
    """One finished sample.

    Attributes:
        row: Its manifest row.
        probes: What the search had measured by then, see `RateSearch.probes`.
    """

    row: dict[str, Any]
    probes: list[dict[str, Any]]


@dataclass(frozen=True)
class Journal:
    """The journal of one task.

    Attributes:
        storage: Of the dataset.
        task_id: See `datasets.plan.Task`.
    """

    storage: Storage
    task_id: str

    @property
    def path(self) -> str:
        """Below the dataset's root."""
        return f"{JOURNAL_FOLDER}/{self.task_id}.jsonl"

    def read(self) -> tuple[list[Entry], bool]:
        """The entries up to the first line that is damaged or cut off, and whether none is."""
        try:
            *lines, rest = self.storage.read(self.path).split(b"\n")
        except FileNotFoundError:
            return [], True
        entries = []
        for line in lines:
            try:
                content = json.loads(line)
                entries.append(Entry(dict(content["row"]), list(content["probes"])))
            except (ValueError, KeyError, TypeError):
                return entries, False
        return entries, not rest

    def restart(self, entries: list[Entry]) -> None:
        """Keep `entries` alone."""
        self.storage.write(self.path, b"".join(_line(entry) for entry in entries))

    def add(self, entry: Entry) -> None:
        """Append one entry and flush it."""
        self.storage.append(self.path, _line(entry))


def _line(entry: Entry) -> bytes:
    content = {"row": entry.row, "probes": entry.probes}
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"
