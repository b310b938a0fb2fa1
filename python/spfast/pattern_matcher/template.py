"""A traced replacement as a list of nodes to create, good for every match with the same key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sympy
import torch
from torch._inductor.pattern_matcher import _transfer_meta
from torch.fx.proxy import _COPY_META_FIELDS
from torch.utils._pytree import tree_leaves

from spfast.pattern_matcher.vals import (
    Builder,
    Describer,
    Unshareable,
    ValSpec,
)

__all__ = ["Template", "build_template"]

_LITERALS = (
    int,
    float,
    bool,
    str,
    complex,
    type(None),
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
)


_SETS_OPERANDS = hasattr(torch.fx.Node, "_update_args_kwargs")


@dataclass(frozen=True)
class _Ref:
    """An operand that is an argument of the match (below the argument count) or an earlier node."""

    index: int


@dataclass(frozen=True)
class _SymLiteral:
    expr: sympy.Expr


@dataclass(frozen=True)
class _NodeSpec:
    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    refs_only: tuple[int, ...] | None  # the operands, if all of them are plain references
    name: str  # what names of such nodes begin with
    raw_symbols: bool  # an operand is a symbolic number itself
    meta: dict[str, Any]
    val: ValSpec | None
    record: ValSpec | None  # tensor_meta
    eager: ValSpec | None  # eager_input_vals: what the node's inputs looked like when traced


@dataclass(frozen=True)
class Template:
    """Nodes to create, and which of them replace the match's outputs.

    Attributes:
        inputs: How many arguments the nodes refer to.
        outputs: What the replacement function returned: references, nested as it returned them.
        graph_module: The trace, without meta values; what `Match.replacement_graph` shows.
    """

    inputs: int
    nodes: tuple[_NodeSpec, ...]
    outputs: Any
    graph_module: torch.fx.GraphModule
    mutates: bool

    @property
    def returns(self) -> int:
        """How many values the replacement returns."""
        return len(self.outputs) if isinstance(self.outputs, (list, tuple)) else 1

    def instantiate(
        self,
        graph: torch.fx.Graph,
        args: Sequence[Any],
        builder: Builder,
        single: torch.fx.Node | None,
        place: dict[str, Any],
    ) -> tuple[Any, list[torch.fx.Node]]:
        """Creates the nodes at the graph's insertion point.

        Args:
            graph: The graph to create them in.
            args: Nodes and literals for the template's inputs.
            builder: Builds the meta values.
            single: The matched node, if the match is that node alone: its traces are inherited.
            place: Annotations of the matched nodes that new nodes inherit.

        Returns:
            The outputs, and the nodes created, in order.
        """
        env: list[Any] = list(args)
        created: list[torch.fx.Node] = []
        value_of = builder.instance()
        inherited = _inherited(single) if single is not None else None
        for spec in self.nodes:
            if spec.refs_only is not None:
                operands: tuple[Any, ...] = tuple([env[i] for i in spec.refs_only])
                kwargs: dict[str, Any] = {}
            else:
                operands = tuple([_fill(item, env, builder) for item in spec.args])
                kwargs = {key: _fill(item, env, builder) for key, item in spec.kwargs.items()}
            node = _create(graph, spec, operands, kwargs)
            meta = node.meta
            meta.update(spec.meta)
            if inherited is not None:
                meta.update(inherited)
            if place:
                meta["custom"] = {**place, **meta.get("custom", {})}
            if spec.val is not None:
                meta["val"] = value_of(spec.val)
            elif single is not None and "val" in single.meta:
                meta["val"] = single.meta["val"]
            if spec.record is not None:
                meta["tensor_meta"] = builder.common(spec.record)
            elif single is not None and "tensor_meta" in single.meta:
                meta["tensor_meta"] = single.meta["tensor_meta"]
            if spec.eager is not None:
                meta["eager_input_vals"] = builder.common(spec.eager)
            created.append(node)
            env.append(node)
        return _fill(self.outputs, env, builder), created


def _create(
    graph: torch.fx.Graph, spec: _NodeSpec, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> torch.fx.Node:
    """Creates a node and then sets its operands, which spares torch's search for raw symbols."""
    module = graph.owning_module
    watched = module is not None and getattr(module, "_create_node_hooks", None)
    if spec.raw_symbols or watched or not _SETS_OPERANDS:
        return graph.create_node("call_function", spec.target, args, kwargs)
    node = graph.create_node("call_function", spec.target, name=spec.name)
    node._update_args_kwargs(args, kwargs)
    return node


def _inherited(node: torch.fx.Node) -> dict[str, Any]:
    meta = node.meta
    found = {key: meta[key] for key in _COPY_META_FIELDS if key in meta}
    if "stack_trace" in meta:
        found["stack_trace"] = meta["stack_trace"]
    return found


