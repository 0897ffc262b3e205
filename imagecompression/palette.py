"""Choosing a palette: colours counted, first centres, weighted k-means, nearest entries.

All but counting takes time by the number of different colours, not of pixels.

Wu: X. Wu, "Efficient statistical computations for optimal color quantization", Graphics Gems II,
1991. k-means++: D. Arthur, S. Vassilvitskii, SODA 2007. k-means: S. Lloyd, "Least squares
quantization in PCM", IEEE Transactions on Information Theory 28, 1982.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imagecompression.codec import Image
from imagecompression.color_space import COLOR_SPACES, Colors, Points

Weights = npt.NDArray[np.float64]

_BLOCK_PIXELS = 2**22
"""Pixels that are worked on at once, so that memory does not grow with the picture."""
_MOST_COLORS = 2**15
"""k-means sees means of neighbouring colours where there are more colours than this."""
_MOST_CUBES = 2**16
"""The means are of larger neighbourhoods where there are more than this."""
_ROUNDS = 10
"""Rounds of k-means at a time; more for few centres, where they cost little."""
_RELOCATIONS = 4
_FINE_COLORS = 2**18
"""The last rounds of k-means see every colour where there are no more than this."""
_FINE_ROUNDS = 3
_WU_CELLS = 32
"""Wu's histogram has so many cells along each axis."""


def packed_rows(image: Image) -> Iterator[tuple[slice, npt.NDArray[np.uint32]]]:
    """Blocks of rows with their pixels as R·2¹⁶ + G·2⁸ + B; gray has R = G = B."""
    height, width = image.shape[:2]
    rows = max(1, _BLOCK_PIXELS // width)
    for top in range(0, height, rows):
        block = image[top : top + rows]
        if image.ndim == 2:
            red = green = blue = block.astype(np.uint32)
        else:
            red, green, blue = (block[..., channel].astype(np.uint32) for channel in range(3))
        packed = (red << 16) | (green << 8) | blue
        yield slice(top, top + rows), packed.astype(np.uint32, copy=False)


@dataclass(frozen=True, eq=False)
class ColorHistogram:
    """The N different colours of a picture.

    Attributes:
        packed: R·2¹⁶ + G·2⁸ + B of each, rising, uint32 `(N,)`.
        counts: Number of pixels of each, `(N,)`.
    """

    packed: npt.NDArray[np.uint32]
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, image: Image) -> ColorHistogram:
        """Count the colours of `image`."""
        if image.shape[0] * image.shape[1] <= _BLOCK_PIXELS:
            (_, packed), *_ = packed_rows(image)
            values, counts = np.unique(packed, return_counts=True)
            return cls(values, counts)
        table = np.zeros(2**24, np.uint32)
        for _, packed in packed_rows(image):
            values, counts = np.unique(packed, return_counts=True)
            table[values] += counts.astype(np.uint32)
        values = np.flatnonzero(table).astype(np.uint32)
        return cls(values, table[values].astype(np.int64))

    def colors(self) -> Colors:
        """The colours, uint8 `(N, 3)`."""
        return unpacked(self.packed)

    def is_gray(self) -> bool:
        """Whether R = G = B in every colour."""
        return bool((self.packed == (self.packed & 255) * 0x10101).all())


def unpacked(packed: npt.NDArray[np.uint32]) -> Colors:
    """uint8 `(N, 3)` of R·2¹⁶ + G·2⁸ + B."""
    return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=1).astype(np.uint8)


def nearest_entry(points: Points, palette: Points) -> npt.NDArray[np.intp]:
    """Row of `palette` nearest to each point, by Euclidean distance; the first of equal ones."""
    # |x - p|² without |x|², which is the same for all p.
    offsets = (palette * palette).sum(axis=1)
    factors = np.ascontiguousarray(-2 * palette.T)
    nearest = np.empty(len(points), np.intp)
    for start in range(0, len(points), 2048):
        block = slice(start, start + 2048)
        nearest[block] = (points[block] @ factors + offsets).argmin(axis=1)
    return nearest


