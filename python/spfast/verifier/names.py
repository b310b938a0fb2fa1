"""Names of the original graph for what the rewritten one computes with."""

from __future__ import annotations

from spfast.verifier.context import Context, Meeting
from spfast.verifier.ranks import parts_of
from spfast.verifier.values import Kind

__all__ = ["Names"]


class Names:
    """Names of nodes of the original graph that hold a term."""

    def __init__(self, original: Context) -> None:
        self._names: dict[int, str] = {}
        self._original = original
        for node, value in original.values.items():
            for part in parts_of(value):
                if part.kind in (Kind.FULL, Kind.SCALAR):
                    self._names.setdefault(part.term, node.name)

    def of(self, term: int, meeting: Meeting) -> str:
        """The name of a value, or of the value that it is rows of or was before it was written."""
        store = self._original.store
        while term not in self._names:
            if term in store.writes:
                term = store.writes[term].base
            elif term in store.blocks:
                term = store.blocks[term][0]
            else:
                return meeting.node.name
        return self._names[term]

    def has(self, term: int) -> bool:
        """Whether a node of the original graph holds a value that :meth:`of` would name."""
        store = self._original.store
        while term not in self._names:
            if term in store.writes:
                term = store.writes[term].base
            elif term in store.blocks:
                term = store.blocks[term][0]
            else:
                return False
        return True

    def written(self, term: int) -> str | None:
        """The name that a value had before it was written to; None where a node has it as it is."""
        store = self._original.store
        while term in store.blocks and term not in self._names:
            term = store.blocks[term][0]
        if term in self._names or term not in store.writes:
            return None
        while term in store.writes:
            term = store.writes[term].base
        return self._names.get(term, "a value")

    def order(self) -> dict[str, int]:
        """The places of the original graph's nodes."""
        return {node.name: place for place, node in enumerate(self._original.values)}
