"""Train, validation and test splits by hash of the source group."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

SPLITS = ("train", "val", "test")
FRACTIONS = (0.8, 0.1, 0.1)
"""Expected shares of the groups in `SPLITS`."""


def hash_position(group: str, seed: int) -> float:
    """Position of a group in [0, 1), fixed by its name and the seed alone."""
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_of(group: str, seed: int) -> str:
    """Split of a group; other groups have no say in it."""
    position, end = hash_position(group, seed), 0.0
    for split, share in zip(SPLITS, FRACTIONS, strict=True):
        end += share
        if position < end:
            return split
    return SPLITS[-1]


def assign_splits(groups: Iterable[str], seed: int) -> dict[str, str]:
    """Split of every group.

    Each group goes where its hash says, so adding groups moves none. Only where a handful of
    groups leaves a split empty is the group nearest to that split's border moved into it: with
    three groups or more no split is empty. Once the hashes fill every split nothing is moved.

    >>> sorted(set(assign_splits(["a", "b", "c"], seed=0).values()))
    ['test', 'train', 'val']
    """
    ordered = sorted(set(groups), key=lambda group: (hash_position(group, seed), group))
    splits = {group: split_of(group, seed) for group in ordered}
    if len(ordered) < len(SPLITS):
        return splits
    if "test" not in splits.values():
        splits[ordered[-1]] = "test"
    if "train" not in splits.values():
        splits[ordered[0]] = "train"
    if "val" not in splits.values():
        counts = {name: list(splits.values()).count(name) for name in SPLITS}
        donor = "train" if counts["train"] > 1 else "test"
        members = [group for group in ordered if splits[group] == donor]
        splits[members[-1] if donor == "train" else members[0]] = "val"
    return splits
