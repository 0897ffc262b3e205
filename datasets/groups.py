"""Groups: sources that show the same scene share a split, whatever their files are called.

A group has the name that a CSV gives it, else what stands before ``__`` in the file's name.
Near-duplicates join the groups they lie in.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imagecompression.errors import ImageCompressionError

GROUP_SEPARATOR = "__"
"""Files named `scene__anything` show one scene and are never split apart."""

GROUP_COLUMNS = ("file", "group")


class GroupsError(ImageCompressionError):
    """A CSV of groups that cannot be used."""


@dataclass(frozen=True)
class Membership:
    """What a CSV says of one file.

    Attributes:
        group: Its group; empty where the file's name decides.
        origin: Where it comes from; splits are stratified by it. Empty where unknown.
    """

    group: str
    origin: str


@dataclass
class Grouping:
    """Result of `join_groups`.

    Attributes:
        names: Final name of the group of each file's position; without those in `bridging`.
        joined: (earlier position, later position, similarity) of near-duplicates that lie in one
            group only because they are near-duplicates.
        bridging: Position of each file that would unite two groups of the CSV, with the position
            of the one it is like and the two groups' names.
    """

    names: dict[int, str] = field(default_factory=dict)
    joined: list[tuple[int, int, float]] = field(default_factory=list)
    bridging: dict[int, tuple[int, str, str]] = field(default_factory=dict)


def group_of(file: str) -> str:
    """Group of a source by its name: what stands before ``__``, else the whole stem."""
    return Path(file).stem.split(GROUP_SEPARATOR)[0]


def read_groups(path: Path) -> dict[str, Membership]:
    """Groups and origins by file, from a CSV with columns file, group and, if known, origin.

    `file` is a source's name below the folder that was given, with ``/``. An empty group leaves it
    to the name. Other columns are ignored, so that the verdicts of `vet-sources` serve as they are.

    Raises:
        GroupsError: Missing, not a CSV in UTF-8, without the columns, or a file named twice.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            missing = [name for name in GROUP_COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise GroupsError(
                    f"{path} lacks the column {' and '.join(missing)}. Received: "
                    f"{', '.join(reader.fieldnames or ()) or 'no columns'}. Needed: a first line "
                    "with file, group and, if known, origin."
                )
            groups: dict[str, Membership] = {}
            for row in reader:
                name = row["file"].strip()
                if not name:
                    raise GroupsError(f"{path}, line {reader.line_num}: the file has no name.")
                if name in groups:
                    raise GroupsError(
                        f"{path}, line {reader.line_num}: {name} is named a second time. Keep one "
                        "line for each file."
                    )
                origin = (row.get("origin") or "").strip()
                groups[name] = Membership(row["group"].strip(), origin)
    except OSError as error:
        raise GroupsError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise GroupsError(f"{path} is not a CSV file in UTF-8: {error}. Save it as one.") from error
    return groups


def join_groups(
    files: Sequence[str],
    groups: Mapping[str, Membership],
    pairs: Iterable[tuple[int, int, float]],
) -> Grouping:
    """Unite the groups in which near-duplicates lie.

    A united group has the name that the CSV gave one of its members, else the least of its names.
    Groups of the CSV are never united with each other: of a pair that would do so, the file that
    the CSV does not name is left out, or the later one where it names both or neither. So the
    groups of files that the CSV names stay as they are, whatever is added.

    Args:
        files: Names of all sources; earlier ones have precedence.
        groups: See `read_groups`.
        pairs: Near-duplicates by position, see `near_duplicates`.
    """
    first = _first_names(files, groups)
    parent = {name: name for name in first}
    fixed = {member.group for member in groups.values() if member.group}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    result = Grouping()
    for i, j, similarity in pairs:
        if i in result.bridging or j in result.bridging:
            continue
        one, other = root(first[i]), root(first[j])
        if one == other:
            continue
        if one in fixed and other in fixed:
            later, kept = (i, j) if i > j else (j, i)
            if _named(groups, files[later]) and not _named(groups, files[kept]):
                later, kept = kept, later
            result.bridging[later] = (kept, root(first[later]), root(first[kept]))
            continue
        # The root is the name of the whole group.
        stays, goes = sorted((one, other), key=lambda name: (name not in fixed, name))
        parent[goes] = stays
        result.joined.append((min(i, j), max(i, j), similarity))
    for position, name in enumerate(first):
        if position not in result.bridging:
            result.names[position] = root(name)
    return result


def _first_names(files: Sequence[str], groups: Mapping[str, Membership]) -> list[str]:
    """Group of each file before near-duplicates count.

    A file that the CSV does not name goes where the CSV has put its namesakes, if in one group.
    """
    namesakes: dict[str, set[str]] = {}
    for file, member in groups.items():
        if member.group:
            namesakes.setdefault(group_of(file), set()).add(member.group)
    names = []
    for file in files:
        by_name = group_of(file)
        of_namesakes = namesakes.get(by_name, set())
        by_name = next(iter(of_namesakes)) if len(of_namesakes) == 1 else by_name
        names.append(_named(groups, file) or by_name)
    return names


def _named(groups: Mapping[str, Membership], file: str) -> str:
    """The group that the CSV gives a file, or an empty string."""
    member = groups.get(file)
    return member.group if member else ""