def cluster_points(histogram: ColorHistogram, space: str) -> tuple[Points, Weights]:
    """What k-means sees: the colours, or means of those in each small cube of sRGB levels.

    Every pixel counts, unlike in a random sample. A photograph has 5,000 … 20,000 cubes of
    4×4×4 levels; where there are more than `_MOST_CUBES`, cubes of 8×8×8 are taken.
    """
    of_srgb = COLOR_SPACES[space].of_srgb
    if len(histogram.packed) <= _MOST_COLORS:
        return of_srgb(histogram.colors()), histogram.counts.astype(np.float64)
    for shift in (2, 3):
        side = 256 >> shift
        weights = np.zeros(side**3)
        sums = np.zeros((3, side**3))
        for start in range(0, len(histogram.packed), _BLOCK_PIXELS):
            block = slice(start, start + _BLOCK_PIXELS)
            colors, counts = unpacked(histogram.packed[block]), histogram.counts[block]
            red, green, blue = (colors >> shift).astype(np.intp).T
            cube = (red * side + green) * side + blue
            weights += np.bincount(cube, counts, side**3)
            points = of_srgb(colors)
            for axis in range(3):
                sums[axis] += np.bincount(cube, counts * points[:, axis], side**3)
        used = weights > 0
        if used.sum() <= _MOST_CUBES:
            break
    return (sums[:, used] / weights[used]).T.astype(np.float32), weights[used]


