"""How far targets must be spread for a codec's own precision to tell nothing about its class.

JPEG 2000 meets a ratio to within a percent, always from the same side; BPG misses it by up to some
per cent to either side. With one target for all, the measured ratio alone gives the class away. A
build therefore moves each target by a random factor. This benchmark writes manifests as builds
with such errors would, over the geometry of real pictures, and audits them for several spreads.

    python -m benchmarks.audit --data ../shared/data/train --out results/audit.csv
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.environment import write_environment, write_table
from datasets.audit import audit_manifest
from imagecompression import CODECS
from imagecompression.image_io import read_image

SIZE_ERRORS = {
    "jpeg": (-0.02, 0.02), "jpeg2000": (-0.007, -0.001), "jpegxr": (-0.005, 0.005),
    "bpg": (-0.04, 0.04), "svd": (-0.005, 0.005), "kmeans": (-0.03, 0.03), "webp": (-0.02, 0.02),
    "avif": (-0.03, 0.03), "heic": (-0.04, 0.04), "jpegxl": (-0.02, 0.02),
}  # fmt: skip
"""Relative errors of the ratio, lowest and highest: half a knob step, or the encoder's aim."""

SSIM_ERRORS = {
    "jpeg": 0.04, "jpeg2000": 0.005, "jpegxr": 0.01, "bpg": 0.08, "svd": 0.01, "kmeans": 0.08,
    "webp": 0.04, "avif": 0.08, "heic": 0.08, "jpegxl": 0.01,
}  # fmt: skip
"""Errors of 1 − SSIM to either side, relative: half of what a knob step changes."""

RATIOS = (5.0, 10.0, 20.0, 40.0)
SSIMS = (0.8, 0.9, 0.95)
SPREADS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2)
KMEANS_OUT_OF_REACH = 0.4
"""Share of the sources for which k-means cannot meet ratio 5."""


def pictures(folder: Path) -> list[dict[str, Any]]:
    """Geometry and mean colour of each source."""
    found = []
    for path in sorted(folder.glob("*.tif")):
        image = read_image(path)
        means = np.broadcast_to(
            image.reshape(-1, image.shape[2] if image.ndim == 3 else 1).mean(0), 3
        )
        found.append(
            {
                "source_id": path.stem,
                "width": image.shape[1],
                "height": image.shape[0],
                "channels": 1 if image.ndim == 2 else 3,
                **dict(
                    zip(("mean_red", "mean_green", "mean_blue"), map(float, means), strict=True)
                ),
            }
        )
    return found


def simulated(sources: list[dict[str, Any]], spread: float, seed: int) -> pa.Table:
    """A manifest as a build would write it.

    Each target of a source is moved, for all codecs alike, by a factor of 1 / (1 + spread) to
    1 + spread; an SSIM target by this factor of 1 − SSIM.
    """
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number, source in enumerate(sources):
        split = ("train", "train", "train", "val", "test")[number % 5]
        samples = source["width"] * source["height"] * source["channels"]
        factors = {value: rng.uniform(-1, 1) for value in (*RATIOS, *SSIMS)}
        hard = rng.random() < KMEANS_OUT_OF_REACH
        for label in ("uncompressed", *SIZE_ERRORS):
            targets = [("ratio", value) for value in RATIOS] + [("ssim", value) for value in SSIMS]
            for kind, nominal in [("none", 0.0)] if label == "uncompressed" else targets:
                place = factors.get(nominal, 0.0)
                factor = np.exp(place * np.log1p(spread))
                reached, ratio, ssim = True, 2.0, 1.0
                if kind == "ratio":
                    ratio = nominal * factor * (1 + rng.uniform(*SIZE_ERRORS[label]))
                    ssim = 1 - 0.004 * nominal * rng.lognormal(0, 0.3)
                    if label == "kmeans" and nominal == RATIOS[0] and hard:
                        ratio, reached = 5.0 * rng.uniform(1.2, 2.0), False
                elif kind == "ssim":
                    error = SSIM_ERRORS[label]
                    ssim = 1 - (1 - nominal) * factor * (1 + rng.uniform(-error, error))
                    ratio = 100 * (1 - nominal) * rng.lognormal(0, 0.5)
                file_bytes = max(1, round(samples / ratio))
                rows.append(
                    {
                        **source,
                        "sample_id": f"{source['source_id']}_{label}_{kind}{nominal}",
                        "status": "ok",
                        "source_pixel_sha256": source["source_id"],
                        "group": source["source_id"],
                        "split": split,
                        "label": label,
                        "codec": label,
                        "params": "{}",
                        "encoder": label,
                        "target_kind": kind,
                        "target_nominal": nominal or None,
                        "reached": reached,
                        "history": "single",
                        "container": label,
                        "file_bytes": file_bytes,
                        "pixel_sha256": f"{source['source_id']} {label} {len(rows)}",
                        "ratio": samples / file_bytes,
                        "bits_per_pixel": 8 * file_bytes / (source["width"] * source["height"]),
                        "psnr_db": 35.0 + rng.normal(0, 2),
                        "ssim": ssim,
                        "ms_ssim": ssim,
                    }
                )
    return pa.Table.from_pylist(rows)


def best_possible(errors: list[tuple[float, float]], spread: float) -> float:
    """Accuracy of the best classifier there can be on the measured value, with endless samples."""
    axis, step = np.linspace(-0.5, 0.5, 200_001, retstep=True)
    half = max(np.log1p(spread), float(step))
    densities = []
    for low, high in np.log1p(errors):
        below = [np.clip((axis + side - low) / (high - low), 0, 1) for side in (half, -half)]
        densities.append((below[0] - below[1]) / (2 * half))
    return float(np.max(densities, axis=0).sum() * step / len(errors))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of TIFF pictures")
    parser.add_argument("--out", type=Path, default=Path("results/audit.csv"))
    arguments = parser.parse_args()
    sources = pictures(arguments.data)
    table = []
    errors = {
        "ratio": list(SIZE_ERRORS.values()),
        "ssim": [(-error, error) for error in SSIM_ERRORS.values()],
    }
    for spread in SPREADS:
        possible = {kind: best_possible(listed, spread) for kind, listed in errors.items()}
        manifest = simulated(sources, spread, seed=0)
        started = time.process_time()
        audit = audit_manifest(manifest)
        seconds = time.process_time() - started
        for stratum in audit.strata:
            guess = stratum.matched
            assert guess is not None
            name = stratum.name
            kind = name.split()[0]
            best = max(guess.recalls, key=lambda label: guess.recalls[label])
            row = {
                "spread": spread,
                "stratum": name,
                "classes": len(stratum.classes),
                "groups": stratum.groups,
                "accuracy": round(guess.accuracy, 4),
                "chance": round(guess.chance, 4),
                "excess": round(guess.excess, 4),
                "standard_error": round(guess.standard_error, 4),
                # On one target, of all ten classes; geometry and colour cannot add to it.
                "possible_excess": round(possible[kind] - 0.1, 4) if kind in possible else "",
                "best_known": best,
                "its_recall": round(guess.recalls[best], 3),
                "rows": len(manifest),
                "audit_cpu_seconds": round(seconds, 1),
                "verdict": audit.verdict,
            }
            table.append(row)
            print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    write_table(arguments.out, table)
    write_environment(arguments.out)


if __name__ == "__main__":
    assert set(SIZE_ERRORS) == {name for name, codec in CODECS.items() if codec.knob is not None}
    main()
