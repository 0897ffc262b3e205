"""Batches of patches for Keras, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt


class PatchBatches(keras.utils.PyDataset):
    """Batches of `(pixels, classes, weights)` read from a memory-mapped patch array.

    `pixels` is `uint8` `(B, P, P, 3)`, `classes` `int32` `(B,)`, `weights` `float32` `(B,)`: each
    class weighs the same in all, whatever its number of patches.

    With `training=True` the rows are shuffled, and each patch is turned by a multiple of 90° and
    mirrored at random: no patch is resized or shifted, which would destroy the traces. Order and
    turns follow from `(seed, epoch)` alone, so that a resumed training sees what an uninterrupted
    one would have seen. Set `epoch` at the start of each epoch.
    """

    def __init__(
        self,
        pixels: npt.NDArray[np.uint8],
        rows: npt.NDArray[np.int64],
        classes: npt.NDArray[np.int32],
        batch_size: int,
        *,
        training: bool = False,
        seed: int = 0,
    ) -> None:
        """Batches of some rows of a patch array.

        Args:
            pixels: `uint8` `(N, P, P, 3)`, often memory-mapped; never changed.
            rows: Row numbers to use, at least one.
            classes: Class number of every row in `rows`.
            batch_size: Largest batch; all batches of an epoch are equally large, give or take one.
            training: Shuffle, turn and mirror.
            seed: Used for training only.
        """
        super().__init__()
        self._pixels = pixels
        self._rows = rows
        self._classes = classes
        self._training = training
        self._seed = seed
        counts = np.bincount(classes)
        present = counts > 0
        by_class = len(classes) / (present.sum() * np.maximum(counts, 1))
        self._weights = by_class[classes].astype(np.float32)
        # Equal batches: a last batch of one patch would upset batch normalisation.
        self._bounds = np.linspace(0, len(rows), -(-len(rows) // batch_size) + 1).astype(int)
        self.epoch = 0

    @property
    def epoch(self) -> int:
        """Number of the epoch, from 0, that the batches belong to."""
        return self._epoch

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._epoch = value
        count = len(self._rows)
        if self._training:
            rng = np.random.default_rng([self._seed, value])
            self._order = rng.permutation(count)
            self._turns = rng.integers(0, 8, count)  # quarter turns 0-3, and 4 when mirrored
        else:
            self._order = np.arange(count)
            self._turns = np.zeros(count, np.int64)

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> tuple[Any, Any, Any]:
        """Batch `index` of the epoch: pixels, classes, weights."""
        here = self._order[self._bounds[index] : self._bounds[index + 1]]
        batch = np.asarray(self._pixels[self._rows[here]])
        for place, turn in enumerate(self._turns[here]):
            if turn:
                batch[place] = turned(batch[place], int(turn))  # never a view: a turn moves bytes
        return batch, self._classes[here], self._weights[here]


def turned(patch: npt.NDArray[np.uint8], turn: int) -> npt.NDArray[np.uint8]:
    """One of the eight symmetries of a square patch: `turn % 4` quarter turns, mirrored from 4 on.

    >>> turned(np.array([[1, 2], [3, 4]]), 5).tolist()
    [[4, 2], [3, 1]]
    """
    patch = np.rot90(patch, turn % 4)
    return np.ascontiguousarray(patch[:, ::-1] if turn >= 4 else patch)
