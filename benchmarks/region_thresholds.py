"""How the thresholds of `desk.regions` are set: by splices of sources never trained on.

Splices as in `benchmarks.splices`, from those pictures of the training set that the run's network
was not trained on (its validation and test splits), so that the figures of other pictures stay
blind. Of all settings that call at most 2 % of the unspliced pictures mixed (3 % is the aim, and
these pictures are of the training set's cameras), the one with the greatest mean F1; of equal ones
the strictest.

    python -m benchmarks.region_thresholds --data ../shared/data/train --folder ../thresholds
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np

from benchmarks.environment import write_environment, write_table
from benchmarks.progress import log
from benchmarks.splices import f1, make_cases
from desk.regions import Thresholds, find_regions
from imagecompression.file_hash import file_sha256
from train.classification import DEFAULT_RUN
from train.run import Run

MOST_FALSE_ALARMS = 0.02

GAINS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.25)
GAINS_OF_UNCOMPRESSED = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
SMALLEST_REGIONS = (6, 8, 10, 12)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/train"))
    parser.add_argument("--folder", type=Path, default=Path("../thresholds"))
    parser.add_argument("--run", type=Path, default=DEFAULT_RUN)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/region_thresholds.csv"))
    arguments = parser.parse_args()
    known = set(Run.load(arguments.run).sources["train"])
    files = [
        path
        for path in sorted(arguments.data.iterdir())
        if path.suffix in (".png", ".tif") and file_sha256(path) not in known
    ]
    print(f"{len(files)} pictures that were not trained on", file=sys.stderr)
    cases = make_cases(files, arguments.run, arguments.folder, arguments.count, arguments.seed)
    table = []
    settings = list(itertools.product(GAINS, GAINS_OF_UNCOMPRESSED, SMALLEST_REGIONS))
    for done, setting in enumerate(settings, start=1):
        thresholds = Thresholds(*setting)
        scores = [f1(case, find_regions(case.map, thresholds)) for case in cases]
        alarms = [find_regions(case.ground_map, thresholds).is_mixed for case in cases]
        table.append(
            {
                "least_gain": setting[0],
                "least_gain_of_uncompressed": setting[1],
                "smallest_region": setting[2],
                "pictures": len(cases),
                "unspliced_mixed": round(float(np.mean(alarms)), 4),
                "mixed": round(float(np.mean([score > 0 for score in scores])), 4),
                "f1": round(float(np.mean(scores)), 4),
            }
        )
        log("settings", done, len(settings))
    write_table(arguments.out, table)
    write_environment(arguments.out)
    allowed = [row for row in table if row["unspliced_mixed"] <= MOST_FALSE_ALARMS]
    if not allowed:
        print("No setting keeps to the false alarms allowed", file=sys.stderr)
        return 1
    print(max(allowed, key=lambda row: (row["f1"], *list(row.values())[:3])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
