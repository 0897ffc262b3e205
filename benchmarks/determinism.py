"""Does each codec give the same bytes and pixels every time?

Each codec's default and three more of its settings encode and decode a colour and a gray picture:
twice in one process, in two Python threads at once, and in other processes that are told to use
one thread, two threads, and that have one core alone. Prints a table, writes a CSV file and the
tools' versions beside it, and exits with 1 where bytes or pixels differ.

    python -m benchmarks.determinism
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from benchmarks.environment import write_environment, write_table
from benchmarks.generated_picture import generated_picture
from imagecompression import CODECS, Codec

SETTINGS = 4
"""Settings of a codec that are tried."""
THREAD_VARIABLES = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    *("BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "RAYON_NUM_THREADS"),
)
CHILD = (
    "import json, os, sys\n"
    "from benchmarks.determinism import digest\n"
    "from imagecompression import codec_from_params\n"
    "name, settings, one_core = json.load(sys.stdin)\n"
    "if one_core:\n"
    "    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    "print(json.dumps([digest(codec_from_params(name, params)) for params in settings]))\n"
)
"""What another process does; affinity first, before any library counts the cores."""


@dataclass(frozen=True)
class Row:
    """One line of the table: whether bytes and pixels equal those of a first encode.

    Attributes:
        again: In the same process.
        two_threads_at_once: Called from two Python threads at the same time, both.
        one_thread: In a process whose environment asks for one thread.
        two_threads: In a process whose environment asks for two threads.
        one_core: In a process that may use one core alone.
    """

    codec: str
    params: str
    again: bool
    two_threads_at_once: bool
    one_thread: bool
    two_threads: bool
    one_core: bool


CHECKS = tuple(field.name for field in fields(Row))[2:]


def digest(codec: Codec) -> str:
    """SHA-256 of the files and the decoded pixels of two pictures."""
    sha = hashlib.sha256()
    for picture in (generated_picture(181, 263, 3), generated_picture(120, 97, 1, seed=1)):
        data = codec.encode(picture)
        sha.update(data)
        sha.update(codec.decode(data).tobytes())
    return sha.hexdigest()


def settings(kind: type[Codec]) -> list[Codec]:
    """The default and others spread over the variants."""
    others = [variant for variant in kind.variants() if variant != kind()]
    count = min(SETTINGS - 1, len(others))
    return [kind(), *(others[number * len(others) // count] for number in range(count))]


def in_another_process(name: str, params: list[dict], threads: int, one_core: bool) -> list[str]:
    """`digest` of each setting by a process with this number of threads."""
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps([name, params, one_core]),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{name} failed in another process:\n{done.stderr}")
    return json.loads(done.stdout)


def check(name: str) -> list[Row]:
    """A row for each setting of a codec."""
    codecs = settings(CODECS[name])
    params = [codec.params() for codec in codecs]
    one_thread = in_another_process(name, params, 1, one_core=False)
    two_threads = in_another_process(name, params, 2, one_core=False)
    one_core = in_another_process(name, params, 1, one_core=True)
    rows = []
    for number, codec in enumerate(codecs):
        first = digest(codec)
        with ThreadPoolExecutor(2) as pool:
            # The other thread uses another setting, too: what is global must not leak.
            tasks = (codec, codecs[number - 1], codec, codecs[number - 1])
            at_once = list(pool.map(digest, tasks))
        rows.append(
            Row(
                codec=name,
                params=json.dumps(codec.params()),
                again=digest(codec) == first,
                two_threads_at_once=at_once[0] == at_once[2] == first and at_once[1] == at_once[3],
                one_thread=one_thread[number] == first,
                two_threads=two_threads[number] == first,
                one_core=one_core[number] == first,
            )
        )
    return rows


def print_table(rows: list[Row]) -> None:
    """One line a setting, with the parameters in which it differs from the default."""
    print(f"{'codec':<13}" + "".join(f"{name:>21}" for name in CHECKS) + "  setting")
    for row in rows:
        marks = "".join(f"{'same' if getattr(row, name) else 'DIFFERS':>21}" for name in CHECKS)
        params, usual = json.loads(row.params), CODECS[row.codec]().params()
        own = ", ".join(f"{key}={value}" for key, value in params.items() if usual[key] != value)
        print(f"{row.codec:<13}{marks}  {own or 'default'}")


def main() -> int:
    """Run, print, write; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=CODECS)
    parser.add_argument("--out", type=Path, default=Path("results/determinism.csv"))
    arguments = parser.parse_args()
    rows: list[Row] = []
    for name in [arguments.only] if arguments.only else CODECS:
        rows += check(name)
        print(f"{name} done", file=sys.stderr)
    print_table(rows)
    write_table(arguments.out, (asdict(row) for row in rows))
    write_environment(arguments.out)
    missed = [row for row in rows if not all(getattr(row, name) for name in CHECKS)]
    for row in missed:
        wrong = ", ".join(name for name in CHECKS if not getattr(row, name))
        print(f"missed: {row.codec} {row.params}: {wrong}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
