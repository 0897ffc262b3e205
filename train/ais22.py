"""AIS-22's protocol: eight classes at ten file sizes, 224×224 pixels of crops of 512×512.

From the repository AIS-22/UNI-AIS-MediaDataFormats (ACM IH&MMSec 2024). There every picture is cut
from the middle of a crop, so it lies on the codecs' 8×8 and 16×16 grid; here it is also cut off it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.seeds import derive_seed, generator
from datasets.sources import pixel_hash
from datasets.workers import Crashed, Pool, worker_pool
from imagecompression import (
    CODECS,
    Codec,
    Image,
    RateSearch,
    RatioTarget,
    codec_from_params,
    read_image,
    write_image,
)
from imagecompression.atomic_file import write_bytes_atomic, write_json_atomic
from imagecompression.rate import search_order
from train.answers import (
    Answers,
    Progress,
    ProtocolResult,
    ProtocolSettings,
    Row,
    Tally,
    UnsuitableDatasetError,
    View,
    ask,
    counted,
)
from train.evaluator import UNCOMPRESSED, EvaluationError
from train.pictures import Picture
from train.run import Predict

CLASSES = ("jpeg", "jpeg2000", "jpegxr", "bpg", "webp", "avif", "heic", "jpegxl")
"""Its classes; its three kinds of JPEG XR, by overlap 0, 1 and 2, are one."""

KILOBYTES = (5, 10, 17, 25, 32, 40, 50, 60, 75, 100)
"""File sizes; a kilobyte is 1000 bytes."""

PUBLISHED = {
    5: 0.9792, 10: 0.9792, 17: 0.9912, 25: 0.9862, 32: 0.9863, 40: 0.9838, 50: 0.9767, 60: 0.9629,
    75: 0.935, 100: 0.8758,
}  # fmt: skip
"""Its accuracy by kilobytes with JPEG XR as one class, from its published confusion matrices; of a
ResNet-18, pretrained on ImageNet and trained on files of all these sizes."""

SIDE, CROP = 512, 224
GRID = 8


def ais22_pictures(
    sources: Sequence[Picture],
    folder: Path,
    pool: Pool,
    classes: Sequence[str] = CLASSES,
    kilobytes: Sequence[int] = KILOBYTES,
    progress: Progress | None = None,
) -> list[Picture]:
    """Encode the middle 512×512 pixels of sources with each class at each file size.

    Codecs have their usual settings; JPEG XR one of its overlaps 0, 1 and 2 for each source, by its
    hash. Files and rows are kept in `folder`: a call that was killed goes on where it was.

    Args:
        sources: Pictures that hold a source's own pixels, of at least 512 pixels a side.
        folder: For this protocol alone; made where missing.
        pool: Where to encode.
        classes: Names from `CODECS`.
        kilobytes: File sizes, 1000 bytes each.
        progress: See `train.answers.Progress`.

    Returns:
        Each picture's row has, beside what `Picture` needs, kilobytes, measured (its ratio) and
        reached.

    Raises:
        EvaluationError: A source is too small, or a worker process was ended again and again.
        CodecUnavailableError: The library of a class is missing.
    """
    for name in classes:
        CODECS[name].check_available()
    tasks = []
    for source in sources:
        image = source.decoded()
        top, left = ((side - SIDE) // 2 for side in image.shape[:2])
        if min(top, left) < 0:
            raise EvaluationError(
                f"ais22 needs sources of at least {SIDE} pixels a side. Received: "
                f"{image.shape[1]}×{image.shape[0]}, {source.row['sample_id']}"
            )
        crop = np.ascontiguousarray(image[top : top + SIDE, left : left + SIDE])
        path = folder / "sources" / f"{source.source[:24]}.png"
        if not _holds(path, crop):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, crop)
        for name in classes:
            codec = CODECS[name]()
            if name == "jpegxr":
                overlap = derive_seed(0, source.source, "overlap") % 3
                codec = codec_from_params(name, {"overlap": overlap})
            tasks.append((folder, path.name, source.source, codec, tuple(kilobytes)))
    found: dict[int, list[Row]] = {}
    for number, rows in pool.run(_encode, tasks):
        if isinstance(rows, Crashed):
            raise EvaluationError(f"{folder}: cannot be encoded: {rows.reason}")
        found[number] = rows
        if progress is not None:
            progress("ais22, encoding", len(found), len(tasks))
    return [Picture(folder, row) for number in sorted(found) for row in found[number]]


def ais22(
    predict: Predict, dataset: Path, settings: ProtocolSettings, progress: Progress | None = None
) -> ProtocolResult:
    """Accuracy by file size over AIS-22's classes, on the grid and off it.

    Sources are the dataset's *uncompressed* pictures of at least 512 pixels a side. Encodes are
    kept in `cache` of the settings, or made for this call alone.

    Rows have `crop` ("middle" as published, or "off grid"), `kilobytes`, `label` (a class or
    "all"), `choice` and `published`. With the choice "protocol's classes" the probabilities of all
    other classes are dropped and the rest are made to sum to 1, as the classifier of AIS-22 has no
    others: this flatters a classifier that takes a file for *uncompressed*. With "all classes"
    nothing is dropped. `published` goes with the row that is comparable: all eight classes, the
    middle, and one answer a crop. `classes` counts those of the protocol that the classifier
    knows; with fewer than eight the task is easier.

    The level `image` pools patches of `image_patch` pixels of the crop, without the flat ones;
    `patch-224` pools all.
    """
    known = tuple(name for name in CLASSES if name in settings.labels)
    if len(known) < 2:
        raise UnsuitableDatasetError(
            f"ais22 needs a classifier of at least two of {', '.join(CLASSES)}. "
            f"It knows: {', '.join(settings.labels)}"
        )
    sources: dict[str, Picture] = {}
    for picture in settings.pictures(dataset):
        row = picture.row
        large = min(row["width"], row["height"]) >= SIDE
        if picture.label == UNCOMPRESSED and row["history"] == "single" and large:
            sources.setdefault(picture.source, picture)
    if not sources:
        raise UnsuitableDatasetError(
            f"{dataset}: ais22 needs pictures of the class uncompressed, of at least {SIDE} pixels "
            f"a side and without further history, in the split {settings.split!r}"
        )
    with tempfile.TemporaryDirectory() as temporary, worker_pool(settings.workers) as pool:
        folder = settings.cache or Path(temporary)
        chosen = list(sources.values())
        pictures = ais22_pictures(chosen, folder, pool, known, progress=progress)
        shown = _crops(counted(pictures, progress, "ais22"), settings)
        tally = Tally(settings.seed)
        for one in ask(predict, shown, settings):
            for choice, right in _right(one, known, settings).items():
                for label in (one.label, "all"):
                    group = {"level": one.level, "choice": choice, **one.facts, "label": label}
                    count = len(one.probabilities)
                    tally.add(group | {"classes": len(known)}, one.source, right, count)
    rows = tally.rows()
    for row in rows:
        comparable = (
            row["label"] == "all" and row["crop"] == "middle" and len(known) == len(CLASSES)
        )
        once = row["level"] in ("image", f"patch-{CROP}")
        row["published"] = PUBLISHED[row["kilobytes"]] if comparable and once else None
    return ProtocolResult("ais22", rows)


def _right(one: Answers, known: Sequence[str], settings: ProtocolSettings) -> dict[str, int]:
    """Right answers among the protocol's classes, and among all."""
    places = [settings.labels.index(name) for name in known]
    # The largest of some probabilities stays the largest however they are normalised.
    among = one.probabilities[:, places].argmax(axis=1) == known.index(one.label)
    return {"protocol's classes": int(among.sum()), "all classes": one.right(settings.labels)}


