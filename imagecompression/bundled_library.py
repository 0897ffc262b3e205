"""Shared libraries inside the wheels of Pillow and imagecodecs, for what these do not expose."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_LIBRARY_FOLDERS = {"PIL": "pillow.libs", "imagecodecs": "imagecodecs.libs"}


def bundled_library(package: str, *patterns: str) -> Path | None:
    """The first library in `package`'s wheel that matches a pattern; None where there is none.

    Linux wheels keep their libraries beside the package, macOS wheels inside it. The package is
    not imported.

    Args:
        package: ``"PIL"`` or ``"imagecodecs"``.
        patterns: Glob patterns of the file name, in order of preference.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    for libraries in (folder.parent / _LIBRARY_FOLDERS[package], folder / ".dylibs"):
        found = [path for pattern in patterns for path in sorted(libraries.glob(pattern))]
        if found:
            return found[0]
    return None
