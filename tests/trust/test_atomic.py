"""An error at any FX call of a commit leaves the graph exactly as it was, and nothing half done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any

import pytest
import torch
from support.goldens import CASES, load_golden
from torch import fx
from torch.fx.graph import _FindNodesLookupTable, _Namespace

import spfast
from spfast import NodeTable, SequenceParallelConfig
from spfast.fxgraph import trial
from spfast.testing import seeded_case

# Everything of FX through which a graph is edited, from the calls themselves to what they call.
EDITS: tuple[tuple[type, str], ...] = (
    (fx.Graph, "create_node"),
    (fx.Graph, "erase_node"),
    (fx.Node, "__init__"),
    (fx.Node, "replace_input_with"),
    (fx.Node, "update_arg"),
    (fx.Node, "prepend"),
    (fx.Node, "_prepend"),
    (fx.Node, "_update_args_kwargs"),
    (fx.Node, "_remove_from_list"),
    (_Namespace, "create_name"),
    (_Namespace, "associate_name_with_obj"),
    (_FindNodesLookupTable, "insert"),
    (_FindNodesLookupTable, "remove"),
)


class Fault(Exception):
    """What goes wrong."""


class Bomb:
    """Raises once, at the call whose turn it is, before or after the call itself."""

    def __init__(self, turn: int, late: bool = False) -> None:
        self.turn, self.late, self.calls = turn, late, 0
        self.names: list[str] = []

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            turn, self.calls = self.calls, self.calls + 1
            self.names.append(name)
            if turn == self.turn and not self.late:
                raise Fault(name)
            result = real(*args, **kwargs)
            if turn == self.turn:
                raise Fault(name)
            return result

        return called

    @contextmanager
    def armed(self) -> Iterator[None]:
        # The trial of FX's ways, once a process, is no part of a commit.
        trial.holds()
        with pytest.MonkeyPatch.context() as patch:
            for owner, name in EDITS:
                if hasattr(owner, name):
                    wrapped = self.wrap(name, getattr(owner, name))
                    is_static = isinstance(owner.__dict__.get(name), staticmethod)
                    patch.setattr(owner, name, staticmethod(wrapped) if is_static else wrapped)
            yield


def picture(graph: fx.Graph) -> Any:
    """All that there is of a graph, objects by identity."""
    nodes = [
        (
            node,
            node.name,
            node.args,
            node.kwargs,
            list(node.users),
            node._prev,
            node._next,
            node._sort_key,
            node._erased,
            [(key, id(value)) for key, value in node.meta.items()],
        )
        for node in graph.nodes
    ]
    names = graph._graph_namespace
    table = {
        key: list(found) for key, found in graph._find_nodes_lookup_table.table.items() if found
    }
    return (
        nodes,
        len(graph.nodes),
        graph._insert,
        set(names._used_names),
        dict(names._base_count),
        {node.name for node in names._obj_to_name if isinstance(node, fx.Node)},
        table,
    )


def golden(case: str) -> tuple[fx.Graph, SequenceParallelConfig]:
    found = load_golden(case)
    return found.before, SequenceParallelConfig(tp_size=found.tp_size, tp_rank=found.tp_rank)


def bundled(name: str) -> tuple[fx.Graph, SequenceParallelConfig]:
    with resources.as_file(resources.files("spfast") / "data" / name) as path:
        return NodeTable.load(path).to_graph(), SequenceParallelConfig(tp_size=8, tp_rank=1)


def drawn(seed: int) -> tuple[fx.Graph, SequenceParallelConfig]:
    case = seeded_case(seed)
    for node in case.graph.nodes:  # so that the shape in tensor_meta has to follow too
        node.meta["tensor_meta"] = None
    return case.graph, case.config(1)


GRAPHS: dict[str, Callable[[], tuple[fx.Graph, SequenceParallelConfig]]] = {
    **{case: lambda case=case: golden(case) for case in CASES},
    **{
        name: lambda name=name: bundled(f"{name}.spfx")
        for name in (
            "vllm_ir_bf16_2layer",
            "vllm_ir_bf16_2layer_dynamic",
            "vllm_ir_fp8_custom_2layer",
        )
    },
    "drawn, 3D": lambda: drawn(next(s for s in range(1000) if is_wanted(s, "3D"))),
    "drawn, custom ops": lambda: drawn(next(s for s in range(1000) if is_wanted(s, "vllm_custom"))),
}


def is_wanted(seed: int, note: str) -> bool:
    case = seeded_case(seed)
    has_note = any(found.startswith(note) for found in case.notes)
    return has_note and case.divisible and not case.dynamic and 3 <= len(case.sites) <= 4


@pytest.mark.parametrize("late", [False, True], ids=["instead", "afterwards"])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_fault_at_each_edit_in_turn_leaves_the_graph_as_it_was(name: str, late: bool) -> None:
    graph, config = GRAPHS[name]()
    before = picture(graph)
    text = str(graph)
    turn = 0
    while True:
        bomb = Bomb(turn, late)
        try:
            with bomb.armed():
                result = spfast.apply(graph, config)
        except Fault:
            now = picture(graph)
            for was, is_now in zip(before, now, strict=True):
                assert was == is_now, (turn, bomb.names[turn])
            turn += 1
            continue
        break
    # All faults are behind us: the same graph object is rewritten as one that never failed.
    assert bomb.calls == turn and turn > 20
    assert {"create_node", "erase_node", "replace_input_with"} <= set(bomb.names)
    assert int(result) > 0 and str(graph) != text
    graph.lint()
    fresh, _ = GRAPHS[name]()
    spfast.apply(fresh, config)
    assert str(fresh) == str(graph), "a failed run left a trace in the names"


def test_a_fault_while_values_are_made_leaves_the_graph_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph, config = golden("bf16_dynamic_2layer")
    before = picture(graph)
    sizes = (size for node in graph.nodes for size in getattr(node.meta.get("val"), "shape", ()))
    size = next(size for size in sizes if isinstance(size, torch.SymInt))
    guards = len(size.node.shape_env.guards)

    def fail(*args: Any) -> None:
        raise Fault("meta")

    with monkeypatch.context() as patch:
        patch.setattr("spfast.run.run.make_values", fail)
        with pytest.raises(Fault):
            spfast.apply(graph, config)
    assert picture(graph) == before and len(size.node.shape_env.guards) == guards
    with Bomb(10).armed(), pytest.raises(Fault):
        spfast.apply(graph, config)
    assert picture(graph) == before
    assert len(size.node.shape_env.guards) == guards, "a failed commit left its guard"


def test_what_the_verifier_refuses_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, config = golden("no_first_rank3_static_2layer")
    wrong = SequenceParallelConfig(tp_size=8, tp_rank=3, validate=True)
    before = picture(graph)
    real = fx.Node._update_args_kwargs

    def rows_of_rank_0(self: fx.Node, args: Any, kwargs: Any) -> None:
        if self.target is torch.ops.aten.slice.Tensor and args:
            args = (args[0], 0, 0, 512)
        real(self, args, kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(fx.Node, "_update_args_kwargs", rows_of_rank_0)
        with pytest.raises(spfast.VerificationError, match="reads rows 0:512 of 4096"):
            spfast.apply(graph, wrong)
    assert picture(graph) == before
    assert int(spfast.apply(graph, wrong)) == 4
