"""The symbolic values that a pattern function computes with, and the operators it calls.

Nothing here holds a tensor. A value knows which operation of which trace it is; an operator is a
name. Whatever would need to look into a value (its truth, its length, its shape) is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, NoReturn, Protocol

from spfast.errors import PatternError
from spfast.patterns.model import Literal, Operand, Role

__all__ = [
    "Buffer",
    "Captures",
    "Default",
    "OneOf",
    "Operator",
    "Rows",
    "Value",
    "call",
    "default",
    "last_dim",
    "literal",
    "one_of",
    "ops",
]


class Trace(Protocol):
    """What a value belongs to: one run of a pattern function."""

    def parameter(self, name: str, kind: type[Value]) -> Value:
        """The parameter of this name, captured now if it was not before."""

    def call(self, target: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Value:
        """Adds the call of an operator."""

    def item(self, operand: Operand, index: int | str) -> Value:
        """One of several results."""


class Value:
    """A value of a pattern; as an annotation, a parameter that is the same for every token.

    ``value[i]`` is one item of an operation with several results. For a functionalised operator
    ``value["name"]`` is what it wrote to its argument of that name.
    """

    __slots__ = ("_operand", "_trace")
    role: ClassVar[Role] = "replicated"

    def __init__(self, trace: Trace, operand: Operand) -> None:
        self._trace = trace
        self._operand = operand

    def __getitem__(self, index: int | str) -> Value:
        return self._trace.item(self._operand, index)

    @classmethod
    def __torch_function__(
        cls,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Value:
        if not hasattr(function, "_schema"):
            raise PatternError(f"{function} is no operator: call an overload from torch.ops or ops")
        return call(str(function), args, kwargs or {})

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise PatternError(
            f"it reads .{name} of a value, which is not known before a graph is seen: "
            f"capture it as a parameter"
        )

    __hash__ = object.__hash__


class Rows(Value):
    """Annotates a parameter that has one row a token, like a residual."""

    __slots__ = ()
    role = "rows"


class Buffer(Value):
    """Annotates a parameter that is an empty tensor which an operation fills."""

    __slots__ = ()
    role = "buffer"


class Captures:
    """Annotates a parameter that stands for any number of them, each captured at its first use.

    ``captured.weight`` is the same for every token, ``captured.rows("residual")`` has one row a
    token, ``captured.buffer("out")`` is an empty tensor that an operation fills. A function that
    writes only a part of a pattern takes captures, and names the parameters that this part needs.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def __getattr__(self, name: str) -> Value:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._trace.parameter(name, Value)

    def rows(self, name: str) -> Value:
        """The parameter of this name, one row a token."""
        return self._trace.parameter(name, Rows)

    def buffer(self, name: str) -> Value:
        """The parameter of this name, an empty tensor."""
        return self._trace.parameter(name, Buffer)


def _refuse(what: str) -> Any:
    def method(self: Value, *_: object) -> NoReturn:
        raise PatternError(
            f"it {what}, so it depends on data: a pattern only calls operators, "
            f"whatever their results are"
        )

    return method


def _refuse_arithmetic(symbol: str, operator: str) -> Any:
    def method(self: Value, *_: object) -> NoReturn:
        raise PatternError(f"it writes '{symbol}' on values: call ops.aten.{operator} instead")

    return method


_DATA_DEPENDENT = {
    "takes the truth of a value": ("__bool__",),
    "unpacks or loops over a value": ("__iter__", "__len__", "__contains__", "__reversed__"),
    "turns a value into a number": ("__int__", "__float__", "__index__", "__complex__"),
    "compares values": ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"),
}
_ARITHMETIC = {
    ("+", "add.Tensor(a, b)"): ("__add__", "__radd__"),
    ("-", "sub.Tensor(a, b)"): ("__sub__", "__rsub__"),
    ("*", "mul.Tensor(a, b)"): ("__mul__", "__rmul__"),
    ("/", "div.Tensor(a, b)"): ("__truediv__", "__rtruediv__"),
    ("**", "pow.Tensor_Scalar(a, n)"): ("__pow__", "__rpow__"),
    ("@", "mm.default(a, b)"): ("__matmul__", "__rmatmul__"),
    ("-", "neg.default(a)"): ("__neg__",),
}
for _what, _names in _DATA_DEPENDENT.items():
    for _name in _names:
        setattr(Value, _name, _refuse(_what))
for (_symbol, _operator), _names in _ARITHMETIC.items():
    for _name in _names:
        setattr(Value, _name, _refuse_arithmetic(_symbol, _operator))


