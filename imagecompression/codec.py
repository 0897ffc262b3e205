"""The `Codec` contract: a frozen value that is one complete encoder setting.

Everything adaptive (a ratio target, an SSIM target, a palette size chosen by an algorithm) is a
function *from an image to a `Codec`* and lives elsewhere; see `imagecompression.rate`.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from imagecompression.errors import ImageCompressionError

Image = npt.NDArray[np.uint8]
"""A decoded picture: `uint8`, `(H, W)` gray or `(H, W, 3)` RGB, C-contiguous."""

MAX_PIXELS = 100_000_000
"""No decoder allocates for more pixels than this; a larger header is refused unread."""

_pixel_limit: ContextVar[int] = ContextVar("pixel_limit", default=MAX_PIXELS)


class CodecError(ImageCompressionError):
    """Bad parameters, an image outside the contract, or a file that cannot be decoded."""


class TooManyPixelsError(CodecError):
    """A picture over the limit of pixels."""


class CodecUnavailableError(CodecError):
    """The codec's library is missing on this machine; the message says how to get it."""


@dataclass(frozen=True)
class Knob:
    """The one parameter of a codec that trades size for fidelity.

    Attributes:
        field: Name of the dataclass field, in the codec's own unit.
        low: Smallest allowed value.
        high: Largest allowed value.
        step: Distance of neighbouring values; 1 for integer knobs.
        rises_with_size: True when a larger value gives a larger file.
        logarithmic: True when file size is smoother in `log(value)` than in `value`.
    """

    field: str
    low: float
    high: float
    step: float
    rises_with_size: bool
    logarithmic: bool = False

    @property
    def last_index(self) -> int:
        """Index of the largest-file end of the grid; index 0 is the smallest-file end."""
        return round((self.high - self.low) / self.step)

    def value(self, index: int) -> float | int:
        """Knob value at `index` (0 … `last_index`), ordered from small files to large ones."""
        position = index if self.rises_with_size else self.last_index - index
        value = self.low + position * self.step
        if float(self.step).is_integer() and float(self.low).is_integer():
            return round(value)
        return round(value, 6)

    def coordinate(self, index: int) -> float:
        """Position of `index` on the axis where interpolation is done; rises with file size."""
        value = float(self.value(index))
        position = math.log(value) if self.logarithmic else value
        return position if self.rises_with_size else -position

    def index_at(self, coordinate: float) -> int:
        """Index whose `coordinate` is nearest to the given one, clipped to the grid."""
        position = coordinate if self.rises_with_size else -coordinate
        value = math.exp(min(position, 700.0)) if self.logarithmic else position
        index = round((min(max(value, self.low), self.high) - self.low) / self.step)
        return index if self.rises_with_size else self.last_index - index


@dataclass(frozen=True, eq=False)
class Extras:
    """What a picture file holds beside its colours; None where it holds no such thing.

    Attributes:
        alpha: Opacity `(H, W)`, `uint8`, 255 opaque, colours not premultiplied.
        exif: An EXIF block from its TIFF header on.
        icc: An ICC profile.
        xmp: An XMP packet.
    """

    alpha: Image | None = None
    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None

    def held(self) -> tuple[str, ...]:
        """Names of the fields that are not None."""
        names = (field.name for field in dataclasses.fields(self))
        return tuple(name for name in names if getattr(self, name) is not None)

    def only(self, names: frozenset[str]) -> Extras:
        """A copy with the fields `names` alone."""
        return Extras(**{name: getattr(self, name) for name in self.held() if name in names})


