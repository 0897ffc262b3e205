"""A run whose network is an ONNX file that tells dark from bright: real code without Keras."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from train.onnx_export import HASH_KEY, ONNX_FILE
from train.run import Run

LABELS = ["uncompressed", "jpeg", "bpg"]
"""Dark patches are the first, bright ones the second; none is the third."""

PATCH_SIZE = 32
STEEPNESS = 8.0


def write_run(folder: Path) -> Run:
    """Write the run directory and load it."""
    folder.mkdir(parents=True)
    config = {"dataset": {"patch_size": PATCH_SIZE, "patches_sha256": "5e" * 32}, "train": {}}
    for name, content in (("config", config), ("labels", LABELS), ("sources", {})):
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "results.csv").write_text("epoch,loss\n1,1.0\n")
    (folder / "model.keras").write_bytes(b"never loaded")
    weights = np.array([[-STEEPNESS, STEEPNESS, 0.0]], np.float32) / 255
    bias = np.array([STEEPNESS / 2, -STEEPNESS / 2, -20.0], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
            helper.make_node("Unsqueeze", ["mean", "one"], ["embedding"]),
            helper.make_node("Gemm", ["embedding", "weights", "bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "brightness",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", "h", "w", 3])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])
            for name, size in (("probabilities", 3), ("logits", 3), ("embedding", 1))
        ],
        [
            numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes"),
            numpy_helper.from_array(np.array([1], np.int64), "one"),
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(bias, "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    digest = hashlib.sha256(b"never loaded").hexdigest()
    helper.set_model_props(model, {HASH_KEY: digest})
    onnx.checker.check_model(model)
    (folder / ONNX_FILE).write_bytes(model.SerializeToString())
    return Run.load(folder)


def probability_of_jpeg(brightness: float) -> float:
    """What the network answers for "jpeg" on a patch of that mean, by the formula alone."""
    logits = np.array([-1.0, 1.0]) * STEEPNESS * (brightness / 255 - 0.5)
    powers = np.exp([*logits, -20.0])
    return float(powers[1] / powers.sum())
