"""What a report says of the tool that made it: versions, decoders, and the model."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import TYPE_CHECKING, Any

from imagecompression import CODECS, CodecUnavailableError
from train.classification import DEFAULT_RUN

if TYPE_CHECKING:
    from train.run import Run

_PACKAGES = (
    "numpy", "pillow", "imagecodecs", "tifffile", "pillow-heif", "av", "onnxruntime", "keras",
    "jinja2", "reportlab",
)  # fmt: skip


def tool_facts() -> dict[str, Any]:
    """Versions of the tool, of Python and of the packages, and of each codec's library."""
    return {
        "imagecompression": _version("imagecompression"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in _PACKAGES},
        "decoders": {name: _library(name) for name in CODECS},
    }


def model_facts(run: Run) -> dict[str, Any]:
    """The run: name, classes, hashes of the model's file and of the patches it was trained on.

    Raises:
        ImageCompressionError: The run's calibration or rejection cannot be loaded.
    """
    return {
        "run": run_name(run) or "the default run",
        "labels": list(run.labels),
        "patch_size": run.patch_size,
        "model_sha256": run.model_sha256,
        "dataset": run.config.get("dataset", {}),
        "settings": run.config.get("train", {}),
        "runs_by": "ONNX Runtime" if run.onnx is not None else "Keras",
        "calibrated": run.calibration is not None,
        "tells_unknown": run.rejection is not None,
    }


def run_name(run: Run) -> str:
    """Last part of the run's path; empty for the default run."""
    return "" if run.path == DEFAULT_RUN else run.path.resolve().name


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _library(codec: str) -> str:
    try:
        return CODECS[codec].version()
    except CodecUnavailableError as error:
        return f"not available: {error}"
