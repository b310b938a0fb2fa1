"""A registry's rules compiled for the core, and which operators they call an all_reduce."""

from __future__ import annotations

from typing import Any

from spfast import _core
from spfast.patterns import Registry
from spfast.patterns.per_registry import PerRegistry
from spfast.run.all_reduces import COALESCED, COALESCED_IN_PLACE, IN_PLACE, PLAIN, Forms

__all__ = ["compiled", "forms_of", "rules_of"]


def compiled(registry: Registry, *, quantised: bool) -> _core.Rules:
    """Compiles the rules of a registry, from their file where the registry has just these rules.

    Raises:
        PatternError: A pattern is not well formed.
    """
    chosen: list[Any]
    tables = None
    stored = registry.stored()
    if stored is not None:
        tables = stored.tables
        chosen = stored.rows(quantised=quantised)
    else:
        chosen = [each for each in registry.patterns() if quantised or not each.quantises]
    return _core.Rules(chosen, registry.families(), registry.rowwise(), quantised, tables)


class _Compiled:
    """What is kept of a registry as long as its rules do not change."""

    def __init__(self, registry: Registry) -> None:
        self._rules: dict[bool, _core.Rules] = {}
        self.forms = Forms(
            {
                name: form
                for family in registry.families()
                for name, form in (
                    (family.coalesced_in_place, COALESCED_IN_PLACE),
                    (family.coalesced, COALESCED),
                    (family.in_place, IN_PLACE),
                    (family.all_reduce, PLAIN),
                )
                if name is not None
            }
        )

    def rules(self, registry: Registry, quantised: bool) -> _core.Rules:
        """All rules, or those that neither end in a quantisation nor follow one."""
        if quantised not in self._rules:
            self._rules[quantised] = compiled(registry, quantised=quantised)
        return self._rules[quantised]


_of = PerRegistry(_Compiled)


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
    return _of(registry).rules(registry, quantised)


def forms_of(registry: Registry) -> Forms:
    """Returns which operators the registry's dialects call an all_reduce, in whichever form.

    Example:
        >>> import torch
        >>> from spfast.patterns import default_registry
        >>> forms_of(default_registry()).of(torch.ops._c10d_functional.all_reduce_.default)
        'in_place'
    """
    return _of(registry).forms
