"""Model builders: `build_x(input_shape, num_classes, …) -> keras.Model`, all in `MODELS`.

Every model takes RGB pixels in 0 … 255 (`uint8` or float, `(B, P, P, 3)`), does its own
preprocessing, and answers soft-max probabilities `(B, num_classes)` in `float32`. Models come
uncompiled. They pool over the whole patch at the end, so any patch size from `MIN_PATCH` works and
a shifted grid changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from train.layers import HighPassResiduals, StatisticsPooling

MIN_PATCH = 32
"""Smallest patch side, in pixels, that the models take."""


def build_residual(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: int = 16,
    dropout: float = 0.2,
) -> keras.Model:
    """A compact residual network on truncated high-pass residuals.

    Args:
        input_shape: `(P, P, 3)`, P at least `MIN_PATCH`.
        num_classes: Number of classes, at least 2.
        width: Channels at full resolution; the next two stages have 3 and 5 times as many.
        dropout: Share of pooled features dropped in training.
    """
    inputs = _pixels(input_shape, num_classes)
    features = HighPassResiduals(name="residuals")(inputs)
    # Full resolution for the stem and one block: pooling first would average the traces away.
    features = _convolution(features, width, name="stem")
    features = _residual_block(features, width, name="full")
    for name, channels in (("half", 3 * width), ("quarter", 5 * width)):
        features = _convolution(features, channels, strides=2, name=f"{name}_down")
        features = _residual_block(features, channels, name=name)
    features = StatisticsPooling(name="statistics")(features)
    features = keras.layers.Dropout(dropout, name="dropout")(features)
    outputs = _softmax(features, num_classes)
    return keras.Model(inputs, outputs, name="residual")


def build_lenet(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: int = 6,
    dropout: float = 0.0,
) -> keras.Model:
    """LeNet-5 (LeCun et al. 1998) on RGB pixels: the baseline to beat.

    Args:
        input_shape: `(P, P, 3)`, P at least `MIN_PATCH`. At 32 this is LeNet-5 as published, but
            for colour; larger patches are averaged over positions.
        num_classes: Number of classes, at least 2.
        width: Channels of the first convolution; 6 in the paper.
        dropout: Share of features dropped in training before the last layer; 0 in the paper.
    """
    inputs = _pixels(input_shape, num_classes)
    features = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    features = keras.layers.Conv2D(width, 5, activation="tanh")(features)
    features = keras.layers.AveragePooling2D(2)(features)
    features = keras.layers.Conv2D(width * 16 // 6, 5, activation="tanh")(features)
    features = keras.layers.AveragePooling2D(2)(features)
    features = keras.layers.Conv2D(width * 20, 5, activation="tanh")(features)
    features = keras.layers.GlobalAveragePooling2D()(features)
    features = keras.layers.Dense(width * 14, activation="tanh")(features)
    features = keras.layers.Dropout(dropout)(features)
    outputs = _softmax(features, num_classes)
    return keras.Model(inputs, outputs, name="lenet")


MODELS: dict[str, Callable[..., keras.Model]] = {
    "residual": build_residual,
    "lenet": build_lenet,
}
"""Every model builder by name: the one registration place."""


def _pixels(input_shape: tuple[int, int, int], num_classes: int) -> Any:
    """The input tensor, after checking the arguments that all builders share."""
    height, width, channels = input_shape
    if min(height, width) < MIN_PATCH or channels != 3:
        raise ValueError(
            f"input_shape must be (P, P, 3) with P at least {MIN_PATCH}. Received: {input_shape}"
        )
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2. Received: {num_classes}")
    return keras.Input(input_shape, name="pixels")


def _convolution(
    features: Any, channels: int, *, name: str, strides: int = 1, relu: bool = True
) -> Any:
    """3×3 convolution, batch normalisation and, unless told otherwise, ReLU."""
    features = keras.layers.Conv2D(
        channels, 3, strides=strides, padding="same", use_bias=False, name=f"{name}_conv"
    )(features)
    # Momentum .9: running statistics that are right after a hundred steps, not a thousand.
    features = keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(features)
    return keras.layers.ReLU(name=f"{name}_relu")(features) if relu else features


def _residual_block(features: Any, channels: int, *, name: str) -> Any:
    """`relu(x + conv(conv(x)))` at unchanged size."""
    branch = _convolution(features, channels, name=f"{name}_1")
    branch = _convolution(branch, channels, name=f"{name}_2", relu=False)
    features = keras.layers.Add(name=f"{name}_add")([features, branch])
    return keras.layers.ReLU(name=f"{name}_out")(features)


def _softmax(features: Any, num_classes: int) -> Any:
    """Class probabilities, in `float32` whatever the compute dtype."""
    return keras.layers.Dense(
        num_classes, activation="softmax", dtype="float32", name="probabilities"
    )(features)