@dataclass(frozen=True)
class Codec(ABC):
    """One codec at one complete setting. Equal values encode equal images to equal bytes.

    Subclasses are frozen dataclasses whose fields are the encoder's parameters, each of a JSON
    type, with `knob.field` among them. They hold no state and never adapt to the image.

    Class attributes:
        name: Registry key, class label and folder name.
        suffix: File name suffix that is written, with the dot.
        other_suffixes: Further suffixes under which such files are found.
        knob: The size/fidelity parameter, or None for a lossless codec.
        fine_knob: A second such parameter, in steps finer than one of `knob`: at its largest-file
            end it does nothing, turned down it makes the file smaller by about a knob step. An
            instance may have none where its other fields make it void (AVIF's tune).
        ratio_tolerance: Relative error within which this codec can be asked to hit a compression
            ratio: half of its largest usual knob step.
        ssim_tolerance: The same for an SSIM target, absolute.
        keeps: Names of the fields of `Extras` that its files can hold.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    other_suffixes: ClassVar[tuple[str, ...]] = ()
    knob: ClassVar[Knob | None] = None
    fine_knob: ClassVar[Knob | None] = None
    ratio_tolerance: ClassVar[float] = 0.05
    ssim_tolerance: ClassVar[float] = 0.01
    keeps: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def encode(self, image: Image) -> bytes:
        """Encode `image` (see `Image`; not modified) to the bytes of a complete file.

        Raises:
            CodecError: The image is outside the contract (`check_image`) or the codec's limits.
            CodecUnavailableError: The codec's library is missing.
        """

    @classmethod
    @abstractmethod
    def decode(cls, data: bytes) -> Image:
        """Decode a complete file to an `Image` of the encoded shape.

        Raises:
            CodecError: Damaged, truncated or unsupported data, or more than `MAX_PIXELS` pixels.
            CodecUnavailableError: The codec's library is missing.
        """

    def encode_with(self, image: Image, extras: Extras) -> bytes:
        """Encode `image` with what goes along with it; a codec that `keeps` any overrides this.

        Raises:
            CodecError: As `encode`, or `extras` holds what the codec's files cannot.
        """
        self._check_extras(image, extras)
        return self.encode(image)

    @classmethod
    def decode_with(cls, data: bytes) -> tuple[Image, Extras]:
        """Decode a complete file to its image and what goes along with it.

        Raises:
            CodecError, CodecUnavailableError: As `decode`.
        """
        return cls.decode(data), Extras()

    @classmethod
    @abstractmethod
    def matches(cls, data: bytes) -> bool:
        """True when the magic bytes at the start of `data` are this codec's."""

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Name and version of the encoding library, such as ``"OpenJPEG 2.5.4"``.

        Raises:
            CodecUnavailableError: The library is missing.
        """

    @classmethod
    def check_available(cls) -> None:
        """Raise `CodecUnavailableError` when the codec cannot be used on this machine."""
        cls.version()

    @classmethod
    def variants(cls) -> tuple[Codec, ...]:
        """Settings that this codec's encoders show in the wild; dataset builds draw from them."""
        return (cls(),)

    def params(self) -> dict[str, Any]:
        """The parameters as a JSON-ready dict; `codec_from_params` is the inverse."""
        return dataclasses.asdict(self)

    def with_knob(self, value: float) -> Self:
        """A copy with the knob's field set to `value`."""
        if self.knob is None:
            raise CodecError(f"{self.name} is lossless and has no knob to set. Received: {value}")
        return dataclasses.replace(self, **{self.knob.field: value})

    def with_fine_knob(self, value: float) -> Self:
        """A copy with the fine knob's field set to `value`."""
        if self.fine_knob is None:
            raise CodecError(f"{self.name} has no fine knob to set. Received: {value}")
        return dataclasses.replace(self, **{self.fine_knob.field: value})

    def _check_extras(self, image: Image, extras: Extras) -> None:
        """Raise `CodecError` unless this codec can keep `extras` and its alpha fits `image`."""
        lost = [name for name in extras.held() if name not in self.keeps]
        if lost:
            raise CodecError(
                f"{self.name} files can keep {', '.join(sorted(self.keeps)) or 'colours alone'}. "
                f"Received: {', '.join(lost)}"
            )
        alpha = extras.alpha
        if alpha is not None and (alpha.dtype != np.uint8 or alpha.shape != image.shape[:2]):
            raise CodecError(
                f"Alpha must be uint8 of shape {image.shape[:2]}. "
                f"Received: dtype={alpha.dtype}, shape={alpha.shape}"
            )

    def _check_range(self, field: str, low: float, high: float, *, integer: bool = True) -> None:
        """Raise `CodecError` unless the field is a number (an integer) in low … high."""
        value = getattr(self, field)
        kind = (int, np.integer) if integer else (int, float, np.integer, np.floating)
        if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
            noun = "an integer" if integer else "a number"
            raise CodecError(
                f"{self.name} {field} must be {noun} from {low} to {high}. "
                f"Received: {field}={value!r}"
            )
        object.__setattr__(self, field, int(value) if integer else float(value))

    def _check_choice(self, field: str, allowed: tuple[Any, ...]) -> None:
        """Raise `CodecError` unless the field holds one of the allowed values."""
        value = getattr(self, field)
        if value not in allowed or type(value) not in {type(choice) for choice in allowed}:
            raise CodecError(
                f"{self.name} {field} must be one of {', '.join(map(str, allowed))}. "
                f"Received: {field}={value!r}"
            )


def check_image(image: Image) -> Image:
    """Return `image` C-contiguous after checking the contract of `Image`.

    Raises:
        CodecError: Not `uint8`, not `(H, W)` or `(H, W, 3)`, empty, or over `MAX_PIXELS` pixels.
    """
    if not isinstance(image, np.ndarray):
        raise CodecError(f"An image must be a NumPy array. Received: {type(image).__name__}")
    fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not fits or image.size == 0:
        raise CodecError(
            "An image must be uint8 of shape (H, W) or (H, W, 3), at least 1×1; "
            "imagecompression.read_image converts other kinds. "
            f"Received: dtype={image.dtype}, shape={image.shape}"
        )
    check_size(image.shape[1], image.shape[0])
    return np.ascontiguousarray(image)


def lower_pixel_limit(pixels: int) -> None:
    """Refuse pictures over `pixels`, which is at most `MAX_PIXELS`, in this thread from now on.

    For processes that serve strangers: every decoder and encoder asks `check_size`.

    Raises:
        CodecError: Under 1, or over `MAX_PIXELS`.
    """
    if not 1 <= pixels <= MAX_PIXELS:
        raise CodecError(f"A pixel limit lies from 1 to {MAX_PIXELS:,}. Received: {pixels}")
    _pixel_limit.set(pixels)


@contextmanager
def pixel_limit(pixels: int) -> Iterator[None]:
    """Refuse pictures of more than `pixels` pixels while the context lasts, in this thread.

    For those who have less memory than `MAX_PIXELS` takes; it can only lower the limit.

    >>> with pixel_limit(100):  # doctest: +ELLIPSIS
    ...     check_size(20, 30)
    Traceback (most recent call last):
    imagecompression.codec.TooManyPixelsError: The picture has ... the limit of 100. ...
    """
    token = _pixel_limit.set(min(pixels, _pixel_limit.get()))
    try:
        yield
    finally:
        _pixel_limit.reset(token)


def check_size(width: int, height: int) -> None:
    """Check a picture's size against `MAX_PIXELS`, or a lower limit that was set.

    Raises:
        TooManyPixelsError: Over the limit.
        CodecError: A side under 1.
    """
    if width < 1 or height < 1:
        raise CodecError(f"A picture needs at least 1×1 pixels. Received: {width}×{height}")
    limit = _pixel_limit.get()
    if width * height > limit:
        raise TooManyPixelsError(
            f"The picture has more pixels than the limit of {limit:,}. "
            f"Received: {width}×{height} = {width * height:,}"
        )
