"""The source pictures of a folder, as the benchmarks take them."""

from __future__ import annotations

from pathlib import Path


def pictures_in(folder: Path) -> list[Path]:
    """Its TIFF and PNG files, sorted; those of folders inside are left out."""
    return sorted(path for path in folder.iterdir() if path.suffix in (".png", ".tif"))
