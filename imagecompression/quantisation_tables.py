"""JPEG quantisation tables of several schools, as functions of one quality from 1 to 100.

All tables are in natural order (left to right, then down; not zigzag); two rows of eight make a
line below. A school has a luminance and a chrominance table; where one is given, it serves both.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

QuantisationTable = npt.NDArray[np.uint8]
"""`(8, 8)` `uint8`, natural order, 1 … 255: what a baseline file can hold."""

_Pair = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def _pair(luminance: str, chrominance: str | None = None) -> _Pair:
    """Two 8×8 tables from their printed numbers."""
    first, second = (
        np.array(text.split(), np.int64).reshape(8, 8)
        for text in (luminance, luminance if chrominance is None else chrominance)
    )
    return first, second


# Base tables, used as they are at quality 50. "standard" is Annex K of ISO/IEC 10918-1. All are in
# MozJPEG's set (cjpeg -quant-table 0 … 8, in this order; its jcparam.c names the sources):
# "ms_ssim" and "psnr_hvs" were tuned for these measures; "mozjpeg", its default, is N. Robidoux's
# table for ImageMagick; the others are from papers: Klein, Silverstein and Carney, Relevance of
# human vision to JPEG-DCT compression, 1992; Watson, Taylor and Borthwick, DCTune perceptual
# optimization of compressed dental X-rays, 1997; Ahumada, Watson and Peterson, A visual detection
# model for DCT coefficient quantization, 1993; Peterson, Ahumada and Watson, An improved detection
# model for DCT coefficient quantization, 1993.
_SCALED = {
    "standard": _pair(
        """
    16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55
    14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
    18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92
    49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99
""",
        """
    17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99
    24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
    99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99
    99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99
""",
    ),
    "flat": _pair("""
    16 16 16 16 16 16 16 16 16 16 16 16 16 16 16 16
    16 16 16 16 16 16 16 16 16 16 16 16 16 16 16 16
    16 16 16 16 16 16 16 16 16 16 16 16 16 16 16 16
    16 16 16 16 16 16 16 16 16 16 16 16 16 16 16 16
"""),
    "ms_ssim": _pair(
        """
    12 17 20 21 30 34 56 63 18 20 20 26 28 51 61 55
    19 20 21 26 33 58 69 55 26 26 26 30 46 87 86 66
    31 33 36 40 46 96 100 73 40 35 46 62 81 100 111 91
    46 66 76 86 102 121 120 101 68 90 90 96 113 102 105 103
""",
        """
    8 12 15 15 86 96 96 98 13 13 15 26 90 96 99 98
    12 15 18 96 99 99 99 99 17 16 90 96 99 99 99 99
    96 96 99 99 99 99 99 99 99 99 99 99 99 99 99 99
    99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99
""",
    ),
    "mozjpeg": _pair("""
    16 16 16 18 25 37 56 85 16 17 20 27 34 40 53 75
    16 20 24 31 43 62 91 135 18 27 31 40 53 74 106 156
    25 34 43 53 69 94 131 189 37 40 62 74 94 124 169 238
    56 53 91 106 131 169 226 311 85 75 135 156 189 238 311 418
"""),
    "psnr_hvs": _pair(
        """
    9 10 12 14 27 32 51 62 11 12 14 19 27 44 59 73
    12 14 18 25 42 59 79 78 17 18 25 42 61 92 87 92
    23 28 42 75 79 112 112 99 40 42 59 84 88 124 132 111
    42 64 78 95 105 126 125 99 70 75 100 102 116 100 107 98
""",
        """
    9 10 17 19 62 89 91 97 12 13 18 29 84 91 88 98
    14 19 29 93 95 95 98 97 20 26 84 88 95 95 98 94
    26 86 91 93 97 99 98 99 99 100 98 99 99 99 99 99
    99 99 99 99 99 99 99 99 97 97 99 99 99 99 97 99
""",
    ),
    "klein_silverstein_carney": _pair("""
    10 12 14 19 26 38 57 86 12 18 21 28 35 41 54 76
    14 21 25 32 44 63 92 136 19 28 32 41 54 75 107 157
    26 35 44 54 70 95 132 190 38 41 63 75 95 125 170 239
    57 54 92 107 132 170 227 312 86 76 136 157 190 239 312 419
"""),
    "watson_taylor_borthwick": _pair("""
    7 8 10 14 23 44 95 241 8 8 11 15 25 47 102 255
    10 11 13 19 31 58 127 255 14 15 19 27 44 83 181 255
    23 25 31 44 72 136 255 255 44 47 58 83 136 255 255 255
    95 102 127 181 255 255 255 255 241 255 255 255 255 255 255 255
