"""Storage: in a folder, in memory, on an S3-like server in another process, and a full disk."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from datasets import storage as storage_module
from datasets.storage import Storage, StorageError

ROOT = Path(__file__).parent.parent


@pytest.fixture(params=["folder", "memory", "generic", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty place of each kind; "generic" stands for what is not an object store, like SFTP."""
    if request.param == "folder":
        return Storage(tmp_path / "new" / "data")
    if request.param == "memory":
        return Storage(f"memory://{uuid.uuid4().hex}")
    if request.param == "generic":
        return Storage(f"local://{tmp_path}/new/data")
    return Storage(f"{request.getfixturevalue('s3_server')}/{uuid.uuid4().hex}")


def test_files_come_back(storage: Storage) -> None:
    storage.write("encoded/jpeg/a.jpg", b"one")
    storage.write("encoded/jpeg/b.jpg", b"")
    storage.write("encoded/jpeg/deeper/c.jpg", b"three")
    storage.write("top.json", b"{}")
    assert storage.read("encoded/jpeg/a.jpg") == b"one"
    assert storage.read("encoded/jpeg/b.jpg") == b""
    assert storage.size("encoded/jpeg/a.jpg") == 3
    assert storage.list("encoded/jpeg") == ["encoded/jpeg/a.jpg", "encoded/jpeg/b.jpg"]
    assert storage.list("") == ["top.json"]
    storage.write("encoded/jpeg/a.jpg", b"other")
    assert storage.read("encoded/jpeg/a.jpg") == b"other"


def test_large_files_come_back(storage: Storage) -> None:
    data = os.urandom(1 << 20)
    storage.write("large.bin", data)
    assert storage.read("large.bin") == data


def test_append_adds_to_the_end(storage: Storage) -> None:
    for number in range(5):
        storage.append("journal/task.jsonl", b"line %d\n" % number)
    assert storage.read("journal/task.jsonl") == b"".join(b"line %d\n" % n for n in range(5))


def test_what_is_absent(storage: Storage) -> None:
    assert not storage.exists("encoded/none.jpg")
    assert storage.list("nowhere") == []
    for call in (storage.read, storage.size, storage.delete):
        with pytest.raises(FileNotFoundError):
            call("encoded/none.jpg")
    storage.delete("encoded/none.jpg", missing_ok=True)


def test_deleted_files_are_gone(storage: Storage) -> None:
    storage.write("a/b.bin", b"x")
    assert storage.exists("a/b.bin")
    storage.delete("a/b.bin")
    assert not storage.exists("a/b.bin")
    assert storage.list("a") == []


def test_another_storage_of_the_same_root_sees_the_files(storage: Storage) -> None:
    storage.list("a")  # so that a listing could be remembered
    other = pickle.loads(pickle.dumps(storage))  # noqa: S301 - our own bytes
    other.write("a/b.bin", b"x")
    assert storage.list("a") == ["a/b.bin"]
    assert storage.read("a/b.bin") == b"x"


def test_only_paths_below_the_root(storage: Storage) -> None:
    for path in ("/etc/passwd", "../up.bin", "a/../../up.bin"):
        with pytest.raises(StorageError, match="below the dataset's root"):
            storage.write(path, b"x")


def test_other_processes_write_to_the_same_bucket(s3_server: str) -> None:
    url = f"{s3_server}/{uuid.uuid4().hex}"
    script = (
        "import sys\n"
        "from datasets.storage import Storage\n"
        "Storage(sys.argv[1]).write('from/elsewhere.bin', b'here')\n"
    )
    subprocess.run([sys.executable, "-c", script, url], cwd=ROOT, check=True)
    assert Storage(url).read("from/elsewhere.bin") == b"here"


def test_a_missing_bucket_is_named(s3_server: str) -> None:
    with pytest.raises(StorageError, match=r"s3://nobucket/x/a\.bin.*bucket"):
        Storage("s3://nobucket/x").write("a.bin", b"x")


class Fickle:
    """A file system that fails so many times, then works."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures, self.error, self.calls = failures, error, 0

    def pipe_file(self, place: str, data: bytes) -> None:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, made without waiting."""
    made: list[float] = []
    monkeypatch.setattr(storage_module.time, "sleep", made.append)
    return made


def fickle_storage(failures: int, error: Exception) -> tuple[Storage, Fickle]:
    storage = Storage("memory://fickle")
    fickle = Fickle(failures, error)
    storage._files._fs = fickle  # type: ignore[attr-defined]
    return storage, fickle


def test_passing_faults_are_tried_again(pauses: list[float]) -> None:
    storage, fickle = fickle_storage(2, ConnectionError("reset"))
    storage.write("a.bin", b"x")
    assert fickle.calls == 3
    assert pauses == list(storage_module.PAUSES[:2])


def test_lasting_faults_end_after_a_few_attempts(pauses: list[float]) -> None:
    storage, fickle = fickle_storage(99, ConnectionError("reset"))
    with pytest.raises(StorageError, match=r"memory://fickle/a\.bin: cannot be written.*reset"):
        storage.write("a.bin", b"x")
    assert fickle.calls == 1 + len(pauses) == 1 + len(storage_module.PAUSES)


