"""Whether what was traced of a user's functions still holds, or has to be traced for each match."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from spfast.pattern_matcher.dependencies import Dependencies, Unproved, dependencies_of

__all__ = ["POLICIES", "Policy", "Proof"]

Policy: TypeAlias = Literal["proved", "always", "once"]
POLICIES = ("proved", "always", "once")

log = logging.getLogger("spfast")


class Proof:
    """What a trace of some functions depends on, besides arguments and ambient settings.

    Args:
        what: What the functions are called in reasons.
        functions: The functions that run while it is traced.
        policy: "proved" keeps traces while all that the functions read is the same, "always"
            keeps none, "once" takes the user's word that they read nothing that changes.

    Attributes:
        reason: Why nothing may be kept; empty while it may.
        edition: A number that changes whenever earlier traces are out of date.
    """

    def __init__(
        self, what: str, functions: tuple[Callable[..., Any] | None, ...], policy: Policy
    ) -> None:
        self.reason = "" if policy != "always" else f"{what}: traced for each match as asked"
        self.edition = 0
        self._what = what
        self._functions = functions
        self._promised = policy == "once"
        self._found: Dependencies | None = None
        self._compared_at: object = None

    def holds(self, moment: object) -> bool:
        """Whether traces may be kept; `edition` tells whether earlier traces still hold.

        Args:
            moment: An object that stays the same as long as no code of a user runs.
        """
        if self._promised or moment is self._compared_at:
            return not self.reason
        if self.reason:
            return False
        if self._found is None or not self._found.unchanged():
            self._look()
        self._compared_at = moment
        return not self.reason

    def traced(self) -> None:
        """Looks again after the functions were traced, for they may have changed what they read."""
        if self._found is not None and not self._found.unchanged():
            self._refuse("it changes what it reads")

    def _look(self) -> None:
        self.edition += 1
        try:
            self._found = dependencies_of(self._functions)
        except Unproved as reason:
            self._refuse(str(reason))

    def _refuse(self, reason: str) -> None:
        self.edition += 1
        self._found = None
        self.reason = f"{self._what} is traced for each match: {reason}"
        log.info("%s", self.reason)
