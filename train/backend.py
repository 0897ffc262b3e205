"""Loading Keras and TensorFlow without their start-up notes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator


def load_keras() -> None:
    """Import Keras with standard error closed to TensorFlow's C++ code.

    Its notes on processors and missing GPUs come before any log level is read, and would stand
    among a command's own messages. What Python raises is raised all the same.
    """
    if "keras" in sys.modules:
        return
    with quiet_stderr():
        import keras  # noqa: F401


def load_keras_to_train() -> None:
    """`load_keras` in a process that is going to train, which keeps the memory that it frees."""
    keep_freed_memory()
    load_keras()


def keep_freed_memory() -> bool:
    """Let this process keep memory that is freed; whether the system's C library can do it.

    TensorFlow allocates the activations of a step anew in every step. glibc gives large blocks
    back to the system at once, which then clears their pages again. Peak memory stays what it was;
    it is given back when the process ends.
    """
    if os.name != "posix":  # CDLL(None) would fail
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    # Numbers of malloc.h; each option's range is that of a C int.
    top_pad, trim_threshold, mmap_max, arena_max = -2, -1, -4, -8
    options = {trim_threshold: 2**31 - 1, top_pad: 2**29, mmap_max: 0, arena_max: 1}
    return all(library.mallopt(option, value) == 1 for option, value in options.items())


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Standard error closed, to C++ code too, while the context lasts."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