"""),
    "ahumada_watson_peterson": _pair("""
    15 11 11 12 15 19 25 32 11 13 10 10 12 15 19 24
    11 10 14 14 16 18 22 27 12 10 14 18 21 24 28 33
    15 12 16 21 26 31 36 42 19 15 18 24 31 38 45 53
    25 19 22 28 36 45 55 65 32 24 27 33 42 53 65 77
"""),
    "peterson_ahumada_watson": _pair("""
    14 10 11 14 19 25 34 45 10 11 11 12 15 20 26 33
    11 11 15 18 21 25 31 38 14 12 18 24 28 33 39 47
    19 15 21 28 36 43 51 59 25 20 25 33 43 54 64 74
    34 26 31 39 51 64 77 91 45 33 38 47 59 74 91 108
"""),
}

# Adobe Photoshop's "Save As" steps 0 … 12, as public source code lists them (all 13 in one place;
# 0, 1, 2, 3, 5 and 12 also elsewhere, 0 in NVIDIA's CUDA sample dct8x8). Photoshop halves the
# chroma's sides up to step 6; step 7, the first at full resolution, has coarser tables than 6.
_PHOTOSHOP = (
    # 0
    _pair(
        """
    32 33 51 81 66 39 34 17 33 36 48 47 28 23 12 12
    51 48 47 28 23 12 12 12 81 47 28 23 12 12 12 12
    66 28 23 12 12 12 12 12 39 23 12 12 12 12 12 12
    34 12 12 12 12 12 12 12 17 12 12 12 12 12 12 12
""",
        """
    34 51 52 34 20 20 17 17 51 38 24 14 14 12 12 12
    52 24 14 14 12 12 12 12 34 14 14 12 12 12 12 12
    20 14 12 12 12 12 12 12 20 12 12 12 12 12 12 12
    17 12 12 12 12 12 12 12 17 12 12 12 12 12 12 12
""",
    ),
    # 1
    _pair(
        """
    27 26 41 65 66 39 34 17 26 29 38 47 28 23 12 12
    41 38 47 28 23 12 12 12 65 47 28 23 12 12 12 12
    66 28 23 12 12 12 12 12 39 23 12 12 12 12 12 12
    34 12 12 12 12 12 12 12 17 12 12 12 12 12 12 12
""",
        """
    29 41 52 34 20 20 17 17 41 38 24 14 14 12 12 12
    52 24 14 14 12 12 12 12 34 14 14 12 12 12 12 12
    20 14 12 12 12 12 12 12 20 12 12 12 12 12 12 12
    17 12 12 12 12 12 12 12 17 12 12 12 12 12 12 12
""",
    ),
    # 2
    _pair(
        """
    20 17 26 41 51 39 34 17 17 18 24 39 28 23 12 12
    26 24 32 28 23 12 12 12 41 39 28 23 12 12 12 12
    51 28 23 12 12 12 12 12 39 23 12 12 12 12 12 12
    34 12 12 12 12 12 12 12 17 12 12 12 12 12 12 12
""",
        """
    21 26 33 34 20 20 17 17 26 29 24 14 14 12 12 12
    33 24 14 14 12 12 12 12 34 14 14 12 12 12 12 12
    20 14 12 12 12 12 12 12 20 12 12 12 12 12 12 12
    17 12 12 12 12 12 12 12 17 12 12 12 12 12 12 12
""",
    ),
    # 3
    _pair(
        """
    18 14 22 35 44 39 34 17 14 16 21 34 28 23 12 12
    22 21 27 28 23 12 12 12 35 34 28 23 12 12 12 12
    44 28 23 12 12 12 12 12 39 23 12 12 12 12 12 12
    34 12 12 12 12 12 12 12 17 12 12 12 12 12 12 12
""",
        """
    20 22 29 34 20 20 17 17 22 25 24 14 14 12 12 12
    29 24 14 14 12 12 12 12 34 14 14 12 12 12 12 12
    20 14 12 12 12 12 12 12 20 12 12 12 12 12 12 12
    17 12 12 12 12 12 12 12 17 12 12 12 12 12 12 12
""",
    ),
    # 4
    _pair(
        """
    16 11 17 27 34 39 34 17 11 12 16 26 28 23 12 12
    17 16 21 28 23 12 12 12 27 26 28 23 12 12 12 12
    34 28 23 12 12 12 12 12 39 23 12 12 12 12 12 12
    34 12 12 12 12 12 12 12 17 12 12 12 12 12 12 12
