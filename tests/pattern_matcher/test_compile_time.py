"""The benchmark of whole compiles: what it measures, and the table that it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import compile_phases, compile_time
from bench.compile_models import FAMILIES, Mode, build, copied, stages
from bench.compile_time import MODES, Cell, table
from spfast.integrations import inductor
from spfast.pattern_matcher.shelf import shelf_of

transformers = pytest.importorskip("transformers")


def test_a_copy_is_a_graph_of_its_own() -> None:
    (joint, post_grad) = stages("vit", 1, Mode())
    names = [node.name for node in joint.graph.graph.nodes]
    made = copied(joint.graph)
    made = joint.run(made)
    assert [node.name for node in joint.graph.graph.nodes] == names
    assert [node.name for node in made.graph.nodes] != names
    assert post_grad.fake_mode is not None


def test_weights_are_constants_of_a_frozen_graph() -> None:
    def operands(mode: Mode) -> int:
        (*_, post_grad) = stages("vit", 1, mode)
        return len(post_grad.graph.graph.find_nodes(op="get_attr"))

    assert operands(Mode(frozen=True)) > 10 and operands(Mode()) == 0


def test_models_have_the_layers_that_are_asked_for() -> None:
    for family in FAMILIES:
        sizes = [sum(1 for _ in build(family, layers, True)[0].modules()) for layers in (1, 3)]
        assert sizes[1] > 2 * (sizes[0] - 12) and sizes[1] > sizes[0]


def test_the_benchmark_writes_its_table(tmp_path: Path, capsys: Any) -> None:
    options = ["--layers", "1", "--rounds", "1", "--only", "vit", "--out", str(tmp_path)]
    assert compile_time.main([*options, "--compile", "training-dynamic"]) == 0
    (cell,) = json.loads((tmp_path / "compile_time.json").read_text())["cells"]
    assert cell["mode"] == "training-dynamic"
    assert 0 < cell["ours_again"] < cell["whole"] and 0 < cell["torch_again"] < cell["whole"]
    written = (tmp_path / "compile_time.md").read_text()
    assert "**sum**" in written and "median" in written
    assert "| vit | training-dynamic |" in capsys.readouterr().out


def test_a_table_ends_with_the_sums_of_its_cells() -> None:
    cells = [Cell("vit", mode, 10, 1.0, 0.4, 0.2, 0.3, 0.1) for mode in MODES]
    lines = table(cells).splitlines()
    assert [line.split(" | ")[1] for line in lines[2:7]] == list(MODES)
    assert lines[7].startswith("| **sum** |  | 50 | 2000 | 1000 | 2.0x |")
    assert lines[-1] == "again: 3.0x to 3.0x, median 3.0x"


def test_first_is_with_nothing_kept() -> None:
    class Entry:
        pass

    entry = Entry()
    shelf_of(entry).route = "kept"
    compile_time.forget()
    assert shelf_of(entry).route is None


def test_again_is_with_what_the_first_run_left(monkeypatch: Any) -> None:
    done: list[str] = []

    def time(_found: Any, how: Any) -> float:
        done.append("ours" if how is inductor.patched else "torch")
        return 1.0

    monkeypatch.setattr(compile_time, "forget", lambda: done.append("forget"))
    monkeypatch.setattr(compile_time, "stages", lambda *_: [])
    monkeypatch.setattr(compile_time, "_time", time)
    compile_time.measure("vit", 1, "inference-static", 2)
    assert done == 2 * ["forget", "ours", "torch", "ours", "torch"]


def test_a_compile_is_the_sum_of_its_phases(tmp_path: Path, capsys: Any) -> None:
    options = ["--model", "vit", "--layers", "1", "--rounds", "1", "--out", str(tmp_path)]
    assert compile_phases.main([*options, "--compile", "inference-static"]) == 0
    written = json.loads((tmp_path / "compile_phases.json").read_text())
    assert set(written["seconds"]) == {"torch", "ours"}
    for phases in written["seconds"].values():
        whole, passes = phases.pop("whole"), phases.pop("passes")
        assert 0 < passes < whole
        assert 0.8 * whole < sum(phases.values()) <= whole
        assert phases["bytecode_tracing"] > 0 and phases["_recursive_post_grad_passes"] > 0
    assert "| passes |" in (tmp_path / "compile_phases.md").read_text()
    assert "| whole |" in capsys.readouterr().out