def test_a_refusal_is_not_tried_again(pauses: list[float]) -> None:
    storage, fickle = fickle_storage(99, PermissionError("AccessDenied"))
    with pytest.raises(StorageError, match="AccessDenied"):
        storage.write("a.bin", b"x")
    assert fickle.calls == 1


def test_passwords_are_never_shown(pauses: list[float]) -> None:
    storage, _ = fickle_storage(99, OSError("no answer from ftp://me:secret@host/x"))
    storage.root = "ftp://me:secret@host/x"
    with pytest.raises(StorageError) as caught:
        storage.write("a.bin", b"x")
    assert "secret" not in f"{caught.value} {storage!r}"
    assert "ftp://me:…@host/x/a.bin" in str(caught.value)


def test_urls_that_cannot_be_opened() -> None:
    with pytest.raises(StorageError, match="nosuch://"):
        Storage("nosuch://bucket/x")
    with pytest.raises(StorageError, match="two slashes"):
        Storage(Path("s3://bucket/x"))  # which pathlib makes s3:/bucket/x
    with pytest.raises(StorageError, match="folder of this machine"):
        _ = Storage("memory://x").folder


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    storage = Storage(f"file://{tmp_path}")
    assert storage.is_local
    assert storage.folder == tmp_path


def test_a_relative_folder_holds_for_workers_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = Storage("data")
    monkeypatch.chdir("/")
    other = pickle.loads(pickle.dumps(storage))  # noqa: S301 - our own bytes
    assert other.folder == tmp_path / "data"


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "encoded").write_bytes(b"")
    storage = Storage(tmp_path)
    for call in (storage.write, storage.append):
        with pytest.raises(StorageError, match=r"encoded/jpeg/a\.jpg: cannot be written"):
            call("encoded/jpeg/a.jpg", b"x")


def test_local_files_need_no_fsspec() -> None:
    script = (
        "import sys, tempfile\n"
        "from datasets.storage import Storage\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    Storage(folder).write('a/b.bin', b'x')\n"
        "print('fsspec' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_local_files_cost_little(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    fastest = 1.0
    for repeat in range(5):  # the least of several, since other programs take their share
        begin = time.perf_counter()
        for number in range(50):
            storage.write(f"encoded/{repeat}_{number}.bin", b"x" * 2000)
            storage.append("journal.jsonl", b"x" * 500)
        fastest = min(fastest, (time.perf_counter() - begin) / 50)
    assert fastest < 0.002  # measured: 0.1 ms


def test_temporary_files_of_killed_writers(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from datasets.storage import Storage\n"
        "Path.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "Storage(sys.argv[1]).write('encoded/jpeg/a.jpg', b'x')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    storage = Storage(tmp_path)
    storage.write("encoded/.keep.tmp", b"")
    assert len(list((tmp_path / "encoded/jpeg").iterdir())) == 1
    assert storage.list("encoded/jpeg") == []
    assert storage.remove_temporaries() == 1
    assert list((tmp_path / "encoded/jpeg").iterdir()) == []
    assert storage.exists("encoded/.keep.tmp")


FILL = """
import errno, sys
from pathlib import Path
from datasets.storage import Storage, StorageError
storage = Storage(sys.argv[1])
storage.append("journal.jsonl", b"first\\n")
for call, name in ((storage.write, "encoded/a.bin"), (storage.append, "journal.jsonl")):
    try:
        call(name, b"x" * 300_000)
        sys.exit("it was written")
    except StorageError as error:
        print(error)
assert storage.read("journal.jsonl") == b"first\\n"
assert storage.list("encoded") == []
assert not [p for p in Path(sys.argv[1]).rglob("*.tmp")]
storage.append("journal.jsonl", b"second\\n")
storage.write("encoded/a.bin", b"x")
assert storage.read("journal.jsonl") == b"first\\nsecond\\n"
"""


def test_a_full_disk_is_named_and_damages_nothing(tmp_path: Path) -> None:
    mount = ["unshare", "-rm", "sh", "-c"]
    tiny = f'mount -t tmpfs -o size=128k none "{tmp_path}"'
    if shutil.which("unshare") is None or subprocess.run([*mount, tiny], check=False).returncode:
        pytest.skip("no small file system can be mounted here")
    command = f'{tiny} && exec "{sys.executable}" -c "$FILL" "{tmp_path}"'
    done = subprocess.run(
        [*mount, command], env=os.environ | {"FILL": FILL}, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert f"{tmp_path}/encoded/a.bin: disk full: 300,000 bytes are needed" in first
    assert "of 131,072 are free" in first and "start the same command again" in first
    assert f"{tmp_path}/journal.jsonl: disk full" in second


def test_a_write_that_is_cut_off_damages_nothing(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    done = subprocess.run(
        [sys.executable, "-c", limit + FILL, tmp_path], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cannot be written: File too large") == 2
