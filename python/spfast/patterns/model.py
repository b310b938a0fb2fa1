"""A pattern as data: what tracing makes of a pattern function, and what the core compiles.

The classes mirror ``cpp/pattern/pattern.h`` one to one. They are frozen and made of strings,
numbers and tuples alone, so that patterns can be compared, hashed, printed and, through their
``repr``, digested.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal as Choice

__all__ = [
    "Fixed",
    "Form",
    "Literal",
    "Location",
    "Operand",
    "Operation",
    "Parameter",
    "Pattern",
    "Role",
]

Tag = Choice[
    "none", "bool", "int", "float", "string", "dtype", "device", "const", "list", "last_dim"
]
Role = Choice["replicated", "rows", "buffer"]


@dataclass(frozen=True)
class Literal:
    """A constant that a graph must hold where the pattern holds it.

    Numbers compare by value, a list equals a tuple of the same items, and ``last_dim`` is the last
    dim of the tensor that is reduced, written ``[-1]`` or as its positive number.

    Attributes:
        tag: what kind of constant.
        value: the constant itself; the name of a dtype, device, layout or memory format; ``None``
            for a list.
        items: of a list.
    """

    tag: Tag
    value: bool | int | float | str | None = None
    items: tuple[Literal, ...] = ()


@dataclass(frozen=True)
class Location:
    """Where in an operator's arguments something stands.

    Attributes:
        position: among the positional arguments; -1: never there.
        keyword: its name as a keyword argument; empty: never there.
        item: index into the list that stands there; -1: the argument itself.
    """

    position: int = -1
    keyword: str = ""
    item: int = -1


@dataclass(frozen=True)
class Fixed:
    """An argument that is no operand: it equals a literal, or is absent where it may be."""

    where: Location
    literal: Literal
    required: bool = False


@dataclass(frozen=True)
class Form:
    """One operator that may stand for an operation, and where it keeps the operands."""

    target: str
    where: tuple[Location, ...]
    fixed: tuple[Fixed, ...] = ()


@dataclass(frozen=True)
class Operand:
    """What an operation reads.

    Attributes:
        kind: the result of another operation, a parameter, any of some literals, or anything.
        index: the number of the operation or parameter.
        literals: the literals of which a graph may hold any.
    """

    kind: Choice["operation", "parameter", "literal", "ignored"]
    index: int = 0
    literals: tuple[Literal, ...] = ()


@dataclass(frozen=True)
class Operation:
    """One node of a pattern; the first of a pattern is the reduced value and has no forms.

    Attributes:
        forms: the operators that may stand for it.
        operands: what it reads.
        commutative: whether its first two operands may stand in either order.
    """

    forms: tuple[Form, ...] = ()
    operands: tuple[Operand, ...] = ()
    commutative: bool = False


@dataclass(frozen=True)
class Parameter:
    """A value that the pattern takes from outside.

    Attributes:
        name: as in the pattern function.
        role: the same for every token (a weight, an epsilon, a scale), one row a token (a
            residual), or an empty tensor that an operation fills.
    """

    name: str
    role: Role = "replicated"


@dataclass(frozen=True)
class Pattern:
    """One variant of a rule.

    Attributes:
        rule: name of the rule; all its variants have the same parameters and priority.
        priority: at one all_reduce the rule of highest priority wins, then the longest variant.
        operations: in an order in which operands come first; the reduced value is the first.
        parameters: what a match captures.
        quantises: whether the rule ends in a quantisation, which ``gather_quantized=False`` leaves
            outside the sites; which rules take part is chosen before the core sees them.
    """

    rule: str
    priority: int
    operations: tuple[Operation, ...]
    parameters: tuple[Parameter, ...]
    quantises: bool = False
