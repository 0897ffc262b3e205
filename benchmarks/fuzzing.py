"""Do the decoders that are our own stand damaged and hostile files?

Bpg and Svd decode files that are mutated from small ones of our own encoders, in a child process
each. An input may be decoded to a picture or refused with `CodecError`. Everything else is a
finding, is kept in a folder, and makes the exit status 1: another exception, a crash, a hang, more
than 2 s of CPU time, more than 512 MiB of memory, a malformed picture, anything printed.

    python -m benchmarks.fuzzing --inputs 200000 --data ../shared/data

The input of a number depends on `--seed` and the seed files alone, so a finding can be made again.
"""

from __future__ import annotations

import argparse
import faulthandler
import lzma
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import write_environment, write_table
from benchmarks.generated_picture import generated_picture
from imagecompression import (
    CODECS,
    MAX_PIXELS,
    Codec,
    CodecError,
    Extras,
    RateSearch,
    RatioTarget,
    codec_from_params,
)
from imagecompression.bpg_container import ByteReader, encode_ue7

FUZZED = ("bpg", "svd")
"""The codecs whose decoders are, in part at least, this project's own code."""

CPU_LIMIT_S = 2.0
GOLDEN = Path(__file__).parent.parent / "tests/golden"
"""Files of earlier container versions, which decoders must still read."""
WALL_LIMIT_S = 20.0
GROWTH_LIMIT_MIB = 512
RARE_MODES: dict[str, tuple[dict[str, Any], ...]] = {
    "bpg": (
        {"color_space": "rgb"},
        {"color_space": "ycgco"},
        {"color_space": "bt2020", "bit_depth": 12},
        {"lossless": True},
    ),
    "svd": (),
}
"""Parameters of modes that are not among the codec's variants."""
FOREIGN_SHARE = 0.1
"""Share of inputs made from `--data` files, which are larger and slower to decode than ours."""
LARGEST_FOREIGN_BYTES = 40_000

_SPAWN = multiprocessing.get_context("spawn")
_INTERESTING_BYTES = (0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 129, 254, 255)
_INTERESTING_NUMBERS = (
    *(0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 255, 256, 257),
    *(1000, 1023, 1024, 1025, 4095, 4096, 8192, 16_383, 16_384, 32_767, 32_768, 65_535),
)  # fmt: skip
_HUGE_NUMBERS = (65_536, 2**20, 10**8, 10**8 + 1, 2**24, 2**28, 2**30 - 1, 2**30, 2**31, 2**32 - 1)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        codec: Registry name.
        inputs: Inputs that were tried.
        decoded: Inputs that gave a picture.
        refused: Inputs that gave a `CodecError`.
        findings: All others; each is kept as a file.
        slowest_seconds: Most CPU time of an input.
        peak_mib: Most memory over that of a process that has decoded the seed files.
        minutes: Wall-clock time for all inputs.
    """

    codec: str
    inputs: int
    decoded: int
    refused: int
    findings: int
    slowest_seconds: float
    peak_mib: float
    minutes: float


# --- seed files ------------------------------------------------------------------------------


def seed_files(name: str) -> list[bytes]:
    """Small files of the codec's encoder in all its modes, gray and colour, with extras."""
    kind = CODECS[name]
    shapes = ((8, 8), (13, 16), (40, 31), (48, 64), (96, 90))
    files = [path.read_bytes() for path in sorted(GOLDEN.glob(f"*{kind.suffix}"))]
    for number, setting in enumerate(dict.fromkeys((kind(), *kind.variants()))):
        for channels in (3, 1):
            height, width = shapes[(number + channels) % len(shapes)]
            picture = generated_picture(height, width, channels, seed=number)
            search = RateSearch(picture, setting)
            files += [search.to(RatioTarget(ratio, 0.5)).data for ratio in (3.0, 20.0)]
        if number < 6:
            extras = Extras(
                alpha=generated_picture(40, 31, 1, seed=number),
                exif=b"MM\0*\0\0\0\x08\0\0\0\0\0\0",
                icc=bytes(range(64)),
                xmp=b"<x:xmpmeta/>",
            ).only(kind.keeps)
            if extras.held():
                files.append(setting.encode_with(generated_picture(40, 31, 3), extras))
    for params in RARE_MODES[name]:
        setting = codec_from_params(name, params)
        files += [setting.encode(generated_picture(40, 31, channels)) for channels in (3, 1)]
    return list(dict.fromkeys(files))


