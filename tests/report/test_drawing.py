"""What a page is drawn from: states, boxes, layers, memory, and the page as one safe file."""

from __future__ import annotations

import json
import operator
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.goldens import load_golden
from torch import fx

import spfast
from spfast.cli import demo
from spfast.patterns import default_registry
from spfast.report import Drawing, page
from spfast.report.layers import layers_before
from spfast.report.memory import live_bytes, returned_bytes
from spfast.report.page import data_of
from spfast.report.rows import rows_of
from spfast.report.states import folds, states_after, states_before

CONFIG = spfast.SequenceParallelConfig(tp_size=8, tp_rank=0)


def _drawn(graph: fx.Graph) -> Drawing:
    drawing = spfast.apply(graph, CONFIG, record_plan=True).drawing
    assert drawing is not None
    return drawing


@pytest.fixture(params=["bf16_static_2layer", "fp8_native_static_2layer"])
def drawing(request: pytest.FixtureRequest) -> Drawing:
    return _drawn(load_golden(request.param).before)


def test_the_states_follow_the_shapes(drawing: Drawing) -> None:
    before, after = drawing.before[""], drawing.after[""]
    states = states_after(before, after)
    scattered = {row.name for row in after if row.role == "reduce_scatter"}
    gathered = {row.name for row in after if row.role == "all_gather"}
    assert len(scattered) == len(gathered) == 5
    assert {states[name] for name in scattered} == {"shard"}
    assert {states[name] for name in gathered} == {"gathered"}
    for row in after:
        if row.name in scattered:
            assert states[row.inputs[0]] == "partial"
        if row.name in gathered:
            assert states[row.inputs[0]] == "shard"
    # What reads a gathered value is what it was.
    readers = {row.name for row in after if gathered & set(row.inputs) and row.op != "output"}
    assert readers and {states[name] for name in readers} <= {"full", "partial"}


def test_what_is_padded_is_no_shard() -> None:
    graph = load_golden("bf16_static_2layer").before
    tokens = next(node.meta["val"].shape[0] for node in graph.nodes if node.op == "placeholder")
    config = replace(CONFIG, tp_size=next(n for n in range(3, 99) if tokens % n))
    drawn = spfast.apply(graph, replace(config, divisibility="pad"), record_plan=True).drawing
    assert drawn is not None
    states = states_after(drawn.before[""], drawn.after[""])
    padded = [row for row in drawn.after[""] if row.target == "aten.constant_pad_nd.default"]
    scattered = {row.inputs[0] for row in drawn.after[""] if row.role == "reduce_scatter"}
    assert len(padded) >= len(scattered) == 5
    for row in padded:
        wanted = {"partial"} if row.name in scattered else {"full"}
        assert {states[row.name], *(states[name] for name in row.inputs[:1])} <= wanted | {"input"}


def test_before_nothing_is_sharded(drawing: Drawing) -> None:
    states = states_before(drawing.before[""])
    assert set(states.values()) == {"full", "partial", "input"}
    assert sum(state == "partial" for state in states.values()) >= 5


def test_a_box_never_reaches_over_a_collective(drawing: Drawing) -> None:
    after = drawing.after[""]
    states = states_after(drawing.before[""], after)
    boxes = folds(after, states)
    passed, seen = 0, {}
    for row in after:
        passed += row.role in ("reduce_scatter", "all_gather")
        if row.name in boxes:
            first = seen.setdefault(boxes[row.name], (passed, states[row.name]))
            assert first == (passed, states[row.name])
    assert boxes


def test_a_wait_is_drawn_with_its_collective() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(16, 8, device="meta")
    functional = torch.ops._c10d_functional
    reduced = graph.call_function(functional.all_reduce.default, (x, "sum", "0"))
    waited = graph.call_function(functional.wait_tensor.default, (reduced,))
    normed = graph.call_function(torch.ops.aten.relu.default, (waited,))
    graph.output((normed,))
    rows = rows_of(graph, default_registry())
    boxes = folds(rows, states_before(rows))
    assert boxes == {reduced.name: reduced.name, waited.name: reduced.name}


@pytest.mark.parametrize("capture", demo.CAPTURES, ids=lambda capture: capture.file)
def test_a_model_is_cut_into_its_layers(capture: demo.Capture) -> None:
    graph = _bundled(capture.file)
    names, place = layers_before(rows_of(graph, default_registry()))
    assert 80 <= len(names) <= 82
    sums = [
        place[row.name] for row in rows_of(graph, default_registry()) if row.role == "all_reduce"
    ]
    assert max(sums.count(layer) for layer in set(sums)) == 2