""",
        """
    17 17 22 34 20 20 17 17 17 19 22 14 14 12 12 12
    22 22 14 14 12 12 12 12 34 14 14 12 12 12 12 12
    20 14 12 12 12 12 12 12 20 12 12 12 12 12 12 12
    17 12 12 12 12 12 12 12 17 12 12 12 12 12 12 12
""",
    ),
    # 5
    _pair(
        """
    12 8 13 21 26 32 34 17 8 9 12 20 27 23 12 12
    13 12 16 26 23 12 12 12 21 20 26 23 12 12 12 12
    26 27 23 12 12 12 12 12 32 23 12 12 12 12 12 12
    34 12 12 12 12 12 12 12 17 12 12 12 12 12 12 12
""",
        """
    13 13 17 27 20 20 17 17 13 14 17 14 14 12 12 12
    17 17 14 14 12 12 12 12 27 14 14 12 12 12 12 12
    20 14 12 12 12 12 12 12 20 12 12 12 12 12 12 12
    17 12 12 12 12 12 12 12 17 12 12 12 12 12 12 12
""",
    ),
    # 6
    _pair(
        """
    8 6 9 14 17 21 28 17 6 6 8 13 18 23 12 12
    9 8 11 17 23 12 12 12 14 13 17 23 12 12 12 12
    17 18 23 12 12 12 12 12 21 23 12 12 12 12 12 12
    28 12 12 12 12 12 12 12 17 12 12 12 12 12 12 12
""",
        """
    9 9 11 18 20 20 17 17 9 10 11 14 14 12 12 12
    11 11 14 14 12 12 12 12 18 14 14 12 12 12 12 12
    20 14 12 12 12 12 12 12 20 12 12 12 12 12 12 12
    17 12 12 12 12 12 12 12 17 12 12 12 12 12 12 12
""",
    ),
    # 7
    _pair(
        """
    10 7 11 18 22 27 34 17 7 8 10 17 23 23 12 12
    11 10 14 22 23 12 12 12 18 17 22 23 12 12 12 12
    22 23 23 12 12 12 12 12 27 23 12 12 12 12 12 12
    34 12 12 12 12 12 12 12 17 12 12 12 12 12 12 12
""",
        """
    11 14 31 34 20 20 17 17 14 19 24 14 14 12 12 12
    31 24 14 14 12 12 12 12 34 14 14 12 12 12 12 12
    20 14 12 12 12 12 12 12 20 12 12 12 12 12 12 12
    17 12 12 12 12 12 12 12 17 12 12 12 12 12 12 12
""",
    ),
    # 8
    _pair(
        """
    6 4 7 11 14 17 22 17 4 5 6 10 14 19 12 12
    7 6 8 14 19 12 12 12 11 10 14 19 12 12 12 12
    14 14 19 12 12 12 12 12 17 19 12 12 12 12 12 12
    22 12 12 12 12 12 12 12 17 12 12 12 12 12 12 12
""",
        """
    7 9 19 34 20 20 17 17 9 12 19 14 14 12 12 12
    19 19 14 14 12 12 12 12 34 14 14 12 12 12 12 12
    20 14 12 12 12 12 12 12 20 12 12 12 12 12 12 12
    17 12 12 12 12 12 12 12 17 12 12 12 12 12 12 12
""",
    ),
    # 9
    _pair(
        """
    4 3 4 7 9 11 14 17 3 3 4 7 9 12 12 12
    4 4 5 9 12 12 12 12 7 7 9 12 12 12 12 12
    9 9 12 12 12 12 12 12 11 12 12 12 12 12 12 12
    14 12 12 12 12 12 12 12 17 12 12 12 12 12 12 12
""",
        """
    4 6 12 22 20 20 17 17 6 8 12 14 14 12 12 12
    12 12 14 14 12 12 12 12 22 14 14 12 12 12 12 12
    20 14 12 12 12 12 12 12 20 12 12 12 12 12 12 12
    17 12 12 12 12 12 12 12 17 12 12 12 12 12 12 12
""",
    ),
    # 10
    _pair(
        """
    2 2 3 4 5 6 8 11 2 2 2 4 5 7 9 11
    3 2 3 5 7 9 11 12 4 4 5 7 9 11 12 12
    5 5 7 9 11 12 12 12 6 7 9 11 12 12 12 12
    8 9 11 12 12 12 12 12 11 11 12 12 12 12 12 12
""",
        """
    3 3 7 13 15 15 15 15 3 4 7 13 14 12 12 12
    7 7 13 14 12 12 12 12 13 13 14 12 12 12 12 12
    15 14 12 12 12 12 12 12 15 12 12 12 12 12 12 12
    15 12 12 12 12 12 12 12 15 12 12 12 12 12 12 12
