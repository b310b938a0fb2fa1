"""Writes a graph of one site from a pattern, in any of the forms that the pattern allows.

The tests read the registered patterns and write graphs that should match them, with every operator,
both argument orders, and defaults left out or spelled out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from spfast.fxgraph import targets
from spfast.patterns.describing import _literal
from spfast.patterns.model import Form, Literal, Location, Operation, Pattern
from spfast.testing.builder import GraphBuilder

TOKENS, WIDTH, GROUP, TP_SIZE = 8, 16, "tp:0", 2
BF16, F32 = torch.bfloat16, torch.float32
FP8 = torch.float8_e4m3fn


def declare_inplace_overload() -> None:
    """Declares the overload of vLLM's fused norm that may reuse its inputs."""
    if hasattr(torch.ops.vllm_ir.fused_add_rms_norm, "maybe_inplace"):
        return
    library = torch.library.Library("vllm_ir", "FRAGMENT")
    library.define(
        "fused_add_rms_norm.maybe_inplace(Tensor x, Tensor x_residual, Tensor? weight, "
        "float epsilon, int? variance_size=None) -> (Tensor, Tensor)"
    )
    default = torch.ops.vllm_ir.fused_add_rms_norm.default
    library.impl("fused_add_rms_norm.maybe_inplace", default, "CompositeExplicitAutograd")
    torch.library.register_fake(
        "vllm_ir::fused_add_rms_norm.maybe_inplace", lambda *args: default(*args), lib=library
    )
    _KEPT.append(library)


_KEPT: list[Any] = []


@dataclass
class Site:
    """A graph of one site.

    Attributes:
        graph: its output holds the value of every last operation, and the reduced value.
        nodes: by operation of the pattern.
        literals: (node, place, literal) of each constant that the pattern compares.
    """

    build: GraphBuilder
    nodes: list[fx.Node]
    literals: list[tuple[fx.Node, Location, Literal]] = field(default_factory=list)

    @property
    def graph(self) -> fx.Graph:
        return self.build.graph

    @property
    def last(self) -> fx.Node:
        """The value at the pattern's end."""
        node = self.nodes[-1]
        return next(iter(node.users)) if isinstance(node.meta["val"], tuple) else node

    def inputs(self) -> list[list[Any]]:
        """Values of the placeholders, for each rank."""
        return [
            [spec.make(rank, TOKENS, seed=0) for spec in self.build.inputs]
            for rank in range(TP_SIZE)
        ]


def make_site(pattern: Pattern, choice: int = 0, family: str = "vllm") -> Site:
    """Writes the pattern with the ``choice``-th form of each operation, counted round.

    Odd choices exchange commuting operands, name the last dim by its number and spell out defaults.
    """
    build = GraphBuilder(TOKENS, dynamic=False)
    writer = _Writer(pattern, choice, build)
    x = build.placeholder("x", ("tokens", WIDTH), writer.stream, kind="per_rank")
    if family == "vllm":
        reduced = build.call(torch.ops.vllm.all_reduce.default, x, GROUP)
    else:
        collectives = torch.ops._c10d_functional
        started = build.call(collectives.all_reduce.default, x, "sum", GROUP)
        reduced = build.call(collectives.wait_tensor.default, started)
    site = writer.write(reduced)
    leaves = [node for node in site.nodes[1:] if not node.users]
    outputs = [reduced]
    for leaf in leaves:
        value = leaf.meta["val"]
        if not isinstance(value, tuple):
            outputs.append(leaf)
            continue
        for i, part in enumerate(value):
            if isinstance(part, torch.Tensor):
                outputs.append(build.call(targets.resolve("_operator.getitem"), leaf, i))
    build.output(outputs)
    return site


