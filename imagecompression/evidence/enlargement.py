"""Enlargement: was the whole picture interpolated from a smaller one, and which one was it?

An enlarged picture's rows are weighted sums of fewer rows, so what no such sums explain is rounding
alone. How large the picture was shows as a period in its second differences (A. Gallagher, CRV
2005; B. Mahdian, S. Saic, IEEE TIFS 2008); whether it was, in the least-squares residual on the
space of all enlargements from that size. A codec's grid is stretched by enlarging, and all its
signs with it; the picture from before, which the same least squares give, has them again.

Of the whole picture any size is found. Of a crop, such as one of a screen, only the factors that
displays scale by (`SCREEN_FACTORS`) are looked for, at each place where the crop may begin. Of an
enlargement that was compressed nothing is told.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from imagecompression.codec import Image
from imagecompression.evidence import wavelet_zeros
from imagecompression.evidence.jpeg_history import GRID_RATIO, jpeg_history, luma_of, windows_of
from imagecompression.thread_limit import one_thread

MIN_SIDE = 128

LEAST_FACTOR = 1.04
MOST_FACTOR = 4.0

SCREEN_FACTORS = tuple(
    Fraction(*pair) for pair in ((5, 4), (4, 3), (3, 2), (7, 4), (2, 1), (5, 2), (3, 1))
)
"""By which displays and browsers enlarge: crops of such enlargements are recognised too."""

ROUNDING = 0.36
"""Greatest residual along the axis that was scaled last: rounding to integers has 0.29, and that of
sums that are halves as often as not a little more."""

TWICE_ROUNDED = 0.46
"""The same along the other axis, which rounding twice gives 0.42."""

LEAST_ROUNDING = 0.1
"""Least of both: below, there is nothing to see."""

PEAKEDNESS = 3.5
"""Greatest kurtosis of the residual; that of rounding errors is 1.8 to 3."""

LEAD = 1.5
"""Least ratio of the residual at sizes beside to that at the size found."""

TEXTURED_PEAKEDNESS = 3.2
BLANK_PEAKEDNESS = 8.0
BLANK_LEAD = 4.0
"""Blank parts have no residual, which makes that of all peaked. So of pictures with such parts: the
greatest kurtosis where the picture changes, and of all, and the least ratio."""

_PEAK = 2.0  # least height of a period, in units of a flat spectrum's
_PEAKS = 16  # that are looked into
_WHOLE_FACTORS = (2, 3, 4)
_FIRST_TRIED = "bicubic"
_LINES = 5  # lines within which a picture may change
_CHANGE = 4  # gray levels
_LEAST_CHANGING = 0.05  # share of the samples
_ALIKE = 1.01  # ratio of residuals that tell nothing apart
_CLEARER = 0.01  # least difference in wholeness that tells kernels apart
_STANDS_OUT = 0.9  # greatest ratio of the residual to that at the size beside
_ROWS, _COLUMNS = 256, 64  # looked at for a residual
_SOME_PIXELS = 1 << 19
_LEAST_COLUMNS = 16
_LEAST_FREE = 0.02
_SMOOTH = 15  # lines that give the usual size of second differences
_MARGIN = 8  # lines at the borders, where kernels differ
_RIDGE = 1e-6
_COLUMNS_AT_ONCE = 512
_UNITS = 64  # of a gray level, kept between the axes
_LIMIT = 400 * _UNITS  # of what is kept, in case that a solution runs away
_ROUNDED_TWICE = 1.12  # least ratio of both residuals where there was rounding between the axes
_EXACT = 1e-6

Reals = npt.NDArray[np.float64]


def _cubic(sharpness: float) -> Callable[[Reals], Reals]:
    """The cubic convolution of Keys (1981)."""

    def kernel(x: Reals) -> Reals:
        a, x = sharpness, np.abs(x)
        inner = (a + 2) * x**3 - (a + 3) * x**2 + 1
        return np.where(x < 1, inner, np.where(x < 2, a * (x**3 - 5 * x**2 + 8 * x - 4), 0.0))

    return kernel


def _mitchell(x: Reals) -> Reals:
    """The cubic of Mitchell and Netravali (1988)."""
    x = np.abs(x)
    inner = (21 * x**3 - 36 * x**2 + 16) / 18
    outer = (-7 * x**3 + 36 * x**2 - 60 * x + 32) / 18
    return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))


def _coarse_bilinear(x: Reals) -> Reals:
    """Linear interpolation at places in sixteenths, rounded down: Skia's on a CPU, in browsers."""
    before = 1 - np.floor(16 * x + _EXACT) / 16
    after = np.floor(16 * (x + 1) + _EXACT) / 16
    return np.clip(np.where(x >= 0, before, after), 0.0, 1.0)


