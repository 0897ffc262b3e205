"""The little of HEVC (ITU-T H.265) that BPG needs: NAL units and sequence parameter sets.

BPG drops the VPS and SPS of an HEVC stream and stores a few of the SPS's fields instead, so a
writer parses the encoder's SPS and a reader builds a new VPS and SPS for the decoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from imagecompression.codec import CodecError

START_CODE = b"\0\0\0\1"
NAL_VPS, NAL_SPS, NAL_PPS = 32, 33, 34
IRAP_SLICES = range(16, 22)
SLICES = (*range(10), *IRAP_SLICES)

MAX_UE_BITS = 20
"""Longest run of leading zeros that is read; every field read here is smaller than 2^20."""

BLOCK_DATA = bytes(8192) + b"\x80"
"""Slice data in which each bin is the likelier one: valid for any block.

Enough for 64×64 pixels in which all coefficients are coded; a decoder that runs out of data reads
what may be no valid difference of quantisation parameters.
"""

PROFILE_TIER_LEVEL = bytes([4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255])
"""Format range extensions (profile 4, its compatibility flag), Main tier, level 8.5 (no limit)."""


class BitReader:
    """Reads big-endian bits from `data`; past the end is a `CodecError`."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def bits(self, count: int) -> int:
        """The next `count` bits as an unsigned integer."""
        if count > self._left:
            raise CodecError("Damaged BPG file: an HEVC header ends too early.")
        self._left -= count
        return (self._value >> self._left) & ((1 << count) - 1)

    def flag(self) -> bool:
        """The next bit."""
        return self.bits(1) == 1

    def ue(self) -> int:
        """An unsigned Exp-Golomb code, ue(v) of H.265 section 9.2."""
        zeros = 0
        while not self.flag():
            zeros += 1
            if zeros > MAX_UE_BITS:
                raise CodecError("Damaged BPG file: an HEVC header holds a number out of range.")
        return (1 << zeros) - 1 + self.bits(zeros)


