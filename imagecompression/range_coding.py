"""Range coding of integer levels under adaptive tables, in integers alone.

A level is coded as its magnitude, under a frequency table chosen by the magnitude that its
neighbourhood makes one expect, followed by its sign. The tables adapt backwards: encoder and
decoder add the same counts after each batch of levels, so that no table is transmitted. All
contexts, counts and expectations are integers, and the range coder is given whole numbers: the
same stream decodes to the same levels on every machine.

The arithmetic coder is `constriction`'s range coder (Martin, "Range encoding: an algorithm for
removing redundancy from a digitised message", 1979; Bamler, arXiv 2201.01741) with 32-bit words
and 24-bit probabilities. How a level m, expected to have a magnitude of e/`UNIT`, is coded:

1. From an expectation of 8 on, the lowest bits of the magnitude are hardly predictable: s =
   max(0, bits(e) - 11) of them are split off, and e is shifted right by s.
2. |m| >> s, or `_ESCAPE` where it is that or more, under the table of e's bin.
3. The s low bits, uniform; for escapes the excess in Elias's gamma code, uniform bits; the sign of
   what is not 0, uniform.

Each step is done for a whole batch before the next one; batches hold `_BATCH` levels at most.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from imagecompression.codec import CodecError

Integers = npt.NDArray[np.int64]

UNIT = 256
"""An expected magnitude of 1, in the fixed point in which expectations are given."""

MAX_LEVEL = 2**22
"""Largest magnitude that a level can have."""

WORK_PER_BYTE = 512
FREE_WORK = 2**14
"""A stream of n bytes holds at most `FREE_WORK` + n·`WORK_PER_BYTE` levels; the encoder appends
zeros where it would hold more. So no small stream, damaged or made to harm, takes long."""

_ESCAPE = 17
_SYMBOLS = _ESCAPE + 1
_MAX_EXPECTED = 2**28
_MAX_EXCESS_BITS = 23
_BATCH = 2**13
_COUNT = 32
"""What one seen symbol adds to its table."""
_PRIOR_COUNTS = 24
"""How many seen symbols the tables' starting values weigh."""
_MAX_TOTAL = 2**16
"""A table with a larger sum is halved: old counts fade."""

