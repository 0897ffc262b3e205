"""What a training that was killed needs to go on exactly where it was: one file."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imagecompression.atomic_file import write_bytes_atomic
from train.averaging import Weights
from train.run import RunError


@dataclass
class State:
    """Where a training stands.

    Attributes:
        epoch: Finished epochs.
        batch: Finished batches of the epoch under way.
        loss, right, patches: Sums over those: the loss times the patches, the patches that were
            named rightly, all patches.
        best: Lowest loss of an epoch so far.
        waited: Epochs since.
        flat: Epochs since that or since the learning rate was last halved.
        halvings: How often it was halved.
        seconds: Time spent on training.
        stopped: Whether no further epoch is wanted.
        history: The rows of ``results.csv``.
    """

    epoch: int = 0
    batch: int = 0
    loss: float = 0.0
    right: int = 0
    patches: int = 0
    best: float = math.inf
    waited: int = 0
    flat: int = 0
    halvings: int = 0
    seconds: float = 0.0
    stopped: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Checkpoint:
    """A training as it can be stored: its state, and the values of all variables.

    Attributes:
        state: Where it stands.
        weights: Of the model, in its order.
        optimizer: Variables of the optimizer, in its order.
        average: The running average of `weights`; empty where none is kept.
    """

    state: State
    weights: Weights
    optimizer: Weights
    average: Weights

    def save(self, path: Path) -> None:
        """Write to `path`, which is the old file or the whole new one whenever we are killed."""
        text = json.dumps(dataclasses.asdict(self.state)).encode()
        arrays: dict[str, npt.NDArray[Any]] = {"state": np.frombuffer(text, np.uint8)}
        for name in ("weights", "optimizer", "average"):
            values = getattr(self, name)
            arrays |= {f"{name}-{place}": value for place, value in enumerate(values)}
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        write_bytes_atomic(path, content.getvalue())

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read what `save` wrote.

        Raises:
            RunError: Damaged, or not a checkpoint.
        """
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                state = State(**json.loads(arrays["state"].tobytes()))
                found: dict[str, Weights] = {}
                for name in ("weights", "optimizer", "average"):
                    count = sum(key.startswith(f"{name}-") for key in arrays)
                    found[name] = [arrays[f"{name}-{place}"] for place in range(count)]
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise RunError(
                f"{path}: the checkpoint cannot be read: {error}. Delete the folder and train anew."
            ) from error
        return cls(state, **found)