class _Writer:
    def __init__(self, pattern: Pattern, choice: int, build: GraphBuilder) -> None:
        self.pattern, self.choice, self.build = pattern, choice, build
        self.values: dict[int, Any] = {}
        # A norm that casts nothing is written on a stream that is wide.
        wide = [i for i, each in enumerate(pattern.operations) if self.squares(each)]
        source = pattern.operations[wide[0]].operands[0].index if wide else None
        widened = source is None or any(
            literal.tag == "dtype"
            for i in self.behind(source)
            for operand in pattern.operations[i].operands
            for literal in operand.literals
        )
        self.stream = BF16 if widened else F32

    def squares(self, operation: Operation) -> bool:
        return any(form.target == "aten.pow.Tensor_Scalar" for form in operation.forms)

    def behind(self, index: int) -> list[int]:
        """The operation and those it reads, as far as the reduced value."""
        found = [index]
        for at in found:
            reads = self.pattern.operations[at].operands
            found += [each.index for each in reads if each.kind == "operation"]
        return found

    def write(self, reduced: fx.Node) -> Site:
        site = Site(self.build, [reduced])
        for operation in self.pattern.operations[1:]:
            site.nodes.append(self.operation(operation, site))
        return site

    def operation(self, operation: Operation, site: Site) -> fx.Node:
        form = operation.forms[self.choice % len(operation.forms)]
        values = [self.operand(each, site) for each in operation.operands]
        where = list(form.where)
        nodes = [isinstance(value, fx.Node) for value in values[:2]]
        if operation.commutative and all(nodes) and self.choice % 2:
            where[:2] = reversed(where[:2])
        places: dict[tuple[Any, int], Any] = {}
        checked = []
        for at, operand, value in zip(where, operation.operands, values, strict=True):
            if operand.kind == "ignored":
                continue  # the operator that auto_functionalized wraps
            places[at.keyword if at.position < 0 else at.position, at.item] = value
            checked += [(at, literal) for literal in operand.literals[:1]]
        for fixed in form.fixed:
            at = fixed.where
            spelled = fixed.required or (self.choice % 2 == 1 and "alias" not in at.keyword)
            if not spelled or at.item >= 0:
                continue
            places[at.keyword if at.position < 0 else at.position, -1] = self.constant(
                fixed.literal
            )
            checked.append((at, fixed.literal))
        node = self.call(form, places)
        site.literals += [(node, at, literal) for at, literal in checked]
        return node

    def call(self, form: Form, places: dict[tuple[Any, int], Any]) -> fx.Node:
        lists: dict[Any, dict[int, Any]] = {}
        flat: dict[Any, Any] = {}
        for (at, item), value in places.items():
            if item < 0:
                flat[at] = value
            else:
                lists.setdefault(at, {})[item] = value
        flat |= {at: [items[i] for i in sorted(items)] for at, items in lists.items()}
        args = [flat[at] for at in sorted(at for at in flat if isinstance(at, int))]
        kwargs = {at: value for at, value in flat.items() if isinstance(at, str)}
        name, _, wrapped = form.target.partition("[")
        if wrapped:
            args = [targets.resolve(wrapped.removesuffix("]")), *args]
        return self.build.call(targets.resolve(name), *args, **kwargs)

    def operand(self, operand: Any, site: Site) -> Any:
        if operand.kind == "operation":
            return site.nodes[operand.index]
        if operand.kind == "parameter":
            if operand.index not in self.values:
                name = self.pattern.parameters[operand.index].name
                self.values[operand.index] = self.parameter(name)
            return self.values[operand.index]
        if operand.kind == "literal":
            return self.constant(operand.literals[self.choice % len(operand.literals)])
        return None

    def constant(self, literal: Literal) -> Any:
        if literal.tag == "last_dim":
            return [1] if self.choice % 2 else [-1]
        return eval(_literal(literal), {"torch": torch})

    def parameter(self, name: str) -> Any:
        build = self.build
        if name == "residual":
            return build.placeholder(name, ("tokens", WIDTH), self.stream)
        if name == "weight":
            return build.placeholder(name, (WIDTH,), self.stream, kind="gain")
        if name == "scale":
            return build.placeholder(name, (), F32, kind="constant", value=0.05)
        if name in ("normed", "quantised"):
            return build.call(
                torch.ops.aten.empty.memory_format,
                [TOKENS, WIDTH],
                dtype=FP8 if name == "quantised" else self.stream,
                device=torch.device("cpu"),
                pin_memory=False,
            )
        values = {"epsilon": 1e-5, "width": WIDTH}
        return values.get(name, BF16)
