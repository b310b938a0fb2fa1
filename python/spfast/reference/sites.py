"""Which values of a match would be sharded, what it reads, and whether that can be proved right."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from spfast.config import SequenceParallelConfig
from spfast.ranks.divisibility import Decision, decide
from spfast.ranks.groups import Group, resolve_group
from spfast.reference.matching import Match, depending
from spfast.reference.replication import Replication
from spfast.reference.traits import traits_of
from spfast.reference.values import (
    Memory,
    is_dense,
    is_view,
    may_read_fresh,
    operator_name,
    root,
    rows_of,
    shape_of,
    size_key,
    source,
    wants_format,
)

__all__ = ["Sharing", "Site", "examine", "only_renamed"]

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Sharing:
    """Tokens that the ranks of one group share; sites of one sharing read each other's shards.

    Attributes:
        tokens: The number of tokens.
        group: The group.
        decision: Whether every rank gets an equal share.
    """

    tokens: Any
    group: Group
    decision: Decision


@dataclass(eq=False)
class Site:
    """One match: what of it would be sharded, and what it reads.

    Attributes:
        match: The match.
        sharing: Its tokens; None where they cannot be shared.
        interior: The nodes that would become local, in graph order, without the reduced value.
        stream: (user, name) wherever an interior node reads a value of the site.
        rows: (user, name) wherever an interior node reads a value that has a row for each token.
        ones: (user, name) wherever an interior node reads a value of more dims that is the same for
            every token.
        buffers: (user, name) wherever an interior node fills an empty tensor.
        reason: Why the site stays; empty where it is rewritten.
    """

    match: Match
    sharing: Sharing | None = None
    interior: list[fx.Node] = field(default_factory=list)
    stream: list[tuple[fx.Node, fx.Node]] = field(default_factory=list)
    rows: list[tuple[fx.Node, fx.Node]] = field(default_factory=list)
    ones: list[tuple[fx.Node, fx.Node]] = field(default_factory=list)
    buffers: list[tuple[fx.Node, fx.Node]] = field(default_factory=list)
    reason: str = ""

    @property
    def all_reduce(self) -> fx.Node:
        """Its all_reduce."""
        return self.match.anchor.all_reduce

    @property
    def reduced(self) -> fx.Node:
        """The node that yields the reduced value."""
        reduced = self.match.anchor.reduced
        assert reduced is not None
        return reduced

    @property
    def width(self) -> int:
        """Features of the stream."""
        return int(self.all_reduce.meta["val"].shape[-1])

    @property
    def changes_dims(self) -> bool:
        """Whether a value of the site may have other dims than [tokens, features]."""
        shape = shape_of(self.all_reduce) or ()
        renamed = any(root(name, self.width) is not name for _, name in (*self.stream, *self.rows))
        otherwise = any((shape_of(name) or ())[:-1] != shape[:-1] for _, name in self.rows)
        return renamed or otherwise or bool(self.ones) or len(shape) > 2


class _Stays(Exception):
    """The message is why a site stays."""


def examine(
    matches: Sequence[Match],
    memory: Memory,
    replication: Replication,
    config: SequenceParallelConfig,
) -> list[Site]:
    """Examines each match; a site that cannot be proved right gets its reason.

    Where a match cannot be sharded, a shorter one that can takes its place.

    Raises:
        ConfigError: A group cannot be looked up.
    """
    sharings: dict[Any, Sharing] = {}

    def examined(match: Match) -> Site:
        site = Site(match)
        try:
            site.sharing = _share(site, sharings, config)
            _Examiner(site, site.sharing, memory, replication).examine()
        except _Stays as stays:
            site.reason = str(stays)
        return site

    sites = []
    for match in matches:
        site = examined(match)
        if site.reason and site.sharing is not None:
            shorter = map(examined, match.shorter)
            site = next((other for other in shorter if not other.reason), site)
        sites.append(site)
    _check_strides(sites)
    return sites


def _check_strides(sites: Sequence[Site]) -> None:
    """Leaves sites with a value that does not lie as a fresh tensor and whose strides are read."""
    for site in reversed(sites):  # later ones read earlier ones
        if site.reason:
            continue
        local = {node for other in sites if not other.reason for node in other.interior}
        read = [root(name, site.width) for _, name in site.rows]
        if all(is_dense(value.meta["val"]) for value in (site.all_reduce, *read)):
            continue
        names = [site.reduced, *site.interior]
        for name in names:
            value = name.meta["val"]
            for user in name.users if isinstance(value, torch.Tensor) else ():
                if user in local or site.reason:
                    continue
                if source(user, site.width) is name:
                    names.append(user)
                elif not may_read_fresh(user, value):
                    strides = _sizes(list(map(size_key, value.stride())))
                    site.reason = (
                        f"{_call(user)} reads %{name.name} with strides {strides}, "
                        f"which an all_gather does not keep"
                    )


def _share(site: Site, sharings: dict[Any, Sharing], config: SequenceParallelConfig) -> Sharing:
    group = resolve_group(site.match.anchor.group or None, config)
    if group.problem:
        raise _Stays(group.problem)
    tokens = rows_of(site.all_reduce.meta["val"])
    key = (size_key(tokens), group.name)
    if key not in sharings:
        sharings[key] = Sharing(tokens, group, decide(tokens, group.size, config.divisibility))
    sharing = sharings[key]
    if sharing.decision.refused:
        raise _Stays(sharing.decision.refused)
    even = not isinstance(key[0], int) or key[0] % group.size == 0 or sharing.decision.padded
    if key[0] == 0 or not even:
        raise _Stays(f"{key[0]} tokens are not divisible by tp_size {group.size}")
    return sharing


class _Examiner:
    """Examines one site."""

    def __init__(
        self, site: Site, sharing: Sharing, memory: Memory, replication: Replication
    ) -> None:
        self._site, self._sharing, self._memory = site, sharing, memory
        self._replication = replication
        self._tokens = size_key(sharing.tokens)
        self._width = site.width
        self._stream: set[fx.Node] = set()

    def examine(self) -> None:
        self._collect()
        self._check_memory()
        for node in self._site.interior:
            if node.target is not operator.getitem:
                for name in node.all_input_nodes:
                    self._read(node, name)
        for node in (self._site.reduced, *self._site.interior):
            self._check_rows(node)

    def _collect(self) -> None:
        """The operations that depend on the reduced value, with all parts of their tuples."""
        interior = depending(self._site.match)
        for node in list(interior):
            parts = [user for user in node.users if user.target is operator.getitem]
            for user in node.users if parts else ():
                if user.target is not operator.getitem:
                    raise _Stays(f"{_call(user)} reads the tuple %{node.name} whole")
            interior.update(parts)
        self._site.interior = sorted(interior, key=self._memory.position.__getitem__)
        self._stream = {root(self._site.reduced, self._width), *interior}

    def _check_memory(self) -> None:
        site = self._site
        change = self._memory.change_between(site.all_reduce, site.interior[-1])
        if change is not None:
            raise _Stays(
                f"{_call(change)} writes to memory or changes the stream between the all_reduce "
                f"and the end of the site"
            )
        for value in (site.all_reduce, site.reduced, *site.interior):
            self._check_unwritten(value, self._memory.writer_of(value))
            if wants_format(value):
                raise _Stays(
                    f"{_call(value)} asks for a memory format for more dims than a shard has"
                )

    def _check_unwritten(self, value: fx.Node, writer: fx.Node | None) -> None:
        if writer is not None:
            raise _Stays(f"{_call(writer)} writes in place to %{value.name}")

    # --- what an interior node reads --------------------------------------------------------------

    def _read(self, user: fx.Node, name: fx.Node) -> None:
        site = self._site
        if root(name, self._width) in self._stream:
            self._check_names(name)
            site.stream.append((user, name))
            return
        role = self._role_of(name)
        if role != "buffer":
            self._check_shared(root(name, self._width), user)
        if role == "buffer":
            self._check_buffer(name)
            site.buffers.append((user, name))
        elif role == "rows":
            self._check_names(name)
            shape = _shape(root(name, self._width))
            rows = rows_of(root(name, self._width).meta["val"]) if len(shape) >= 2 else None
            sized = len(shape) == 2 or (rows is not None and isinstance(shape[-1], int))
            if sized and size_key(rows) == self._tokens:
                site.rows.append((user, name))
            elif not self._read_replicated(user, name):
                full, reduced = root(name, self._width), site.all_reduce
                raise _Stays(
                    f"residual %{full.name} has shape {_show(full)}, "
                    f"%{reduced.name} has shape {_show(reduced)}"
                )
        elif not self._read_replicated(user, name):
            raise _Stays(
                f"operand %{name.name} has shape {_show(name)} and is not the same for every token"
            )

    def _check_shared(self, value: fx.Node, user: fx.Node) -> None:
        """Checks that a value is the same on every rank, and that its memory still holds it."""
        self._check_unwritten(value, self._memory.other_writer(value, user))
        group = self._site.match.anchor.group
        collective = self._replication.evidence(value, group)
        if collective is None:
            if self._replication.trusts_unknown or self._replication.is_shared(value, group):
                return
            raise _Stays(
                f"%{value.name} is not proved to be the same on every rank, "
                f"and config.replicated does not let it be taken on trust"
            )
        position = self._memory.position
        traits = traits_of(operator_name(collective))
        gives = traits.rank or traits.collective in ("reduce_scatter", "all_to_all")
        before = position[collective] <= position[value]
        raise _Stays(
            f"%{value.name} is this rank's own, as {_call(collective)} "
            f"{'gives each rank another one' if gives and before else 'over all ranks shows'}, "
            f"and would be read beside shards"
        )

    def _read_replicated(self, user: fx.Node, name: fx.Node) -> bool:
        """Reads a value that is the same for every token; it broadcasts over any number of rows."""
        value = name.meta.get("val")
        if isinstance(value, torch.Tensor):
            if any(size_key(size) != 1 for size in value.shape[:-1]):
                return False
            if value.dim() > 2:
                self._site.ones.append((user, name))
            return True
        known = isinstance(value, (torch.SymInt, int, list, tuple)) and not isinstance(value, bool)
        if not known:
            raise _Stays(_unknown(name))
        return True

    def _role_of(self, name: fx.Node) -> str:
        match = self._site.match
        for index, bound in match.parameters.items():
            if isinstance(bound, fx.Node) and root(bound, self._width) is root(name, self._width):
                return match.pattern.parameters[index].role
        return "replicated"

    def _check_names(self, name: fx.Node) -> None:
        problem = only_renamed(name, self._width, self._memory)
        if problem:
            raise _Stays(problem)

    def _check_buffer(self, node: fx.Node) -> None:
        args = node.args
        like_stream = (
            node.target is aten.empty_like.default
            and len(args) == 1
            and isinstance(args[0], fx.Node)
            and root(args[0], self._width) in self._stream
        )
        shape = _shape(node)
        rows = rows_of(node.meta["val"]) if len(shape) >= 2 else None
        sized = size_key(rows) == self._tokens and isinstance(shape[-1], int)
        sized_by_list = node.target is aten.empty.memory_format and len(args) == 1
        if not sized or not (like_stream or sized_by_list):
            raise _Stays(f"{_call(node)} is not a buffer that can be made smaller")

    def _check_rows(self, node: fx.Node) -> None:
        """Checks that every value has one row a token: nothing was broadcast over other tokens."""
        value = node.meta.get("val")
        in_tuple = isinstance(value, (list, tuple)) or node.target is operator.getitem
        for part in value if isinstance(value, (list, tuple)) else (value,):
            if part is None and in_tuple and "val" in node.meta:
                continue  # what a functionalised operator returns besides what it writes to
            if not isinstance(part, torch.Tensor):
                raise _Stays(_unknown(node))
            if size_key(rows_of(part)) != self._tokens or not isinstance(part.shape[-1], int):
                shape = [size_key(size) for size in part.shape]
                raise _Stays(f"%{node.name} has shape {_sizes(shape)} and no token dim")


def only_renamed(name: fx.Node, width: int, memory: Memory) -> str:
    """Whether a name may be replaced by the value behind it; "" if so, else the reason."""
    behind = root(name, width)
    looked_through = name
    while looked_through is not behind:
        named = source(looked_through, width)
        assert named is not None
        for value in (looked_through, behind):
            writer = memory.writer_of(value)
            if writer is not None:
                return f"{_call(writer)} writes in place to %{value.name}"
        shapes = shape_of(looked_through), shape_of(named)
        if is_view(looked_through):
            if shapes[1] is None:
                return _unknown(named)
            if shapes[1][-1:] != (width,):
                return (
                    f"{_call(looked_through)} mixes tokens and features of "
                    f"%{behind.name} {_sizes(shapes[1])}"
                )
        if looked_through.target is aten.copy.default:
            if shapes[0] is None or shapes[1] is None:
                return _unknown(looked_through if shapes[0] is None else named)
            kept = looked_through.meta["val"].dtype == named.meta["val"].dtype
            if shapes[0] != shapes[1] or not kept:
                return f"{_call(looked_through)} changes the size or dtype of what it copies"
        looked_through = named
    return ""


# --- words ----------------------------------------------------------------------------------------


def _shape(node: fx.Node) -> tuple[Any, ...]:
    shape = shape_of(node)
    if shape is None:
        raise _Stays(_unknown(node))
    return shape


def _unknown(node: fx.Node) -> str:
    return f'the size of %{node.name} is not known: it has no meta["val"]'


def _call(node: fx.Node) -> str:
    return f"%{node.name} = {operator_name(node)}"


def _show(node: fx.Node) -> str:
    return _sizes(_shape(node))


def _sizes(sizes: Sequence[Any]) -> str:
    return f"[{', '.join(map(str, sizes))}]"
