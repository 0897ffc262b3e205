"""What an SVD file itself shows: the container of `imagecompression.svd`."""

from __future__ import annotations

import zlib

from imagecompression.evidence.record import Record, unpack
from imagecompression.patch_svd import STEP_UNIT


def read(data: bytes, record: Record) -> None:
    """Add all findings of an SVD file.

    Raises:
        DamageError: Where it ends early.
    """
    (version,) = unpack("<B", data, 4, "the header")
    record.codec = "svd"
    record.observed("version", version)
    if version != 2:
        record.not_available("size", "only files of version 2 are looked into")
        return
    block, planes, halved, width, height, *steps = unpack("<BBBHHII", data, 5, "the header")
    record.observed("size", {"width": width, "height": height})
    record.observed("mode", "patch" if block else "global")
    record.observed("block", block, "side in samples; 0 in global mode")
    record.observed("planes", planes)
    record.observed("chroma_halved", bool(halved))
    record.derived("steps", [step / STEP_UNIT for step in steps], "luma and chroma, grey levels")
    end = 20 + 2 * planes
    (checksum,) = unpack("<I", data, end, "the header")
    fits = zlib.crc32(data[end + 4 :], zlib.crc32(data[:end])) == checksum
    record.derived("checksum_fits", fits)
    if not fits:
        record.damaged(end, "the checksum does not fit: the file is changed or cut off")