def wu_centers(points: Points, weights: Weights, count: int) -> Points:
    """At most `count` means of boxes, cut so that the sum of squared distances falls most.

    As in Wu's paper the best of all cuts across a box is taken from cumulative moments. The box to
    cut next is the one whose cut gains most; the paper takes the one of largest variance.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    scale = _WU_CELLS / np.maximum(high - low, 1e-9)
    cells = np.minimum(((points - low) * scale).astype(np.intp), _WU_CELLS - 1)
    flat = (cells[:, 0] * _WU_CELLS + cells[:, 1]) * _WU_CELLS + cells[:, 2]
    # moments[m, x, y, z]: pixels and sums of the three coordinates in cells below (x, y, z).
    moments = np.zeros((4, *[_WU_CELLS + 1] * 3))
    for moment, values in enumerate((weights, *(weights * points.T))):
        summed = np.bincount(flat, values, _WU_CELLS**3).reshape([_WU_CELLS] * 3)
        moments[moment, 1:, 1:, 1:] = summed.cumsum(0).cumsum(1).cumsum(2)

    whole = ((0, 0, 0), (_WU_CELLS,) * 3)
    queue = [(*_best_cut(moments, *whole), *whole)]
    finished: list[tuple[Corner, Corner]] = []
    while queue and len(queue) + len(finished) < count:
        loss, axis, cut, low_corner, high_corner = heapq.heappop(queue)
        if loss >= 0:
            finished.append((low_corner, high_corner))
            continue
        middle_high = tuple(cut if a == axis else high_corner[a] for a in range(3))
        middle_low = tuple(cut if a == axis else low_corner[a] for a in range(3))
        for box in ((low_corner, middle_high), (middle_low, high_corner)):
            heapq.heappush(queue, (*_best_cut(moments, *box), *box))
    boxes = finished + [entry[3:] for entry in queue]
    sums = np.array([_box_moments(moments, *box) for box in boxes])
    return (sums[:, 1:] / sums[:, :1]).astype(np.float32)


Corner = tuple[int, ...]


def _best_cut(moments: Weights, low: Corner, high: Corner) -> tuple[float, int, int]:
    """(minus the fall of the squared error, axis, position) of the best cut across a box."""
    best = (0.0, 0, 0)
    for axis in range(3):
        if high[axis] - low[axis] < 2:
            continue
        table = np.moveaxis(moments, axis + 1, 1)[:, low[axis] : high[axis] + 1]
        b, c = (a for a in range(3) if a != axis)
        below = (
            table[:, :, high[b], high[c]]
            - table[:, :, low[b], high[c]]
            - table[:, :, high[b], low[c]]
            + table[:, :, low[b], low[c]]
        )
        below = below - below[:, :1]
        whole, left = below[:, -1:], below[:, 1:-1]
        right = whole - left
        # Weights are whole numbers, so the differences are exact.
        cuts = np.flatnonzero((left[0] > 0) & (right[0] > 0))
        if not len(cuts):
            continue
        left, right = left[:, cuts], right[:, cuts]
        kept = (left[1:] ** 2).sum(axis=0) / left[0] + (right[1:] ** 2).sum(axis=0) / right[0]
        place = int(kept.argmax())
        loss = float((whole[1:] ** 2).sum() / whole[0, 0] - kept[place])
        if loss < best[0]:
            best = (loss, axis, low[axis] + 1 + int(cuts[place]))
    return best


def _box_moments(moments: Weights, low: Corner, high: Corner) -> Weights:
    """Pixels and coordinate sums of a box, `(4,)`, by inclusion and exclusion."""
    corners = moments[np.ix_(range(4), *[(low[a], high[a]) for a in range(3)])]
    for _ in range(3):
        corners = corners[:, 1] - corners[:, 0]
    return corners


def kmeans_plus_plus_centers(points: Points, weights: Weights, count: int, seed: int) -> Points:
    """`count` of the points, drawn by k-means++ (greedy) with scikit-learn."""
    import sklearn.cluster

    centers, _ = sklearn.cluster.kmeans_plusplus(
        points, min(count, len(points)), sample_weight=weights, random_state=seed
    )
    return centers


def refined(points: Points, weights: Weights, centers: Points, rounds: int) -> Points:
    """Centres after up to `rounds` rounds of Lloyd's k-means, fewer where nothing changes.

    A centre that no point is nearest to moves to one of the points with the largest error.
    """
    weighted = weights * points.T.astype(np.float64)
    before: npt.NDArray[np.intp] | None = None
    for _ in range(rounds):
        nearest = nearest_entry(points, centers)
        if before is not None and np.array_equal(nearest, before):
            break
        before = nearest
        size = np.bincount(nearest, weights, len(centers))
        sums = np.stack([np.bincount(nearest, axis, len(centers)) for axis in weighted], axis=1)
        moved = (sums / np.maximum(size, 1)[:, None]).astype(np.float32)
        empty = np.flatnonzero(size == 0)
        if len(empty):
            error = weights * ((points - centers[nearest]) ** 2).sum(axis=1)
            moved[empty] = points[np.argsort(-error, kind="stable")[: len(empty)]]
        centers = moved
    return centers


def relocated(
    points: Points, weights: Weights, centers: Points, trials: int, rounds: int
) -> Points:
    """Centres after the least useful have moved to where the error is largest.

    k-means alone stops at a local optimum: some clusters are crowded, others spread wide. Here an
    eighth of the centres, those that would be missed least, move beside those with the largest
    error, and k-means runs again; where that is no better, half as many are tried. After
    B. Fritzke, "The LBG-U method for vector quantization", Neural Processing Letters 5, 1997,
    which moves one at a time.
    """
    count = len(centers)
    moves = max(1, count // 8)
    nearest, error, removal = _errors(points, weights, centers)
    for _ in range(trials):
        least_missed = np.argsort(np.bincount(nearest, removal, count), kind="stable")
        worst = np.argsort(-np.bincount(nearest, error, count), kind="stable")
        sources = least_missed[:moves]
        goals = worst[~np.isin(worst, sources)][:moves]
        trial = centers.copy()
        for source, goal in zip(sources, goals, strict=False):
            members = nearest == goal
            offsets = (points[members] - centers[goal]).astype(np.float64)
            covariance = (offsets.T * weights[members]) @ offsets / weights[members].sum()
            variances, axes = np.linalg.eigh(covariance)
            half = np.sqrt(max(variances[-1], 0)) * axes[:, -1]
            trial[source], trial[goal] = centers[goal] + half, centers[goal] - half
        trial = refined(points, weights, trial, rounds)
        found = _errors(points, weights, trial)
        if found[1].sum() < error.sum():
            centers, (nearest, error, removal) = trial, found
        elif moves == 1:
            break
        else:
            moves //= 2
    return centers


def _errors(
    points: Points, weights: Weights, centers: Points
) -> tuple[npt.NDArray[np.intp], Weights, Weights]:
    """Of each point: its nearest centre, its squared error, and the rise without that centre."""
    nearest = np.empty(len(points), np.intp)
    error, rise = np.empty((2, len(points)))
    factors = np.ascontiguousarray(-2 * centers.T)
    offsets = (centers * centers).sum(axis=1)
    for start in range(0, len(points), 2048):
        block = slice(start, start + 2048)
        part = points[block]
        square = part @ factors + offsets
        rows = np.arange(len(part))
        first = square.argmin(axis=1)
        nearest[block] = first
        error[block] = ((part - centers[first]) ** 2).sum(axis=1)
        least = square[rows, first]
        square[rows, first] = np.inf
        rise[block] = square.min(axis=1) - least
    return nearest, weights * error, weights * rise


@dataclass(frozen=True, eq=False)
class Palette:
    """A palette, and what becomes of each colour of a `ColorHistogram`.

    Attributes:
        colors: uint8 `(K, 3)`, K at most 256, each used.
        entries: For each colour of the histogram the row of `colors` that is nearest, uint8 `(N,)`.
    """

    colors: Colors
    entries: npt.NDArray[np.uint8]


def choose_palette(
    histogram: ColorHistogram, count: int, space: str, init: str, seed: int
) -> Palette:
    """A palette of at most `count` colours; all the colours, exactly, where they are no more.

    A gray picture gets grays.

    Args:
        histogram: The picture's colours.
        count: 1 … 256.
        space: A key of `COLOR_SPACES`: where distances are measured.
        init: First centres: "wu" or "k-means++".
        seed: Of the random choices of k-means++.
    """
    if len(histogram.packed) <= count:
        return Palette(histogram.colors(), np.arange(len(histogram.packed), dtype=np.uint8))
    points, weights = cluster_points(histogram, space)
    if init == "wu":
        centers = wu_centers(points, weights, count)
    else:
        centers = kmeans_plus_plus_centers(points, weights, count, seed)
    if len(centers) < count:
        # Wu's cells are too few for a picture with colours on a line, such as a gray one.
        _, error, _ = _errors(points, weights, centers)
        worst = np.argsort(-error, kind="stable")[: count - len(centers)]
        centers = np.concatenate([centers, points[worst]])
    rounds = max(_ROUNDS, min(100, 640 // count))
    centers = refined(points, weights, centers, rounds)
    centers = relocated(points, weights, centers, _RELOCATIONS, rounds)
    if len(points) < len(histogram.packed) <= _FINE_COLORS:
        colors = COLOR_SPACES[space].of_srgb(histogram.colors())
        centers = refined(colors, histogram.counts.astype(np.float64), centers, _FINE_ROUNDS)
    palette = COLOR_SPACES[space].to_srgb(centers)
    if histogram.is_gray():
        # The centres of a gray picture are gray up to rounding.
        palette = palette[:, [1, 1, 1]]
    return _filled(histogram, palette, count, space)


def _filled(histogram: ColorHistogram, palette: Colors, count: int, space: str) -> Palette:
    """`palette` with badly met colours in the place of entries that are equal or unused."""
    for attempt in range(4):
        palette = np.unique(palette, axis=0)
        entries, loss = _mapped(histogram, palette, space)
        used = np.bincount(entries, minlength=len(palette)) > 0
        missing = count - int(used.sum())
        if missing == 0 or attempt == 3:
            break
        worst = np.argsort(-loss, kind="stable")[:missing]
        palette = np.concatenate([palette[used], unpacked(histogram.packed[worst])])
    rows = (np.cumsum(used) - 1).astype(np.uint8)
    return Palette(palette[used], rows[entries])


def _mapped(
    histogram: ColorHistogram, palette: Colors, space: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Of each colour: the nearest entry, and its squared distance times its number of pixels."""
    of_srgb = COLOR_SPACES[space].of_srgb
    targets = of_srgb(palette)
    entries = np.empty(len(histogram.packed), np.uint8)
    loss = np.empty(len(histogram.packed), np.float32)
    for start in range(0, len(entries), 2**18):
        block = slice(start, start + 2**18)
        points = of_srgb(unpacked(histogram.packed[block]))
        nearest = nearest_entry(points, targets)
        entries[block] = nearest
        loss[block] = ((points - targets[nearest]) ** 2).sum(axis=1) * histogram.counts[block]
    return entries, loss


def pixel_entries(image: Image, histogram: ColorHistogram, palette: Palette) -> Image:
    """The palette row of every pixel of the picture that `histogram` counts, uint8 `(H, W)`."""
    table = np.zeros(2**24, np.uint8)
    table[histogram.packed] = palette.entries
    indices = np.empty(image.shape[:2], np.uint8)
    for rows, packed in packed_rows(image):
        indices[rows] = table[packed]
    return indices
