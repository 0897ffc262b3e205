"""Pristine pictures: finding them, refusing those that are not what they seem, grouping the rest.

Nothing is dropped silently: every file is accepted, or refused with a reason.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PilImage

from datasets.groups import Membership, join_groups, read_groups
from datasets.near_duplicates import SIMILARITY_LIMIT, near_duplicates, perceptual_hash
from datasets.workers import Crashed, Pool
from imagecompression import CODECS, CodecError, Image
from imagecompression.atomic_file import write_bytes_atomic, write_json_atomic
from imagecompression.evidence.jpeg_history import (
    COMB_LIMIT,
    VOTE_LIMIT,
    VOTE_SHARE_LIMIT,
    jpeg_history,
)
from imagecompression.image_io import load_srgb

SOURCE_SUFFIXES = (".tif", ".tiff", ".png")
"""Suffixes taken when a folder is walked; a file named outright is taken whatever its suffix."""

GRADIENT_LIMIT = 0.5
"""Least mean difference of neighbouring luma samples, in levels of 255. The smoothest photograph
that was measured has 1.0."""

FLAT_SHARE_LIMIT = 0.6
"""Greatest share of 8×8 blocks of one luma value; the measured photographs reach 0.2."""

REASONS = {
    "missing": "no such file, or a folder without pictures",
    "bad-name": "the file's name is not valid UTF-8",
    "unreadable": "damaged, of an unknown kind, or without one right rendering in 8 bits",
    "lossy-file": "the file's own format is lossy, or it has a palette",
    "lossy-inside": "a TIFF with (possibly) lossy data inside",
    "too-small": "narrower or lower than asked for",
    "too-flat": "hardly any detail",
    "jpeg-history": "once a JPEG, now uncompressed",
    "duplicate": "the same pixels as another source",
    "bridges-groups": "like sources of two groups that are to stay apart",
}
"""Reason codes of `Rejected`."""

# Values of TIFF's tag 259.
_LOSSY_COMPRESSIONS = {
    6: "jpeg", 7: "jpeg", 34892: "jpeg", 34712: "jpeg2000", 34934: "jpegxr", 50001: "webp",
    34887: "lerc", 50002: "jpegxl", 52546: "jpegxl",
}  # fmt: skip
_LOSSY = frozenset(name for name, codec in CODECS.items() if codec.knob is not None)


@dataclass(frozen=True)
class Facts:
    """What vetting measured of a picture that could be read.

    Attributes:
        width: In pixels.
        height: In pixels.
        gradient: Mean difference of neighbouring luma samples, 0 … 255.
        flat_share: Share of 8×8 blocks of one luma value.
        vote_ratio: See `imagecompression.evidence.jpeg_history.JpegHistory`; also the next three.
        vote_share: Ditto.
        comb: Ditto.
        quality: Ditto.
    """

    width: int
    height: int
    gradient: float
    flat_share: float
    vote_ratio: float
    vote_share: float
    comb: float
    quality: int | None


@dataclass(frozen=True)
class Source:
    """One accepted source picture.

    Attributes:
        path: Where it lies on this machine; never written into a dataset.
        file: Its name below the folder that was given.
        source_id: Name and start of the pixel hash; unique in a dataset.
        group: Pictures of one group always share a split.
        sha256: Of the file.
        pixel_sha256: Of shape and samples in sRGB, see `read_source`; equal for equal pictures in
            any container.
        width: In pixels.
        height: In pixels.
        notes: Conversions made on reading, such as 16 bit to 8.
        origin: Where it comes from, as the CSV of groups says; else empty.
        perceptual_hash: See `datasets.near_duplicates`.
        facts: What was measured.
    """

    path: Path
    file: str
    source_id: str
    group: str
    sha256: str
    pixel_sha256: str
    width: int
    height: int
    notes: tuple[str, ...]
    origin: str = ""
    perceptual_hash: str = ""
    facts: Facts | None = None


@dataclass(frozen=True)
class Rejected:
    """A file that cannot serve as a source, and why.

    Attributes:
        file: Its name below the folder that was given.
        error: Why, in words.
        reason: A key of `REASONS`.
        facts: What was measured, as far as it came to that.
    """

    file: str
    error: str
    reason: str
    facts: Facts | None = None


@dataclass(frozen=True)
class Vetting:
    """The verdict on every file.

    Attributes:
        sources: The accepted ones, by `source_id`.
        rejected: The others.
        near_duplicates: (file, file, cosine) where only likeness put the two in one group.
        notes: What else the user should know.
    """

    sources: list[Source]
    rejected: list[Rejected]
    near_duplicates: list[tuple[str, str, float]]
    notes: list[str]

    @property
    def exit_status(self) -> int:
        """0 if every file was accepted, 1 if some were refused, 2 if none can be used."""
        return 2 if not self.sources else 1 if self.rejected else 0

    @property
    def reasons(self) -> dict[str, int]:
        """Number of refused files by reason, the most frequent first."""
        return dict(Counter(item.reason for item in self.rejected).most_common())

    def rows(self) -> list[dict[str, Any]]:
        """One flat dict a file, by name; facts that were not measured are None."""
        rows = []
        for source in self.sources:
            row = _row(source.file, "accepted", source.facts)
            row |= {"group": source.group, "origin": source.origin, "sha256": source.sha256}
            row |= {"pixel_sha256": source.pixel_sha256, "notes": "; ".join(source.notes)}
            rows.append(row)
        for item in self.rejected:
            row = _row(item.file, "rejected", item.facts)
            rows.append(row | {"reason": item.reason, "explanation": item.error})
        return sorted(rows, key=lambda row: (row["file"], row["pixel_sha256"]))

    def to_json(self) -> dict[str, Any]:
        """All of it, JSON-ready, with the limits that were applied."""
        return {
            "accepted": len(self.sources),
            "rejected": len(self.rejected),
            "reasons": self.reasons,
            "notes": self.notes,
            "near_duplicates": [
                {"files": [one, other], "cosine": round(cosine, 4)}
                for one, other, cosine in self.near_duplicates
            ],
            "limits": {
                "gradient": GRADIENT_LIMIT,
                "flat_share": FLAT_SHARE_LIMIT,
                "vote_ratio": VOTE_LIMIT,
                "vote_share": VOTE_SHARE_LIMIT,
                "comb": COMB_LIMIT,
                "cosine": SIMILARITY_LIMIT,
            },
            "files": self.rows(),
        }

    def save(self, path: Path) -> None:
        """Write the rows as CSV to `path`, and everything as JSON beside it, suffix ``.json``.

        The CSV serves as a CSV of groups: sources that are added later join its groups and cannot
        change them.

        Raises:
            OSError: The folder is missing or cannot be written.
        """
        write_bytes_atomic(path, csv_bytes(self.rows()))
        write_json_atomic(path.with_suffix(".json"), self.to_json())


def _row(file: str, verdict: str, facts: Facts | None) -> dict[str, Any]:
    """A file's row with all columns, those of the verdict's details empty."""
    measured = {f.name: getattr(facts, f.name, None) for f in dataclasses.fields(Facts)}
    details = dict.fromkeys(("reason", "explanation", "group", "origin", "notes"), "")
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in measured.items()}
    hashes = {"sha256": "", "pixel_sha256": ""}
    return {"file": file, "verdict": verdict, **details, **rounded, **hashes}


def csv_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows of equal keys as CSV in UTF-8; without rows a table of the column file alone."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["file"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def find_source_files(paths: Iterable[Path]) -> tuple[list[tuple[Path, str]], list[Rejected]]:
    """Source files among files and folders (walked), sorted, each with its name for the dataset."""
    found: dict[Path, str] = {}
    missing: list[Rejected] = []
    for given in paths:
        if given.is_dir():
            named = (p for p in given.rglob("*") if p.suffix.lower() in SOURCE_SUFFIXES)
            inside = [path for path in named if path.is_file()]
            for path in inside:
                found.setdefault(path.resolve(), path.relative_to(given).as_posix())
            if not inside:
                kinds = ", ".join(SOURCE_SUFFIXES)
                missing.append(Rejected(given.name, f"The folder holds no {kinds} file", "missing"))
        elif given.exists():
            found.setdefault(given.resolve(), given.name)
        else:
            missing.append(Rejected(given.name, "No such file or folder", "missing"))
    return sorted(found.items(), key=lambda item: (item[1], item[0])), missing


def pixel_hash(pixels: np.ndarray) -> str:
    """SHA-256 of shape and samples, hexadecimal."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def read_source(path: Path) -> Image:
    """Pixels of a source: as stored, or converted to sRGB where the file says that they are not.

    Raises:
        ImageReadError: The file cannot be read.
    """
    return load_srgb(path)[1].pixels


