"""The traces of a registered pattern, one for each distinct metadata of its arguments.

Identical layers of a graph share a trace, and so do graphs that are alike. Within a graph a key
names the graph's symbols. Across graphs the symbols are renamed (`keys.canonicalise`).
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch._inductor.pattern_matcher as stock
from torch._dynamo.utils import counters

from spfast.pattern_matcher.keys import env_state, quick_key
from spfast.pattern_matcher.proof import Proof
from spfast.pattern_matcher.search import Search
from spfast.pattern_matcher.session import Session, Situation
from spfast.pattern_matcher.splice import BACKEND, REPLACES_AS_KNOWN
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
        edition: The edition of the replacement's proof when the template was made.
        refusal: Why there is no template, and the replacement is traced for each match; or None.
        counted: What tracing the replacement added to Inductor's counters. Inductor's own
            replacement functions count their matches in this way.
    """

    search: Search
    template: Template | None = None
    edition: int = -1
    refusal: str | None = None
    counted: dict[str, int] = field(default_factory=dict)


class Bound:
    """A variant together with the graph in which it is used."""

    def __init__(
        self, spec: ReplacementSpec, variant: Variant, situation: Situation, proof: Proof
    ) -> None:
        self.search = variant.search
        self.builder = situation.builder
        self._spec = spec
        self._variant = variant
        self._situation = situation
        self._proof = proof

    def replacement(
        self, leaves: Sequence[Any], session: Session
    ) -> Template | torch.fx.GraphModule:
        """The replacement: a template, or a trace that is good for the match at hand alone.

        Raises:
            Whatever the user's replacement function raises.
        """
        variant = self._variant
        proved = not session.refusal() and self._proof.holds(session.moment)
        if not proved or not REPLACES_AS_KNOWN:
            return self._traced(leaves, session)
        if variant.edition == self._proof.edition:
            if variant.template is not None:
                counters[BACKEND].update(variant.counted)
                return variant.template
            if variant.refusal is not None:
                return self._traced(leaves, session)
        before = env_state(self._situation.env)
        counted = dict(counters[BACKEND])
        traced = self._traced(leaves, session)
        if not self._proof.holds(session.moment):
            return traced
        variant.edition = self._proof.edition
        variant.template = variant.refusal = None
        variant.counted = {
            name: count - counted.get(name, 0)
            for name, count in counters[BACKEND].items()
            if count != counted.get(name, 0)
        }
        try:
            if env_state(self._situation.env) != before:
                raise Unshareable("tracing the replacement added guards")
            mutates = any(stock.is_mutation_op(node) for node in traced.graph.nodes)
            variant.template = build_template(traced, self._situation.known.to_canonical, mutates)
        except Unshareable as reason:
            variant.refusal = str(reason)
            log.info("pattern %s: traced for each match: %s", self._spec.name, reason)
            return traced
        return variant.template

    def _traced(self, leaves: Sequence[Any], session: Session) -> torch.fx.GraphModule:
        try:
            with self.builder.mode:
                return trace_replacement(self._spec, values_of(leaves))
        finally:
            session.touch()
            self._proof.traced()


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
        by_torch: How many matches torch's entry had to check or to trace the replacement for.
        reasons: Why torch's entry had to, with counts.
    """

    def __init__(self, spec: ReplacementSpec) -> None:
        self.spec = spec
        self.traced = 0
        self.reused = 0
        self.by_torch = 0
        self.reasons: dict[str, int] = {}
        self._shared: dict[Hashable, Variant] = {}
        tracer = (spec.trace_fn, spec.get_decomp_fn)
        self._search = Proof("the search function", (spec.search_fn, *tracer), spec.policy)
        self._replacement = Proof("the replacement", (spec.replace_fn, *tracer), spec.policy)
        self._edition = 0

    def find(self, leaves: Sequence[Any], session: Session) -> Bound | None:
        """The trace for a match's arguments; None if only torch's entry can check them."""
        refusal = session.refusal()
        if not refusal and not self._search.holds(session.moment):
            refusal = self._search.reason
        if refusal:
            self.count(refusal)
            return None
        if self._edition != self._search.edition:
            self._edition = self._search.edition
            self._shared.clear()
        try:
            values = values_of(leaves)
            quick = quick_key(values)
            local = (id(self), self._edition, quick, session.state())
            if quick is not None and local in session.bounds:
                self.reused += 1
                known: Bound = session.bounds[local]
                return known
            situation = session.situation(values, quick)
        except (KeyError, Unshareable) as reason:
            self.count(str(reason))
            return None
        state = session.state()
        variant = self._variant(values, situation, session)
        found = Bound(self.spec, variant, situation, self._replacement)
        if quick is not None and session.state() == state and not self._search.reason:
            session.bounds[local] = found
        return found

    def count(self, reason: str) -> None:
        """Notes why a match was not served from the cache."""
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def _variant(self, values: Sequence[Any], situation: Situation, session: Session) -> Variant:
        shared = situation.shared
        found = self._shared.get(shared) if shared is not None else None
        if found is not None:
            self.reused += 1
            return found
        before = env_state(situation.env)
        try:
            with situation.builder.mode:
                found = Variant(trace_search(self.spec, values))
        finally:
            session.touch()
            self._search.traced()
        self.traced += 1
        unchanged = env_state(situation.env) == before and not self._search.reason
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
        reasons += [self._replacement.reason] if self._replacement.reason else []
        reasons += [] if REPLACES_AS_KNOWN else ["torch replaces each match, in a way of its own"]
        return f"{text}: {'; '.join(reasons)}" if reasons else text
