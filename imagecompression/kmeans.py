"""Colour quantisation: a palette from k-means in CIELAB, stored as an indexed PNG.

k-means is scikit-learn's `MiniBatchKMeans` (Sculley, "Web-scale k-means clustering", WWW 2010),
started with k-means++. The file is a PNG (ISO/IEC 15948) of colour type 3 that any viewer opens.
"""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage
from PIL import PngImagePlugin

from imagecompression.codec import (
    Codec,
    CodecError,
    CodecUnavailableError,
    Image,
    Knob,
    check_image,
)
from imagecompression.pillow_image import open_checked
from imagecompression.thread_limit import one_thread

_MAX_POINTS = 2**14
"""Above this many distinct colours, k-means sees means of neighbouring colours instead."""
_GRAY_KEYWORD = "imagecompression"
_GRAY_TEXT = "gray"

Colors = npt.NDArray[np.uint8]
Lab = npt.NDArray[np.float32]


@dataclass(frozen=True)
class KMeans(Codec):
    """A palette of `colors` entries, chosen by k-means in CIELAB, without dithering.

    A picture with no more distinct colours than `colors` is stored without loss.

    Attributes:
        colors: Palette size, 2 … 256; colours that no pixel is nearest to are left out.
        seed: Seed of k-means' random choices, 0 … 2³² - 1.

    >>> import numpy as np
    >>> KMeans.decode(KMeans(colors=2).encode(np.zeros((8, 8, 3), np.uint8))).shape
    (8, 8, 3)
    """

    colors: int = 64
    seed: int = 0

    name: ClassVar[str] = "kmeans"
    suffix: ClassVar[str] = ".png"
    knob: ClassVar[Knob] = Knob("colors", 2, 256, 1, rises_with_size=True, logarithmic=True)
    ratio_tolerance: ClassVar[float] = 0.1
    ssim_tolerance: ClassVar[float] = 0.02

    def __post_init__(self) -> None:
        self._check_range("colors", 2, 256)
        self._check_range("seed", 0, 2**32 - 1)

    def encode(self, image: Image) -> bytes:
        image = check_image(image)
        distinct = _distinct_colors(image.tobytes(), image.shape)
        if len(distinct.colors) <= self.colors:
            # The colours are in the order of a palette already.
            palette, entries = distinct.colors, np.arange(len(distinct.colors))
        else:
            # Before the limit is set: it does not hold for libraries that are loaded later.
            _sklearn()
            with one_thread():
                palette = _palette(distinct, self.colors, self.seed)
                nearest = _nearest(distinct.lab, srgb_to_lab(palette))
            used, entries = np.unique(nearest, return_inverse=True)
            palette = palette[used]
        indices = entries.astype(np.uint8)[distinct.index].reshape(image.shape[:2])
        notes = PngImagePlugin.PngInfo()
        if image.ndim == 2:
            # PNG has no gray palette; without the note the picture would come back as RGB.
            notes.add_text(_GRAY_KEYWORD, _GRAY_TEXT)
        files = [_palette_png(indices, palette, notes)]
        if 2 < len(palette) <= 16:
            # Pillow packs several indices into a byte, which hides repetitions from deflate: the
            # file may be a sixth larger than one of 17 colours. Unused entries prevent that.
            padding = np.repeat(palette[-1:], 17 - len(palette), axis=0)
            files.append(_palette_png(indices, np.concatenate([palette, padding]), notes))
        return min(files, key=len)

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
        return f"scikit-learn {_sklearn().__version__}"

    @classmethod
    def variants(cls) -> tuple[Codec, ...]:
        return tuple(cls(seed=seed) for seed in range(4))


def _palette_png(
    indices: npt.NDArray[np.uint8], palette: Colors, notes: PngImagePlugin.PngInfo
) -> bytes:
    """An indexed PNG; the length of the palette decides on 1, 2, 4 or 8 bits per pixel."""
    picture = PilImage.fromarray(indices)
    picture.putpalette(palette.tobytes())
    out = io.BytesIO()
    picture.save(out, "PNG", pnginfo=notes)
    return out.getvalue()


@dataclass(frozen=True)
class _Distinct:
    """The N distinct colours of a picture, darkest (CIELAB L*) first, and where they are.

    Attributes:
        colors: uint8 `(N, 3)`.
        lab: float32 `(N, 3)`.
        counts: Number of pixels of each colour, `(N,)`.
        index: For each pixel, in reading order, its row of `colors`.
    """

    colors: Colors
    lab: Lab
    counts: npt.NDArray[np.intp]
    index: npt.NDArray[np.uint32]


@functools.lru_cache(maxsize=1)
def _distinct_colors(pixels: bytes, shape: tuple[int, ...]) -> _Distinct:
    """The picture's colours, kept for the next encode of the same picture."""
    samples = np.frombuffer(pixels, np.uint8)
    if len(shape) == 2:
        red = green = blue = samples.astype(np.uint32)
    else:
        red, green, blue = samples.reshape(-1, 3).astype(np.uint32).T
    packed = (red << 16) | (green << 8) | blue
    values, index, counts = np.unique(packed, return_inverse=True, return_counts=True)
    colors = np.stack([values >> 16, values >> 8 & 255, values & 255], axis=1).astype(np.uint8)
    lab = srgb_to_lab(colors)
    order = np.argsort(lab[:, 0], kind="stable")
    places = np.empty(len(order), np.uint32)
    places[order] = np.arange(len(order), dtype=np.uint32)
    return _Distinct(colors[order], lab[order], counts[order], places[index])


