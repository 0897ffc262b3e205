"""Hand-made features of a patch: what forensics measured before networks, as a baseline.

Traces of a block grid, of quantised block-DCT and wavelet coefficients, of palettes, of low rank,
and of smoothed chroma. A grid may start anywhere in a patch, so what belongs to a grid is measured
at the phase where its trace is strongest, and told beside the mean over all phases. A new feature
is one function below, added to `_GROUPS`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from train.layers import RGB_TO_YCBCR, dct_kernels, wavelet_kernels

Floats = npt.NDArray[np.float32]

ZERO = 0.7
"""Coefficients below this, in gray levels, count as zero: rounding to 8 bits moves them by .3."""

HISTOGRAM_EDGES = (ZERO, 2.0, 4.0, 8.0, 16.0)
PERIODS = range(2, 17)
FREQUENCIES = 14
"""AC frequencies of the 8×8 DCT that are looked at, in zigzag order."""
RANKS = (1, 2, 4, 8, 16, 32)
MIN_SIDE = 32

_CHUNK = 64


def features(patches: npt.NDArray[np.uint8]) -> Floats:
    """Features `float32` `(N, F)` of patches `uint8` `(N, P, P, 3)`; P is at least `MIN_SIDE`.

    The columns are named by `FEATURE_NAMES`.

    Raises:
        ValueError: Not such an array.
    """
    if patches.ndim != 4 or patches.shape[3] != 3 or patches.dtype != np.uint8:
        raise ValueError(
            "Patches must be uint8 of shape (N, P, P, 3). "
            f"Received: dtype={patches.dtype}, shape={patches.shape}"
        )
    if min(patches.shape[1:3]) < MIN_SIDE:
        raise ValueError(f"Patches must be at least {MIN_SIDE} wide. Received: {patches.shape}")
    parts = [np.empty((0, len(FEATURE_NAMES)), np.float32)]
    for start in range(0, len(patches), _CHUNK):
        chunk = patches[start : start + _CHUNK]
        planes = np.moveaxis(chunk.astype(np.float32) @ RGB_TO_YCBCR.T.astype(np.float32), 3, 1)
        groups = [group(chunk, planes) for group in _GROUPS]
        parts.append(np.concatenate(groups, axis=1).astype(np.float32))
    return np.concatenate(parts)


def _block_dct(_: npt.NDArray[np.uint8], planes: Floats) -> Floats:
    """Zero rates and histogram of the 8×8 DCT of Y at the phase with the most zeros."""
    kernels = dct_kernels(8, range(1, FREQUENCIES + 1))[:, :, 0].reshape(64, FREQUENCIES)
    windows = sliding_window_view(planes[:, 0], (8, 8), axis=(1, 2))
    sizes = np.abs(windows.reshape(*windows.shape[:3], 64) @ kernels)
    zeros = _phase_means((sizes < ZERO).astype(np.float32), 8)
    best = zeros.mean(axis=2).argmax(axis=1)
    histograms = []
    for low, high in zip((0.0, *HISTOGRAM_EDGES), (*HISTOGRAM_EDGES, np.inf), strict=True):
        inside = ((sizes >= low) & (sizes < high)).mean(axis=3, dtype=np.float32)[..., None]
        phases = _phase_means(inside, 8)[..., 0]
        histograms += [_at(phases, best), _at(phases, best) - phases.mean(axis=1)]
    at_best = _at(zeros, best)
    return np.column_stack([at_best, at_best - zeros.mean(axis=1), *histograms])


def _blockiness(_: npt.NDArray[np.uint8], planes: Floats) -> Floats:
    """Strength of the strongest phase of each period, in the differences of Y and of chroma."""
    luma, chroma = planes[:, :1], planes[:, 1:]
    columns = []
    for plane in (luma, chroma):
        for axis in (3, 2):  # across, then down
            # Third differences: a slope of the picture is no edge of a block.
            steps = np.abs(np.diff(plane, n=3, axis=axis)).mean(axis=(1, 5 - axis))
            mean = steps.mean(axis=1) + 0.1
            for period in PERIODS:
                phases = [steps[:, phase::period].mean(axis=1) for phase in range(period)]
                columns.append(np.max(phases, axis=0) / mean)
    return np.column_stack(columns)


def _wavelet(_: npt.NDArray[np.uint8], planes: Floats) -> Floats:
    """Zero rates of the bands of both wavelets of JPEG 2000, at the best phase and in the mean."""
    columns = []
    for wavelet in ("9/7", "5/3"):
        smooth = planes[:, 0]
        for level in (1, 2):
            low, high = wavelet_kernels(wavelet, level)
            across = sliding_window_view(smooth, len(low), axis=2) @ np.stack([low, high], 1)
            both = sliding_window_view(across, len(low), axis=1) @ np.stack([low, high], 1)
            bands = both.reshape(*both.shape[:3], 4)  # LL, LH, HL, HH
            smooth = bands[..., 0]
            zeros = _phase_means((np.abs(bands[..., 1:]) < ZERO).astype(np.float32), 2**level)
            best = zeros.mean(axis=2).argmax(axis=1)
            columns += [_at(zeros, best), _at(zeros, best) - zeros.mean(axis=1)]
    return np.concatenate(columns, axis=1)


def _colours(patches: npt.NDArray[np.uint8], _: Floats) -> Floats:
    """Logarithms of the number of distinct colours, and of distinct levels of each channel."""
    wide = patches.reshape(len(patches), -1, 3).astype(np.uint32)
    colours = np.sort(wide @ np.array([65536, 256, 1], np.uint32), axis=1)
    counts = [(np.diff(colours, axis=1) > 0).sum(axis=1) + 1]
    levels = np.sort(wide, axis=1)
    counts += list(((np.diff(levels, axis=1) > 0).sum(axis=1) + 1).T)
    return np.log(np.column_stack(counts)).astype(np.float32)


def _low_rank(_: npt.NDArray[np.uint8], planes: Floats) -> Floats:
    """Energy outside the first singular values of Y's 8×8 blocks as rows, and of Y itself.

    The blocks are those of the phase whose edges are strongest.
    """
    luma = planes[:, 0]
    down = np.abs(np.diff(luma, axis=1)).mean(axis=2)
    across = np.abs(np.diff(luma, axis=2)).mean(axis=1)
    offsets = [
        (np.stack([steps[:, p::8].mean(axis=1) for p in range(8)]).argmax(axis=0) + 1) % 8
        for steps in (down, across)
    ]
    rows, columns = (side // 8 - 1 for side in luma.shape[1:])
    cut = np.stack(
        [
            plane[top : top + 8 * rows, left : left + 8 * columns]
            for plane, top, left in zip(luma, *offsets, strict=True)
        ]
    )
    blocks = cut.reshape(len(cut), rows, 8, columns, 8).transpose(0, 1, 3, 2, 4)
    found = []
    for matrix in (blocks.reshape(len(cut), rows * columns, 64), luma):
        centred = matrix - matrix.mean(axis=(1, 2), keepdims=True)
        energy = np.linalg.svd(centred, compute_uv=False) ** 2
        total = energy.sum(axis=1)
        for rank in RANKS:
            found.append(np.log((energy[:, rank:].sum(axis=1) + 1) / (total + 1)))
    return np.column_stack(found).astype(np.float32)


def _chroma(_: npt.NDArray[np.uint8], planes: Floats) -> Floats:
    """Energy of the differences of Cb and Cr, over that of Y, one and two pixels apart."""
    columns = []
    for distance in (1, 2):
        energies = [
            (np.square(planes[:, :, distance:] - planes[:, :, :-distance])).mean(axis=(2, 3)),
            (np.square(planes[..., distance:] - planes[..., :-distance])).mean(axis=(2, 3)),
        ]
        for energy in energies:
            columns += [np.log((energy[:, 1:] + 0.1) / (energy[:, :1] + 0.1))]
    return np.concatenate(columns, axis=1)


def _phase_means(values: Floats, period: int) -> Floats:
    """Means `(N, period², C)` of `(N, H, W, C)` at each phase, over whole periods."""
    count, height, width, channels = values.shape
    rows, columns = height // period, width // period
    whole = values[:, : rows * period, : columns * period]
    whole = whole.reshape(count, rows, period, columns, period, channels)
    return whole.mean(axis=(1, 3)).reshape(count, period**2, channels)


def _at(phases: Floats, best: npt.NDArray[np.intp]) -> Floats:
    """The phase `best` `(N,)` of `(N, phases, …)`."""
    return phases[np.arange(len(phases)), best]


_GROUPS: dict[Callable[[npt.NDArray[np.uint8], Floats], Floats], list[str]] = {
    _block_dct: [
        *(f"dct_zeros_{n}" for n in range(1, FREQUENCIES + 1)),
        *(f"dct_zeros_over_mean_{n}" for n in range(1, FREQUENCIES + 1)),
        *(
            f"dct_from_{low:g}{kind}"
            for low in (0.0, *HISTOGRAM_EDGES)
            for kind in ("", "_over_mean")
        ),
    ],
    _blockiness: [
        f"blockiness_{plane}_{way}_{period}"
        for plane in ("luma", "chroma")
        for way in ("across", "down")
        for period in PERIODS
    ],
    _wavelet: [
        f"wavelet_{wavelet}_{level}_{band}{kind}"
        for wavelet in ("97", "53")
        for level in (1, 2)
        for kind in ("", "_over_mean")
        for band in ("LH", "HL", "HH")
    ],
    _colours: ["colours", "levels_red", "levels_green", "levels_blue"],
    _low_rank: [f"{kind}_beyond_{rank}" for kind in ("blocks", "picture") for rank in RANKS],
    _chroma: [
        f"{plane}_difference_{way}_{distance}"
        for distance in (1, 2)
        for way in ("down", "across")
        for plane in ("cb", "cr")
    ],
}

FEATURE_NAMES: tuple[str, ...] = tuple(name for names in _GROUPS.values() for name in names)
"""What each column of `features` holds."""
