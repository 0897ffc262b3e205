"""Storage: the files of one dataset, in a folder or below any fsspec URL (S3, GCS, memory, …)."""

from __future__ import annotations

import builtins
import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from imagecompression.atomic_file import write_bytes_atomic
from imagecompression.errors import ImageCompressionError

# Where a file appears with its upload, complete or not at all. Elsewhere it is written under a
# temporary name and renamed, which an object store would do by copying.
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "oci", "memory"}
# The names of `write_bytes_atomic`'s temporary files.
TEMPORARY_PATTERN = "." + 32 * "[0-9a-f]" + ".tmp"
# Seconds to wait before each further attempt on a remote store; its client has tried by itself too.
PAUSES = (0.5, 2.0, 8.0)

_T = TypeVar("_T")


class StorageError(ImageCompressionError):
    """A file cannot be written or read; the message says which, why, and what to do."""


class Storage:
    """The files of one dataset below `root`. Pickles as its root alone.

    Paths are POSIX and relative to the root. Every file appears complete or not at all, whatever
    is killed. A URL's file system comes from fsspec, with credentials from fsspec's own
    configuration or the environment, never from here.

    All methods raise StorageError for what cannot be read or written.

    Attributes:
        root: A folder, absolute so that it holds for workers that begin elsewhere, or a URL.
        is_local: Whether the files lie in a folder of this machine's file system.
    """

    def __init__(self, root: str | Path) -> None:
        """The files below `root`, a folder or a URL like ``s3://bucket/folder``; makes nothing.

        Raises:
            StorageError: fsspec does not know the URL, or its package (s3fs, gcsfs, …) is missing.
        """
        text = os.fspath(root).removeprefix("file://")
        if re.match(r"[a-z][a-z0-9+.-]+:/[^/]", text):
            raise StorageError(f"{text}: a URL has two slashes. Give it as text, not as a Path.")
        self.is_local = "://" not in text
        self.root: str = os.fspath(Path(text).absolute()) if self.is_local else text.rstrip("/")
        self._files: _Files = _LocalFiles(self.root) if self.is_local else _RemoteFiles(self.root)

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.root,)

    def __repr__(self) -> str:
        return f"Storage({_without_password(self.root)!r})"

    @property
    def folder(self) -> Path:
        """The root as a folder; StorageError where it is none."""
        if not self.is_local:
            raise StorageError(
                f"{_without_password(self.root)}: this step needs a folder of this machine. Copy "
                "the dataset there first."
            )
        return Path(self.root)

    def read(self, path: str) -> bytes:
        """The content of a file; FileNotFoundError where there is none."""
        return self._do("read", path, self._files.read)

    def write(self, path: str, data: bytes) -> None:
        """Make or replace a file, and its folder if need be; complete or not at all."""
        self._do("written", path, lambda place: self._files.write(place, data), len(data))

    def append(self, path: str, data: bytes) -> None:
        """Add to the end of a file, which is made if absent. One writer at a time.

        In a folder this is one write, which a kill does not cut, and which a full disk undoes. An
        object store has no such thing: the object is read and written anew, so keep it small.
        """
        self._do("written", path, lambda place: self._files.append(place, data), len(data))

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        return self._do("looked up", path, self._files.exists)

    def size(self, path: str) -> int:
        """Bytes of a file; FileNotFoundError where there is none."""
        return self._do("looked up", path, self._files.size)

    def delete(self, path: str, missing_ok: bool = False) -> None:
        """Delete a file; FileNotFoundError where there is none, unless `missing_ok`."""
        try:
            self._do("deleted", path, self._files.delete)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def list(self, folder: str) -> list[str]:
        """The paths of the files directly in `folder`, sorted; none where it does not exist.

        Files whose names begin with a dot (temporary ones, locks) are left out.
        """
        try:
            names = self._do("listed", folder, self._files.names)
        except FileNotFoundError:
            return []
        # "" is the root.
        return sorted(f"{folder}/{name}".lstrip("/") for name in names if name[:1] != ".")

    def remove_temporaries(self) -> int:
        """Delete what killed writers left of half-written files; returns how many there were.

        A writer that still lives and loses its temporary file so writes it once more.
        """
        if not self.is_local:
            return 0
        count = 0
        for leftover in Path(self.root).rglob(TEMPORARY_PATTERN):
            leftover.unlink(missing_ok=True)
            count += 1
        return count

    def _do(self, done: str, path: str, call: Callable[[str], _T], size: int = 0) -> _T:
        """`call(place of path)`, again after a while where the fault may pass, errors explained.

        Args:
            done: For the message, what is to be done to the file.
            path: The file, relative to the root.
            call: A method of `_Files`.
            size: Bytes to be written.
        """
        if path.startswith("/") or ".." in path.split("/"):
            raise StorageError(f"{path}: only paths below the dataset's root are allowed")
        place = f"{self._files.base}/{path}" if path else self._files.base
        for pause in (*self._files.pauses, None):
            try:
                return call(place)
            except FileNotFoundError as error:
                if done != "written":
                    raise
                raise self._explained(done, path, error, size) from error
            except self._files.errors as error:
                if pause is None or isinstance(error, PermissionError):
                    raise self._explained(done, path, error, size) from error
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _explained(self, done: str, path: str, error: Exception, size: int) -> StorageError:
        where = _without_password(f"{self.root}/{path}".rstrip("/"))
        again = "start the same command again: it goes on where it stopped"
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return StorageError(
                f"{where}: disk full: {size:,} bytes are needed, {self._files.free()}. No file is "
                f"damaged. Make space and {again}."
            )
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        reason = _without_password(str(reason)).rstrip(".")
        if isinstance(error, PermissionError):
            advice = f"Check who may do that there, and {again}."
        elif self.is_local:
            advice = f"When that is mended, {again}."
        elif isinstance(error, FileNotFoundError):
            advice = f"Make the bucket or folder, and {again}."
        else:
            advice = (
                f"It was tried {1 + len(self._files.pauses)} times. Check the network and the "
                f"store's settings, and {again}."
            )
        return StorageError(f"{where}: cannot be {done}: {reason}. {advice}")


