"""Loading Keras and TensorFlow without their start-up notes."""

from __future__ import annotations

import contextlib
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
