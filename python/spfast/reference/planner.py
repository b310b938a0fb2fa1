"""Decides what every value of the graph becomes: full, or this rank's rows of it."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx

from spfast.fxgraph import targets
from spfast.reference.padding import local_rows, reckon
from spfast.reference.plan import New, Plan, Ref
from spfast.reference.sites import Sharing, Site, only_renamed
from spfast.reference.values import Memory, is_dense, is_view, root, shape_of, size_key, source

__all__ = ["make_plan"]

aten = torch.ops.aten


def make_plan(graph: fx.Graph, sites: Sequence[Site], memory: Memory) -> Plan:
    """Plans the rewrite of these sites; nothing is changed."""
    return _Planner(graph, sites, memory).run()


class _Planner:
    def __init__(self, graph: fx.Graph, sites: Sequence[Site], memory: Memory) -> None:
        self._graph, self._sites, self._memory = graph, sites, memory
        self._plan = Plan()
        # For each value of a site: the site, the shard, and the full value from an all_gather.
        self._site_of: dict[fx.Node, Site] = {}
        self._local: dict[fx.Node, Ref] = {}
        self._gathered: dict[fx.Node, New] = {}
        # (user, name) of the reads that become reads of a shard, or of a slice of the full value.
        self._local_reads: set[tuple[fx.Node, fx.Node]] = set()
        self._sliced_reads: set[tuple[fx.Node, fx.Node]] = set()
        self._may_die: set[fx.Node] = set()
        # Nodes that are made once for all their readers.
        self._own_rows: dict[Any, New] = {}
        self._bounds: dict[Sharing, tuple[Any, Any]] = {}
        self._local_sizes: dict[Sharing, Any] = {}
        # For sharings with added rows: the tokens, each rank's rows, and how many rows are added.
        self._padding: dict[Sharing, tuple[Any, Any, Any]] = {}

    def run(self) -> Plan:
        for site in self._sites:
            for value in (site.reduced, *site.interior):
                self._site_of[value] = site
                self._local[value] = value
        for site in self._sites:
            self._sort_reads(site)
        # All shards come first, for a site that starts earlier may need the all_gather of a later
        # one.
        for site in self._sites:
            self._scatter(site)
            for value in (site.reduced, *site.interior):
                if isinstance(value.meta["val"], torch.Tensor):
                    self._gather(site, value)
        for site in self._sites:
            for user, name in site.stream:
                self._read_instead(user, name, self._local[root(name, site.width)])
            for node in site.interior:
                self._plan.resized.append(node)
                if site.changes_dims:
                    self._fix_dims(site, node)
            self._may_die.update((site.reduced, site.all_reduce))
        self._take_own_rows()
        self._plan.erase_dead(self._graph, self._may_die)
        return self._plan

    def _create(
        self, target: Any, args: tuple[Any, ...], before: fx.Node, origin: fx.Node, **kwargs: Any
    ) -> New:
        new = New(target, args, before, origin, kwargs)
        self._plan.created.append(new)
        return new

    def _read_instead(self, user: fx.Node, name: fx.Node, now: Ref) -> None:
        self._plan.reads.setdefault(user, {})[name] = now

    # --- who reads what ---------------------------------------------------------------------------

    def _is_local_for(self, site: Site, value: fx.Node) -> bool:
        """Whether the value is a shard of the same rows over the same group."""
        owner = self._site_of.get(value)
        return owner is not None and owner.sharing is site.sharing

    def _sort_reads(self, site: Site) -> None:
        self._local_reads.update(site.stream)
        for user, name in site.rows:
            local = self._is_local_for(site, root(name, site.width))
            (self._local_reads if local else self._sliced_reads).add((user, name))
        for _, buffer in site.buffers:
            like = buffer.args[0]
            if isinstance(like, fx.Node) and self._only_fills(buffer):
                self._local_reads.add((buffer, like))

    def _only_fills(self, buffer: fx.Node) -> bool:
        """Whether only rewritten sites read the buffer, so that it is erased."""
        filled = {pair for site in self._sites for pair in site.buffers}
        return all((user, buffer) in filled for user in buffer.users)

    # --- collectives ------------------------------------------------------------------------------

    def _collective(
        self, site: Site, kind: str, value: Ref, before: fx.Node, origin: fx.Node
    ) -> New:
        family, old = site.match.anchor.family, site.all_reduce.args
        assert site.sharing is not None
        known = {
            "input": value,
            "world_size": site.sharing.group.size,
            "group": None if family.group is None else old[family.group],
            "reduce_op": old[family.reduce_op] if family.reduce_op >= 0 else None,
        }
        args = tuple(
            known[slot] if isinstance(slot, str) else slot
            for slot in getattr(family, f"{kind}_args")
        )
        result = self._create(targets.resolve(getattr(family, kind)), args, before, origin)
        if family.wait is None:
            return result
        return self._create(targets.resolve(family.wait), (result,), before, origin)

    def _scatter(self, site: Site) -> None:
        rows = self._rows_to_scatter(site)
        here = site.all_reduce
        given = here.args[0]
        assert isinstance(given, fx.Node)
        lies = rows if isinstance(rows, fx.Node) else given
        viewed = isinstance(rows, fx.Node) or rows.target is aten.reshape.default
        if viewed and not is_dense(lies.meta["val"]):
            rows = self._fresh(rows, here, here)
        rows = self._padded(site, rows, here, here)
        self._local[site.reduced] = self._collective(site, "reduce_scatter", rows, here, here)

    def _fresh(self, value: Ref, before: fx.Node, origin: fx.Node) -> New:
        """A contiguous copy, for collectives take memory as it lies."""
        return self._create(
            aten.clone.default, (value,), before, origin, memory_format=torch.contiguous_format
        )

    def _rows_to_scatter(self, site: Site) -> Ref:
        """What is reduced, as [tokens, width]: itself, what it is a view of, or a reshape of it."""
        here = site.all_reduce
        value = here.args[0]
        assert isinstance(value, fx.Node)
        behind = root(value, site.width)
        gathered = self._gathered.get(behind)
        if gathered is not None and _width(behind) == site.width:
            if not only_renamed(value, site.width, self._memory):
                return gathered
        if len(shape_of(here) or ()) == 2:
            return self._now(here, value)
        views: list[fx.Node] = []
        at: Any = value
        while is_view(at) and self._memory.writer_of(at) is None:
            views.append(at)
            at = at.args[0]
            shape = shape_of(at)
            if at not in self._site_of and shape is not None and len(shape) == 2:
                if shape[1] == site.width:
                    self._may_die.update(views)
                    flat: fx.Node = at
                    return flat
        return self._create(
            aten.reshape.default, (self._now(here, value), [-1, site.width]), here, here
        )

    def _now(self, user: fx.Node, name: fx.Node) -> Ref:
        """What the user reads under that name once the graph is rewritten."""
        return self._plan.reads.get(user, {}).get(name, name)

    def _gather(self, site: Site, value: fx.Node) -> None:
        """One all_gather for everybody outside the sites who reads the value under any name."""
        flat_already = len(shape_of(value) or ()) == 2
        reads = sorted(
            self._full_reads(site, value, value, flat_already),
            key=lambda read: (self._memory.position[read[0]], self._memory.position[read[1]]),
        )
        if not reads:
            return
        shard = self._local[value]
        if not is_dense(value.meta["val"]):
            shard = self._fresh(shard, reads[0][0], value)
        rows = self._collective(site, "all_gather", shard, reads[0][0], value)
        assert site.sharing is not None
        if site.sharing.decision.padded:
            tokens = self._padding[site.sharing][0]
            args = (rows, 0, 0, tokens)
            rows = self._create(aten.slice.Tensor, args, reads[0][0], value)
        self._gathered[value] = rows
        shaped: New | None = None
        for reader, name, flat in reads:
            if (reader, name) in self._sliced_reads:
                continue
            if not flat and shaped is None:
                shaped = self._in_own_dims(site, value, rows, reader)
            self._read_instead(reader, name, rows if flat or shaped is None else shaped)

    def _full_reads(
        self, site: Site, value: fx.Node, name: fx.Node, flat: bool
    ) -> Iterator[tuple[fx.Node, fx.Node, bool]]:
        """(reader, name, whether it may read [tokens, width]) of all readers outside the sites."""
        for user in name.users:
            if (user, name) in self._local_reads or self._ask_for_size(site, user, name):
                continue
            if source(user, site.width) is not name:
                yield user, name, flat or _views(user, name)
                continue
            self._may_die.add(user)
            if not self._is_read(site, user):
                continue
            if _views(user, name) and _is_flat(user) and _width(value) == site.width:
                yield from self._full_reads(site, value, user, True)  # what the all_gather yields
            else:
                yield user, name, flat or _views(user, name)

    def _is_read(self, site: Site, name: fx.Node) -> bool:
        """Whether a node outside the sites reads an alias; one that nobody reads may be erased."""
        read = False
        for user in name.users:
            if (user, name) in self._local_reads or self._ask_for_size(site, user, name):
                continue
            if source(user, site.width) is name:
                self._may_die.add(user)
                read = self._is_read(site, user) or read
            else:
                read = True
        return read

    def _ask_for_size(self, site: Site, user: fx.Node, name: fx.Node) -> bool:
        """A size of a value is a size of what was reduced: no all_gather is needed to know it."""
        if user.target is not aten.sym_size.int or shape_of(name) != shape_of(site.all_reduce):
            return False
        reduced = site.all_reduce.args[0]
        assert isinstance(reduced, fx.Node)
        self._read_instead(user, name, self._now(site.all_reduce, reduced))
        return True

    def _in_own_dims(self, site: Site, value: fx.Node, rows: New, before: fx.Node) -> New:
        """Reshapes rows to the dims that the value had; a single symbolic size becomes -1."""
        shape = value.meta["val"].shape
        symbolic = [size for size in shape if not isinstance(size_key(size), int)]
        sizes: list[Any] = []
        for size in shape:
            if isinstance(size_key(size), int):
                sizes.append(size_key(size))
            elif len(symbolic) == 1:
                sizes.append(-1)
            else:
                sizes.append(self._size_of(size, before))
        return self._create(aten.reshape.default, (rows, sizes), before, value)

    def _size_of(self, size: Any, before: fx.Node) -> Any:
        """A size from the first symbolic number, or input, of the graph that has it."""
        for node in self._graph.nodes:
            value = node.meta.get("val")
            if isinstance(value, torch.SymInt) and size_key(value) == size_key(size):
                return node
            sizes = value.shape if isinstance(value, torch.Tensor) else ()
            for axis, one in enumerate(sizes if node.op in ("placeholder", "get_attr") else ()):
                if size_key(one) == size_key(size):
                    return self._create(aten.sym_size.int, (node, axis), before, node)
        raise AssertionError(f"nothing in the graph tells {size}")

    # --- this rank's rows -------------------------------------------------------------------------

    def _take_own_rows(self) -> None:
        """Takes rows in graph order: a node with several readers then stands before the first."""
        wanted = [
            (self._memory.position[user], site, user, name, kind)
            for site in self._sites
            for kind, pairs in (("rows", site.rows), ("one", site.ones), ("buffer", site.buffers))
            for user, name in pairs
        ]
        for _, site, user, name, kind in sorted(wanted, key=lambda each: each[0]):
            if kind == "one":
                self._read_instead(user, name, self._one_row(user, name))
                continue
            if kind == "buffer":
                self._read_instead(user, name, self._local_buffer(site, user, name))
                self._may_die.add(name)
                continue
            value = root(name, site.width)
            local = self._is_local_for(site, value)
            now = self._local[value] if local else self._rows_of(site, user, value)
            self._read_instead(user, name, now)
            while name is not value:
                self._may_die.add(name)
                behind = source(name, site.width)
                assert behind is not None
                name = behind

    def _rows_of(self, site: Site, user: fx.Node, value: fx.Node) -> New:
        # A value that is written to in place is cut anew for each reader, for a slice shows what
        # the memory holds when it is read.
        written = self._memory.writer_of(value) is not None
        key = (value, site.sharing, user if written else None)
        if key not in self._own_rows:
            full: Ref = self._gathered.get(value, value)
            if full is value and len(shape_of(value) or ()) > 2:
                full = self._create(aten.reshape.default, (full, [-1, _width(value)]), user, value)
            full = self._padded(site, full, user, value)
            start, end = self._row_bounds(site, user)
            self._own_rows[key] = self._create(
                aten.slice.Tensor, (full, 0, start, end), user, value
            )
        return self._own_rows[key]

    def _one_row(self, user: fx.Node, value: fx.Node) -> New:
        written = self._memory.writer_of(value) is not None
        key = (value, None, user if written else None)
        if key not in self._own_rows:
            args = (value, [1, _width(value)])
            self._own_rows[key] = self._create(aten.reshape.default, args, user, value)
        return self._own_rows[key]

    def _row_bounds(self, site: Site, before: fx.Node) -> tuple[Any, Any]:
        sharing = site.sharing
        assert sharing is not None
        if sharing not in self._bounds:
            local = self._local_size(site, before)

            def times(factor: int) -> Any:
                if isinstance(local, int):
                    return factor * local
                return self._create(operator.mul, (local, factor), before, site.all_reduce)

            rank = sharing.group.rank
            self._bounds[sharing] = (times(rank), times(rank + 1))
        return self._bounds[sharing]

    def _local_size(self, site: Site, before: fx.Node) -> Any:
        """tokens / tp_size: a number, or a node where it is symbolic."""
        sharing = site.sharing
        assert sharing is not None
        if sharing.decision.padded:
            return self._padding[sharing][1]
        if isinstance(size_key(sharing.tokens), int):
            return size_key(local_rows(sharing))
        if sharing not in self._local_sizes:
            self._local_sizes[sharing] = self._create(
                aten.sym_size.int, (self._local[site.reduced], 0), before, site.all_reduce
            )
        return self._local_sizes[sharing]

    def _padded(self, site: Site, value: Ref, before: fx.Node, origin: fx.Node) -> Ref:
        """The rows of a value, with zeros behind them up to a multiple of the ranks if needed."""
        sharing = site.sharing
        assert sharing is not None
        if not sharing.decision.padded:
            return value
        if sharing not in self._padding:

            def call(target: Any, *args: Any) -> New:
                return self._create(target, args, before, before)

            self._padding[sharing] = reckon(sharing, value, call)
        args = (value, [0, 0, 0, self._padding[sharing][2]])
        return self._create(aten.constant_pad_nd.default, args, before, origin)

    def _local_buffer(self, site: Site, user: fx.Node, buffer: fx.Node) -> New:
        like = buffer.args[0]
        if isinstance(like, fx.Node):
            args: tuple[Any, ...] = (self._local[root(like, site.width)],)
        else:
            args = ([self._local_size(site, user), _width(buffer)],)
        return self._create(buffer.target, args, user, buffer, **buffer.kwargs)

    def _fix_dims(self, site: Site, node: fx.Node) -> None:
        """Names the last dim -1 instead of by a positive number, for the value gets two dims."""
        operations = site.match.pattern.operations
        for index, found in site.match.operations.items():
            if found is not node:
                continue
            for form in operations[index].forms:
                for where, operand in zip(form.where, operations[index].operands, strict=True):
                    named = any(literal.tag == "last_dim" for literal in operand.literals)
                    if named and 0 <= where.position < len(node.args):
                        value = node.args[where.position]
                        dim = value[0] if isinstance(value, (list, tuple)) else value
                        if isinstance(dim, int) and dim >= 0:
                            self._plan.dims.setdefault(node, []).append(where.position)


def _width(node: fx.Node) -> Any:
    shape = shape_of(node)
    return shape[-1] if shape else None


def _views(user: fx.Node, name: fx.Node) -> bool:
    return is_view(user) and user.args[0] is name


def _is_flat(view: fx.Node) -> bool:
    sizes: Any = view.args[1]
    return len(sizes) == 2
