"""ONNX: the network as data that runs without TensorFlow.

``model.onnx`` answers what `train.outputs.Outputs` holds and names the model file that it was made
from, so that a stale one is never used. It holds standard operators and its own weights only.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imagecompression.atomic_file import write_bytes_atomic
from imagecompression.errors import ImageCompressionError
from train.backend import quiet_stderr
from train.outputs import Outputs, output_model

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from train.run import Run

ONNX_FILE = "model.onnx"
HASH_KEY = "model_keras_sha256"
"""Name of the metadata that holds the hash of the Keras file."""

INPUT = "pixels"
"""Name of the only input."""

FREE = ("patches", "height", "width")
"""Names of the input's dimensions where they are free."""


class OnnxError(ImageCompressionError):
    """A model that cannot be exported, or an ONNX file that cannot be used."""


_OUTSIDE_WEIGHTS = b"location"
"""The key of a weight's place outside the file; an exported network holds the word nowhere else."""

_CHUNK_PIXELS = 4 * 64 * 64
"""Patches answered at once: more would not stay in a core's cache, and take twice as long."""


class OnnxModel:
    """A network read from an ONNX file, run by onnxruntime, a few patches on each core at a time.

    Each chunk is answered by one thread, so the answers do not depend on the number of cores.

    Attributes:
        model_sha256: Hash of the Keras file that it was made from; empty if it does not say.
    """

    def __init__(self, path: Path, side: int) -> None:
        """Read `path`, ready for patches of `side` pixels; other sides take longer at first.

        Raises:
            OnnxError: Damaged, other outputs than those of `Outputs`, operators that onnxruntime
                does not bring itself, or weights in other files.
        """
        # From 1.29 on it reports to its maker unless told not to before it is imported.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        self._sessions: dict[int, InferenceSession] = {}
        try:
            self._data = path.read_bytes()
            if _OUTSIDE_WEIGHTS in self._data:
                raise OnnxError("its weights are in other files")
            session = self._session(side)
            names = {output.name for output in session.get_outputs()}
            metadata = session.get_modelmeta().custom_metadata_map
        except Exception as error:  # onnxruntime's errors have no common base but this
            raise OnnxError(f"{path}: cannot be used: {error}") from error
        if not names.issuperset(Outputs._fields):
            raise OnnxError(f"{path}: cannot be used: its outputs are {', '.join(sorted(names))}")
        self.model_sha256 = str(metadata.get(HASH_KEY, ""))

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> Outputs:
        """Answers on patches `uint8` `(N, P, P, 3)`, N at least 1."""
        count, side = pixels.shape[:2]
        session, size = self._session(side), _chunk_size(side)
        chunks = [pixels[start : start + size] for start in range(0, count, size)]
        missing = size - len(chunks[-1])
        chunks[-1] = np.concatenate([chunks[-1], np.repeat(chunks[-1][-1:], missing, axis=0)])

        def answer(chunk: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
            return session.run(list(Outputs._fields), {INPUT: chunk.astype(np.float32)})

        with ThreadPoolExecutor(min(len(chunks), os.cpu_count() or 1)) as threads:
            parts = list(threads.map(answer, chunks))
        return Outputs(*(np.concatenate(part)[:count] for part in zip(*parts, strict=True)))

    def _session(self, side: int) -> InferenceSession:
        """The network for chunks of patches of one side.

        With all sizes known onnxruntime computes every shape once, when it loads the network.
        """
        if side not in self._sessions:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            # Warnings of onnxruntime would stand among a command's own messages.
            options.log_severity_level = 3
            options.intra_op_num_threads = 1
            for name, length in zip(FREE, (_chunk_size(side), side, side), strict=True):
                options.add_free_dimension_override_by_name(name, length)
            self._sessions[side] = onnxruntime.InferenceSession(
                self._data, options, providers=["CPUExecutionProvider"]
            )
        return self._sessions[side]


def _chunk_size(side: int) -> int:
    return max(1, _CHUNK_PIXELS // side**2)


def export_onnx(run: Run) -> Path:
    """Write ``model.onnx`` to the run directory and return its path.

    The number of patches is free, and their sides are where the network's are.

    Raises:
        OnnxError: The network holds what ONNX cannot express, or answers otherwise there.
        RunError: The model cannot be loaded.
    """
    import keras
    import onnx

    model = run.model
    signature = keras.InputSpec(shape=model.input_shape, dtype="float32", name=INPUT)
    path = run.path / ONNX_FILE
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / ONNX_FILE
        try:
            with quiet_stderr(), warnings.catch_warnings():
                # keras/src/export/tf2onnx_lib.py asks for np.object; no issue found upstream.
                warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)
                output_model(model).export(
                    str(part), format="onnx", verbose=False, input_signature=[signature]
                )
            found = onnx.load(part)
        except Exception as error:  # tf2onnx and Keras raise anything
            raise OnnxError(f"{run.path}: the model cannot be exported: {error}") from error
    found.doc_string = found.graph.doc_string = ""  # numbers of TensorFlow's functions
    for dimension, name in zip(found.graph.input[0].type.tensor_type.shape.dim, FREE, strict=False):
        if dimension.dim_param:
            dimension.dim_param = name
    onnx.helper.set_model_props(found, {HASH_KEY: run.model_sha256})
    onnx.checker.check_model(found)
    write_bytes_atomic(path, found.SerializeToString(deterministic=True))
    _check_agreement(path, model)
    return path


def _check_agreement(path: Path, model: Any) -> None:
    """Delete the file and raise if it answers otherwise than the network."""
    side = model.input_shape[1] or 64
    noise = np.random.default_rng(0).integers(0, 256, (5, side, side, 3), np.uint8)
    wanted = np.asarray(model.predict_on_batch(noise))
    worst = float(np.abs(OnnxModel(path, side)(noise).probabilities - wanted).max())
    if not worst <= 1e-4:
        path.unlink()
        raise OnnxError(f"{path}: not kept, its probabilities are off by {worst:.2g}")
