"""Pristine pictures: finding them, and refusing those that are not what they seem."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imagecompression import CODECS, CodecError
from imagecompression.image_io import load_image

SOURCE_SUFFIXES = (".tif", ".tiff", ".png")
"""Suffixes taken when a folder is walked; a file named outright is taken whatever its suffix."""

GROUP_SEPARATOR = "__"
"""Files named `scene__anything` show one scene and are never split apart."""

_LOSSY = frozenset(name for name, codec in CODECS.items() if codec.knob is not None)


@dataclass(frozen=True)
class Source:
    """One accepted source picture.

    Attributes:
        path: Where it lies on this machine; never written into a dataset.
        file: Its name below the folder that was given.
        source_id: Name and start of the pixel hash; unique in a dataset.
        group: Pictures of one group always share a split.
        sha256: Of the file.
        pixel_sha256: Of shape and decoded samples; equal for equal pictures in any container.
        width: In pixels.
        height: In pixels.
        notes: Conversions made on reading, such as 16 bit to 8.
    """

    path: Path
    file: str
    source_id: str
    group: str
    sha256: str
    pixel_sha256: str
    width: int
    height: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Rejected:
    """A file that cannot serve as a source, and why."""

    file: str
    error: str


def find_source_files(paths: Iterable[Path]) -> tuple[list[tuple[Path, str]], list[Rejected]]:
    """Source files among files and folders (walked), sorted, each with its name for the dataset."""
    found: dict[Path, str] = {}
    missing: list[Rejected] = []
    for given in paths:
        if given.is_dir():
            named = (p for p in given.rglob("*") if p.suffix.lower() in SOURCE_SUFFIXES)
            inside = [path for path in named if path.is_file()]
            for path in inside:
                found.setdefault(path.resolve(), path.relative_to(given).as_posix())
            if not inside:
                kinds = ", ".join(SOURCE_SUFFIXES)
                missing.append(Rejected(given.name, f"The folder holds no {kinds} file"))
        elif given.exists():
            found.setdefault(given.resolve(), given.name)
        else:
            missing.append(Rejected(given.name, "No such file or folder"))
    return sorted(found.items(), key=lambda item: (item[1], item[0])), missing


def pixel_hash(pixels: np.ndarray) -> str:
    """SHA-256 of shape and samples, hexadecimal."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def group_of(file: str) -> str:
    """Group of a source by its name: what stands before ``__``, else the whole stem."""
    return Path(file).stem.split(GROUP_SEPARATOR)[0]


def open_source(path: Path, file: str, min_side: int) -> Source | Rejected:
    """Read and vet one file.

    Refused are unreadable files, pictures with a side under `min_side` pixels, pictures of one
    colour, and files that are lossy themselves (a JPEG, a TIFF with JPEG data inside, a palette).
    """
    try:
        file.encode()
    except UnicodeEncodeError:
        return Rejected(ascii(file), "The name is not valid UTF-8: rename the file")
    try:
        loaded = load_image(path)
    except CodecError as error:
        # The dataset must not tell where the file lay on this machine.
        return Rejected(file, str(error).replace(repr(os.fspath(path)), repr(file)))
    height, width = loaded.pixels.shape[:2]
    lossy = loaded.inner_codec or (loaded.format if loaded.format in _LOSSY else None)
    if lossy:
        return Rejected(file, f"Not pristine: compressed by {lossy}. Give a lossless original.")
    if min(width, height) < min_side:
        return Rejected(file, f"Too small: {width}×{height}, but a patch needs {min_side} pixels")
    if int(loaded.pixels.max()) - int(loaded.pixels.min()) < 8:
        return Rejected(file, "Too flat: its samples span fewer than 8 values")
    pixels = pixel_hash(loaded.pixels)
    stem = re.sub(r"[^A-Za-z0-9.-]+", "_", Path(file).stem)[:60]
    return Source(
        path=path,
        file=file,
        source_id=f"{stem}-{pixels[:10]}",
        group=group_of(file),
        sha256=loaded.sha256,
        pixel_sha256=pixels,
        width=width,
        height=height,
        notes=loaded.notes,
    )


def find_sources(
    paths: Iterable[Path],
    min_side: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Source], list[Rejected]]:
    """All usable sources among files and folders, and all refused ones with reasons.

    Equal pictures are taken once; the later ones are refused by the first one's name.

    Args:
        paths: Files and folders.
        min_side: Least width and height in pixels.
        progress: Called with (done, total).
    """
    files, rejected = find_source_files(paths)
    sources: dict[str, Source] = {}
    for done, (path, file) in enumerate(files, start=1):
        result = open_source(path, file, min_side)
        if isinstance(result, Rejected):
            rejected.append(result)
        elif result.pixel_sha256 in sources:
            first = sources[result.pixel_sha256].file
            rejected.append(Rejected(file, f"The same pixels as {first}"))
        else:
            sources[result.pixel_sha256] = result
        if progress is not None:
            progress(done, len(files))
    return sorted(sources.values(), key=lambda s: s.source_id), rejected