def test_a_trace_that_knows_its_modules_names_the_layers() -> None:
    graph = load_golden("bf16_static_2layer").before
    for node in graph.nodes:
        node.meta["nn_module_stack"] = {
            "a": ("L['self'].model", torch.nn.Module),
            "b": ("L['self'].model.layers['7'].mlp", torch.nn.Module),
        }
    names, _ = layers_before(rows_of(graph, default_registry()))
    assert set(names) == {"L.model.layers.7"} or set(names) == {"model.layers.7"}


def test_a_value_lives_until_its_last_view_is_read() -> None:
    graph = fx.Graph()
    aten = torch.ops.aten
    x = graph.placeholder("x")
    first = graph.call_function(aten.relu.default, (x,))  # 64 bytes
    view = graph.call_function(aten.view.default, (first, [4, 4]))
    second = graph.call_function(aten.neg.default, (x,))  # 64 bytes
    third = graph.call_function(aten.mm.default, (view, view))  # 64 bytes, the last reader of first
    pair = graph.call_function(aten.split.Tensor, (third, 2))
    half = graph.call_function(operator.getitem, (pair, 0))
    graph.output((second, half))
    for node in (x, first, second):
        node.meta["val"] = torch.empty(16, device="meta")
    view.meta["val"] = third.meta["val"] = torch.empty(4, 4, device="meta")
    pair.meta["val"] = tuple(torch.empty(2, 4, device="meta") for _ in range(2))
    half.meta["val"] = torch.empty(2, 4, device="meta")
    rows = rows_of(graph, default_registry())
    assert live_bytes(rows) == [0, 64, 64, 128, 192, 128, 128, 128]
    assert returned_bytes(rows) == 128


def test_the_rewrite_moves_as_many_bytes() -> None:
    (graph,) = data_of(_drawn(load_golden("bf16_static_2layer").before), "two layers")["graphs"]
    before, after = (
        sum(each["bytes"] for each in graph[side]["collectives"]) for side in ("before", "after")
    )
    assert before == after > 0
    assert graph["before"]["counts"] == {"all_reduce": 5}
    assert graph["after"]["counts"] == {"reduce_scatter": 5, "all_gather": 5}


def test_a_page_asks_no_network_and_holds_every_string(drawing: Drawing) -> None:
    title = "</script><script>alert(1)</script>"
    text = page(drawing, title)
    assert "default-src 'none'" in text
    assert not re.search(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=", text)
    assert title not in text
    held = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert held is not None and json.loads(held[1])["title"] == title


def test_a_drawing_survives_pickle_and_json(drawing: Drawing) -> None:
    assert Drawing.from_json(drawing.to_json()) == drawing
    assert pickle.loads(pickle.dumps(drawing)) == drawing
    with pytest.raises(spfast.FileFormatError, match="this is no drawing that spfast wrote"):
        Drawing.from_json('{"before": 3}')


def test_a_result_writes_its_page(tmp_path: Path) -> None:
    result = spfast.apply(load_golden("bf16_static_2layer").before, CONFIG, record_plan=True)
    target = tmp_path / "page.html"
    result.report(target, "two layers")
    assert "<title>two layers</title>" in target.read_text("utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    result = spfast.apply(load_golden("bf16_static_2layer").before, CONFIG, record_plan=True)
    target = tmp_path / "page.html"
    target.mkdir()
    with pytest.raises(OSError):
        result.report(target)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_result_without_a_drawing_says_how_to_get_one() -> None:
    result = spfast.apply(load_golden("bf16_static_2layer").before, CONFIG)
    with pytest.raises(spfast.ConfigError, match="call apply with record_plan=True"):
        result.report("page.html")


def test_a_dump_has_the_page_and_what_it_is_drawn_from(tmp_path: Path) -> None:
    config = spfast.SequenceParallelConfig(tp_size=8, tp_rank=0, debug_dump=str(tmp_path))
    spfast.SequenceParallelismPass(config)(load_golden("bf16_static_2layer").before)
    (html,) = tmp_path.glob("*.report.html")
    (held,) = tmp_path.glob("*.drawing.json")
    assert "<!DOCTYPE html>" in html.read_text("utf-8")
    assert len(Drawing.from_json(held.read_text()).sites) == 5


def _bundled(file: str) -> fx.Graph:
    from importlib import resources

    from spfast.testing import ops

    ops.declare()
    with resources.as_file(resources.files("spfast") / "data" / file) as path:
        return spfast.NodeTable.load(str(path)).to_graph()