""",
    ),
    # 11
    _pair(
        """
    1 1 1 2 3 3 4 5 1 1 1 2 3 4 4 6
    1 1 2 3 4 4 5 7 2 2 3 4 4 5 7 8
    3 3 4 4 5 7 8 8 3 4 4 5 7 8 8 8
    4 4 5 7 8 8 8 8 5 6 7 8 8 8 8 8
""",
        """
    1 2 4 7 8 8 8 8 2 2 4 7 8 8 8 8
    4 4 7 8 8 8 8 8 7 7 8 8 8 8 8 8
    8 8 8 8 8 8 8 8 8 8 8 8 8 8 8 8
    8 8 8 8 8 8 8 8 8 8 8 8 8 8 8 8
""",
    ),
    # 12
    _pair(
        """
    1 1 1 1 1 1 1 2 1 1 1 1 1 1 1 2
    1 1 1 1 1 1 2 2 1 1 1 1 1 2 2 3
    1 1 1 1 2 2 3 3 1 1 1 2 2 3 3 3
    1 1 2 2 3 3 3 3 2 2 2 3 3 3 3 3
""",
        """
    1 1 1 2 3 3 3 3 1 1 1 2 3 3 3 3
    1 1 2 3 3 3 3 3 2 2 3 3 3 3 3 3
    3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3
    3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3
""",
    ),
)

# Tables of camera firmware with the quality whose "standard" luminance table has the nearest sum.
# Read from the EXIF thumbnails, which cameras write themselves, of files of a PowerShot G1 X
# Mark II, an EX-100, a DMC-L10 and a DSC-RX1R among the test pictures of piexif 1.1.3 (PyPI).
# Casio keeps the DC step at 1; Panasonic uses rounded multiples of 3.8; all four use 4:2:2.
_CAMERAS = {
    "canon": (
        96,
        _pair(
            """
    2 2 2 2 2 3 5 5 2 2 2 2 2 5 5 5
    2 2 2 2 3 5 5 5 2 2 2 2 3 6 6 5
    2 2 5 6 6 9 9 6 2 3 5 5 6 8 9 8
    3 5 6 6 8 9 9 8 8 8 8 8 8 8 8 8
""",
            """
    2 2 3 6 9 17 17 17 2 2 3 6 12 17 17 17
    3 3 5 6 17 17 17 17 6 6 6 8 17 17 17 17
    9 12 17 17 17 17 17 17 17 17 17 17 17 17 17 17
    17 17 17 17 17 17 17 17 17 17 17 17 17 17 17 17
""",
        ),
    ),
    "casio": (
        86,
        _pair(
            """
    1 3 3 4 7 11 15 17 3 3 4 5 7 17 17 16
    4 3 5 7 11 16 20 16 4 5 6 8 15 25 23 18
    5 6 11 16 19 31 29 22 7 10 16 18 23 30 32 26
    14 18 22 25 29 35 34 29 21 26 27 28 32 29 29 28
""",
            """
    1 5 6 12 28 28 28 28 5 5 7 19 28 28 28 28
    6 7 16 28 28 28 28 28 13 19 28 28 28 28 28 28
    28 28 28 28 28 28 28 28 28 28 28 28 28 28 28 28
    28 28 28 28 28 28 28 28 28 28 28 28 28 28 28 28
""",
        ),
    ),
    "panasonic": (
        84,
        _pair(
            """
    4 4 4 4 8 11 15 19 4 4 4 8 8 19 19 23
    4 4 4 8 11 19 23 19 4 4 8 8 15 26 26 19
    8 8 11 19 23 34 34 26 8 11 19 23 26 34 38 30
    15 23 26 26 34 38 38 34 23 30 30 30 38 34 34 34
""",
            """
    4 8 8 15 34 34 34 34 8 8 8 23 34 34 34 34
    8 8 19 34 34 34 34 34 15 23 34 34 34 34 34 34
    34 34 34 34 34 34 34 34 34 34 34 34 34 34 34 34
    34 34 34 34 34 34 34 34 34 34 34 34 34 34 34 34
""",
        ),
    ),
    "sony": (
        91,
        _pair(
            """
    2 2 2 4 4 8 10 14 2 2 4 4 6 8 10 14
    2 4 4 4 6 8 12 16 4 4 4 6 6 10 12 16
    4 6 6 6 8 10 14 18 8 8 8 10 10 14 16 20
    10 10 12 12 14 16 20 24 14 14 16 16 18 20 24 28
