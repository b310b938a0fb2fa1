"""The reduce_scatters and all_gathers of a registry's dialects, as the core reads their calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import fx

from spfast.fxgraph.graphs import targets_of
from spfast.fxgraph.targets import ByTarget, target_name
from spfast.patterns import Registry
from spfast.patterns.per_registry import PerRegistry

__all__ = ["CallForm", "Spelling", "spelling_of"]


class CallForm(NamedTuple):
    """How an operator is called.

    Attributes:
        operator: Its name.
        gathers: Whether it is an all_gather; otherwise it is a reduce_scatter.
        wait: The operator that waits for its result.
        slots: The role of each argument.
        names: The name of each argument.
    """

    operator: str
    gathers: bool
    wait: str | None
    slots: Sequence[str | int]
    names: list[str]


@dataclass(frozen=True)
class _Form:
    wait: str | None
    gathers: bool
    slots: Sequence[str | int]


class Spelling:
    """Knows the collectives of a registry's dialects.

    Args:
        registry: Says which there are.
    """

    def __init__(self, registry: Registry) -> None:
        forms: dict[str, _Form] = {}
        for family in registry.families():
            forms[family.reduce_scatter] = _Form(family.wait, False, family.reduce_scatter_args)
            forms[family.all_gather] = _Form(family.wait, True, family.all_gather_args)
        self._forms = ByTarget(forms)

    def forms(self, graph: fx.Graph) -> list[CallForm]:
        """The forms of those collectives that a graph calls."""
        found: list[CallForm] = []
        for target in targets_of(graph):
            form = self._forms.get(target)
            if form is not None:
                name = target_name(target)
                found.append(CallForm(name, form.gathers, form.wait, form.slots, _names(target)))
        return found

    def any(self, graph: fx.Graph) -> bool:
        """Whether a graph calls such a collective."""
        return any(self._forms.get(target) is not None for target in targets_of(graph))


def _names(target: Any) -> list[str]:
    if not isinstance(target, torch._ops.OpOverload):
        return []
    return [each.name for each in target._schema.arguments]


# The spelling of a registry's collectives.
spelling_of = PerRegistry(Spelling)
