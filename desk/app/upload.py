"""Files that come through the browser: bounded, checked, and on disk for no longer than needed."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image as PilImage

from desk.app.settings import AppError
from desk.report import printable
from imagecompression.codec import Image, pixel_limit
from imagecompression.image_io import decode_image

MAX_UPLOAD_BYTES = 64 << 20
"""Of one file."""

MAX_UPLOADS = 20
"""Files that are examined together."""

MAX_UPLOAD_PIXELS = 24_000_000
"""Of one picture; larger ones are refused by their header, before anything is allocated."""

_MAX_NAME = 200
"""Bytes of a name on disk; file systems allow 255."""

_turn = threading.Lock()


@dataclass(frozen=True)
class Upload:
    """A file as the browser sent it.

    Attributes:
        name: As the browser called it, untrusted.
        data: The whole file.

    Raises:
        AppError: Empty, or larger than `MAX_UPLOAD_BYTES`.
    """

    name: str
    data: bytes

    def __post_init__(self) -> None:
        if not 0 < len(self.data) <= MAX_UPLOAD_BYTES:
            raise AppError(
                f"{self.safe_name}: a file has 1 to {MAX_UPLOAD_BYTES:,} bytes. "
                f"Received: {len(self.data):,}."
            )

    @property
    def safe_name(self) -> str:
        r"""Last part of the name, printable and short, that every file system takes.

        >>> Upload("../a/b\\photo.jpg", b"1").safe_name
        'photo.jpg'
        """
        last = PurePosixPath(self.name.replace("\\", "/").replace("\0", "")).name
        shown = printable(last).replace("\\", "_").strip()
        suffix = PurePosixPath(shown).suffix
        kept = shown.removesuffix(suffix).encode(errors="replace")[
            : _MAX_NAME - len(suffix.encode())
        ]
        name = kept.decode(errors="ignore") + suffix
        return name if name.strip(".") and len(name.encode()) <= _MAX_NAME else "picture"


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Work on one picture at a time, whatever the number of sessions, within the pixel limit.

    Memory is then bounded by one picture's, and libraries that are not thread-safe are safe.
    """
    with _turn, pixel_limit(MAX_UPLOAD_PIXELS):
        yield


@contextmanager
def on_disk(upload: Upload) -> Iterator[Path]:
    """The upload as a file in a folder of its own, which is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="imagecompression-") as folder:
        path = Path(folder) / upload.safe_name
        path.write_bytes(upload.data)
        yield path


def decode(upload: Upload) -> Image:
    """The pixels of an upload; call it within `one_at_a_time`.

    Raises:
        ImageCompressionError: Not a readable picture, or one of too many pixels.
    """
    return decode_image(upload.data, upload.safe_name).pixels


def thumbnail(image: Image, side: int) -> Image:
    """The picture with its longer side reduced to at most `side` pixels."""
    picture = PilImage.fromarray(image)
    picture.thumbnail((side, side), reducing_gap=2.0)
    return np.asarray(picture)


def without_folders(message: str, *folders: Path) -> str:
    """A message with the folders of this machine taken out of it, on one line.

    >>> without_folders("/data/sets/a: no manifest\\nthere", Path("/data/sets"))
    'a: no manifest there'
    """
    for folder in sorted({str(f) for one in folders for f in (one, one.resolve())}, key=len)[::-1]:
        message = message.replace(f"{folder}{os.sep}", "").replace(folder, ".")
    return " ".join(message.split())
