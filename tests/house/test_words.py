"""The words of the architecture page are the code's, and each has one meaning."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from house.sources import PACKAGE, ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
WORDS = PAGE.partition("## Words\n")[2].partition("\n## ")[0]


def glossary() -> dict[str, set[str]]:
    """The class of each word, and the files that the table says define it."""
    rows = [line for line in WORDS.splitlines() if line.startswith("| ")][1:]
    found = {}
    for row in rows:
        name, _, files = row.strip("| ").split(" | ")[-1].partition(": ")
        found[name.strip("`")] = set(re.findall(r"`([^`]+)`", files))
    return found


def _told(path: Path) -> str:
    base = PACKAGE if PACKAGE in path.parents else ROOT
    return str(path.relative_to(base))


def defined(name: str) -> set[str]:
    """The files of the core and of the package that define a class of this name."""
    cpp = re.compile(rf"^\s*(?:class|struct|enum class) {name}\b[^;]*\{{", re.MULTILINE)
    python = re.compile(rf"^\s*class {name}\b", re.MULTILINE)
    sources = [(path, cpp) for path in (ROOT / "cpp").rglob("*.*")]
    sources += [(path, python) for path in PACKAGE.rglob("*.py")]
    return {_told(path) for path, pattern in sources if pattern.search(path.read_text())}


def test_the_table_is_read() -> None:
    assert len(glossary()) > 15
    assert {"Site", "Plan", "Value", "Dialect", "Pattern", "Rule", "Match"} <= set(glossary())


@pytest.mark.parametrize("name", glossary())
def test_a_word_is_a_class_and_no_other_has_its_name(name: str) -> None:
    assert defined(name) == glossary()[name]


@pytest.mark.parametrize("name", ["read_names", "target_name", "AliasRoots"])
def test_the_three_kinds_of_names_are_in_the_core(name: str) -> None:
    assert f"`{name}`" in WORDS
    assert any(re.search(rf"\b{name}\b", path.read_text()) for path in (ROOT / "cpp").rglob("*.h"))
