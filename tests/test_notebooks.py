"""The notebooks run from top to bottom on a tiny dataset."""

from __future__ import annotations

from pathlib import Path

import nbformat
import numpy as np
import pytest
from fake_patches import fake_dataset
from nbclient import NotebookClient
from tiny_dataset import write_tiny_dataset

from datasets.sources import csv_bytes
from train.answers import ProtocolSettings
from train.protocols import run_protocols

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def printed(path: Path) -> str:
    """Execute a notebook and return all that it printed."""
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit notebooks cleared"
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": path.parent}})
    client.execute()
    return "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )


@pytest.fixture(autouse=True)
def without_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")


def test_every_notebook_is_tested() -> None:
    names = {path.stem for path in NOTEBOOKS.glob("*.ipynb")}
    assert names == {"train_model", "read_the_results"}


def test_train_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = fake_dataset(tmp_path / "set", patches=6)
    monkeypatch.setenv("IMAGECOMPRESSION_DATASET", str(dataset))
    monkeypatch.setenv("IMAGECOMPRESSION_RUN", str(tmp_path / "run"))
    monkeypatch.setenv("IMAGECOMPRESSION_EPOCHS", "2")
    monkeypatch.setenv("IMAGECOMPRESSION_TRIALS", "2")
    assert "largest difference: 0.0" in printed(NOTEBOOKS / "train_model.ipynb")
    assert (tmp_path / "run" / "evaluation-test" / "report.md").exists()


def test_read_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ("uncompressed", "jpeg", "jpeg2000")
    write_tiny_dataset(tmp_path / "set")
    settings = ProtocolSettings(labels, "all", (32,), image_patch=32, patches=2)

    def jpeg_always(pixels: np.ndarray) -> np.ndarray:
        return np.tile(np.float32([0.1, 0.8, 0.1]), (len(pixels), 1))

    names = ["bands", "grid-phase", "robustness", "reliability"]
    report = run_protocols(names, jpeg_always, tmp_path / "set", settings)
    assert not report.skipped
    results = tmp_path / "results"
    results.mkdir()
    for result in report.results:
        rows = [{"set": "tiny"} | row for row in result.rows]
        (results / f"protocols_{result.name}.csv").write_bytes(csv_bytes(rows))
    monkeypatch.setenv("IMAGECOMPRESSION_RESULTS", str(results))
    text = printed(NOTEBOOKS / "read_the_results.ipynb")
    assert "rows of bands on the sets tiny" in text
    assert "tiny           image     network" in text
    monkeypatch.setenv("IMAGECOMPRESSION_RESULTS", str(tmp_path / "nowhere"))
    assert "0 rows of bands on the sets (none)" in printed(NOTEBOOKS / "read_the_results.ipynb")
