"""The frame header of a VP8 key frame (RFC 6386, section 9), up to the quantiser."""

from __future__ import annotations

from dataclasses import dataclass

from imagecompression.evidence.record import DamageError

MAX_HEADER_BYTES = 256
"""The fields that are read take far less."""

_SEGMENTS = 4


@dataclass(frozen=True)
class Vp8Header:
    """What a key frame's header says.

    Attributes:
        quantiser: Base index of the quantiser, 0 (finest) … 127.
        segment_quantisers: The index of each segment, where there are segments, else ().
        segments_are_absolute: Whether these stand for the base or are added to it.
        filter_type: 0 normal, 1 simple.
        filter_level: 0 (none) … 63.
        sharpness: 0 … 7.
        partitions: Number of coefficient partitions.
    """

    quantiser: int
    segment_quantisers: tuple[int, ...]
    segments_are_absolute: bool
    filter_type: int
    filter_level: int
    sharpness: int
    partitions: int


class _BoolDecoder:
    """The boolean entropy decoder of section 7, for even odds only; zeros follow the end."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._bits = 8 * len(data)
        self._bottom, self._range = 0, 255
        self._read = 0

    def flag(self) -> bool:
        split = 1 + ((self._range - 1) >> 1)
        shift = self._bits - 8 - self._read
        if shift < 0:
            raise DamageError(0, "the VP8 frame header is cut off")
        bit = (self._value >> shift) - self._bottom >= split
        if bit:
            self._bottom += split
            self._range -= split
        else:
            self._range = split
        while self._range < 128:
            self._range <<= 1
            self._bottom <<= 1
            self._read += 1
        return bit

    def bits(self, count: int) -> int:
        value = 0
        for _ in range(count):
            value = value << 1 | self.flag()
        return value

    def optional(self, count: int) -> int:
        """A magnitude and a sign behind a flag; 0 where the flag is not set."""
        if not self.flag():
            return 0
        value = self.bits(count)
        return -value if self.flag() else value


def read_vp8_header(partition: bytes) -> Vp8Header:
    """Parse the start of the first partition, behind the frame's ten uncompressed bytes.

    Raises:
        DamageError: It ends too early.
    """
    coder = _BoolDecoder(partition[:MAX_HEADER_BYTES])
    coder.bits(2)  # colour space, clamping
    segments: tuple[int, ...] = ()
    absolute = False
    if coder.flag():
        update_map, update_data = coder.flag(), coder.flag()
        if update_data:
            absolute = coder.flag()
            segments = tuple(coder.optional(7) for _ in range(_SEGMENTS))
            for _ in range(_SEGMENTS):
                coder.optional(6)  # filter levels
        if update_map:
            for _ in range(_SEGMENTS - 1):
                if coder.flag():
                    coder.bits(8)
    filter_type, level, sharpness = coder.bits(1), coder.bits(6), coder.bits(3)
    if coder.flag() and coder.flag():  # changes of the filter's strength
        for _ in range(8):
            coder.optional(6)
    partitions = 1 << coder.bits(2)
    return Vp8Header(coder.bits(7), segments, absolute, filter_type, level, sharpness, partitions)
