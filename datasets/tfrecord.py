"""TFRecord files of `tf.train.Example`, written without TensorFlow.

Sources: TensorFlow's "TFRecord and tf.train.Example" guide for the framing, example.proto and
feature.proto for the messages, Protocol Buffers' "Encoding" page for the wire format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets.shards import ExportResult, Progress, Sample, export_shards
from datasets.workers import Pool


def export_tfrecord(
    dataset: Path | str,
    out: Path,
    splits: Sequence[str],
    pool: Pool,
    progress: Progress | None = None,
) -> ExportResult:
    """Files ``train-00000-of-00003.tfrecord``; arguments and errors as `export_shards`.

    Features: ``image`` (PNG), ``file`` (the encoded file), ``label`` (index), ``label_name`` and
    the manifest's columns. Numbers with a fraction are float32, truth values are 0 and 1; a null
    is an empty list.
    """
    place = "{shard}.tfrecord"
    return export_shards(dataset, out, splits, pool, progress, write_tfrecord, place)


def write_tfrecord(path: Path, samples: Iterator[Sample], labels: list[str]) -> None:
    """Write one file of a record a sample."""
    with path.open("wb") as file:
        for sample in samples:
            features = {"image": sample.png, "file": sample.file, **sample.columns}
            data = example(features)
            length = struct.pack("<Q", len(data))
            file.write(length + _checksum(length) + data + _checksum(data))


def example(features: dict[str, Any]) -> bytes:
    """A serialized `tf.train.Example` with features in the order of their names.

    Args:
        features: Values are bytes, str, bool, int, float, or None for an empty list.
    """
    entries = b""
    for name, value in sorted(features.items()):
        entry = _field(1, name.encode()) + _field(2, _feature(value))
        entries += _field(1, entry)
    return _field(1, entries)


def _feature(value: Any) -> bytes:
    """A `Feature`: bytes_list is field 1, float_list 2, int64_list 3; each a list in field 1."""
    if value is None:
        return _field(2, b"")
    if isinstance(value, float):
        return _field(2, _field(1, struct.pack("<f", value)))
    if isinstance(value, int):
        return _field(3, _field(1, _varint(value % 2**64)))
    return _field(1, _field(1, value.encode() if isinstance(value, str) else value))


def _field(number: int, content: bytes) -> bytes:
    """A field of wire type 2: tag, length, content."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _checksum(data: bytes) -> bytes:
    """TFRecord's masked CRC-32C."""
    import google_crc32c

    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
