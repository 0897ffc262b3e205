"""Model builders: `build_x(input_shape, num_classes, …) -> keras.Model`, all in `MODELS`.

Every model takes RGB pixels in 0 … 255 (`uint8` or float, `(B, H, W, 3)`), does its own
preprocessing, and answers soft-max probabilities `(B, num_classes)` in `float32`. Models come
uncompiled. They pool over the whole patch at the end, so with `input_shape` `(None, None, 3)` one
network takes patches of any size from `MIN_PATCH`, and whole pictures.

The pooled features that the last layer, "probabilities", sees are the output of the layer named
"embedding", `(B, F)`.

A new model is one builder here and one line in `MODELS`; every one passes the same checks in
``tests/test_models.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from train.combs import CommonStepCombs
from train.layers import (
    AttentionPooling,
    BlockHistograms,
    EachPatch,
    HighPassResiduals,
    PhaseContrast,
    PhaseSummary,
    StatisticsPooling,
    WaveletHistograms,
)

MIN_PATCH = 32
"""Smallest patch side, in pixels, that the models take."""

NORM_MOMENTUM = 0.9
"""Of batch normalisation: running statistics are right after a hundred steps, not a thousand."""

InputShape = tuple[int | None, int | None, int]
"""`(P, P, 3)`, or `(None, None, 3)` for patches of any size from `MIN_PATCH`."""


def build_residual(
    input_shape: InputShape,
    num_classes: int,
    *,
    width: int = 16,
    dropout: float = 0.2,
) -> keras.Model:
    """A compact residual network on truncated high-pass residuals.

    Args:
        input_shape: `(P, P, 3)`, P at least `MIN_PATCH` or None.
        num_classes: Number of classes, at least 2.
        width: Channels at full resolution; the next two stages have 3 and 5 times as many.
        dropout: Share of pooled features dropped in training.
    """
    inputs = _pixels(input_shape, num_classes)
    features = _residual_stream(inputs, width)
    outputs = _probabilities(features, num_classes, dropout)
    return keras.Model(inputs, outputs, name="residual")


def build_histogram(
    input_shape: InputShape,
    num_classes: int,
    *,
    width: int = 16,
    dropout: float = 0.2,
) -> keras.Model:
    """Histograms of block-DCT and wavelet coefficients into a small perceptron.

    Args:
        input_shape: `(P, P, 3)`, P at least `MIN_PATCH` or None.
        num_classes: Number of classes, at least 2.
        width: The hidden layers have 8 and 4 times as many units.
        dropout: Share of features dropped in training before the last layer.
    """
    inputs = _pixels(input_shape, num_classes)
    features = _histogram_stream(inputs, 8 * width)
    features = keras.layers.Dense(4 * width, activation="relu", name="hidden")(features)
    outputs = _probabilities(features, num_classes, dropout)
    return keras.Model(inputs, outputs, name="histogram")


def build_two_stream(
    input_shape: InputShape,
    num_classes: int,
    *,
    width: int = 12,
    dropout: float = 0.2,
) -> keras.Model:
    """The residual network beside the histograms, joined before the last layer.

    Args:
        input_shape: `(P, P, 3)`, P at least `MIN_PATCH` or None.
        num_classes: Number of classes, at least 2.
        width: As in `build_residual`; the histograms give 4 times as many features.
        dropout: Share of the joined features dropped in training.
    """
    inputs = _pixels(input_shape, num_classes)
    features = keras.layers.Concatenate(name="joined")(
        [_residual_stream(inputs, width), _histogram_stream(inputs, 4 * width)]
    )
    outputs = _probabilities(features, num_classes, dropout)
    return keras.Model(inputs, outputs, name="two_stream")


def build_lenet(
    input_shape: InputShape,
    num_classes: int,
    *,
    width: int = 6,
    dropout: float = 0.0,
) -> keras.Model:
    """LeNet-5 (LeCun et al. 1998) on RGB pixels: the baseline to beat.

    Args:
        input_shape: `(P, P, 3)`, P at least `MIN_PATCH` or None. At 32 this is LeNet-5 as
            published, but for colour; larger patches are averaged over positions.
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
    outputs = _probabilities(features, num_classes, dropout)
    return keras.Model(inputs, outputs, name="lenet")


