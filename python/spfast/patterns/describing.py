"""A pattern written back as Python: a pattern function that traces to the same pattern."""

from __future__ import annotations

from spfast.patterns.model import Fixed, Form, Literal, Operand, Operation, Pattern
from spfast.patterns.signatures import signature_of

__all__ = ["describe"]

_V1 = "higher_order.auto_functionalized["
_V2 = "higher_order.auto_functionalized_v2["
_GETITEM = "_operator.getitem"
_ROLES = {"replicated": "", "rows": ": Rows", "buffer": ": Buffer"}


def describe(pattern: Pattern) -> str:
    """Returns the pattern as the source of a pattern function.

    Where an operation may be written in several ways, ``either`` lists them.

    Example:
        >>> from spfast.patterns import Rows, describe, ops, trace
        >>> def add(x, residual: Rows):
        ...     return ops.aten.add.Tensor(x, residual)
        >>> print(describe(trace(add, "add")))
        def add(reduced, residual: Rows):
            a = ops.aten.add.Tensor(reduced, residual)
            return a
    """
    return "\n".join(_Writer(pattern).lines())


class _Writer:
    def __init__(self, pattern: Pattern) -> None:
        self.pattern = pattern
        taken = {parameter.name for parameter in pattern.parameters}
        self.names = ["reduced"]
        while len(self.names) < len(pattern.operations):
            name = _name(len(self.names) - 1)
            self.names.append(f"{name}_" if name in taken else name)

    def lines(self) -> list[str]:
        pattern = self.pattern
        signature = ["reduced", *(each.name + _ROLES[each.role] for each in pattern.parameters)]
        lines = [f"def {pattern.rule}({', '.join(signature)}):"]
        read = set()
        for name, operation in list(zip(self.names, pattern.operations, strict=True))[1:]:
            read |= {each.index for each in operation.operands if each.kind == "operation"}
            lines.append(f"    {name} = {self.operation(operation)}")
        returned = [name for i, name in enumerate(self.names) if i > 0 and i not in read]
        return [*lines, f"    return {', '.join(returned)}"]

    def operation(self, operation: Operation) -> str:
        first = operation.forms[0].target
        if first.startswith(_V1):
            return self.functionalized(operation)
        if first == _GETITEM:
            value, index = map(self.operand, operation.operands)
            return f"{value}[{index}]"
        forms = [self.form(form, operation) for form in operation.forms]
        # Tracing itself adds the other operand order of a commutative operator.
        forms = [each for i, each in enumerate(forms) if not self.is_exchanged(operation, i)]
        return forms[0] if len(forms) == 1 else f"either({', '.join(forms)})"

    @staticmethod
    def is_exchanged(operation: Operation, index: int) -> bool:
        form = operation.forms[index]
        if index == 0 or len(form.where) < 2:
            return False
        first, second, *rest = form.where
        before = operation.forms[index - 1]
        return before == Form(form.target, (second, first, *rest), form.fixed)

    def form(self, form: Form, operation: Operation) -> str:
        """One call, its arguments in the operator's order."""
        arguments: dict[tuple[int, str], str] = {}
        lists: dict[tuple[int, str], dict[int, str]] = {}
        for where, operand in zip(form.where, operation.operands, strict=True):
            key = (where.position, where.keyword)
            if where.item < 0:
                arguments[key] = self.operand(operand)
            else:
                lists.setdefault(key, {})[where.item] = self.operand(operand)
        for key, items in lists.items():
            arguments[key] = f"[{', '.join(items[i] for i in sorted(items))}]"
        for fixed in form.fixed:
            key = (fixed.where.position, fixed.where.keyword)
            if fixed.where.item < 0 and not self.is_implied(form, fixed):
                text = _literal(fixed.literal)
                arguments[key] = text if fixed.required else f"default({text})"
        known = signature_of(form.target)
        keyword_only = {each.name for each in known or () if each.position < 0}
        texts, positional = [], True
        for i, (position, keyword) in enumerate(sorted(arguments, key=_order)):
            text = arguments[position, keyword]
            positional = positional and position == i and keyword not in keyword_only
            texts.append(text if positional else f"{keyword}={text}")
        return f"ops.{form.target}({', '.join(texts)})"

    @staticmethod
    def is_implied(form: Form, fixed: Fixed) -> bool:
        """Whether tracing adds this by itself, for an argument that is left out."""
        known = signature_of(form.target) or ()
        named = (each for each in known if each.name == fixed.where.keyword)
        return not fixed.required and any(not each.required for each in named)

    def functionalized(self, operation: Operation) -> str:
        v1, v2 = operation.forms
        places = list(zip(v1.where, v2.where, operation.operands, strict=True))
        bases = {b.item: a.keyword for a, b, _ in places if b.keyword == "_all_bases"}
        mutates = ", ".join(f'"{bases[i]}"' for i in sorted(bases))
        arguments = [
            f"{a.keyword}={self.operand(operand)}" for a, _, operand in places if a.keyword
        ]
        arguments += [
            f"{each.where.keyword}=default({_literal(each.literal)})" for each in v1.fixed
        ]
        operator = v1.target.removeprefix(_V1).removesuffix("]")
        return f"functionalized(ops.{operator}, [{mutates}], {', '.join(arguments)})"

    def operand(self, operand: Operand) -> str:
        if operand.kind == "operation":
            return self.names[operand.index]
        if operand.kind == "parameter":
            return self.pattern.parameters[operand.index].name
        texts = [_literal(each) for each in operand.literals]
        return texts[0] if len(texts) == 1 else f"one_of({', '.join(texts)})"


def _order(key: tuple[int, str]) -> tuple[bool, int]:
    return (key[0] < 0, key[0])


def _name(index: int) -> str:
    """A, b, ..., z, a1, b1, ... ."""
    letter = chr(ord("a") + index % 26)
    return letter if index < 26 else f"{letter}{index // 26}"


def _literal(literal: Literal) -> str:
    if literal.tag == "last_dim":
        return "last_dim"
    if literal.tag == "list":
        return f"[{', '.join(map(_literal, literal.items))}]"
    if literal.tag == "device":
        return f"torch.device({literal.value!r})"
    if literal.tag in ("dtype", "const"):
        return str(literal.value)
    return repr(literal.value)