def _fill(item: Any, env: list[Any], builder: Builder) -> Any:
    kind = type(item)
    if kind is _Ref:
        return env[item.index]
    if kind is _SymLiteral:
        return builder.dim(item.expr)
    if kind is tuple or kind is list:
        return kind(_fill(part, env, builder) for part in item)
    if kind is dict:
        return {key: _fill(part, env, builder) for key, part in item.items()}
    if kind is slice:
        return slice(*(_fill(part, env, builder) for part in (item.start, item.stop, item.step)))
    return item


def _operand(item: Any, index: dict[torch.fx.Node, int], describer: Describer) -> Any:
    if isinstance(item, torch.fx.Node):
        return _Ref(index[item])
    if isinstance(item, torch.SymInt):
        dim = describer.dim(item)
        return dim if isinstance(dim, int) else _SymLiteral(dim)
    if isinstance(item, (list, tuple)):
        if type(item) not in (list, tuple) and not isinstance(
            item, torch.fx.immutable_collections.immutable_list
        ):
            raise Unshareable(f"an operand of type {type(item).__name__} in the replacement")
        parts = [_operand(part, index, describer) for part in item]
        return tuple(parts) if isinstance(item, tuple) else parts
    if isinstance(item, dict):
        return {key: _operand(part, index, describer) for key, part in item.items()}
    if isinstance(item, slice):
        return slice(
            *(_operand(part, index, describer) for part in (item.start, item.stop, item.step))
        )
    if isinstance(item, _LITERALS) or isinstance(item, torch._ops.OpOverload):
        return item
    raise Unshareable(f"an operand of type {type(item).__name__} in the replacement")


def build_template(
    traced: torch.fx.GraphModule,
    rename: Callable[[sympy.Expr], sympy.Expr],
    mutates: bool,
) -> Template:
    """Takes a traced replacement apart.

    The meta values of `traced` are dropped from it: the template must not keep a graph's fake mode
    alive.

    Args:
        traced: What the trace function returned for the replacement function.
        rename: From the graph's symbols to canonical ones.
        mutates: Whether the replacement has a mutating operator.

    Raises:
        Unshareable: The trace holds something that belongs to this match alone.
    """
    describer = Describer(rename)
    index: dict[torch.fx.Node, int] = {}
    specs: list[_NodeSpec] = []
    vals: list[ValSpec | None] = []
    outputs: Any = None
    inputs = sum(node.op == "placeholder" for node in traced.graph.nodes)
    n_inputs = 0
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            index[node] = n_inputs
            n_inputs += 1
            continue
        if node.op == "output":
            outputs = _operand(node.args[0], index, describer)
            continue
        if node.op != "call_function":
            raise Unshareable(f"a {node.op} node in the replacement")
        args = tuple(_operand(item, index, describer) for item in node.args)
        kwargs = {key: _operand(item, index, describer) for key, item in node.kwargs.items()}
        plain = not kwargs and all(type(item) is _Ref for item in args)
        meta: dict[str, Any] = {}
        source = {key: item for key, item in node.meta.items() if key != "val"}
        eager = source.pop("eager_input_vals", None)
        record = source.pop("tensor_meta", None)
        _copy_meta(meta, source)
        val = node.meta.get("val")
        vals.append(describer.describe(val) if "val" in node.meta else None)
        specs.append(
            _NodeSpec(
                target=node.target,
                args=args,
                kwargs=kwargs,
                name=traced.graph._target_to_str(node.target),
                raw_symbols=any(
                    isinstance(leaf, _SymLiteral) for leaf in tree_leaves((args, kwargs))
                ),
                refs_only=tuple(item.index for item in args) if plain else None,
                meta=meta,
                val=None,
                record=None if record is None else describer.describe(record),
                eager=None if eager is None else Describer(rename).describe(eager),
            )
        )
        index[node] = inputs + len(specs) - 1
    specs = [replace(s, val=val) for s, val in zip(specs, vals, strict=True)]
    for node in traced.graph.nodes:
        node.meta.pop("val", None)
        node.meta.pop("tensor_meta", None)
        node.meta.pop("eager_input_vals", None)
    return Template(inputs, tuple(specs), outputs, traced, mutates)


class _MetaHolder:
    """Enough of a node for torch's own `_transfer_meta`."""

    def __init__(self, meta: dict[str, Any]) -> None:
        self.meta = meta


def _copy_meta(new: dict[str, Any], source: dict[str, Any]) -> None:
    _transfer_meta(new, _MetaHolder(source))  # type: ignore[arg-type]
