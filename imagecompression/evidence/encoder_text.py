"""Texts in which encoders name themselves, wherever in a file they stand."""

from __future__ import annotations

import re

from imagecompression.evidence.record import text

MAX_SEARCHED = 1 << 24
"""Bytes at the start of a file that are searched."""

_MAX_FOUND = 20
_NAMES = re.compile(
    rb"(?:x265 \(build|x264 - core|Lavc\d|Lavf\d|SVT-AV1|HandBrake|rav1e |libheif|AOMedia)"
    rb"[ -~]{0,400}"
)


def encoder_texts(data: bytes) -> list[str]:
    """The texts, each once, in order; at most 20."""
    found: dict[str, None] = {}
    for match in _NAMES.finditer(data, 0, MAX_SEARCHED):
        found[text(match[0])] = None
        if len(found) == _MAX_FOUND:
            break
    return list(found)