# Bins of expected magnitudes, three an octave from 1/256 on: lower edges in 1/UNIT, 2^((b-24)/3)
# with the factors of the cube roots of 2 in 1/1024 so that all is integer arithmetic.
_CUBE_ROOTS = (1024, 1290, 1625)
_BINS = 40
_CENTRES = tuple(max(1, (_CUBE_ROOTS[b % 3] << (b // 3)) >> 10) for b in range(_BINS))
_BIN_OF = np.zeros(2048, np.int64)
for _centre in range(1, _BINS):
    _low, _high = _CENTRES[_centre - 1], _CENTRES[_centre]
    _BIN_OF[(_low + _high + 1) // 2 :] = _centre


def _starting_table() -> Integers:
    """Frequencies `(bins, symbols)` of geometric magnitudes with the bins' centres as means."""
    table = np.ones((_BINS, _SYMBOLS), np.int64)
    for row, mean in zip(table, _CENTRES, strict=True):
        share, shares = 1 << 30, []
        for _ in range(_SYMBOLS):
            shares.append(share)
            share = share * mean // (mean + UNIT)
        shares[-1] += share * (mean + UNIT) // UNIT  # all larger magnitudes escape
        total = sum(shares)
        row += [each * _COUNT * _PRIOR_COUNTS // total for each in shares]
    return table


_START = _starting_table()


class LevelTables:
    """Frequency tables of magnitudes, one for each bin of expected magnitudes."""

    def __init__(self) -> None:
        self.counts = _START.copy()

    def add(self, bins: Integers, symbols: Integers) -> None:
        """Count what was coded in one batch."""
        seen = np.bincount(bins * _SYMBOLS + symbols, minlength=self.counts.size)
        self.counts += _COUNT * seen.reshape(self.counts.shape)
        while (large := self.counts.sum(axis=1) > _MAX_TOTAL).any():
            self.counts[large] = (self.counts[large] + 1) >> 1


def _split(expected: Integers) -> tuple[Integers, Integers]:
    """Table and number of low bits for each expected magnitude (in 1/`UNIT`, any size)."""
    expected = np.clip(expected, 0, _MAX_EXPECTED)
    shifts = np.zeros_like(expected)
    if expected.size and expected.max() >= 2048:
        # Exact: whole numbers below 2^53; frexp's exponent is their number of bits.
        shifts = np.maximum(np.frexp(expected.astype(np.float64))[1] - 11, 0).astype(np.int64)
        expected = expected >> shifts
    return _BIN_OF[expected], shifts


class LevelCoder(Protocol):
    """What encoder and decoder share, so that a format is written down once for both.

    The encoder is told what to code, the decoder is told None; both return what was coded.
    """

    def claim(self, work: int) -> None:
        """Account for work beside the levels: 1 for what takes as long as decoding a level.

        Raises:
            CodecError: Decoder: a stream of its size cannot ask for so much.
        """

    def number(self, value: int | None, size: int) -> int:
        """One of 0 … `size` - 1, all equally likely; `size` is at most 2²³."""

    def bits(self, values: Integers | None, count: int) -> Integers:
        """`count` flags, 0 or 1."""

    def levels(
        self,
        tables: LevelTables,
        expected: Integers,
        values: npt.NDArray[Any] | None,
        *,
        choose: bool = False,
    ) -> Integers:
        """Levels, flat, each under its expected magnitude in 1/`UNIT`.

        Args:
            tables: Adapted on the way.
            expected: int64, any size (clipped).
            values: Encoder: integers; with `choose` real numbers in units of the quantiser step.
            choose: Encoder: quantise by rate and distortion.

        Raises:
            CodecError: Decoder: the stream is damaged.
        """


class LevelEncoder:
    """The encoding side of `LevelCoder`.

    Args:
        rate_weight: What one bit may cost in squared quantiser steps when levels are chosen.
            For a Laplacian source at high rate the slope of distortion over rate is
            -ln 2 / 6 ≈ 0.12 a bit.
    """

    def __init__(self, rate_weight: float = 0.0) -> None:
        from constriction import stream  # type: ignore[import-untyped]

        self._coder = stream.queue.RangeEncoder()
        self._family = stream.model.Categorical(perfect=False)
        self._uniform = stream.model.Uniform
        self._rate_weight = rate_weight
        self._work = 0

    def data(self) -> bytes:
        """The stream so far, with the zeros that its levels claim."""
        data = self._coder.get_compressed().astype("<u4").tobytes()
        return data.ljust(-(-(self._work - FREE_WORK) // WORK_PER_BYTE), b"\0")

    def claim(self, work: int) -> None:
        self._work += work

    def number(self, value: int | None, size: int) -> int:
        assert value is not None
        assert 0 <= value < size
        self.claim(1)
        if size > 1:
            self._coder.encode(value, self._uniform(size))
        return value

    def bits(self, values: Integers | None, count: int) -> Integers:
        assert values is not None
        self.claim(count)
        if count:
            self._coder.encode(values.astype(np.int32), self._uniform(2))
        return values

    def levels(
        self,
        tables: LevelTables,
        expected: Integers,
        values: npt.NDArray[Any] | None,
        *,
        choose: bool = False,
    ) -> Integers:
        assert values is not None
        self.claim(len(values))
        levels = np.empty(len(values), np.int64)
        for start in range(0, len(values), _BATCH):
            batch = slice(start, start + _BATCH)
            bins, shifts = _split(expected[batch])
            frequencies = tables.counts[bins]
            chosen = values[batch]
            if choose:
                chosen = self._choose(chosen, tables, bins, shifts)
            levels[batch] = chosen
            self._encode(levels[batch], frequencies, shifts)
            tables.add(bins, np.minimum(np.abs(levels[batch]) >> shifts, _ESCAPE))
        return levels

    def _choose(
        self, values: npt.NDArray[Any], tables: LevelTables, bins: Integers, shifts: Integers
    ) -> Integers:
        """The cheapest of 0 and the two neighbouring levels: squared error plus weighted bits."""
        counts = tables.counts
        bits = np.log2(counts.sum(axis=1))[:, None] - np.log2(counts)
        bits[:, 1:] += 1
        cost = self._rate_weight * bits.astype(np.float32)
        size = np.minimum(np.abs(values), MAX_LEVEL - 1).astype(np.float32)
        low = size.astype(np.int64)
        best, least = np.zeros_like(low), size * size + cost[bins, 0]
        for candidate in (low, low + 1):
            price = (size - candidate) ** 2
            price += cost[bins, np.minimum(candidate >> shifts, _ESCAPE)]
            better = price < least
            best[better], least[better] = candidate[better], price[better]
        return np.where(values < 0, -best, best)

    def _encode(self, levels: Integers, frequencies: Integers, shifts: Integers) -> None:
        sizes = np.abs(levels)
        assert sizes.max(initial=0) <= MAX_LEVEL
        high = sizes >> shifts
        symbols = np.minimum(high, _ESCAPE).astype(np.int32)
        self._coder.encode(symbols, self._family, frequencies.astype(np.float64))
        self._encode_bits(sizes, shifts)
        excess = high[symbols == _ESCAPE] - _ESCAPE + 1
        widths = np.frexp(excess.astype(np.float64))[1].astype(np.int64) - 1
        if len(excess):
            self._coder.encode(widths.astype(np.int32), self._uniform(_MAX_EXCESS_BITS + 1))
            self._encode_bits(excess, widths)
        signed = levels[sizes > 0]
        if len(signed):
            self._coder.encode((signed < 0).astype(np.int32), self._uniform(2))

    def _encode_bits(self, values: Integers, widths: Integers) -> None:
        """The `widths` lowest bits of each value; those of equal width together."""
        for width in np.unique(widths[widths > 0]).tolist():
            low = values[widths == width] & ((1 << width) - 1)
            self._coder.encode(low.astype(np.int32), self._uniform(1 << width))


class LevelDecoder:
    """The decoding side of `LevelCoder`.

    Args:
        data: A stream of `LevelEncoder.data`, with any bytes after it.
    """

    def __init__(self, data: bytes) -> None:
        from constriction import stream

        words = np.frombuffer(data + b"\0" * (-len(data) % 4), "<u4")
        self._coder = stream.queue.RangeDecoder(words.astype(np.uint32))
        self._family = stream.model.Categorical(perfect=False)
        self._uniform = stream.model.Uniform
        self._left = FREE_WORK + WORK_PER_BYTE * len(data)

    def claim(self, work: int) -> None:
        self._left -= work
        if self._left < 0:
            raise CodecError("The stream would hold more levels than its size allows: damaged data")

    def number(self, value: int | None, size: int) -> int:
        self.claim(1)
        return int(self._decode(self._uniform(size), 1)[0]) if size > 1 else 0

    def bits(self, values: Integers | None, count: int) -> Integers:
        self.claim(count)
        return self._decode(self._uniform(2), count)

    def levels(
        self,
        tables: LevelTables,
        expected: Integers,
        values: npt.NDArray[Any] | None,
        *,
        choose: bool = False,
    ) -> Integers:
        self.claim(len(expected))
        levels = np.empty(len(expected), np.int64)
        for start in range(0, len(expected), _BATCH):
            batch = slice(start, start + _BATCH)
            bins, shifts = _split(expected[batch])
            symbols = self._decode(self._family, tables.counts[bins].astype(np.float64))
            levels[batch] = self._finish(symbols, shifts)
            tables.add(bins, symbols)
        return levels

    def _finish(self, symbols: Integers, shifts: Integers) -> Integers:
        """Levels of a batch whose symbols are known."""
        low = self._decode_bits(shifts)
        high = symbols.copy()
        escaped = symbols == _ESCAPE
        count = int(escaped.sum())
        if count:
            widths = self._decode(self._uniform(_MAX_EXCESS_BITS + 1), count)
            high[escaped] += (1 << widths) + self._decode_bits(widths) - 1
        sizes = (high << shifts) + low
        if sizes.max(initial=0) > MAX_LEVEL:
            raise CodecError(f"A level exceeds {MAX_LEVEL:,}: the stream is damaged")
        signed = sizes > 0
        negative = self._decode(self._uniform(2), int(signed.sum()))
        sizes[signed] = np.where(negative == 1, -sizes[signed], sizes[signed])
        return sizes

    def _decode_bits(self, widths: Integers) -> Integers:
        """Values of the given widths in bits; those of equal width lie together."""
        values = np.zeros_like(widths)
        for width in np.unique(widths[widths > 0]).tolist():
            chosen = widths == width
            values[chosen] = self._decode(self._uniform(1 << width), int(chosen.sum()))
        return values

    def _decode(self, model: Any, what: Any) -> Integers:
        try:
            return self._coder.decode(model, what).astype(np.int64)
        except AssertionError as error:  # what constriction raises for impossible streams
            raise CodecError(f"The range-coded stream is damaged: {error}") from error
