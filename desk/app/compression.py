"""The page *Compress*: an uploaded picture encoded as the command ``compress`` does it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from desk.app.settings import AppError
from desk.app.upload import Upload, decode, on_disk, one_at_a_time, without_folders
from imagecompression import CODECS, CodecUnavailableError
from imagecompression.codec import Image
from imagecompression.errors import ImageCompressionError
from imagecompression.transcoding import CompressedFile, compress_file

TargetKind = Literal["ratio", "bytes", "ssim"]


@dataclass(frozen=True)
class Wish:
    """How to encode.

    Attributes:
        codec: Registry name.
        options: Values of the codec's parameters; with a target the knob's is not used.
        target: None in the manual mode.
        value: Of the target: ratio at least 1, bytes at least 1, SSIM between 0 and 1.
    """

    codec: str
    options: Mapping[str, Any]
    target: TargetKind | None = None
    value: float = 0.0

    def settings(self) -> list[str]:
        """``name=value`` as the command takes them: the knob, and what differs from the default."""
        codec = CODECS[self.codec]
        knob = codec.knob.field if codec.knob is not None else None
        usual = codec().params()
        return [
            f"{name}={str(value).lower() if isinstance(value, bool) else value}"
            for name, value in self.options.items()
            if (self.target is None if name == knob else value != usual[name])
        ]

    def ratio(self, image: Image) -> float | None:
        """The compression ratio to reach on this picture; None where another target is set.

        Raises:
            AppError: A number of bytes of 0 or less.
        """
        if self.target == "bytes":
            if self.value < 1:
                raise AppError(f"A file has at least 1 byte. Received: {self.value:g}")
            return max(1.0, image.size / self.value)
        return self.value if self.target == "ratio" else None


@dataclass(frozen=True, eq=False)
class Compressed:
    """An encoded upload.

    Attributes:
        name: Of the file.
        data: The file.
        facts: What the command says of it; the file's own path is its name.
        source: The picture uploaded.
        decoded: The file decoded.
        command: The command line that makes the same bytes.
    """

    name: str
    data: bytes
    facts: CompressedFile
    source: Image
    decoded: Image
    command: str


def compress(upload: Upload, wish: Wish) -> Compressed:
    """Encode an upload.

    Raises:
        ImageCompressionError: The picture cannot be read, or not be encoded so.
    """
    with one_at_a_time(), on_disk(upload) as path:
        source = decode(upload)
        kind = CODECS[wish.codec]
        out = path.with_name(f"{path.stem}_{wish.codec}{kind.suffix}")
        settings, ratio = wish.settings(), wish.ratio(source)
        ssim = wish.value if wish.target == "ssim" else None
        try:
            facts = compress_file(path, out, wish.codec, ratio, ssim, settings)
        except ImageCompressionError as error:
            raise AppError(without_folders(str(error), path.parent)) from error
        data = out.read_bytes()
        command = compress_command(path.name, out.name, wish.codec, ratio, ssim, settings)
        return Compressed(out.name, data, facts, source, kind.decode(data), command)


def compress_command(
    source: str,
    out: str,
    codec: str,
    ratio: float | None,
    ssim: float | None,
    settings: list[str],
) -> str:
    """The command line of `imagecompression.transcoding.compress_file`.

    >>> compress_command("a b.png", "-b.jpg", "jpeg", 20.0, None, ["subsampling=4:4:4"])
    "python main.py compress 'a b.png' ./-b.jpg --codec jpeg --ratio 20.0 --set subsampling=4:4:4"
    """
    words = ["compress", argument(source), argument(out), "--codec", codec]
    words += [] if ratio is None else ["--ratio", repr(ratio)]
    words += [] if ssim is None else ["--ssim", repr(ssim)]
    words += [word for setting in settings for word in ("--set", setting)]
    return command(words)


def argument(name: str) -> str:
    """A file name that no program takes for an option."""
    return f"./{name}" if name.startswith("-") else name


def command(words: list[str]) -> str:
    """A command line of this project."""
    return shlex.join(["python", "main.py", *words])


def available_codecs() -> list[str]:
    """Names of the codecs that can be used on this machine."""
    names = []
    for name, codec in CODECS.items():
        try:
            codec.check_available()
        except CodecUnavailableError:
            continue
        names.append(name)
    return names
