"""What a BPG file itself shows (BPG specification 0.9.8; H.265 for its picture data)."""

from __future__ import annotations

from imagecompression.bpg_container import (
    CHROMA_FORMAT_IDC,
    EXTENSION_TAGS,
    MPEG2_SITED,
    ByteReader,
)
from imagecompression.codec import CodecError
from imagecompression.evidence.encoder_text import encoder_texts
from imagecompression.evidence.hevc_header import (
    CHROMA_FORMATS,
    MAX_HEADER_BYTES,
    PictureFacts,
    read_picture,
    slice_qp,
    units,
)
from imagecompression.evidence.metadata import read_exif, read_icc, read_xmp
from imagecompression.evidence.record import DamageError, Record
from imagecompression.hevc import NAL_PPS, SLICES, SequenceHeader, nal_layer, nal_type
from imagecompression.ycbcr import ColorSpace

MAX_EXTENSIONS = 100
_ALPHA = ("none", "W plane", "straight", "premultiplied")
_PREFIX_SEI, _SUFFIX_SEI = 39, 40


def read(data: bytes, record: Record) -> None:
    """Add all findings of a BPG file.

    Raises:
        DamageError: Where it ends early.
    """
    reader = ByteReader(data)
    try:
        reader.take(4)
        first, second = reader.take(2)
        pixel_format, space = first >> 5, second >> 4
        chroma: int | None = None
        if pixel_format < len(CHROMA_FORMAT_IDC):
            chroma = CHROMA_FORMAT_IDC[pixel_format]
            sited = " as in video" if pixel_format in MPEG2_SITED else ""
            record.observed("subsampling", CHROMA_FORMATS[chroma] + sited)
        else:
            record.damaged(4, f"the unknown pixel format {pixel_format}")
        record.codec = "bpg"
        record.observed("precision", 8 + (first & 15), "bits a sample")
        known = space < len(ColorSpace)
        record.observed("colour_space", ColorSpace(space).name if known else str(space))
        alpha = (first >> 3) & 2 | (second >> 2) & 1
        record.observed("alpha", _ALPHA[alpha])
        record.observed("limited_range", bool(second & 2))
        record.observed("animated", bool(second & 1))
        record.observed("size", {"width": reader.ue7(), "height": reader.ue7()})
        data_length = reader.ue7()
        record.observed("picture_bytes", data_length, "0 means up to the end of the file")
        if second & 8:
            block = reader.take(reader.ue7())
            _read_extensions(block, len(data) - len(reader.rest()) - len(block), record)
        if data_length > len(reader.rest()):
            record.damaged(len(data), f"{data_length - len(reader.rest())} picture bytes missing")
        if alpha:
            reader.take(reader.ue7())
        coded = reader.take(reader.ue7())
        header = SequenceHeader.from_bpg(coded[:MAX_HEADER_BYTES])
        picture = reader.rest()
    except CodecError as error:
        raise DamageError(len(data) - len(reader.rest()), str(error)) from error
    smallest, transform = header.log2_min_cb, header.log2_min_tb
    record.observed(
        "sequence",
        {
            "coding_blocks": [1 << smallest, 1 << smallest + header.log2_diff_cb],
            "transforms": [1 << transform, 1 << transform + header.log2_diff_tb],
            "transform_depth": header.depth,
            "sample_adaptive_offset": header.sao,
            "pcm": header.pcm is not None,
            "strong_smoothing": header.strong_smoothing,
            "range_extension": header.range_flags is not None,
        },
        "sides in pixels, smallest and largest",
    )
    record.derived("coding_tree_block", 1 << smallest + header.log2_diff_cb, "side in pixels")
    _read_units(picture, len(data) - len(picture), bool(chroma), header.sao, record)
    texts = encoder_texts(picture)
    if texts:
        record.observed("encoder_texts", texts)
    else:
        record.not_available("encoder_texts", "no encoder names itself in the file")


def _read_extensions(block: bytes, offset: int, record: Record) -> None:
    """The extension block: EXIF, ICC, XMP, thumbnail, animation."""
    names = {tag: name for name, tag in EXTENSION_TAGS.items()} | {4: "thumbnail", 5: "animation"}
    reader = ByteReader(block)
    found: list[dict[str, object]] = []
    record.observed("extensions", found)
    while reader.rest() and len(found) < MAX_EXTENSIONS:
        tag = reader.ue7()
        content = reader.take(reader.ue7())
        name = names.get(tag, str(tag))
        found.append({"name": name, "bytes": len(content)})
        if name == "exif":
            place = offset + len(block) - len(reader.rest()) - len(content)
            read_exif(record, content, place)
        elif name == "icc":
            read_icc(record, content)
        elif name == "xmp":
            read_xmp(record, content)


def _read_units(
    picture: bytes, offset: int, chroma: bool, sample_adaptive_offset: bool, record: Record
) -> None:
    """Parameter set, quantiser and unit types of the colour layer."""
    kinds: dict[str, int] = {}
    parameters: PictureFacts | None = None
    for unit in units(picture):
        kind = nal_type(unit)
        label = {NAL_PPS: "PPS", _PREFIX_SEI: "SEI", _SUFFIX_SEI: "SEI"}.get(kind, f"type {kind}")
        label = "slice" if kind in SLICES else label
        kinds[label] = kinds.get(label, 0) + 1
        if nal_layer(unit):
            continue
        try:
            if kind == NAL_PPS and parameters is None:
                parameters = read_picture(unit)
                record.observed("picture_parameters", parameters.to_json())
            elif kind in SLICES and parameters is not None:
                qp = slice_qp(unit, parameters, chroma, sample_adaptive_offset)
                if qp is not None:
                    record.derived("slice_qp", qp, "of the first slice; blocks may differ")
        except CodecError as error:
            record.damaged(offset, f"a unit of type {kind}: {error}")
    record.observed("units", kinds)
    if not any(kind == "slice" for kind in kinds):
        record.damaged(offset, "the picture data hold no slice")
    if parameters is not None and parameters.bypass:
        record.not_available("lossless", "blocks may be lossless; which are is inside the data")
