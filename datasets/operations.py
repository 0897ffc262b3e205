"""The steps that a picture's history is made of: cropping, resizing, compressing, and so on.

A step says within which ranges it may act; `apply` draws from them and tells what was done. A new
kind of step is one class here and one entry in `STEPS`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from datasets.camera import Demosaic
from datasets.chroma import ChromaPath
from datasets.decoders import Decode
from datasets.step import MIN_SIDE, HistoryError, Step, log_uniform, one_of, rounded
from datasets.tone import Contrast, Gamma, Saturation
from imagecompression import CODECS, MAX_PIXELS, Image, RatioTarget, encode_to_target
from imagecompression.codec import CodecUnavailableError, Knob

LOSSY = tuple(name for name, codec in CODECS.items() if codec.knob is not None)
"""Names of the lossy codecs: `Compress` draws from all of them unless told otherwise."""

FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")
"""Interpolations of `Resize` and `DisplayScale`, as Pillow makes them."""

DENOISERS = ("median", "bilateral", "nlmeans")
"""Methods of `Denoise`."""

_USUAL_RATIO = (5.0, 40.0)
# A file on the way need not meet its ratio: one encode is enough nearly always.
_ROUGHLY = 0.25


@dataclass(frozen=True)
class Crop(Step):
    """Cut pixels off all four sides, which moves the grid of any block codec.

    Attributes:
        pixels: Lowest and highest number of pixels cut off at the left and the top; at the right
            and the bottom 0 to the highest.
    """

    kind: ClassVar[str] = "crop"
    pixels: tuple[int, int] = (1, 15)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_range("pixels", 0, 4096, integer=True)

    def apply(self, image: Image, rng: np.random.Generator) -> tuple[Image, dict[str, Any]]:
        low, high = self.pixels
        drawn = rng.integers((low, low, 0, 0), high, endpoint=True)
        height, width = image.shape[:2]
        room = [max(0, side - MIN_SIDE) // 2 for side in (width, height)]
        left, top, right, bottom = (
            min(int(cut), room[number % 2]) for number, cut in enumerate(drawn)
        )
        cropped = np.ascontiguousarray(image[top : height - bottom, left : width - right])
        cuts = {"left": left, "top": top, "right": right, "bottom": bottom}
        return cropped, {"step": self.kind, **cuts}


@dataclass(frozen=True)
class Window(Step):
    """Cut a rectangle out at random; a side that is shorter than asked stays whole.

    Attributes:
        side: Lowest and highest length of the square's side, in pixels.
    """

    kind: ClassVar[str] = "window"
    side: tuple[int, int] = (256, 256)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_range("side", MIN_SIDE, 2**16, integer=True)

    def apply(self, image: Image, rng: np.random.Generator) -> tuple[Image, dict[str, Any]]:
        side = int(rng.integers(*self.side, endpoint=True))
        height, width = (min(side, own) for own in image.shape[:2])
        down, right = rng.random(2)
        top = int(down * (image.shape[0] - height + 1))
        left = int(right * (image.shape[1] - width + 1))
        cut = np.ascontiguousarray(image[top : top + height, left : left + width])
        place = {"left": left, "top": top, "width": width, "height": height}
        return cut, {"step": self.kind, **place}


@dataclass(frozen=True)
class Resize(Step):
    """Scale both sides by one factor, drawn with equal chances for halves and doubles.

    Attributes:
        factor: Lowest and highest factor.
        filters: Interpolations to draw from, among `FILTERS`.
    """

    kind: ClassVar[str] = "resize"
    factor: tuple[float, float] = (0.5, 2.0)
    filters: tuple[str, ...] = ("bilinear", "bicubic", "lanczos")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_range("factor", 0.05, 20)
        self._check_names("filters", FILTERS)

    def apply(self, image: Image, rng: np.random.Generator) -> tuple[Image, dict[str, Any]]:
        factor = log_uniform(rng, self.factor)
        return _scaled(self.kind, image, factor, one_of(rng, self.filters))


@dataclass(frozen=True)
class DisplayScale(Step):
    """Scale as a desktop does before a screenshot is taken: by one of a few typical factors.

    Attributes:
        factors: Factors to draw from.
        filters: Interpolations to draw from, among `FILTERS`.
    """

    kind: ClassVar[str] = "display-scale"
    factors: tuple[float, ...] = (0.5, 0.667, 0.75, 0.8, 1.25, 1.5, 1.75, 2.0)
    filters: tuple[str, ...] = ("nearest", "bilinear")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_names("filters", FILTERS)
        values = self.factors
        if (
            not isinstance(values, tuple)
            or not values
            or not all(isinstance(v, (int, float)) and 0.05 <= v <= 20 for v in values)
        ):
            raise HistoryError(
                f"{self.kind}: factors must be a list of numbers from 0.05 to 20. "
                f"Received: {values!r}"
            )

    def apply(self, image: Image, rng: np.random.Generator) -> tuple[Image, dict[str, Any]]:
        factor = float(one_of(rng, self.factors))
        return _scaled(self.kind, image, factor, one_of(rng, self.filters))


@dataclass(frozen=True)
class Blur(Step):
    """Gaussian blur of each channel, mirrored at the borders.

    Attributes:
        sigma: Lowest and highest standard deviation, in pixels.
    """

    kind: ClassVar[str] = "blur"
    sigma: tuple[float, float] = (0.5, 2.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_range("sigma", 0, 50)

    def apply(self, image: Image, rng: np.random.Generator) -> tuple[Image, dict[str, Any]]:
        from scipy.ndimage import gaussian_filter

        sigma = float(rng.uniform(*self.sigma))
        blurred = gaussian_filter(image.astype(np.float32), sigma, mode="mirror", axes=(0, 1))
        return rounded(blurred), {"step": self.kind, "sigma": sigma}


@dataclass(frozen=True)
class Sharpen(Step):
    """Unsharp masking: add a multiple of what a Gaussian blur takes away.

    Attributes:
        sigma: Lowest and highest standard deviation of the blur, in pixels.
        amount: Lowest and highest multiple.
    """

    kind: ClassVar[str] = "sharpen"
    sigma: tuple[float, float] = (0.5, 1.5)
    amount: tuple[float, float] = (0.2, 1.2)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_range("sigma", 0, 50)
        self._check_range("amount", 0, 10)

    def apply(self, image: Image, rng: np.random.Generator) -> tuple[Image, dict[str, Any]]:
        from scipy.ndimage import gaussian_filter

        sigma, amount = float(rng.uniform(*self.sigma)), float(rng.uniform(*self.amount))
        samples = image.astype(np.float32)
        blurred = gaussian_filter(samples, sigma, mode="mirror", axes=(0, 1))
        sharp = rounded(samples + np.float32(amount) * (samples - blurred))
        return sharp, {"step": self.kind, "sigma": sigma, "amount": amount}


@dataclass(frozen=True)
class Noise(Step):
    """Add Gaussian noise, independent for each sample of each channel.

    Attributes:
        sigma: Lowest and highest standard deviation, in levels of 0 … 255.
    """

    kind: ClassVar[str] = "noise"
    sigma: tuple[float, float] = (1.0, 8.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_range("sigma", 0, 128)

    def apply(self, image: Image, rng: np.random.Generator) -> tuple[Image, dict[str, Any]]:
        sigma = float(rng.uniform(*self.sigma))
        # A generator of its own: the draws of later steps must not depend on the picture's size.
        seed = int(rng.integers(2**63))
        grain = np.random.default_rng(seed).standard_normal(image.shape, np.float32)
        return rounded(image + np.float32(sigma) * grain), {
            "step": self.kind,
            "sigma": sigma,
            "seed": seed,
        }


@dataclass(frozen=True)
class Denoise(Step):
    """Take noise away, as cameras and editors do, by OpenCV's filters.

    Attributes:
        methods: Among `DENOISERS`: the median of 3×3 pixels, a bilateral filter, or non-local
            means (Buades, Coll and Morel 2005).
        strength: Lowest and highest; a difference of so many levels counts as noise. The median
            has no such number.
    """

    kind: ClassVar[str] = "denoise"
    methods: tuple[str, ...] = DENOISERS
    strength: tuple[float, float] = (2.0, 12.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_names("methods", DENOISERS)
        self._check_range("strength", 0.1, 100)

    def apply(self, image: Image, rng: np.random.Generator) -> tuple[Image, dict[str, Any]]:
        import cv2

        method, strength = one_of(rng, self.methods), log_uniform(rng, self.strength)
        if method == "median":
            clean = cv2.medianBlur(image, 3)
        elif method == "bilateral":
            clean = cv2.bilateralFilter(image, 5, 2 * strength, 1.5)
        elif image.ndim == 2:
            clean = cv2.fastNlMeansDenoising(image, None, strength, 5, 11)
        else:
            clean = cv2.fastNlMeansDenoisingColored(image, None, strength, strength, 5, 11)
        done = {"step": self.kind, "method": method, "strength": strength}
        return np.ascontiguousarray(clean, np.uint8), done


@dataclass(frozen=True)
class SavePng(Step):
    """Save again without loss: the pixels stay as they are, only the container changes."""

    kind: ClassVar[str] = "png"

    def apply(self, image: Image, rng: np.random.Generator) -> tuple[Image, dict[str, Any]]:
        return image, {"step": self.kind}


@dataclass(frozen=True)
class Compress(Step):
    """Compress with a lossy codec, at a setting drawn from `Codec.variants`, and decode again.

    Attributes:
        codecs: Names to draw from; one that is unavailable here is passed over.
        ratio: Lowest and highest compression ratio, drawn log-uniformly and met roughly (within a
            quarter), since that takes one encode.
        knob: Instead of `ratio`, with one codec only: lowest and highest value of its knob, such
            as a JPEG quality of 75 to 98, drawn uniformly.
    """

    kind: ClassVar[str] = "compress"
    codecs: tuple[str, ...] = LOSSY
    ratio: tuple[float, float] | None = None
    knob: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_names("codecs", LOSSY)
        if self.knob is None:
            if self.ratio is None:
                object.__setattr__(self, "ratio", _USUAL_RATIO)
            self._check_range("ratio", 1, 1000)
            return
        if self.ratio is not None or len(self.codecs) != 1:
            raise HistoryError(
                "compress: knob goes with one codec and without ratio, because it is in that "
                f"codec's own unit. Received: codecs={self.codecs!r}, ratio={self.ratio!r}"
            )
        knob = self._knob()
        self._check_range("knob", knob.low, knob.high)

    def apply(self, image: Image, rng: np.random.Generator) -> tuple[Image, dict[str, Any]]:
        data, record = self.encode(image, rng)
        return CODECS[record["codec"]].decode(data), record

    def encode(self, image: Image, rng: np.random.Generator) -> tuple[bytes, dict[str, Any]]:
        """The encoded file and what was done: codec, parameters and the ratio that came out.

        Raises:
            HistoryError: None of the codecs is available.
            CodecError: The codec cannot encode this picture.
        """
        order = [str(name) for name in rng.permutation(self.codecs)]
        position, variant = rng.random(2)
        name = next((name for name in order if _is_available(name)), None)
        if name is None:
            raise HistoryError(
                f"compress: none of {', '.join(self.codecs)} is available here; "
                "install one's library or name others."
            )
        variants = CODECS[name].variants()
        codec = variants[int(variant * len(variants))]
        if self.ratio is not None:
            low, high = map(math.log, self.ratio)
            target = RatioTarget(math.exp(low + position * (high - low)), _ROUGHLY)
            found = encode_to_target(image, codec, target)
            data, codec = found.data, found.codec
        else:
            assert self.knob is not None
            knob = self._knob()
            first, last = (math.floor((v - knob.low) / knob.step + 0.5) for v in self.knob)
            place = first + int(position * (last - first + 1))
            index = place if knob.rises_with_size else knob.last_index - place
            codec = codec.with_knob(knob.value(index))
            data = codec.encode(image)
        return data, {
            "step": self.kind,
            "codec": name,
            "params": codec.params(),
            "ratio": image.nbytes / len(data),
        }

    def _knob(self) -> Knob:
        knob = CODECS[self.codecs[0]].knob
        assert knob is not None  # `LOSSY` holds such codecs only
        return knob


@dataclass(frozen=True)
class OneOf(Step):
    """One of several chains of steps, drawn at random; an empty chain leaves the picture alone.

    Attributes:
        chains: At least one; in JSON a list of lists of steps.
        shares: How likely each is, relative to the others; all alike when empty.
    """

    kind: ClassVar[str] = "one-of"
    chains: tuple[tuple[Step, ...], ...] = ((),)
    shares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        chains = self.chains
        if not isinstance(chains, tuple) or not chains:
            raise HistoryError(
                f"{self.kind}: chains must be a list of lists of steps, at least one. "
                f"Received: {chains!r}"
            )
        read = tuple(_steps(chain) for chain in chains)
        if any(isinstance(step, Decode) for chain in read for step in chain):
            raise HistoryError(f"{self.kind}: {Decode.kind} needs the labelled file; put it first")
        object.__setattr__(self, "chains", read)
        shares = self.shares
        fits = isinstance(shares, tuple) and len(shares) in (0, len(chains))
        if not fits or any(not isinstance(s, (int, float)) or not s > 0 for s in shares):
            raise HistoryError(
                f"{self.kind}: shares must be empty or a positive number for each of the "
                f"{len(chains)} chains. Received: {shares!r}"
            )

    def apply(self, image: Image, rng: np.random.Generator) -> tuple[Image, dict[str, Any]]:
        """As for any step; the records of the chosen chain stand under ``steps``."""
        shares = np.array(self.shares or [1.0] * len(self.chains))
        chosen = int(np.searchsorted(np.cumsum(shares / shares.sum())[:-1], rng.random(), "right"))
        done = []
        for step in self.chains[chosen]:
            image, record = step.apply(image, rng)
            done.append(record)
        return image, {"step": self.kind, "chosen": chosen, "steps": done}

    def to_json(self) -> dict[str, Any]:
        chains = [[step.to_json() for step in chain] for chain in self.chains]
        return {"step": self.kind, "chains": chains, "shares": list(self.shares)}


STEPS: dict[str, type[Step]] = {
    step.kind: step
    for step in (
        Crop,
        Resize,
        Window,
        DisplayScale,
        Blur,
        Sharpen,
        Noise,
        Denoise,
        Gamma,
        Contrast,
        Saturation,
        ChromaPath,
        Demosaic,
        Decode,
        SavePng,
        Compress,
        OneOf,
    )
}
"""Every step by its name in JSON."""


def step_from_json(content: Any) -> Step:
    """The step of a dict such as ``{"step": "crop", "pixels": [1, 15]}``.

    Fields that are left out have their usual values.

    Raises:
        HistoryError: Not such a dict, an unknown step or field, or a value out of range.
    """
    if not isinstance(content, Mapping) or content.get("step") not in STEPS:
        raise HistoryError(
            f'A step is an object with "step" among {", ".join(STEPS)}. Received: {content!r}'
        )
    kind = STEPS[content["step"]]
    values = {name: value for name, value in content.items() if name != "step"}
    fields = [field.name for field in dataclasses.fields(kind)]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise HistoryError(
            f"{kind.kind} has the fields {', '.join(fields) or '(none)'}. "
            f"Received: {', '.join(unknown)}"
        )
    return kind(**values)


def _steps(chain: Any) -> tuple[Step, ...]:
    """Steps of a list whose entries are steps or their JSON."""
    if not isinstance(chain, (list, tuple)):
        raise HistoryError(f"A chain is a list of steps. Received: {chain!r}")
    return tuple(step if isinstance(step, Step) else step_from_json(step) for step in chain)


def _is_available(name: str) -> bool:
    try:
        CODECS[name].check_available()
    except CodecUnavailableError:
        return False
    return True


def _scaled(
    kind: str, image: Image, factor: float, interpolation: str
) -> tuple[Image, dict[str, Any]]:
    """`image` scaled, within `MIN_SIDE` and `MAX_PIXELS`, and the record of it."""
    from PIL import Image as PilImage

    height, width = image.shape[:2]
    smallest = min(1.0, MIN_SIDE / min(height, width))
    largest = max(1.0, math.sqrt(MAX_PIXELS / (height * width)))
    factor = min(max(factor, smallest), largest)
    # Rounding down at the upper bound keeps the product within it.
    turn = math.floor if factor == largest else round
    size = tuple(max(1, turn(side * factor)) for side in (width, height))
    method = PilImage.Resampling[interpolation.upper()]
    scaled = np.array(PilImage.fromarray(image).resize(size, method))
    done = {"factor": factor, "filter": interpolation, "width": size[0], "height": size[1]}
    return scaled, {"step": kind, **done}
