"""The bootstrap against drawing sources one by one, and against what theory says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.bootstrap import (
    Interval,
    intervals,
    resample_weights,
    share_interval,
    sums_by_source,
    worst_share_interval,
)

counts = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=7
)  # fmt: skip


def drawn_items(weights: np.ndarray, by_source: list[list]) -> list:
    """The items of one resample, each source's repeated as often as it was drawn."""
    return [
        item
        for weight, items in zip(weights, by_source, strict=True)
        for _ in range(int(weight))
        for item in items
    ]


@settings(max_examples=15, deadline=None)
@given(counts, st.integers(0, 3))
def test_share_as_drawn_item_by_item(pairs: list[tuple[int, int]], seed: int) -> None:
    by_source = [[True] * right + [False] * wrong for right, wrong in pairs]
    shares = [
        np.mean(items)
        for weights in resample_weights(len(pairs), seed)
        if (items := drawn_items(weights, by_source))
    ]
    found = share_interval([a for a, _ in pairs], [a + b for a, b in pairs], seed)
    if not shares:
        assert found == Interval(None, None)
        return
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(shares, [2.5, 97.5])))


def test_worst_recall_as_drawn_item_by_item() -> None:
    rng = np.random.default_rng(1)
    total = rng.integers(0, 4, (6, 3))
    right = rng.binomial(total, 0.7)
    by_source = [
        [
            (label, place < right[source, label])
            for label in range(3)
            for place in range(total[source, label])
        ]
        for source in range(6)
    ]
    worst = []
    for weights in resample_weights(6):
        items = drawn_items(weights, by_source)
        labels = {label for label, _ in items}
        worst.append(min(np.mean([w for at, w in items if at == label]) for label in labels))
    found = worst_share_interval(right, total)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(worst, [2.5, 97.5])))


def test_each_resample_draws_as_many_sources_with_equal_chances() -> None:
    weights = resample_weights(20)
    assert weights.shape == (2000, 20)
    assert set(weights.sum(axis=1)) == {20}
    # Each count is binomial (20, 1/20): mean 1, variance 0.95.
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.11)
    np.testing.assert_allclose(weights.var(axis=0), 0.95, atol=0.25)
    np.testing.assert_array_equal(weights, resample_weights.__wrapped__(20))
    assert not np.array_equal(weights, resample_weights(20, 1))


def test_interval_covers_the_truth_of_clustered_answers() -> None:
    """About 95 of 100 intervals hold the truth; intervals over items would hold far fewer."""
    rng = np.random.default_rng(0)
    held = held_by_items = 0
    for _ in range(200):
        ability = rng.beta(4, 2, 40)  # of each source; the mean is 2/3
        right = rng.binomial(30, ability)
        found = share_interval(right, np.full(40, 30))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 2 / 3 <= found.high
        share = right.mean() / 30
        error = 1.96 * np.sqrt(share * (1 - share) / (40 * 30))
        held_by_items += abs(share - 2 / 3) <= error
    assert held >= 180
    assert held_by_items < 150


def test_few_sources() -> None:
    assert share_interval([3], [4]) == Interval(None, None)
    assert share_interval([4, 4], [4, 4]) == Interval(1.0, 1.0)
    assert share_interval([0, 0], [0, 0]) == Interval(None, None)


def test_sums_and_several_scores_at_once() -> None:
    rng = np.random.default_rng(0)
    values, sources = rng.random((50, 2)), rng.integers(0, 5, 50).tolist()
    sums = sums_by_source(values, sources)
    for source in range(5):
        mine = [v for v, s in zip(values, sources, strict=True) if s == source]
        np.testing.assert_allclose(sums[source], np.sum(mine, axis=0))
    both = intervals(sums, lambda s: np.stack([s[:, 0] / s[:, 1], s[:, 0]], axis=1))
    assert both[0] == share_interval(sums[:, 0], sums[:, 1])
    assert both[1] != both[0]
