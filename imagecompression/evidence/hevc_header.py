"""Parameter sets and slice headers of HEVC (ITU-T H.265), as far as they tell about the coding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from imagecompression.codec import CodecError
from imagecompression.hevc import BitReader

MAX_UNITS = 500
MAX_HEADER_BYTES = 512
"""Of a unit, which are read: parameter sets without scaling lists and slice headers are shorter."""

CHROMA_FORMATS = ("4:0:0", "4:2:0", "4:2:2", "4:4:4")
_INTRA_SLICE = 2
_IDR = (19, 20)


@dataclass(frozen=True)
class SequenceFacts:
    """A sequence parameter set (7.3.2.2); sizes in pixels, coding blocks from smallest to largest.

    Attributes:
        chroma_format: One of `CHROMA_FORMATS`, or None for planes coded apart.
        width, height: As coded, before cropping.
        luma_bits, chroma_bits: A sample.
        coding_blocks, transforms: Smallest and largest side.
        sample_adaptive_offset: Whether it is on; None where scaling lists stand before the flag.
    """

    chroma_format: str | None
    width: int
    height: int
    luma_bits: int
    chroma_bits: int
    coding_blocks: tuple[int, int]
    transforms: tuple[int, int]
    sample_adaptive_offset: bool | None

    def to_json(self) -> dict[str, Any]:
        """The fields as a dict that `json.dumps` takes."""
        return {
            "chroma_format": self.chroma_format,
            "coded_size": [self.width, self.height],
            "bits": [self.luma_bits, self.chroma_bits],
            "coding_blocks": list(self.coding_blocks),
            "transforms": list(self.transforms),
            "sample_adaptive_offset": self.sample_adaptive_offset,
        }


@dataclass(frozen=True)
class PictureFacts:
    """A picture parameter set (7.3.2.3).

    Attributes:
        initial_qp: 26 + init_qp_minus26.
        output_flag, extra_bits, number: What reading a slice header needs.
        sign_hiding, transform_skip, qp_by_block, bypass, tiles, wavefronts: Tools that may be used;
            bypass is cu_transquant_bypass, lossless blocks.
        chroma_qp_offsets: Of Cb and Cr.
    """

    number: int
    output_flag: bool
    extra_bits: int
    sign_hiding: bool
    initial_qp: int
    transform_skip: bool
    qp_by_block: bool
    chroma_qp_offsets: tuple[int, int]
    bypass: bool
    tiles: bool
    wavefronts: bool

    def to_json(self) -> dict[str, Any]:
        """What tells about the coding, as a dict that `json.dumps` takes."""
        return {
            "initial_qp": self.initial_qp,
            "chroma_qp_offsets": list(self.chroma_qp_offsets),
            "qp_by_block": self.qp_by_block,
            "sign_hiding": self.sign_hiding,
            "transform_skip": self.transform_skip,
            "lossless_blocks_allowed": self.bypass,
            "tiles": self.tiles,
            "wavefronts": self.wavefronts,
        }


def units(data: bytes, start: int = 0) -> Iterator[bytes]:
    """The first `MAX_HEADER_BYTES` bytes of the units of an Annex B stream from `start` on.

    The first unit may stand without its start code. At most `MAX_UNITS` units.
    """
    at = start
    for _ in range(MAX_UNITS):
        following = data.find(b"\0\0\1", at)
        unit = data[at : following if following >= 0 else len(data)][:MAX_HEADER_BYTES]
        if len(unit.strip(b"\0")) > 2:
            yield unit
        if following < 0:
            return
        at = following + 3


def read_sequence(unit: bytes) -> SequenceFacts:
    """Facts of an SPS unit, header included.

    Raises:
        CodecError: The unit is damaged.
    """
    reader = _reader(unit)
    reader.bits(4)
    layers = reader.bits(3)
    reader.bits(1 + 88 + 8)  # profile and level
    if layers:
        present = [reader.bits(2) for _ in range(8)][:layers]
        for flags in present:
            reader.bits((88 if flags & 2 else 0) + (8 if flags & 1 else 0))
    reader.ue()
    idc = reader.ue()
    separate = idc == 3 and reader.flag()
    width, height = reader.ue(), reader.ue()
    if reader.flag():  # cropping
        for _ in range(4):
            reader.ue()
    bits = 8 + reader.ue(), 8 + reader.ue()
    reader.ue()
    for _ in range(3 * (layers + 1 if reader.flag() else 1)):  # picture buffers
        reader.ue()
    block = 3 + reader.ue()
    blocks = block, block + reader.ue()
    transform = 2 + reader.ue()
    transforms = transform, transform + reader.ue()
    if max(idc, *blocks, *transforms) > 7 or idc > 3:
        raise CodecError("Damaged HEVC header: impossible block sizes or chroma format.")
    reader.ue()
    reader.ue()
    offset = None
    if not (reader.flag() and reader.flag()):  # no scaling lists of its own
        reader.flag()
        offset = reader.flag()
    return SequenceFacts(
        None if separate else CHROMA_FORMATS[idc],
        width,
        height,
        *bits,
        (1 << blocks[0], 1 << blocks[1]),
        (1 << transforms[0], 1 << transforms[1]),
        offset,
    )


def read_picture(unit: bytes) -> PictureFacts:
    """Facts of a PPS unit, header included.

    Raises:
        CodecError: The unit is damaged.
    """
    reader = _reader(unit)
    number = reader.ue()
    reader.ue()
    reader.flag()
    output_flag, extra_bits, sign_hiding = reader.flag(), reader.bits(3), reader.flag()
    reader.flag()
    reader.ue()
    reader.ue()
    initial_qp = 26 + _signed(reader)
    reader.flag()
    transform_skip, qp_by_block = reader.flag(), reader.flag()
    if qp_by_block:
        reader.ue()
    offsets = _signed(reader), _signed(reader)
    reader.bits(3)
    bypass, tiles, wavefronts = reader.flag(), reader.flag(), reader.flag()
    return PictureFacts(
        number,
        output_flag,
        extra_bits,
        sign_hiding,
        initial_qp,
        transform_skip,
        qp_by_block,
        offsets,
        bypass,
        tiles,
        wavefronts,
    )


def slice_qp(
    unit: bytes, picture: PictureFacts, chroma: bool, sample_adaptive_offset: bool
) -> int | None:
    """The quantisation parameter of the first slice of an intra picture (7.3.6.1).

    Args:
        unit: A slice unit, header included.
        picture: Its picture parameter set.
        chroma: Whether there are chroma samples in the same plane structure.
        sample_adaptive_offset: Whether the sequence uses it.

    Returns:
        None where the unit is no first slice of an IDR picture, or uses another parameter set.

    Raises:
        CodecError: The unit is damaged.
    """
    kind = unit[0] >> 1 & 63
    reader = _reader(unit)
    if kind not in _IDR or not reader.flag():
        return None
    reader.flag()
    if reader.ue() != picture.number:
        return None
    reader.bits(picture.extra_bits)
    if reader.ue() != _INTRA_SLICE:
        return None
    reader.bits(int(picture.output_flag))
    if sample_adaptive_offset:
        reader.bits(1 + int(chroma))
    return picture.initial_qp + _signed(reader)


def _reader(unit: bytes) -> BitReader:
    """The bits of a unit behind its header, without emulation prevention."""
    return BitReader(unit[2:MAX_HEADER_BYTES].replace(b"\0\0\3", b"\0\0"))


def _signed(reader: BitReader) -> int:
    """se(v) of 9.2.2."""
    code = reader.ue()
    return (code + 1) // 2 if code % 2 else -(code // 2)
