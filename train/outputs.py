"""What a network says of patches: probabilities, and what lies before them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

OUTPUT_LAYER = "probabilities"
"""Name of the soft-max layer that every model ends with; its input is the embedding."""


class Outputs(NamedTuple):
    """A network's answers on N patches, all `float32`.

    Attributes:
        probabilities: `(N, C)`, summing to 1.
        logits: `(N, C)`, before the soft-max.
        embedding: `(N, F)`, what the last layer sees.
    """

    probabilities: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    embedding: npt.NDArray[np.float32]


def output_model(model: Any) -> Any:
    """A `keras.Model` that answers a dict with the fields of `Outputs`, on the weights of `model`.

    Raises:
        ValueError: `model` does not end with a dense layer named `OUTPUT_LAYER`.
    """
    import keras  # here, because a run with an ONNX model needs no Keras

    last = model.get_layer(OUTPUT_LAYER)
    dense = keras.layers.Dense(last.units, dtype="float32", name="logits")
    logits = dense(last.input)
    dense.set_weights(last.get_weights())
    named = {"probabilities": model.output, "logits": logits, "embedding": last.input}
    return keras.Model(model.inputs, named, name=model.name)
