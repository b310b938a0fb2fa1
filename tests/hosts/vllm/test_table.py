"""docs/vllm.md has a row for each scenario of the real engines, all of one build."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

ENGINE = Path(__file__).parent / "engine"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script beside the engines', whose names are for it alone."""
    monkeypatch.syspath_prepend(str(ENGINE))
    names = ("models", "scenarios", "table")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module("table")
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def table(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The script, which keeps what it is told in a folder of its own."""
    head = f"{script.HEADER}\n|---|---|---|---|"
    (tmp_path / "page.md").write_text(f"text\n\n{head}\n| an | old | row | here |\n\nmore text\n")
    monkeypatch.setattr(script, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(script, "KEPT", tmp_path / "kept.json")
    return script


def _found(rewritten: str) -> dict[str, str]:
    return {"rewritten": rewritten, "compared": "24 requests equal"}


def test_a_result_takes_its_place_in_the_table(table: Any) -> None:
    table.keep("one", "0.32.0", "on", _found("5 of 5"))
    lines = table.PAGE.read_text().splitlines()
    assert (lines[:2], lines[-2:]) == (["text", ""], ["", "more text"])
    assert "| an | old | row | here |" not in lines
    assert "| 0.32.0 | on, from 16 of 64 tokens on | 5 of 5 | 24 requests equal |" in lines
    assert f"| 0.31.0 | on, from 16 of 64 tokens on |  | {table.NOT_RUN} |" in lines


def test_what_is_for_one_version_has_one_row(table: Any) -> None:
    table.keep("one", "0.32.0", "on", _found("5 of 5"))
    rows = [line for line in table.PAGE.read_text().splitlines() if "TP 2 x PP 2 |" in line]
    assert [row.split(" | ")[0] for row in rows] == ["| 0.31.0", "| 0.31.0", "| 0.32.0"]


def test_another_build_drops_what_was_kept(table: Any) -> None:
    table.keep("one", "0.32.0", "on", _found("5 of 5"))
    table.keep("one", "0.32.0", "again", _found("none"))
    assert sorted(table.load()["engines"]["0.32.0"]) == ["again", "on"]
    table.keep("another", "0.31.0", "on", _found("4 of 5"))
    assert table.load() == {"build": "another", "engines": {"0.31.0": {"on": _found("4 of 5")}}}


def test_the_page_is_what_was_kept(script: Any) -> None:
    text = script.PAGE.read_text()
    assert script.page(text, script.load()) == text
