"""Enlargement: was the whole picture interpolated from a smaller one, and which one was it?

An enlarged picture's rows are weighted sums of fewer rows, so what no such sums explain is rounding
alone. How large the picture was shows as a period in its second differences (A. Gallagher, CRV
2005; B. Mahdian, S. Saic, IEEE TIFS 2008); whether it was, in the least-squares residual on the
space of all enlargements from that size. A codec's grid is stretched by enlarging, and all its
signs with it; the picture from before, which the same least squares give, has them again.

Sizes are those of the whole picture: of a crop, or of an enlargement that was compressed, nothing
is told.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imagecompression.codec import Image
from imagecompression.evidence import wavelet_zeros
from imagecompression.evidence.jpeg_history import GRID_RATIO, jpeg_history, luma_of, windows_of
from imagecompression.thread_limit import one_thread

MIN_SIDE = 128

LEAST_FACTOR = 1.04
MOST_FACTOR = 4.0

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

_PEAK = 2.0  # least height of a period, in units of a flat spectrum's
_PEAKS = 16  # that are looked into
_WHOLE_FACTORS = (2, 3, 4)
_FIRST_TRIED = "bicubic"
_ALIKE = 1.01  # ratio of residuals that tell nothing apart
_STANDS_OUT = 0.9  # greatest ratio of the residual to that at the size beside
_ROWS, _COLUMNS = 256, 64  # looked at for a residual
_SOME_PIXELS = 1 << 19
_LEAST_COLUMNS = 16
_LEAST_FREE = 0.02
_SMOOTH = 15  # lines that give the usual size of second differences
_MARGIN = 8  # lines at the borders, where kernels differ
_RIDGE = 1e-6
_COLUMNS_AT_ONCE = 512

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


@dataclass(frozen=True)
class Kernel:
    """An interpolation.

    Attributes:
        weight: Of a sample, by its distance in samples.
        reach: Distance from which on it is 0.
    """

    weight: Callable[[Reals], Reals]
    reach: int


KERNELS = {
    "bilinear": Kernel(lambda x: np.maximum(0.0, 1 - np.abs(x)), 1),
    "bicubic": Kernel(_cubic(-0.5), 2),
    "sharp bicubic": Kernel(_cubic(-0.75), 2),
    "Mitchell": Kernel(_mitchell, 2),
    "Lanczos": Kernel(lambda x: np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0), 3),
}
"""Interpolations that are looked for: Pillow's are bilinear, bicubic and Lanczos, OpenCV's bilinear
and sharp bicubic, ImageMagick's and browsers' Mitchell's too."""

REPEATED = "nearest"
"""Interpolation that repeats lines, which needs no least squares to be seen."""


