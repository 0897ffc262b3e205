"""ONNX: the network as data that runs without TensorFlow.

``model.onnx`` answers what `train.outputs.Outputs` holds and names the model file that it was made
from, so that a stale one is never used. It holds standard operators and its own weights only.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
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
    from train.run import Run

ONNX_FILE = "model.onnx"
HASH_KEY = "model_keras_sha256"
"""Name of the metadata that holds the hash of the Keras file."""

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
"""Operator sets of the ONNX standard; others may be code of somebody's."""


class OnnxError(ImageCompressionError):
    """A model that cannot be exported, or an ONNX file that cannot be used."""


_CHUNK_PIXELS = 4 * 64 * 64
"""Patches answered at once: more would not stay in a core's cache, and take twice as long."""


class OnnxModel:
    """A network read from an ONNX file, run by onnxruntime, a few patches on each core at a time.

    Each chunk is answered by one thread, so the answers do not depend on the number of cores.

    Attributes:
        model_sha256: Hash of the Keras file that it was made from; empty if it does not say.
    """

    def __init__(self, path: Path) -> None:
        """Read `path`.

        Raises:
            OnnxError: Damaged, other outputs than those of `Outputs`, operators outside the
                standard, or weights in other files.
        """
        # From 1.29 on it reports to its maker unless told not to before it is imported.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        try:
            data = path.read_bytes()
            _check_harmless(data)
            # Warnings of onnxruntime would stand among a command's own messages.
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            options.intra_op_num_threads = 1
            self._session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
            self._input = self._session.get_inputs()[0].name
            names = {output.name for output in self._session.get_outputs()}
            metadata = self._session.get_modelmeta().custom_metadata_map
        except Exception as error:  # onnxruntime's errors have no common base but this
            raise OnnxError(f"{path}: cannot be used: {error}") from error
        if not names.issuperset(Outputs._fields):
            raise OnnxError(f"{path}: cannot be used: its outputs are {', '.join(sorted(names))}")
        self.model_sha256 = str(metadata.get(HASH_KEY, ""))

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> Outputs:
        """Answers on patches `uint8` `(N, P, P, 3)`, N at least 1."""
        size = max(1, _CHUNK_PIXELS // (pixels.shape[1] * pixels.shape[2]))
        chunks = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        with ThreadPoolExecutor(min(len(chunks), os.cpu_count() or 1)) as threads:
            parts = list(threads.map(self._answer, chunks))
        return Outputs(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _answer(self, pixels: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        names = list(Outputs._fields)
        return self._session.run(names, {self._input: pixels.astype(np.float32)})


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
    signature = keras.InputSpec(shape=model.input_shape, dtype="float32", name="pixels")
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
    onnx.helper.set_model_props(found, {HASH_KEY: run.model_sha256})
    onnx.checker.check_model(found)
    write_bytes_atomic(path, found.SerializeToString(deterministic=True))
    _check_agreement(OnnxModel(path), model, path)
    return path


def _check_agreement(exported: OnnxModel, model: Any, path: Path) -> None:
    """Delete the file and raise if it answers otherwise than the network."""
    side = model.input_shape[1] or 64
    noise = np.random.default_rng(0).integers(0, 256, (4, side, side, 3), np.uint8)
    wanted = np.asarray(model.predict_on_batch(noise))
    worst = float(np.abs(exported(noise).probabilities - wanted).max())
    if not worst <= 1e-4:
        path.unlink()
        raise OnnxError(f"{path}: not kept, its probabilities are off by {worst:.2g}")


def _check_harmless(data: bytes) -> None:
    """Refuse operators outside the standard and weights outside the file."""
    import onnx

    model = onnx.load_model_from_string(data)
    domains = {item.domain for item in model.opset_import}
    domains |= {node.domain for node in model.graph.node}
    if not domains <= DOMAINS or model.functions:
        raise OnnxError(f"operators outside the standard: {', '.join(sorted(domains - DOMAINS))}")
    if any(tensor.external_data for tensor in _tensors(model.graph)):
        raise OnnxError("its weights are in other files")


def _tensors(graph: Any) -> Iterator[Any]:
    """Every tensor that a graph and the graphs inside it hold."""
    yield from graph.initializer
    for attribute in (item for node in graph.node for item in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            yield from _tensors(inner)