@dataclass(frozen=True)
class Kernel:
    """An interpolation.

    Attributes:
        weight: Of a sample, by how far after it a place is, in samples.
        reach: Distance from which on it is 0.
        lost: By how much rounding makes samples smaller, in gray levels.
    """

    weight: Callable[[Reals], Reals]
    reach: int
    lost: float = 0.0


KERNELS = {
    "bilinear": Kernel(lambda x: np.maximum(0.0, 1 - np.abs(x)), 1),
    # Sums are rounded down. Not quite half of a level, because those of flat areas are whole.
    "coarse bilinear": Kernel(_coarse_bilinear, 1, lost=0.45),
    "bicubic": Kernel(_cubic(-0.5), 2),
    "sharp bicubic": Kernel(_cubic(-0.75), 2),
    "Mitchell": Kernel(_mitchell, 2),
    "Lanczos": Kernel(lambda x: np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0), 3),
}
"""Interpolations that are looked for: Pillow's are bilinear, bicubic and Lanczos, OpenCV's bilinear
and sharp bicubic, ImageMagick's Mitchell's too, Chromium's coarse bilinear."""

REPEATED = "nearest"
"""Interpolation that repeats lines, which needs no least squares to be seen."""


@dataclass(frozen=True)
class Scale:
    """How the lines of a picture lie among those from before; pixels are squares.

    Attributes:
        factor: Lines now for each before.
        cut: How many lines of the enlargement the first one seen comes after; None where the
            enlargement is seen whole, so that there was nothing beyond its borders.
        lines: Lines before, or of a crop those whose middles it holds.
    """

    factor: float
    cut: int | None
    lines: int

    @classmethod
    def whole(cls, large: int, small: int) -> Scale:
        """That of all `large` lines, made of `small` ones."""
        return cls(large / small, None, small)

    @classmethod
    def crop(cls, seen: int, factor: Fraction, cut: int) -> Scale:
        """That of `seen` lines after the first `cut` ones."""
        first, last = (math.ceil((cut + line) / factor - Fraction(1, 2)) for line in (0, seen))
        return cls(float(factor), cut, last - first)

    @property
    def first(self) -> int:
        """Number of the first line from before whose middle is seen."""
        return math.ceil((self.cut or 0) / self.factor - 0.5 - _EXACT)

    def places(self, first: int, last: int) -> Reals:
        """Where the middles of the lines from `first` to `last` lie among those before."""
        return np.asarray((np.arange(first, last) + (self.cut or 0) + 0.5) / self.factor)

    def weights(self, kernel: str, first: int, last: int) -> tuple[npt.NDArray[np.intp], Reals]:
        """Lines that those from `first` to `last` are made of, and weights, `(R, 2·reach)`.

        Of a crop they are counted from the first whose middle it holds, and may be beyond its
        borders. At borders that are seen, weights of lines that there are sum to 1.
        """
        one = KERNELS[kernel]
        places = self.places(first, last) - 0.5
        lines = np.floor(places).astype(np.intp)[:, np.newaxis] + np.arange(
            1 - one.reach, 1 + one.reach
        )
        weights = one.weight(places[:, np.newaxis] - lines)
        if self.cut is None:
            weights[(lines < 0) | (lines >= self.lines)] = 0
        weights /= weights.sum(axis=1, keepdims=True)
        return lines - self.first, weights

    def beside(self) -> list[Scale]:
        """Scales that explain nearly as much by chance: a line more or less."""
        if self.cut is None:
            seen = self.factor * self.lines
            return [Scale(seen / small, None, small) for small in (self.lines + 1, self.lines - 1)]
        return [Scale(self.factor, self.cut + more, self.lines) for more in (1, -1)]