def _palette(distinct: _Distinct, count: int, seed: int) -> Colors:
    """Up to `count` colours, uint8 `(K, 3)`, darkest first, for more distinct colours than that."""
    points, weights = distinct.lab, distinct.counts.astype(np.float64)
    if len(points) > _MAX_POINTS:
        points, weights = _merge_neighbours(distinct)
    count = min(count, len(points))
    batch, most_batches = 1024, 300
    clusters = _sklearn().cluster.MiniBatchKMeans(
        n_clusters=count,
        batch_size=batch,
        init_size=max(3 * batch, 3 * count),
        n_init=1,
        # Passes over all points; noise has so many that a fixed number would take seconds.
        max_iter=min(max(1, most_batches * batch // len(points)), 30),
        reassignment_ratio=0,
        compute_labels=False,
        random_state=seed,
    )
    centers = clusters.fit(points, sample_weight=weights).cluster_centers_.astype(np.float32)
    palette = np.unique(lab_to_srgb(centers), axis=0)
    if (distinct.colors == distinct.colors[:, :1]).all():
        # The centres of a gray picture are gray up to rounding.
        palette = np.unique(palette[:, [1, 1, 1]], axis=0)
    return palette[np.argsort(srgb_to_lab(palette)[:, 0], kind="stable")]


def _merge_neighbours(distinct: _Distinct) -> tuple[Lab, npt.NDArray[np.float64]]:
    """Means in CIELAB, and pixel counts, of the colours in each cell of 4×4×4 sRGB levels.

    Every pixel counts, unlike in a random sample, and a photograph has 5,000 … 25,000 such cells.
    """
    red, green, blue = (distinct.colors >> 2).astype(np.intp).T
    _, cell = np.unique((red << 12) | (green << 6) | blue, return_inverse=True)
    weights = np.bincount(cell, distinct.counts).astype(np.float64)
    sums = [np.bincount(cell, distinct.counts * distinct.lab[:, axis]) for axis in range(3)]
    return (np.stack(sums, axis=1) / weights[:, None]).astype(np.float32), weights


def _nearest(points: Lab, palette: Lab) -> npt.NDArray[np.intp]:
    """Row of `palette` nearest to each of `points` by Euclidean distance, that is ΔE*ab 1976."""
    # |x - p|² without |x|², which is the same for all p.
    offsets = (palette * palette).sum(axis=1)
    factors = np.ascontiguousarray(-2 * palette.T)
    nearest = np.empty(len(points), np.intp)
    for start in range(0, len(points), 4096):
        block = slice(start, start + 4096)
        nearest[block] = (points[block] @ factors + offsets).argmin(axis=1)
    return nearest


# --- CIELAB ----------------------------------------------------------------------------------
# sRGB: IEC 61966-2-1:1999. CIELAB: CIE 15:2004. The white is D65 as the matrix's row sums give
# it, so that gray has a* = b* = 0.

_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_TO_XYZ /= _TO_XYZ.sum(axis=1, keepdims=True)
_LEVELS = np.arange(256) / 255
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4)
_KNEE = 6 / 29


def srgb_to_lab(colors: Colors) -> Lab:
    """CIELAB (D65) of uint8 sRGB colours `(N, 3)`: float32 L* in 0 … 100, a*, b*.

    >>> import numpy as np
    >>> srgb_to_lab(np.array([[255, 255, 255]], np.uint8)).round(2).tolist()
    [[100.0, 0.0, 0.0]]
    """
    linear = _LINEAR.astype(np.float32)[colors]
    ratio = [linear @ row for row in _TO_XYZ.astype(np.float32)]
    x, y, z = (
        np.where(t > _KNEE**3, np.cbrt(t), t / (3 * _KNEE**2) + 4 / 29).astype(np.float32)
        for t in ratio
    )
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def lab_to_srgb(lab: Lab) -> Colors:
    """The nearest uint8 sRGB colours to CIELAB values `(N, 3)`; colours outside are clipped."""
    values = np.asarray(lab, np.float64)
    y = (values[:, 0] + 16) / 116
    curve = np.stack([y + values[:, 1] / 500, y, y - values[:, 2] / 200], axis=1)
    ratio = np.where(curve > _KNEE, curve**3, 3 * _KNEE**2 * (curve - 4 / 29))
    linear = np.clip(ratio @ np.linalg.inv(_TO_XYZ).T, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8)


@functools.cache
def _sklearn() -> Any:
    """The scikit-learn module, imported late because that takes a noticeable time.

    Raises:
        CodecUnavailableError: It is missing.
    """
    try:
        import sklearn
        import sklearn.cluster
    except ImportError as error:
        raise CodecUnavailableError(
            f"The k-means codec needs scikit-learn (pip install scikit-learn): {error}"
        ) from error
    return sklearn
