"""Image codecs as frozen settings, quality metrics, rate control and picture files.

A new codec is one module and one line in `CODECS`.
"""

import dataclasses
from typing import Any

from imagecompression.avif import Avif
from imagecompression.bpg import Bpg
from imagecompression.codec import (
    MAX_PIXELS,
    Codec,
    CodecError,
    CodecUnavailableError,
    Extras,
    Image,
    Knob,
    check_image,
)
from imagecompression.errors import ImageCompressionError
from imagecompression.heic import Heic
from imagecompression.image_io import LoadedImage, load_image, read_image, write_image
from imagecompression.jpeg import Jpeg
from imagecompression.jpeg2000 import Jpeg2000
from imagecompression.jpegxl import JpegXl
from imagecompression.jpegxr import JpegXr
from imagecompression.kmeans import KMeans
from imagecompression.lossless import Lossless
from imagecompression.palette_quality import QualityEncoded, encode_to_quality
from imagecompression.rate import (
    Encoded,
    RateSearch,
    RatioTarget,
    SsimTarget,
    Target,
    encode_to_target,
)
from imagecompression.svd import Svd
from imagecompression.svd_search import best_svd
from imagecompression.webp import WebP

CODECS: dict[str, type[Codec]] = {
    codec.name: codec
    for codec in (
        Lossless,
        Jpeg,
        Jpeg2000,
        JpegXr,
        Bpg,
        Svd,
        KMeans,
        WebP,
        Avif,
        Heic,
        JpegXl,
    )
}
"""Every codec by name; the order is the order of class labels."""

__all__ = [
    "CODECS",
    "MAX_PIXELS",
    "Avif",
    "Bpg",
    "Codec",
    "CodecError",
    "CodecUnavailableError",
    "Encoded",
    "Extras",
    "Heic",
    "Image",
    "ImageCompressionError",
    "Jpeg",
    "Jpeg2000",
    "JpegXl",
    "JpegXr",
    "KMeans",
    "Knob",
    "LoadedImage",
    "Lossless",
    "QualityEncoded",
    "RateSearch",
    "RatioTarget",
    "SsimTarget",
    "Svd",
    "Target",
    "WebP",
    "best_svd",
    "check_image",
    "codec_from_params",
    "encode_to_quality",
    "encode_to_target",
    "load_image",
    "read_image",
    "write_image",
]


def codec_from_params(name: str, params: dict[str, Any]) -> Codec:
    """The codec value of a registry name and the dict that its `params` gave.

    >>> codec_from_params("jpeg", Jpeg(quality=40).params()).quality
    40

    Raises:
        CodecError: An unknown name or parameter, or a value out of range.
    """
    if name not in CODECS:
        raise CodecError(f"Codecs are {', '.join(CODECS)}. Received: {name!r}")
    fields = [field.name for field in dataclasses.fields(CODECS[name])]
    unknown = sorted(set(params) - set(fields))
    if unknown:
        raise CodecError(
            f"{name} has the parameters {', '.join(fields) or '(none)'}. "
            f"Received: {', '.join(unknown)}"
        )
    return CODECS[name](**params)