class BitWriter:
    """Collects big-endian bits."""

    def __init__(self) -> None:
        self._value = 0
        self._count = 0

    def bits(self, value: int, count: int) -> None:
        """Append `value` as `count` bits."""
        self._value = (self._value << count) | value
        self._count += count

    def ue(self, *values: int) -> None:
        """Append each value as an unsigned Exp-Golomb code."""
        for value in values:
            self.bits(value + 1, 2 * (value + 1).bit_length() - 1)

    def to_bytes(self) -> bytes:
        """All bits, padded with zeros to a whole byte."""
        padding = -self._count % 8
        return (self._value << padding).to_bytes((self._count + padding) // 8, "big")

    def to_nal(self, nal_type: int) -> bytes:
        """The bits as a NAL unit: header, trailing bits, emulation prevention."""
        self.bits(1, 1)
        return bytes([nal_type << 1, 1]) + _prevent_emulation(self.to_bytes())


@dataclass(frozen=True)
class Pcm:
    """The SPS fields of PCM coding (uncompressed blocks), each as it is coded."""

    luma_depth_minus1: int
    chroma_depth_minus1: int
    log2_min_minus3: int
    log2_diff: int
    loop_filter_off: bool


@dataclass(frozen=True)
class SequenceHeader:
    """The SPS fields that BPG's `hevc_header` keeps; the rest is implied.

    Attributes:
        log2_min_cb: log2 of the smallest coding block's side in pixels, 3 … 6.
        log2_diff_cb: log2 of the largest coding block's side, less the smallest's.
        log2_min_tb: log2 of the smallest transform's side, 2 … 5.
        log2_diff_tb: log2 of the largest transform's side, less the smallest's.
        depth: Largest depth of the transform tree in intra blocks.
        sao: Sample adaptive offset is on.
        pcm: PCM fields, or None where PCM coding is off.
        strong_smoothing: Strong intra smoothing is on.
        range_flags: The nine flags of the SPS range extension, the first one as the highest bit,
            or None without that extension.
    """

    log2_min_cb: int
    log2_diff_cb: int
    log2_min_tb: int
    log2_diff_tb: int
    depth: int
    sao: bool
    pcm: Pcm | None
    strong_smoothing: bool
    range_flags: int | None

    def __post_init__(self) -> None:
        log2_max_cb = self.log2_min_cb + self.log2_diff_cb
        log2_max_tb = self.log2_min_tb + self.log2_diff_tb
        if not (
            3 <= self.log2_min_cb <= log2_max_cb <= 6
            and 2 <= self.log2_min_tb < self.log2_min_cb
            and log2_max_tb <= min(log2_max_cb, 5)
            and self.depth <= log2_max_cb - self.log2_min_tb
        ):
            raise CodecError(
                "Damaged BPG file: impossible HEVC block sizes. Received: coding blocks "
                f"2^{self.log2_min_cb} … 2^{log2_max_cb}, transforms 2^{self.log2_min_tb} … "
                f"2^{log2_max_tb}, depth {self.depth}"
            )
        # Explicit RDPCM, extended precision, high precision offsets, CABAC bypass alignment.
        if self.range_flags is not None and self.range_flags & 0b000110101:
            raise CodecError(
                "BPG does not allow this HEVC range extension. "
                f"Received: flags {self.range_flags:09b}"
            )

    def coded_side(self, side: int) -> int:
        """A picture's side in pixels, rounded up to whole coding blocks."""
        return -(-side >> self.log2_min_cb) << self.log2_min_cb

    def tree_blocks(self, width: int, height: int) -> int:
        """Number of coding tree blocks, the largest ones, in `width` × `height` pixels."""
        log2_side = self.log2_min_cb + self.log2_diff_cb
        return (-(-width >> log2_side)) * (-(-height >> log2_side))

    def growing_heights(self, width: int, height: int, pixels: int) -> Iterator[int]:
        """Heights of whole tree blocks under `height`, from about `pixels` on, each 8 times more.

        A picture's data give the same first rows at each of these heights, so that a decoder can
        see whether data go on before it takes memory for the whole claimed picture.
        """
        side = 1 << (self.log2_min_cb + self.log2_diff_cb)
        rows = max(pixels // (width * side), 1) * side
        while rows < height:
            yield rows
            rows *= 8

    @classmethod
    def from_bpg(cls, data: bytes) -> SequenceHeader:
        """Parse the bits of BPG's `hevc_header`."""
        reader = BitReader(data)
        blocks = (3 + reader.ue(), reader.ue(), 2 + reader.ue(), reader.ue(), reader.ue())
        return cls(*blocks, reader.flag(), _read_pcm(reader), reader.flag(), _read_range(reader))

    def to_bpg(self) -> bytes:
        """The bits of BPG's `hevc_header`."""
        writer = BitWriter()
        writer.ue(*self._block_fields(), self.depth)
        self._write_sao_and_pcm(writer)
        writer.bits(self.strong_smoothing, 1)
        self._write_range(writer)
        return writer.to_bytes()

    @classmethod
    def from_sps(cls, nal: bytes) -> tuple[SequenceHeader, int, int]:
        """Parse an SPS NAL unit to (header, coded width, coded height), sides in pixels.

        Raises:
            CodecError: The SPS says something that BPG's shortened header cannot.
        """
        reader = BitReader(_without_emulation_prevention(nal[2:]))
        reader.bits(4)  # VPS id
        if reader.bits(3):
            raise CodecError("BPG cannot hold an HEVC stream of several temporal layers.")
        reader.bits(1 + 8 * len(PROFILE_TIER_LEVEL))
        sps_id, chroma_format_idc = reader.ue(), reader.ue()
        separate_planes = chroma_format_idc == 3 and reader.flag()
        width, height = reader.ue(), reader.ue()
        cropped = reader.flag()
        if sps_id or separate_planes or cropped:
            raise CodecError(
                "BPG cannot hold this HEVC stream. Received: "
                f"SPS id {sps_id}, separate planes {separate_planes}, cropped {cropped}"
            )
        for _ in range(3):  # luma and chroma depth, bits of the picture order count
            reader.ue()
        reader.flag()
        for _ in range(3):  # picture buffer: size, reordering, latency
            reader.ue()
        blocks = (3 + reader.ue(), reader.ue(), 2 + reader.ue(), reader.ue())
        reader.ue()  # transform depth in inter blocks; BPG has intra pictures only
        depth = reader.ue()
        if reader.flag():
            raise CodecError("BPG cannot hold an HEVC stream with scaling lists.")
        reader.flag()  # AMP: inter blocks only
        sao, pcm = reader.flag(), _read_pcm(reader)
        if reader.ue() or reader.flag():
            raise CodecError("BPG cannot hold an HEVC stream with reference picture sets.")
        reader.flag()  # temporal motion vectors: inter blocks only
        strong_smoothing = reader.flag()
        if reader.flag():
            _skip_vui(reader)
        header = cls(*blocks, depth, sao, pcm, strong_smoothing, _read_range(reader))
        return header, width, height

    def to_sps(self, width: int, height: int, chroma_format_idc: int, bit_depth: int) -> bytes:
        """An SPS NAL unit for one intra picture of `width` × `height` pixels (coded size)."""
        writer = BitWriter()
        writer.bits(0b0000_000_1, 8)  # VPS 0, one temporal layer, nested
        writer.bits(int.from_bytes(PROFILE_TIER_LEVEL, "big"), 8 * len(PROFILE_TIER_LEVEL))
        writer.ue(0, chroma_format_idc)
        if chroma_format_idc == 3:
            writer.bits(0, 1)  # no separate planes
        writer.ue(width, height)
        writer.bits(0, 1)  # no conformance window: the reader crops
        writer.ue(bit_depth - 8, bit_depth - 8, 4)  # 8 bits of picture order count
        writer.bits(1, 1)
        writer.ue(0, 0, 0)  # picture buffer for one picture
        writer.ue(*self._block_fields(), self.depth, self.depth)
        writer.bits(0b01, 2)  # no scaling lists, AMP
        self._write_sao_and_pcm(writer)
        writer.ue(0)  # no reference picture sets
        writer.bits(0b01, 2)  # no long-term references, temporal motion vectors
        writer.bits(self.strong_smoothing, 1)
        writer.bits(0, 1)  # no VUI
        self._write_range(writer)
        return writer.to_nal(NAL_SPS)

    def _block_fields(self) -> tuple[int, int, int, int]:
        return self.log2_min_cb - 3, self.log2_diff_cb, self.log2_min_tb - 2, self.log2_diff_tb

    def _write_sao_and_pcm(self, writer: BitWriter) -> None:
        writer.bits(self.sao, 1)
        writer.bits(self.pcm is not None, 1)
        if self.pcm is not None:
            writer.bits(self.pcm.luma_depth_minus1, 4)
            writer.bits(self.pcm.chroma_depth_minus1, 4)
            writer.ue(self.pcm.log2_min_minus3, self.pcm.log2_diff)
            writer.bits(self.pcm.loop_filter_off, 1)

    def _write_range(self, writer: BitWriter) -> None:
        writer.bits(self.range_flags is not None, 1)
        if self.range_flags is not None:
            writer.bits(0b1000_0000, 8)
            writer.bits(self.range_flags, 9)


def build_vps() -> bytes:
    """The VPS NAL unit of a stream of one layer, as BPG implies it."""
    writer = BitWriter()
    writer.bits(0b0000_11_000000_000_1, 16)  # id 0, base layer flags, one layer, one sub-layer
    writer.bits(0xFFFF, 16)
    writer.bits(int.from_bytes(PROFILE_TIER_LEVEL, "big"), 8 * len(PROFILE_TIER_LEVEL))
    writer.bits(1, 1)
    writer.ue(0, 0, 0)  # picture buffer for one picture
    writer.bits(0, 6)  # highest layer id
    writer.ue(0)  # one layer set
    writer.bits(0, 2)  # no timing, no extension
    return writer.to_nal(NAL_VPS)


def split_nals(stream: bytes) -> Iterator[bytes]:
    """The NAL units of an Annex B stream, with or without its first start code.

    Start codes of three and of four bytes are taken and empty units are skipped.
    """
    for piece in stream.split(b"\0\0\1"):
        nal = piece.rstrip(b"\0")  # zeros of a 4-byte start code; a NAL unit never ends in one
        if len(nal) > 2:
            yield nal


def nal_type(nal: bytes) -> int:
    """The type of a NAL unit, 0 … 63."""
    return (nal[0] >> 1) & 63


def nal_layer(nal: bytes) -> int:
    """The layer of a NAL unit, 0 … 63; BPG's alpha plane is layer 1."""
    return (nal[0] & 1) << 5 | nal[1] >> 3


def first_picture(nals: Iterator[bytes], layer: int) -> list[bytes]:
    """The PPS and slice units of the first picture in `layer`, moved to layer 0.

    All other units are left out: a decoder must never meet a second SPS of another size.

    Raises:
        CodecError: The layer has no picture, or its first is not an intra picture.
    """
    units: list[bytes] = []
    started = False
    for nal in nals:
        kind = nal_type(nal)
        if nal_layer(nal) != layer or kind not in (NAL_PPS, *SLICES):
            continue
        begins = kind != NAL_PPS and nal[2] >= 0x80  # first_slice_segment_in_pic_flag
        if started and (begins or kind == NAL_PPS):
            break  # the next picture of an animation
        if kind != NAL_PPS:
            if not started and not (begins and kind in IRAP_SLICES):
                raise CodecError("Damaged BPG file: it does not begin with an intra picture.")
            started = True
        units.append(bytes([nal[0] & 0xFE, nal[1] & 7]) + nal[2:])
    if not started:
        raise CodecError("Damaged or truncated BPG file: it holds no picture.")
    return units


def with_last_block(units: list[bytes], tree_blocks: int) -> list[bytes] | None:
    """`units` of one picture and a dependent slice segment of its last tree block alone.

    A decoder must refuse it where the block before is missing, because it continues that block's
    slice (H.265 section 7.4.7.1). A slice that merely ends too early gives no error.

    Args:
        units: PPS and slices, as from `first_picture`.
        tree_blocks: Number of tree blocks in the picture, 2 or more.

    Returns:
        The changed units, whose last block is arbitrary, or None where the PPS or the number of
        slices is not as x265 and the HEVC reference encoder write them.
    """
    kinds = [nal_type(unit) for unit in units]
    if len(units) != 2 or kinds[0] != NAL_PPS:
        return None
    pps, segment = units
    reader = BitReader(_without_emulation_prevention(pps[2:]))
    if reader.bits(2) != 0b11:  # PPS 0 of SPS 0
        return None
    reader.bits(7)  # dependent segments … cabac_init_present_flag
    for _ in range(3):  # reference pictures in two lists, quantisation parameter
        reader.ue()
    reader.bits(2)
    if reader.flag():  # quantisation parameter by block
        reader.ue()
    for _ in range(2):  # chroma's offsets of the quantisation parameter
        reader.ue()
    reader.bits(4)
    tiles, wavefronts = reader.flag(), reader.flag()
    if tiles:
        return None
    reader.flag()
    if reader.flag():  # deblocking control
        reader.flag()
        if not reader.flag():
            reader.ue()
            reader.ue()
    scaling_lists = reader.flag()
    reader.flag()
    reader.ue()
    if scaling_lists or reader.flag():  # the second: extension of slice headers
        return None
    writer = BitWriter()
    writer.bits(0b0011, 4)  # not the first segment, no_output_of_prior_pics, PPS 0, dependent
    writer.bits(tree_blocks - 1, (tree_blocks - 1).bit_length())
    if wavefronts:
        writer.ue(0)  # no entry points
    writer.bits(1, 1)
    last = segment[:2] + _prevent_emulation(writer.to_bytes() + BLOCK_DATA)
    # dependent_slice_segments_enabled_flag comes right after the two numbers.
    return [pps[:2] + bytes([pps[2] | 0b0010_0000]) + pps[3:], segment, last]


def _read_pcm(reader: BitReader) -> Pcm | None:
    if not reader.flag():
        return None
    return Pcm(reader.bits(4), reader.bits(4), reader.ue(), reader.ue(), reader.flag())


def _read_range(reader: BitReader) -> int | None:
    """The nine flags of the SPS range extension, None where there is no extension."""
    if not reader.flag():
        return None
    extensions = reader.bits(8)
    if extensions & 0x7F:
        raise CodecError(f"BPG knows no such HEVC extension. Received: flags {extensions:08b}")
    return reader.bits(9) if extensions else None


def _skip_vui(reader: BitReader) -> None:
    """Read past the VUI of an SPS (H.265 annex E): colour and timing, which BPG drops."""
    if reader.flag() and reader.bits(8) == 255:  # aspect ratio; 255 has two explicit numbers
        reader.bits(32)
    if reader.flag():  # overscan
        reader.flag()
    if reader.flag():  # video signal type
        reader.bits(4)
        if reader.flag():  # colour description
            reader.bits(24)
    if reader.flag():  # chroma siting
        reader.ue()
        reader.ue()
    reader.bits(3)
    if reader.flag():  # default display window
        for _ in range(4):
            reader.ue()
    if reader.flag():  # timing
        reader.bits(64)
        if reader.flag():
            reader.ue()
        if reader.flag():
            raise CodecError("BPG cannot hold an HEVC stream with HRD parameters.")
    if reader.flag():  # bitstream restriction
        reader.bits(3)
        for _ in range(5):
            reader.ue()


def _prevent_emulation(payload: bytes) -> bytes:
    """Insert 03 wherever two zero bytes are followed by a byte of at most 3."""
    out = bytearray()
    zeros = 0
    for byte in payload:
        if zeros == 2 and byte <= 3:
            out.append(3)
            zeros = 0
        out.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes(out)


def _without_emulation_prevention(payload: bytes) -> bytes:
    """Undo `_prevent_emulation`."""
    return payload.replace(b"\0\0\3", b"\0\0")
