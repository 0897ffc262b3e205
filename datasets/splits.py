"""Train, validation and test splits by hash of the source group, and the proof that none leaks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datasets.near_duplicates import near_duplicates
from datasets.seeds import derive_seed

SPLITS = ("train", "val", "test")
FRACTIONS = (0.8, 0.1, 0.1)
"""Expected shares of the groups in `SPLITS`."""

_NEVER_ACROSS = {
    "source_id": "The source",
    "group": "The group",
    "source_pixel_sha256": "The source picture",
    "pixel_sha256": "The decoded picture",
}


def hash_position(group: str, seed: int) -> float:
    """Position of a group in [0, 1), fixed by its name and the seed alone."""
    return derive_seed(seed, "split", group) / 2**63


def split_of(group: str, seed: int) -> str:
    """Split of a group; other groups have no say in it."""
    position, end = hash_position(group, seed), 0.0
    for split, share in zip(SPLITS, FRACTIONS, strict=True):
        end += share
        if position < end:
            return split
    return SPLITS[-1]


def assign_splits(
    groups: Mapping[str, str], seed: int, fixed: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Split of every group, stratified by origin.

    Each group goes where its hash says, so adding groups moves none, and each origin has the shares
    `FRACTIONS` as nearly as its number of groups lets hashes come to them. Only where the hashes
    leave a split empty, of an origin of three groups or more, is the group nearest to that split's
    border moved into it. Such an origin may see the moved group return when more of its groups are
    added; `fixed` prevents even that.

    Args:
        groups: Origin of each group; all the same, empty for example, where unknown.
        seed: The dataset's.
        fixed: Groups that are in a split already and stay there whatever their hash says.

    >>> sorted(set(assign_splits({"a": "", "b": "", "c": ""}, seed=0).values()))
    ['test', 'train', 'val']
    """
    fixed = fixed or {}
    splits = {group: fixed.get(group) or split_of(group, seed) for group in groups}
    origins = defaultdict(set)
    for group, origin in groups.items():
        origins[origin].add(group)
    # The whole comes last: its groups may be of many origins with too few groups each.
    for members in [*(origins[origin] for origin in sorted(origins)), set(groups)]:
        if len(members) >= len(SPLITS):
            _fill_empty(splits, sorted(members), seed, fixed)
    return splits


def _fill_empty(
    splits: dict[str, str], members: Sequence[str], seed: int, fixed: Mapping[str, str]
) -> None:
    """Move the nearest group into each split that the members leave empty, emptying no other."""
    start = 0.0
    for split, share in zip(SPLITS, FRACTIONS, strict=True):
        low, high, start = start, start + share, start + share
        counts = Counter(splits[group] for group in members)
        movable = [g for g in members if g not in fixed and counts[splits[g]] > 1]
        if counts[split] or not movable:
            continue

        def distance(group: str, low: float = low, high: float = high) -> float:
            position = hash_position(group, seed)
            return max(low - position, position - high)

        splits[min(movable, key=distance)] = split


def prove_no_leak(
    rows: Iterable[Mapping[str, Any]], perceptual_hashes: Mapping[str, str] | None = None
) -> list[str]:
    """Every way in which the splits of a manifest are not apart; empty if they are.

    No source, no group, no source picture (by its pixels), no decoded picture (by its pixels, as
    flat pictures of different sources can give) and no near-duplicate may be in two splits.

    Args:
        rows: Of the manifest; of failed samples, only the source counts.
        perceptual_hashes: By source id; near-duplicates are compared where given.
    """
    splits: dict[str, dict[str, set[str]]] = {name: {} for name in _NEVER_ACROSS}
    split_of_source: dict[str, str] = {}
    for row in rows:
        split_of_source[row["source_id"]] = row["split"]
        for name, seen in splits.items():
            if row.get(name):
                seen.setdefault(row[name], set()).add(row["split"])
    leaks = [
        f"{what} {value} is in {' and '.join(sorted(found))}"
        for name, what in _NEVER_ACROSS.items()
        for value, found in splits[name].items()
        if len(found) > 1
    ]
    hashes = perceptual_hashes or {}
    sources = sorted(split_of_source.keys() & hashes.keys())
    for i, j, cosine in near_duplicates([hashes[source] for source in sources]):
        one, other = split_of_source[sources[i]], split_of_source[sources[j]]
        if one != other:
            leaks.append(
                f"The near-duplicates {sources[i]} and {sources[j]} (cosine {cosine:.2f}) are in "
                f"{one} and {other}"
            )
    return leaks
