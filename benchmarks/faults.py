"""Builds that are disturbed all the time, compared with one that was left alone.

``python -m benchmarks.faults`` builds a small dataset once, then again and again while it kills
worker processes and whole builds, takes sources away and damages them, lets writes fail and fills
the disk, and starts the same command again whenever a build has stopped, as its user would. In the
end every manifest and every file must be as in the first one. Writes results/faults.csv.

The disk is a small one in memory, mounted for this process alone; where the system allows no such
mount, no disk is filled, which the table says.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.environment import write_environment
from benchmarks.generated_picture import generated_picture
from datasets.manifest import read_manifest

ROOT = Path(__file__).parent.parent
DISK = "FAULTS_DISK"  # names the small disk to this script, started again inside the mount
DISK_MEGABYTES = 128
CODECS = "uncompressed,jpeg,jpeg2000,jpegxr,webp"
STOP_SECONDS = 30  # within which a build must have met the fault that is to stop it


@dataclass
class Build:
    """A build in a process of its own, started again and again until it is finished."""

    sources: Path
    out: Path
    rng: random.Random
    process: psutil.Popen | None = None
    started: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    stops: Counter[str] = field(default_factory=Counter)

    @property
    def log(self) -> Path:
        return self.out.with_suffix(".log")

    def start(self, *options: str) -> None:
        """Start the command, the same every time."""
        command = [sys.executable, str(ROOT / "main.py"), "build-dataset", str(self.sources)]
        command += ["--out", str(self.out), "--codecs", CODECS, "--ratios", "8,16"]
        command += ["--ssims", "0.9", "--patches-per-class", "0", "--workers", "2", *options]
        self.started = time.time()
        with open(self.log, "wb") as log:
            self.process = psutil.Popen(command, stdout=log, stderr=log, cwd=ROOT)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def workers(self) -> list[psutil.Process]:
        """Its worker processes at this moment."""
        assert self.process is not None
        try:
            return [p for p in self.process.children() if "spawn_main" in " ".join(p.cmdline())]
        except psutil.Error:  # one has ended meanwhile
            return []

    def has_made_samples(self) -> bool:
        """Whether a sample was finished since the last start: faults must not only hit starts."""
        try:
            with os.scandir(self.out / "journal") as files:
                return any(file.stat().st_mtime > self.started for file in files)
        except OSError:
            return False

    def wait(self, seconds: float) -> bool:
        """Wait for its end; whether it came in time."""
        assert self.process is not None
        try:
            self.process.wait(seconds)
        except psutil.TimeoutExpired:
            return False
        return True

    def is_complete(self) -> bool:
        """Whether it has ended and made what it could; exit status 1 says that samples failed."""
        assert self.process is not None
        return self.process.poll() in (0, 1) and "Traceback" not in self.printed()

    def printed(self) -> str:
        return " ".join(self.log.read_text(errors="replace").split())

    def note_stop(self) -> None:
        """Tell by what it has printed how it ended."""
        text = self.printed()
        known = ("disk full", "cannot be written", "No usable source")
        named = next((words for words in known if words in text), None)
        if "Traceback" in text or named is None:
            self.stops["unclear"] += 1
            print(f"unclear stop: {text[-2000:]}", file=sys.stderr)
        else:
            self.stops[named] += 1


def kill_worker(build: Build) -> bool:
    """As the system does when memory runs out."""
    workers = build.workers()
    if workers:
        build.rng.choice(workers).kill()
    return bool(workers)


def kill_build(build: Build) -> bool:
    """The whole build, as at a reboot."""
    assert build.process is not None
    build.process.kill()
    build.wait(STOP_SECONDS)
    return True


def hide_sources(build: Build) -> bool:
    """As when a network drive is away for a moment."""
    away = build.sources.with_name("away")
    build.sources.rename(away)
    time.sleep(build.rng.uniform(0.2, 1.0))
    away.rename(build.sources)
    return True


def damage_source(build: Build) -> bool:
    """A picture cut off in the middle, then whole again."""
    picture = build.rng.choice(sorted(build.sources.iterdir()))
    whole = picture.read_bytes()
    picture.write_bytes(whole[: build.rng.randrange(len(whole))])
    time.sleep(build.rng.uniform(0.5, 2.0))
    picture.write_bytes(whole)
    return True


def fail_writes(build: Build) -> bool:
    """A worker whose files may not grow beyond some bytes, so that a write breaks off."""
    workers = build.workers()
    if not workers:
        return False
    worker = build.rng.choice(workers)
    try:
        _, most = worker.rlimit(psutil.RLIMIT_FSIZE)
        worker.rlimit(psutil.RLIMIT_FSIZE, (build.rng.randrange(1, 400), most))
        if build.wait(STOP_SECONDS) and not build.is_complete():
            build.note_stop()
            return True
        worker.rlimit(psutil.RLIMIT_FSIZE, (most, most))
    except psutil.Error:
        pass
    return False


def fill_disk(build: Build) -> bool:
    """Leave next to nothing of the disk until the build stops."""
    ballast = build.out.with_name("ballast")
    try:
        with open(ballast, "wb", buffering=0) as file:
            with suppress(OSError):
                while file.write(bytes(1 << 20)) == 1 << 20:
                    pass
            file.truncate(file.tell() - build.rng.randrange(4096, 65536))
        if build.wait(STOP_SECONDS) and not build.is_complete():
            build.note_stop()
            return True
        return False
    finally:
        ballast.unlink()


# How often each is chosen. The last ones end the build, so that more of them would only try starts.
FAULTS: dict[Callable[[Build], bool], int] = {
    kill_worker: 60,
    hide_sources: 10,
    damage_source: 10,
    kill_build: 8,
    fail_writes: 6,
    fill_disk: 6,
}


def disturb(build: Build, faults: dict[Callable[[Build], bool], int], most: int) -> None:
    """Finish `build` with at most `most` faults on the way, then once more for what has failed."""
    build.start()
    while True:
        if build.wait(build.rng.uniform(0.3, 1.5)):
            if build.is_complete():
                break
            build.note_stop()
            build.start()
        elif build.faults.total() < most and build.has_made_samples():
            fault = build.rng.choices(list(faults), list(faults.values()))[0]
            if fault(build):
                build.faults[fault.__name__] += 1
            if not build.is_running and not build.is_complete():
                build.start()
    finish(build, "--retry-failed")


def finish(build: Build, *options: str) -> None:
    """Run `build` to its end, undisturbed."""
    build.start(*options)
    assert build.process is not None
    build.process.wait()
    if not build.is_complete():
        raise SystemExit(f"an undisturbed build has failed: {build.printed()}")


def compare(reference: Path, out: Path) -> Counter[str]:
    """What is lost, there twice, wrong or left over in `out`."""
    wanted = {row["sample_id"]: row for row in _rows(reference)}
    rows = _rows(out)
    found = {row["sample_id"]: row for row in rows}
    well = {name for name, row in found.items() if row["status"] == "'ok'"}
    files = {p.relative_to(reference): p for p in (reference / "encoded").rglob("*.*")}
    made = {p.relative_to(out): p for p in (out / "encoded").rglob("*.*")}
    same = (files[p].read_bytes() == made[p].read_bytes() for p in files.keys() & made.keys())
    columns = {
        column
        for name in wanted.keys() & well
        for column in wanted[name]
        if found[name][column] != wanted[name][column]
    }
    if columns:
        print(f"columns that differ: {', '.join(sorted(columns))}", file=sys.stderr)
    return Counter(
        samples=len(rows),
        lost=len(wanted.keys() - well) + len(files.keys() - made.keys()),
        twice=len(rows) - len(found),
        wrong=sum(found[name] != wanted[name] for name in wanted.keys() & well)
        + sum(not one for one in same),
        left_over=len(made.keys() - files.keys()) + len(found.keys() - wanted.keys()),
    )


def _rows(folder: Path) -> list[dict[str, Any]]:
    """A manifest with its numbers as text: what is not a number equals itself then."""
    rows = read_manifest(folder).to_pylist()
    return [{name: repr(value) for name, value in row.items()} for row in rows]


@contextmanager
def workplace() -> Iterator[Path]:
    """The small disk if there is one, else a temporary folder."""
    if DISK in os.environ:
        yield Path(os.environ[DISK])
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def enter_disk() -> None:
    """Start this script again inside a mount of its own, where the system allows that."""
    with tempfile.TemporaryDirectory() as folder:
        mount = f'mount -t tmpfs -o size={DISK_MEGABYTES}m none "$1" && shift'
        unshare = ["unshare", "-rm", "sh", "-c"]
        if (
            shutil.which("unshare") is None
            or subprocess.run(
                [*unshare, mount, "sh", folder], check=False, stderr=subprocess.DEVNULL
            ).returncode
        ):
            print("No small disk can be mounted here, so none is filled.", file=sys.stderr)
            return
        again = [sys.executable, "-m", "benchmarks.faults", *sys.argv[1:]]
        done = subprocess.run(
            [*unshare, f'{mount} && exec "$@"', "sh", folder, *again],
            env=os.environ | {DISK: folder},
            cwd=ROOT,
            check=False,
        )
    raise SystemExit(done.returncode)


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=500, help="how many in all")
    parser.add_argument("--pictures", type=int, default=40, help="sources of the dataset")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if DISK not in os.environ:
        enter_disk()
    from PIL import Image

    faults = {
        fault: weight
        for fault, weight in FAULTS.items()
        if fault is not fill_disk or DISK in os.environ
    }
    begin = time.perf_counter()
    total: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    stops: Counter[str] = Counter()
    with workplace() as folder:
        sources = folder / "sources"
        sources.mkdir()
        for number in range(arguments.pictures):
            picture = generated_picture(160, 192, 3, seed=number)
            Image.fromarray(picture).save(sources / f"picture{number}.png")
        rng = random.Random(arguments.seed)
        reference = Build(sources, folder / "reference", rng)
        finish(reference)
        if any(row["status"] != "'ok'" for row in _rows(reference.out)):
            raise SystemExit(f"the undisturbed build has failures: {reference.printed()}")
        number = 0
        while kinds.total() < arguments.faults:
            build = Build(sources, folder / f"build{number}", rng)
            disturb(build, faults, arguments.faults - kinds.total())
            result = compare(reference.out, build.out)
            print(f"build {number}: {dict(build.faults)} {dict(result)}", file=sys.stderr)
            total += result
            kinds += build.faults
            stops += build.stops
            shutil.rmtree(build.out)
            number += 1
    rows = [(f"faults: {fault.__name__}", kinds[fault.__name__]) for fault in FAULTS]
    rows += [("faults in all", kinds.total()), ("builds", number)]
    rows += [(f"stops: {words}", count) for words, count in sorted(stops.items())]
    rows += [(f"stops: {words}", 0) for words in ("unclear",) if words not in stops]
    rows += [(name, total[name]) for name in ("samples", "lost", "twice", "wrong", "left_over")]
    rows += [("seconds", round(time.perf_counter() - begin))]
    table = ROOT / "results" / "faults.csv"
    table.write_text("what,count\n" + "".join(f"{name},{count}\n" for name, count in rows))
    write_environment(table)
    for name, count in rows:
        print(f"{name:24} {count:8}")
    if total["lost"] + total["twice"] + total["wrong"] + total["left_over"]:
        raise SystemExit("The disturbed builds differ from the one that was left alone.")


if __name__ == "__main__":
    main()
