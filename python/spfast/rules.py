"""A registry's rules compiled for the core, and the quick look whether a graph needs them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import fx

from spfast import _core
from spfast.patterns import Registry
from spfast.targets import find

__all__ = ["anchors_in", "compiled", "rules_of"]


# By convention the name of a rule that ends in a quantisation says to what.
_QUANTISED = ("_fp8", "_int8")


def _takes_part(rule: str, quantised: bool) -> bool:
    return quantised or not rule.endswith(_QUANTISED)


def compiled(registry: Registry, *, quantised: bool) -> _core.Rules:
    """Compiles the rules of a registry: from their file where all are as they are there.

    Raises:
        PatternError: A pattern is not well formed.
    """
    chosen: list[Any]
    tables = None
    stored = registry.stored()
    if stored is not None:
        tables = stored.tables
        chosen = stored.rows(lambda rule: _takes_part(rule, quantised))
    else:
        chosen = [each for each in registry.patterns() if _takes_part(each.rule, quantised)]
    return _core.Rules(chosen, registry.families(), registry.rowwise(), quantised, tables)


class _Compiled:
    """What is kept of a registry as long as its rules do not change."""

    def __init__(self, registry: Registry) -> None:
        self.version = registry.version
        self._registry = registry
        self._rules: dict[bool, _core.Rules] = {}
        self.all_reduces = {family.all_reduce: None for family in registry.families()}
        self.operators: dict[str, Callable[..., Any]] = {}

    def rules(self, quantised: bool) -> _core.Rules:
        """All rules, or those that neither end in a quantisation nor follow one."""
        if quantised not in self._rules:
            self._rules[quantised] = compiled(self._registry, quantised=quantised)
        return self._rules[quantised]

    def known_operators(self) -> list[Callable[..., Any]]:
        """The all_reduce operators that exist by now; others may be registered later."""
        if len(self.operators) < len(self.all_reduces):
            for name in self.all_reduces:
                operator = None if name in self.operators else find(name)
                if operator is not None:
                    self.operators[name] = operator
        return list(self.operators.values())


_compiled: weakref.WeakKeyDictionary[Registry, _Compiled] = weakref.WeakKeyDictionary()


def _of(registry: Registry) -> _Compiled:
    found = _compiled.get(registry)
    if found is None or found.version != registry.version:
        found = _compiled[registry] = _Compiled(registry)
    return found


def rules_of(registry: Registry, *, quantised: bool = True) -> _core.Rules:
    """Returns the compiled rules of a registry; compiled anew only when they changed.

    Args:
        registry: The registry.
        quantised: Whether rules that end in a quantisation take part, and operators that make a
            quantised value are followed.

    Raises:
        PatternError: A pattern is not well formed.

    Example:
        >>> from spfast.patterns import default_registry
        >>> len(rules_of(default_registry())) >= 4
        True
    """
    return _of(registry).rules(quantised)


def anchors_in(graph: fx.Graph, registry: Registry) -> bool:
    """Says whether the graph has any all_reduce that a rule may start from.

    One look-up an operator, whatever the size of the graph.
    """
    return any(
        graph.find_nodes(op="call_function", target=operator, sort=False)
        for operator in _of(registry).known_operators()
    )
