"""Groups by CSV, by name and by likeness; groups of the CSV never move."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.groups import GroupsError, Membership, group_of, join_groups, read_groups

NAMES = st.lists(st.sampled_from([f"{a}__{b}.tif" for a in "abcdefg" for b in "xyz"]), unique=True)


def test_group_by_name() -> None:
    assert group_of("folder/scene__left.tif") == group_of("scene__right.png") == "scene"
    assert group_of("folder/alone.tif") == "alone"


def csv(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "groups.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_read_groups(tmp_path: Path) -> None:
    path = csv(tmp_path, "\ufefforigin,file,more,group\nkodak,a/b.tif,1, g \n,c.tif,2,\nx,d.tif\n")
    assert read_groups(path) == {
        "a/b.tif": Membership("g", "kodak"),
        "c.tif": Membership("", ""),
        "d.tif": Membership("", "x"),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["column file and group", "no columns"]),
        ("file,origin\na,b\n", ["lacks the column group", "file, origin"]),
        ("file,group\na,1\na,2\n", ["line 3", "a is named a second time"]),
        ("file,group\n,1\n", ["line 2", "no name"]),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(GroupsError) as caught:
        read_groups(csv(tmp_path, text))
    assert all(word in str(caught.value) for word in [*words, "groups.csv"])


def test_unreadable_csv(tmp_path: Path) -> None:
    with pytest.raises(GroupsError, match="cannot be read"):
        read_groups(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"file,group\n\xff\xfe\0,1")
    with pytest.raises(GroupsError, match="UTF-8"):
        read_groups(tmp_path / "binary.csv")


def test_near_duplicates_join_under_the_least_name() -> None:
    files = ["b.tif", "a.tif", "c__1.tif", "c__2.tif", "d.tif"]
    grouping = join_groups(files, {}, [(0, 1, 0.9), (0, 2, 0.8)])
    assert list(grouping.names.values()) == ["a", "a", "a", "a", "d"]
    assert grouping.joined == [(0, 1, 0.9), (0, 2, 0.8)]
    assert grouping.bridging == {}


def test_a_new_file_joins_the_group_of_the_csv() -> None:
    groups = {"old.tif": Membership("scene", "")}
    grouping = join_groups(["old.tif", "a.tif"], groups, [(0, 1, 0.9)])
    assert list(grouping.names.values()) == ["scene", "scene"]


def test_a_new_file_like_two_groups_of_the_csv_is_left_out() -> None:
    groups = {"one.tif": Membership("one", ""), "two.tif": Membership("two", "")}
    files = ["one.tif", "two.tif", "new.tif"]
    grouping = join_groups(files, groups, [(0, 2, 0.9), (1, 2, 0.8)])
    assert grouping.names == {0: "one", 1: "two"}
    assert grouping.bridging == {2: (1, "one", "two")}


def test_a_new_file_goes_with_its_namesakes() -> None:
    groups = {"scene__1.tif": Membership("a", ""), "both__1.tif": Membership("x", "")}
    groups["both__2.tif"] = Membership("y", "")
    files = ["scene__1.tif", "scene__2.tif", "both__3.tif"]
    assert list(join_groups(files, groups, []).names.values()) == ["a", "a", "both"]


@given(
    named=NAMES,
    others=NAMES,
    links=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=12),
)
def test_groups_of_the_csv_never_move_and_no_likeness_crosses_groups(
    named: list[str], others: list[str], links: list[tuple[int, int]]
) -> None:
    new = [name for name in others if name not in named]
    files = [*named, *new]
    pairs = [(i, j, 0.9) for i, j in links if i < j < len(files)]
    before = join_groups(named, {}, [pair for pair in pairs if pair[1] < len(named)])
    groups = {file: Membership(before.names[number], "") for number, file in enumerate(named)}
    after = join_groups(files, groups, pairs)
    for number in range(len(named)):
        assert after.names[number] == before.names[number]
    for i, j, _ in pairs:
        if i in after.names and j in after.names:
            assert after.names[i] == after.names[j]
    for number in range(len(named), len(files)):
        namesakes = [n for n in range(len(named)) if group_of(files[n]) == group_of(files[number])]
        if number in after.names and namesakes:
            assert after.names[number] == before.names[namesakes[0]]
    assert set(after.names) | set(after.bridging) == set(range(len(files)))
    assert not set(after.names) & set(after.bridging)
