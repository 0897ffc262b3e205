"""Training on several devices or machines by `tf.distribute`.

Keras 3 supports `model.fit` with `MirroredStrategy` alone; with a step of our own (`train.step`)
the same code serves one device, mirrored devices, and workers on several machines.
"""

from __future__ import annotations

import json
import os
from typing import Any

import tensorflow as tf

from train.settings import StrategyName, TrainError

TF_CONFIG = "TF_CONFIG"


class Distribution:
    """Where a training runs.

    Attributes:
        strategy: The `tf.distribute.Strategy`; TensorFlow's default one for a single device.
        is_chief: Whether this process writes the run directory: one of all workers does.
        workers: Number of processes.
    """

    def __init__(self, name: StrategyName) -> None:
        """Make the strategy.

        For "multi-worker" every worker must get here before TensorFlow does anything else, and
        waits for the others.

        Raises:
            TrainError: "multi-worker" without a valid ``TF_CONFIG``, or too late.
        """
        self.strategy: Any = tf.distribute.get_strategy()
        self.is_chief, self.workers = True, 1
        if name == "mirrored":
            kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
            devices = [device.name for device in tf.config.list_logical_devices(kind)]
            self.strategy = tf.distribute.MirroredStrategy(devices)
        elif name == "multi-worker":
            cluster, kind, index = _task()
            self.is_chief = kind == "chief" or ("chief" not in cluster and index == 0)
            self.workers = sum(map(len, cluster.values()))
            try:
                self.strategy = tf.distribute.MultiWorkerMirroredStrategy()
            except (RuntimeError, ValueError, tf.errors.OpError) as error:
                raise TrainError(
                    "The strategy multi-worker cannot start; it must be the first that its "
                    f"process does with TensorFlow, once in each process: {error}"
                ) from error

    @property
    def replicas(self) -> int:
        """Number of devices that share each batch."""
        return int(self.strategy.num_replicas_in_sync)

    def agreed(self, value: float) -> float:
        """The mean of `value` over all workers, so that each takes the same decision by it."""
        if self.workers == 1:
            return value
        everywhere = self.strategy.run(_mean, args=(tf.constant(value, tf.float64),))
        return float(self.strategy.experimental_local_results(everywhere)[0])

    def wait(self) -> None:
        """Return when all workers have come here."""
        self.agreed(0.0)


@tf.function
def _mean(value: Any) -> Any:
    value = tf.identity(value)  # on the replica's device, which an argument is not
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, value)


def _task() -> tuple[dict[str, list[str]], str, int]:
    """Cluster, and type and number of this process's task, of the environment's ``TF_CONFIG``."""
    text = os.environ.get(TF_CONFIG, "")
    try:
        content = json.loads(text)
        cluster = {str(kind): list(hosts) for kind, hosts in content["cluster"].items()}
        kind, index = str(content["task"]["type"]), int(content["task"]["index"])
        _ = cluster[kind][index]
        if set(cluster) - {"chief", "worker"}:
            raise ValueError(f"unknown tasks {sorted(cluster)}")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise TrainError(
            f"The strategy multi-worker needs the environment variable {TF_CONFIG}, on each worker "
            'with its own index, such as {"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
            f'"task": {{"type": "worker", "index": 0}}}}. Received: {text!r} ({error})'
        ) from error
    return cluster, kind, index