class _Files(Protocol):
    """The few things a dataset needs of a file system. Places are in its own words."""

    base: str
    """The place of the dataset's root."""
    errors: tuple[type[Exception], ...]
    """What its calls raise for the user to mend."""
    pauses: tuple[float, ...]
    """Seconds between attempts."""

    def read(self, place: str) -> bytes: ...
    def write(self, place: str, data: bytes) -> None: ...
    def append(self, place: str, data: bytes) -> None: ...
    def exists(self, place: str) -> bool: ...
    def size(self, place: str) -> int: ...
    def delete(self, place: str) -> None: ...
    def names(self, place: str) -> builtins.list[str]: ...
    def free(self) -> str: ...


class _LocalFiles:
    """A folder of this machine."""

    errors: tuple[type[Exception], ...] = (OSError,)
    pauses: tuple[float, ...] = ()

    def __init__(self, root: str) -> None:
        self.base = root.rstrip("/")

    def read(self, place: str) -> bytes:
        with open(place, "rb") as file:
            return file.read()

    def write(self, place: str, data: bytes) -> None:
        try:
            write_bytes_atomic(place, data)
        except FileNotFoundError:  # rare, so that it costs less than looking for the folder first
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            write_bytes_atomic(place, data)

    def append(self, place: str, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        try:
            file = os.open(place, flags, 0o666)
        except FileNotFoundError:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            file = os.open(place, flags, 0o666)
        try:
            size = os.fstat(file).st_size
            try:
                left = memoryview(data)
                while left:  # a full disk takes what fits, and says so on the next write only
                    left = left[os.write(file, left) :]
            except OSError:
                os.ftruncate(file, size)  # no half line stays for the next one to be glued to
                raise
        finally:
            os.close(file)

    def exists(self, place: str) -> bool:
        return Path(place).exists()

    def size(self, place: str) -> int:
        return Path(place).stat().st_size

    def delete(self, place: str) -> None:
        Path(place).unlink()

    def names(self, place: str) -> builtins.list[str]:
        with os.scandir(place) as entries:
            return [entry.name for entry in entries if entry.is_file()]

    def free(self) -> str:
        folder = Path(self.base)
        while not folder.exists():
            folder = folder.parent
        usage = shutil.disk_usage(folder)
        return f"{usage.free:,} of {usage.total:,} are free"


class _RemoteFiles:
    """What fsspec opens for a URL."""

    errors: tuple[type[Exception], ...] = (Exception,)  # each store's client has errors of its own
    pauses: tuple[float, ...] = PAUSES

    def __init__(self, root: str) -> None:
        shown = _without_password(root)
        try:
            import fsspec

            self._fs, base = fsspec.url_to_fs(root)
        except (ImportError, ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"{shown}: cannot be opened: {_without_password(str(error))}. Give a folder, or a "
                "URL such as s3://bucket/folder (needs the packages fsspec and s3fs) or "
                "gs://bucket/folder (fsspec and gcsfs)."
            ) from error
        self.base: str = base.rstrip("/")
        protocol = self._fs.protocol
        protocols = {protocol} if isinstance(protocol, str) else set(protocol)
        self._is_object_store = bool(protocols & OBJECT_STORES)

    def read(self, place: str) -> bytes:
        return bytes(self._fs.cat_file(place))

    def write(self, place: str, data: bytes) -> None:
        if self._is_object_store:
            self._fs.pipe_file(place, data)
            return
        folder = place.rpartition("/")[0]
        temporary = f"{folder}/.{uuid.uuid4().hex}.tmp"
        self._fs.makedirs(folder, exist_ok=True)
        try:
            self._fs.pipe_file(temporary, data)
            if self._fs.exists(place):  # not every server renames onto a file
                self._fs.rm_file(place)
            self._fs.mv(temporary, place)
        except BaseException:
            if self._fs.exists(temporary):
                self._fs.rm_file(temporary)
            raise

    def append(self, place: str, data: bytes) -> None:
        try:
            earlier = self.read(place)
        except FileNotFoundError:
            earlier = b""
        self.write(place, earlier + data)

    def exists(self, place: str) -> bool:
        self._fs.invalidate_cache()  # other machines write too
        return bool(self._fs.exists(place))

    def size(self, place: str) -> int:
        self._fs.invalidate_cache()
        return int(self._fs.size(place))

    def delete(self, place: str) -> None:
        if not self.exists(place):  # object stores call it a success
            raise FileNotFoundError(errno.ENOENT, "No such file", place)
        self._fs.rm_file(place)

    def names(self, place: str) -> builtins.list[str]:
        self._fs.invalidate_cache()
        found = self._fs.ls(place, detail=True)
        # Some stores list the marker of the folder itself too.
        inside = (item for item in found if item["name"].strip("/") != place.strip("/"))
        return [item["name"].rpartition("/")[2] for item in inside if item["type"] == "file"]

    def free(self) -> str:
        return "the store has no more"


def _without_password(text: str) -> str:
    """`text` without what stands between a user's name and the @ of a URL."""
    return re.sub(r"//([^/@:\s]*):[^/@\s]*@", r"//\1:…@", text)
