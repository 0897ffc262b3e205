"""What a benchmark ran on, written beside its table: versions and machine, no paths."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

PACKAGES = (
    "av", "constriction", "distributed", "fsspec", "glymur", "imagecodecs", "imagequant", "jpeglib",
    "keras", "numpy", "opencv-python", "pillow", "pillow-heif", "pyoxipng", "scikit-image",
    "scikit-learn", "scipy", "tensorflow", "tifffile",
)  # fmt: skip


def write_table(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows of equal keys, at least one, as CSV; makes the folder."""
    rows = list(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_environment(table: Path) -> None:
    """Write `table`'s sidecar, ``NAME.environment.json``."""
    from imagecompression import CODECS

    content = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "packages": {name: version(name) for name in PACKAGES},
        "encoders": {name: codec.version() for name, codec in CODECS.items()},
    }
    path = table.with_name(f"{table.stem}.environment.json")
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
