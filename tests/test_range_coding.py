"""The range coder of levels: round trips, adaptation, and what damaged streams may cost."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imagecompression.codec import CodecError
from imagecompression.range_coding import (
    FREE_WORK,
    MAX_LEVEL,
    UNIT,
    WORK_PER_BYTE,
    LevelDecoder,
    LevelEncoder,
    LevelTables,
)

LEVELS = st.one_of(
    st.integers(-3, 3),
    st.integers(-MAX_LEVEL, MAX_LEVEL),
    st.sampled_from([16, 17, 18, -17, MAX_LEVEL, -MAX_LEVEL]),
)
SPECIFIED = "354666b150af378ff97a20312cff66fd76b5c1a1cb99a88a9248b0f50dab154f"
EXPECTED = st.one_of(st.integers(0, 3 * UNIT), st.integers(-5, 2**40))


def laplace(scale: float, count: int, seed: int = 0) -> np.ndarray:
    """Levels whose magnitudes have about the mean `scale`."""
    return np.rint(np.random.default_rng(seed).laplace(0, scale, count)).astype(np.int64)


def coded(levels: np.ndarray, expected: int) -> bytes:
    encoder = LevelEncoder()
    encoder.levels(LevelTables(), np.full(len(levels), expected), levels)
    return encoder.data()


@given(st.lists(st.tuples(LEVELS, EXPECTED), max_size=60))
@example([(MAX_LEVEL, 0), (-MAX_LEVEL, 2**60), (0, 2**60)])
@settings(max_examples=150, deadline=None)
def test_any_levels_under_any_expectation_come_back(pairs: list[tuple[int, int]]) -> None:
    levels = np.array([level for level, _ in pairs], np.int64)
    expected = np.array([size for _, size in pairs], np.int64)
    encoder, tables = LevelEncoder(), LevelTables()
    encoder.levels(tables, expected, levels)
    encoder.levels(tables, expected, -levels)
    decoder, tables = LevelDecoder(encoder.data()), LevelTables()
    assert np.array_equal(decoder.levels(tables, expected, None), levels)
    assert np.array_equal(decoder.levels(tables, expected, None), -levels)


@given(
    st.lists(st.tuples(st.integers(1, 2**23), st.integers(0, 2**23)), max_size=30),
    st.lists(st.integers(0, 1), max_size=30),
)
@settings(max_examples=100, deadline=None)
def test_numbers_and_flags_come_back(sizes: list[tuple[int, int]], flags: list[int]) -> None:
    numbers = [(value % size, size) for size, value in sizes]
    encoder = LevelEncoder()
    for value, size in numbers:
        encoder.number(value, size)
    encoder.bits(np.array(flags, np.int64), len(flags))
    decoder = LevelDecoder(encoder.data())
    assert [decoder.number(None, size) for _, size in numbers] == [value for value, _ in numbers]
    assert decoder.bits(None, len(flags)).tolist() == flags


@pytest.mark.parametrize("scale", [0.12, 0.5, 3, 40, 5000, 200_000])
def test_well_expected_levels_take_little_more_than_their_entropy(scale: float) -> None:
    levels = np.clip(laplace(scale, 40_000), -MAX_LEVEL, MAX_LEVEL)
    if scale < 100:
        shares = np.unique(levels, return_counts=True)[1] / len(levels)
        entropy = float(-(shares * np.log2(shares)).sum())
    else:
        entropy = float(np.log2(2 * np.e * scale))
    data = coded(levels, round(float(np.abs(levels).mean()) * UNIT))
    assert 8 * len(data) < len(levels) * (entropy * 1.025 + 0.006)


def test_tables_adapt_to_levels_that_were_not_expected() -> None:
    levels = laplace(3, 60_000)
    assert len(coded(levels, UNIT // 16)) < 1.15 * len(coded(levels, 3 * UNIT))


def test_batches_of_many_levels_come_back() -> None:
    levels = laplace(2, 100_000)
    decoder = LevelDecoder(coded(levels, UNIT))
    assert np.array_equal(decoder.levels(LevelTables(), np.full(100_000, UNIT), None), levels)


def test_chosen_levels_trade_squared_error_for_bits() -> None:
    values = np.random.default_rng(1).laplace(0, 0.8, 20_000)
    expected = np.full(len(values), UNIT // 2)

    def cost(rate_weight: float, judged: float) -> float:
        encoder = LevelEncoder(rate_weight)
        levels = encoder.levels(LevelTables(), expected, values, choose=True)
        return float(((values - levels) ** 2).sum() + judged * 8 * len(encoder.data()))

    rounded = LevelEncoder()
    levels = rounded.levels(LevelTables(), expected, values, choose=True)
    assert np.abs(values - levels).max() <= 0.5
    assert cost(0.1, 0.1) < 0.98 * cost(0, 0.1)
    assert cost(0, 0) < cost(0.1, 0)


def test_the_stream_is_specified() -> None:
    """Golden bytes: tables, bins and coder are part of the format."""
    places = np.arange(6000)
    small, large = places * places % 29 % 11 - 5, places * places * 7 % 10_007 - 5000
    data = coded(small, 2 * UNIT) + coded(large, 2500 * UNIT) + coded(large, 100 * UNIT)
    assert hashlib.sha256(data).hexdigest() == SPECIFIED


def test_streams_hold_a_byte_for_so_many_levels() -> None:
    count = FREE_WORK + 10 * WORK_PER_BYTE
    data = coded(np.zeros(100 * count, np.int64), 1)
    assert len(data) >= (100 * count - FREE_WORK) / WORK_PER_BYTE
    decoder = LevelDecoder(bytes(10))
    decoder.claim(count)
    with pytest.raises(CodecError, match="size"):
        decoder.levels(LevelTables(), np.zeros(1, np.int64), None)


@given(st.binary(max_size=80), st.integers(0, 2**40))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_decoded_or_refused(data: bytes, expected: int) -> None:
    decoder, tables = LevelDecoder(data), LevelTables()
    try:
        for _ in range(5):
            levels = decoder.levels(tables, np.full(200, expected), None)
            assert np.abs(levels).max() <= MAX_LEVEL
            decoder.number(None, 77)
    except CodecError:
        pass
