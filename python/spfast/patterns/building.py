"""A pattern under construction: the operations that a pattern function has called so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spfast.errors import PatternError
from spfast.patterns.calls import NOTHING, Call, bind
from spfast.patterns.model import Fixed, Literal, Location, Operand, Parameter
from spfast.patterns.values import Operator, Value, call, literal

__all__ = ["GETITEM", "Node", "Trace", "either", "functionalized"]

GETITEM = "_operator.getitem"
V1 = "higher_order.auto_functionalized"
V2 = "higher_order.auto_functionalized_v2"
_ANYTHING = Operand("ignored")


@dataclass
class Node:
    """One operation under construction: the ways to write it, and who reads it."""

    calls: list[Call]
    mutates: tuple[str, ...] = ()
    read: bool = False
    absorbed: bool = False


class Trace:
    """What one run of a pattern function has computed so far."""

    def __init__(self) -> None:
        self.nodes = [Node([])]  # the reduced value
        self.parameters: dict[str, Parameter] = {}
        self.items: dict[tuple[int, int], Value] = {}

    def parameter(self, name: str, kind: type[Value]) -> Value:
        """The parameter of this name, captured now if it was not before."""
        known = self.parameters.setdefault(name, Parameter(name, kind.role))
        if known.role != kind.role:
            raise PatternError(f"it captures '{name}' as {known.role} and as {kind.role}")
        return kind(self, Operand("parameter", list(self.parameters).index(name)))

    def call(self, target: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Value:
        """Adds the call of an operator."""
        return self.add(Node([bind(target, args, kwargs)]))

    def add(self, node: Node) -> Value:
        """Adds an operation."""
        for each in node.calls:
            for _, operand in each.operands:
                if operand.kind == "operation":
                    self.mark(operand.index)
        self.nodes.append(node)
        return Value(self, Operand("operation", len(self.nodes) - 1))

    def mark(self, index: int) -> None:
        """Notes that something reads this operation."""
        if self.nodes[index].absorbed:
            raise PatternError("it uses an alternative of an either(): use the result of either()")
        self.nodes[index].read = True

    def item(self, operand: Operand, index: int | str) -> Value:
        """Adds the choice of one of several results."""
        if operand.kind != "operation" or operand.index == 0:
            raise PatternError("it takes an item of a value that is a single tensor")
        if isinstance(index, str):
            mutates = self.nodes[operand.index].mutates
            if index not in mutates:
                known = ", ".join(mutates) or "nothing"
                raise PatternError(f"it asks for what was written to '{index}': it writes {known}")
            index = 1 + mutates.index(index)
        if not isinstance(index, int) or index < 0:
            raise PatternError(f"it takes item {index!r} of a value: give a number from 0 on")
        key = (operand.index, index)
        if key not in self.items:
            where = [
                (Location(0), operand),
                (Location(1), Operand("literal", literals=(literal(index),))),
            ]
            self.items[key] = self.add(Node([Call(GETITEM, where)]))
        return self.items[key]


def _trace_of(value: Value) -> Trace:
    trace = value._trace
    assert isinstance(trace, Trace)
    return trace


def either(*alternatives: Value) -> Value:
    """One operation that may be written in any of these ways.

    Each alternative is the result of one call, and all read the same values; constants may differ.

    Example:
        >>> from spfast.patterns import either, ops, trace
        >>> def square(x):
        ...     return either(ops.aten.pow.Tensor_Scalar(x, 2), ops.aten.mul.Tensor(x, x))
        >>> len(trace(square, "square").operations[1].forms)
        2
    """
    if not alternatives or not all(isinstance(each, Value) for each in alternatives):
        raise PatternError("either() takes the results of operators")
    trace = _trace_of(alternatives[0])
    indices = [each._operand.index for each in alternatives]
    for each, index in zip(alternatives, indices, strict=True):
        if each._trace is not trace or each._operand.kind != "operation" or index == 0:
            raise PatternError("either() takes the results of operators of its own pattern")
        if trace.nodes[index].read:
            raise PatternError("either() takes results that nothing else has read")
    if len(set(indices)) < len(indices):
        raise PatternError("either() is given the same result twice")
    first, *others = (trace.nodes[index] for index in indices)
    for other in others:
        first.calls += other.calls
        other.absorbed = True
        if other.mutates != first.mutates:
            raise PatternError("either() mixes operators that write to different arguments")
    return alternatives[0]


def functionalized(operator: Operator, mutates: Sequence[str], **arguments: Any) -> Value:
    """An operator that writes to its arguments, as either version of auto_functionalized leaves it.

    Args:
        operator: what is wrapped, such as ``ops._C.rms_norm``.
        mutates: the arguments it writes to, in the order of its schema. ``result[name]`` is what
            was written.
        **arguments: its arguments by name.

    Example:
        >>> from spfast.patterns import Buffer, functionalized, ops, trace
        >>> def norm(x, out: Buffer, weight):
        ...     call = functionalized(
        ...         ops.mylib.norm, mutates=["out"], out=out, input=x, weight=weight
        ...     )
        ...     return call["out"]
        >>> [form.target for form in trace(norm, "norm").operations[1].forms]
        ... # doctest: +NORMALIZE_WHITESPACE
        ['higher_order.auto_functionalized[mylib.norm.default]',
         'higher_order.auto_functionalized_v2[mylib.norm.default]']
    """
    for name in mutates:
        if not isinstance(arguments.get(name), Value):
            raise PatternError(f"{operator} writes to '{name}', which is given no value")
    first = call(f"{V1}[{operator}]", (), arguments)
    node = _trace_of(first).nodes[-1]
    (v1,) = node.calls
    v2 = Call(f"{V2}[{operator}]", fixed=list(v1.fixed))
    for where, operand in v1.operands:
        if where.keyword not in mutates:
            v2.operands.append((where, operand))
            continue
        base = list(mutates).index(where.keyword)
        v2.operands.append((Location(keyword="_all_bases", item=base), operand))
        index = Location(keyword=f"_{where.keyword}_base_index")
        v2.fixed.append(Fixed(index, Literal("int", base), required=True))
        # The argument is an alias of its whole base.
        v2.fixed.append(Fixed(Location(keyword=f"_{where.keyword}_alias"), Literal("bool", True)))
    v2.fixed.append(Fixed(Location(keyword="_all_bases", item=len(mutates)), NOTHING))
    for each in (v1, v2):
        each.operands.append((Location(0), _ANYTHING))  # the operator, part of the target's name
    node.calls, node.mutates = [v1, v2], tuple(mutates)
    return first
