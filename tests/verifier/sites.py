"""Graphs with one site, and that site put on one rank's rows by hand: right or wrong, as asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from spfast import SequenceParallelConfig, Verification, verify
from spfast.testing import copy_graph
from spfast.testing.builder import GraphBuilder

aten, vllm, funcol = torch.ops.aten, torch.ops.vllm, torch.ops._c10d_functional
G = "tp:0"
ROWS, WIDTH = 8, 6


class Site(GraphBuilder):
    """A graph under construction whose all_reduce of ``x`` is the one to rewrite."""

    def __init__(self, dynamic: bool = False) -> None:
        super().__init__(tokens=ROWS, dynamic=dynamic)
        self.x = self.stream("x", "per_rank")
        self.reduced = self.call(vllm.all_reduce.default, self.x, G)

    def stream(self, name: str, kind: str = "replicated", rows: int = ROWS) -> fx.Node:
        return self.placeholder(name, (rows, WIDTH), torch.float32, kind)

    def wait(self, node: fx.Node) -> fx.Node:
        return self.call(funcol.wait_tensor.default, node)

    def all_reduce(self, node: fx.Node, op: str = "sum", group: str = G) -> fx.Node:
        return self.wait(self.call(funcol.all_reduce.default, node, op, group))

    def add(self, left: fx.Node, right: Any) -> fx.Node:
        return self.call(aten.add.Tensor, left, right)


def sharded(before: fx.Graph, readers: list[str], rank: int, tp: int) -> fx.Graph:
    """A copy in which ``readers`` work on one rank's rows of the first all_reduce.

    Whatever else they read that has a row for each token is cut to this rank's; their results are
    gathered. Nothing is asked about what that does.
    """
    graph = copy_graph(before)
    nodes = {node.name: node for node in graph.nodes}
    reduced = nodes["all_reduce"] if "all_reduce" in nodes else nodes["all_reduce_default"]
    with graph.inserting_after(reduced):
        scatter = _call(graph, vllm.reduce_scatter.default, reduced.args[0], 0, tp, G)
    rows = reduced.meta["val"].shape[0]
    local = rows // tp

    def cut(operand: fx.Node) -> fx.Node:
        val = operand.meta.get("val")
        if operand is reduced:
            return scatter
        if not isinstance(val, torch.Tensor) or val.dim() == 0 or val.shape[0] != rows:
            return operand
        first = local * rank
        return _call(graph, aten.slice.Tensor, operand, 0, first, first + local)

    for name in readers:
        reader = nodes[name]
        with graph.inserting_before(reader):
            reader.args = fx.node.map_arg(reader.args, cut)
            reader.kwargs = fx.node.map_arg(reader.kwargs, cut)
        _evaluate(reader)
        with graph.inserting_after(reader):
            whole = _call(graph, vllm.all_gather.default, reader, 0, tp, G)
        reader.replace_all_uses_with(
            whole, delete_user_cb=lambda user, whole=whole: user is not whole
        )
    if not reduced.users:
        graph.erase_node(reduced)
    graph.lint()
    return graph


def _call(graph: fx.Graph, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    node = graph.call_function(target, args, kwargs)
    _evaluate(node)
    return node


def _evaluate(node: fx.Node) -> None:
    values = [operand.meta["val"] for operand in node.all_input_nodes]
    mode = next(val.fake_mode for val in values if isinstance(val, torch.Tensor))
    with mode:
        node.meta["val"] = node.target(  # type: ignore[operator]
            *fx.node.map_arg(node.args, lambda n: n.meta["val"]),
            **fx.node.map_arg(node.kwargs, lambda n: n.meta["val"]),
        )


def verdict(
    site: Site, readers: list[str], replicated: Any = None, rank: int = 1, tp: int = 2
) -> Verification:
    """What the verifier says of a site whose readers were put on one rank's rows."""
    config = SequenceParallelConfig(tp_size=tp, tp_rank=rank, group_name=G)
    after = sharded(site.graph, readers, rank, tp)
    return verify(site.graph, after, config, replicated)


# --- values ---

Value = Callable[[Site], fx.Node]


def y(s: Site) -> fx.Node:
    return s.stream("y")


def z(s: Site) -> fx.Node:
    return s.stream("z", "per_rank")


def weight(s: Site) -> fx.Node:
    return s.stream("w", "per_rank", WIDTH)


def number(s: Site) -> fx.Node:
    n = s.placeholder("n", (), torch.int64, "constant", 3)
    return s.call(aten._local_scalar_dense.default, n)


def written(s: Site, what: Callable[[Site, fx.Node], Any], start: Value = y) -> fx.Node:
    copy = s.call(aten.clone.default, start(s))
    what(s, copy)
    return copy


def part_of(s: Site, node: fx.Node) -> fx.Node:
    return s.call(aten.slice.Tensor, node, 0, 0, 2)


def functional(s: Site, op: Any, *args: Any) -> fx.Node:
    return s.wait(s.call(op, *args))