def _crops(pictures: Iterable[Picture], settings: ProtocolSettings) -> Iterator[View]:
    """Two crops of each picture: the middle, and one that no block of 8×8 lines up with."""
    middle = (SIDE - CROP) // 2
    for picture in pictures:
        image = picture.decoded()
        rng = generator(settings.seed, picture.source, "ais22")
        # Of the source, not the file: all classes show the same part of it.
        blocks = rng.integers(0, (SIDE - CROP) // GRID, 2)
        top, left = (int(v) for v in GRID * blocks + rng.integers(1, GRID, 2))
        for crop, y, x in (("middle", middle, middle), ("off grid", top, left)):
            facts = {"crop": crop, "kilobytes": picture.row["kilobytes"]}
            part = np.ascontiguousarray(image[y : y + CROP, x : x + CROP])
            name = str(picture.row["sample_id"])
            yield View(name, picture.label, picture.source, part, facts)


def _encode(
    folder: Path, png: str, source: str, codec: Codec, kilobytes: tuple[int, ...]
) -> list[Row]:
    """The files of one source and codec, and their rows; what is there whole is kept."""
    image = read_image(folder / "sources" / png)
    stem = f"{Path(png).stem}_{codec.name}"
    path = folder / "rows" / f"{stem}.json"
    key = {
        "pixels": pixel_hash(image),
        "params": codec.params(),
        "encoder": codec.version(),
        "kilobytes": list(kilobytes),
    }
    kept = _kept(folder, path, key)
    if kept is not None:
        return kept
    search = RateSearch(image, codec)
    targets = [RatioTarget(image.nbytes / (1000 * size)) for size in kilobytes]
    rows: dict[int, Row] = {}
    for place in search_order(targets):
        made = search.to(targets[place])
        size = kilobytes[place]
        name = f"encoded/{codec.name}/{stem}_{size}kB{codec.suffix}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(folder / name, made.data)
        rows[place] = {
            "sample_id": f"{stem}_{size}kB",
            "label": codec.name,
            "source_sha256": source,
            "path": name,
            "file_sha256": hashlib.sha256(made.data).hexdigest(),
            "container": codec.name,
            "kilobytes": size,
            "measured": made.measured,
            "reached": made.reached,
        }
    found = [rows[place] for place in range(len(targets))]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(path, {"key": key, "rows": found})
    return found


def _kept(folder: Path, path: Path, key: dict[str, Any]) -> list[Row] | None:
    """The rows of an earlier call with the same key, if every file is as it was."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows: list[Row] = content["rows"]
        if content["key"] != key:
            return None
        for row in rows:
            data = (folder / row["path"]).read_bytes()
            if hashlib.sha256(data).hexdigest() != row["file_sha256"]:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return rows


def _holds(path: Path, image: Image) -> bool:
    """Whether a PNG holds these pixels."""
    try:
        return bool(np.array_equal(read_image(path), image))
    except (OSError, ValueError):
        return False