class OneOf:
    """Literals of which a graph may hold any."""

    def __init__(self, literals: tuple[Any, ...]) -> None:
        self.literals = literals


class Default:
    """The default of an argument that a graph may leave out."""

    def __init__(self, value: Any) -> None:
        self.value = value


def one_of(*literals: Any) -> Any:
    """An argument that may be any of these constants.

    Example:
        >>> from spfast.patterns import describe, one_of, ops, trace
        >>> def pattern(x):
        ...     return ops.aten.softmax.int(x, one_of(1, -1))
        >>> print(describe(trace(pattern, "softmax")))
        def softmax(reduced):
            a = ops.aten.softmax.int(reduced, one_of(1, -1))
            return a
    """
    return OneOf(literals)


def default(value: Any) -> Any:
    """An argument that may be absent, or must be this constant.

    For the operators that ``spfast.patterns`` knows this is implied for every argument that the
    pattern leaves out.

    Example:
        >>> from spfast.patterns import default, describe, ops, trace
        >>> def pattern(x, weight):
        ...     return ops.mylib.norm(x, weight, default(1e-6))
        >>> print(describe(trace(pattern, "norm")))
        def norm(reduced, weight):
            a = ops.mylib.norm.default(reduced, weight, default(1e-06))
            return a
    """
    return Default(value)


class Operator:
    """An operator by its name; calling it adds an operation to the pattern."""

    def __init__(self, path: tuple[str, ...]) -> None:
        self._path = path

    def __getattr__(self, name: str) -> Operator:
        if name.startswith("__"):
            raise AttributeError(name)
        if len(self._path) == 3:
            raise PatternError(
                f"'{self}.{name}' is no operator's name: ops.NAMESPACE.NAME.OVERLOAD"
            )
        return Operator((*self._path, name))

    def __call__(self, /, *args: Any, **kwargs: Any) -> Value:
        """Adds the call to the pattern that its arguments belong to."""
        return call(str(self), args, kwargs)

    def __str__(self) -> str:
        if len(self._path) < 2:
            raise PatternError(f"'{'.'.join(('ops', *self._path))}' names no operator yet")
        return ".".join(self._path if len(self._path) == 3 else (*self._path, "default"))


ops = Operator(())
"""Every operator by its name: ``ops.aten.add.Tensor``, or ``ops.mylib.norm`` for its default."""


def call(target: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Value:
    """Adds an operation to the trace that its arguments belong to."""
    traces = {id(value._trace): value._trace for value in _values((args, tuple(kwargs.values())))}
    if not traces:
        raise PatternError(f"{target} reads no value of the pattern")
    if len(traces) > 1:
        raise PatternError(f"{target} reads values of two patterns")
    return next(iter(traces.values())).call(target, args, kwargs)


def _values(argument: Any) -> Iterator[Value]:
    if isinstance(argument, Value):
        yield argument
    elif isinstance(argument, list | tuple):
        for each in argument:
            yield from _values(each)


_TORCH_TAGS: dict[str, Any] = {
    "dtype": "dtype",
    "device": "device",
    "layout": "const",
    "memory_format": "const",
}


class _LastDim:
    def __repr__(self) -> str:
        return "last_dim"


last_dim: Any = _LastDim()
"""The last dim of the tensor that is reduced, written ``[-1]`` or as its positive number."""


def literal(value: Any) -> Literal:
    """A constant as the model holds it.

    Raises:
        PatternError: It is none that a pattern can hold.
    """
    if value is last_dim:
        return Literal("last_dim")
    if value is None:
        return Literal("none")
    if isinstance(value, bool):
        return Literal("bool", value)
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise PatternError(
                f"a number of {value.bit_length()} bits is no constant that a pattern can hold, "
                f"for it does not fit 64: capture it as a parameter"
            )
        return Literal("int", value)
    if isinstance(value, float):
        if value != value:
            raise PatternError(
                "nan is no constant that a pattern can hold, for it equals nothing: "
                "capture it as a parameter"
            )
        return Literal("float", value)
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise PatternError(
                f"{value!r} is no constant that a pattern can hold, for it is no text: "
                f"capture it as a parameter"
            )
        return Literal("string", value)
    if isinstance(value, list | tuple):
        return Literal("list", None, tuple(literal(each) for each in value))
    kind = type(value)
    if kind.__module__ == "torch" and kind.__name__ in _TORCH_TAGS:
        return Literal(_TORCH_TAGS[kind.__name__], str(value))
    raise PatternError(
        f"{value!r} is no constant that a pattern can hold: capture it as a parameter"
    )
