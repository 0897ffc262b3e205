"""Files that appear complete or not at all."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path


def write_bytes_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` under a temporary name in the same folder, then rename it to `path`.

    A reader, or a run that is killed, sees the old file, the new one or none, never a part. No
    fsync: after a power cut the data may be lost, which the manifest's hashes show.

    Raises:
        OSError: The folder is missing or cannot be written.
    """
    path = Path(path)
    # Not `tempfile`: its files are readable by their owner only, whatever the umask says.
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json_atomic(path: str | os.PathLike[str], content: object) -> None:
    """Write `content` as indented JSON; see `write_bytes_atomic`."""
    write_bytes_atomic(path, (json.dumps(content, indent=2) + "\n").encode())
