"""The case log: a chain in which every changed byte shows, and the reports that it names."""

from __future__ import annotations

import datetime
import hashlib
import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from brightness_run import write_run
from PIL import Image as PilImage
from typer.testing import CliRunner, Result

import main
from desk.case_log import (
    CASE_FILE,
    FIRST,
    MAX_COMMAND,
    CaseEntry,
    CaseLogError,
    append_entry,
    log_head,
    verify_case,
)
from train.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("case") / "run")


def entry(number: int, **reports: str) -> CaseEntry:
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return CaseEntry(f"größe {number}\n.png", 10 + number, digest, None, reports, "python main.py")


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main.app, [str(argument) for argument in arguments])


def test_entries_follow_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "case"
    heads = [append_entry(folder, entry(number)) for number in range(3)]
    lines = (folder / CASE_FILE).read_bytes().splitlines(keepends=True)
    assert [hashlib.sha256(line).hexdigest() for line in lines] == heads
    entries = [json.loads(line)["entry"] for line in lines]
    assert [one["number"] for one in entries] == [1, 2, 3]
    assert [one["previous"] for one in entries] == [FIRST, *heads[:2]]
    assert entries[1]["evidence"] == "größe 1\n.png"
    for one in entries:
        assert datetime.datetime.fromisoformat(one["time"]).utcoffset() == datetime.timedelta(0)
    check = verify_case(folder)
    assert (check.sound, check.entries, check.head, check.broken) == (True, 3, heads[-1], None)
    assert log_head(folder) == (3, heads[-1])


def test_any_changed_byte_is_found_with_its_entry(tmp_path: Path) -> None:
    for number in range(3):
        append_entry(tmp_path, entry(number))
    path = tmp_path / CASE_FILE
    whole = path.read_bytes()
    ends = [place for place, byte in enumerate(whole) if byte == ord("\n")]
    for place in range(len(whole)):
        number = sum(end < place for end in ends) + 1
        changed = whole[place] ^ (1 if place % 2 else 32)
        path.write_bytes(whole[:place] + bytes([changed]) + whole[place + 1 :])
        check = verify_case(tmp_path)
        assert not check.sound
        assert check.broken == number, (place, changed)
        assert check.entries == number - 1
        assert check.problem


@pytest.mark.parametrize(
    ("order", "broken"),
    [([0, 2], 2), ([1, 2], 1), ([0, 2, 1], 2), ([0, 1, 1, 2], 3), ([2, 1, 0], 1)],
)
def test_lines_taken_out_put_in_or_moved(tmp_path: Path, order: list[int], broken: int) -> None:
    for number in range(3):
        append_entry(tmp_path, entry(number))
    path = tmp_path / CASE_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[place] for place in order))
    check = verify_case(tmp_path)
    assert check.broken == broken
    assert not check.sound


def test_an_entry_made_anew_breaks_the_next_one(tmp_path: Path) -> None:
    """A forger who knows the form can make one line fit, but not the line after it."""
    for number in range(3):
        append_entry(tmp_path, entry(number))
    path = tmp_path / CASE_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    for place in range(3):
        forged = tmp_path / f"forged{place}"
        forged.mkdir()
        (forged / CASE_FILE).write_bytes(b"".join(lines[:place]))
        append_entry(forged, entry(9))
        assert verify_case(forged).sound
        with (forged / CASE_FILE).open("ab") as file:
            file.writelines(lines[place + 1 :])
        assert verify_case(forged).broken == (place + 2 if place < 2 else None)


@pytest.mark.parametrize(
    "tail",
    [b"{", b"\n", b"\0\n", b"x" * (1 << 21), b"[" * 5000 + b"\n", b'{"entry": 3}\n', b"\xff\xd8\n"],
)
def test_damage_at_the_end_is_told_and_nothing_is_chained_to_it(
    tmp_path: Path, tail: bytes
) -> None:
    append_entry(tmp_path, entry(0))
    path = tmp_path / CASE_FILE
    damaged = path.read_bytes() + tail
    path.write_bytes(damaged)
    assert verify_case(tmp_path).broken == 2
    with pytest.raises(CaseLogError, match="start a new case"):
        append_entry(tmp_path, entry(1))
    assert path.read_bytes() == damaged


def test_random_bytes_leave_no_other_exception(tmp_path: Path) -> None:
    append_entry(tmp_path, entry(0, **{"a.json": "0" * 64}))
    append_entry(tmp_path, entry(1))
    path = tmp_path / CASE_FILE
    whole = path.read_bytes()
    random = np.random.default_rng(1)
    for _ in range(150):
        first, second = sorted(int(place) for place in random.integers(0, len(whole), 2))
        path.write_bytes(whole[:first] + random.bytes(int(random.integers(0, 9))) + whole[second:])
        if path.read_bytes() != whole:
            assert not verify_case(tmp_path).sound


