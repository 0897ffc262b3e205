"""A dataset of a few pictures written by hand, for what reads datasets, and a pool that needs none.

Three sources, one a split and one of them gray; classes uncompressed, jpeg and jpeg2000 at two
targets, a JPEG saved again as PNG, a target that was missed and a sample that failed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from conftest import photograph_like

from datasets.manifest import write_manifest
from datasets.sources import pixel_hash
from datasets.storage import Storage
from imagecompression import Codec, Image, Jpeg, Jpeg2000, Lossless
from imagecompression.metrics import measure

LABELS = ["uncompressed", "jpeg", "jpeg2000"]
SPLITS = {"oak.wood-0": "train", "lake-1": "val", "roof-2": "test"}
CONFIG: dict[str, Any] = {
    "codecs": LABELS,
    "ratios": [8.0, 20.0],
    "ssims": [],
    "patch_size": 32,
    "patches_per_class": 4,
    "seed": 0,
    "ratio_range": [4.0, 60.0],
    "histories": [{"name": "single"}, {"name": "resaved-png"}],
    "label_rule": "last",
}
DESCRIPTION: dict[str, Any] = {
    "format": 2,
    "labels": LABELS,
    "patch_size": 32,
    "seed": 0,
    "config": CONFIG,
    "encoders": {"uncompressed": "zlib 1", "jpeg": "libjpeg-turbo 3", "jpeg2000": "OpenJPEG 2"},
    "python": "3.11.0",
    "packages": {"numpy": "2"},
}


class HerePool:
    """A pool whose tasks run in this process, the last first, to show that order is no matter."""

    processes = 1

    def run(
        self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        for number, task in reversed(list(enumerate(tasks))):
            yield number, function(*task)


def write_tiny_dataset(root: Path | str) -> Storage:
    """Write the dataset to `root`, a folder or a URL, without patches, card and Croissant."""
    storage = Storage(root)
    rows = []
    for number, source in enumerate(SPLITS):
        image = photograph_like(64 + number, 80, 1 if number == 1 else 3, seed=number)
        rows.append(_sample(storage, source, image, "uncompressed", Lossless(), None))
        for nominal, jpeg, jpeg2000 in ((8.0, 60, 8.1), (20.0, 20, 20.5)):
            rows.append(_sample(storage, source, image, "jpeg", Jpeg(quality=jpeg), nominal))
            codec = Jpeg2000(ratio=jpeg2000)
            rows.append(_sample(storage, source, image, "jpeg2000", codec, nominal))
        decoded = Jpeg.decode(storage.read(rows[1]["path"])) if number == 0 else None
        if decoded is not None:
            rows.append(_sample(storage, source, decoded, "jpeg", Lossless(), 8.0, "resaved-png"))
    rows[2] |= {"reached": False, "reason": "ratio 8 is out of reach: the largest file has 9.1"}
    empty = {"path": "", "container": "", "file_sha256": "", "pixel_sha256": "", "file_bytes": 0}
    failed = {"sample_id": "roof-2_jpeg_ratio4", "status": "failed", "error": "no | memory"}
    rows.append(rows[-1] | empty | failed | {"measured": None, "ratio": None, "reached": False})
    write_manifest(storage, rows)
    storage.write("dataset.json", json.dumps(DESCRIPTION).encode())
    rejected = [{"file": "copy.tif", "error": "Not pristine", "reason": "jpeg-history"}]
    storage.write("rejected.json", json.dumps(rejected).encode())
    return storage


def _sample(
    storage: Storage,
    source: str,
    image: Image,
    label: str,
    codec: Codec,
    nominal: float | None,
    history: str = "single",
) -> dict[str, Any]:
    """Write one file and return its row."""
    data = codec.encode(image)
    decoded = codec.decode(data)
    goal = "none" if nominal is None else f"ratio{nominal:g}"
    chain = [{"step": "compress", "codec": label}]
    chain += [{"step": "save_png"}] if history != "single" else []
    sample_id = f"{source}_{label}_{goal}" + ("" if history == "single" else f"_{history}")
    path = f"encoded/{label}/{sample_id}{codec.suffix}"
    storage.write(path, data)
    measures = measure(image, decoded, len(data))
    return {
        "sample_id": sample_id,
        "status": "ok",
        "error": "",
        "source_id": source,
        "source_file": f"{source}.tif",
        "source_sha256": hashlib.sha256(source.encode()).hexdigest(),
        "source_pixel_sha256": pixel_hash(image),
        "source_notes": "",
        "origin": "",
        "group": source,
        "split": SPLITS[source],
        "label": label,
        "codec": label,
        "params": json.dumps(codec.params(), sort_keys=True),
        "encoder": codec.version(),
        "target_kind": "none" if nominal is None else "ratio",
        "target_nominal": nominal,
        "target_value": nominal,
        "measured": None if nominal is None else measures["ratio"],
        "reached": True,
        "reason": "",
        "encodes": 2,
        "history": history,
        "chain": json.dumps(chain),
        "container": codec.name,
        "path": path,
        "file_bytes": len(data),
        "file_sha256": hashlib.sha256(data).hexdigest(),
        "pixel_sha256": pixel_hash(decoded),
        "width": decoded.shape[1],
        "height": decoded.shape[0],
        "channels": 1 if decoded.ndim == 2 else 3,
        "mean_red": 100.0,
        "mean_green": 100.0,
        "mean_blue": 100.0,
        **measures,
        "seed": 2**62 + 1,
    }
