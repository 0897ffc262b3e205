"""Seeds: every random choice of a dataset draws from a generator of its own.

A seed follows from the dataset's seed and the names of what is chosen for, never from an order of
execution, so that any number of processes makes the same choices.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, *names: str) -> int:
    """A seed of 63 bits, fixed by `seed` and `names` alone.

    >>> derive_seed(0, "a") != derive_seed(0, "b") != derive_seed(1, "b")
    True
    """
    key = "\x1f".join((str(seed), *names))
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str) -> np.random.Generator:
    """A random generator seeded by `derive_seed`."""
    return np.random.default_rng(derive_seed(seed, *names))