@dataclass(frozen=True)
class Enlargement:
    """From what size a picture comes nearest to having been enlarged.

    Attributes:
        height: Before, in pixels.
        width: The same.
        factor: Height now over height before.
        kernel: Name in `KERNELS`, or `REPEATED`.
        residual: Root mean square of what no picture of that size explains, by degree of freedom,
            in gray levels: down the columns, and along the rows.
        beside: Least ratio of that at a size one line larger or smaller to that at this size;
            infinite where lines were repeated.
        peakedness: The residual's kurtosis, the greater of both axes; 0 where lines were repeated.
    """

    height: int
    width: int
    factor: float
    kernel: str
    residual: tuple[float, float]
    beside: float
    peakedness: float

    @property
    def decisive(self) -> bool:
        """Whether the picture was enlarged, and nothing was done to it afterwards."""
        if self.kernel == REPEATED:
            return True
        low, high = sorted(self.residual)
        rounded = low <= ROUNDING and LEAST_ROUNDING <= high <= TWICE_ROUNDED
        return rounded and self.peakedness <= PEAKEDNESS and self.beside >= LEAD

    @property
    def reason(self) -> str:
        """A sentence on what a decisive residual shows."""
        return (
            f"Was enlarged by {self.factor:.2f} from {self.width}×{self.height} pixels "
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
            rows = _places(self.height, image.shape[0]).astype(np.intp)
            columns = _places(self.width, image.shape[1]).astype(np.intp)
            return np.ascontiguousarray(image[rows][:, columns])
        flat = _shrunk(image.reshape(len(image), -1), self.height, self.kernel)
        turned = flat.reshape(self.height, image.shape[1], -1).transpose(1, 0, 2)
        flat = _shrunk(turned.reshape(len(turned), -1), self.width, self.kernel)
        small = flat.reshape(self.width, self.height, -1).transpose(1, 0, 2)
        return np.ascontiguousarray(small.reshape(self.height, self.width, *image.shape[2:]))


def enlargement(image: Image) -> Enlargement | None:
    """The likeliest enlargement; None where no size comes near, or the picture is too small.

    Args:
        image: The whole picture, `uint8` `(H, W)` or `(H, W, 3)`.
    """
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIDE:
        return None
    repeated = _repetition(image)
    if repeated:
        return repeated
    planes = _both_ways(image)
    rows, columns = (_Axis.of(plane) for plane in planes)
    found = [
        _fitted(rows, columns, sizes)
        for sizes in _likely_sizes(*planes)
        if all(
            LEAST_FACTOR <= large / small <= MOST_FACTOR
            for large, small in zip((height, width), sizes, strict=True)
        )
    ]
    # An enlargement by three is nearly one by 1.5 too: the smallest picture explains most.
    best = min(
        (one for one in found if one), key=lambda one: (not one.decisive, one.height), default=None
    )
    return None if best is None or (best.decisive and _has_own_grid(image)) else best


def before_enlargement(image: Image, least_side: int) -> tuple[Image, Enlargement | None]:
    """The picture at the size at which a codec may have seen it.

    Args:
        image: The whole picture.
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


def _has_own_grid(image: Image) -> bool:
    """Whether the picture was a JPEG or JPEG 2000 at its present size.

    What they leave of a smooth picture may be nearly an enlargement, by 8/7 or 4/3.
    """
    if jpeg_history(image).vote_ratio >= GRID_RATIO:
        return True
    lumas = [luma_of(window) for window in windows_of(image, _SOME_PIXELS, multiple=16)]
    if min(min(luma.shape) for luma in lumas) < wavelet_zeros.MIN_SIDE:
        return False
    zeros = (wavelet_zeros.wavelet_zeros(lumas, wavelet) for wavelet in wavelet_zeros.WAVELETS)
    return wavelet_zeros.decisive([level.contrast for level in levels] for levels in zeros)


def _both_ways(image: Image) -> tuple[Image, Image]:
    """A gray picture, or the green of one in colour, `(H, W)`, and that turned."""
    plane = image if image.ndim == 2 else image[..., 1]
    return plane, plane.T


def _repetition(image: Image) -> Enlargement | None:
    """An enlargement by lines that are repeated, evenly."""
    sizes = []
    for plane in _both_ways(image):
        large = len(plane)
        small = _lines_repeated(_new_lines(plane))
        if small is None or not LEAST_FACTOR <= large / small <= MOST_FACTOR:
            return None
        sizes.append(small)
    height, width = sizes
    return Enlargement(height, width, len(image) / height, REPEATED, (0.0, 0.0), math.inf, 0.0)


def _lines_repeated(new: npt.NDArray[np.bool_]) -> int | None:
    """How many lines were repeated, from which ones are new `(H,)`; None where none were, evenly.

    A few more than there are new ones, because neighbours may have been equal before.
    """
    large, count = len(new), int(new.sum())
    for small in range(count, count + count // 50 + 2):
        places = _places(large, small)
        steps = np.diff(np.floor(places), prepend=-1) > 0
        halves = np.abs(places - np.rint(places)) < 1e-6  # where libraries differ
        steps[1:] |= halves[:-1]
        if (new & ~steps).sum() <= small // 100:
            return small
    return None


def _places(large: int, small: int) -> Reals:
    """Where the middles of `large` lines lie among `small` ones, `(large,)`: pixels are squares."""
    return (np.arange(large) + 0.5) * small / large


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
    """

    height: int
    first: int
    seen: Reals

    @classmethod
    def of(cls, plane: Image) -> _Axis:
        """The rows of a plane; its columns are those of the plane turned."""
        height = len(plane)
        first = max(_MARGIN, (height - _ROWS) // 2)
        seen = plane[first : min(first + _ROWS, height - _MARGIN)].astype(np.float32)
        detail = np.abs(np.diff(seen, 2, axis=0)).sum(axis=0)
        detail[(seen.min(axis=0) <= 0) | (seen.max(axis=0) >= 255)] = 0
        chosen = np.argsort(detail)[-_COLUMNS:]
        return cls(height, first, seen[:, chosen[detail[chosen] > 0]].astype(np.float64))


def _likely_sizes(plane: Image, turned: Image) -> list[tuple[int, int]]:
    """Sizes (height, width) that periods speak for, and whole fractions.

    Those of two have no period; those of others a short one, which a codec's grid may hide.
    """
    height, width = plane.shape
    sizes = {
        (height // whole, width // whole)
        for whole in _WHOLE_FACTORS
        if height % whole == width % whole == 0
    }
    count = 1 << (2 * max(height, width) - 1).bit_length()
    rows, columns = _spectrum(plane, count), _spectrum(turned, count)
    both = np.sqrt(rows * columns)
    apart = count // min(height, width) + 1
    both[: int((1 - 1 / LEAST_FACTOR) * count) - apart] = 0
    for _ in range(_PEAKS):
        peak = int(both.argmax())
        if both[peak] < _PEAK:
            break
        both[max(0, peak - 2 * apart) : peak + 2 * apart + 1] = 0
        near = slice(max(0, peak - apart), peak + apart + 1)
        shares = [(near.start + int(one[near].argmax())) / count for one in (rows, columns)]
        lines = round(shares[0] * height), round(shares[1] * width)
        sizes |= {(height - lines[0], width - lines[1]), lines}
    return sorted(sizes)


def _spectrum(plane: Image, count: int) -> Reals:
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


def _fitted(rows: _Axis, columns: _Axis, size: tuple[int, int]) -> Enlargement | None:
    """The kernel that explains the picture best as an enlargement from one size."""
    height, width = size
    # Any kernel, even a wrong one, explains the size better than that of a line more.
    first, beside = (_residual(rows, height + more, _FIRST_TRIED)[0] for more in (0, 1))
    if first > _STANDS_OUT * beside:
        return None
    fits = {}
    for name in KERNELS:
        down = _residual(rows, height, name)
        if down[0] <= TWICE_ROUNDED:
            fits[name] = (down, _residual(columns, width, name))
    if not fits:
        return None
    sums = {name: down[0] + across[0] for name, (down, across) in fits.items()}
    alike = [name for name, one in sums.items() if one <= _ALIKE * min(sums.values())]
    # Bilinear and bicubic enlargements by two are alike, but only one of them is of integers.
    name = min(alike, key=lambda name: _fraction(rows, height, name)) if alike[1:] else alike[0]
    down, across = fits[name]
    lead = min(
        _residual(lines, small + more, name)[0] / max(found, 1e-3)
        for lines, small, found in ((rows, height, down[0]), (columns, width, across[0]))
        for more in (-1, 1)
    )
    residual, peakedness = (down[0], across[0]), max(down[1], across[1])
    return Enlargement(height, width, rows.height / height, name, residual, lead, peakedness)


def _residual(axis: _Axis, lines: int, kernel: str) -> tuple[float, float]:
    """What no enlargement from `lines` rows explains.

    Returns:
        Its root mean square by degree of freedom, and its kurtosis; infinite where there are too
        few rows, or too few columns without clipped samples: sums may have been cut there.
    """
    matrix = _system(axis, lines, kernel)
    freedom = matrix.shape[0] - matrix.shape[1]
    if freedom < 1 or axis.seen.shape[1] < _LEAST_COLUMNS:
        return math.inf, math.inf
    basis, _ = np.linalg.qr(matrix)
    squares = (axis.seen - basis @ (basis.T @ axis.seen)) ** 2
    # The first scaling may have cut sums too, which the second hides: the worst columns go.
    order = np.argsort(squares.sum(axis=0))
    squares = squares[:, order[: len(order) * 3 // 4]]
    free = 1 - (basis**2).sum(axis=1)  # how much of a row's own error is left in it
    alike = squares[free > _LEAST_FREE] / free[free > _LEAST_FREE, np.newaxis]
    kurtosis = float((alike**2).mean() / max(float(alike.mean()) ** 2, 1e-12))
    return math.sqrt(float(squares.sum()) / (freedom * squares.shape[1])), kurtosis


def _fraction(axis: _Axis, lines: int, kernel: str) -> float:
    """Mean distance from integers of the samples whose enlargement comes nearest."""
    matrix = _system(axis, lines, kernel)
    samples = np.linalg.lstsq(matrix, axis.seen, rcond=None)[0][_MARGIN:-_MARGIN]
    return float(np.abs(samples - np.rint(samples)).mean())


def _system(axis: _Axis, lines: int, kernel: str) -> Reals:
    """What the axis's rows are made of, `(R, lines there)`."""
    last = axis.first + len(axis.seen)
    columns, weights = _weights(lines, axis.height, kernel, axis.first, last)
    start = int(columns.min())
    matrix = np.zeros((len(axis.seen), int(columns.max()) + 1 - start))
    np.put_along_axis(matrix, columns - start, weights, axis=1)
    return matrix[:, np.abs(matrix).max(axis=0) > 0]


def _weights(
    lines: int, height: int, kernel: str, first: int, last: int
) -> tuple[npt.NDArray[np.intp], Reals]:
    """Lines that rows `first` to `last` are made of, and their weights, `(R, 2·reach)`.

    At the borders weights of lines that there are sum to 1.
    """
    one = KERNELS[kernel]
    places = _places(height, lines)[first:last] - 0.5
    columns = np.floor(places).astype(np.intp)[:, np.newaxis] + np.arange(
        1 - one.reach, 1 + one.reach
    )
    weights = one.weight(places[:, np.newaxis] - columns)
    weights[(columns < 0) | (columns >= lines)] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    return columns, weights


def _shrunk(samples: npt.NDArray[np.uint8], lines: int, kernel: str) -> npt.NDArray[np.uint8]:
    """The `lines` rows whose enlargement comes nearest to `(H, N)`, rounded."""
    from scipy.sparse import csr_array, eye_array
    from scipy.sparse.linalg import splu

    height = len(samples)
    columns, weights = _weights(lines, height, kernel, 0, height)
    inside = (columns >= 0) & (columns < lines)
    rows = np.broadcast_to(np.arange(height)[:, np.newaxis], columns.shape)
    matrix = csr_array((weights[inside], (rows[inside], columns[inside])), shape=(height, lines))
    solver = splu((matrix.T @ matrix + _RIDGE * eye_array(lines)).tocsc())
    found = np.empty((lines, samples.shape[1]), np.uint8)
    for start in range(0, samples.shape[1], _COLUMNS_AT_ONCE):
        some = slice(start, start + _COLUMNS_AT_ONCE)
        solved = solver.solve(matrix.T @ samples[:, some].astype(np.float64))
        found[:, some] = np.clip(np.rint(solved), 0, 255)
    return found
