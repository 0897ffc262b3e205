"""Pictures in a run directory: loss and accuracy by epoch, and the confusion matrix."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imagecompression.atomic_file import write_bytes_atomic


def draw_curves(history: Sequence[dict[str, float]], path: Path) -> None:
    """Write a PNG of loss and accuracy over the epochs, of training and validation.

    Args:
        history: `Run.history`.
        path: The file, replaced at once.
    """
    figure, (left, right) = _figure(9, 3.5, columns=2)
    for axes, measure in ((left, "loss"), (right, "accuracy")):
        for name, legend in ((measure, "training"), (f"val_{measure}", "validation")):
            points = [(row["epoch"], row[name]) for row in history if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", ms=3, label=legend)
        axes.set(xlabel="epoch", ylabel=measure)
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, path)


def draw_confusion(counts: npt.NDArray[np.integer[Any]], labels: Sequence[str], path: Path) -> None:
    """Write a PNG of a confusion matrix, each row in per cent of its class.

    Args:
        counts: `(C, C)`; rows are the truth, columns the answer.
        labels: C names.
        path: The file, replaced at once.
    """
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.2 + 0.62 * len(labels)
    figure, (axes,) = _figure(side + 0.6, side, columns=1)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.ndindex(*shares.shape):
        color = "white" if shares[row, column] > 55 else "black"
        text = f"{shares[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", color=color)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="answer", ylabel="truth")
    axes.set_title(f"{counts.sum():,} validation patches, % of each truth")
    figure.colorbar(picture, ax=axes, shrink=0.8)
    _save(figure, path)


def _figure(width: float, height: float, columns: int) -> tuple[Any, Any]:
    """A figure with axes side by side that needs no display and no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _save(figure: Any, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_bytes_atomic(path, content.getvalue())
