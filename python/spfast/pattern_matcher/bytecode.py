"""What a Python function reads from outside its arguments, as its bytecode tells.

An attribute that is surely read off a value by name (`config.scale`) is reported by itself. A value
that is used in any other way is reported whole: then all of it may matter.
"""

from __future__ import annotations

import dis
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import CodeType
from typing import Any

__all__ = ["Read", "Scope", "reads_of"]


class Scope(Enum):
    """Where a name is looked up."""

    GLOBAL = "global"
    FREE = "free"  # a variable of an enclosing function
    RECEIVER = "receiver"  # the first parameter, which a bound method has from outside
    IMPORT = "import"


@dataclass(frozen=True)
class Read:
    """A value from outside, and the attributes that are read off it before it is used.

    Attributes:
        scope: Where the name is looked up.
        name: The variable; for an import the module, with a dot for each level that is relative.
        chain: Attribute names, in order.
    """

    scope: Scope
    name: str
    chain: tuple[str, ...] = ()


_ATTRIBUTES = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_GLOBALS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL"})
_SILENT = frozenset({"EXTENDED_ARG", "CACHE", "NOP", "RESUME"})


@functools.lru_cache(maxsize=4096)
def reads_of(code: CodeType) -> tuple[Read, ...]:
    """All values from outside that a function's code may read or rebind, nested functions included.

    Args:
        code: The code of a function.
    """
    scopes = dict.fromkeys(code.co_freevars, Scope.FREE)
    if code.co_argcount:
        scopes[code.co_varnames[0]] = Scope.RECEIVER
    return tuple(dict.fromkeys(_reads(code, scopes)))


def _reads(code: CodeType, scopes: Mapping[str, Scope]) -> Iterator[Read]:
    steps = [step for step in dis.get_instructions(code) if step.opname not in _SILENT]
    for i, step in enumerate(steps):
        if step.opname == "IMPORT_NAME":
            yield from _imported(steps, i)
            continue
        names = step.argval if isinstance(step.argval, tuple) else (step.argval,)
        for name in names:
            scope = Scope.GLOBAL if step.opname in _GLOBALS else _variable(code, step, name, scopes)
            if scope is not None:
                # One step may load several names. The next step reads an attribute of the last.
                yield Read(scope, name, _chain(steps, i) if name is names[-1] else ())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            # A nested function may take this function's own variables, or ones from further
            # outside.
            outer = {name: scopes[name] for name in constant.co_freevars if name in scopes}
            yield from _reads(constant, outer)


def _variable(
    code: CodeType, step: dis.Instruction, name: Any, scopes: Mapping[str, Scope]
) -> Scope | None:
    if not isinstance(name, str):
        return None
    # An access to the cell itself only hands it to a nested function, whose own code is looked at.
    cell = name in code.co_cellvars or name in code.co_freevars
    if "DEREF" in step.opname:
        return scopes.get(name)
    return scopes.get(name) if "FAST" in step.opname and not cell else None


def _chain(steps: list[dis.Instruction], at: int) -> tuple[str, ...]:
    if not steps[at].opname.startswith("LOAD"):
        return ()
    found = []
    for step in steps[at + 1 :]:
        if step.opname not in _ATTRIBUTES or step.is_jump_target:
            break
        found.append(step.argval)
    return tuple(found)


def _imported(steps: list[dis.Instruction], at: int) -> Iterator[Read]:
    level, taken = (step.argval for step in steps[at - 2 : at])
    name = "." * level + steps[at].argval
    if not taken:
        yield Read(Scope.IMPORT, name)
    for attribute in taken or ():
        yield Read(Scope.IMPORT, name, (attribute,))
