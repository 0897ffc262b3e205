"""Rate control on Kodak: encodes for each target, and every answer is near or its reason true.

Nine targets share one search for each picture and codec. Each answer is checked without the
search's own code: the ratio from the file's size, the SSIM by scikit-image, and for a target said
to be out of reach or between two steps the encodes at the bound or at both neighbours are made
again. A target is *reachable* if it lies between what the ends of the knob measure. An answer is
*near* if its ratio is within 2 %, or within half of the knob's step towards the target where that
is larger, or its SSIM within 0.003.

    python -m benchmarks.rate_control --data ../shared/data/kodak --out results/rate_control.csv
"""

from __future__ import annotations

import argparse
import functools
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import write_environment, write_table
from imagecompression import CODECS, Codec, Image, RateSearch, RatioTarget, SsimTarget, Target
from imagecompression.image_io import read_image
from imagecompression.metrics import luma
from imagecompression.rate import RATIO_AIM, SSIM_AIM, search_order

TARGETS: tuple[Target, ...] = (
    *(RatioTarget(ratio) for ratio in (5, 8, 12, 20, 40)),
    *(SsimTarget(ssim) for ssim in (0.80, 0.90, 0.95, 0.98)),
)
LOSSY = [name for name, kind in CODECS.items() if kind.knob is not None]


class Witness:
    """What the files of one picture and codec measure, by code that the search does not use."""

    def __init__(self, image: Image, codec: Codec) -> None:
        self.image = image
        self.codec = codec
        self.at = functools.cache(self._at)
        self.encoded = functools.cache(self._encoded)

    def measure(self, kind: str, data: bytes) -> float:
        if kind == "ratio":
            return self.image.nbytes / len(data)
        from skimage.metrics import structural_similarity

        return float(
            structural_similarity(
                luma(self.image), luma(self.codec.decode(data)), data_range=255,
                gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            )
        )  # fmt: skip

    def _at(self, kind: str, index: int) -> float:
        """The measure at a grid index of the knob."""
        return self.measure(kind, self.encoded(index))

    def _encoded(self, index: int) -> bytes:
        knob = self.codec.knob
        assert knob is not None
        return self.codec.with_knob(knob.value(index)).encode(self.image)

    def reachable(self, target: Target) -> bool:
        knob = self.codec.knob
        assert knob is not None
        ends = sorted(self.at(target.kind, index) for index in (0, knob.last_index))
        return ends[0] <= target.value <= ends[1]

    def near(self, target: Target, index: int, measured: float) -> bool:
        """Whether `measured`, at the knob's grid index `index`, is within the issue's tolerance."""
        knob = self.codec.knob
        assert knob is not None
        error = abs(measured - target.value)
        if target.kind == "ssim":
            return error <= SSIM_AIM
        if error <= RATIO_AIM * target.value:
            return True
        # A file that is too small asks for the next larger index.
        other = index + (1 if measured > target.value else -1)
        if not 0 <= other <= knob.last_index:
            return False
        return error <= abs(self.at("ratio", other) - measured) / 2

    def reason_holds(self, target: Target, reason: str) -> bool:
        """Whether the bound or the two steps that `reason` blames really miss the target."""
        knob = self.codec.knob
        assert knob is not None
        goal, tolerance = target.value, target.tolerance(self.codec)
        larger_is_smaller_file = target.kind == "ratio"
        if "out of reach: the smallest file" in reason:
            value = self.at(target.kind, 0)
            return value < goal - tolerance if larger_is_smaller_file else value > goal + tolerance
        if "out of reach: the largest file" in reason:
            value = self.at(target.kind, knob.last_index)
            return value > goal + tolerance if larger_is_smaller_file else value < goal - tolerance
        if "falls between two steps" in reason:
            used = float(reason.split(": ")[1].split()[0])
            index = next(i for i in range(knob.last_index + 1) if np.isclose(knob.value(i), used))
            values = sorted(self.at(target.kind, each) for each in (index, index + 1))
            return values[0] < goal - tolerance and values[1] > goal + tolerance
        return False


def check(task: tuple[Path, str]) -> list[dict[str, object]]:
    """A row for each target on one picture by one codec."""
    from imagecompression.thread_limit import one_thread

    path, name = task
    rows = []
    with one_thread():
        image, kind = read_image(path), CODECS[name]
        knob, search, witness = kind.knob, RateSearch(image, kind()), Witness(image, kind())
        assert knob is not None
        for number in search_order(TARGETS):
            target = TARGETS[number]
            found = search.to(target)
            measured = witness.measure(target.kind, found.data)
            within = abs(measured - target.value) <= target.tolerance(found.codec) + 1e-6
            true = within if found.reached else witness.reason_holds(target, found.reason)
            params = found.codec.params()
            error = measured - target.value
            rows.append(
                {
                    "picture": path.name,
                    "codec": name,
                    "target": target.kind,
                    "value": target.value,
                    "tolerance": round(target.tolerance(found.codec), 4),
                    "measured": round(found.measured, 5),
                    "second_opinion": round(measured, 5),
                    "error": round(error / target.value if target.kind == "ratio" else error, 5),
                    "encodes": found.encodes,
                    "reached": found.reached,
                    "reachable": witness.reachable(target),
                    "near": witness.near(target, found.probe.index, measured),
                    "answer_true": true,
                    "knob": params[knob.field],
                    "fine_knob": params[kind.fine_knob.field] if kind.fine_knob else "",
                    "reason": found.reason,
                }
            )
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    def mean(name: str, own: list[dict[str, Any]]) -> float:
        return float(np.mean([float(row[name]) for row in own])) if own else np.nan

    print(f"{'codec':10} {'encodes':>8} {'reachable':>10} {'near':>7}  near by target")
    for name in [*LOSSY, "all"]:
        own = [row for row in rows if name in ("all", row["codec"])]
        within = [row for row in own if row["reachable"]]
        each = [
            mean("near", [r for r in within if (r["target"], r["value"]) == (t.kind, t.value)])
            for t in TARGETS
        ]
        if own:
            print(
                f"{name:10} {mean('encodes', own):8.3f} {len(within):4}/{len(own):<5} "
                f"{mean('near', within):7.1%}  " + " ".join(f"{share:5.0%}" for share in each)
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/kodak"))
    parser.add_argument("--out", type=Path, default=Path("results/rate_control.csv"))
    parser.add_argument("--codecs", nargs="+", choices=LOSSY, default=LOSSY)
    parser.add_argument("--pictures", type=int, help="only the first so many")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    pictures = sorted(each for each in arguments.data.rglob("*") if each.suffix in (".png", ".tif"))
    if not pictures:
        parser.error(f"no PNG or TIFF in {arguments.data}")
    tasks = [(path, name) for path in pictures[: arguments.pictures] for name in arguments.codecs]
    rows: list[dict[str, object]] = []
    with ProcessPoolExecutor(arguments.workers) as pool:
        for done, part in enumerate(pool.map(check, tasks), start=1):
            rows += part
            if done % len(arguments.codecs) == 0:
                print(f"{done}/{len(tasks)} pictures and codecs", file=sys.stderr)
    write_table(arguments.out, rows)
    write_environment(arguments.out)
    print_table(rows)
    wrong = [row for row in rows if not row["answer_true"]]
    for row in wrong:
        print("WRONG", row, file=sys.stderr)
    encodes = np.mean([int(str(row["encodes"])) for row in rows])
    print(f"{len(rows)} answers, {len(wrong)} wrong, {encodes:.2f} encodes for a target")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