def foreign_files(name: str, data: Path | None) -> list[bytes]:
    """Small files of other encoders below the folder `data`."""
    if data is None:
        return []
    paths = sorted(data.rglob(f"*{CODECS[name].suffix}"))
    return [path.read_bytes() for path in paths if path.stat().st_size <= LARGEST_FOREIGN_BYTES]


# --- mutation --------------------------------------------------------------------------------

Mutator = Callable[[bytearray, random.Random, Sequence[bytes]], bytearray]


def _place(data: bytearray, rng: random.Random) -> int:
    """A position in `data`, half of the time among the headers."""
    return rng.randrange(min(len(data), 48) if rng.random() < 0.5 else len(data))


def _number(rng: random.Random) -> int:
    """A number that programmers forget; rarely a huge one, which costs time if it is believed."""
    return rng.choice(_HUGE_NUMBERS if rng.random() < 0.05 else _INTERESTING_NUMBERS)


def _flip_bit(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> bytearray:
    data[_place(data, rng)] ^= 1 << rng.randrange(8)
    return data


def _set_byte(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> bytearray:
    value = rng.choice(_INTERESTING_BYTES) if rng.random() < 0.7 else rng.randrange(256)
    data[_place(data, rng)] = value
    return data


def _set_number(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> bytearray:
    width = rng.choice((2, 4))
    at = _place(data, rng)
    value = _number(rng) % 256**width
    order: Any = rng.choice(("little", "big"))
    data[at : at + width] = value.to_bytes(width, order)
    return data


def _delete(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> bytearray:
    at = _place(data, rng)
    del data[at : at + rng.choice((1, 1, 2, 4, 16, 64))]
    return data


def _insert(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> bytearray:
    at = _place(data, rng)
    count = rng.choice((1, 1, 2, 4, 16, 64))
    data[at:at] = (
        rng.randbytes(count) if rng.random() < 0.5 else bytes([rng.randrange(256)]) * count
    )
    return data


def _duplicate(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> bytearray:
    at = _place(data, rng)
    piece = data[at : at + rng.choice((1, 2, 4, 16, 64, 256))]
    where = _place(data, rng)
    data[where:where] = piece
    return data


def _truncate(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> bytearray:
    return data[: rng.randrange(len(data))]


def _splice(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> bytearray:
    other = rng.choice(seeds)
    return data[: _place(data, rng)] + other[rng.randrange(len(other)) :]


MUTATORS: tuple[Mutator, ...] = (
    *(_flip_bit, _flip_bit, _flip_bit, _set_byte, _set_byte, _set_byte, _set_number, _set_number),
    *(_delete, _insert, _duplicate, _truncate, _splice),
)  # fmt: skip


def _bpg_numbers(data: bytearray) -> list[tuple[int, int]]:
    """Start and end of the ue7 numbers in a BPG file's header: width, height, data length."""
    places, start = [], 6
    for _ in range(3):
        reader = ByteReader(bytes(data[start:]))
        reader.ue7()
        end = len(data) - len(reader.rest())
        places.append((start, end))
        start = end
    return places


def _mutate_bpg(data: bytearray, rng: random.Random) -> bytearray:
    """Change a number of the header, then mostly make the data length fit again."""
    try:
        fate = rng.random()
        if fate < 0.3:
            start, end = rng.choice(_bpg_numbers(data)[:2])
            value = ByteReader(bytes(data[start:end])).ue7()
            near = (value + 1, max(value - 1, 0), value * 2, value // 2, value + 8)
            data[start:end] = encode_ue7(rng.choice(near) if rng.random() < 0.5 else _number(rng))
        elif fate < 0.31:  # a large picture of few data
            for start, end in reversed(_bpg_numbers(data)[:2]):
                data[start:end] = encode_ue7(rng.randrange(1000, 12_000))
        if rng.random() < 0.8:
            start, end = _bpg_numbers(data)[2]
            known = 0 if data[5] & 8 or rng.random() < 0.2 else len(data) - end
            data[start:end] = encode_ue7(known)
    except CodecError:
        pass  # the header is too damaged to be made to fit
    return data


def _mutate_svd(data: bytearray, rng: random.Random) -> bytearray:
    """Change what the entropy coder or the checksum would hide, then mostly fit the checksum."""
    if len(data) < 32:
        return data
    first_version = data[4] == 1
    sides, checksum = (6, 14 + 2 * data[5]) if first_version else (8, 20 + 2 * data[6])
    fate = rng.random()
    if fate < 0.05:
        side = rng.choice((sides, sides + 2))
        data[side : side + 2] = (_number(rng) % 65_536).to_bytes(2, "little")
    elif fate < 0.06:  # a large picture of few data
        for side in (sides, sides + 2):
            data[side : side + 2] = rng.randrange(500, 8000).to_bytes(2, "little")
        data += bytes(rng.choice((0, 4096, 16_384)))  # zeros pay for large claims
    elif fate < 0.5 and first_version:
        data = _mutate_lzma(data, checksum + 4, rng)
    if rng.random() < 0.9:
        rest = bytes(data[:checksum] + data[checksum + 4 :])
        data[checksum : checksum + 4] = zlib.crc32(rest).to_bytes(4, "little")
    return data


def _mutate_lzma(data: bytearray, start: int, rng: random.Random) -> bytearray:
    """Change the payload of SVD version 1 inside its compression."""
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 16, "lc": 0, "lp": 0, "pb": 0}]
    try:
        payload = bytearray(lzma.decompress(data[start:], lzma.FORMAT_RAW, filters=filters))
        for _ in range(rng.choice((1, 2, 8))):
            payload = rng.choice((_flip_bit, _set_byte, _set_number))(payload, rng, ())
    except (lzma.LZMAError, EOFError, IndexError, ValueError):
        return data  # the payload is too damaged, or empty
    return data[:start] + lzma.compress(payload, lzma.FORMAT_RAW, filters=filters)


REPAIRS: dict[str, Callable[[bytearray, random.Random], bytearray]] = {
    "bpg": _mutate_bpg,
    "svd": _mutate_svd,
}


def mutated(name: str, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """A damaged file of the codec `name`, made from one or two of `seeds`."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        data = rng.choice(MUTATORS)(data, rng, seeds) or bytearray(1)
    if rng.random() < 0.9:
        data[:4] = seeds[0][:4]  # the magic bytes, without which nothing else is read
    return bytes(REPAIRS[name](data, rng))


def numbered_input(
    name: str, seeds: Sequence[bytes], foreign: Sequence[bytes], seed: int, number: int
) -> bytes:
    """The input of a number; the same for the same arguments."""
    rng = random.Random(f"{seed} {name} {number}")
    return mutated(name, foreign if foreign and rng.random() < FOREIGN_SHARE else seeds, rng)


# --- one input -------------------------------------------------------------------------------


def outcome(kind: type[Codec], data: bytes, with_extras: bool) -> str:
    """``"decoded"``, ``"refused"``, or what is wrong with the decoder."""
    try:
        if with_extras:
            image, extras = kind.decode_with(data)
        else:
            image, extras = kind.decode(data), Extras()
    except CodecError:
        return "refused"
    except Exception as error:  # the very thing that is looked for
        return f"{type(error).__name__}: {error}"
    sound = (
        image.dtype == np.uint8
        and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3))
        and image.flags.c_contiguous
        and 0 < image.shape[0] * image.shape[1] <= MAX_PIXELS
    )
    if not sound:
        return f"malformed picture: {image.dtype} {image.shape}"
    alpha = extras.alpha
    if alpha is not None and (alpha.dtype != np.uint8 or alpha.shape != image.shape[:2]):
        return f"malformed alpha: {alpha.dtype} {alpha.shape} of {image.shape}"
    return "decoded"


def keep_finding(folder: Path, name: str, number: int, data: bytes, text: str) -> None:
    """Write the input and what it did."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}-{number}{CODECS[name].suffix}").write_bytes(data)
    (folder / f"{name}-{number}.txt").write_text(text + "\n", encoding="utf-8")


# --- the child process -----------------------------------------------------------------------

NUMBER, STARTED, DECODED, REFUSED, FINDINGS, SLOWEST, PEAK = range(7)
"""What parent and child share, as doubles: the input being decoded and when it was begun
(`time.monotonic`, 0 between inputs), then the counts of `Row`. They outlive a crash."""


@dataclass(frozen=True)
class Campaign:
    """All that determines the inputs of one codec."""

    name: str
    seeds: list[bytes]
    foreign: list[bytes]
    seed: int
    inputs: int
    folder: Path

    def data(self, number: int) -> bytes:
        """The input of a number."""
        return numbered_input(self.name, self.seeds, self.foreign, self.seed, number)

    @property
    def log(self) -> Path:
        """Where the child's standard output and error go."""
        return self.folder / f"{self.name}.log"


def _peak_mib() -> float:
    """The most memory this process has held so far (Linux: `ru_maxrss` in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_child(campaign: Campaign, first: int, shared: Any) -> None:
    """Decode the inputs from `first` on; ends early after an input that took much memory."""
    log = os.open(campaign.log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.enable()
    kind = CODECS[campaign.name]
    for data in (*campaign.seeds, *campaign.foreign):
        kind.decode(data)
    usual, printed = _peak_mib(), os.fstat(log).st_size
    for number in range(first, campaign.inputs):
        data = campaign.data(number)
        shared[NUMBER], shared[STARTED] = number, time.monotonic()
        started = time.process_time()
        found = outcome(kind, data, with_extras=number % 2 == 1)
        seconds = time.process_time() - started
        grown = _peak_mib() - usual
        shared[STARTED] = 0
        shared[SLOWEST] = max(shared[SLOWEST], seconds)
        shared[PEAK] = max(shared[PEAK], grown)
        if seconds > CPU_LIMIT_S:
            found = f"{found} after {seconds:.2f} s of CPU time"
        if grown > GROWTH_LIMIT_MIB:
            found = f"{found} with {grown:.0f} MiB more memory"
        if os.fstat(log).st_size > printed:
            found, printed = f"{found} and printed something", os.fstat(log).st_size
        if found in ("decoded", "refused"):
            shared[DECODED if found == "decoded" else REFUSED] += 1
        else:
            shared[FINDINGS] += 1
            keep_finding(campaign.folder, campaign.name, number, data, found)
        shared[NUMBER] = number + 1
        if grown > GROWTH_LIMIT_MIB:
            return  # the next child measures from its own start


# --- the parent process ----------------------------------------------------------------------


class Run:
    """The child processes of one codec, one after the other."""

    def __init__(self, campaign: Campaign) -> None:
        self.campaign = campaign
        self.shared = _SPAWN.RawArray("d", 7)
        self.begun = time.monotonic()
        self.finished = False
        self.child = self._start(0)

    def _start(self, first: int) -> SpawnProcess:
        self._first = first
        child = _SPAWN.Process(target=run_child, args=(self.campaign, first, self.shared))
        child.start()
        return child

    def _keep(self, text: str) -> int:
        """Keep the input that ended the child; the number of the next input."""
        number = int(self.shared[NUMBER])
        said = self.campaign.log.read_text(encoding="utf-8", errors="replace")
        campaign = self.campaign
        keep_finding(
            campaign.folder, campaign.name, number, campaign.data(number), f"{text}\n{said}"
        )
        self.shared[FINDINGS] += 1
        self.shared[STARTED] = 0
        return number + 1

    def poll(self) -> None:
        """Watch the child; start another one after a crash, a hang or a memory finding."""
        begun = self.shared[STARTED]
        if self.child.is_alive():
            if not begun or time.monotonic() - begun < WALL_LIMIT_S:
                return
            self.child.kill()
            self.child.join()
            following = self._keep(f"hang: killed after {WALL_LIMIT_S:g} s")
        elif self.child.exitcode and not begun:
            said = self.campaign.log.read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"The {self.campaign.name} child ended between inputs:\n{said}")
        elif self.child.exitcode:
            following = self._keep(f"crash: exit status {self.child.exitcode}")
        else:
            following = int(self.shared[NUMBER])
        if following < self.campaign.inputs:
            self.child = self._start(following)
        else:
            self.finished = True

    def row(self) -> Row:
        """The counts so far."""
        shared = self.shared
        return Row(
            codec=self.campaign.name,
            inputs=int(shared[DECODED] + shared[REFUSED] + shared[FINDINGS]),
            decoded=int(shared[DECODED]),
            refused=int(shared[REFUSED]),
            findings=int(shared[FINDINGS]),
            slowest_seconds=round(shared[SLOWEST], 3),
            peak_mib=round(shared[PEAK], 1),
            minutes=round((time.monotonic() - self.begun) / 60, 1),
        )


def run(campaigns: list[Campaign]) -> list[Row]:
    """All campaigns at once, a child process each."""
    runs = [Run(campaign) for campaign in campaigns]
    rows: dict[str, Row] = {}
    reported = time.monotonic()
    while len(rows) < len(runs):
        time.sleep(0.1)
        for one in runs:
            if not one.finished:
                one.poll()
            elif one.campaign.name not in rows:
                rows[one.campaign.name] = one.row()
        if time.monotonic() - reported > 15:
            reported = time.monotonic()
            for one in runs:
                now = one.row()
                print(
                    f"{now.codec}: {now.inputs}/{one.campaign.inputs}, {now.findings} findings",
                    file=sys.stderr,
                )
    return [rows[one.campaign.name] for one in runs]


def print_table(rows: list[Row]) -> None:
    """One line a codec."""
    names = [field.name for field in fields(Row)]
    print("".join(f"{name:>17}" for name in names))
    for row in rows:
        print("".join(f"{getattr(row, name):>17}" for name in names))


def main() -> int:
    """Run, print, write; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=200_000, help="for each codec")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=FUZZED)
    parser.add_argument("--data", type=Path, help="folder with files of other encoders")
    parser.add_argument(
        "--findings", type=Path, default=Path(tempfile.gettempdir()) / "imagecompression-fuzzing"
    )
    parser.add_argument("--out", type=Path, default=Path("results/fuzzing.csv"))
    arguments = parser.parse_args()
    names = [arguments.only] if arguments.only else list(FUZZED)
    arguments.findings.mkdir(parents=True, exist_ok=True)
    # Encoders run in another process: a child's memory is counted from its parent's on.
    with ProcessPoolExecutor(1, mp_context=_SPAWN) as pool:
        seeds = dict(zip(names, pool.map(seed_files, names), strict=True))
    rows = run(
        [
            Campaign(
                name,
                seeds[name],
                foreign_files(name, arguments.data),
                arguments.seed,
                arguments.inputs,
                arguments.findings,
            )
            for name in names
        ]
    )
    print_table(rows)
    write_table(arguments.out, (asdict(row) for row in rows))
    write_environment(arguments.out)
    missed = [f"{row.codec}: {row.findings} findings" for row in rows if row.findings]
    missed += [f"{row.codec}: no input was decoded" for row in rows if not row.decoded]
    for line in missed:
        print(f"missed: {line}; see {arguments.findings}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
