"""Fits the models that rate control starts from, and writes `imagecompression/rate_models.json`.

First each codec's size and SSIM are measured along its knob: on the whole grid for a few pictures,
whose mean is the codec's reference curve, and at a few knots for many pictures in many settings.
Then, codec by codec, the deviations from the reference are regressed on the picture's features and
the setting, and what is left is summed up in a few principal components.

    python -m benchmarks.rate_models --data ../shared/data/train --curves curves.jsonl

Curves that the file already holds are not measured again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from imagecompression import CODECS, Codec, CodecError, Image, Knob, codec_from_params
from imagecompression.image_io import read_image
from imagecompression.metrics import luma, ssim
from imagecompression.rate_model import Matrix, Vector, picture_features, setting_names

SEED = 4
REFERENCES, DEFAULTS, VARIANTS = 6, 44, 64
KNOTS = 14
DENSE_GRID, SPARSE_POINTS = 400, 121
COMPONENTS, RIDGE, SETTING_RIDGE, FOLDS = 16, 10.0, 0.1, 10
VARIANT_WEIGHT = 0.2
LEAST_LOCAL = 0.005
MODELS = Path("imagecompression/rate_models.json")


def lossy() -> dict[str, type[Codec]]:
    return {name: kind for name, kind in CODECS.items() if kind.knob is not None}


def pictures(folder: Path) -> list[dict[str, Any]]:
    """What to measure: file, window, gray or not, and which role the picture has."""
    files = sorted(folder.rglob("*.tif*"))
    rng = np.random.default_rng(SEED)
    jobs = []
    roles = ["reference"] * REFERENCES + ["default"] * DEFAULTS + ["variant"] * VARIANTS
    roles += ["default"] * DEFAULTS
    order = [int(each) for each in rng.permutation(len(files))]
    for number, role in enumerate(roles):
        sides = {"reference": (256, 256), "default": (288, 384)}.get(role)
        if sides is None:
            sides = tuple(int(2 ** rng.uniform(6, 8.3)) for _ in range(2))
        elif role == "default" and number % 8 == 0:
            sides = (160, 160)
        jobs.append(
            {
                "file": files[order[number % len(files)]].name,
                "role": role,
                "sides": sides,
                "corner": [float(rng.uniform()) for _ in range(2)],
                "gray": bool(role != "reference" and rng.uniform() < 0.12),
                "draw": int(rng.integers(2**31)) if role != "variant" else number,
            }
        )
    return jobs


def picture_of(job: dict[str, Any], folder: Path) -> Image:
    image = read_image(next(folder.rglob(job["file"])))
    (height, width), (top, left) = job["sides"], job["corner"]
    y = round(top * max(0, image.shape[0] - height))
    x = round(left * max(0, image.shape[1] - width))
    image = image[y : y + height, x : x + width]
    if job["gray"]:
        image = np.rint(luma(image)).astype(np.uint8)
    return np.ascontiguousarray(image)


def reference_indexes(codec: type[Codec]) -> list[int]:
    knob = codec.knob
    assert knob is not None
    if knob.last_index <= DENSE_GRID:
        return list(range(knob.last_index + 1))
    low, high = knob.coordinate(0), knob.coordinate(knob.last_index)
    return sorted({knob.index_at(each) for each in np.linspace(low, high, SPARSE_POINTS)})


def measure(arguments: tuple[dict[str, Any], str, dict[str, list[int]], str]) -> list[dict]:
    """The curves of one picture: a row for each codec."""
    from imagecompression.thread_limit import one_thread

    job, key, indexes, folder = arguments
    rows = []
    with one_thread():
        image = picture_of(job, Path(folder))
        for name, kind in lossy().items():
            settings = kind.variants() if job["role"] == "variant" else (kind(),)
            codec = settings[job["draw"] % len(settings)]
            assert codec.knob is not None
            points = []
            for index in indexes[name]:
                at = codec.with_knob(codec.knob.value(index))
                try:
                    data = at.encode(image)
                except CodecError:
                    break
                points.append((codec.knob.value(index), len(data), ssim(image, at.decode(data))))
            else:
                params = codec.params()
                rows.append({"key": key, "job": job, "codec": name,
                             "params": params, "points": points})  # fmt: skip
    return rows


def measured(folder: Path, curves: Path, workers: int) -> list[dict[str, Any]]:
    """All curves, after measuring those that `curves` lacks."""
    jobs = {}
    for job in pictures(folder):
        text = json.dumps(job, sort_keys=True)
        jobs[hashlib.sha256(text.encode()).hexdigest()[:16]] = json.loads(text)
    rows = []
    if curves.exists():
        rows = [json.loads(line) for line in curves.read_text().splitlines()]
        rows = [row for row in rows if row["key"] in jobs]
    done = {row["key"] for row in rows}
    dense = {name: reference_indexes(kind) for name, kind in lossy().items()}

    def run(indexes: dict[str, list[int]], references: bool) -> Iterator[list[dict[str, Any]]]:
        todo = [
            (job, key, indexes, str(folder))
            for key, job in jobs.items()
            if key not in done and (job["role"] == "reference") == references
        ]
        with ProcessPoolExecutor(workers) as pool, curves.open("a") as file:
            for number, part in enumerate(pool.map(measure, todo), start=1):
                file.writelines(json.dumps(row) + "\n" for row in part)
                file.flush()
                print(f"{number}/{len(todo)} pictures", file=sys.stderr)
                yield part

    rows += [row for part in run(dense, True) for row in part]
    knots = {
        name: knot_indexes(kind, own(rows, name, "reference")) for name, kind in lossy().items()
    }
    rows += [row for part in run(knots, False) for row in part]
    return rows


def own(rows: list[dict[str, Any]], codec: str, *roles: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["codec"] == codec and row["job"]["role"] in roles]


def knot_indexes(kind: type[Codec], references: list[dict[str, Any]]) -> list[int]:
    """Grid indexes at equal distances of log size, from end to end of the grid."""
    assert kind.knob is not None
    values = [point[0] for point in references[0]["points"]]
    indexes = [kind.knob.index_at(coordinate(kind.knob, value)) for value in values]
    sizes = np.mean([[np.log(p[1]) for p in row["points"]] for row in references], axis=0)
    rising = np.maximum.accumulate(sizes + 1e-9 * np.arange(len(sizes)))
    goals = np.linspace(rising[0], rising[-1], KNOTS)
    return sorted({indexes[int(np.argmin(np.abs(rising - goal)))] for goal in goals})


def fit(kind: type[Codec], rows: list[dict[str, Any]], features: dict[str, Vector]) -> dict:
    """The numbers of one codec as `CurveModel` reads them, in plain lists."""
    references = own(rows, kind.name, "reference")
    dense = np.array([curves(row) for row in references])
    reference = dense.mean(axis=0)
    positions = np.maximum.accumulate(reference[0])

    many = own(rows, kind.name, "default", "variant")
    knob = kind.knob
    assert knob is not None
    grid = [coordinate(knob, point[0]) for point in references[0]["points"]]
    at = [coordinate(knob, point[0]) for point in many[0]["points"]]
    base = np.array([np.interp(at, grid, curve) for curve in reference])
    deviations = np.array([curves(row) - base for row in many]).reshape(len(many), -1)

    usual = set(setting_names(kind()))
    settings = [set(setting_names(codec_from_params(kind.name, row["params"]))) for row in many]
    names = sorted(set.union(*settings) - usual)
    pictures = np.array([features[row["key"]] for row in many])
    centre, scale = pictures.mean(axis=0), pictures.std(axis=0) + 1e-9
    inputs = np.column_stack(
        [(pictures - centre) / scale]
        + [[float(name in each) for each in settings] for name in names]
        + [np.ones(len(many))]
    )
    # Few pictures show each setting, and gray ones differ by much: shrink these little.
    penalty = np.full(inputs.shape[1], float(RIDGE))
    penalty[len(centre) - 1 :] = SETTING_RIDGE
    penalty[-1] = 0.0
    # Small pictures in rare settings vary more; what is expected is what most searches need.
    usual_rows = np.array([row["job"]["role"] == "default" for row in many])
    weights = np.sqrt(np.where(usual_rows, 1.0, VARIANT_WEIGHT))[:, None]
    inputs, deviations = inputs * weights, deviations * weights
    # Held out in turn, so that the components tell how far off a new picture will be.
    held_out = np.empty_like(deviations)
    for fold in range(FOLDS):
        out = np.arange(len(many)) % FOLDS == fold
        held_out[out] = deviations[out] - inputs[out] @ ridge(
            inputs[~out], deviations[~out], penalty
        )
    _, values, vectors = np.linalg.svd(held_out, full_matrices=False)
    held_out /= np.sqrt(np.mean(np.square(weights)))
    components = vectors[:COMPONENTS] * values[:COMPONENTS, None]
    components /= np.sqrt(np.square(weights).sum())
    rest = held_out - held_out @ vectors[:COMPONENTS].T @ vectors[:COMPONENTS]
    # A step's own noise shows against the mean of its neighbours.
    bumps = dense - reference
    bumps = bumps[..., 1:-1] - (bumps[..., 2:] + bumps[..., :-2]) / 2
    # The median, as the largest are where a file is nearly without loss.
    noise = np.median(np.abs(bumps), axis=(0, 2)) / 0.6745 / np.sqrt(1.5)
    regression = ridge(inputs, deviations, penalty)
    shape = (2, len(at))
    print(
        f"{kind.name:9} {len(many):4} curves; error of the first guess "
        f"{rms(held_out.reshape(-1, *shape), (0, 2))}, with {COMPONENTS} components "
        f"{rms(rest.reshape(-1, *shape), (0, 2))}, one step {np.round(noise, 4)}"
    )
    numbers = {
        "coordinates": grid,
        "reference": reference,
        "knots": np.interp(at, grid, positions),
        "mean": regression[-1].reshape(shape),
        "centre": centre,
        "by_feature": (regression[: len(centre)] / scale[:, None]).reshape(-1, *shape),
        "components": components.reshape(-1, *shape),
        "local": np.maximum(rms(rest.reshape(-1, *shape), (0,)), LEAST_LOCAL),
        "noise": np.maximum(noise, 0.001),
    }
    by_setting = zip(names, regression[len(centre) : -1].reshape(-1, *shape), strict=True)
    return {
        **{name: np.round(each, 4).tolist() for name, each in numbers.items()},
        "by_setting": {name: np.round(each, 4).tolist() for name, each in by_setting},
    }


def curves(row: dict[str, Any]) -> Matrix:
    """Log bytes a pixel and −log(1 − SSIM) at the measured points, `(2, N)`."""
    _, sizes, similarities = np.array(row["points"]).T
    height, width = row["shape"]
    # Nobody asks for more than an SSIM of 0.9995, and without loss it would be infinite.
    fidelity = -np.log(np.maximum(1 - similarities, 5e-4))
    return np.array([np.log(sizes / (height * width)), fidelity])


def coordinate(knob: Knob, value: float) -> float:
    """`Knob.coordinate` of a value."""
    position = np.log(value) if knob.logarithmic else value
    return float(position if knob.rises_with_size else -position)


def ridge(inputs: Matrix, outputs: Matrix, penalty: Vector) -> Matrix:
    """Weights of a linear regression, each kept small by its penalty."""
    return np.linalg.solve(inputs.T @ inputs + np.diag(penalty), inputs.T @ outputs)


def rms(values: Matrix, axes: tuple[int, ...]) -> Vector:
    return np.round(np.sqrt(np.mean(np.square(values), axis=axes)), 4)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/train"))
    parser.add_argument("--curves", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    rows = measured(arguments.data, arguments.curves, arguments.workers)
    features: dict[str, Vector] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for row in rows:
        key = row["key"]
        if key not in features:
            image = picture_of(row["job"], arguments.data)
            features[key], shapes[key] = picture_features(image), image.shape
        row["shape"] = shapes[key][:2]
    models = {name: fit(kind, rows, features) for name, kind in lossy().items()}
    MODELS.write_text(json.dumps(models, separators=(",", ":")) + "\n")
    print(f"{MODELS}: {MODELS.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
