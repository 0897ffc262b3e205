"""Datasets and runs below the root that the app was given. Nothing outside of it is read."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets.build import DATASET_FILE
from datasets.manifest import MANIFEST_FILE
from desk.app.settings import AppError
from train.run import CONFIG_FILE, LABELS_FILE

MAX_DEPTH = 4
"""Levels of folders below the root that are looked at."""

MAX_FOLDERS = 2000
"""Folders that are looked at; what lies in others is not listed."""

MAX_JSON_BYTES = 64 << 20


def find_datasets(root: Path) -> dict[str, Path]:
    """Folders with a dataset, by their path from the root, sorted."""
    return _found(root, (DATASET_FILE, MANIFEST_FILE))


def find_runs(root: Path) -> dict[str, Path]:
    """Folders with a run, by their path from the root, sorted."""
    return _found(root, (CONFIG_FILE, LABELS_FILE))


def below(root: Path, *names: str) -> Path:
    """A file or folder below the root, links resolved.

    Raises:
        AppError: It lies elsewhere.
    """
    try:
        path = root.joinpath(*names).resolve()
    except (OSError, ValueError) as error:
        raise AppError(f"{'/'.join(names)[:100]!r} is no name of a file.") from error
    if not path.is_relative_to(root.resolve()):
        raise AppError(f"{'/'.join(names)[:100]!r} lies outside of what is shown here.")
    return path


def read_json(root: Path, *names: str) -> Any:
    """A JSON file below the root; None where there is none.

    Raises:
        AppError: Outside of the root, larger than `MAX_JSON_BYTES`, or damaged.
    """
    path = below(root, *names)
    try:
        if not path.is_file():
            return None
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"larger than {MAX_JSON_BYTES:,} bytes")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise AppError(f"{'/'.join(names)} cannot be read: {reason}.") from error


def _found(root: Path, files: tuple[str, ...]) -> dict[str, Path]:
    folders = (folder for folder in _folders(root) if all((folder / f).is_file() for f in files))
    return {folder.relative_to(root).as_posix(): folder for folder in sorted(folders)}


def _folders(root: Path) -> Iterator[Path]:
    """The root and folders below it, neither hidden ones nor links, nor those of a dataset."""
    for folder, names, _ in itertools.islice(os.walk(root), MAX_FOLDERS):
        path = Path(folder)
        deep = len(path.relative_to(root).parts) >= MAX_DEPTH
        names[:] = (
            []
            if deep or (path / DATASET_FILE).is_file()
            else sorted(name for name in names if not name.startswith("."))
        )
        yield path
