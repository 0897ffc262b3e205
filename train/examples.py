"""The labelled patches of one or several datasets, as one list to train with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datasets.patches import PatchSet
from imagecompression import CODECS
from train.evaluator import RATIO_EDGES, UNCOMPRESSED
from train.settings import TrainError


@dataclass(frozen=True)
class Examples:
    """Patches of several datasets; all arrays but `pixels` have one entry a patch.

    Attributes:
        pixels: For each dataset `uint8` `(N, P, P, 3)`, often memory-mapped; never changed.
        labels: Class names, in the order of the class numbers.
        part: `int32`, which array of `pixels` holds the patch.
        row: `int64`, where in that array.
        classes: `int32`, class numbers.
        bands: `int32`, bands of compression ratio (`train.evaluator.RATIO_EDGES`); 0 for the class
            *uncompressed*.
        splits: "train", "val", "test", or what else a caller had put there.
    """

    pixels: tuple[npt.NDArray[np.uint8], ...]
    labels: list[str]
    part: npt.NDArray[np.int32]
    row: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int32]
    bands: npt.NDArray[np.int32]
    splits: npt.NDArray[np.object_]

    def side(self, place: int) -> int:
        """Side of the patch number `place` as it is stored, in pixels."""
        return int(self.pixels[self.part[place]].shape[1])

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """Numbers of the patches of a split."""
        return np.flatnonzero(self.splits == split)


def gather(parts: Sequence[PatchSet]) -> Examples:
    """The patches of all datasets in one list.

    The classes are those of any dataset: the one dataset's own order, or for several the order of
    `CODECS`, *uncompressed* first.

    Raises:
        TrainError: No dataset, or a source or group that is in different splits of two datasets.
    """
    if not parts:
        raise TrainError("Training needs at least one dataset. Received: none")
    _refuse_leaks(parts)
    labels = _labels(parts)
    number = {label: place for place, label in enumerate(labels)}
    names = [label for one in parts for label in one.table["label"].to_pylist()]
    ratios = np.concatenate([one.table["ratio"].to_numpy() for one in parts]).astype(np.float64)
    bands = np.digitize(np.nan_to_num(ratios), RATIO_EDGES[1:-1])
    bands[np.array(names, object) == UNCOMPRESSED] = 0
    counts = [one.table.num_rows for one in parts]
    return Examples(
        pixels=tuple(one.pixels for one in parts),
        labels=labels,
        part=np.repeat(np.arange(len(parts), dtype=np.int32), counts),
        row=np.concatenate([np.arange(count, dtype=np.int64) for count in counts]),
        classes=np.array([number[name] for name in names], np.int32),
        bands=bands.astype(np.int32),
        splits=np.array(
            [split for one in parts for split in one.table["split"].to_pylist()], object
        ),
    )


def resplit(patches: PatchSet, splits: Mapping[str, str]) -> PatchSet:
    """`patches` with the split of each group replaced by that in `splits`, which names all."""
    table = patches.table
    column = pa.array([splits[group] for group in table["group"].to_pylist()], pa.string())
    table = table.set_column(table.schema.get_field_index("split"), "split", column)
    return dataclasses.replace(patches, table=table)


def _labels(parts: Sequence[PatchSet]) -> list[str]:
    if len(parts) == 1:
        return list(parts[0].labels)
    found = dict.fromkeys(label for one in parts for label in one.labels)
    order = {label: place for place, label in enumerate([UNCOMPRESSED, *CODECS])}
    return sorted(found, key=lambda label: order.get(label, len(order)))


def _refuse_leaks(parts: Sequence[PatchSet]) -> None:
    """Raise where a source or a group is in one split here and in another there."""
    for column, noun in (("source_sha256", "source picture"), ("group", "group")):
        homes: dict[str, str] = {}
        for one in parts:
            pairs = one.table.select([column, "split"]).group_by([column, "split"]).aggregate([])
            for row in pairs.sort_by(column).to_pylist():
                split = homes.setdefault(row[column], row["split"])
                if split != row["split"]:
                    raise TrainError(
                        f"The {noun} {row[column]} is in the split {split} of one dataset and in "
                        f"{row['split']} of another: it would be judged by what was learned from "
                        "it. Build the datasets from one list of sources, so that their splits "
                        "agree, or leave one out."
                    )
