"""Packaging guards: the wheel, import names, and what the repository must not hold."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import datasets
import desk
import train

ROOT = Path(__file__).parent.parent


def test_datasets_train_and_desk_are_this_checkout() -> None:
    for module in (datasets, desk, train):
        assert module.__file__ is not None
        assert Path(module.__file__).is_relative_to(ROOT)


def test_no_installed_distribution_provides_their_names() -> None:
    provided = importlib.metadata.packages_distributions()
    assert "datasets" not in provided
    assert "train" not in provided
    assert "desk" not in provided


def test_wheel_holds_the_library_alone() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"] == {
        "packages": ["imagecompression"]
    }


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [item for group in project["optional-dependencies"].values() for item in group]
    wanted = {re.split(r"[<>=~!\[ ]", item)[0].lower() for item in project["dependencies"] + extras}
    wanted.discard(project["name"])  # an extra that takes another extra in
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {pin.split("==")[0].strip().lower() for pin in pins if "==" in pin}
    assert wanted <= pinned


def test_importing_the_library_is_light() -> None:
    script = (
        "import sys, imagecompression\n"
        "heavy = {'tensorflow', 'keras', 'sklearn', 'scipy', 'cv2', 'matplotlib', 'typer',"
        " 'pyarrow', 'pandas', 'datasets', 'train'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_no_tracked_file_names_a_registry_or_a_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = re.compile(r"(^|[^A-Za-z0-9_.])/(work|root|home|farm|tmp/lab)/")
    origins = re.compile(r"(index-url|find-links|registry[\": =]|resolved\").*https?://")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if name == "tests/test_packaging.py" or not path.is_file():
            continue
        data = path.read_bytes()
        if b"\0" in data:  # a picture or a model
            continue
        text = data.decode()
        assert not paths.search(text), name
        assert not origins.search(text), name