def build_mobilenet(
    input_shape: InputShape,
    num_classes: int,
    *,
    width: int = 16,
    dropout: float = 0.2,
) -> keras.Model:
    """MobileNetV3-Small (Howard et al., ICCV 2019) from scratch: a stock network to beat.

    Args:
        input_shape: `(P, P, 3)`, P at least `MIN_PATCH` or None.
        num_classes: Number of classes, at least 2.
        width: Channels of the stem; 16 in the paper, and all others are in proportion.
        dropout: Share of pooled features dropped in training.
    """
    inputs = _pixels(input_shape, num_classes)
    network = keras.applications.MobileNetV3Small(
        input_tensor=inputs, alpha=width / 16, include_top=False, weights=None
    )
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = NORM_MOMENTUM  # the stock .999 needs thousands of steps
    features = keras.layers.GlobalAveragePooling2D(name="mean")(network.output)
    outputs = _probabilities(features, num_classes, dropout)
    return keras.Model(inputs, outputs, name="mobilenet")


MODELS: dict[str, Callable[..., keras.Model]] = {
    "residual": build_residual,
    "histogram": build_histogram,
    "two_stream": build_two_stream,
    "lenet": build_lenet,
    "mobilenet": build_mobilenet,
}
"""Every model builder by name: the one registration place."""


def bag_model(patch_model: keras.Model, *, units: int = 32) -> keras.Model:
    """A network for bags of patches of one image: embeddings, attention pooling, soft-max.

    Inputs by name: "patches", RGB in 0 … 255, `(B, N, P, P, 3)`, and "mask" `(B, N)`, nonzero
    where there is a patch; bags are filled up to N with anything. Output `(B, num_classes)`. N and
    P may differ from call to call, as far as `patch_model` takes any size. The copy of the patch
    network is frozen, so that only the attention and the last layer learn.

    Args:
        patch_model: A trained network by a builder of `MODELS`; left as it is.
        units: Size of the attention's hidden layer.
    """
    network = keras.models.clone_model(patch_model)
    network.set_weights(patch_model.get_weights())
    embeddings = keras.Model(network.input, network.get_layer("embedding").output, name="network")
    embeddings.trainable = False
    patches = keras.Input((None, *network.input_shape[1:]), name="patches")
    mask = keras.Input((None,), name="mask")
    features = EachPatch(embeddings, name="each_patch")(patches)
    features = AttentionPooling(units, name="attention")(features, mask)
    outputs = _probabilities(features, network.output_shape[-1], dropout=0.0)
    return keras.Model({"patches": patches, "mask": mask}, outputs, name="bag")


def _pixels(input_shape: InputShape, num_classes: int) -> Any:
    """The input tensor, after checking the arguments that all builders share."""
    height, width, channels = input_shape
    if any(side is not None and side < MIN_PATCH for side in (height, width)) or channels != 3:
        raise ValueError(
            f"input_shape must be (P, P, 3) with P at least {MIN_PATCH}, or (None, None, 3). "
            f"Received: {input_shape}"
        )
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2. Received: {num_classes}")
    return keras.Input(input_shape, name="pixels")


def _residual_stream(inputs: Any, width: int) -> Any:
    """Statistics `(B, 10·width)` of a residual network on high-pass residuals."""
    features = HighPassResiduals(name="residuals")(inputs)
    # Full resolution for the stem and one block: pooling first would average the traces away.
    features = _convolution(features, width, name="stem")
    features = _residual_block(features, width, name="full")
    for name, channels in (("half", 3 * width), ("quarter", 5 * width)):
        features = _convolution(features, channels, strides=2, name=f"{name}_down")
        features = _residual_block(features, channels, name=name)
    return StatisticsPooling(name="statistics")(features)