""",
            """
    4 4 4 6 12 24 30 30 4 4 4 6 12 24 30 30
    4 4 4 8 14 26 30 30 6 6 8 10 18 30 30 30
    12 12 14 18 28 30 30 30 24 24 26 30 30 30 30 30
    30 30 30 30 30 30 30 30 30 30 30 30 30 30 30 30
""",
        ),
    ),
}

_PHOTOSHOP_ORDER = (0, 1, 2, 3, 4, 5, 7, 6, 8, 9, 10, 11, 12)
"""From coarse to fine, so that size rises with quality."""
_PHOTOSHOP_LOWEST = 40
_PHOTOSHOP_SPACING = 5

SCHOOLS = (*_SCALED, "photoshop", *_CAMERAS)
"""Names that `quantisation_tables` knows."""


def photoshop_step(quality: int) -> int | None:
    """The step whose tables school "photoshop" has at `quality`; None where it interpolates."""
    place, past = divmod(quality - _PHOTOSHOP_LOWEST, _PHOTOSHOP_SPACING)
    return _PHOTOSHOP_ORDER[place] if past == 0 and place >= 0 else None


def camera_quality(school: str) -> int | None:
    """The quality at which a camera's school has the camera's own tables; None for others."""
    return _CAMERAS[school][0] if school in _CAMERAS else None


def photoshop_quality(step: int) -> int:
    """The quality at which school "photoshop" has Photoshop's tables of `step` (0 … 12)."""
    return _PHOTOSHOP_LOWEST + _PHOTOSHOP_SPACING * _PHOTOSHOP_ORDER.index(step)


def unclipped_tables(school: str, quality: int) -> _Pair:
    """The tables of `quantisation_tables` before they are clipped, `(8, 8)` `int64`, 0 upwards.

    Files with 16-bit tables hold them clipped to 1 … 32767, as libjpeg does it.

    Raises:
        KeyError: An unknown school.
    """
    if school == "photoshop":
        return _photoshop(quality)
    if school in _CAMERAS:
        own_quality, base = _CAMERAS[school]
        return _scaled(base, _percent(quality), _percent(own_quality))
    return _scaled(_SCALED[school], _percent(quality), 100)


def quantisation_tables(school: str, quality: int) -> tuple[QuantisationTable, QuantisationTable]:
    """Luminance and chrominance table of a school, clipped to 1 … 255.

    - Base tables are scaled as libjpeg does: by 50 / quality below 50, by 2 − quality / 50 from
      there on; at 100 all entries are 1.
    - "photoshop" has step 0 at quality 40 and the next finer one every 5 (`photoshop_quality`); in
      between it is interpolated, below 40 step 0 is scaled by 40 / quality. Photoshop itself writes
      neither: they are there so that any file size can be met.
    - A camera's tables are its own at one quality (canon 96, casio 86, panasonic 84, sony 91),
      elsewhere scaled by libjpeg's rule from there.

    Args:
        school: One of `SCHOOLS`.
        quality: 1 … 100, higher is finer.

    Raises:
        KeyError: An unknown school.
    """
    luminance, chrominance = (
        np.clip(table, 1, 255).astype(np.uint8) for table in unclipped_tables(school, quality)
    )
    return luminance, chrominance


def _percent(quality: int) -> int:
    """libjpeg's scale of the base tables in percent (jpeg_quality_scaling)."""
    return 5000 // quality if quality < 50 else 200 - 2 * quality


def _scaled(pair: _Pair, numerator: int, denominator: int) -> _Pair:
    """Both tables times a fraction, rounded to nearest as libjpeg does."""
    luminance, chrominance = pair
    half = denominator // 2
    return (
        (luminance * numerator + half) // denominator,
        (chrominance * numerator + half) // denominator,
    )


def _photoshop(quality: int) -> _Pair:
    """Photoshop's tables, interpolated between its steps."""
    if quality < _PHOTOSHOP_LOWEST:
        return _scaled(_PHOTOSHOP[_PHOTOSHOP_ORDER[0]], _PHOTOSHOP_LOWEST, quality)
    place, past = divmod(quality - _PHOTOSHOP_LOWEST, _PHOTOSHOP_SPACING)
    coarse = _PHOTOSHOP[_PHOTOSHOP_ORDER[place]]
    if past == 0:
        return coarse
    fine = _PHOTOSHOP[_PHOTOSHOP_ORDER[place + 1]]
    weighted = (
        a * (_PHOTOSHOP_SPACING - past) + b * past for a, b in zip(coarse, fine, strict=True)
    )
    luminance, chrominance = (
        (table * 2 + _PHOTOSHOP_SPACING) // (2 * _PHOTOSHOP_SPACING) for table in weighted
    )
    return luminance, chrominance
