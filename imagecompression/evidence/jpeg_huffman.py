"""The typical Huffman tables of ITU-T T.81, Annex K.3, which encoders use unless they optimise."""

from __future__ import annotations

from imagecompression.evidence.jpeg_stream import HuffmanTable

_DC_SYMBOLS = bytes(range(12))
_AC_LUMINANCE_SYMBOLS = bytes.fromhex(
    "01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a2526"
    "2728292a3435363738393a434445464748494a535455565758595a636465666768696a737475767778797a838485"
    "868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6"
    "d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa"
)
_AC_CHROMINANCE_SYMBOLS = bytes.fromhex(
    "0001020311040521310612415107617113223281081442 91a1b1c109233352f0156272d10a162434e125f1171819"
    "1a262728292a35363738393a434445464748494a535455565758595a636465666768696a737475767778797a8283"
    "8485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4"
    "d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa"
)
STANDARD = {
    bytes.fromhex("00010501010101010100000000000000") + _DC_SYMBOLS: (0, "K.3, DC luminance"),
    bytes.fromhex("00030101010101010101010000000000") + _DC_SYMBOLS: (0, "K.4, DC chrominance"),
    bytes.fromhex("0002010303020403050504040000017d") + _AC_LUMINANCE_SYMBOLS: (
        1,
        "K.5, AC luminance",
    ),
    bytes.fromhex("00020102040403040705040400010277") + _AC_CHROMINANCE_SYMBOLS: (
        1,
        "K.6, AC chrominance",
    ),
}
"""Class and name by the coded table."""


def standard_name(table: HuffmanTable) -> str | None:
    """The name in Annex K of a table, or None where it is none of the four."""
    kind, name = STANDARD.get(table.code, (None, ""))
    return name if kind == table.kind else None