@dataclass(frozen=True)
class Enlargement:
    """From what size a picture comes nearest to having been enlarged.

    Attributes:
        rows: How the rows lie among those before.
        columns: The same of the columns.
        kernel: Name in `KERNELS`, or `REPEATED`.
        residual: Root mean square of what no picture of that size explains, by degree of freedom,
            in gray levels: down the columns, and along the rows.
        beside: Least ratio of that at scales beside (`Scale.beside`) to that at this one; infinite
            where lines were repeated.
        peakedness: The residual's kurtosis, the greater of both axes; 0 where lines were repeated.
        textured: The same where the picture changes from line to line; infinite where it hardly
            does.
    """

    rows: Scale
    columns: Scale
    kernel: str
    residual: tuple[float, float]
    beside: float
    peakedness: float
    textured: float

    @property
    def height(self) -> int:
        """Before, in pixels."""
        return self.rows.lines

    @property
    def width(self) -> int:
        """Before, in pixels."""
        return self.columns.lines

    @property
    def factor(self) -> float:
        """Height now over height before."""
        return self.rows.factor

    @property
    def is_whole(self) -> bool:
        """Whether all of the enlargement is seen."""
        return self.rows.cut is None and self.columns.cut is None

    @property
    def decisive(self) -> bool:
        """Whether the picture was enlarged, and nothing was done to it afterwards."""
        if self.kernel == REPEATED:
            return True
        low, high = sorted(self.residual)
        rounded = low <= ROUNDING and LEAST_ROUNDING <= high <= TWICE_ROUNDED
        even = self.peakedness <= PEAKEDNESS and self.beside >= LEAD
        blank = (
            self.textured <= TEXTURED_PEAKEDNESS
            and self.peakedness <= BLANK_PEAKEDNESS
            and self.beside >= BLANK_LEAD
        )
        return rounded and (even or blank)

    @property
    def reason(self) -> str:
        """A sentence on what a decisive residual shows."""
        crop = "" if self.is_whole else "Is a crop of what "
        was = "was" if crop else "Was"
        return (
            f"{crop}{was} enlarged by {self.factor:.2f} from {self.width}×{self.height} pixels "
            f"({self.kernel}); signs and verdict are of the picture before."
        )

    def undone(self, image: Image) -> Image:
        """The picture from before, by least squares.

        Args:
            image: The picture that was measured, `(H, W)` or `(H, W, 3)`.

        Returns:
            `uint8`, `(height, width)` or `(height, width, 3)`.
        """
        if self.kernel == REPEATED:
            rows, columns = (
                _copies(scale, side)
                for scale, side in zip((self.rows, self.columns), image.shape, strict=False)
            )
            return np.ascontiguousarray(image[rows][:, columns])
        scales, lost = (self.rows, self.columns), KERNELS[self.kernel].lost
        # What was scaled last, and so was not rounded twice, is undone first.
        first, second = (0, 1) if self.residual[0] <= self.residual[1] else (1, 0)
        found = _along(image, first, scales[first], self.kernel, lost)
        if _is_rounded_twice(*self.residual):
            found = _rounded(found) * _UNITS
        found = _rounded(_along(found, second, scales[second], self.kernel, units=_UNITS))
        return np.ascontiguousarray(np.clip(found, 0, 255), np.uint8)


def enlargement(image: Image) -> Enlargement | None:
    """The likeliest enlargement; None where no size comes near, or the picture is too small.

    Args:
        image: The picture, `uint8` `(H, W)` or `(H, W, 3)`.
    """
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIDE:
        return None
    repeated = _repetition(image)
    if repeated:
        return repeated
    planes = _both_ways(image)
    middle = _Middle.of(*planes)
    spectrum = _Spectrum.of(*planes)
    found = [
        _whole_fitted(middle, sizes)
        for sizes in _likely_sizes(height, width, spectrum)
        if all(
            LEAST_FACTOR <= large / small <= MOST_FACTOR
            for large, small in zip((height, width), sizes, strict=True)
        )
    ]
    if not any(one and one.decisive for one in found):
        found += [_crop_fitted(middle, factor) for factor in _likely_factors(spectrum)]
    # An enlargement by three is nearly one by 1.5 too: the smallest picture explains most.
    best = min(
        (one for one in found if one), key=lambda one: (not one.decisive, one.height), default=None
    )
    return None if best is None or (best.decisive and _has_own_grid(image, best)) else best


def before_enlargement(image: Image, least_side: int) -> tuple[Image, Enlargement | None]:
    """The picture at the size at which a codec may have seen it.

    Args:
        image: The picture.
        least_side: A smaller picture from before is not made.

    Returns:
        The picture from before and what shows that it was enlarged, or `image` and None.
    """
    if image.dtype != np.uint8 or not (
        image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    ):
        return image, None
    with one_thread():  # small matrices: more threads would only wait for each other
        found = enlargement(image)
        if found is None or not found.decisive or min(found.height, found.width) < least_side:
            return image, None
        return found.undone(image), found


