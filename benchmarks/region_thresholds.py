"""How the thresholds of `desk.regions` are set: by splices of sources never trained on.

Splices as in `benchmarks.splices`, from those pictures of the training set that the run's network
was not trained on (its validation and test splits), so that the figures of other pictures stay
blind. Of all settings that call at most 3 % of the unspliced pictures mixed, the one with the
greatest mean F1; of equal ones the strictest.

    python -m benchmarks.region_thresholds --data ../shared/data/train --folder ../thresholds
"""

from __future__ import annotations

import itertools
import math
import sys
from dataclasses import dataclass

import numpy as np

from benchmarks.environment import write_environment, write_table
from benchmarks.progress import log
from benchmarks.source_pictures import pictures_in
from benchmarks.splices import Case, f1, make_cases, splices_parser
from desk.regions import Thresholds, find_regions
from imagecompression.file_hash import file_sha256
from train.run import Run

MOST_FALSE_ALARMS = 0.03

GAINS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
GAINS_OF_UNCOMPRESSED = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5)
SMALLEST_REGIONS = (4, 6, 8, 10, 12)


@dataclass(frozen=True)
class Scores:
    """What is found in a case at one size of regions, however small the gain.

    Attributes:
        gains: Of the splice's border between codecs, and of the one to "uncompressed"; 0 if none.
        f1: Of both.
        ground_gains: As `gains`, of the unspliced picture.
    """

    gains: tuple[float, float]
    f1: tuple[float, float]
    ground_gains: tuple[float, float]

    def f1_at(self, thresholds: Thresholds) -> float:
        """F1 of the splice as `find_regions` with these thresholds answers; 0 if not mixed."""
        place = _accepted(self.gains, thresholds)
        return 0.0 if place is None else self.f1[place]

    def alarm_at(self, thresholds: Thresholds) -> bool:
        """Whether the unspliced picture is called mixed."""
        return _accepted(self.ground_gains, thresholds) is not None


def scores_of(case: Case, smallest_region: int) -> Scores:
    """Find each kind of border by itself: the search does not depend on the gains asked."""
    kinds = (
        Thresholds(-math.inf, math.inf, smallest_region),
        Thresholds(math.inf, -math.inf, smallest_region),
    )
    codecs, plain = (find_regions(case.map, kind) for kind in kinds)
    ground_codecs, ground_plain = (find_regions(case.ground_map, kind) for kind in kinds)
    return Scores(
        (codecs.gain, plain.gain),
        (f1(case, codecs), f1(case, plain)),
        (ground_codecs.gain, ground_plain.gain),
    )


def _accepted(gains: tuple[float, float], thresholds: Thresholds) -> int | None:
    """Which border is clear enough; that between codecs is asked first."""
    asked = (thresholds.least_gain, thresholds.least_gain_of_uncompressed)
    return next((place for place in range(2) if gains[place] >= asked[place]), None)


def main() -> int:
    arguments = splices_parser(__doc__, "train", "region_thresholds", seed=2).parse_args()
    run = Run.load(arguments.run)
    known = set(run.sources["train"])
    files = [path for path in pictures_in(arguments.data) if file_sha256(path) not in known]
    print(f"{len(files)} pictures that were not trained on", file=sys.stderr)
    cases = make_cases(files, run, arguments.folder, arguments.count, arguments.seed)
    table = []
    for number, smallest in enumerate(SMALLEST_REGIONS, 1):
        scores = [scores_of(case, smallest) for case in cases]
        for gains in itertools.product(GAINS, GAINS_OF_UNCOMPRESSED):
            thresholds = Thresholds(*gains, smallest)
            found = [one.f1_at(thresholds) for one in scores]
            alarms = [one.alarm_at(thresholds) for one in scores]
            table.append(
                {
                    "least_gain": gains[0],
                    "least_gain_of_uncompressed": gains[1],
                    "smallest_region": smallest,
                    "pictures": len(cases),
                    "unspliced_mixed": round(float(np.mean(alarms)), 4),
                    "mixed": round(float(np.mean([score > 0 for score in found])), 4),
                    "f1": round(float(np.mean(found)), 4),
                }
            )
        log("sizes of regions", number, len(SMALLEST_REGIONS))
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
