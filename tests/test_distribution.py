"""Training on two devices of one process, and on two workers that talk over the network."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_patches import fake_dataset

from train.distribution import Distribution
from train.run import Run
from train.settings import TrainError

ROOT = Path(__file__).parent.parent
SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import tensorflow as tf
from train import trainer
from train.settings import TrainConfig

strategy, dataset, out, weights = sys.argv[1:]
if strategy == "mirrored":
    half = tf.config.LogicalDeviceConfiguration()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [half] * 2)
run = trainer._Training.run

def then_write(self, progress):
    run(self, progress)
    assert self._distribution.replicas == 2
    np.savez(weights, *self._model.get_weights())

trainer._Training.run = then_write
config = TrainConfig(epochs=3, batch_size=12, width=2, dropout=0.2, strategy=strategy)
trainer.train(Path(dataset), Path(out), config)
"""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _start(strategy: str, dataset: Path, out: Path, weights: Path, task: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, strategy, str(dataset), str(out), str(weights)],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_CONFIG": task},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_devices_and_two_workers(tmp_path: Path) -> None:
    dataset = fake_dataset(tmp_path / "dataset")
    cluster = {"worker": [f"localhost:{port}" for port in _free_ports(2)]}
    tasks = [
        json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        for index in range(2)
    ]
    files = {name: tmp_path / f"{name}.npz" for name in ("worker-0", "worker-1", "mirrored")}
    processes = [
        _start("multi-worker", dataset, tmp_path / "workers", files[f"worker-{index}"], task)
        for index, task in enumerate(tasks)
    ]
    processes.append(_start("mirrored", dataset, tmp_path / "devices", files["mirrored"], "{}"))
    try:
        for process in processes:
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    weights = {name: list(np.load(path).values()) for name, path in files.items()}
    for one, other, device in zip(*weights.values(), strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(one, device, atol=1e-4)
    for name in ("workers", "devices"):
        losses = [row["loss"] for row in Run.load(tmp_path / name).history]
        assert losses[-1] < losses[0]
        assert not (tmp_path / name / "checkpoint").exists()


@pytest.mark.parametrize(
    "task",
    [
        "",
        "{",
        "[]",
        '{"cluster": {"worker": ["localhost:1"]}}',
        '{"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"ps": ["localhost:1"]}, "task": {"type": "ps", "index": 0}}',
    ],
)
def test_a_wrong_cluster_is_explained(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", task)
    with pytest.raises(TrainError, match="TF_CONFIG"):
        Distribution("multi-worker")


def test_workers_must_start_before_tensorflow_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Distribution("none").replicas == 1  # TensorFlow is in use from here on
    ports = _free_ports(2)
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    task = {"cluster": cluster, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(task))
    with pytest.raises(TrainError, match="first that its process does"):
        Distribution("multi-worker")
