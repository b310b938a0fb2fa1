"""Pattern functions, traced: a plain function of symbolic values becomes a Pattern.

No tensor is made and no operator needs to exist. The first parameter stands for the value that an
all_reduce yields; the others are what a match captures.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from spfast.errors import PatternError
from spfast.patterns.building import GETITEM, Trace
from spfast.patterns.calls import Call, operation_of
from spfast.patterns.model import Operand, Operation, Pattern
from spfast.patterns.values import Buffer, Captures, Rows, Value

__all__ = ["trace", "trace_variants"]


def trace(
    function: Callable[..., Any],
    rule: str,
    priority: int = 0,
    choices: Mapping[str, Any] | None = None,
    quantises: bool = False,
) -> Pattern:
    """Traces a pattern function.

    Args:
        function: takes the reduced value, then what a match captures; returns the values that a
            rewrite keeps, one or a tuple. Its parameters may be annotated with
            :class:`~spfast.patterns.Rows` or :class:`~spfast.patterns.Buffer`.
        rule: name of the rule.
        priority: at one all_reduce the rule of highest priority wins.
        choices: arguments for the function's keyword-only parameters.
        quantises: whether the rule ends in a quantisation.

    Returns:
        The pattern, with the parameters that it uses.

    Raises:
        PatternError: The function does not describe a pattern; the message names it and says why.

    Example:
        >>> from spfast.patterns import Rows, ops, trace
        >>> def add(x, residual: Rows):
        ...     return ops.aten.add.Tensor(x, residual)
        >>> trace(add, "add").parameters
        (Parameter(name='residual', role='rows'),)
    """
    try:
        traced = _trace(function, rule, priority, choices or {})
        return replace(traced, quantises=quantises)
    except PatternError as error:
        raise PatternError(f"pattern '{rule}': {error}") from error.__cause__
    except Exception as error:
        raise PatternError(
            f"pattern '{rule}': its function raised {type(error).__name__}: {error}"
        ) from error


def trace_variants(
    function: Callable[..., Any],
    rule: str,
    priority: int = 0,
    variants: Mapping[str, Sequence[Any]] | None = None,
    quantises: bool = False,
) -> tuple[Pattern, ...]:
    """Traces a pattern function once for each combination of its keyword-only parameters.

    Raises:
        PatternError: As :func:`trace`; or no variant uses one of the parameters.
    """
    names = list(variants or {})
    patterns = []
    for chosen in itertools.product(*(variants or {}).values()):
        choices = dict(zip(names, chosen, strict=True))
        pattern = trace(function, rule, priority, choices, quantises)
        if pattern not in patterns:
            patterns.append(pattern)
    used = {parameter.name for pattern in patterns for parameter in pattern.parameters}
    for parameter in _positional(function)[1:]:
        if parameter.name not in used and _kind(parameter.annotation) is not Captures:
            raise PatternError(
                f"pattern '{rule}': its parameter '{parameter.name}' is never used: remove it"
            )
    return tuple(patterns)


def _positional(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The reduced value, then what a match captures."""
    positional = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise PatternError(f"its parameter '{parameter}' takes any number: name each")
        if parameter.kind is parameter.KEYWORD_ONLY:
            continue
        if parameter.default is not parameter.empty:
            raise PatternError(f"its parameter '{parameter.name}' has a default: remove it")
        positional.append(parameter)
    if not positional:
        raise PatternError("it takes no parameter: the first stands for the reduced value")
    return positional


def _kind(annotation: Any) -> type[Value] | type[Captures]:
    name = annotation.rpartition(".")[2] if isinstance(annotation, str) else None
    for kind in (Rows, Buffer, Captures):
        if annotation is kind or name == kind.__name__:
            return kind
    return Value


def _trace(
    function: Callable[..., Any], rule: str, priority: int, choices: Mapping[str, Any]
) -> Pattern:
    out = Trace()
    arguments: list[Any] = [Value(out, Operand("operation", 0))]
    for parameter in _positional(function)[1:]:
        kind = _kind(parameter.annotation)
        if issubclass(kind, Captures):
            arguments.append(Captures(out))
        else:
            arguments.append(out.parameter(parameter.name, kind))
    result = function(*arguments, **choices)
    returned = result if isinstance(result, list | tuple) else (result,)
    if not returned or not all(isinstance(each, Value) for each in returned):
        raise PatternError("it returns no value: return what a rewrite keeps, one or a tuple")
    kept = {each._operand.index for each in returned if each._operand.kind == "operation"}
    if any(out.nodes[index].absorbed for index in kept):
        raise PatternError(
            "it returns an alternative of an either(): return the result of either()"
        )
    return _finish(out, kept, rule, priority)


def _finish(out: Trace, kept: set[int], rule: str, priority: int) -> Pattern:
    """Numbers what is left of the operations and parameters."""
    number = {0: 0}
    for index, node in enumerate(out.nodes[1:], start=1):
        if node.absorbed:
            continue
        target = node.calls[0].target
        if not node.read:
            if index not in kept:
                raise PatternError(f"it calls {target} and never uses the result")
            if target == GETITEM:
                continue  # a result that graphs may or may not take out
        number[index] = len(number)
    if len(number) == 1:
        raise PatternError("it calls no operator")
    read = {
        operand.index
        for index in number
        for each in out.nodes[index].calls
        for _, operand in each.operands
        if operand.kind == "parameter"
    }
    captured = [i for i in range(len(out.parameters)) if i in read]
    new_index = {"operation": number, "parameter": {i: at for at, i in enumerate(captured)}}

    def moved(operand: Operand) -> Operand:
        if operand.kind not in new_index:
            return operand
        return Operand(operand.kind, new_index[operand.kind][operand.index])

    operations = [Operation()]
    for index in list(number)[1:]:
        calls = [
            Call(each.target, [(at, moved(operand)) for at, operand in each.operands], each.fixed)
            for each in out.nodes[index].calls
        ]
        operations.append(operation_of(calls))
    parameters = list(out.parameters.values())
    return Pattern(rule, priority, tuple(operations), tuple(parameters[i] for i in captured))
