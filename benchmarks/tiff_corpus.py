"""Read every file of a folder of TIFF test files, each in a child process, and record what came.

Prints a summary and writes one CSV row a file. Exits with 1 when a file gave anything but a picture
or an `ImageReadError`, took longer than the time limit, or more memory than the limit.

    python -m benchmarks.tiff_corpus --data ../shared/data/tiff --out results/tiff_corpus.csv
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks.environment import write_environment, write_table
from imagecompression.image_io import ImageReadError, load_image

SECONDS_LIMIT = 30
MEMORY_LIMIT_MIB = 2048
FIELDS = [
    "file", "status", "shape", "bit_depth", "inner_codec", "mean", "message", "seconds", "peak_mib",
]  # fmt: skip


def read_in_child(name: str, pipe: Connection) -> None:
    """Read one file and send its row; the child's peak memory counts from its own start."""
    row: dict[str, object] = {"file": name}
    start = time.perf_counter()
    try:
        loaded = load_image(name)
        row |= {
            "status": "read",
            "shape": "×".join(map(str, loaded.pixels.shape)),
            "bit_depth": loaded.bit_depth,
            "inner_codec": loaded.inner_codec or "",
            "mean": f"{np.mean(loaded.pixels):.2f}",
            "message": "; ".join(loaded.notes),
        }
    except ImageReadError as error:
        row |= {"status": "refused", "message": str(error)}
    except BaseException as error:
        row |= {"status": "crash", "message": f"{type(error).__name__}: {error}"}
    row["seconds"] = f"{time.perf_counter() - start:.3f}"
    row["peak_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    pipe.send(row)


def read_one(name: str) -> dict[str, object]:
    """Row of one file, read in a forked child that is killed at the time limit."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=read_in_child, args=(name, sender))
    child.start()
    sender.close()
    row: dict[str, object] = {"file": name, "status": "crash", "message": "the process died"}
    if not receiver.poll(SECONDS_LIMIT):
        row |= {"status": "hang", "message": f"more than {SECONDS_LIMIT} s"}
        child.kill()
    else:
        with contextlib.suppress(EOFError):
            row = receiver.recv()
    child.join()
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/tiff"))
    parser.add_argument("--out", type=Path, default=Path("results/tiff_corpus.csv"))
    options = parser.parse_args()
    out = options.out.resolve()
    os.chdir(options.data)  # so that no message holds an absolute path

    names = sorted(str(path) for path in Path().rglob("*") if path.is_file())
    rows = [read_one(name) for name in names]

    write_table(out, rows)
    write_environment(out)

    bad = 0
    for status in ("read", "refused", "crash", "hang"):
        print(f"{status:8} {sum(row['status'] == status for row in rows)}")
    for row in rows:
        heavy = int(str(row.get("peak_mib", 0))) > MEMORY_LIMIT_MIB
        if heavy or row["status"] in ("crash", "hang"):
            bad += 1
            print(
                f"BAD {row['file']}: {row['status']}, {row.get('peak_mib')} MiB, {row['message']}"
            )
    slowest = max(rows, key=lambda row: float(str(row.get("seconds", 0))))
    largest = max(rows, key=lambda row: int(str(row.get("peak_mib", 0))))
    print(f"slowest  {slowest.get('seconds')} s, {slowest['file']}")
    print(f"largest  {largest.get('peak_mib')} MiB, {largest['file']}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
