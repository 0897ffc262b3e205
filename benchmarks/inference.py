"""How fast a run classifies: megapixels of patches a second and core, and commands started cold.

The CPU time of a whole process, all its threads together, stands for one core; the least of
several rounds counts, because other work on the machine only ever adds to it. Commands are
`classify` and `report` on a picture of one and of twelve megapixels: wall and CPU seconds from an
empty process, and the most memory it held.

    python -m benchmarks.inference
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.environment import write_environment, write_table
from benchmarks.generated_picture import generated_picture
from imagecompression.lossless import Lossless
from train.classification import DEFAULT_RUN
from train.run import Run
from train.verdict import telling_patches

ROUNDS = 8
COLD_ROUNDS = 5
SIZES = {"1 megapixel": (1024, 1024), "12 megapixels": (3000, 4000)}
"""Heights and widths of the pictures for the commands."""


def cold(command: list[str]) -> dict[str, float]:
    """The least wall seconds, CPU seconds and MiB of several runs of a command of main.py."""
    watched = [sys.executable, "-m", "benchmarks.cold_command", "main.py", *command]
    # As on most machines: Python keeps what it compiled, from the first round on.
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    rounds = []
    for _ in range(COLD_ROUNDS):
        done = subprocess.run(watched, env=usual, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"main.py {' '.join(command)} ended with {done.returncode}")
        rounds.append(json.loads(done.stdout))
    return {
        "wall seconds": round(min(one["wall"] for one in rounds), 2),
        "CPU seconds": round(min(one["cpu"] for one in rounds), 2),
        "MiB at most": round(max(one["mebibytes"] for one in rounds)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=DEFAULT_RUN)
    parser.add_argument("--out", type=Path, default=Path("results/inference.csv"))
    arguments = parser.parse_args()
    run = Run.load(arguments.run)
    picture = generated_picture(1024, 1024, 3)
    patches, _ = telling_patches(picture, run.patch_size)
    pixels = patches[..., 0].size
    run.predict(patches)
    seconds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        run.predict(patches)
        seconds.append(time.process_time() - started)
    speed = pixels / min(seconds) / 1e6
    rows = [
        {"what": "megapixels a core-second", "value": round(speed, 3)},
        {"what": "patches a core-second", "value": round(len(patches) / min(seconds), 1)},
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name, (height, width) in SIZES.items():
            file = Path(folder) / f"{width}.png"
            file.write_bytes(Lossless().encode(generated_picture(height, width, 3)))
            for command in ("classify", "report"):
                out = ["--out", f"{folder}/reports"] if command == "report" else []
                arguments_of = [command, str(file), "--json", "--run", str(arguments.run), *out]
                for what, value in cold(arguments_of).items():
                    rows.append({"what": f"{command} of {name}, {what}", "value": value})
    write_table(arguments.out, rows)
    write_environment(arguments.out)
    for row in rows:
        print(f"{row['what']}: {row['value']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