def _has_own_grid(image: Image, found: Enlargement) -> bool:
    """Whether the picture was a JPEG or JPEG 2000 at its present size.

    What they leave of a smooth picture may be nearly an enlargement, by 8/7 or 4/3. But one by two
    of a JPEG has its grid too, at every other place; that of the picture from before is clearer.
    """
    clearness = jpeg_history(image).vote_ratio
    if clearness >= GRID_RATIO:
        return jpeg_history(found.undone(image)).vote_ratio <= clearness
    lumas = [luma_of(window) for window in windows_of(image, _SOME_PIXELS, multiple=16)]
    if min(min(luma.shape) for luma in lumas) < wavelet_zeros.MIN_SIDE:
        return False
    return wavelet_zeros.decisive(
        wavelet_zeros.wavelet_zeros(lumas, wavelet) for wavelet in wavelet_zeros.WAVELETS
    )


def _both_ways(image: Image) -> tuple[Image, Image]:
    """A gray picture, or the green of one in colour, `(H, W)`, and that turned."""
    plane = image if image.ndim == 2 else image[..., 1]
    return plane, plane.T


def _repetition(image: Image) -> Enlargement | None:
    """An enlargement by lines that are repeated, evenly."""
    rows, columns = (_lines_repeated(_new_lines(plane)) for plane in _both_ways(image))
    if rows is None or columns is None:
        return None
    return Enlargement(rows, columns, REPEATED, (0.0, 0.0), math.inf, 0.0, 0.0)


