"""Batches of patches, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from train.examples import Examples
from train.settings import Balance, TrainError

Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.float32]]
"""Pixels `(B, P, P, 3)`, class numbers `(B,)`, weights `(B,)`."""


class PatchBatches:
    """Batches of `(pixels, classes, weights)` read from memory-mapped patch arrays.

    All patches of a batch have one size: they are stored in that size, or cropped to it at random
    positions. Batches of different sizes come in random order.

    With `training=True` each patch is turned by a multiple of 90° and mirrored at random, and a
    share of them is shown without colour: no patch is resized or shifted by part of a pixel, which
    would destroy the traces. Order, sizes, crops and turns follow from `(seed, epoch)` alone, so
    that a resumed training sees what an uninterrupted one would have seen. Set `epoch` at the start
    of each epoch. Without `training`, every epoch is the same and nothing is changed.
    """

    def __init__(
        self,
        examples: Examples,
        rows: npt.NDArray[np.int64],
        batch_size: int,
        *,
        training: bool = False,
        seed: int = 0,
        patch_sizes: tuple[int, ...] | None = None,
        balance: Balance = "class",
        grayscale: float = 0.0,
    ) -> None:
        """Batches of some of the examples.

        Args:
            examples: The patches.
            rows: Numbers of the patches to use, at least one.
            batch_size: Largest batch; all batches of one stored size are equally large, give or
                take one.
            training: Another order in every epoch, and turns.
            seed: Used for training only.
            patch_sizes: Each batch is cropped to one of them that fits; None to crop nothing.
            balance: What weighs the same; see `TrainConfig`.
            grayscale: Share of the patches shown without colour; used for training only.

        Raises:
            TrainError: A patch is smaller than all of `patch_sizes`, or a size larger than all.
        """
        self._examples = examples
        self._rows = rows
        self._training = training
        self._seed = seed
        self._grayscale = grayscale if training else 0.0
        self._weights = balanced_weights(examples.classes[rows], examples.bands[rows], balance)
        stored = np.array([pixels.shape[1] for pixels in examples.pixels])[examples.part[rows]]
        self._members = {int(side): np.flatnonzero(stored == side) for side in np.unique(stored)}
        self._sizes = {
            side: [size for size in patch_sizes or (side,) if size <= side]
            for side in self._members
        }
        if not all(self._sizes.values()) or max(patch_sizes or (0,)) > max(self._members):
            raise TrainError(
                "patch_sizes must fit into the stored patches, whose sides are "
                f"{', '.join(map(str, self._members))}. Received: {patch_sizes}"
            )
        self._counts = {
            side: -(-len(members) // batch_size) for side, members in self._members.items()
        }
        self.epoch = 0

    @property
    def epoch(self) -> int:
        """Number of the epoch, from 0, that the batches belong to."""
        return self._epoch

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._epoch = value
        rng = np.random.default_rng([self._seed, value] if self._training else 0)
        count = len(self._rows)
        turns = rng.integers(0, 8, count)  # quarter turns 0-3, and 4 when mirrored
        self._turns = turns if self._training else np.zeros(count, np.int64)
        self._offsets = rng.random((count, 2))
        batches = []
        for side, members in self._members.items():
            # Equal batches: a last batch of one patch would upset batch normalisation.
            parts = np.array_split(rng.permutation(members), self._counts[side])
            sizes = rng.choice(self._sizes[side], len(parts))
            batches += [(int(size), part) for size, part in zip(sizes, parts, strict=True)]
        self._batches = [batches[place] for place in rng.permutation(len(batches))]
        self._gray = rng.random(count) < self._grayscale

    @property
    def largest_size(self) -> int:
        """Side of the largest patches that are given out."""
        return max(max(sizes) for sizes in self._sizes.values())

    @property
    def smallest_batch(self) -> int:
        """Number of patches in the smallest batch."""
        return min(len(m) // self._counts[side] for side, m in self._members.items())

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return sum(self._counts.values())

    def __getitem__(self, index: int) -> Batch:
        """Batch `index` of the epoch: pixels, classes, weights."""
        size, here = self._batches[index]
        batch = np.empty((len(here), size, size, 3), np.uint8)
        for place, member in enumerate(here):
            row = self._rows[member]
            pixels = self._examples.pixels[self._examples.part[row]]
            room = pixels.shape[1] - size + 1
            top, left = (int(share * room) for share in self._offsets[member])
            patch = pixels[self._examples.row[row], top : top + size, left : left + size]
            patch = turned(patch, int(self._turns[member]))
            batch[place] = without_colour(patch) if self._gray[member] else patch
        return batch, self._examples.classes[self._rows[here]], self._weights[here]

    def from_batch(self, start: int = 0) -> Iterator[Batch]:
        """The batches from number `start` on; each is read while the one before is used."""
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(self.__getitem__, start) if start < len(self) else None
            for index in range(start, len(self)):
                assert coming is not None
                batch = coming.result()
                if index + 1 < len(self):
                    coming = reader.submit(self.__getitem__, index + 1)
                yield batch


def balanced_weights(
    classes: npt.NDArray[np.int32], bands: npt.NDArray[np.int32], balance: Balance
) -> npt.NDArray[np.float32]:
    """A weight for each patch, 1 on average; see `TrainConfig.balance`.

    >>> balanced_weights(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 0]), "class-band").tolist()
    [0.5, 0.5, 1.0, 2.0]
    """
    if balance == "none":
        return np.ones(len(classes), np.float32)
    _, cell, members = np.unique(
        np.stack([classes, bands if balance == "class-band" else classes]),
        axis=1,
        return_inverse=True,
        return_counts=True,
    )
    first = np.unique(cell, return_index=True)[1]
    class_of_cell = classes[first]
    cells_of_class = np.bincount(class_of_cell)
    shares = 1.0 / (np.count_nonzero(cells_of_class) * cells_of_class[class_of_cell] * members)
    weights: Any = shares[cell] * len(classes)
    return weights.astype(np.float32)


def turned(patch: npt.NDArray[np.uint8], turn: int) -> npt.NDArray[np.uint8]:
    """One of the eight symmetries of a square patch: `turn % 4` quarter turns, mirrored from 4 on.

    >>> turned(np.array([[1, 2], [3, 4]]), 5).tolist()
    [[4, 2], [3, 1]]
    """
    patch = np.rot90(patch, turn % 4)
    return patch[:, ::-1] if turn >= 4 else patch


def without_colour(patch: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A patch `(P, P, 3)` with the luma (BT.601) in all three channels.

    >>> without_colour(np.array([[[255, 0, 0], [9, 9, 9]]], np.uint8)).tolist()
    [[[76, 76, 76], [9, 9, 9]]]
    """
    luma = np.rint(patch @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.uint8)
    return np.repeat(luma[..., np.newaxis], 3, axis=-1)
