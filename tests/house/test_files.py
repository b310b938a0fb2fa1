"""Files are short, printed output is the command line's, and nothing names one machine."""

from __future__ import annotations

import re

import pytest
from house.sources import PACKAGE, ROOT, text_files

FOLDERS = ["cpp", "python", "bench", "tests", "docs"]
LONGEST = 400


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_is_too_long_to_read_in_one_sitting(folder: str) -> None:
    too_long = {
        str(path.relative_to(ROOT)): count
        for path in text_files()
        if path.relative_to(ROOT).parts[0] == folder
        if "goldens" not in path.parts and path.suffix in (".py", ".pyi", ".h", ".cpp", ".md")
        if (count := path.read_text().count("\n")) > LONGEST
    }
    assert not too_long


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    """The lines of all files that a pattern is found in, each with its file."""
    return [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in text_files()
        for line in path.read_text().splitlines()
        if pattern.search(line)
    ]


def test_no_path_of_one_machine() -> None:
    # A path into somebody's home, a scratch folder, or a drive.
    pattern = re.compile(r"(?<![\w.])/(?:home|root|Users|mnt|work|tmp|scratch)/\w")
    assert not lines_with(pattern)


def test_nothing_is_left_to_do_in_comments() -> None:
    pattern = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX|HA" + r"CK)\b|@@[A-Z]+@@")
    assert not lines_with(pattern)


def test_the_library_prints_nothing() -> None:
    for path in PACKAGE.rglob("*.py"):
        if PACKAGE / "cli" not in path.parents:
            lines = path.read_text().splitlines()
            prints = re.compile(r"\s*(print\(|sys\.std(out|err)\.write)")
            printing = [line for line in lines if prints.match(line)]
            assert not printing, f"{path.name}: {printing}"


def test_python_files_say_what_they_are_for() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert path.read_text().startswith('"""'), path.relative_to(ROOT)
