"""Rate control on Kodak: every result is within tolerance, or its reason is true.

Each answer is checked without the search's own code: the ratio from the file's size, the SSIM by
scikit-image, and for a target said to be out of reach or between two steps the encodes at the
bound or at both neighbours are made again.

    python -m benchmarks.rate_control --data ../shared/data/kodak --out results/rate_control.csv
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.environment import write_environment
from imagecompression import CODECS, Codec, Image, RateSearch, RatioTarget, SsimTarget, Target
from imagecompression.image_io import read_image
from imagecompression.metrics import luma

TARGETS: tuple[Target, ...] = (
    RatioTarget(10), RatioTarget(20), RatioTarget(40), SsimTarget(0.9), SsimTarget(0.95),
)  # fmt: skip


def second_opinion(kind: str, image: Image, codec: Codec, data: bytes) -> float:
    """The measured value, by code that the search does not use."""
    if kind == "ratio":
        return image.nbytes / len(data)
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(
            luma(image), luma(codec.decode(data)), data_range=255,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )
    )  # fmt: skip


def reason_holds(image: Image, codec: Codec, target: Target, reason: str) -> bool:
    """Whether the bound or the two steps that `reason` blames really do not meet the target."""
    knob = codec.knob
    assert knob is not None

    def measure(index: int) -> float:
        at = codec.with_knob(knob.value(index))
        return second_opinion(target.kind, image, at, at.encode(image))

    goal, tolerance = target.value, target.tolerance(codec)
    larger_is_smaller_file = target.kind == "ratio"
    if "out of reach: the smallest file" in reason:
        value = measure(0)
        return value < goal - tolerance if larger_is_smaller_file else value > goal + tolerance
    if "out of reach: the largest file" in reason:
        value = measure(knob.last_index)
        return value > goal + tolerance if larger_is_smaller_file else value < goal - tolerance
    if "falls between two steps" in reason:
        used = float(reason.split(": ")[1].split(" gives")[0])
        index = next(i for i in range(knob.last_index + 1) if np.isclose(knob.value(i), used))
        values = sorted((measure(index), measure(index + 1)))
        return values[0] < goal - tolerance and values[1] > goal + tolerance
    return False


def check_picture(path: Path) -> list[dict[str, object]]:
    """A row for each codec and target on one picture."""
    from imagecompression.thread_limit import one_thread

    rows = []
    with one_thread():
        image = read_image(path)
        for name, kind in CODECS.items():
            if kind.knob is None:
                continue
            search = RateSearch(image, kind())
            for target in TARGETS:
                found = search.to(target)
                checked = second_opinion(target.kind, image, found.codec, found.data)
                within = abs(checked - target.value) <= target.tolerance(found.codec) + 1e-6
                true = (
                    within
                    if found.reached
                    else reason_holds(image, found.codec, target, found.reason)
                )
                rows.append(
                    {
                        "picture": path.name,
                        "codec": name,
                        "target": target.kind,
                        "value": target.value,
                        "tolerance": round(target.tolerance(found.codec), 4),
                        "measured": round(found.measured, 5),
                        "second_opinion": round(checked, 5),
                        "encodes": found.encodes,
                        "reached": found.reached,
                        "answer_true": true,
                        "knob": found.codec.params()[kind.knob.field],
                        "reason": found.reason,
                    }
                )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/kodak"))
    parser.add_argument("--out", type=Path, default=Path("results/rate_control.csv"))
    arguments = parser.parse_args()
    pictures = sorted(arguments.data.glob("*.png"))
    if not pictures:
        parser.error(f"no PNG in {arguments.data}")
    rows: list[dict[str, object]] = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for done, part in enumerate(pool.map(check_picture, pictures), start=1):
            rows += part
            print(f"{done}/{len(pictures)} pictures", file=sys.stderr)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_environment(arguments.out)
    print(f"{'codec':10} {'target':6} {'value':>6} {'reached':>8} {'true':>6} {'encodes':>8}")
    for name in CODECS:
        for target in TARGETS:
            own = [
                r for r in rows
                if (r["codec"], r["target"], r["value"]) == (name, target.kind, target.value)
            ]  # fmt: skip
            if own:
                reached, true = (
                    sum(bool(r["reached"]) for r in own),
                    sum(bool(r["answer_true"]) for r in own),
                )
                encodes = np.mean([int(str(r["encodes"])) for r in own])
                print(
                    f"{name:10} {target.kind:6} {target.value:6g} {reached:4}/{len(own):<3} "
                    f"{true:3}/{len(own):<3} {encodes:6.2f}"
                )
    wrong = [row for row in rows if not row["answer_true"]]
    for row in wrong:
        print("WRONG", row, file=sys.stderr)
    encodes = np.mean([int(str(row["encodes"])) for row in rows])
    print(f"{len(rows)} answers, {len(wrong)} wrong, {encodes:.2f} encodes for a target")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
