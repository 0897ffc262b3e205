"""A tiny dataset folder in the layout of `datasets`, made here without building one."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

LABELS = ["uncompressed", "jpeg", "kmeans"]


def fake_dataset(
    folder: Path,
    *,
    splits: tuple[str, ...] = ("train",) * 4 + ("val", "test"),
    labels: list[str] = LABELS,
    patches: int = 4,
    size: int = 32,
    seed: int = 0,
) -> Path:
    """Write a dataset of noise pictures, one for each of `splits`; return `folder`.

    Each source gives every label one sample of `patches` patches: left alone, JPEG at quality 10,
    or with few colours.
    """
    rng = np.random.default_rng(seed)
    pixels, rows = [], []
    for number, split in enumerate(splits):
        source = f"source{seed}-{number}"
        side = 2 * size
        smooth = rng.normal(128, 40, (side // 8, side // 8, 3)).repeat(8, 0).repeat(8, 1)
        picture = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
        for label in labels:
            decoded = _distorted(picture, label)
            for _ in range(patches):
                top, left = rng.integers(0, side - size + 1, 2)
                pixels.append(decoded[top : top + size, left : left + size])
                rows.append(
                    {
                        "sample_id": f"{source}_{label}",
                        "source_id": source,
                        "group": source,
                        "source_sha256": hashlib.sha256(source.encode()).hexdigest(),
                        "split": split,
                        "label": label,
                        "ratio": {"uncompressed": 1.0, "jpeg": 20.0}.get(label, 10.0),
                        "ssim": {"uncompressed": 1.0, "jpeg": 0.8}.get(label, 0.95),
                        "psnr_db": 30.0,
                        "top": int(top),
                        "left": int(left),
                    }
                )
    (folder / "patches").mkdir(parents=True)
    np.save(folder / "patches" / "patches.npy", np.stack(pixels))
    pq.write_table(pa.Table.from_pylist(rows), folder / "patches" / "patches.parquet")
    samples = sorted({row["sample_id"] for row in rows})
    pq.write_table(pa.table({"sample_id": samples}), folder / "manifest.parquet")
    description = {"labels": labels, "patch_size": size, "seed": seed}
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def _distorted(picture: np.ndarray, label: str) -> np.ndarray:
    if label == "jpeg":
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=10)
        return np.asarray(Image.open(file))
    return picture // 64 * 64 if label == "kmeans" else picture
