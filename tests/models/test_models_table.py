"""docs/models.md says what the pass does to each model today."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spfast.testing.models.families import FAMILIES
from spfast.testing.models.table import HEADER, SIZES, cells_of, fold, unfold

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
LONG = bool(os.environ.get("SPFAST_LONG"))
SHORT = [name for name in FAMILIES if name.startswith("tp_")]


def _lines() -> list[str]:
    return [line for line in PAGE.read_text().splitlines() if line.startswith(("| hf_", "| tp_"))]


def test_every_model_is_there_at_every_size() -> None:
    assert set(unfold(_lines())) == {(family, size) for family in FAMILIES for size in SIZES}
    assert HEADER in PAGE.read_text()


def test_no_two_rows_say_the_same() -> None:
    assert fold(unfold(_lines())) == _lines()


@pytest.mark.parametrize("family", FAMILIES if LONG else SHORT)
def test_page_is_true(family: str) -> None:
    page = unfold(_lines())
    for size in SIZES if LONG else ["4 x 64"]:
        assert page[family, size] == cells_of(family, *SIZES[size])