def _lines_repeated(new: npt.NDArray[np.bool_]) -> Scale | None:
    """How lines were repeated, from which ones are new `(H,)`; None where none were, evenly."""
    large, count = len(new), int(new.sum())
    if not LEAST_FACTOR <= large / max(count, 1) <= MOST_FACTOR:
        return None
    # A few more than there are new ones, because neighbours may have been equal before.
    scales = [Scale.whole(large, small) for small in range(count, count + count // 50 + 2)]
    scales += [
        Scale.crop(large, factor, cut)
        for factor in SCREEN_FACTORS
        if abs(large / factor - count) <= count // 50 + 2
        for cut in range(factor.numerator)
    ]
    best, fewest = None, large
    for scale in scales:
        places = scale.places(0, large)
        steps = np.diff(np.floor(places), prepend=-1) > 0
        maybe = steps.copy()
        halves = np.abs(places - np.rint(places)) < _EXACT  # where libraries differ
        maybe[1:] |= halves[:-1]
        surplus, missing = int((new & ~maybe).sum()), int((steps & ~halves & ~new).sum())
        if surplus <= scale.lines // 100 and surplus + missing < fewest:
            best, fewest = scale, surplus + missing
    return best


def _copies(scale: Scale, seen: int) -> npt.NDArray[np.intp]:
    """A line that is a copy of each line from before: the one nearest to its middle."""
    middles = (np.arange(scale.lines) + scale.first + 0.5) * scale.factor - (scale.cut or 0)
    return np.clip(np.ceil(middles - 1 - _EXACT).astype(np.intp), 0, seen - 1)


def _new_lines(plane: Image) -> npt.NDArray[np.bool_]:
    """Which rows are not equal to the one above, `(H,)`."""
    return np.append(True, (plane[1:] != plane[:-1]).any(axis=1))


@dataclass(frozen=True)
class _Axis:
    """Rows in the middle of a picture.

    Attributes:
        height: Of the picture.
        first: The first row.
        seen: The columns of most detail without clipped samples, where sums may have been cut,
            `(R, C)`.
        changing: Where they change, `(R, C)`.
    """

    height: int
    first: int
    seen: Reals
    changing: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, plane: Image) -> _Axis:
        """The rows of a plane; its columns are those of the plane turned."""
        height = len(plane)
        first = max(_MARGIN, (height - _ROWS) // 2)
        seen = plane[first : min(first + _ROWS, height - _MARGIN)].astype(np.float32)
        detail = np.abs(np.diff(seen, 2, axis=0)).sum(axis=0)
        detail[(seen.min(axis=0) <= 0) | (seen.max(axis=0) >= 255)] = 0
        chosen = np.argsort(detail)[-_COLUMNS:]
        detailed = seen[:, chosen[detail[chosen] > 0]].astype(np.float64)
        around = np.pad(detailed, ((_LINES // 2, _LINES // 2), (0, 0)), mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(around, _LINES, axis=0)
        return cls(height, first, detailed, windows.max(-1) - windows.min(-1) >= _CHANGE)


@dataclass(frozen=True)
class _Middle:
    """The middle of a picture.

    Attributes:
        rows: Down the columns.
        columns: Along the rows.
        block: All samples in both, `(R, C)`.
    """

    rows: _Axis
    columns: _Axis
    block: Reals

    @classmethod
    def of(cls, plane: Image, turned: Image) -> _Middle:
        """That of a plane, also given turned."""
        rows, columns = _Axis.of(plane), _Axis.of(turned)
        down, across = (slice(axis.first, axis.first + len(axis.seen)) for axis in (rows, columns))
        return cls(rows, columns, plane[down, across].astype(np.float64))


@dataclass(frozen=True)
class _Spectrum:
    """How clearly the second differences have each period, down the columns and along the rows.

    Attributes:
        count: Frequency k is k / `count` cycles a line.
        rows: About 1 where there is no period, `(count // 2 + 1,)`.
        columns: The same along the rows.
        apart: Frequencies nearer than this are one.
    """

    count: int
    rows: Reals
    columns: Reals
    apart: int

    @classmethod
    def of(cls, plane: Image, turned: Image) -> _Spectrum:
        """That of a plane, also given turned."""
        count = 1 << (2 * max(plane.shape) - 1).bit_length()
        rows, columns = (_periods(one, count) for one in (plane, turned))
        return cls(count, rows, columns, count // min(plane.shape) + 1)

    @property
    def both(self) -> Reals:
        """Of both axes, without the low frequencies."""
        found = np.sqrt(self.rows * self.columns)
        found[: int((1 - 1 / LEAST_FACTOR) * self.count) - self.apart] = 0
        return found


def _likely_sizes(height: int, width: int, spectrum: _Spectrum) -> list[tuple[int, int]]:
    """Sizes (height, width) that periods speak for, and those of whole factors and of displays'.

    Twice the size has no period; others may have one that a codec's grid hides.
    """
    sizes = {
        (height // whole, width // whole)
        for whole in _WHOLE_FACTORS
        if height % whole == width % whole == 0
    }
    sizes |= {(round(height / factor), round(width / factor)) for factor in SCREEN_FACTORS}
    count, apart, both = spectrum.count, spectrum.apart, spectrum.both
    for _ in range(_PEAKS):
        peak = int(both.argmax())
        if both[peak] < _PEAK:
            break
        both[max(0, peak - 2 * apart) : peak + 2 * apart + 1] = 0
        near = slice(max(0, peak - apart), peak + apart + 1)
        shares = [
            (near.start + int(one[near].argmax())) / count
            for one in (spectrum.rows, spectrum.columns)
        ]
        lines = round(shares[0] * height), round(shares[1] * width)
        sizes |= {(height - lines[0], width - lines[1]), lines}
    return sorted(sizes)


def _likely_factors(spectrum: _Spectrum) -> list[Fraction]:
    """Those of `SCREEN_FACTORS` that have their period, or a whole one, which needs none."""
    both = spectrum.both
    found = []
    for factor in SCREEN_FACTORS:
        share = float(1 / factor)
        at = round(min(share, 1 - share) * spectrum.count)
        near = both[max(0, at - spectrum.apart) : at + spectrum.apart + 1]
        if factor.denominator == 1 or near.max() >= _PEAK:
            found.append(factor)
    return found


def _periods(plane: Image, count: int) -> Reals:
    """How clearly the second differences down the columns have each period.

    Returns:
        `(count // 2 + 1,)` for frequencies from 0 to half a cycle a line, about 1 where there is no
        period.
    """
    some = plane[:, :: max(1, plane.shape[1] // 256)].astype(np.float32)
    sizes = np.abs(some[2:] - 2 * some[1:-1] + some[:-2]).mean(axis=1, dtype=np.float64)
    padded = np.pad(sizes, _SMOOTH // 2, mode="reflect")
    usual = np.convolve(padded, np.full(_SMOOTH, 1 / _SMOOTH), "valid")
    surplus = sizes / np.maximum(usual, 1e-3) - 1
    window = np.hanning(len(surplus))
    power = max(float((window**2).sum() * surplus.var()), 1e-12)
    return np.asarray(np.abs(np.fft.rfft(surplus * window, count)) / math.sqrt(power))


def _whole_fitted(middle: _Middle, size: tuple[int, int]) -> Enlargement | None:
    """The enlargement from one size that explains the picture best."""
    rows, columns = middle.rows, middle.columns
    down, across = map(Scale.whole, (rows.height, columns.height), size)
    # Any kernel, even a wrong one, explains the size better than that of a line more.
    first, beside = (_residual(rows, one, _FIRST_TRIED)[0] for one in (down, down.beside()[0]))
    return None if first > _STANDS_OUT * beside else _fitted(middle, down, across)


def _crop_fitted(middle: _Middle, factor: Fraction) -> Enlargement | None:
    """The crop of an enlargement by a factor that explains the picture best."""
    scales = []
    for axis in (middle.rows, middle.columns):
        cuts = [Scale.crop(axis.height, factor, cut) for cut in range(factor.numerator)]
        residuals = [_residual(axis, scale, _FIRST_TRIED)[0] for scale in cuts]
        best, second = sorted(residuals)[:2]
        if best > _STANDS_OUT * second:
            return None
        scales.append(cuts[residuals.index(best)])
    return _fitted(middle, *scales)


def _fitted(middle: _Middle, down: Scale, across: Scale) -> Enlargement | None:
    """The kernel that explains the picture best as an enlargement with given scales."""
    rows, columns = middle.rows, middle.columns
    fits = {}
    for name in KERNELS:
        fit = _residual(rows, down, name)
        if fit[0] <= TWICE_ROUNDED:
            fits[name] = (fit, _residual(columns, across, name))
    if not fits:
        return None
    sums = {name: fit[0] + turned[0] for name, (fit, turned) in fits.items()}
    alike = [name for name, one in sums.items() if one <= _ALIKE * min(sums.values())]
    name = alike[0]
    if alike[1:]:
        # Bilinear and bicubic enlargements by two are alike, but only one of them is of integers.
        twice = _is_rounded_twice(*(one[0] for one in fits[name]))
        whole = {
            one: _wholeness(middle, (down, across), one, twice)
            for one in alike
            if not (twice and KERNELS[one].lost)  # sums are rounded down once, not along each axis
        }
        clearest = max(whole, key=lambda one: whole[one])
        if name not in whole or whole[clearest] > whole[name] + _CLEARER:
            name = clearest
    fit, turned = fits[name]
    lead = min(
        _residual(axis, beside, name)[0] / max(found, 1e-3)
        for axis, scale, found in ((rows, down, fit[0]), (columns, across, turned[0]))
        for beside in scale.beside()
    )
    peakedness, textured = max(fit[1], turned[1]), max(fit[2], turned[2])
    return Enlargement(down, across, name, (fit[0], turned[0]), lead, peakedness, textured)


def _residual(axis: _Axis, scale: Scale, kernel: str) -> tuple[float, float, float]:
    """What no enlargement with that scale explains.

    Returns:
        Its root mean square by degree of freedom, its kurtosis, and that where the picture changes;
        infinite where there are too few rows, or too few columns without clipped samples: sums may
        have been cut there.
    """
    matrix = _system(axis, scale, kernel)
    freedom = matrix.shape[0] - matrix.shape[1]
    if freedom < 1 or axis.seen.shape[1] < _LEAST_COLUMNS:
        return math.inf, math.inf, math.inf
    basis, _ = np.linalg.qr(matrix)
    squares = (axis.seen - basis @ (basis.T @ axis.seen)) ** 2
    # The first scaling may have cut sums too, which the second hides: the worst columns go.
    order = np.argsort(squares.sum(axis=0))
    kept = order[: len(order) * 3 // 4]
    squares = squares[:, kept]
    free = 1 - (basis**2).sum(axis=1)  # how much of a row's own error is left in it
    rows = free > _LEAST_FREE
    alike = squares[rows] / free[rows, np.newaxis]
    textured = alike[axis.changing[rows][:, kept]]
    enough = textured.size >= _LEAST_CHANGING * alike.size
    rms = math.sqrt(float(squares.sum()) / (freedom * squares.shape[1]))
    return rms, _kurtosis(alike), _kurtosis(textured) if enough else math.inf


def _kurtosis(squares: Reals) -> float:
    """That of samples of mean 0, from their squares."""
    return float((squares**2).mean() / max(float(squares.mean()) ** 2, 1e-12))


def _is_rounded_twice(*residuals: float) -> bool:
    """Whether there was rounding between the axes, from the residuals along both."""
    return max(residuals) >= _ROUNDED_TWICE * min(residuals)


def _wholeness(middle: _Middle, scales: tuple[Scale, Scale], kernel: str, twice: bool) -> float:
    """How near to integers the samples are whose enlargement comes nearest, from -1 to 1.

    Args:
        middle: Of the picture.
        scales: Down the columns and along the rows.
        kernel: Name in `KERNELS`.
        twice: Whether there was rounding between the axes too, so that the first gives integers.
    """
    axes = (middle.rows, middle.columns)
    down, across = (_system(axis, scale, kernel) for axis, scale in zip(axes, scales, strict=True))
    seen = (middle.rows.seen if twice else middle.block) + KERNELS[kernel].lost
    samples = _inside(np.linalg.lstsq(down, seen, rcond=None)[0])
    if not twice:
        samples = _inside(np.linalg.lstsq(across, samples.T, rcond=None)[0])
    return float(np.cos(2 * np.pi * samples).mean())


def _inside(samples: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """Without the lines at the borders, which are less certain."""
    return samples[_MARGIN:-_MARGIN]


def _system(axis: _Axis, scale: Scale, kernel: str) -> Reals:
    """What the axis's rows are made of, `(R, lines there)`."""
    lines, weights = scale.weights(kernel, axis.first, axis.first + len(axis.seen))
    start = int(lines.min())
    matrix = np.zeros((len(axis.seen), int(lines.max()) + 1 - start))
    np.put_along_axis(matrix, lines - start, weights, axis=1)
    return matrix[:, np.abs(matrix).max(axis=0) > 0]


def _along(
    samples: npt.NDArray[np.integer[Any]],
    axis: int,
    scale: Scale,
    kernel: str,
    lost: float = 0.0,
    units: int = 1,
) -> npt.NDArray[np.int16]:
    """`_shrunk` down the columns (0) or along the rows (1) of `(H, W)` or `(H, W, C)`."""
    turned = np.moveaxis(samples, axis, 0)
    flat = _shrunk(turned.reshape(len(turned), -1), scale, kernel, lost, units)
    return np.moveaxis(flat.reshape(scale.lines, *turned.shape[1:]), 0, axis)


def _rounded(samples: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """Whole gray levels, of samples in units of 1 / `_UNITS` of one."""
    return (samples + _UNITS // 2) // _UNITS


def _shrunk(
    samples: npt.NDArray[np.integer[Any]], scale: Scale, kernel: str, lost: float, units: int
) -> npt.NDArray[np.int16]:
    """The lines from before whose enlargement comes nearest to `(H, N)`.

    Args:
        samples: The lines now.
        scale: How they lie.
        kernel: Name in `KERNELS`.
        lost: What is to be added to each sample, in gray levels.
        units: Of a gray level, that the samples count.

    Returns:
        `(lines, N)`, in units of 1 / `_UNITS` of a gray level.
    """
    from scipy.sparse import csr_array, eye_array
    from scipy.sparse.linalg import splu

    height = len(samples)
    lines, weights = scale.weights(kernel, 0, height)
    rows = np.broadcast_to(np.arange(height)[:, np.newaxis], lines.shape)
    inside = weights != 0
    start = min(int(lines[inside].min()), 0)
    count = max(int(lines[inside].max()) + 1, scale.lines) - start
    matrix = csr_array(
        (weights[inside], (rows[inside], lines[inside] - start)), shape=(height, count)
    )
    solver = splu((matrix.T @ matrix + _RIDGE * eye_array(count)).tocsc())
    found = np.empty((scale.lines, samples.shape[1]), np.int16)
    for first in range(0, samples.shape[1], _COLUMNS_AT_ONCE):
        some = slice(first, first + _COLUMNS_AT_ONCE)
        levels = samples[:, some].astype(np.float64) / units + lost
        solved = solver.solve(matrix.T @ levels)[-start : scale.lines - start]
        found[:, some] = np.clip(np.rint(solved * _UNITS), -_LIMIT, _LIMIT)
    return found