def test_reports_are_checked_where_they_lie(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    digests = {}
    for name in ("reports/a.json", "b.json", "gone.json"):
        (tmp_path / name).write_text(name)
        digests[name] = hashlib.sha256(name.encode()).hexdigest()
    append_entry(tmp_path, entry(0, **digests))
    (tmp_path / "gone.json").unlink()
    check = verify_case(tmp_path)
    assert check.sound
    assert check.absent == ["gone.json"]
    (tmp_path / "b.json").write_text("changed")
    check = verify_case(tmp_path)
    assert not check.sound
    assert check.broken is None
    assert check.changed == {"b.json": 1}
    # A report made again and logged again is what counts.
    append_entry(tmp_path, entry(1, **{"b.json": hashlib.sha256(b"changed").hexdigest()}))
    assert verify_case(tmp_path).sound


@pytest.mark.parametrize("name", ["../outside.json", "/etc/hosts", "a/../../b", "", "a\0b"])
def test_a_log_cannot_make_other_files_be_read(tmp_path: Path, name: str) -> None:
    append_entry(tmp_path, entry(0, **{name: "0" * 64}))
    check = verify_case(tmp_path)
    assert check.broken == 1
    assert check.changed == {}


def test_threads_take_turns(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: append_entry(tmp_path, entry(number)), range(12)))
    check = verify_case(tmp_path)
    assert check.sound
    assert check.entries == 12


def test_a_long_command_is_cut(tmp_path: Path) -> None:
    long = CaseEntry("a.png", 1, FIRST, FIRST, {}, "x" * 3 * MAX_COMMAND)
    append_entry(tmp_path, long)
    append_entry(tmp_path, long)
    assert verify_case(tmp_path).sound


def test_no_log(tmp_path: Path) -> None:
    with pytest.raises(CaseLogError, match="no case log there"):
        verify_case(tmp_path)
    (tmp_path / CASE_FILE).touch()
    check = verify_case(tmp_path)
    assert (check.sound, check.entries, check.head) == (True, 0, FIRST)


# The commands ------------------------------------------------------------------------------------


def test_report_logs_each_picture_and_verify_case_checks(run: Run, tmp_path: Path) -> None:
    case = tmp_path / "case"
    for seed, name in enumerate(("a", "b")):
        levels = np.random.default_rng(seed).integers(0, 256, (60, 60, 3), np.uint8)
        PilImage.fromarray(levels).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    arguments = ["report", tmp_path / "a.png", tmp_path / "b.png", tmp_path / "broken.png"]
    arguments += ["--out", case / "reports", "--run", run.path, "--case", case]
    assert command(*arguments).exit_code == 1
    lines = (case / CASE_FILE).read_bytes().splitlines()
    entries = [json.loads(line)["entry"] for line in lines]
    assert [one["evidence"] for one in entries] == ["a.png", "b.png", "broken.png"]
    digest = hashlib.sha256((tmp_path / "b.png").read_bytes()).hexdigest()
    assert entries[1]["evidence_sha256"] == digest
    assert entries[2]["pixel_sha256"] is None
    assert shlex.split(entries[0]["command"]) == ["python", "main.py", *map(str, arguments)]
    assert set(entries[0]["reports"]) == {f"reports/a.{kind}" for kind in ("json", "html", "pdf")}
    result = command("verify-case", case)
    assert result.exit_code == 0
    assert "3 sound entries" in result.stdout
    answer = json.loads(command("verify-case", case, "--json").stdout)
    assert answer["sound"] is True
    assert answer["head"] == hashlib.sha256(lines[-1] + b"\n").hexdigest()
    page = case / "reports" / "a.html"
    page.write_bytes(page.read_bytes().replace(b"a.png", b"z.png"))
    result = command("verify-case", case)
    assert result.exit_code == 1
    assert "reports/a.html: not the report that entry 1 logged" in result.stderr
    path = case / CASE_FILE
    path.write_bytes(path.read_bytes().replace(b"b.png", b"c.png", 1))
    result = command("verify-case", case, "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert (answer["sound"], answer["broken"]) == (False, 1)  # the command names b.png first
    assert command("verify-case", tmp_path / "absent").exit_code == 2


def test_a_damaged_log_stops_a_report_before_it_begins(run: Run, tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    PilImage.fromarray(levels).save(tmp_path / "a.png")
    (tmp_path / CASE_FILE).write_bytes(b"half a line")
    result = command(
        "report", tmp_path / "a.png", "--out", tmp_path / "out", "--run", run.path,
        "--case", tmp_path,
    )  # fmt: skip
    assert result.exit_code == 2
    assert "verify-case" in result.stderr
    assert not (tmp_path / "out").exists()
