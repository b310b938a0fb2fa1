"""Calls of operators: the place of each argument, and several calls made one operation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from spfast.errors import PatternError
from spfast.patterns.model import Fixed, Form, Literal, Location, Operand, Operation
from spfast.patterns.signatures import COMMUTATIVE, signature_of
from spfast.patterns.values import Default, OneOf, Value, literal

__all__ = ["NOTHING", "Call", "bind", "operation_of"]

# A pattern wants this in the place behind the last item of a list: a longer list does not match.
# The mark is None, for no item of a list can be None.
NOTHING = Literal("none")


@dataclass
class Call:
    """One way to write an operation: an operator, its operands, its other arguments."""

    target: str
    operands: list[tuple[Location, Operand]] = field(default_factory=list)
    fixed: list[Fixed] = field(default_factory=list)

    @property
    def commutes(self) -> bool:
        """Whether its first two operands are different and may be exchanged."""
        return (
            self.target in COMMUTATIVE
            and len(self.operands) >= 2
            and self.operands[0][1] != self.operands[1][1]
        )

    def exchanged(self) -> Call:
        """The same call with its first two operands the other way round."""
        (first, a), (second, b), *rest = self.operands
        return Call(self.target, [(second, a), (first, b), *rest], self.fixed)


def bind(target: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """The call of an operator, each argument in its place.

    Raises:
        PatternError: The operator is known and takes other arguments.
    """
    out = Call(target)
    signature = signature_of(target)
    if signature is None:
        for position, argument in enumerate(args):
            _place(out, Location(position), argument)
        for name, argument in kwargs.items():
            _place(out, Location(keyword=name), argument)
        return out
    named = dict(kwargs)
    positional = [each for each in signature if each.position >= 0]
    if len(args) > len(positional):
        raise PatternError(
            f"{target} takes {len(positional)} positional arguments, not {len(args)}"
        )
    for known, argument in zip(positional, args, strict=False):
        if known.name in named:
            raise PatternError(f"{target} is given its argument '{known.name}' twice")
        named[known.name] = argument
    unknown = named.keys() - {each.name for each in signature}
    if unknown:
        raise PatternError(f"{target} has no argument '{min(unknown)}'")
    for known in signature:
        where = Location(known.position, known.name)
        if known.name in named:
            _place(out, where, named[known.name])
        elif known.required:
            raise PatternError(f"{target} lacks its argument '{known.name}'")
        else:
            out.fixed.append(Fixed(where, literal(known.default)))
    return out


def _place(out: Call, where: Location, argument: Any) -> None:
    if isinstance(argument, Value):
        out.operands.append((where, argument._operand))
    elif isinstance(argument, Default):
        out.fixed.append(Fixed(where, literal(argument.value)))
    elif isinstance(argument, OneOf):
        literals = tuple(literal(each) for each in argument.literals)
        out.operands.append((where, Operand("literal", literals=literals)))
    elif isinstance(argument, list | tuple) and any(isinstance(each, Value) for each in argument):
        for i, each in enumerate(argument):
            _place(out, Location(where.position, where.keyword, i), each)
        # Without this a longer list would match too, with items that nothing checks.
        end = Location(where.position, where.keyword, len(argument))
        out.fixed.append(Fixed(end, NOTHING))
    else:
        out.operands.append((where, Operand("literal", literals=(literal(argument),))))


def operation_of(calls: list[Call]) -> Operation:
    """The operation that may be written as any of these calls.

    Raises:
        PatternError: They read different values.
    """
    operands = _shared_operands(calls)
    commutative = all(each.commutes and _same(each.operands[:2], operands[:2]) for each in calls)
    forms = []
    for each in calls:
        orders = [each, each.exchanged()] if each.commutes and not commutative else [each]
        forms += [_form(order, operands) for order in orders]
    return Operation(tuple(dict.fromkeys(forms)), tuple(operands), commutative)


def _same(placed: list[tuple[Location, Operand]], operands: list[Operand]) -> bool:
    found = [operand for _, operand in placed]
    return found == operands or found[::-1] == operands


def _shared_operands(calls: list[Call]) -> list[Operand]:
    """The operands that every call reads, each as often as in the call that reads it most often."""
    if len(calls) == 1:
        return [operand for _, operand in calls[0].operands]
    shared: list[Operand] = []
    for operand in dict.fromkeys(operand for each in calls for _, operand in each.operands):
        counts = [sum(found == operand for _, found in each.operands) for each in calls]
        if min(counts) > 0:
            shared += [operand] * max(counts)
        elif operand.kind != "literal":
            names = " and ".join(dict.fromkeys(each.target for each in calls))
            raise PatternError(f"either() of {names}: they read different values")
    return shared


def _form(one: Call, operands: list[Operand]) -> Form:
    places: dict[Operand, list[Location]] = {}
    for location, operand in one.operands:
        places.setdefault(operand, []).append(location)
    where = []
    for operand in operands:
        known = places[operand]
        # Another call reads this operand more often. Here its last place is checked once more.
        where.append(known.pop(0) if len(known) > 1 else known[0])
    fixed = list(one.fixed)
    for location, operand in one.operands:
        if operand in operands:
            continue
        if len(operand.literals) > 1 or operand.literals[0].tag == "last_dim":
            raise PatternError(
                f"either() of {one.target} and others: "
                f"one_of() and last_dim must stand in every alternative"
            )
        fixed.append(Fixed(location, operand.literals[0], required=True))
    return Form(one.target, tuple(where), tuple(fixed))
