"""Naming the codec of picture files: files and folders in, a verdict or a reason for each out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from imagecompression import CODECS
from imagecompression.errors import ImageCompressionError
from imagecompression.evidence.encoded_picture import EncodedPicture, encoded_picture
from imagecompression.image_io import read_image
from train.decisive_signs import DecisiveSign, decisive_sign
from train.run import Run
from train.verdict import Verdict, telling_patches, verdict_from_patches

DEFAULT_RUN = Path(__file__).parent / "default_run"
"""The run that is used when none is named; see its README."""

PICTURE_SUFFIXES = frozenset(
    {".tif", ".tiff", ".png"}
    | {suffix for codec in CODECS.values() for suffix in (codec.suffix, *codec.other_suffixes)}
)
"""Suffixes taken when a folder is walked; a file named outright is taken whatever its suffix."""


def find_pictures(paths: Iterable[Path]) -> tuple[list[Path], list[tuple[str, str]]]:
    """Picture files among files and folders (walked, sorted), and (file, error) for the rest."""
    found: dict[Path, None] = {}
    errors: list[tuple[str, str]] = []
    for path in paths:
        if path.is_dir():
            inside = [p for p in path.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES]
            found |= dict.fromkeys(sorted(p for p in inside if p.is_file()))
            if not inside:
                errors.append((str(path), "The folder holds no picture file"))
        elif path.exists():
            found[path] = None
        else:
            errors.append((str(path), "No such file or folder"))
    return list(found), errors


def classify(image: npt.NDArray[np.uint8], run: Run) -> Verdict:
    """The verdict on a decoded picture, or on what of it `encoded_picture` finds.

    Args:
        image: `uint8`, `(H, W)` or `(H, W, 3)` RGB.
        run: The run whose model is asked.

    Raises:
        VerdictError: The picture is smaller than one patch, or is no `uint8` picture.
        RunError: The run's model cannot be loaded.
    """
    return _verdict_on(encoded_picture(image, run.patch_size), run)


def judge(encoded: EncodedPicture, run: Run, measure_sign: Callable[[], DecisiveSign]) -> Verdict:
    """The verdict from the network's answer, calibration, the unknown and signs.

    Args:
        encoded: The picture that is judged.
        run: The run whose model is asked.
        measure_sign: Called once, beside the network.

    Raises:
        VerdictError, RunError: See `classify`.
    """
    with ThreadPoolExecutor(1) as beside:
        sign = beside.submit(measure_sign)
        pixels, left_out = telling_patches(encoded.pixels, run.patch_size)
        if run.rejection is None or len(pixels) == 0:
            probabilities, unknown = run.predict(pixels), ""
        else:
            outputs = run.outputs(pixels)
            probabilities, unknown = outputs.probabilities, run.rejection.reason(outputs)
    verdict = verdict_from_patches(
        probabilities,
        run.labels,
        calibration=run.calibration,
        unknown=unknown,
        left_out=left_out,
        sign=sign.result(),
    )
    return dataclasses.replace(verdict, judged=encoded.reason)


def classify_files(
    paths: Iterable[Path],
    run: Run,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[tuple[str, Verdict]], list[tuple[str, str]]]:
    """Classify picture files and those inside folders.

    Args:
        paths: Files and folders; they are only read.
        run: The run whose model is asked.
        progress: Called with (done, total).

    Returns:
        (file, verdict) for each picture, and (file, error) for each that could not be judged.

    Raises:
        ImageCompressionError: The run's model, calibration or rejection cannot be loaded.
    """
    files, errors = find_pictures(paths)
    results = []
    with ThreadPoolExecutor(1) as beside:
        loading = beside.submit(run.prepare)  # while the first picture is read
        for done, path in enumerate(files, start=1):
            try:
                encoded = encoded_picture(read_image(path), run.patch_size)
                loading.result()
                results.append((str(path), _verdict_on(encoded, run)))
            except ImageCompressionError as error:
                if error is loading.exception():  # the run's fault, not the picture's
                    raise
                errors.append((str(path), str(error)))
            if progress is not None:
                progress(done, len(files))
        loading.result()
    return results, errors


def _verdict_on(encoded: EncodedPicture, run: Run) -> Verdict:
    return judge(encoded, run, lambda: decisive_sign(encoded.pixels))
