"""The discrete cosine transform as a matrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def dct_basis(size: int) -> npt.NDArray[np.float64]:
    """Rows of the orthonormal DCT-II of `size` samples, `(size, size)`, the lowest first."""
    place = np.arange(size)
    basis = np.sqrt(2 / size) * np.cos(np.pi * (2 * place + 1) * place[:, None] / (2 * size))
    basis[0] /= np.sqrt(2)
    return np.asarray(basis)
