"""Intra coding of blocks of luma: predictions from the samples around, and transforms.

Samples around a block of `side`×`side` are given from its lower left upwards to its corner, and on
to its upper right: 2·`side`, 1 and 2·`side`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imagecompression.evidence.dct import dct_basis

Plane = npt.NDArray[np.float32]
Reals = npt.NDArray[np.float64]

ALL, USUAL = "all", "usual"
"""Kinds of predictions."""

_AT_ONCE = 128  # blocks, to keep memory small


@dataclass(frozen=True, eq=False)
class IntraCoding:
    """How a codec codes blocks.

    Attributes:
        opinion: Name of the codec, or of its family.
        sides: Of the blocks that are looked at, in pixels, rising.
        steps: Of its quantisers `(Q,)`, rising, in gray levels of an orthonormal transform.
        block: Predictions and transforms of blocks, by one of `sides`.
    """

    opinion: str
    sides: tuple[int, ...]
    steps: Reals
    block: Callable[[int], BlockCoding]


class BlockCoding:
    """Predictions and transforms of blocks of one size.

    Attributes:
        side: Of the blocks.
    """

    def __init__(
        self,
        predictions: Plane,
        transforms: Sequence[Reals],
        *,
        usual: int | None = None,
        nearest: bool = False,
        own_step_of_first: bool = False,
    ) -> None:
        """
        Args:
            predictions: All that are linear and different `(V, side², 4·side + 1)`.
            transforms: Matrices `(side, side)` that blocks are multiplied by, down and across alike
                or not; the first chooses among predictions.
            usual: Number of predictions at the start that are enough for a first look; None for
                all.
            nearest: Whether there is AV1's prediction by the nearest sample, too.
            own_step_of_first: Whether the first coefficient has another step, and does not count.
        """
        self.side = len(transforms[0])
        self._nearest = nearest
        self._first = int(own_step_of_first)
        analyses = [np.linalg.inv(transform.T) for transform in transforms]
        self._transforms = [
            np.kron(down, across).astype(np.float32).T for down in analyses for across in analyses
        ]
        self._cosines = np.kron(dct_basis(self.side), dct_basis(self.side)).astype(np.float32).T
        self._predictions = {
            kind: (some, self._spectra(some))
            for kind, some in (
                (ALL, predictions),
                (USUAL, predictions[:usual]),
            )
        }

    def _spectra(self, predictions: Plane) -> Plane:
        """Coefficients of predictions `(4·side + 1, V·side²)`."""
        spectra = predictions.transpose(2, 0, 1) @ self._transforms[0]
        return spectra.reshape(predictions.shape[2], -1)

    def residuals(
        self, blocks: Plane, around: Plane, kept: int, *, exact: bool, kind: str = ALL
    ) -> Plane:
        """What those `kept` predictions K of blocks leave that leave least, `(N, K·T, C)`: the
        coefficients that count, in all transforms (where `USUAL`, in those that are the same down
        and across).

        Args:
            blocks: `(N, side²)`.
            around: `(N, 4·side + 1)`.
            exact: Whether predictions are rounded.
            kind: `ALL` or `USUAL` predictions.
        """
        predictions, spectra = self._predictions[kind]
        first = self._transforms[0]
        nearest = self._nearest_samples(around) if self._nearest and kind == ALL else None
        best = np.concatenate(
            [
                _least(
                    around[some] @ spectra,
                    None if nearest is None else nearest[some] @ first,
                    blocks[some] @ first,
                    kept,
                )
                for some in np.array_split(np.arange(len(blocks)), len(blocks) // _AT_ONCE + 1)
            ]
        )
        linear = np.minimum(best, len(predictions) - 1)
        samples = (predictions[linear] @ around[:, None, :, None])[..., 0]
        if nearest is not None:
            samples = np.where((best > linear)[..., None], nearest[:, None], samples)
        if exact:
            samples = np.floor(samples + np.float32(0.5))
        left = blocks[:, None] - samples
        transforms = self._transforms
        if kind == USUAL:
            transforms = transforms[:: math.isqrt(len(transforms)) + 1]
        coefficients = np.concatenate([left @ transform for transform in transforms], axis=1)
        return coefficients[..., self._first :]

    def spectra(self, blocks: Plane) -> Plane:
        """The coefficients of blocks themselves that count without any prediction, `(N, C)`: those
        of the cosine transform but their mean."""
        return (blocks @ self._cosines)[:, 1:]

    def _nearest_samples(self, around: Plane) -> Plane:
        """AV1's "Paeth": the left, upper or corner sample that is nearest to left + upper - corner
        (AV1 specification, 7.11.2.2), `(N, side²)`."""
        side = self.side
        corner = around[:, 2 * side, None, None]
        left = around[:, side : 2 * side][:, ::-1, None]
        upper = around[:, None, 2 * side + 1 : 3 * side + 1]
        from_left, from_upper = np.abs(upper - corner), np.abs(left - corner)
        from_corner = np.abs(left + upper - 2 * corner)
        guess = np.where(
            (from_left <= from_upper) & (from_left <= from_corner),
            left,
            np.where(from_upper <= from_corner, upper, corner),
        )
        return guess.reshape(len(around), side**2)


def _least(guesses: Plane, nearest: Plane | None, blocks: Plane, kept: int) -> npt.NDArray[np.intp]:
    """Places `(N, K)` of those predictions that leave least, `nearest` as the last.

    Args:
        guesses: Coefficients of linear predictions `(N, V·C)`.
        nearest: Of the prediction by the nearest sample `(N, C)`.
        blocks: Of the blocks `(N, C)`.
        kept: K, or more than there are.
    """
    count, coefficients = blocks.shape
    found = guesses.reshape(count, guesses.shape[1] // coefficients, coefficients)
    if nearest is not None:
        found = np.concatenate([found, nearest[:, None]], axis=1)
    found -= blocks[:, None]
    sizes = np.abs(found, out=found).sum(axis=-1)
    kept = min(kept, sizes.shape[1])
    return np.argpartition(sizes, kept - 1, axis=1)[:, :kept]
