"""The entry of a registered replacement: checks a match by a cached trace, and applies it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch._inductor.pattern_matcher as stock

from spfast.pattern_matcher.places import common_place
from spfast.pattern_matcher.session import Session
from spfast.pattern_matcher.splice import late_arguments, makes_cycle, restore_order, splice
from spfast.pattern_matcher.template import Template
from spfast.pattern_matcher.trace import ReplacementSpec
from spfast.pattern_matcher.variants import Bound, Variants

__all__ = ["DEBUG", "ReplacementEntry"]

DEBUG = "TORCHINDUCTOR_PATTERN_MATCH_DEBUG"

_NAME = "replace_with_graph"
_CONTAINERS = (list, tuple, dict)


@dataclass
class Accepted:
    """What an accepted match carries from the check to the rewrite."""

    bound: Bound
    template: Template
    leaves: list[Any]


class ReplacementEntry(stock.ReplacementPatternEntry):
    """Takes the place of torch's entry, in our passes and in torch's own.

    Args:
        entry: Torch's entry, which serves what the cache cannot.
        spec: What was registered.
    """

    def __init__(self, entry: stock.ReplacementPatternEntry, spec: ReplacementSpec) -> None:
        vars(self).update(vars(entry))
        self.stock = entry
        self.spec = spec
        self.variants = Variants(spec)
        self.extra_check = self.check

    def __reduce__(self) -> tuple[Any, ...]:
        """Leaves out what was traced: a copy traces anew."""
        own = ("stock", "spec", "variants", "extra_check")
        state = {name: value for name, value in vars(self).items() if name not in own}
        return ReplacementEntry, (self.stock, self.spec), state

    def check(self, match: stock.Match) -> bool:
        """Decides a match outside of a pass of ours."""
        if os.environ.get(DEBUG):  # torch's own check says in the log what it finds
            match.late = late_arguments(match)  # type: ignore[attr-defined]
            return self._ask_torch(match)
        return self.decide(match, Session())

    def decide(self, match: stock.Match, session: Session) -> bool:
        """Whether the exact pattern matches and the user's check agrees.

        Args:
            match: The match of the general pattern; what `apply` needs is left on it.
            session: What is known of this run over this graph.

        Raises:
            Whatever the user's functions raise.
        """
        late = late_arguments(match)
        match.late = late  # type: ignore[attr-defined]
        leaves = self._leaves(match)
        bound = None if leaves is None else self.variants.find(leaves, session)
        if leaves is None or bound is None:
            self.variants.by_torch += 1
            try:
                return self._ask_torch(match)
            finally:
                session.touch()
        if bound.search.failure is not None:
            stock.log_trace_failure(self.spec.search_fn, bound.search.failure)  # type: ignore[arg-type]
            return False
        if not self._accepts(match, bound, session):
            return False
        found = bound.replacement(leaves, session)
        if isinstance(found, Template):
            match.replacement_graph = found.graph_module
            match.accepted = Accepted(bound, found, leaves)  # type: ignore[attr-defined]
        else:
            self._use(match, found)
        return not self._is_own_input(match)

    def _accepts(self, match: stock.Match, bound: Bound, session: Session) -> bool:
        node = match.output_nodes()[0]
        assert node is not None
        check = self.spec.extra_check
        if check is None:
            return bound.search.accepts(node)
        exact = bound.search.match(node)
        if exact is None:
            return False
        exact.kwargs = self._exact_kwargs(exact.kwargs, match.kwargs)
        try:
            return bool(check(exact))
        finally:
            session.touch()

    def _ask_torch(self, match: stock.Match) -> bool:
        return bool(self.stock.extra_check(match)) and not self._is_own_input(match)

    def _is_own_input(self, match: stock.Match) -> bool:
        """Whether the replacement would need its own result as an input. Counts such matches."""
        traced = match.replacement_graph
        if not match.late or traced is None:  # type: ignore[attr-defined]
            return False
        args = self.normalize_args(*match.args, **match.kwargs)
        if not makes_cycle(match, traced, args):
            return False
        self.variants.count("the replacement would be its own input")
        return True

    def _use(self, match: stock.Match, traced: torch.fx.GraphModule) -> None:
        """Leaves on an accepted match what torch's own check would: the check ran already."""
        self.variants.by_torch += 1
        match.replacement_graph = traced
        match.kwargs = self.spec.structured(match.kwargs, {})
        if len(match.nodes) == 1:
            for node in traced.graph.nodes:
                stock._transfer_meta(node.meta, match.nodes[0], pass_name="replacement")

    def _exact_kwargs(self, exact: dict[str, Any], general: dict[str, Any]) -> dict[str, Any]:
        return self.spec.structured(exact, self.spec.structured(general, {}))

    def _leaves(self, match: stock.Match) -> list[Any] | None:
        """The match's flat arguments; None if it holds others than the function's parameters."""
        kwargs = match.kwargs
        names = self.spec.flat_argnames
        try:
            leaves = [kwargs[name] for name in names]
        except KeyError:
            return None
        return None if any(isinstance(leaf, _CONTAINERS) for leaf in leaves) else leaves

    def _arguments(self, match: stock.Match, leaves: list[Any]) -> Sequence[Any]:
        if len(match.kwargs) == len(leaves) and not match.args:
            return leaves
        return self.normalize_args(*match.args, **match.kwargs)

    def apply(self, match: stock.Match, graph: torch.fx.Graph, node: torch.fx.Node) -> None:
        """Puts the replacement in the place of an accepted match."""
        accepted: Accepted | None = getattr(match, "accepted", None)
        late: list[torch.fx.Node] = getattr(match, "late", [])
        if accepted is None:
            self.stock.apply(match, graph, node)
            if late:
                stock.stable_topological_sort(graph)
            return
        bound, template = accepted.bound, accepted.template
        args = self._arguments(match, accepted.leaves)
        if len(args) < template.inputs:
            raise AssertionError(
                f"pattern {self.spec.name!r}: the replacement has {template.inputs} inputs, "
                f"the match gives {len(args)}"
            )
        place = common_place(match.nodes)
        single = match.nodes[0] if len(match.nodes) == 1 else None
        created = splice(
            match,
            graph,
            args,
            lambda: template.instantiate(graph, args, bound.builder, single, place),
            template.returns,
            getattr(self, "pattern_name", None) or _NAME,
        )
        # An argument that is also an output may be erased by now: then no new node reads it.
        left = [argument for argument in late if not argument._erased]
        if left and created:
            restore_order(created[0], max(left))
