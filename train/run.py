"""A run directory: everything that a training leaves behind, and all that later stages need."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imagecompression.errors import ImageCompressionError
from imagecompression.file_hash import file_sha256
from train.backend import load_keras
from train.calibration import Calibration
from train.onnx_export import ONNX_FILE, OnnxError, OnnxModel
from train.outputs import Outputs, output_model
from train.unknown import Rejection

CONFIG_FILE = "config.json"
LABELS_FILE = "labels.json"
MODEL_FILE = "model.keras"
HISTORY_FILE = "results.csv"
OLD_HISTORY_FILE = "history.csv"
"""What runs of earlier versions call their `HISTORY_FILE`."""

SOURCES_FILE = "sources.json"
ENVIRONMENT_FILE = "environment.json"
MANIFEST_HEAD_FILE = "manifest_head.json"

Predict = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.floating[Any]]]
"""Pixels `uint8` `(N, P, P, 3)` to class probabilities `(N, C)`."""

PREDICT_BATCH = 128
"""Patches that the network sees at once; more is not faster on a CPU."""


class RunError(ImageCompressionError):
    """A run directory is missing, unfinished or damaged."""


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        path: The run directory.
        config: Contents of ``config.json``: the `TrainConfig` under ``"train"``, and what it was
            trained on under ``"dataset"``.
        labels: Class names, in the order of the model's outputs.
        patch_size: Side of the training patches, in pixels; of the largest, where sizes were mixed.
        sources: SHA-256 of the source files behind the patches of each split that was used:
            ``"train"`` to learn from, ``"val"`` to choose the best epoch.
        history: One dict an epoch: epoch, seconds, learning_rate, loss, accuracy and, where there
            were validation patches, val_loss and val_accuracy.
    """

    path: Path
    config: dict[str, Any]
    labels: list[str]
    patch_size: int
    sources: dict[str, list[str]]
    history: list[dict[str, float]]

    @classmethod
    def load(cls, path: Path) -> Run:
        """Read the run directory `path`; the model itself is loaded when first used.

        Raises:
            RunError: No run there, a training that was not finished, or a damaged file.
        """
        if not (path / CONFIG_FILE).is_file():
            raise RunError(
                f"{path}: not a run directory ({CONFIG_FILE} is missing). Train one first "
                "(main.py train)."
            )
        if not (path / MODEL_FILE).is_file():
            raise RunError(
                f"{path}: the training was not finished ({MODEL_FILE} is missing). Start it again "
                "with the same settings and it goes on from the last finished epoch."
            )
        try:
            config = _read_json(path / CONFIG_FILE)
            labels = [str(label) for label in _read_json(path / LABELS_FILE)]
            sources = {
                split: [str(digest) for digest in digests]
                for split, digests in _read_json(path / SOURCES_FILE).items()
            }
            patch_size = int(config["dataset"]["patch_size"])
            old = path / OLD_HISTORY_FILE
            history = read_history(old if old.is_file() else path / HISTORY_FILE)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{path}: a file of the run cannot be read: {error}") from error
        return cls(path, config, labels, patch_size, sources, history)

    @property
    def chosen_by(self) -> str:
        """By what the kept epoch was chosen: "val_loss", or "last epoch" for want of it."""
        return "val_loss" if any("val_loss" in row for row in self.history) else "last epoch"

    @cached_property
    def model(self) -> Any:
        """The `keras.Model`, uncompiled. Loading runs no code stored in the file.

        Raises:
            RunError: The model file is damaged, or does not fit the labels.
        """
        load_keras()  # here, because it takes seconds and few users of a Run need it
        import keras

        import train.models  # noqa: F401  registers the layers that the file names

        try:
            model = keras.saving.load_model(self.path / MODEL_FILE, compile=False, safe_mode=True)
        except Exception as error:  # Keras raises anything from OSError to KeyError
            raise RunError(
                f"{self.path / MODEL_FILE}: the model cannot be loaded: {error}"
            ) from error
        if model.output_shape[-1] != len(self.labels):
            raise RunError(
                f"{self.path}: the model has {model.output_shape[-1]} outputs, but there are "
                f"{len(self.labels)} labels"
            )
        return model

    @cached_property
    def model_sha256(self) -> str:
        """SHA-256 of the model's file: what calibrations and exports belong to."""
        return file_sha256(self.path / MODEL_FILE)

    @cached_property
    def _onnx(self) -> tuple[OnnxModel | None, str]:
        """The exported network, if it is this model's, and why it is not used, if it is not."""
        path = self.path / ONNX_FILE
        if not path.is_file():
            return None, ""
        try:
            found = OnnxModel(path, self.patch_size)
        except OnnxError as error:
            return None, f"{error}. Keras is used; export it anew (main.py export-model)."
        if found.model_sha256 != self.model_sha256:
            return None, (
                f"{path}: made from another {MODEL_FILE}. Keras is used; export it anew "
                "(main.py export-model)."
            )
        return found, ""

    @property
    def onnx(self) -> OnnxModel | None:
        """The exported network, which runs without Keras; None if there is none to be used."""
        return self._onnx[0]

    @cached_property
    def calibration(self) -> Calibration | None:
        """How to read the probabilities; None if the run was not calibrated, or before a change.

        Raises:
            CalibrationError: The file is damaged.
        """
        found = Calibration.load(self.path)
        fits = found is not None and found.fitted_on.model_sha256 == self.model_sha256
        return found if fits and found is not None and list(found.labels) == self.labels else None

    @cached_property
    def rejection(self) -> Rejection | None:
        """When to say "unknown"; None if the run was not calibrated, or before a change.

        Raises:
            UnknownError: The file is damaged.
        """
        found = Rejection.load(self.path)
        return found if found is not None and found.model_sha256 == self.model_sha256 else None

    def prepare(self) -> None:
        """Read now what a verdict needs, so that a damaged file is not a picture's fault.

        Raises:
            ImageCompressionError: The model, calibration or rejection cannot be loaded.
        """
        _ = self.onnx or self.model, self.calibration, self.rejection

    @property
    def notes(self) -> list[str]:
        """What a user should know before believing the run: files that do not fit its model."""
        notes = [self._onnx[1]] if self._onnx[1] else []
        if self.calibration is None:
            notes.append(
                f"{self.path}: not calibrated for this model: probabilities are the network's own, "
                "without likelihood ratios (main.py calibrate)"
            )
        return notes

    @cached_property
    def _output_model(self) -> Any:
        try:
            return output_model(self.model)
        except ValueError as error:
            raise RunError(
                f"{self.path / MODEL_FILE}: the model has no such last layer: {error}"
            ) from error

    def outputs(self, pixels: npt.NDArray[np.uint8]) -> Outputs:
        """Probabilities, logits and embedding of patches `uint8` `(N, P, P, 3)`, N at least 1.

        Raises:
            RunError: The model cannot be loaded, or takes no such patches.
        """
        if self.onnx is None:
            answers = self._output_model.predict(pixels, batch_size=PREDICT_BATCH, verbose=0)
            return Outputs(**{name: np.asarray(answers[name]) for name in Outputs._fields})
        return self.onnx(pixels)

    def predict(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Class probabilities `float32` `(N, C)` of patches `uint8` `(N, P, P, 3)`."""
        if len(pixels) == 0:
            return np.empty((0, len(self.labels)), np.float32)
        if self.onnx is not None:
            return self.outputs(pixels).probabilities
        return np.asarray(self.model.predict(pixels, batch_size=PREDICT_BATCH, verbose=0))


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a ``results.csv``, numbers as `float`; empty cells are left out."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {name: float(value) for name, value in row.items() if value != ""}
            for row in csv.DictReader(file)
        ]


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
