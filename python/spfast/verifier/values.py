"""What the verifier knows about a value, and the numbering that makes equal values one object.

A value is described by *what it is* (a term: the operation that makes it and the terms of its
operands) and *how this rank holds it* (whole, or one of the group's equal chunks). Terms speak
about the flat sequence of a tensor's elements, so a view changes the shape but not the term.
Everything is interned: two equal values are the same object, and comparing costs nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from spfast.verifier.numbers import is_read

__all__ = ["Kind", "Shape", "Share", "Store", "Value", "Write"]

_DIGESTS = 1 << 128

# Each dim is an int or a sympy expression.
Shape = tuple[Any, ...]


class Kind(Enum):
    """How this rank holds a value."""

    FULL = auto()  # whole, as in the original graph
    SHARD = auto()  # the rank-th of tp equal chunks of the flat elements
    PADDED = auto()  # whole, with rows behind its own
    PART = auto()  # what this rank adds to a sum over the ranks
    PENDING = auto()  # the result of a collective that nobody has waited for yet
    TUPLE = auto()  # several values; getitem picks one
    SCALAR = auto()  # a symbolic or plain number; its term is the number itself
    WRONG = auto()  # what a node yields that has been reported already, and all that reads it


@dataclass(frozen=True)
class Share:
    """Among whom a value is shared in equal chunks.

    Attributes:
        group: The ranks; "" for what a rank holds whole.
        tp: How many they are.
        tokens: Where rows were added to the value: how many it had before.
        rows: Where rows were added to the value: how many it has with them. What the added rows
            hold is not known, and nobody may read it.
    """

    group: str = ""
    tp: int = 0
    tokens: Any = None
    rows: Any = None

    @property
    def is_padded(self) -> bool:
        """Whether rows were added."""
        return self.tokens is not None


_WHOLE = Share()


class Value:
    """One interned value. Made by :class:`Store` only, compared by identity."""

    __slots__ = ("kind", "number", "parts", "shape", "share", "term")

    def __init__(
        self,
        kind: Kind,
        term: int,
        shape: Shape | None,
        *,
        number: Any = None,
        share: Share = _WHOLE,
        parts: tuple[Value | None, ...] = (),
    ) -> None:
        self.kind = kind
        self.term = term
        self.shape = shape  # what this rank holds; None: not a tensor, or not known
        self.number = number  # of a scalar: an int or a sympy expression
        self.share = share
        self.parts = parts

    @property
    def group(self) -> str:
        """The ranks that share it."""
        return self.share.group

    @property
    def tp(self) -> int:
        """How many these are."""
        return self.share.tp

    def __repr__(self) -> str:
        return f"<{self.describe()} term {self.term}>"

    def describe(self) -> str:
        """Returns a few words for a message, such as "a full value [4096, 8192]"."""
        shape = "" if self.shape is None else f" [{', '.join(str(d) for d in self.shape)}]"
        if self.kind is Kind.SHARD:
            return f"one rank's chunk{shape} of group {self.group!r}{self._added()}"
        if self.kind is Kind.PADDED:
            return f"a full value{shape}{self._added()}"
        if self.kind is Kind.PART:
            return f"one rank's part{shape} of a sum over group {self.group!r}"
        if self.kind is Kind.PENDING:
            return "an unfinished collective"
        if self.kind is Kind.TUPLE:
            return "a tuple"
        if self.kind is Kind.SCALAR:
            return f"the number {self.number}"
        if self.kind is Kind.WRONG:
            return "a wrong value"
        return f"a full value{shape}"

    def _added(self) -> str:
        if not self.share.is_padded:
            return ""
        return f", with rows added to {self.share.tokens} to make {self.share.rows}"


@dataclass(frozen=True)
class Write:
    """How a value became what it is.

    Attributes:
        base: The term of what it was before.
        effect: The term of the operation that wrote to it.
        is_whole: Whether all of it was written to.
    """

    base: int
    effect: int
    is_whole: bool


class Store:
    """All terms and values of one verification; shared by both graphs."""

    def __init__(self) -> None:
        self.terms: dict[Hashable, int] = {}
        # Results of operations that are compared as they are: key -> value.
        self.results: dict[Hashable, Value] = {}
        self._values: dict[Hashable, Value] = {}
        # Terms below this were in the original graph.
        self.known = 0
        # Whether some number was read out of a tensor, or is an input that is no input's size.
        self.has_data = False
        self.given: set[Any] = set()  # the symbols of such inputs
        # term of some rows of a value -> (the value's term, its rows, first row, end row, how many
        # of its rows are its own where some were added)
        self.blocks: dict[int, tuple[int, Any, Any, Any, Any]] = {}
        # term of a sum over some rows of a value -> the rows, and the dims that are not summed
        self.block_totals: dict[int, tuple[Value, Shape]] = {}
        # term of a value that was written to -> what it was, and what was done to it
        self.writes: dict[int, Write] = {}
        # term of a value that repeats itself from end to end -> after how many elements
        self.repeated: dict[int, Any] = {}
        # term of a sum over the ranks of a group -> (the term of this rank's part, the group)
        self.reduced: dict[int, tuple[int, str]] = {}
        # term of a sum -> the addends, in no order: the sum of their digests, and how many they are
        self.addends: dict[int, tuple[int, int]] = {}
        # term of a sum of something and of a reduction -> the terms of the two
        self.sums: dict[int, tuple[int, int]] = {}
        # term of a value's bits under another dtype -> (the value's term, its dtype)
        self.bits: dict[int, tuple[int, Any]] = {}
        self.wrong = Value(Kind.WRONG, self.term("wrong"), None)

    def term(self, key: Hashable) -> int:
        """Returns the number of the term ``key``; equal keys get equal numbers."""
        found = self.terms.get(key)
        if found is None:
            found = self.terms[key] = len(self.terms)
        return found

    def has(self, key: Hashable) -> bool:
        """Says whether the term ``key`` has been met."""
        return key in self.terms

    def reduction(self, part: int, reduce_op: str, group: str) -> int:
        """Returns the term of what a group's ranks make of their parts together.

        A sum over the ranks has one term, in whatever order a part itself was added up.
        """
        if reduce_op == "sum" and part in self.addends:
            added = self.addends[part]
            part = self.term(("added", *added))
            self.addends[part] = added
        term = self.term(("reduced", part, reduce_op, group))
        if reduce_op == "sum":
            self.reduced[term] = (part, group)
        return term

    def add(self, total: int, left: int, right: int) -> None:
        """Notes that a term is the sum of two, of one shape and dtype."""
        one, two = self._addends_of(left), self._addends_of(right)
        self.addends[total] = ((one[0] + two[0]) % _DIGESTS, one[1] + two[1])

    def _addends_of(self, term: int) -> tuple[int, int]:
        found = self.addends.get(term)
        if found is None:
            digest = hashlib.blake2b(term.to_bytes(8, "little"), digest_size=16).digest()
            found = int.from_bytes(digest, "little"), 1
        return found

    def full(self, term: int, shape: Shape | None) -> Value:
        """Returns the value that this rank holds whole."""
        key = (term, shape)
        found = self._values.get(key)
        if found is None:
            found = self._values[key] = Value(Kind.FULL, term, shape)
        return found

    def shard(self, term: int, share: Share, local: Shape) -> Value:
        """Returns the rank-th of equal chunks of the elements of ``term``, and of added rows."""
        return self._shared(Kind.SHARD, term, share, local)

    def padded(self, term: int, tokens: Any, shape: Shape) -> Value:
        """Returns the value of ``term``, which has ``tokens`` rows, with added rows behind them."""
        return self._shared(Kind.PADDED, term, Share(tokens=tokens, rows=shape[0]), shape)

    def part(self, term: int, share: Share, shape: Shape) -> Value:
        """Returns what this rank adds to ``term``, which is the sum of what all ranks add."""
        return self._shared(Kind.PART, term, share, shape)

    def _shared(self, kind: Kind, term: int, share: Share, shape: Shape) -> Value:
        key = (kind, term, share, shape)
        found = self._values.get(key)
        if found is None:
            found = self._values[key] = Value(kind, term, shape, share=share)
        return found

    def pending(self, value: Value) -> Value:
        """Returns what a collective yields before its wait."""
        key = ("pending", value)
        found = self._values.get(key)
        if found is None:
            found = Value(Kind.PENDING, self.term(key), value.shape, parts=(value,))
            self._values[key] = found
        return found

    def tuple(self, parts: tuple[Value | None, ...]) -> Value:
        """Returns the value of an operation with several results."""
        key = ("tuple", parts)
        found = self._values.get(key)
        if found is None:
            found = self._values[key] = Value(Kind.TUPLE, self.term(key), None, parts=parts)
        return found

    def scalar(self, number: Any) -> Value:
        """Returns the value of a number: an int, or a sympy expression."""
        key = ("scalar", number)
        found = self._values.get(key)
        if found is None:
            found = Value(Kind.SCALAR, self.term(key), None, number=number)
            self._values[key] = found
            self.has_data = self.has_data or self.is_data(number)
        return found

    def is_data(self, number: Any) -> bool:
        """Whether a number may be another one on each rank: all others are sizes and literals."""
        if isinstance(number, int):
            return False
        return is_read(number) or not self.given.isdisjoint(number.free_symbols)

    def block(self, base: int, rows: Any, start: Any, end: Any, tokens: Any, shape: Shape) -> Value:
        """Returns rows start to end of ``base``, whose first dim is ``rows`` long.

        Where rows were added to ``base``, only ``tokens`` of its rows are its own.
        """
        term = self.term(("block", base, rows, start, end, tokens))
        self.blocks[term] = (base, rows, start, end, tokens)
        return self.full(term, shape)

    def is_known(self, value: Value | None) -> bool:
        """Says whether the original graph has a value with these contents."""
        if value is None:
            return True
        if value.kind in (Kind.TUPLE, Kind.PENDING):
            return all(self.is_known(part) for part in value.parts)
        if value.kind is Kind.SCALAR:
            return True
        block = self.blocks.get(value.term)
        term = value.term if block is None else block[0]
        return value.kind is not Kind.WRONG and term < self.known
