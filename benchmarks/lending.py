"""Finished samples of one dataset for the build of another: encoding is most of the work."""

from __future__ import annotations

import json
from pathlib import Path

from datasets.build import DATASET_FILE, read_dataset
from datasets.plan import BuildConfig


def lend_samples(lender: Path, folder: Path, config: BuildConfig) -> None:
    """Prepare `folder` for a build with `config` that takes those samples that it plans too.

    Nothing is done where a build has begun there.
    """
    if (folder / DATASET_FILE).exists():
        return
    for path in (*lender.glob("journal/*"), *lender.glob("encoded/*/*")):
        if path.parent.parent.name == "encoded" and path.parent.name not in config.codecs:
            continue
        given = folder / path.relative_to(lender)
        given.parent.mkdir(parents=True, exist_ok=True)
        if path.parent.name == "journal":  # is appended to
            given.write_bytes(path.read_bytes())
        elif not given.exists():  # is replaced, never changed
            given.hardlink_to(path)
    description = read_dataset(lender) | {"config": config.to_json()}
    (folder / DATASET_FILE).write_text(json.dumps(description), encoding="utf-8")
