"""The journal takes back each kind of step, and a step that failed half way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.fx as fx

from spfast.fxgraph.journal import Journal, undo_all

aten = torch.ops.aten


def small() -> fx.Graph:
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    total = graph.create_node("call_function", aten.add.Tensor, (x, y), name="add")
    total.meta["val"] = "old"
    first, second = (
        graph.create_node("call_function", aten.relu.default, (total,), name="relu")
        for _ in range(2)
    )
    graph.output((first, second))
    return graph


def state(graph: fx.Graph) -> list[Any]:
    """All that FX shows of a graph, orders included."""
    rows = [
        (node.op, node.name, str(node.target), node.args, list(node.users), dict(node.meta))
        for node in graph.nodes
    ]
    found = [list(graph.find_nodes(op="call_function", target=t)) for t in RELU_AND_ADD]
    return [rows, found, len(graph.nodes), dict(graph._graph_namespace._base_count)]


RELU_AND_ADD = (aten.relu.default, aten.add.Tensor)


def named(graph: fx.Graph, name: str) -> fx.Node:
    return next(node for node in graph.nodes if node.name == name)


def begun(graph: fx.Graph) -> Journal:
    """A journal that has noted the users of each node, as a commit notes those that it changes."""
    journal = Journal(graph)
    for node in graph.nodes:
        journal.entries.append(("users", node.users, dict(node.users)))
    return journal


def create(journal: Journal, graph: fx.Graph) -> None:
    with graph.inserting_before(named(graph, "relu")):
        made = graph.call_function(aten.relu.default, (named(graph, "x"),))
    journal.entries.append(("create", made))


def rewire(journal: Journal, graph: fx.Graph) -> None:
    node, x = named(graph, "relu"), named(graph, "x")
    journal.entries.append(("operands", node, node.args, node.kwargs))
    node.args = (x,)


def erase(journal: Journal, graph: fx.Graph) -> None:
    output, node = next(iter(graph.find_nodes(op="output"))), named(graph, "relu_1")
    journal.entries.append(("operands", output, output.args, output.kwargs))
    output.args = ((named(graph, "relu"),),)
    journal.note_order(node)
    journal.entries.append(("operands", node, node.args, node.kwargs))
    journal.entries.append(("erase", node, node._prev, node._next, getattr(node, "_sort_key", ())))
    graph.erase_node(node)


def write_meta(journal: Journal, graph: fx.Graph) -> None:
    node = named(graph, "add")
    journal.entries.append(("meta", node.meta, dict(node.meta)))
    node.meta["val"] = "new"


def rename(journal: Journal, graph: fx.Graph) -> None:
    journal.rename(named(graph, "add"), "total")


Step = Callable[[Journal, fx.Graph], None]
STEPS: list[Step] = [create, rewire, erase, write_meta, rename]


@pytest.mark.parametrize("step", STEPS)
def test_a_step_is_taken_back(step: Step) -> None:
    graph = small()
    before = state(graph)
    journal = begun(graph)
    step(journal, graph)
    assert state(graph) != before
    journal.undo()
    assert state(graph) == before
    graph.lint()


def test_all_steps_are_taken_back_in_reverse() -> None:
    graph = small()
    before = state(graph)
    journal = begun(graph)
    for step in STEPS:
        step(journal, graph)
    journal.undo()
    assert state(graph) == before


def test_a_node_that_was_never_noted_goes_if_the_old_ones_are_told() -> None:
    graph = small()
    before, nodes = state(graph), list(graph.nodes)
    journal = Journal(graph)
    create(journal, graph)
    journal.entries.clear()
    journal.undo()
    assert len(list(graph.nodes)) > len(nodes)  # nothing tells the new node from the old ones
    journal.undo(nodes)
    assert state(graph)[0] == before[0]


def test_journals_of_several_graphs_are_taken_back_together() -> None:
    graphs = [small(), small()]
    before = [state(graph) for graph in graphs]
    journals = [Journal(graph) for graph in graphs]
    for journal, graph in zip(journals, graphs, strict=True):
        rename(journal, graph)
    undo_all(journals)
    assert [state(graph) for graph in graphs] == before
