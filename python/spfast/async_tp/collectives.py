"""The reduce_scatters and all_gathers of a graph, in whichever dialect they are spelled."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from spfast.async_tp.reading import arguments, product_of, tensor
from spfast.graphs import only_reader, targets_of
from spfast.groups import group_name
from spfast.patterns import Registry
from spfast.per_registry import PerRegistry
from spfast.targets import ByTarget, target_name

__all__ = ["Collective", "Spelling", "spelling_of"]

_aten = torch.ops.aten


@dataclass(frozen=True)
class Collective:
    """A reduce_scatter or an all_gather.

    Attributes:
        call: The node that calls it.
        value: The node that yields its result: its wait, itself, or what puts parts together.
        operand: What it moves: this rank's part of a sum, or this rank's rows.
        dim: The dim that is scattered or gathered; 0 wherever the rows lie one after the other.
        group: The group, as the graph spells it.
        size: Ranks of the group.
        reduce_op: ``"sum"``, ``"avg"``, ...; empty for a gather.
        inside: The nodes of which it consists, first to last.
    """

    call: fx.Node
    value: fx.Node
    operand: fx.Node
    dim: int
    group: Any
    size: int
    reduce_op: str
    inside: tuple[fx.Node, ...]

    @property
    def gathers(self) -> bool:
        """Whether it is an all_gather."""
        return not self.reduce_op


@dataclass(frozen=True)
class _Form:
    wait: str | None
    gathers: bool
    slots: tuple[str | int, ...]


class Spelling:
    """Reads the collectives of a registry's dialects.

    Args:
        registry: Says which there are.
    """

    def __init__(self, registry: Registry) -> None:
        forms: dict[str, _Form] = {}
        for family in registry.families():
            forms[family.reduce_scatter] = _Form(family.wait, False, family.reduce_scatter_args)
            forms[family.all_gather] = _Form(family.wait, True, family.all_gather_args)
        self._forms = ByTarget(forms)

    def calls(self, graph: fx.Graph) -> Iterator[fx.Node]:
        """Every reduce_scatter and all_gather, one operator after the other."""
        for target in targets_of(graph):
            if self._forms.get(target) is not None:
                yield from graph.find_nodes(op="call_function", target=target, sort=False)

    def any(self, graph: fx.Graph) -> bool:
        """Whether a graph has one."""
        return any(self._forms.get(target) is not None for target in targets_of(graph))

    def read(self, call: fx.Node) -> Collective | str:
        """What a call moves; or why that cannot be told."""
        form = self._forms.get(call.target)
        assert form is not None
        args = call.args
        if call.kwargs or len(args) != len(form.slots):
            if not isinstance(call.target, torch._ops.OpOverload):
                return "its arguments cannot be told"
            bound = arguments(call)
            args = tuple([bound[each.name] for each in call.target._schema.arguments])
        found: dict[str, Any] = {}
        dim: Any = 0
        for slot, given in zip(form.slots, args, strict=False):
            if isinstance(slot, str):
                found[slot] = given
            else:
                dim = given
        operand, size = found["input"], found.get("world_size")
        value = tensor(operand)
        if value is None or type(size) is not int or type(dim) is not int:
            return "the shape of what it moves is not known"
        reduce_op = "" if form.gathers else str(found.get("reduce_op", "sum"))
        end = call
        inside: tuple[fx.Node, ...] = (call,)
        if form.wait is not None:
            readers = [user for user in call.users if user.op != "output"]
            if len(readers) != 1 or target_name(readers[0].target) != form.wait:
                return "its unfinished result is read by something else than one wait"
            end = readers[0]
            inside = (call, end)
        group = found.get("group")
        if dim < 0:
            dim += value.dim()
        if dim == 0 and form.gathers:
            apart = _put_together(end, size)
            if apart is not None:
                end, dim, more = apart
                inside = (*inside, *more)
        elif dim == 0:
            taken = _taken_apart(operand, size)
            if taken is not None:
                operand, dim, more = taken
                inside = (*more, *inside)
        return Collective(call, end, operand, _flat(operand, dim), group, size, reduce_op, inside)

    def group_of(self, call: fx.Node) -> str:
        """The group of a call, by the name that it is spelled with; empty where it has none."""
        found = self.read(call)
        return "" if isinstance(found, str) else group_name(found.group)


def _flat(node: fx.Node, dim: int) -> int:
    """Dim 0 in place of one before which all sizes are 1: the rows lie one after the other."""
    value = tensor(node)
    if value is None or dim == 0:
        return dim
    leading = product_of(value.shape[:dim])
    return 0 if type(leading) is int and leading == 1 else dim


def _put_together(value: fx.Node, size: int) -> tuple[fx.Node, int, tuple[fx.Node, ...]] | None:
    """``cat(split(gathered, size parts, dim 0), dim d)``: what gathers along dim d."""
    split = only_reader(value)
    if split is not None and split.target is _aten.split.Tensor:
        before: tuple[fx.Node, ...] = (split,)
        parts = list(split.users)
        if len(parts) != size or _argument(split, 2, "dim", 0) != 0:
            return None
        if not all(_is_part(part, split, place) for place, part in enumerate(_sorted(parts))):
            return None
        parts = _sorted(parts)
    else:
        parts, before = list(value.users), ()
        if len(parts) != size or not _are_slices(parts, value, size, 0):
            return None
    cat = only_reader(parts[0])
    if cat is None or cat.target is not _aten.cat.default or cat.args[0] != parts:
        return None
    if any(len(part.users) != 1 for part in parts):
        return None
    whole = tensor(cat)
    dim = _argument(cat, 1, "dim", 0)
    if whole is None:
        return None
    return cat, dim % whole.dim(), (*before, *parts, cat)


def _taken_apart(part: fx.Node, size: int) -> tuple[fx.Node, int, tuple[fx.Node, ...]] | None:
    """``cat(split(whole, size parts, dim d), dim 0)``: what scatters along dim d."""
    if part.target is not _aten.cat.default or _argument(part, 1, "dim", 0) != 0:
        return None
    parts: Any = part.args[0]
    if len(part.users) != 1 or len(parts) != size:
        return None
    if not all(isinstance(each, fx.Node) and len(each.users) == 1 for each in parts):
        return None
    whole = parts[0].args[0] if parts[0].args else None
    if not isinstance(whole, fx.Node):
        return None
    if whole.target is _aten.split.Tensor:
        split, source = whole, whole.args[0]
        value = tensor(source)
        if len(split.users) != size or value is None or not isinstance(source, fx.Node):
            return None
        if not all(_is_part(each, split, place) for place, each in enumerate(parts)):
            return None
        dim = _argument(split, 2, "dim", 0) % value.dim()
        return source, dim, (split, *parts, part)
    value = tensor(whole)
    if value is None or parts[0].target is not _aten.slice.Tensor:
        return None
    dim = _argument(parts[0], 1, "dim", 0) % value.dim()
    if not _are_slices(list(parts), whole, size, dim):
        return None
    return whole, dim, (*parts, part)


def _argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _sorted(parts: list[fx.Node]) -> list[fx.Node]:
    return sorted(parts, key=lambda part: part.args[1] if len(part.args) > 1 else -1)  # type: ignore[arg-type,return-value]


def _is_part(node: fx.Node, split: fx.Node, place: int) -> bool:
    return node.target is operator.getitem and node.args == (split, place)


def _are_slices(parts: list[fx.Node], whole: fx.Node, size: int, dim: int) -> bool:
    """Whether nodes are the equal slices of a value along a dim, first to last."""
    value = tensor(whole)
    if value is None or type(value.shape[dim]) is not int or value.shape[dim] % size:
        return False
    step = value.shape[dim] // size
    for place, part in enumerate(parts):
        if part.target is not _aten.slice.Tensor or part.args[0] is not whole:
            return False
        start, end = _argument(part, 2, "start", 0) or 0, _argument(part, 3, "end", None)
        whole_end = place == size - 1 and (end is None or end >= value.shape[dim])
        given = _argument(part, 1, "dim", 0) % value.dim()
        if given != dim or start != place * step or not (end == start + step or whole_end):
            return False
        if _argument(part, 4, "step", 1) != 1:
            return False
    return True


# The spelling of a registry's collectives.
spelling_of = PerRegistry(Spelling)
