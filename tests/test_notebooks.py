"""The notebooks run from top to bottom on a tiny dataset."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from fake_patches import fake_dataset
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = fake_dataset(tmp_path / "set", patches=6)
    monkeypatch.setenv("IMAGECOMPRESSION_DATASET", str(dataset))
    monkeypatch.setenv("IMAGECOMPRESSION_RUN", str(tmp_path / "run"))
    monkeypatch.setenv("IMAGECOMPRESSION_EPOCHS", "2")
    monkeypatch.setenv("IMAGECOMPRESSION_TRIALS", "2")
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit notebooks cleared"
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": path.parent}})
    client.execute()
    text = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert "largest difference: 0.0" in text
    assert (tmp_path / "run" / "evaluation-test" / "report.md").exists()
