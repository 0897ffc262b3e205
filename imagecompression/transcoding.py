"""Encoding a picture file to a codec's file and back: what the command line does for one file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagecompression import CODECS, codec_from_params
from imagecompression.atomic_file import write_bytes_atomic
from imagecompression.codec import Codec, CodecError, Extras
from imagecompression.image_io import (
    ImageReadError,
    LoadedImage,
    decode_extras,
    decode_image,
    read_bytes,
    suffix_codec,
    write_image,
)
from imagecompression.kmeans import KMeans
from imagecompression.lossless import Lossless
from imagecompression.metrics import measure
from imagecompression.palette_quality import encode_to_quality
from imagecompression.rate import RateSearch, RatioTarget, SsimTarget, Target


@dataclass(frozen=True)
class CompressedFile:
    """What `compress_file` wrote; the measures compare the decoded file with the input.

    Attributes:
        file: The file written.
        codec: Registry name.
        params: The resolved parameters.
        bytes: File size.
        ratio: Uncompressed bytes ÷ `bytes`.
        bits_per_pixel: Bits for each pixel.
        psnr_db: On RGB samples; infinite when lossless.
        ssim: On luma.
        ms_ssim: On luma; NaN for a side under 176 pixels.
        encodes: Encodes made.
        reached: Whether the target was met; True when parameters were given.
        reason: Why it was not met; empty when it was.
        notes: Conversions made on reading the input, and what of its extras was kept or not.
    """

    file: str
    codec: str
    params: dict[str, Any]
    bytes: int
    ratio: float
    bits_per_pixel: float
    psnr_db: float
    ssim: float
    ms_ssim: float
    encodes: int
    reached: bool
    reason: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class CompressedPicture:
    """What `compress_picture` made.

    Attributes:
        data: The encoded file.
        codec: The setting that made it.
        measures: See `imagecompression.metrics.measure`: the decoded file against the input.
        encodes: See `CompressedFile`, as for `reached`, `reason` and `notes`.
    """

    data: bytes = field(repr=False)
    codec: Codec
    measures: dict[str, float]
    encodes: int
    reached: bool
    reason: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class DecompressedFile:
    """What `decompress_file` wrote: size in pixels, channels, the input's format and notes."""

    file: str
    format: str
    width: int
    height: int
    channels: int
    notes: tuple[str, ...]


def check_output(source: Path, out: Path) -> None:
    """Raise `CodecError`, before any work, where `out` cannot be written or is the input."""
    if out.is_dir():
        raise CodecError(f"{out}: this is a folder. Give the name of the file to write.")
    if not out.parent.is_dir():
        raise CodecError(f"{out}: there is no folder {out.parent}. Make it first.")
    if out.exists() and source.exists() and out.samefile(source):
        raise CodecError(f"{out}: input and output are the same file; the input is never changed.")


def codec_for_file(path: Path, name: str | None) -> type[Codec]:
    """The codec called `name`, or the one whose suffix `path` has.

    Raises:
        CodecError: An unknown name or suffix, or a suffix that belongs to another codec.
    """
    suffix = path.suffix.lower()
    if name is None:
        by_suffix = suffix_codec(path)
        if by_suffix is None:
            known = {s for codec in CODECS.values() for s in (codec.suffix, *codec.other_suffixes)}
            raise CodecError(
                f"{path}: no codec writes {suffix or 'files without a suffix'}. "
                f"Suffixes: {', '.join(sorted(known))}; or name the codec with --codec."
            )
        return CODECS[by_suffix]
    if name not in CODECS:
        raise CodecError(f"Codecs are {', '.join(CODECS)}. Received: {name!r}")
    own = (CODECS[name].suffix, *CODECS[name].other_suffixes)
    if suffix not in own:
        raise CodecError(f"{path}: {name} writes {' or '.join(own)} files. Received: {suffix!r}")
    return CODECS[name]


def parse_settings(codec: type[Codec], settings: list[str]) -> dict[str, Any]:
    """Parameters from ``name=value`` texts, each in the type of the codec's default.

    Raises:
        CodecError: Not of that form, an unknown name, or a value of another type.
    """
    params = codec().params()
    given: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in params:
            raise CodecError(
                f"{codec.name} takes name=value with the names {', '.join(params) or '(none)'}. "
                f"Received: {setting!r}"
            )
        given[name] = _parse_like(params[name], name, text)
    return params | given


