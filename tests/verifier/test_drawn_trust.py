"""What is proved is right, if what was assumed is so: small graphs in which any value is cut.

Four ranks in two groups hold what differs by rank and what does not. One site of each drawn graph
is put on rows, whatever it reads. Then the graphs are run.
"""

from __future__ import annotations

import os
import random
from typing import Any

import torch
from torch import fx
from verifier.sites import ROWS, WIDTH, G, Site, aten, funcol, sharded

from spfast import SequenceParallelConfig, Verification, verify
from spfast.testing import assert_same, clone_inputs, copy_graph, run_lockstep

COUNT = int(os.environ.get("SPFAST_FUZZ", "60"))
RANKS, TP = 4, 2
GROUPS = {G: [[0, 1], [2, 3]], "dp:0": [[0, 2], [1, 3]]}
UNARY = (aten.tanh.default, aten.neg.default, aten.sigmoid.default)


class Drawing:
    """A graph under construction: a pool of values [8, 6], and what may be done with them."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)
        self.site = Site()
        self.pool = [
            self.site.stream("y"),
            self.site.stream("y"),
            self.site.stream("z", "per_rank"),
        ]
        self.weight = self.site.stream("w", "per_rank", WIDTH)
        self.gain = self.site.placeholder("g", (WIDTH,), torch.float32)
        kind = self.choose.choice(("replicated", "per_rank"))
        self.local_gain = self.site.placeholder("h", (WIDTH,), torch.float32, kind)
        self.count = self.site.placeholder("n", (), torch.float32, kind)
        self.choice = self.site.placeholder("m", (ROWS, 2), torch.float32, kind)
        for _ in range(self.choose.randint(1, 5)):
            self.step()
        operand = self.choose.choice([*self.pool, self.gain, self.local_gain])
        self.reader = self.binary(self.site.reduced, operand)
        self.pool += [self.reader, self.site.reduced]
        for _ in range(self.choose.randint(0, 4)):
            self.step()
        self.site.output([self.reader, *self.choose.sample(self.pool, 2)])

    def any(self) -> fx.Node:
        return self.choose.choice(self.pool)

    def binary(self, left: fx.Node, right: fx.Node) -> fx.Node:
        return self.site.call(self.choose.choice((aten.add.Tensor, aten.mul.Tensor)), left, right)

    def step(self) -> None:
        call, value = self.site.call, self.any()
        kind = self.choose.choice(
            ("unary", "binary", "gain", "mm", "reduce", "reduce", "gather", "scatter", "swap",
             "write", "copy", "row", "number", "share", "constant")
        )  # fmt: skip
        group = self.choose.choice((G, G, "dp:0"))
        if kind == "unary":
            made = call(self.choose.choice(UNARY), value)
        elif kind == "binary":
            made = self.binary(value, self.any())
        elif kind == "gain":
            made = call(aten.mul.Tensor, value, self.choose.choice((self.gain, self.local_gain)))
        elif kind == "mm":
            made = call(aten.mm.default, value, self.weight)
        elif kind == "reduce":
            made = self.site.all_reduce(value, self.choose.choice(("sum", "max")), group)
        elif kind == "gather":
            part = call(aten.slice.Tensor, value, 0, 0, ROWS // TP)
            made = self.wait(funcol.all_gather_into_tensor.default, part, TP, group)
        elif kind == "scatter":
            part = self.wait(funcol.reduce_scatter_tensor.default, value, "sum", TP, group)
            made = call(aten.cat.default, [part, part])
        elif kind == "swap":
            half = [ROWS // TP] * TP
            made = self.wait(funcol.all_to_all_single.default, value, half, half, group)
        elif kind == "write":
            made = call(aten.clone.default, value)
            call(aten.add_.Tensor, made, self.any())
        elif kind == "copy":
            made = call(aten.clone.default, value)
            target = call(aten.slice.Tensor, made, 0, 0, self.choose.choice((2, ROWS)))
            rows = target.meta["val"].shape[0]
            call(aten.copy_.default, target, call(aten.slice.Tensor, self.any(), 0, 0, rows))
        elif kind == "row":
            top = call(aten.amax.default, value, [-1], True)
            made = call(aten.sub.Tensor, value, self.site.all_reduce(top, "max", group))
        elif kind == "number":
            best = call(aten.argmax.default, self.choice)
            read = call(aten._local_scalar_dense.default, best)
            made = call(aten.mul.Tensor, value, self.choose.choice((self.count, read)))
        elif kind == "share":
            made = call(aten.add.Tensor, call(aten.div.Tensor, value, TP), self.any())
        else:
            made = call(aten.full.default, [ROWS, WIDTH], 0.5)
        self.pool.append(made)

    def wait(self, target: Any, *args: Any) -> fx.Node:
        return self.site.wait(self.site.call(target, *args))

    def named(self) -> list[str]:
        return [spec.name for spec in self.site.inputs if spec.kind == "replicated"]

    def inputs(self) -> list[list[Any]]:
        specs = self.site.inputs
        return [[spec.make(rank, ROWS, seed=0) for spec in specs] for rank in range(RANKS)]


def values_of(drawing: Drawing, names: list[str]) -> list[list[torch.Tensor]]:
    """What each rank holds under names of the original graph, when they are computed."""
    graph = copy_graph(drawing.site.graph)
    nodes = {node.name: node for node in graph.nodes}
    copies = []
    for name in names:
        with graph.inserting_before(_after_inputs(nodes[name])):
            copies.append(graph.call_function(aten.clone.default, (nodes[name],)))
    graph.output_node().args = (tuple(copies),)
    found: list[list[torch.Tensor]] = run_lockstep([graph] * RANKS, drawing.inputs(), GROUPS)
    return found


def _after_inputs(node: fx.Node) -> fx.Node:
    after = node.next
    while after.op == "placeholder":
        after = after.next
    return after


def are_shared(drawing: Drawing, verdicts: list[Verification]) -> bool:
    names = sorted({one.value for verdict in verdicts for one in verdict.assumptions})
    by_rank = values_of(drawing, names) if names else []
    return (
        all(
            torch.equal(left, right)
            for group in GROUPS[G]
            for left, right in zip(*(by_rank[rank] for rank in group), strict=True)
        )
        if names
        else True
    )


def differ(drawing: Drawing, after: list[fx.Graph]) -> str:
    inputs = drawing.inputs()
    expected = run_lockstep([drawing.site.graph] * RANKS, clone_inputs_of(inputs), GROUPS)
    found = run_lockstep(after, clone_inputs_of(inputs), GROUPS)
    try:
        assert_same(found, expected, 1e-4, "outputs")
    except AssertionError as error:
        return str(error)
    return ""


def clone_inputs_of(inputs: list[list[Any]]) -> list[list[Any]]:
    return [clone_inputs(row) for row in inputs]


def test_fuzz_what_is_proved_is_right_if_what_was_assumed_is_so() -> None:
    seen = dict.fromkeys(("proved", "refused", "assumed", "wrong but assumed", "contradicted"), 0)
    for seed in range(COUNT):
        drawing = Drawing(seed)
        graph = drawing.site.graph
        configs = [
            SequenceParallelConfig(tp_size=TP, tp_rank=rank % TP, group_name=G)
            for rank in range(RANKS)
        ]
        after = [sharded(graph, [drawing.reader.name], rank % TP, TP) for rank in range(RANKS)]
        pairs = list(zip(after, configs, strict=True))
        difference = differ(drawing, after)
        proofs = [verify(graph, made, config, drawing.named()) for made, config in pairs]
        if all(proofs):
            seen["proved"] += 1
            assert not difference, f"seed {seed} is proved, but {difference}\n{graph}"
        else:
            seen["refused"] += 1
        trusts = [verify(graph, made, config) for made, config in pairs]
        assert all(trust.ok == trusts[0].ok for trust in trusts), f"seed {seed}: by rank"
        if not all(trusts):
            seen["contradicted"] += 1
        elif are_shared(drawing, trusts):
            seen["assumed"] += 1
            assert not difference, (
                f"seed {seed}: {trusts[0].assumptions}, but {difference}\n{graph}"
            )
        elif difference:
            seen["wrong but assumed"] += 1
    assert min(seen.values()) > 0, f"some kind of graph is never drawn: {seen}"
