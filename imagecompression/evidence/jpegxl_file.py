"""What a JPEG XL file itself shows (ISO/IEC 18181-1 and -2)."""

from __future__ import annotations

from imagecompression.codec import CodecError
from imagecompression.evidence.box import read_boxes
from imagecompression.evidence.metadata import read_exif, read_xmp
from imagecompression.evidence.record import DamageError, Record, unpack
from imagecompression.jpegxl import CONTAINER, Header


def read(data: bytes, record: Record) -> None:
    """Add all findings of a JPEG XL codestream or container.

    Raises:
        DamageError: Where it ends early.
    """
    rebuilds_jpeg = False
    if data[:12] == CONTAINER:
        boxes = read_boxes(data, 0, len(data), record)
        record.observed("boxes", [box.to_json() for box in boxes])
        rebuilds_jpeg = any(box.kind == b"jbrd" for box in boxes)
        for box in boxes:
            if box.kind == b"Exif":
                (skipped,) = unpack(">I", data, box.start, "the Exif box", box.end)
                start = box.start + 4 + skipped
                read_exif(record, data[start : box.end], start)
            elif box.kind == b"xml ":
                read_xmp(record, data[box.start : box.end])
    try:
        header = Header(data)
    except CodecError as error:
        raise DamageError(len(data), str(error)) from error
    record.observed("size", {"width": header.width, "height": header.height})
    record.observed("precision", header.bits, "bits a sample")
    record.observed("float", header.is_float)
    record.observed("extra_channels", header.extra_channels)
    if rebuilds_jpeg:
        record.codec = "jpeg"
        record.derived("coding", "jpeg", "a JPEG file, recompressed so that it can be rebuilt")
    elif header.xyb_encoded is None:
        record.not_available("coding", "the header's colour fields lie behind extra channels")
    elif header.xyb_encoded:
        record.codec = "jpegxl"
        record.derived("coding", "jpegxl", "XYB colours, which no lossless file has")
    else:
        record.not_available("coding", "the file's own colours: lossless, or a recompressed JPEG")
