"""docs/models.md says what the pass does to each model today."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spfast.testing.models.families import FAMILIES
from spfast.testing.models.table import row_of

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
LONG = bool(os.environ.get("SPFAST_LONG"))
SHORT = [name for name in FAMILIES if name.startswith("tp_")]


def _lines() -> list[str]:
    return [line for line in PAGE.read_text().splitlines() if line.startswith(("| hf_", "| tp_"))]


def test_every_model_is_there() -> None:
    assert len(_lines()) == 4 * len(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES if LONG else SHORT)
def test_page_is_true(family: str) -> None:
    sizes = [(1, False), (4, False), (1, True), (4, True)] if LONG else [(4, False)]
    for batch, dynamic in sizes:
        line = row_of(family, batch, dynamic)
        assert line in _lines(), f"the page says otherwise; now: {line}"
