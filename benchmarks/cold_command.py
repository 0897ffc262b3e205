"""One command from an empty process: wall and CPU seconds, and the most memory that it held.

A process's peak begins with that of its parent (Linux keeps it over `exec`), so the parent has to
be as small as this one.

    python -m benchmarks.cold_command main.py classify picture.png
"""

from __future__ import annotations

import json
import os
import sys
import time


def main() -> int:
    started = time.perf_counter()
    silent = [
        (os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0)
        for stream in (sys.stdout.fileno(), sys.stderr.fileno())
    ]
    command = [sys.executable, *sys.argv[1:]]
    process = os.posix_spawn(sys.executable, command, os.environ, file_actions=silent)
    _, status, usage = os.wait4(process, 0)
    measured = {
        "wall": time.perf_counter() - started,
        "cpu": usage.ru_utime + usage.ru_stime,
        "mebibytes": usage.ru_maxrss / 1024,  # Linux: KiB
    }
    print(json.dumps(measured))
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
