"""Splits: by group, stable when sources are added, never empty for three groups or more."""

from __future__ import annotations

import numpy as np
from conftest import photograph_like
from hypothesis import given
from hypothesis import strategies as st

from datasets.near_duplicates import perceptual_hash
from datasets.splits import FRACTIONS, SPLITS, assign_splits, prove_no_leak, split_of

GROUPS = st.dictionaries(
    st.text(min_size=1, max_size=12), st.sampled_from(["", "film", "phone"]), max_size=40
)


def members(groups: dict[str, str], origin: str) -> set[str]:
    return {group for group, of in groups.items() if of == origin}


@given(groups=GROUPS, seed=st.integers(0, 9))
def test_every_group_gets_one_split_and_none_is_empty(groups: dict[str, str], seed: int) -> None:
    splits = assign_splits(groups, seed)
    assert set(splits) == set(groups)
    assert set(splits.values()) <= set(SPLITS)
    for some in (set(groups), *(members(groups, origin) for origin in set(groups.values()))):
        if len(some) >= 3:
            assert {splits[group] for group in some} == set(SPLITS)


@given(groups=GROUPS, more=GROUPS, seed=st.integers(0, 9))
def test_adding_groups_moves_none(groups: dict[str, str], more: dict[str, str], seed: int) -> None:
    both = more | groups
    after = assign_splits(both, seed)
    for origin in set(groups.values()):
        old = members(groups, origin)
        if {split_of(group, seed) for group in old} == set(SPLITS):
            assert all(after[group] == split_of(group, seed) for group in old)
    before = assign_splits(groups, seed)
    kept = assign_splits(both, seed, fixed=before)
    assert all(kept[group] == split for group, split in before.items())


@given(groups=GROUPS, seed=st.integers(0, 9))
def test_order_does_not_matter(groups: dict[str, str], seed: int) -> None:
    assert assign_splits(groups, seed) == assign_splits(dict(sorted(groups.items())), seed)


def test_shares_are_as_stated_in_each_origin_and_the_seed_counts() -> None:
    groups = {f"picture-{n}": "film" if n % 3 else "phone" for n in range(6000)}
    splits = assign_splits(groups, seed=0)
    for origin in ("film", "phone"):
        some = members(groups, origin)
        for split, share in zip(SPLITS, FRACTIONS, strict=True):
            found = sum(splits[group] == split for group in some) / len(some)
            assert abs(found - share) < 0.02
    other = assign_splits(groups, seed=1)
    assert sum(splits[group] != other[group] for group in groups) > 1200


def test_small_origins_have_every_split() -> None:
    groups = {f"{origin}{n}": origin for origin in "abcdef" for n in range(5)}
    splits = assign_splits(groups, seed=0)
    for origin in "abcdef":
        assert {splits[f"{origin}{n}"] for n in range(5)} == set(SPLITS)


def row(source: str, split: str, **facts: str | None) -> dict[str, str | None]:
    return {
        "source_id": source,
        "group": source,
        "split": split,
        "source_pixel_sha256": f"pixels of {source}",
        "pixel_sha256": f"decoded {source}",
        **facts,
    }


def test_no_leak_where_there_is_none() -> None:
    rows = [row("a", "train"), row("a", "train"), row("b", "val"), row("c", "val", group="b")]
    failed = [row("d", "train", pixel_sha256=None), row("e", "test", pixel_sha256=None)]
    assert prove_no_leak([*rows, *failed]) == []


def test_every_kind_of_leak_is_told() -> None:
    for column in ("source_id", "group", "source_pixel_sha256", "pixel_sha256"):
        leaks = prove_no_leak(
            [row("a", "train", **{column: "same"}), row("b", "test", **{column: "same"})]
        )
        assert len(leaks) == 1
        assert "same is in test and train" in leaks[0]


def test_near_duplicates_in_two_splits_are_a_leak() -> None:
    picture = photograph_like(100, 120, 3)
    hashes = {
        "a": perceptual_hash(picture),
        "b": perceptual_hash(np.ascontiguousarray(picture[2:, ::-1])),
        "c": perceptual_hash(photograph_like(100, 120, 3, seed=5)),
    }
    rows = [row("a", "train"), row("b", "val"), row("c", "test")]
    leaks = prove_no_leak(rows, hashes)
    assert len(leaks) == 1
    assert "near-duplicates a and b" in leaks[0]
    assert prove_no_leak([row("a", "val"), row("b", "val"), row("c", "test")], hashes) == []
