"""Splits: by group, stable when sources are added, never empty for three groups or more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from datasets.splits import FRACTIONS, SPLITS, assign_splits, split_of

GROUPS = st.sets(st.text(min_size=1, max_size=12), min_size=1, max_size=40)


@given(groups=GROUPS, seed=st.integers(0, 9))
def test_every_group_gets_one_split_and_none_is_empty(groups: set[str], seed: int) -> None:
    splits = assign_splits(groups, seed)
    assert set(splits) == groups
    assert set(splits.values()) <= set(SPLITS)
    if len(groups) >= 3:
        assert set(splits.values()) == set(SPLITS)


@given(groups=GROUPS, more=GROUPS, seed=st.integers(0, 9))
def test_adding_groups_moves_none(groups: set[str], more: set[str], seed: int) -> None:
    if {split_of(group, seed) for group in groups} == set(SPLITS):
        before, after = assign_splits(groups, seed), assign_splits(groups | more, seed)
        assert all(after[group] == split for group, split in before.items())


@given(groups=GROUPS, seed=st.integers(0, 9))
def test_order_does_not_matter(groups: set[str], seed: int) -> None:
    ordered = sorted(groups)
    assert assign_splits(ordered, seed) == assign_splits([*reversed(ordered), *ordered], seed)


def test_shares_are_as_stated_and_the_seed_counts() -> None:
    groups = [f"picture-{number}" for number in range(4000)]
    splits = assign_splits(groups, seed=0)
    for split, share in zip(SPLITS, FRACTIONS, strict=True):
        assert abs(list(splits.values()).count(split) / len(groups) - share) < 0.02
    other = assign_splits(groups, seed=1)
    assert sum(splits[group] != other[group] for group in groups) > 800
