"""Making samples: a task is run, its files and journal are written, its rows are returned."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets.histories import History, label_of
from datasets.journal import Entry, Journal
from datasets.plan import Goal, Task, beginning_of
from datasets.seeds import generator
from datasets.sources import pixel_hash, read_source
from datasets.storage import Storage, StorageError
from imagecompression import CODECS, CodecError, Image, RateSearch, codec_from_params
from imagecompression.metrics import Reference

ENCODED_FOLDER = "encoded"

Row = dict[str, Any]


def run_task(task: Task, root: str, retry_failed: bool = False) -> list[Row]:
    """Make the samples of `task` that are not there yet; the rows of all of them.

    A sample's file is written before its line in the journal, both whole or not at all. Run again
    after a kill, samples whose file is as the journal says are kept, and the search goes on from
    what it had measured: files and rows come out as if nothing had happened.

    Args:
        task: See `Task`.
        root: Of the dataset, see `Storage`.
        retry_failed: Make samples that failed in an earlier run again.

    Raises:
        StorageError: The dataset cannot be written: nothing more could be kept.
    """
    storage = Storage(root)
    journal = Journal(storage, task.task_id)
    wanted = [(goal, history) for goal in task.goals for history in task.histories]
    entries, well = journal.read()
    kept = _kept(entries, [task.sample_id(*one) for one in wanted], storage, retry_failed)
    if len(kept) < len(entries) or not well:
        journal.restart(kept)
    rows = [entry.row for entry in kept]
    if len(kept) == len(wanted):
        return rows
    probes = kept[-1].probes if kept else []
    try:
        encoder = _Encoder(task, probes)
    except Exception as error:  # decoders of untrusted data raise anything; the build must go on
        for one in wanted[len(kept) :]:
            rows.append(failed_row(task, *one, _reason(task, error)))
            journal.add(Entry(rows[-1], []))
        return rows
    for goal, history in wanted[len(kept) :]:
        try:
            row, data = encoder.sample(goal, history)
            storage.write(row["path"], data)
        except StorageError:
            raise
        except Exception as error:  # encoders raise anything, and some not what can be pickled
            row = failed_row(task, goal, history, _reason(task, error))
        rows.append(row)
        journal.add(Entry(row, encoder.probes()))
    return rows


def failed_row(task: Task, goal: Goal, history: History, error: str) -> Row:
    """The row of a sample that could not be made."""
    return _known(task, goal, history) | {
        "status": "failed",
        "error": error,
        "label": task.codec,
        "params": json.dumps(task.params, sort_keys=True),
        "encoder": "",
        "measured": None,
        "reached": False,
        "reason": "",
        "encodes": 0,
        "chain": "[]",
        "container": "",
        "path": "",
        "file_bytes": 0,
        "file_sha256": "",
        "pixel_sha256": "",
        "width": 0,
        "height": 0,
        "channels": 0,
        **dict.fromkeys(("mean_red", "mean_green", "mean_blue")),
        **dict.fromkeys(("ratio", "bits_per_pixel", "psnr_db", "ssim", "ms_ssim")),
    }


@dataclass(frozen=True)
class _Made:
    """One encode that met its goal as well as it can."""

    data: bytes
    decoded: Image
    measures: dict[str, float]
    params: dict[str, Any]
    outcome: dict[str, Any]


class _Encoder:
    """The source of a task, read and prepared, with the search that its goals share."""

    def __init__(self, task: Task, probes: list[dict[str, Any]]) -> None:
        image = read_source(task.source.path)
        if pixel_hash(image) != task.source.pixel_sha256:
            raise CodecError(f"{task.source.file} changed while the dataset was being built")
        history = task.histories[0]
        # The same for every codec, so that their pictures have one size.
        draws = (task.source.pixel_sha256, f"setting{task.setting}", beginning_of(history))
        self._task = task
        self._image, self._before = history.prepare(image, generator(task.seed, *draws))
        self._codec = codec_from_params(task.codec, task.params)
        self._search = RateSearch(self._image, self._codec, probes=probes)

    def probes(self) -> list[dict[str, Any]]:
        """What the search has measured so far."""
        return self._search.probes()

    def sample(self, goal: Goal, history: History) -> tuple[Row, bytes]:
        """The row of one sample and the bytes of its file."""
        task = self._task
        made = self._encode(goal)
        chain = [*self._before, {"step": "compress", "codec": task.codec}]
        rng = np.random.default_rng(task.sample_seed(goal, history))
        finished = history.finish(made.data, task.codec, made.decoded, rng)
        chain += finished.steps
        data, stored = finished.data, finished.image
        row = _known(task, goal, history)
        folder = f"{ENCODED_FOLDER}/{task.codec}"
        row |= {
            "label": label_of(chain, task.label_rule),
            "params": json.dumps(made.params, sort_keys=True),
            "encoder": self._codec.version(),
            **made.outcome,
            "chain": json.dumps(chain, sort_keys=True),
            "container": finished.container,
            "path": f"{folder}/{row['sample_id']}{CODECS[finished.container].suffix}",
            "file_bytes": len(data),
            "file_sha256": hashlib.sha256(data).hexdigest(),
            "pixel_sha256": pixel_hash(stored),
            "width": stored.shape[1],
            "height": stored.shape[0],
            "channels": 1 if stored.ndim == 2 else 3,
            **_mean_color(stored),
            **made.measures,
        }
        return row, data

    def _encode(self, goal: Goal) -> _Made:
        if goal.target is None:
            data = self._codec.encode(self._image)
            decoded = self._codec.decode(data)
            measures = Reference(self._image).measure(decoded, len(data))
            outcome: dict[str, Any] = {
                "measured": None,
                "reached": True,
                "reason": "",
                "encodes": 1,
            }
            return _Made(data, decoded, measures, self._codec.params(), outcome)
        found = self._search.to(goal.target)
        outcome = {
            "measured": found.measured,
            "reached": found.reached,
            "reason": found.reason,
            "encodes": found.encodes,
        }
        params = found.codec.params()
        return _Made(found.data, found.decoded(), found.measures(), params, outcome)


def _kept(
    entries: list[Entry], names: list[str], storage: Storage, retry_failed: bool
) -> list[Entry]:
    """The entries up to the first that has to be made anew; the search builds on all before it."""
    kept = []
    for entry, name in zip(entries, names, strict=False):
        row = entry.row
        if row.get("sample_id") != name:
            break
        if row.get("status") == "ok":
            try:
                data = storage.read(row["path"])
            except FileNotFoundError:
                break
            if hashlib.sha256(data).hexdigest() != row["file_sha256"]:
                break
        elif retry_failed:
            break
        kept.append(entry)
    return kept


def _known(task: Task, goal: Goal, history: History) -> Row:
    """The columns that are known before encoding."""
    source = task.source
    return {
        "sample_id": task.sample_id(goal, history),
        "status": "ok",
        "error": "",
        "source_id": source.source_id,
        "source_file": source.file,
        "source_sha256": source.sha256,
        "source_pixel_sha256": source.pixel_sha256,
        "source_notes": "; ".join(source.notes),
        "origin": source.origin,
        "group": source.group,
        "split": task.split,
        "codec": task.codec,
        "target_kind": goal.kind,
        "target_nominal": goal.nominal,
        "target_value": None if goal.target is None else float(goal.target.value),
        "history": history.name,
        "seed": task.sample_seed(goal, history),
    }


def _mean_color(image: Image) -> dict[str, float]:
    """Mean of each channel, 0 … 255."""
    channels = image.reshape(*image.shape[:2], -1)
    # By rows first and in integers: a mean over pixels costs twenty times as much.
    sums = channels.sum(axis=0, dtype=np.uint32).sum(axis=0, dtype=np.uint64)
    means = sums / (image.shape[0] * image.shape[1])
    red, green, blue = (float(value) for value in np.broadcast_to(means, 3))
    return {"mean_red": red, "mean_green": green, "mean_blue": blue}


def _reason(task: Task, error: Exception) -> str:
    """An error as text that does not tell where the source lies on this machine."""
    text = str(error) if isinstance(error, CodecError) else f"{type(error).__name__}: {error}"
    return text.replace(os.fspath(task.source.path), task.source.file)
