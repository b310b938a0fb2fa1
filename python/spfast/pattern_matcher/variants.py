"""The traces of a registered pattern, one for each distinct metadata of its arguments.

Identical layers of a graph share a trace, and so do graphs that are alike: within a graph a key
names the graph's symbols, across graphs they are renamed (`keys.canonicalise`).
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch._inductor.pattern_matcher as stock
from torch._dynamo.utils import counters

from spfast.pattern_matcher.keys import (
    env_state,
    quick_key,
)
from spfast.pattern_matcher.search import Search
from spfast.pattern_matcher.session import Session, Situation
from spfast.pattern_matcher.template import Template, build_template
from spfast.pattern_matcher.trace import ReplacementSpec, trace_replacement, trace_search
from spfast.pattern_matcher.vals import Unshareable

__all__ = ["Bound", "Variants"]

# How many traces a pattern keeps; the oldest go first.
_MOST = 512

log = logging.getLogger("spfast")


@dataclass
class Variant:
    """One traced search, and the traced replacement once a match was accepted.

    Attributes:
        search: The exact pattern.
        template: The replacement; None until it is needed.
        refusal: Why there is no template: torch's entry serves such matches.
        counted: What tracing the replacement added to Inductor's counters: Inductor's own
            replacement functions count their matches so.
    """

    search: Search
    template: Template | None = None
    refusal: str | None = None
    counted: dict[str, int] = field(default_factory=dict)


class Bound:
    """A variant together with the graph in which it is used."""

    def __init__(self, spec: ReplacementSpec, variant: Variant, situation: Situation) -> None:
        self.search = variant.search
        self.builder = situation.builder
        self._spec = spec
        self._variant = variant
        self._situation = situation

    def template(self, leaves: Sequence[Any]) -> Template | None:
        """The replacement, traced now if this is the first accepted match; None: let torch do it.

        Raises:
            Whatever the user's replacement function raises.
        """
        variant = self._variant
        if variant.template is not None:
            counters[stock.backend].update(variant.counted)
        elif variant.refusal is None:
            before = env_state(self._situation.env)
            counted = dict(counters[stock.backend])
            traced = self.traced(leaves)
            variant.counted = {
                name: count - counted.get(name, 0)
                for name, count in counters[stock.backend].items()
                if count != counted.get(name, 0)
            }
            try:
                if env_state(self._situation.env) != before:
                    raise Unshareable("tracing the replacement added guards")
                mutates = any(stock.is_mutation_op(node) for node in traced.graph.nodes)
                variant.template = build_template(
                    traced, self._situation.known.to_canonical, mutates
                )
            except Unshareable as reason:
                variant.refusal = str(reason)
                counters[stock.backend].subtract(variant.counted)  # it is traced again
                log.info("pattern %s: torch replaces each match: %s", self._spec.name, reason)
        return variant.template

    def traced(self, leaves: Sequence[Any]) -> torch.fx.GraphModule:
        """The replacement traced for one match.

        Raises:
            Whatever the user's replacement function raises.
        """
        with self.builder.mode:
            return trace_replacement(self._spec, values_of(leaves))


def values_of(leaves: Sequence[Any]) -> list[Any]:
    """The meta values of nodes; other leaves are their own value."""
    return [_value_of(leaf) if isinstance(leaf, torch.fx.Node) else leaf for leaf in leaves]


def _value_of(node: torch.fx.Node) -> Any:
    meta = node.meta
    return meta["val"] if "val" in meta else meta["example_value"]


class Variants:
    """All traces of one registered pattern.

    Attributes:
        traced: How many searches were traced.
        reused: How many matches were checked by a trace that was there.
        by_torch: How many matches torch's entry had to check.
        reasons: Why, with counts.
    """

    def __init__(self, spec: ReplacementSpec) -> None:
        self.spec = spec
        self.traced = 0
        self.reused = 0
        self.by_torch = 0
        self.reasons: dict[str, int] = {}
        self._shared: dict[Hashable, Variant] = {}

    def find(self, leaves: Sequence[Any], session: Session) -> Bound | None:
        """The trace for a match's arguments; None if only torch's entry can check them."""
        try:
            values = values_of(leaves)
            quick = quick_key(values)
            local = (id(self), quick, session.state())
            if quick is not None and local in session.bounds:
                self.reused += 1
                known: Bound = session.bounds[local]
                return known
            situation = session.situation(values, quick)
        except (KeyError, Unshareable) as reason:
            self.count(str(reason))
            return None
        state = session.state()
        found = Bound(self.spec, self._variant(values, situation), situation)
        if quick is not None and session.state() == state:
            session.bounds[(id(self), quick, state)] = found
        return found

    def count(self, reason: str) -> None:
        """Notes why a match was not served from the cache."""
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def _variant(self, values: Sequence[Any], situation: Situation) -> Variant:
        shared = situation.shared
        found = self._shared.get(shared) if shared is not None else None
        if found is not None:
            self.reused += 1
            return found
        before = env_state(situation.env)
        with situation.builder.mode:
            found = Variant(Search(trace_search(self.spec, values)))
        self.traced += 1
        unchanged = env_state(situation.env) == before
        if shared is not None and unchanged and not found.search.symbolic:
            if len(self._shared) >= _MOST:
                del self._shared[next(iter(self._shared))]
            self._shared[shared] = found
        return found

    def describe(self) -> str:
        """One line of counts."""
        text = f"{self.traced} traced, {self.reused} reused, {self.by_torch} checked by torch"
        reasons = [f"{reason} ({count})" for reason, count in sorted(self.reasons.items())]
        reasons += sorted({v.refusal for v in self._shared.values() if v.refusal})
        return f"{text}: {'; '.join(reasons)}" if reasons else text
