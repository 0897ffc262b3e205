"""Colour quantisation: a palette from weighted k-means, stored as an indexed PNG.

The file is a PNG (ISO/IEC 15948) of colour type 3 that any viewer opens. What chooses the colours
is in `imagecompression.palette`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import ClassVar

import numpy as np

from imagecompression.codec import (
    Codec,
    CodecError,
    CodecUnavailableError,
    Image,
    Knob,
    check_image,
)
from imagecompression.color_space import COLOR_SPACES
from imagecompression.dithering import diffused_entries
from imagecompression.draft import Draft
from imagecompression.palette import ColorHistogram, Palette, choose_palette, pixel_entries
from imagecompression.palette_png import estimated_png_bytes, palette_png
from imagecompression.palette_png import version as png_version
from imagecompression.pillow_image import open_checked
from imagecompression.thread_limit import one_thread

_GRAY_KEYWORD = "imagecompression"
_GRAY_TEXT = "gray"


@dataclass(frozen=True)
class KMeans(Codec):
    """A palette of `colors` entries, chosen by k-means over the picture's colour histogram.

    A picture with no more distinct colours than `colors` is stored without loss.

    Attributes:
        colors: Palette size, 2 … 256.
        space: Where the distance of two colours is measured: "rgb" (sRGB samples: least mean
            squared error, highest PSNR), "lab" (CIELAB, ΔE*ab 1976) or "oklab".
        init: Where k-means begins: "wu" (Wu's variance minimisation) or "k-means++".
        dithering: Part of each pixel's error that Floyd–Steinberg passes on to its neighbours,
            0 … 1; 0 takes the nearest entry for each pixel. Takes time by width + 2·height.
        seed: Seed of k-means++'s random choices, 0 … 2³² - 1; Wu's start makes none, so 0 there.

    >>> import numpy as np
    >>> KMeans.decode(KMeans(colors=2).encode(np.zeros((8, 8, 3), np.uint8))).shape
    (8, 8, 3)
    """

    colors: int = 64
    space: str = "rgb"
    init: str = "wu"
    dithering: float = 0.0
    seed: int = 0

    name: ClassVar[str] = "kmeans"
    suffix: ClassVar[str] = ".png"
    knob: ClassVar[Knob] = Knob("colors", 2, 256, 1, rises_with_size=True, logarithmic=True)
    ratio_tolerance: ClassVar[float] = 0.1
    ssim_tolerance: ClassVar[float] = 0.02

    def __post_init__(self) -> None:
        self._check_range("colors", 2, 256)
        self._check_choice("space", tuple(COLOR_SPACES))
        self._check_choice("init", ("wu", "k-means++"))
        self._check_range("dithering", 0, 1, integer=False)
        self._check_range("seed", 0, 2**32 - 1)
        if self.seed and self.init == "wu":
            raise CodecError(
                "kmeans seed has no effect with init=wu, which makes no random choices: leave it "
                f"at 0 or take init=k-means++. Received: seed={self.seed}"
            )

    def encode(self, image: Image) -> bytes:
        image = check_image(image)
        histogram = ColorHistogram.of(image)
        return self.encode_with_palette(image, histogram, self.palette(histogram))

    def draft(self, image: Image) -> Draft:
        """What `encode` will make, without the search for the smallest PNG that costs the most."""
        image = check_image(image)
        histogram = ColorHistogram.of(image)
        palette = self.palette(histogram)
        indices = self._indices(image, histogram, palette)
        decoded = palette.colors[indices]
        return Draft(
            estimated_png_bytes(indices, palette.colors),
            np.ascontiguousarray(decoded if image.ndim == 3 else decoded[..., 0]),
            lambda: palette_png(indices, palette.colors, self._texts(image)),
        )

    def palette(self, histogram: ColorHistogram) -> Palette:
        """The palette for a picture of these colours, and each colour's nearest entry."""
        if self.init == "k-means++":
            # Before the limit is set: it does not hold for libraries that are loaded later.
            _import_scikit_learn()
        with one_thread():
            return choose_palette(histogram, self.colors, self.space, self.init, self.seed)

    def encode_with_palette(
        self, image: Image, histogram: ColorHistogram, palette: Palette
    ) -> bytes:
        """The file of `image` with a palette that `palette` made for its histogram."""
        indices = self._indices(image, histogram, palette)
        return palette_png(indices, palette.colors, self._texts(image))

    def _indices(self, image: Image, histogram: ColorHistogram, palette: Palette) -> Image:
        if self.dithering > 0 and len(palette.colors) < len(histogram.packed):
            with one_thread():
                return diffused_entries(image, palette.colors, self.space, self.dithering)
        return pixel_entries(image, histogram, palette)

    @staticmethod
    def _texts(image: Image) -> dict[str, str]:
        # PNG has no gray palette; without the note the picture would come back as RGB.
        return {_GRAY_KEYWORD: _GRAY_TEXT} if image.ndim == 2 else {}

    @classmethod
    def decode(cls, data: bytes) -> Image:
        if not cls.matches(data):
            raise CodecError("Not a PNG file with a palette (colour type 3)")
        with open_checked(data, "PNG") as picture:
            marked = picture.info.get(_GRAY_KEYWORD) == _GRAY_TEXT
            # Transparency is ignored, as in every other codec here.
            picture.info.pop("transparency", None)
            pixels = np.array(picture.convert("RGB"))
        if marked and (pixels == pixels[..., :1]).all():
            return np.ascontiguousarray(pixels[..., 0])
        return pixels

    @classmethod
    def matches(cls, data: bytes) -> bool:
        """True for PNG with a palette (colour type 3); PNG with samples is `uncompressed`."""
        return data[:8] == b"\x89PNG\r\n\x1a\n" and data[25:26] == b"\x03"

    @classmethod
    def version(cls) -> str:
        try:
            clustering = metadata.version("scikit-learn")
        except metadata.PackageNotFoundError as error:
            raise CodecUnavailableError(
                "The k-means codec needs scikit-learn (pip install scikit-learn)"
            ) from error
        return f"NumPy {np.__version__}, scikit-learn {clustering}, {png_version()}"

    @classmethod
    def variants(cls) -> tuple[Codec, ...]:
        """Every space and start; a third of them dithered, as many tools do unless told not to."""
        return (
            cls(),
            cls(space="lab"),
            cls(space="oklab"),
            *(cls(init="k-means++", seed=seed) for seed in range(2)),
            *(cls(space="lab", init="k-means++", seed=seed) for seed in range(2)),
            cls(space="oklab", init="k-means++"),
            cls(dithering=1.0),
            cls(dithering=0.5),
            cls(space="lab", dithering=1.0),
            cls(space="oklab", dithering=0.5),
        )


def _import_scikit_learn() -> None:
    try:
        import sklearn.cluster  # noqa: F401
    except ImportError as error:
        raise CodecUnavailableError(
            f"The k-means codec needs scikit-learn (pip install scikit-learn): {error}"
        ) from error