def compress_file(
    source: Path,
    out: Path,
    codec: str | None,
    ratio: float | None,
    ssim_target: float | None,
    settings: list[str],
    quality: str | None = None,
) -> CompressedFile:
    """Encode `source` into `out`.

    Args:
        source: A file that `load_image` reads; it is not changed.
        out: File to write, under a temporary name first.
        codec: Registry name; None takes it from `out`'s suffix.
        ratio: Compression ratio to reach, or None.
        ssim_target: SSIM to reach, or None.
        settings: Parameters as ``name=value``; a target overrides the knob among them.
        quality: For a palette, ``"min-max"`` as pngquant takes it: the fewest colours of at least
            the maximum quality; nothing is written where 256 colours miss the minimum.

    Raises:
        CodecError: Input, output or settings are not usable; nothing is written then.
    """
    if quality is not None and codec is None and out.suffix.lower() == KMeans.suffix:
        codec = KMeans.name  # the suffix alone would stand for PNG without loss
    kind = codec_for_file(out, codec)
    chosen = codec_from_params(kind.name, parse_settings(kind, settings))
    targets = [target for target in (ratio, ssim_target, quality) if target is not None]
    if len(targets) > 1:
        raise CodecError(
            "Give one of --ratio, --ssim and --quality: one knob cannot meet two targets."
        )
    qualities = None if quality is None else _quality_range(quality, kind)
    if not targets and not settings and kind.knob is not None:
        raise CodecError(
            f"Say how strongly to compress: --ratio R, --ssim S or --set {kind.knob.field}=VALUE."
        )
    check_output(source, out)
    target: Target | None = None
    if ratio is not None:
        target = RatioTarget(ratio)
    elif ssim_target is not None:
        target = SsimTarget(ssim_target)
    data = read_bytes(source)
    loaded = decode_image(data, os.fspath(source))
    if qualities is not None:
        assert isinstance(chosen, KMeans)
        done = _compress_to_quality(data, loaded, chosen, qualities, out)
    else:
        done = compress_picture(data, loaded, chosen, target)
    write_bytes_atomic(out, done.data)
    return CompressedFile(
        file=str(out),
        codec=done.codec.name,
        params=done.codec.params(),
        bytes=len(done.data),
        **done.measures,
        encodes=done.encodes,
        reached=done.reached,
        reason=done.reason,
        notes=done.notes,
    )


def compress_picture(
    source: bytes, loaded: LoadedImage, codec: Codec, target: Target | None = None
) -> CompressedPicture:
    """Encode a picture in memory, with what the codec's files keep of its alpha and metadata.

    Args:
        source: The bytes of its file.
        loaded: `decode_image` of these.
        codec: The setting.
        target: What `codec` is to be turned to; as it is if None.

    Raises:
        CodecError: The codec cannot encode this picture.
        CodecUnavailableError: The codec's library is missing.
    """
    extras, notes = _extras(source, loaded, codec.keeps)
    if target is None:
        data, encodes, reached, reason = codec.encode_with(loaded.pixels, extras), 1, True, ""
    else:
        found = RateSearch(loaded.pixels, codec, extras).to(target)
        data, codec, encodes = found.data, found.codec, found.encodes
        reached, reason = found.reached, found.reason
    measures = measure(loaded.pixels, codec.decode(data), len(data))
    return CompressedPicture(data, codec, measures, encodes, reached, reason, notes)


def decompress_file(source: Path, out: Path) -> DecompressedFile:
    """Decode `source`, a file of any codec, into the TIFF or PNG file `out`.

    Raises:
        CodecError: `source` cannot be read or `out` has another suffix.
    """
    check_output(source, out)
    data = read_bytes(source)
    loaded = decode_image(data, os.fspath(source))
    keeps = Lossless.keeps if out.suffix.lower() == ".png" else Lossless.keeps - {"exif"}
    extras, notes = _extras(data, loaded, keeps)
    write_image(out, loaded.pixels, extras)
    height, width = loaded.pixels.shape[:2]
    channels = 1 if loaded.pixels.ndim == 2 else 3
    return DecompressedFile(str(out), loaded.format, width, height, channels, notes)


def _compress_to_quality(
    source: bytes, loaded: LoadedImage, codec: KMeans, qualities: tuple[int, int], out: Path
) -> CompressedPicture:
    """The palette of fewest colours for a range of qualities; `out` is for the error alone."""
    _, notes = _extras(source, loaded, codec.keeps)
    done = encode_to_quality(loaded.pixels, codec, *qualities)
    if not done.reached:
        raise CodecError(f"{out}: not written: {done.reason}")
    measures = measure(loaded.pixels, done.codec.decode(done.data), len(done.data))
    notes = (*notes, f"quality {done.quality} by {done.codec.colors} colours")
    return CompressedPicture(done.data, done.codec, measures, 1, True, "", notes)


def _quality_range(text: str, codec: type[Codec]) -> tuple[int, int]:
    """Minimum and maximum of ``"min-max"``, either of which may be left out."""
    if codec is not KMeans:
        raise CodecError(
            f"--quality is for {KMeans.name} palettes; {codec.name} takes --ratio, --ssim or --set."
        )
    found = re.fullmatch(r"(\d{0,3})-(\d{0,3})", text)
    if found is None or not any(found.groups()):
        raise CodecError(
            f"--quality takes MIN-MAX from 0 to 100, such as 60-80, 60- or -80. Received: {text!r}"
        )
    return int(found[1] or 0), int(found[2] or 100)


def _extras(
    source: bytes, loaded: LoadedImage, keeps: frozenset[str]
) -> tuple[Extras, tuple[str, ...]]:
    """The extras that can be kept, and the notes of reading with what became of the extras."""
    try:
        extras = decode_extras(source, "the picture")
    except ImageReadError:  # the colours were read; odd metadata is no reason to refuse them
        return Extras(), (*loaded.notes, "metadata unreadable, dropped")
    if extras.alpha is not None and extras.alpha.shape != loaded.pixels.shape[:2]:
        extras = extras.only(Lossless.keeps - {"alpha"})
    notes = [note for note in loaded.notes if extras.alpha is None or note != "alpha dropped"]
    notes += [f"{name} {'kept' if name in keeps else 'dropped'}" for name in extras.held()]
    return extras.only(keeps), tuple(notes)


def _parse_like(default: object, name: str, text: str) -> Any:
    """`text` in the type of `default`."""
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, int):
            return int(text)
        if isinstance(default, float):
            return float(text)
    except (ValueError, KeyError):
        kind = "true or false" if isinstance(default, bool) else f"a {type(default).__name__}"
        raise CodecError(f"{name} takes {kind}. Received: {text!r}") from None
    return text
