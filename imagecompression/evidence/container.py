"""What a file's container itself shows about its compression; no pixel is decoded.

A new format is one module with a function ``read(data, record)`` and one line in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from imagecompression.avif import Avif
from imagecompression.bpg import Bpg
from imagecompression.evidence import (
    bpg_file,
    isobmff_file,
    jpeg2000_file,
    jpeg_file,
    jpegxl_file,
    jpegxr_file,
    png_file,
    svd_file,
    tiff_file,
    webp_file,
)
from imagecompression.evidence.finding import Finding
from imagecompression.evidence.record import DamageError, Record, text
from imagecompression.heic import Heic
from imagecompression.jpeg import Jpeg
from imagecompression.jpeg2000 import Jpeg2000
from imagecompression.jpegxl import JpegXl
from imagecompression.jpegxr import JpegXr
from imagecompression.svd import Svd
from imagecompression.tiff import matches_tiff
from imagecompression.webp import WebP

_SHOWN = 16


@dataclass(frozen=True)
class FormatReader:
    """How a format is told apart and read.

    Attributes:
        matches: Whether bytes begin as a file of the format does.
        read: Adds findings to a record; may raise `DamageError` where it cannot go on.
    """

    matches: Callable[[bytes], bool]
    read: Callable[[bytes, Record], None]


FORMATS: dict[str, FormatReader] = {
    "jpeg": FormatReader(Jpeg.matches, jpeg_file.read),
    "jpeg2000": FormatReader(Jpeg2000.matches, jpeg2000_file.read),
    "jpegxr": FormatReader(JpegXr.matches, jpegxr_file.read),
    "bpg": FormatReader(Bpg.matches, bpg_file.read),
    "webp": FormatReader(WebP.matches, webp_file.read),
    "avif": FormatReader(Avif.matches, isobmff_file.read),
    "heic": FormatReader(Heic.matches, isobmff_file.read),
    "isobmff": FormatReader(lambda data: data[4:8] == b"ftyp", isobmff_file.read),
    "png": FormatReader(lambda data: data[:8] == b"\x89PNG\r\n\x1a\n", png_file.read),
    "tiff": FormatReader(matches_tiff, tiff_file.read),
    "jpegxl": FormatReader(JpegXl.matches, jpegxl_file.read),
    "svd": FormatReader(Svd.matches, svd_file.read),
}
"""Formats by name; the first one that matches is taken. ``isobmff`` is any other such file."""


@dataclass(frozen=True)
class ContainerEvidence:
    """What a container shows.

    Attributes:
        format: A key of `FORMATS`, or ``"unknown"``.
        findings: In the order of the file, as far as that makes sense; no two have one name.
        codec: Name in `imagecompression.CODECS` of the lossy codec that the container itself
            shows, ``"uncompressed"`` where it shows that nothing was lost, None where it cannot
            tell. It is the last codec alone: what came before does not show here.
    """

    format: str
    findings: tuple[Finding, ...]
    codec: str | None

    def finding(self, name: str) -> Finding | None:
        """The finding of a name, or None."""
        return next((finding for finding in self.findings if finding.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """Everything as a dict that `json.dumps` takes."""
        return {
            "format": self.format,
            "codec": self.codec,
            "findings": [finding.to_json() for finding in self.findings],
        }


def container_evidence(data: bytes) -> ContainerEvidence:
    """Read what the bytes of a file show, damaged or not; never raises on any bytes.

    Time and memory grow with the length of `data` at most, and the findings are bounded: texts to
    200 characters, lists to 500 entries.

    >>> container_evidence(b"GIF89a").format
    'unknown'
    """
    record = Record()
    record.observed("file_bytes", len(data))
    name = next((name for name, each in FORMATS.items() if each.matches(data)), "unknown")
    if name == "unknown":
        start = data[:_SHOWN]
        record.observed("first_bytes", {"hex": start.hex(" "), "text": text(start)})
    else:
        try:
            FORMATS[name].read(data, record)
        except DamageError as error:
            record.damaged(error.offset, error.problem)
    return ContainerEvidence(name, record.findings(), record.codec)
