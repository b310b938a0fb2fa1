"""One run of a pass over one graph: what may be taken as unchanged while it lasts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch._guards import detect_fake_mode

from spfast.pattern_matcher.ambient import Ambient, ambient
from spfast.pattern_matcher.keys import (
    Canonical,
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


@dataclass
class Session:
    """What is known of the graph that a pass runs over.

    Attributes:
        bounds: What each pattern found for each key; filled by `Variants`.
        moment: An object that is replaced whenever code of a user may have changed something.
    """

    bounds: dict[Hashable, Any] = field(default_factory=dict)
    moment: object = field(default_factory=object)
    _ambient: Ambient = field(default_factory=ambient)
    _ambient_at: object = None
    _situations: dict[Hashable, Situation] = field(default_factory=dict)
    _builders: dict[Hashable, Builder] = field(default_factory=dict)
    _envs: list[Any] = field(default_factory=list)

    def touch(self) -> None:
        """To be called when code of a user has run: a check, a handler, a trace."""
        self.moment = object()

    def refusal(self) -> str:
        """Why the ambient settings forbid to use what was traced; empty if they do not."""
        if self._ambient_at is not self.moment:
            now = ambient()
            if now != self._ambient:
                self._ambient = now
                self.bounds.clear()
                self._situations.clear()
            self._ambient_at = self.moment
        return self._ambient[1]

    def state(self) -> Hashable:
        """Changes when a shape environment learns something."""
        return tuple([env_state(env) for env in self._envs])

    def situation(self, values: Sequence[Any], quick: Hashable) -> Situation:
        """The situation of these values: the keys by which other graphs and patterns find traces.

        Args:
            values: Meta values of a match's arguments.
            quick: Their quick key, or None.

        Raises:
            Unshareable: There is no key for values of this kind.
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
            shared = (known.key, self._ambient[0])
        except Unshareable:
            known = own_symbols(key, values)
        return Situation(self._builder(mode, known), env, known, shared)

    def _builder(self, mode: Any, known: Canonical) -> Builder:
        symbols = [(name, size.node.expr) for name, size in known.symbols.items()]
        key = (id(mode), tuple(symbols))
        if key not in self._builders:
            self._builders[key] = Builder(mode, known.symbols)
        return self._builders[key]
