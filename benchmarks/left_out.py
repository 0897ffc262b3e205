"""Codecs that a network has never seen: are they called unknown?

For each codec in turn a network is trained on a dataset without it, and asked how strange the test
pictures of that codec are beside those of the others: area under the ROC curve, and the share
called unknown at a threshold that gives up 5 % of the validation pictures. The datasets without a
codec borrow the encodes of the whole one. Datasets, runs and answers are kept in a folder, so that
other scores can be looked at without asking anew.

    python main.py build-dataset ../shared/data/train --out varied3 --ratios "" --ssims "" \\
        --target-tolerance 0.1 --patch-size 96 --seed 1 --histories varied --random-ratios 2 \\
        --ratio-range 3 100 --random-ssims 1 --ssim-range 0.7 0.99 --settings-per-source 3 \\
        --patches-per-class 24
    python -m benchmarks.left_out --dataset varied3 --minutes 4
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.environment import write_environment, write_table
from benchmarks.lending import lend_samples
from benchmarks.progress import log, log_epoch
from datasets.build import build_dataset, read_dataset
from datasets.histories import history_from_json
from datasets.patches import load_patches
from datasets.plan import BuildConfig
from imagecompression.atomic_file import write_bytes_atomic
from train.onnx_export import ONNX_FILE, export_onnx
from train.outputs import Outputs
from train.pictures import Picture, read_pictures, sampled
from train.run import Run
from train.settings import TrainConfig
from train.trainer import train
from train.unknown import fit_rejection, leave_one_out_auroc, method_aurocs
from train.validation import training_density, validation_images
from train.verdict import telling_patches

PATCHES_PER_CLASS = 24
VALIDATION_IMAGES = 200
"""That threshold and units rest on; there are many more, and each is a second's work."""

KNOWN_FILES = 1
"""Test files of each source and class; of the codec that is left out all are taken."""


def config_of(dataset: Path) -> BuildConfig:
    """The settings that a dataset was built with."""
    content = read_dataset(dataset)["config"]
    content["histories"] = [history_from_json(item) for item in content["histories"]]
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    return BuildConfig(**values)


def answers(run: Run, pictures: list[Picture]) -> list[Outputs]:
    """The run's answers on the patches of each picture that are not flat."""
    found = []
    for picture in pictures:
        pixels, _ = telling_patches(picture.decoded(), run.patch_size)
        if len(pixels):
            found.append(run.outputs(pixels))
    return found


def kept(path: Path, make: Callable[[], list[Outputs]]) -> list[Outputs]:
    """Answers on pictures from a file, or made and kept there."""
    if not path.is_file():
        made = make()
        arrays = {
            f"{place}-{name}": value
            for place, one in enumerate(made)
            for name, value in one._asdict().items()
        }
        content = io.BytesIO()
        np.savez_compressed(content, count=len(made), **arrays)
        write_bytes_atomic(path, content.getvalue())
    with np.load(path, allow_pickle=False) as content:
        return [
            Outputs(*(content[f"{place}-{name}"] for name in Outputs._fields))
            for place in range(int(content["count"]))
        ]


def without_codec(
    codec: str, whole: Path, sources: Path, folder: Path, config: TrainConfig
) -> dict:
    """A row of figures for the codec that was left out."""
    usual = config_of(whole)
    others = tuple(name for name in usual.codecs if name != codec)
    build = dataclasses.replace(usual, codecs=others, patches_per_class=PATCHES_PER_CLASS)
    dataset = folder / f"without-{codec}"
    lend_samples(whole, dataset, build)
    build_dataset([sources], dataset, build, progress=log)
    run = train(dataset, folder / f"run-without-{codec}", config, log_epoch)
    if not (run.path / ONNX_FILE).is_file():
        export_onnx(run)  # answers several times as fast
    run = Run.load(run.path)

    def known_pictures() -> list[Picture]:
        return sampled(read_pictures(dataset, "test", run.labels), KNOWN_FILES, 0)

    def strange_pictures() -> list[Picture]:
        return [one for one in read_pictures(whole, "test") if one.label == codec]

    def validation() -> list[Outputs]:
        return [one.outputs for one in validation_images(run, dataset, VALIDATION_IMAGES)]

    asked = kept(folder / f"{codec}-validation.npz", validation)
    known = kept(folder / f"{codec}-known.npz", lambda: answers(run, known_pictures()))
    strange = kept(folder / f"{codec}-strange.npz", lambda: answers(run, strange_pictures()))
    rejection = fit_rejection(training_density(run, load_patches(dataset)), asked)
    score = rejection.score
    by_method = method_aurocs(rejection.density, asked, strange)
    return {
        "codec": codec,
        "known_images": len(known),
        "left_out_images": len(strange),
        "auroc": round(
            leave_one_out_auroc([score(o) for o in known], [score(o) for o in strange]), 4
        ),
        "called_unknown": round(float(np.mean([bool(rejection.reason(o)) for o in strange])), 4),
        "known_called_unknown": round(
            float(np.mean([bool(rejection.reason(o)) for o in known])), 4
        ),
        **{f"auroc_{name}": round(value, 4) for name, value in by_method.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", type=Path, required=True, help="of all codecs")
    parser.add_argument("--sources", type=Path, default=Path("../shared/data/train"))
    parser.add_argument("--folder", type=Path, default=Path("../left_out"))
    parser.add_argument("--codecs", help="to leave out in turn; all lossy ones if left out")
    parser.add_argument("--minutes", type=float, default=6.0, help="of each training")
    parser.add_argument("--out", type=Path, default=Path("results/left_out.csv"))
    arguments = parser.parse_args()
    lossy = [name for name in config_of(arguments.dataset).codecs if name != "uncompressed"]
    codecs = arguments.codecs.split(",") if arguments.codecs else lossy
    config = TrainConfig(epochs=20, minutes=arguments.minutes, patch_sizes=(64,), average=0.999)
    rows = []
    for codec in codecs:
        given = (codec, arguments.dataset, arguments.sources, arguments.folder, config)
        rows.append(without_codec(*given))
        print(rows[-1], file=sys.stderr)
        write_table(arguments.out, rows)
        write_environment(arguments.out)
    mean = np.mean([row["auroc"] for row in rows])
    for row in rows:
        print(
            f"without {row['codec']:10} AUROC {row['auroc']:.3f}, called unknown "
            f"{row['called_unknown']:6.1%}; of known pictures {row['known_called_unknown']:6.1%}"
        )
    print(f"mean AUROC {mean:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
