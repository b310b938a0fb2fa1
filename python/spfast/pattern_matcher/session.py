"""One run of a pass over one graph: what may be taken as unchanged while it lasts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch._guards import detect_fake_mode
from torch._inductor import config as inductor_config

from spfast.pattern_matcher.keys import (
    Canonical,
    ambient_key,
    canonicalise,
    env_state,
    own_symbols,
    raw_key,
)
from spfast.pattern_matcher.vals import Builder, Unshareable

__all__ = ["Session", "Situation"]


@dataclass(frozen=True)
class Situation:
    """The arguments of matches that have one trace.

    Attributes:
        builder: Builds values for the graph at hand.
        env: The shape environment of the arguments, or None.
        known: Their canonical key and symbols.
        shared: The key by which other graphs may share the trace; None if they cannot.
    """

    builder: Builder
    env: Any
    known: Canonical
    shared: Hashable


def _tracks_provenance() -> bool:
    """Torch then records the replaced nodes in the new ones, which no template can hold."""
    return bool(inductor_config.trace.provenance_tracking_level == 1)


@dataclass
class Session:
    """What is known of the graph that a pass runs over.

    Attributes:
        provenance: Whether torch tracks where each node came from.
        bounds: What each pattern found for each key; filled by `Variants`.
    """

    provenance: bool = field(default_factory=_tracks_provenance)
    bounds: dict[Hashable, Any] = field(default_factory=dict)
    _ambient: Hashable = field(default_factory=ambient_key)
    _situations: dict[Hashable, Situation] = field(default_factory=dict)
    _builders: dict[Hashable, Builder] = field(default_factory=dict)
    _envs: list[Any] = field(default_factory=list)

    def state(self) -> Hashable:
        """Changes when a shape environment learns something."""
        return tuple([env_state(env) for env in self._envs])

    def situation(self, values: Sequence[Any], quick: Hashable) -> Situation:
        """What other graphs and patterns may know these values by.

        Args:
            values: Meta values of a match's arguments.
            quick: Their quick key, or None.

        Raises:
            Unshareable: Nothing can be known of values of this kind.
        """
        found = self._situations.get((quick, self.state()))
        if found is None:
            found = self._look_at(values)
            if quick is not None:
                self._situations[(quick, self.state())] = found
        return found

    def _look_at(self, values: Sequence[Any]) -> Situation:
        key, env = raw_key(values)
        mode = detect_fake_mode(values)
        if mode is None:
            raise Unshareable("no fake mode among the arguments")
        if env is not None and not any(env is other for other in self._envs):
            self._envs.append(env)
        shared: Hashable = None
        try:
            known = canonicalise(key, values, env)
            shared = (known.key, self._ambient)
        except Unshareable:
            known = own_symbols(key, values)
        return Situation(self._builder(mode, known), env, known, shared)

    def _builder(self, mode: Any, known: Canonical) -> Builder:
        symbols = [(name, size.node.expr) for name, size in known.symbols.items()]
        key = (id(mode), tuple(symbols))
        if key not in self._builders:
            self._builders[key] = Builder(mode, known.symbols)
        return self._builders[key]
