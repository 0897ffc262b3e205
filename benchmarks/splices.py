"""How well *mixed* is told: pictures put together of two codecs' pixels, and pictures that are not.

Each splice has two classes (every pair of the run's classes in turn), each at a ratio from 5 to 40
(met within a quarter), at a setting drawn from the codec's own. One half of the picture, or a
square at any pixel, comes from another encode of the same picture or from another picture. The
unspliced ones are the pictures pasted into, before that. Nothing is compressed afterwards (saved
as PNG). F1 is that of the region that fits the pasted part best, over all pixels, flat ones too; 0
where the picture was not called mixed. Encodes and the network's answers are kept in the working
folder, so that a second time is quick.

    python -m benchmarks.splices --data ../shared/data/val --folder ../splices
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.environment import write_environment, write_table
from benchmarks.progress import log
from benchmarks.source_pictures import pictures_in
from datasets.operations import Compress
from datasets.patches import as_rgb
from desk.regions import Regions, find_regions
from desk.trace_map import TraceMap, trace_map
from imagecompression import Image, Lossless
from imagecompression.atomic_file import write_bytes_atomic
from imagecompression.image_io import read_image
from train.answers import RememberedAnswers
from train.classification import DEFAULT_RUN
from train.families import family_of
from train.run import Run

RATIOS = (5.0, 40.0)
SQUARES = (128, 192, 256)
"""Sides of pasted squares in pixels; a quarter of the splices has halves instead."""

SIDE = 512
"""Pictures are cut to their middle of this side, to save time."""

UNCOMPRESSED = "uncompressed"


@dataclass(frozen=True)
class Part:
    """A source picture as one class's codec leaves it."""

    file: Path
    label: str
    seed: int

    @property
    def name(self) -> str:
        """Of its files in the working folder."""
        return f"{self.file.stem}-{self.label}-{self.seed}"


@dataclass(frozen=True)
class Splice:
    """What is put together: `pasted` goes into `ground`."""

    ground: Part
    pasted: Part
    shape: str
    seed: int

    @property
    def pair(self) -> str:
        """Both classes, in the order of the alphabet."""
        return "+".join(sorted((self.ground.label, self.pasted.label)))


def plan(files: Sequence[Path], labels: Sequence[str], count: int, seed: int) -> list[Splice]:
    """`count` splices: pairs of classes in turn, shapes in turn; fewer are the first of more."""
    pairs = list(itertools.combinations(labels, 2))
    shapes = ["halves", *(f"square {side}" for side in SQUARES)]
    splices = []
    for number in range(count):
        turn, place = divmod(number, len(pairs))
        order = np.random.default_rng((seed, turn)).permutation(len(pairs))
        random = np.random.default_rng((seed, turn, place))
        first, second = random.permutation(pairs[order[place]])
        ground, other = random.choice(len(files), 2, replace=False)
        donor = ground if random.random() < 0.5 else other
        seeds = random.integers(0, 2**32, 3).tolist()
        splices.append(
            Splice(
                Part(files[ground], str(first), seeds[0]),
                Part(files[donor], str(second), seeds[1]),
                shapes[number % len(shapes)],
                seeds[2],
            )
        )
    return splices


def compressed(part: Part, folder: Path) -> tuple[Image, float]:
    """The decoded middle of the picture and the ratio that came out; kept in `folder`."""
    picture = folder / "parts" / f"{part.name}.png"
    facts = picture.with_suffix(".json")
    if not facts.exists():
        image, ratio = middle(as_rgb(read_image(part.file))), 1.0
        if part.label != UNCOMPRESSED:
            step = Compress((part.label,), ratio=RATIOS)
            image, record = step.apply(image, np.random.default_rng(part.seed))
            ratio = record["ratio"]
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(Lossless().encode(as_rgb(image)))
        facts.write_text(json.dumps({"ratio": ratio}), encoding="utf-8")
    return read_image(picture), float(json.loads(facts.read_text())["ratio"])