def open_source(path: Path, file: str, min_side: int) -> Source | Rejected:
    """Read and vet one file; see `REASONS` for what is refused.

    The JPEG history is looked for in the samples as stored; all else is of the picture in sRGB.
    """
    try:
        file.encode()
    except UnicodeEncodeError:
        return Rejected(ascii(file), "The name is not valid UTF-8: rename the file", "bad-name")
    try:
        stored, srgb = load_srgb(path)
    except CodecError as error:
        # The dataset must not tell where the file lay on this machine.
        message = str(error).replace(repr(os.fspath(path)), repr(file))
        inner_codec = _codec_of_damaged_tiff(path)
        if inner_codec is None:
            return Rejected(file, message, "unreadable")
        return Rejected(file, f"{_lossy_inside(inner_codec)} {message}", "lossy-inside")
    if stored.inner_codec:
        return Rejected(file, _lossy_inside(stored.inner_codec), "lossy-inside")
    if stored.format in _LOSSY:
        return Rejected(
            file,
            f"Not pristine: compressed by {stored.format}. Give a lossless original.",
            "lossy-file",
        )
    height, width = stored.pixels.shape[:2]
    history = jpeg_history(stored.pixels)
    facts = Facts(
        width, height, *_detail(srgb.pixels),
        history.vote_ratio, history.vote_share, history.comb, history.quality,
    )  # fmt: skip
    if min(width, height) < min_side:
        why = f"Too small: {width}×{height}, but {min_side} pixels a side are needed"
        return Rejected(file, why, "too-small", facts)
    if facts.gradient < GRADIENT_LIMIT:
        why = f"Too flat: neighbours differ by {facts.gradient:.2f} levels, under {GRADIENT_LIMIT}"
        return Rejected(file, why, "too-flat", facts)
    if facts.flat_share > FLAT_SHARE_LIMIT:
        why = f"Too flat: {facts.flat_share:.0%} of it is of one value, over {FLAT_SHARE_LIMIT:.0%}"
        return Rejected(file, why, "too-flat", facts)
    if history.found:
        return Rejected(file, f"{history.reason}. Give a lossless original.", "jpeg-history", facts)
    pixels = pixel_hash(srgb.pixels)
    stem = re.sub(r"[^A-Za-z0-9.-]+", "_", Path(file).stem)[:60]
    return Source(
        path=path,
        file=file,
        source_id=f"{stem}-{pixels[:10]}",
        group="",
        sha256=stored.sha256,
        pixel_sha256=pixels,
        width=width,
        height=height,
        notes=srgb.notes,
        perceptual_hash=perceptual_hash(srgb.pixels),
        facts=facts,
    )


