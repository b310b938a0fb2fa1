"""The page about the architecture names files that are there."""

from __future__ import annotations

import re

import pytest
from house.sources import PACKAGE, ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
SUFFIXES = (".py", ".pyi", ".h", ".cpp", ".json", ".md", "/")
MOST_FILES = 3


def named(text: str) -> list[str]:
    """The files and folders among what a text has between backticks."""
    return [each for each in re.findall(r"`([\w./]+)`", text) if each.endswith(SUFFIXES)]


def is_there(name: str) -> bool:
    return any((base / name).exists() for base in (ROOT, PACKAGE))


def changes() -> dict[str, str]:
    """Each change of the table with the files that it touches."""
    table = PAGE.partition("| change | files |")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    return dict(rows)


def test_every_file_of_the_page_is_there() -> None:
    found = named(PAGE)
    assert len(found) > 60
    # Beside a file with its folder, or in a row about one, the folder is left out.
    bare = {path.name for base in ("cpp", "python") for path in (ROOT / base).rglob("*.*")}
    missing = [name for name in found if not is_there(name)]
    assert not [name for name in missing if "/" in name or name not in bare]


def test_every_room_is_on_the_page() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py") if path.parent.parent == PACKAGE}
    rooms = {f"{path.name}/" for path in folders}
    rooms |= {f"cpp/{path.name}/" for path in (ROOT / "cpp").iterdir() if path.is_dir()}
    assert rooms <= set(named(PAGE)), rooms - set(named(PAGE))


def test_ten_changes_are_told() -> None:
    assert len(changes()) == 10


@pytest.mark.parametrize("change", changes())
def test_a_change_touches_few_files_that_are_there(change: str) -> None:
    files = named(changes()[change])
    assert files
    assert not [name for name in files if not is_there(name)]
    # What the reference is told afterwards is no part of the change.
    own = named(changes()[change].partition("; and the reference")[0])
    assert 1 <= len(own) <= MOST_FILES
