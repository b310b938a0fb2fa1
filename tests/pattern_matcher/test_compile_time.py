"""The benchmark of whole compiles: what it measures, and the table that it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import compile_time
from bench.compile_models import FAMILIES, build, copied, stages
from spfast.pattern_matcher.shelf import shelf_of

transformers = pytest.importorskip("transformers")


def test_a_copy_is_a_graph_of_its_own() -> None:
    (joint, post_grad) = stages("vit", 1, training=False, dynamic=False)
    names = [node.name for node in joint.graph.graph.nodes]
    made = copied(joint.graph)
    made = joint.run(made)
    assert [node.name for node in joint.graph.graph.nodes] == names
    assert [node.name for node in made.graph.nodes] != names
    assert post_grad.fake_mode is not None


def test_models_have_the_layers_that_are_asked_for() -> None:
    for family in FAMILIES:
        sizes = [sum(1 for _ in build(family, layers, True)[0].modules()) for layers in (1, 3)]
        assert sizes[1] > 2 * (sizes[0] - 12) and sizes[1] > sizes[0]


def test_the_benchmark_writes_its_table(tmp_path: Path, capsys: Any) -> None:
    options = ["--layers", "1", "--rounds", "1", "--only", "vit", "--out", str(tmp_path)]
    modes = ["inference-static", "training-dynamic"]
    assert compile_time.main([*options, "--compile", *modes]) == 0
    cells = json.loads((tmp_path / "compile_time.json").read_text())["cells"]
    assert [cell["mode"] for cell in cells] == modes
    for cell in cells:
        assert 0 < cell["ours_again"] < cell["whole"] and 0 < cell["torch_again"] < cell["whole"]
    written = (tmp_path / "compile_time.md").read_text()
    assert "**sum**" in written and "median" in written
    assert "| vit | training-dynamic |" in capsys.readouterr().out


def test_first_is_with_nothing_kept() -> None:
    class Entry:
        pass

    entry = Entry()
    shelf_of(entry).route = "kept"
    compile_time._forget()
    assert shelf_of(entry).route is None