def _lossy_inside(codec: str) -> str:
    return f"Not pristine: the TIFF holds data compressed by {codec}. Give a lossless original."


def _codec_of_damaged_tiff(path: Path) -> str | None:
    """Lossy codec that the header of an unreadable TIFF names, if it names any."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with PilImage.open(path, formats=["TIFF"]) as picture:
                return _LOSSY_COMPRESSIONS.get(picture.tag_v2[259])  # type: ignore[attr-defined]
    except Exception:  # not a TIFF, or with a damaged header: anything may be raised
        return None


def _detail(image: Image) -> tuple[float, float]:
    """Mean difference of neighbouring luma samples, and the share of 8×8 blocks of one value.

    The luma is rounded down, in integers, a gray picture's is its samples.
    """
    weights = np.array([77, 150, 29], np.uint16)  # BT.601 in 256ths
    luma = image if image.ndim == 2 else (image.astype(np.uint16) @ weights >> 8).astype(np.uint8)
    steps = [np.abs(np.diff(luma.astype(np.int16), axis=axis)) for axis in (0, 1)]
    gradient = np.mean([step.mean() if step.size else 0.0 for step in steps])
    height, width = (length // 8 * 8 for length in luma.shape)
    if not height or not width:
        return float(gradient), 0.0
    blocks = luma[:height, :width].reshape(height // 8, 8, width // 8, 8)
    return float(gradient), float((np.ptp(blocks, axis=(1, 3)) == 0).mean())


def vet(
    paths: Iterable[Path],
    min_side: int = 64,
    progress: Callable[[int, int], None] | None = None,
    pool: Pool | None = None,
    groups: Path | None = None,
    earlier: Mapping[str, Membership] | None = None,
) -> Vetting:
    """Judge every file among files and folders, and put the accepted ones into groups.

    Equal pictures are taken once: the one that `groups` names, else the first by name.
    Near-duplicates share a group, see `datasets.groups.join_groups`.

    Args:
        paths: Files and folders.
        min_side: Least width and height in pixels.
        progress: Called with (done, total).
        pool: Reads the files; this process if None. Memory is that of one picture a process.
        groups: CSV of groups and origins by file, see `datasets.groups.read_groups`.
        earlier: Groups of a dataset that is added to, by file; they stay unless `groups` says
            otherwise.

    Raises:
        GroupsError: The CSV cannot be used.
    """
    named = {} if groups is None else read_groups(groups)
    members = dict(earlier or {})
    for file, member in named.items():
        old = members.get(file, Membership("", ""))
        members[file] = Membership(member.group or old.group, member.origin or old.origin)
    files, rejected = find_source_files(paths)
    opened: list[Source] = []
    for done, (number, result) in enumerate(_open_all(files, min_side, pool), start=1):
        if isinstance(result, Crashed):
            rejected.append(Rejected(files[number][1], result.reason, "unreadable"))
        elif isinstance(result, Rejected):
            rejected.append(result)
        else:
            opened.append(result)
        if progress is not None:
            progress(done, len(files))

    def precedence(source: Source) -> tuple[bool, str, Path]:
        member = members.get(source.file)
        return not (member and member.group), source.file, source.path

    different: dict[str, Source] = {}
    for source in sorted(opened, key=precedence):
        first = different.setdefault(source.pixel_sha256, source)
        if first is not source:
            why = f"The same pixels as {first.file}"
            rejected.append(Rejected(source.file, why, "duplicate", source.facts))
    sources, bridging, joined = _grouped(list(different.values()), members)
    return Vetting(
        sources=sorted(sources, key=lambda source: source.source_id),
        rejected=sorted([*rejected, *bridging], key=lambda item: (item.file, item.error)),
        near_duplicates=joined,
        notes=_notes(named, {file for _, file in files}, groups),
    )


def find_sources(
    paths: Iterable[Path],
    min_side: int,
    progress: Callable[[int, int], None] | None = None,
    pool: Pool | None = None,
    groups: Path | None = None,
) -> tuple[list[Source], list[Rejected]]:
    """All usable sources, and all refused files with reasons; see `vet`."""
    vetting = vet(paths, min_side, progress, pool, groups)
    return vetting.sources, vetting.rejected


def _open_all(
    files: Sequence[tuple[Path, str]], min_side: int, pool: Pool | None
) -> Iterator[tuple[int, Source | Rejected | Crashed]]:
    """`open_source` of every file with its position, as they finish."""
    tasks = ((path, file, min_side) for path, file in files)
    if pool is None:
        yield from ((number, open_source(*task)) for number, task in enumerate(tasks))
    else:
        yield from pool.run(open_source, tasks)


def _grouped(
    sources: Sequence[Source], members: Mapping[str, Membership]
) -> tuple[list[Source], list[Rejected], list[tuple[str, str, float]]]:
    """Sources with group and origin, those that bridge groups, and the likenesses that counted."""
    pairs = near_duplicates([source.perceptual_hash for source in sources])
    grouping = join_groups([source.file for source in sources], members, pairs)
    accepted = []
    for position, group in grouping.names.items():
        source = sources[position]
        member = members.get(source.file)
        origin = member.origin if member else ""
        accepted.append(dataclasses.replace(source, group=group, origin=origin))
    rejected = []
    for position, (like, own, other) in grouping.bridging.items():
        source = sources[position]
        why = (
            f"A near-duplicate of {sources[like].file}, of the group {other!r}, though it belongs "
            f"to {own!r}, and the CSV keeps the two apart. Give all of them one group there, or "
            "leave this file out."
        )
        rejected.append(Rejected(source.file, why, "bridges-groups", source.facts))
    joined = [(sources[i].file, sources[j].file, cosine) for i, j, cosine in grouping.joined]
    return accepted, rejected, joined


def _notes(members: Mapping[str, Membership], files: set[str], groups: Path | None) -> list[str]:
    """What the CSV of groups names in vain, and what it forgets."""
    if groups is None:
        return []
    notes = []
    for what, names in (
        (f"{groups.name} names files that are not among the sources", members.keys() - files),
        (f"{groups.name} does not name all sources; not these", files - members.keys()),
    ):
        if names:
            shown = ", ".join(sorted(names)[:5])
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            notes.append(f"{what}: {shown}{more}")
    return notes
