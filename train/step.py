"""One step of training, on one device or spread over several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

_PIXELS = tf.TensorSpec((None, None, None, 3), tf.uint8)
_SIGNATURE = [_PIXELS, tf.TensorSpec((None,), tf.int32), tf.TensorSpec((None,), tf.float32)]
"""One signature for all batches: workers that traced at different steps would wait for ever."""


def training_step(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, strategy: Any, label_smoothing: float
) -> Callable[..., tuple[Any, Any]]:
    """A function of `(pixels, classes, weights)` that takes a step.

    It answers the weighted mean cross-entropy of the batch and the number of patches named
    rightly. Each replica takes every n-th patch of the batch, whose gradients are summed, so that
    the number of replicas changes the statistics of batch normalisation and nothing else. The
    running statistics are averaged over the replicas.
    """
    replicas = strategy.num_replicas_in_sync

    def step(pixels: Any, classes: Any, weights: Any) -> tuple[Any, Any]:
        replica = tf.distribute.get_replica_context()
        count = tf.cast(tf.shape(pixels)[0], tf.float32)
        mine = slice(replica.replica_id_in_sync_group, None, replicas)
        pixels, classes, weights = pixels[mine], classes[mine], weights[mine]
        with tf.GradientTape() as tape:
            answers = model(pixels, training=True)
            truth = tf.one_hot(classes, answers.shape[-1])
            losses = keras.losses.categorical_crossentropy(
                truth, answers, label_smoothing=label_smoothing
            )
            loss = tf.reduce_sum(weights * losses) / count + sum(model.losses) / replicas
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        statistics = model.non_trainable_weights
        if replicas > 1 and statistics:
            means = replica.all_reduce(
                tf.distribute.ReduceOp.MEAN, [one.value.read_value() for one in statistics]
            )
            for one, mean in zip(statistics, means, strict=True):
                one.assign(mean)
        right = tf.equal(tf.argmax(answers, axis=1, output_type=tf.int32), classes)
        return loss, tf.reduce_sum(tf.cast(right, tf.int32))

    @tf.function(input_signature=_SIGNATURE, jit_compile=False)  # XLA is slower here on a CPU
    def distributed(pixels: Any, classes: Any, weights: Any) -> tuple[Any, Any]:
        loss, right = strategy.run(step, args=(pixels, classes, weights))
        return (
            strategy.reduce(tf.distribute.ReduceOp.SUM, loss, axis=None),
            strategy.reduce(tf.distribute.ReduceOp.SUM, right, axis=None),
        )

    return distributed


def prediction(model: keras.Model) -> Callable[[Any], Any]:
    """A function of pixels `uint8` `(B, P, P, 3)` that answers probabilities `(B, C)`."""

    @tf.function(input_signature=[_PIXELS])
    def predict(pixels: Any) -> Any:
        return model(pixels, training=False)

    return predict


def restart_random(model: keras.Model, seed: int, step: int) -> None:
    """Make what the layers draw in a step (dropout) depend on `seed` and `step` alone."""
    # Keras has no public list of all layers, those inside layers among them.
    for place, layer in enumerate(model._flatten_layers()):
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            generator.state.assign([(seed + 7919 * place) % 2**31, step % 2**31])
