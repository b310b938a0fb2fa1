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


def test_what_tests_share_lies_in_support() -> None:
    loose = {path.name for path in (ROOT / "tests").glob("*.py")}
    others = {name for name in loose if not name.startswith("test_")}
    assert others == {"conftest.py", "matrix.py"}
    assert list((ROOT / "tests" / "support").glob("*.py"))


def test_tests_name_the_folder_of_what_they_import() -> None:
    # The engine of a host runs its files as scripts, in an environment of its own.
    engine = ROOT / "tests" / "hosts" / "vllm" / "engine"
    files = [path for path in (ROOT / "tests").rglob("*.py") if engine not in path.parents]
    names = "|".join(sorted({path.stem for path in files if not path.stem.startswith("test_")}))
    bare = re.compile(rf"^\s*(?:from|import) (?:{names}|test_\w+)\b(?!\.)", re.MULTILINE)
    found = {
        str(path.relative_to(ROOT)): match.group().strip()
        for path in files
        for match in bare.finditer(path.read_text())
    }
    assert not found
