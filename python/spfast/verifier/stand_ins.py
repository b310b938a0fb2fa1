"""Stand-ins for values that only the rewritten graph has: the original values they are made of.

Something can be known or assumed only of values that the original graph has, for its collectives
speak of no others. A weight that is expanded beside one rank's rows, where it was broadcast before,
is the same on every rank if the weight is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import fx

from spfast.verifier.across import OTHER_AFTER, SAME_AFTER, Does
from spfast.verifier.context import Context, Meeting
from spfast.verifier.names import Names
from spfast.verifier.ranks import Call, calls_of, parts_of
from spfast.verifier.snapshot import Entry
from spfast.verifier.values import Kind

__all__ = ["StandIns"]


@dataclass
class StandIns:
    """Finds the stand-ins for what meets rows of one rank.

    Attributes:
        names: What the original graph has.
        rewritten: The finished walk over the rewritten graph.
        entries: The rewritten graph.
        problems: The nodes that hold what nothing can stand for, with the reasons.
    """

    names: Names
    rewritten: Context
    entries: Sequence[Entry]
    problems: list[tuple[fx.Node, str]] = field(default_factory=list)
    _makers: dict[int, Call] = field(default_factory=dict)

    def of(self, group: str, met: Mapping[int, Meeting]) -> dict[int, Meeting]:
        """Returns the same meetings, of terms that the original graph has.

        Args:
            group: The group of the rows that are met.
            met: What meets them, by its term.
        """
        known: dict[int, Meeting] = {}
        for term, meeting in met.items():
            if self.names.has(term):
                known[term] = meeting
            else:
                self._stand_in(group, term, meeting, known)
        return known

    def _stand_in(self, group: str, term: int, meeting: Meeting, found: dict[int, Meeting]) -> None:
        seen = {term}
        pending = [term]
        while pending:
            current = pending.pop()
            if self.names.has(current):
                # The value that meets the rows is made of this one, which need not have a row for
                # each token.
                found.setdefault(current, replace(meeting, has_rows=False))
                continue
            made = self._maker_of(current)
            if made is not None and made.what.does in OTHER_AFTER:
                reason = f"{meeting.node.name!r} is another value on every rank"
                self._refuse(meeting, f"{reason}: it comes from {made.node.name!r}")
                return
            if made is not None and made.what.does in SAME_AFTER and made.group == group:
                continue
            if made is None or not _is_computed(made):
                self._refuse(meeting, "the original graph does not compute it")
                return
            for operand in made.operands:
                for part in parts_of(operand):
                    # A size is the same on all ranks. A number that was read has a call that made
                    # it.
                    is_number = part.kind is Kind.SCALAR
                    if is_number and not self.rewritten.store.is_data(part.number):
                        continue
                    if part.term not in seen:
                        seen.add(part.term)
                        pending.append(part.term)

    def _refuse(self, meeting: Meeting, reason: str) -> None:
        self.problems.append((meeting.node, f"meets rows of one rank, but {reason}"))

    def _maker_of(self, term: int) -> Call | None:
        """The call in the rewritten graph that yields a full value."""
        if not self._makers:
            for call in calls_of(self.rewritten, self.entries):
                for part in parts_of(call.result):
                    if part.kind in (Kind.FULL, Kind.SCALAR):
                        self._makers.setdefault(part.term, call)
        store = self.rewritten.store
        while term in store.blocks and term not in self._makers:
            term = store.blocks[term][0]
        return self._makers.get(term)


def _is_computed(call: Call) -> bool:
    """Whether this rank holds the operands whole, and equal operands give equal results."""
    if call.op != "call_function" or call.what.does in (Does.ANYTHING, *SAME_AFTER):
        return False
    whole = (Kind.FULL, Kind.SCALAR)
    return all(part.kind in whole for value in call.operands for part in parts_of(value))
