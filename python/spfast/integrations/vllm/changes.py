"""One change to vLLM: its place, what it needs to find there, and the wrapper that it puts there.

A change wraps one function. It is made once, when vLLM imports the module, and only where the
function takes the parameters that the wrapper counts on. Else it is refused, and everything that
depends on it stays off (:func:`refusals`).
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from spfast.integrations.vllm.imports import when_imported

__all__ = ["Change", "is_made", "make", "missing", "refusals"]

logger = logging.getLogger("vllm.spfast")

_MARK = "__spfast_change__"
_made: set[tuple[str, str]] = set()
_refused: dict[tuple[str, str], str] = {}


@dataclass(frozen=True)
class Change:
    """A wrapper around one function of vLLM.

    Attributes:
        module: The module that defines it.
        name: Its qualified name there: ``"function"`` or ``"Class.method"``.
        parameters: The first parameters that it must take, in this order.
        wrap: Makes the wrapper of the original.
        purpose: What the wrapper is for, in a few words.
        optional: Whether everything else works without it, where vLLM has no such function.
    """

    module: str
    name: str
    parameters: tuple[str, ...]
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
    purpose: str
    optional: bool = False

    @property
    def place(self) -> str:
        """Where the change is made, as Python would name it."""
        return f"{self.module}.{self.name}"

    @property
    def _key(self) -> tuple[str, str]:
        return self.module, self.name


def make(change: Change) -> None:
    """Makes ``change`` as soon as its module is imported; a second call changes nothing."""
    if change._key not in _made:
        when_imported(change.module, lambda module: _apply(change, module))


def is_made(module: str, name: str) -> bool:
    """Says whether this process runs with the change at ``module.name``."""
    return (module, name) in _made


def refusals() -> tuple[str, ...]:
    """What this process could not change, one sentence each."""
    return tuple(_refused.values())


def _apply(change: Change, module: ModuleType) -> None:
    owner: Any = module
    *path, last = change.name.split(".")
    for name in path:
        owner = getattr(owner, name, None)
    original = vars(owner).get(last) if owner is not None else None
    if getattr(original, _MARK, False):
        _made.add(change._key)
        return
    problem = _problem(change, _live_parameters(original))
    if problem:
        if not change.optional:
            _refused[change._key] = problem
        logger.debug("spfast: %s", problem)
        return
    assert original is not None
    wrapper = functools.wraps(original)(change.wrap(original))
    setattr(wrapper, _MARK, True)
    setattr(owner, last, wrapper)
    if owner is module:
        _rebind(original, wrapper, last)
    _made.add(change._key)


def _rebind(original: object, wrapper: object, name: str) -> None:
    """Puts the wrapper also into modules that imported the function by name before."""
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("vllm.") and vars(module).get(name) is original:
            setattr(module, name, wrapper)


def _live_parameters(function: object) -> list[str] | None:
    if not inspect.isfunction(function):
        return None
    return list(inspect.signature(function).parameters)


def _problem(change: Change, found: list[str] | None) -> str:
    expected = ", ".join(change.parameters)
    if found is None:
        return f"{change.place} is not there: expected a function of ({expected})"
    if tuple(found[: len(change.parameters)]) != change.parameters:
        return f"{change.place} takes ({', '.join(found)}): expected ({expected}, ...)"
    return ""


def is_absent(change: Change) -> bool:
    """Whether this vLLM has no such function, and need not; its module is read, not run."""
    return change.optional and bool(_problem(change, _written(change)))


def missing(change: Change) -> str:
    """Why ``change`` could not be made; empty where it could. The module is read, not run.

    The process that only makes the config never imports what the workers run.
    """
    if change.optional:
        return ""  # whoever depends on it asks whether it is made
    if _source(change) is None:
        return (
            f"{change.module} is not there: expected {change.name}({', '.join(change.parameters)})"
        )
    return _problem(change, _written(change))


def _source(change: Change) -> Path | None:
    try:
        spec = importlib.util.find_spec(change.module)
    except ModuleNotFoundError:
        return None
    return None if spec is None or spec.origin is None else Path(spec.origin)


def _written(change: Change) -> list[str] | None:
    path = _source(change)
    return None if path is None else _written_parameters(path, change.name)


def _written_parameters(path: Path, name: str) -> list[str] | None:
    body: list[ast.stmt] = _parsed(path).body
    found: ast.stmt | None = None
    for part in name.split("."):
        found = next(
            (
                node
                for node in body
                if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == part
            ),
            None,
        )
        body = found.body if isinstance(found, ast.ClassDef) else []
    if not isinstance(found, ast.FunctionDef):
        return None
    arguments = found.args
    return [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


@functools.lru_cache(maxsize=8)
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
