"""What is done to a process that trains."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

RESIDENT = """
import sys
import numpy as np
from train.backend import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()
block = np.ones(25_000_000)  # 200 MB
del block
with open("/proc/self/statm") as file:
    print(int(file.read().split()[1]) * 4096 // 10**6)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc has the options")
def test_freed_memory_is_kept_when_asked() -> None:
    resident = {
        name: int(subprocess.check_output([sys.executable, "-c", RESIDENT, name], text=True))
        for name in ("kept", "usual")
    }
    assert resident["kept"] > 190 > resident["usual"]