def middle(image: Image) -> Image:
    """The middle of a picture, both sides at most `SIDE`."""
    top, left = (max(0, length - SIDE) // 2 for length in image.shape[:2])
    return image[top : top + SIDE, left : left + SIDE]


def spliced(splice: Splice, ground: Image, pasted: Image) -> tuple[Image, npt.NDArray[np.bool_]]:
    """The picture, and where it was pasted into."""
    random = np.random.default_rng(splice.seed)
    height = min(ground.shape[0], pasted.shape[0])
    width = min(ground.shape[1], pasted.shape[1])
    picture = ground.copy() if splice.shape != "halves" else ground[:height, :width].copy()
    truth = np.zeros(picture.shape[:2], np.bool_)
    if splice.shape == "halves":
        if random.random() < 0.5:
            truth[:, int(width * random.uniform(0.4, 0.6)) :] = True
        else:
            truth[int(height * random.uniform(0.4, 0.6)) :] = True
        picture[truth] = pasted[:height, :width][truth]
        return picture, truth
    side = int(splice.shape.split()[1])
    to_y, to_x = (int(random.integers(0, length - side + 1)) for length in picture.shape[:2])
    from_y, from_x = (int(random.integers(0, length - side + 1)) for length in pasted.shape[:2])
    inside = np.s_[to_y : to_y + side, to_x : to_x + side]
    picture[inside] = pasted[from_y : from_y + side, from_x : from_x + side]
    truth[inside] = True
    return picture, truth


class RememberingRun(Run):
    """A run that asks about equal patches once: a splice shares most of them with its ground."""

    @cached_property
    def _remembered(self) -> RememberedAnswers:
        return RememberedAnswers(super().predict, most=1000)

    def predict(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """See `Run.predict`."""
        return self._remembered(pixels) if len(pixels) else super().predict(pixels)

    def forget(self) -> None:
        """Make room for another picture's patches."""
        self.__dict__.pop("_remembered", None)


@dataclass(frozen=True)
class Case:
    """One splice, and what the network says of it and of what it was pasted into."""

    splice: Splice
    ratios: tuple[float, float]
    truth: npt.NDArray[np.bool_]
    map: TraceMap
    ground_map: TraceMap


def make_case(splice: Splice, run: RememberingRun, folder: Path) -> Case:
    """Make a splice and ask the network; encodes and answers are kept in `folder`."""
    described = f"{splice.ground.name} {splice.pasted.name} {splice.shape} {splice.seed}"
    digest = hashlib.sha256(f"{described} {run.model_sha256}".encode()).hexdigest()[:32]
    kept = folder / "cases" / f"{digest}.npz"
    if not kept.exists():
        ground, ground_ratio = compressed(splice.ground, folder)
        pasted, pasted_ratio = compressed(splice.pasted, folder)
        picture, truth = spliced(splice, ground, pasted)
        run.forget()
        maps = [trace_map(image, run) for image in (ground, picture)]
        facts = {"ratios": [ground_ratio, pasted_ratio], "maps": [_facts(one) for one in maps]}
        packed = io.BytesIO()
        np.savez_compressed(
            packed,
            facts=json.dumps(facts),
            truth=truth,
            ground=maps[0].probabilities,
            picture=maps[1].probabilities,
        )
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(kept, packed.getvalue())
    with np.load(kept) as arrays:
        facts = json.loads(str(arrays["facts"]))
        ground_map, found = (
            _read_map(one, arrays[name])
            for one, name in zip(facts["maps"], ("ground", "picture"), strict=True)
        )
        ratios = (float(facts["ratios"][0]), float(facts["ratios"][1]))
        return Case(splice, ratios, arrays["truth"], found, ground_map)


def _read_map(facts: dict[str, Any], probabilities: npt.NDArray[np.float64]) -> TraceMap:
    tuples: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()
    }
    return TraceMap(**tuples, probabilities=probabilities)


def _facts(found: TraceMap) -> dict[str, Any]:
    fields = [field.name for field in dataclasses.fields(found) if field.name != "probabilities"]
    return {name: getattr(found, name) for name in fields}


def f1(case: Case, found: Regions) -> float:
    """F1 of the region, or of all regions of one family, that fits the pasted part best."""
    height, width = case.truth.shape
    best = 0.0
    for family in {region.family for region in found.regions}:
        mask = np.zeros_like(case.truth)
        for place, region in enumerate(found.regions):
            if region.family == family:
                mask |= found.mask(place, height, width)
        best = max(
            best, 2 * float(np.sum(mask & case.truth)) / float(mask.sum() + case.truth.sum())
        )
    return best


def groups(case: Case) -> Iterable[tuple[str, str]]:
    """The rows of the table that a splice counts for."""
    labels = (case.splice.ground.label, case.splice.pasted.label)
    yield "all", ""
    twins = family_of(labels[0]) == family_of(labels[1])
    yield "twins", "of one family" if twins else "of two families"
    yield "size", case.splice.shape
    same = case.splice.ground.file == case.splice.pasted.file
    yield "donor", "the same picture" if same else "another picture"
    ratios = [r for r, label in zip(case.ratios, labels, strict=True) if label != UNCOMPRESSED]
    band = "8:1 and over" if min(ratios) >= 8 else "under 8:1"
    yield "least ratio", f"{band}, uncompressed" if UNCOMPRESSED in labels else f"{band}, codecs"
    yield "pair", case.splice.pair


def rows(cases: Sequence[Case]) -> list[dict[str, object]]:
    """The table: spliced pictures by group, then unspliced ones by class."""
    counts: dict[tuple[str, str, str], list[tuple[bool, float]]] = defaultdict(list)
    for case in cases:
        score = f1(case, find_regions(case.map))
        for group, value in groups(case):
            counts["spliced", group, value].append((score > 0, score))
        mixed = find_regions(case.ground_map).is_mixed
        for group, value in (("all", ""), ("class", case.splice.ground.label)):
            counts["unspliced", group, value].append((mixed, 0.0))
    order = ("all", "twins", "size", "donor", "least ratio", "class", "pair")
    table = []
    for key in sorted(counts, key=lambda key: (key[0], order.index(key[1]), key[2])):
        scores = [score for _, score in counts[key]]
        found = [score for is_mixed, score in counts[key] if is_mixed]
        spliced = key[0] == "spliced"
        table.append(
            {
                "pictures": key[0],
                "group": key[1],
                "value": key[2],
                "count": len(scores),
                "mixed": round(len(found) / len(scores), 4),
                "f1": round(float(np.mean(scores)), 4) if spliced else "",
                "f1_where_mixed": round(float(np.mean(found)), 4) if spliced and found else "",
            }
        )
    return table


def make_cases(
    files: Sequence[Path], loaded: Run, folder: Path, count: int, seed: int
) -> list[Case]:
    """The splices of `plan` from pictures, with the run's answers."""
    run = RememberingRun(**{one.name: getattr(loaded, one.name) for one in dataclasses.fields(Run)})
    cases = []
    for splice in plan(files, run.labels, count, seed):
        cases.append(make_case(splice, run, folder))
        log("splices", len(cases), count)
    return cases


def splices_parser(about: str, pictures: str, name: str, seed: int) -> argparse.ArgumentParser:
    """The options of a benchmark of splices from `../shared/data/PICTURES`."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data") / pictures)
    parser.add_argument("--folder", type=Path, default=Path("..") / name)
    parser.add_argument("--run", type=Path, default=DEFAULT_RUN)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--out", type=Path, default=Path("results") / f"{name}.csv")
    return parser


def main() -> int:
    arguments = splices_parser(__doc__, "val", "splices", seed=1).parse_args()
    files, run = pictures_in(arguments.data), Run.load(arguments.run)
    table = rows(make_cases(files, run, arguments.folder, arguments.count, arguments.seed))
    write_table(arguments.out, table)
    write_environment(arguments.out)
    for row in table:
        if row["group"] != "pair":
            print(*row.values(), sep="  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
