"""How fast a run classifies: megapixels of patches a second and core, and a cold `classify`.

The CPU time of the whole process, all its threads together, stands for one core; the least of
several rounds counts, because other work on the machine only ever adds to it.

    python -m benchmarks.inference
"""

from __future__ import annotations

import argparse
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

PATCHES = 256
ROUNDS = 8
SIDE = 1024
"""Of the picture for the cold `classify`, in pixels."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=DEFAULT_RUN)
    parser.add_argument("--out", type=Path, default=Path("results/inference.csv"))
    arguments = parser.parse_args()
    run = Run.load(arguments.run)
    picture = generated_picture(SIDE, SIDE, 3)
    patches, _ = telling_patches(picture, run.patch_size, PATCHES)
    pixels = patches[..., 0].size
    run.predict(patches)
    seconds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        run.predict(patches)
        seconds.append(time.process_time() - started)
    speed = pixels / min(seconds) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "picture.png"
        file.write_bytes(Lossless().encode(picture))
        walls = []
        for _ in range(3):
            started = time.perf_counter()
            command = [sys.executable, "main.py", "classify", str(file), "--json"]
            subprocess.run([*command, "--run", str(arguments.run)], check=True, capture_output=True)
            walls.append(time.perf_counter() - started)
    rows = [
        {"what": "megapixels a core-second", "value": round(speed, 3)},
        {"what": "patches a core-second", "value": round(len(patches) / min(seconds), 1)},
        {"what": "cold classify of a megapixel, wall seconds", "value": round(min(walls), 2)},
    ]
    write_table(arguments.out, rows)
    write_environment(arguments.out)
    for row in rows:
        print(f"{row['what']}: {row['value']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
