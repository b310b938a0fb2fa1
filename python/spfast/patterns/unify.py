"""The variants of one rule have the same parameters, in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spfast.errors import PatternError

if TYPE_CHECKING:
    from spfast.patterns.model import Operation, Parameter, Pattern

__all__ = ["unify"]


def unify(patterns: Sequence[Pattern]) -> list[Pattern]:
    """The variants of one rule, each with the parameters of all."""
    parameters: dict[str, Parameter] = {}
    for pattern in patterns:
        if pattern.priority != patterns[0].priority:
            raise PatternError(
                f"rule '{pattern.rule}' has priority {patterns[0].priority} in one variant "
                f"and {pattern.priority} in another: give all the same"
            )
        if pattern.quantises != patterns[0].quantises:
            raise PatternError(
                f"rule '{pattern.rule}' quantises in one variant and not in another: "
                f"give all the same"
            )
        for parameter in pattern.parameters:
            known = parameters.setdefault(parameter.name, parameter)
            if known != parameter:
                raise PatternError(
                    f"rule '{pattern.rule}' has a parameter '{parameter.name}' that is "
                    f"{known.role} in one variant and {parameter.role} in another"
                )
    from spfast.patterns.model import Pattern

    everything = tuple(parameters.values())
    number = {name: i for i, name in enumerate(parameters)}
    mover = _Mover(len(everything))
    return [
        Pattern(
            each.rule,
            each.priority,
            mover.moved(each.operations, [number[one.name] for one in each.parameters]),
            everything,
            each.quantises,
        )
        for each in patterns
    ]


class _Mover:
    """Renumbers the parameters that operations read.

    Stored patterns share nearly all of their operations. A shared operation is renumbered once, and
    the patterns share the result.
    """

    def __init__(self, parameters: int) -> None:
        from spfast.patterns.model import Operand, Operation

        self._make = Operation
        self._operands = [Operand("parameter", i) for i in range(parameters)]
        self._reads: dict[int, tuple[int, ...]] = {}  # parameters of an operation, by its id
        self._moved: dict[tuple[int, tuple[int, ...]], Operation] = {}

    def moved(self, operations: tuple[Operation, ...], place: list[int]) -> tuple[Operation, ...]:
        """The operations with parameter ``i`` at ``place[i]``."""
        return tuple([self._operation(each, place) for each in operations])

    def _operation(self, each: Operation, place: list[int]) -> Operation:
        reads = self._reads.get(id(each))
        if reads is None:
            reads = tuple([one.index for one in each.operands if one.kind == "parameter"])
            self._reads[id(each)] = reads
        if not reads:
            return each
        key = id(each), tuple([place[index] for index in reads])
        known = self._moved.get(key)
        if known is None:
            operands = tuple(
                self._operands[place[one.index]] if one.kind == "parameter" else one
                for one in each.operands
            )
            known = self._moved[key] = self._make(each.forms, operands, each.commutative)
        return known
