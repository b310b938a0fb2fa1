"""What the tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.goldens import load_golden

import spfast


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "graph.spfx"
    spfast.NodeTable.from_graph(load_golden("bf16_static_2layer").before).save(path)
    return path