def _histogram_stream(inputs: Any, units: int) -> Any:
    """`(B, 4·units)` from histograms and combs of block transforms, and of JPEG 2000's wavelets."""
    blocks_8 = BlockHistograms(8, luma=24, chroma=4, combs=16, name="blocks_8")(inputs)
    blocks_4 = BlockHistograms(4, luma=10, chroma=2, name="blocks_4")(inputs)
    common_8 = CommonStepCombs("dct_8", name="common_8")(inputs)
    lapped_4 = CommonStepCombs("lapped_4", name="lapped_4")(inputs)
    summaries = [
        PhaseSummary(name="summary_8")(blocks_8),
        PhaseSummary(name="summary_4")(blocks_4),
        PhaseSummary(name="summary_common_8")(common_8),
        PhaseSummary(name="summary_lapped_4")(lapped_4),
        WaveletHistograms("9/7", name="wavelet_97")(inputs),
        WaveletHistograms("5/3", levels=1, name="wavelet_53")(inputs),
    ]
    features = keras.layers.Concatenate(name="histograms")(summaries)
    features = keras.layers.BatchNormalization(momentum=NORM_MOMENTUM, name="histogram_norm")(
        features
    )
    features = keras.layers.Dense(2 * units, activation="relu", name="histogram_dense")(features)
    phases_8 = keras.layers.Concatenate(name="phases_8")([blocks_8, common_8])
    phases_4 = keras.layers.Concatenate(name="phases_4")([blocks_4, lapped_4])
    return keras.layers.Concatenate(name="histogram_stream")(
        [features, _phase_vote(phases_8, units, "vote_8"), _phase_vote(phases_4, units, "vote_4")]
    )


def _phase_vote(phases: Any, units: int, name: str) -> Any:
    """`(B, units)`: the strongest answer of any phase `(B, n, F)`, from all its features together.

    A summary of each feature alone cannot tell whether they point to one grid or to many.
    """
    features = PhaseContrast(name=f"{name}_contrast")(phases)
    features = keras.layers.BatchNormalization(momentum=NORM_MOMENTUM, name=f"{name}_norm")(
        features
    )
    features = keras.layers.Dense(units, name=f"{name}_dense")(features)
    return keras.layers.GlobalMaxPooling1D(name=f"{name}_max")(features)


def _convolution(
    features: Any, channels: int, *, name: str, strides: int = 1, relu: bool = True
) -> Any:
    """3×3 convolution, batch normalisation and, unless told otherwise, ReLU."""
    features = keras.layers.Conv2D(
        channels, 3, strides=strides, padding="same", use_bias=False, name=f"{name}_conv"
    )(features)
    features = keras.layers.BatchNormalization(momentum=NORM_MOMENTUM, name=f"{name}_norm")(
        features
    )
    return keras.layers.ReLU(name=f"{name}_relu")(features) if relu else features


def _residual_block(features: Any, channels: int, *, name: str) -> Any:
    """`relu(x + conv(conv(x)))` at unchanged size."""
    branch = _convolution(features, channels, name=f"{name}_1")
    branch = _convolution(branch, channels, name=f"{name}_2", relu=False)
    features = keras.layers.Add(name=f"{name}_add")([features, branch])
    return keras.layers.ReLU(name=f"{name}_out")(features)


def _probabilities(features: Any, num_classes: int, dropout: float) -> Any:
    """Dropout, the layers "embedding" and "probabilities"; `float32` whatever the compute dtype."""
    features = keras.layers.Dropout(dropout, name="dropout")(features)
    features = keras.layers.Activation("linear", name="embedding")(features)
    return keras.layers.Dense(
        num_classes, activation="softmax", dtype="float32", name="probabilities"
    )(features)
