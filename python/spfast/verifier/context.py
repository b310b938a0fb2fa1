"""The state of one walk over one graph, and what every rule needs from it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from spfast.verifier.dims import Dims
from spfast.verifier.groups import Groups
from spfast.verifier.kinds import Writes
from spfast.verifier.values import Kind, Store, Value, Write

__all__ = ["Context", "Meeting", "Rule"]


@dataclass(frozen=True)
class Meeting:
    """A full value that an operator reads together with one rank's rows.

    Attributes:
        node: The node that holds it, or the rows that were cut out of it.
        reader: The name of the node that reads it.
        has_rows: Whether it has a row for each token, of which this rank's were cut out.
    """

    node: fx.Node
    reader: str
    has_rows: bool

    def describe(self) -> str:
        """Says where it meets them."""
        if self.has_rows:
            return f"one rank's rows of it are cut out for {self.reader!r}"
        return f"is read whole beside one rank's rows in {self.reader!r}"


@dataclass
class Context:
    """One walk. The store, the sizes and the groups are shared by the walks over both graphs.

    Attributes:
        store: Terms and values.
        dims: Sizes.
        groups: Sizes and ranks of process groups.
        is_after: Whether this is the rewritten graph, where what cannot be proved is a problem.
        values: What each node is.
        effects: The terms of everything that happens in an order, each with its node.
        problems: What was found wrong, by node.
        met: The full values that meet rows of a group, by the group and the value's term.
        opaque: Nodes that were compared as they are.
        reads: What nodes read, where something had been written before.
        called: What each graph that this one calls writes to, by the name of the graph.
        kept: The groups over which both graphs call the same collectives. What a rank gets from
            such a collective is compared as it is, and may be cut for another group like any value.
        node: The node that is looked at now.
        vals: meta["val"] of each node of this graph.
        why: The reason of the rule that runs now.
    """

    store: Store
    dims: Dims
    groups: Groups
    is_after: bool
    vals: dict[fx.Node, Any] = field(default_factory=dict)
    values: dict[fx.Node, Value] = field(default_factory=dict)
    effects: list[tuple[int, fx.Node]] = field(default_factory=list)
    problems: dict[fx.Node, str] = field(default_factory=dict)
    met: dict[tuple[str, int], Meeting] = field(default_factory=dict)
    opaque: set[fx.Node] = field(default_factory=set)
    reads: dict[fx.Node, dict[fx.Node, Value]] = field(default_factory=dict)
    called: Mapping[str, Writes] = field(default_factory=dict)
    kept: Collection[str] = ()
    node: fx.Node | None = None
    why: str | None = None
    # Of graphs that write to tensors: the storage each node shares, each storage's last write (its
    # term and its moment), and the moment of each node. Each write begins another moment.
    moment: int = 0
    roots: dict[fx.Node, Hashable] = field(default_factory=dict)
    born: dict[fx.Node, int] = field(default_factory=dict)
    written: dict[Hashable, tuple[int, int]] = field(default_factory=dict)
    # Collectives in place whose result may be taken to lie in other memory, each with the terms of
    # its writes.
    apart: dict[fx.Node, list[int]] = field(default_factory=dict)
    # The terms that a write overwrites from end to end.
    overwritten: dict[int, frozenset[int]] = field(default_factory=dict)

    def read(self, node: fx.Node) -> Value:
        """Returns what ``node`` holds when it is read now, after the writes so far.

        Raises:
            KeyError: The node has not been computed yet.
        """
        value = self.values[node]
        if self.written:
            write = self.written.get(self.roots.get(node, node))
            if write is not None and write[1] > self.born.get(node, 0):
                return self._after_write(value, write[0])
        return value

    def _after_write(self, value: Value, effect: int) -> Value:
        store = self.store
        if value.kind is Kind.FULL:
            # Rows of a value stay rows of it after a write, for they share its storage.
            block = store.blocks.get(value.term)
            if block is not None:
                assert value.shape is not None
                return store.block(self._rewritten(block[0], effect), *block[1:], value.shape)
            return store.full(self._rewritten(value.term, effect), value.shape)
        if value.kind is Kind.SHARD:
            assert value.shape is not None
            term = self._rewritten(value.term, effect)
            return store.shard(term, value.share, value.shape)
        return store.full(store.term(("written", value.kind.name, value.term, effect)), value.shape)

    def _rewritten(self, base: int, effect: int) -> int:
        term = self.store.term(("written", base, effect))
        if term not in self.store.writes:
            is_whole = base in self.overwritten.get(effect, ())
            self.store.writes[term] = Write(base, effect, is_whole)
        return term

    def key(self, argument: Any) -> Hashable:
        """Returns what an argument is compared by: literals with their type, nodes by value."""
        if isinstance(argument, fx.Node):
            value = self.values[argument] if not self.written else self.read(argument)
            if value.kind is Kind.SCALAR and type(value.number) is int:
                return (int, value.number)
            return value
        kind = type(argument)
        if kind in (int, bool):
            return (kind, argument)
        if kind is float:
            return (float, argument.hex())
        if argument is None or kind is str:
            return argument  # type: ignore[no-any-return]
        if isinstance(argument, (list, tuple)):
            return tuple([self.key(item) for item in argument])
        if isinstance(argument, dict):
            return ("dict", *((k, self.key(argument[k])) for k in sorted(argument, key=str)))
        if isinstance(argument, slice):
            return ("slice", *map(self.key, (argument.start, argument.stop, argument.step)))
        if isinstance(argument, torch.SymInt):
            number = self.dims.of(argument)
            return (int, number) if isinstance(number, int) else self.store.scalar(number)
        try:
            hash(argument)
        except TypeError:
            return ("object", id(argument))
        return argument  # type: ignore[no-any-return]

    def size(self, argument: Any) -> Any:
        """Returns a size argument as an int or expression; None when it is not a known number."""
        if isinstance(argument, fx.Node):
            value = self.values.get(argument)
            return None if value is None or value.kind is not Kind.SCALAR else value.number
        if isinstance(argument, (int, torch.SymInt)):
            return self.dims.of(argument)
        return None

    def meet(self, node: fx.Node, term: int, group: str, *, has_rows: bool = False) -> None:
        """Notes that ``node``, or what it is rows of, must be the same on every rank of a group."""
        if (group, term) not in self.met:
            reader = "" if self.node is None else self.node.name
            self.met[group, term] = Meeting(node, reader, has_rows)


# A rule returns None where it does not apply: then the operands are needed whole.
Rule = Callable[
    [Context, fx.Node, Any, tuple[Any, ...], dict[str, Any]],
    "Value | None",
]
