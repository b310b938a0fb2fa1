"""The native edits of a graph are FX's own, give way where FX is another, and are taken back."""

from __future__ import annotations

import operator
from importlib import resources
from typing import Any

import pytest
from support.faults import at_each_edit
from torch import fx

import spfast
from spfast import NodeTable, SequenceParallelConfig, _core
from spfast.fxgraph import trial


def bundled() -> tuple[fx.Graph, SequenceParallelConfig]:
    name = "vllm_ir_fp8_custom_2layer.spfx"
    with resources.as_file(resources.files("spfast") / "data" / name) as path:
        return NodeTable.load(path).to_graph(), SequenceParallelConfig(tp_size=8, tp_rank=1)


def picture(graph: fx.Graph) -> Any:
    names, found = graph._graph_namespace, graph._find_nodes_lookup_table.table
    return (
        [
            (node.name, str(node.args), str(node.kwargs), list(node.users), node._prev, node._next)
            for node in graph.nodes
        ],
        [[(key, id(value)) for key, value in node.meta.items()] for node in graph.nodes],
        [node._erased for node in graph.nodes],
        {key: list(nodes) for key, nodes in found.items() if nodes},
        (set(names._used_names), dict(names._base_count), len(names._obj_to_name)),
        (len(graph.nodes), graph._insert),
    )


def test_the_trial_holds_on_this_torch() -> None:
    assert trial.holds()
    assert _core.GraphEditor(fx.Graph()).native()


def test_native_and_by_methods_one_rewrite_gives_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    native, config = bundled()
    spfast.apply(native, config)
    by_methods, _ = bundled()
    real = fx.Graph.create_node
    monkeypatch.setattr(fx.Graph, "create_node", lambda *args, **kwargs: real(*args, **kwargs))
    assert not _core.GraphEditor(by_methods).native()
    spfast.apply(by_methods, config)
    names, others = native._graph_namespace, by_methods._graph_namespace
    assert names._used_names == others._used_names and names._base_count == others._base_count
    assert len(native.nodes) == len(by_methods.nodes) == len(list(native.nodes))
    for mine, theirs in zip(native.nodes, by_methods.nodes, strict=True):
        assert (mine.name, str(mine.args)) == (theirs.name, str(theirs.args))
        assert [user.name for user in mine.users] == [user.name for user in theirs.users]
        assert list(mine.meta) == list(theirs.meta)
        assert str(mine.meta.get("val")) == str(theirs.meta.get("val"))


@pytest.mark.parametrize("hooks", ["_create_node_hooks", "_erase_node_hooks", "_replace_hooks"])
def test_whoever_listens_hears_of_each_edit(hooks: str) -> None:
    graph, config = bundled()
    module = fx.GraphModule({}, graph)
    heard: list[Any] = []

    def hear(*args: Any, **kwargs: Any) -> None:
        heard.append(args or kwargs)

    getattr(module, hooks).append(hear)
    assert not _core.GraphEditor(module.graph).native()
    spfast.apply(module.graph, config)
    assert heard


def test_a_subclass_of_graphs_edits_itself() -> None:
    class Mine(fx.Graph):
        pass

    assert not _core.GraphEditor(Mine()).native()


def test_a_fault_at_each_native_edit_leaves_the_graph_as_it_was() -> None:
    graph, config = bundled()
    assert at_each_edit(lambda: spfast.apply(graph, config), lambda: picture(graph)) > 20
    graph.lint()


def test_names_are_those_that_fx_would_give() -> None:
    graph = fx.Graph()
    x = graph.placeholder("sub")
    out = graph.output((x,))
    editor = _core.GraphEditor(graph, "native")
    names = [editor.create(operator.sub, base, out).name for base in ("sub", "sub", "len", "fresh")]
    editor.finish()
    assert names == ["sub_1", "sub_2", "len_1", "fresh"]
    assert len(graph.nodes) == 6
