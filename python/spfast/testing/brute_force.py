"""What could be rewritten at all: sites put on shards by force, and run to see if that is right.

This uses no rule of the planner. Any set of nodes may be put on shards. An all_reduce among them
becomes a reduce_scatter, their other operands are cut to the rank's own rows, and other readers get
an all_gather. The graphs are then run, to see whether the ranks still compute the same. The
planner's answers are compared with this: which sites can be rewritten (:func:`safe_sites`), and
with how few all_gathers (:func:`fewest_gathers`).

Meant for the small graphs of :func:`spfast.testing.seeded_case`: it runs every rank of a graph for
each question. Shards of one group are taken for shards of any other: ask about graphs of one group.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch import fx

from spfast.testing.equivalence import assert_equivalent
from spfast.testing.graphs import DrawnAllReduce, TensorParallelCase
from spfast.testing.interpreter import LockstepError

_FUNCTIONAL = torch.ops._c10d_functional
_VIEWS = (torch.ops.aten.reshape.default, torch.ops.aten.view.default)
_SIZES = (torch.ops.aten.sym_size.int,)
# A buffer of a value's size holds nothing of the value. It is put on shards if the value is.
_BUFFERS = (torch.ops.aten.empty_like.default,)


def on_shards(graph: fx.Graph, nodes: Collection[str], rank: int, world_size: int) -> fx.Graph:
    """A copy of ``graph`` for one rank that computes the named nodes on that rank's rows alone.

    Args:
        graph: nodes carry ``meta["val"]``; values of [tokens, features] or
            [batch, length, features], where all leading dims together count the rows.
        nodes: names of nodes, at least one all_reduce among them; what else is named has to depend
            on one, for otherwise nothing is gained.
        rank: whose rows.
        world_size: ranks of the groups.

    Returns:
        A graph for :func:`spfast.testing.run_lockstep`; its new nodes are plain functions without
        meta. It is right only if running it says so.

    Raises:
        ValueError: none of the nodes is an all_reduce.

    Example:
        >>> from spfast.testing import seeded_case
        >>> from spfast.testing.brute_force import on_shards
        >>> case = seeded_case(7)
        >>> sharded = on_shards(case.graph, [case.sites[0].node], 0, case.world_size)
        >>> any("reduce_scatter" in str(node.target) for node in sharded.nodes)
        True
    """
    return _OnShards(graph, nodes, rank, world_size).run()


def gathered(graph: fx.Graph, nodes: Collection[str]) -> list[str]:
    """Which of the named nodes somebody reads in full, each of them one all_gather."""
    inside = _with_parts(graph, nodes)
    return [
        node.name
        for node in graph.nodes
        if node.name in inside and not _is_tuple(node)
        if any(user.name not in inside and user.target not in _SIZES for user in node.users)
    ]


def safe_sites(case: TensorParallelCase) -> list[DrawnAllReduce]:
    """The sites of a drawn graph whose all_reduce and norm can be computed on shards.

    Each is put on shards alone, with everything between its all_reduce and what its norm yields,
    and the graph is run.

    Example:
        >>> from spfast.testing import GraphOptions, seeded_case
        >>> from spfast.testing.brute_force import safe_sites
        >>> case = seeded_case(7, GraphOptions(max_layers=1, odd_tokens=0.0))
        >>> len(case.sites), len(safe_sites(case))
        (3, 3)
    """
    return [site for site in case.sites if site.norm and is_right(case, between(case, site))]


def fewest_gathers(
    case: TensorParallelCase, sites: Iterable[DrawnAllReduce], fewer_than: int
) -> int:
    """With how few all_gathers these sites can be computed on shards, if with fewer than so many.

    Tries every set of nodes around the sites: what they consist of, and any of the values that are
    made of one such value and of nothing else that has rows (quantised, cast, viewed). Sums with
    full values are left to those who read them: what patterns do not name, they do not shard.

    Args:
        case: a drawn graph.
        sites: sites that are safe.
        fewer_than: how many all_gathers somebody else needs; only better answers are looked for.

    Returns:
        The least number that ran right, or ``fewer_than``.
    """
    needed = set().union(*(between(case, site) for site in sites))
    optional = _followers(case.graph, needed)
    best = fewer_than
    for chosen in _subsets(optional):
        nodes = needed.union(*chosen)
        count = len(gathered(case.graph, nodes))
        if count < best and is_right(case, nodes):
            best = count
    return best


def between(case: TensorParallelCase, site: DrawnAllReduce) -> set[str]:
    """The nodes from a site's all_reduce to what its norm yields."""
    below: set[fx.Node] = set()
    for node in case.graph.nodes:
        if node.name == site.node or not below.isdisjoint(node.all_input_nodes):
            below.add(node)
    (last,) = (node for node in case.graph.nodes if node.name == site.norm)
    above, pending = {last}, [last]
    while pending:
        for node in pending.pop().all_input_nodes:
            if node in below and node not in above:
                above.add(node)
                pending.append(node)
    return {node.name for node in above}


def is_right(case: TensorParallelCase, nodes: Collection[str]) -> bool:
    """Whether the ranks compute what they did when the named nodes are computed on shards."""
    counts = [case.tokens]
    if case.dynamic:
        counts += [case.tokens + case.world_size, case.world_size]

    def rewrite(graph: fx.Graph, rank: int) -> None:
        _replace(graph, on_shards(graph, nodes, rank, case.world_size))

    try:
        for tokens in filter(case.admits, counts):
            assert_equivalent(
                case.graph, rewrite, case.inputs(tokens), case.world_size, case.rtol, case.groups
            )
    except (AssertionError, LockstepError):
        return False
    return True


def _replace(graph: fx.Graph, other: fx.Graph) -> None:
    """Makes ``graph`` a copy of ``other``."""
    for node in reversed(list(graph.nodes)):
        graph.erase_node(node)
    result = graph.graph_copy(other, {})
    graph.output(result)


class _OnShards:
    def __init__(self, graph: fx.Graph, nodes: Collection[str], rank: int, world_size: int) -> None:
        self.graph, self.rank, self.world_size = graph, rank, world_size
        self.inside = _with_parts(graph, nodes)
        self.new = fx.Graph()
        self.full: dict[fx.Node, fx.Node] = {}
        self.shards: dict[fx.Node, fx.Node] = {}
        self.group = ""
        # What an all_reduce read: whole, so that it tells the sizes that whole values have.
        self.whole: fx.Node | None = None
        reduces = [node for node in graph.nodes if node.name in self.inside and is_reduce(node)]
        if not reduces:
            raise ValueError(f"none of {sorted(self.inside)} is an all_reduce: name one")
        value = reduces[0].meta["val"]
        self.dims, self.rows = value.dim(), _rows(value)

    def run(self) -> fx.Graph:
        for node in self.graph.nodes:
            if node.name not in self.inside:
                self.full[node] = self.new.node_copy(node, self.of_full)
            else:
                self.shards[node] = self.sharded(node)
        return self.new

    def of_full(self, node: fx.Node) -> fx.Node:
        """The whole value of a node: gathered, once, where it is first read."""
        if node not in self.full:
            self.full[node] = self.gather(node)
        return self.full[node]

    def sharded(self, node: fx.Node) -> fx.Node:
        if is_reduce(node):
            return self.scatter(node)
        if node.target in _VIEWS:
            source = node.args[0]
            assert isinstance(source, fx.Node)
            return self.new.call_function(_as_rows, (self.of_shard(source), node.meta["val"].dim()))
        return self.new.node_copy(node, self.of_shard)

    def of_shard(self, node: fx.Node) -> fx.Node:
        """The rank's rows of a node; the node itself where it has no rows."""
        if node in self.shards:
            return self.shards[node]
        value = node.meta.get("val")
        whole = self.of_full(node)
        if not isinstance(value, torch.Tensor) or value.dim() < 2 or _rows(value) != self.rows:
            return whole
        return self.new.call_function(_own_rows, (whole, self.rank, self.world_size))

    def scatter(self, node: fx.Node) -> fx.Node:
        source, kind, self.group = node.args[0], "sum", str(node.args[-1])
        if len(node.args) == 3:
            kind = str(node.args[1])
        assert isinstance(source, fx.Node)
        self.whole = self.of_full(source)
        flat = self.new.call_function(_flat, (self.whole,))
        scattered = self.new.call_function(
            _FUNCTIONAL.reduce_scatter_tensor.default, (flat, kind, self.world_size, self.group)
        )
        return self.new.call_function(_as_rows, (scattered, node.meta["val"].dim()))

    def gather(self, node: fx.Node) -> fx.Node:
        flat = self.new.call_function(_flat, (self.shards[node],))
        whole = self.new.call_function(
            _FUNCTIONAL.all_gather_into_tensor.default, (flat, self.world_size, self.group)
        )
        if node.meta["val"].dim() != self.dims:
            return whole
        return self.new.call_function(_shaped_like, (whole, self.whole))


def is_reduce(node: fx.Node) -> bool:
    """Whether a node is an all_reduce."""
    return node.target in (torch.ops.vllm.all_reduce.default, _FUNCTIONAL.all_reduce.default)


def _with_parts(graph: fx.Graph, nodes: Collection[str]) -> set[str]:
    """The named nodes with what belongs to them: a tuple's parts, a wait, buffers of their size."""
    inside = set(nodes)
    for node in graph.nodes:
        source = node.args[0] if node.args else None
        if isinstance(source, fx.Node) and source.name in inside:
            waits = node.target is _FUNCTIONAL.wait_tensor.default
            if node.target is operator.getitem or waits or node.target in _BUFFERS:
                inside.add(node.name)
    return inside


def _is_tuple(node: fx.Node) -> bool:
    return not isinstance(node.meta.get("val"), torch.Tensor)


def _followers(graph: fx.Graph, nodes: Collection[str], at_most: int = 8) -> list[set[str]]:
    """What is made of one value of the nodes alone, each with what comes before it."""
    inside = _with_parts(graph, nodes)
    found: dict[str, set[str]] = {}
    for node in graph.nodes:
        if node.op != "call_function" or node.name in inside or node.target in _SIZES:
            continue
        before = [
            operand
            for operand in node.all_input_nodes
            if operand.name in inside or operand.name in found
        ]
        others = [operand for operand in node.all_input_nodes if operand not in before]
        alone = len(before) == 1 and not any(_has_rows(operand) for operand in others)
        if alone and len(found) < at_most:
            found[node.name] = {node.name} | found.get(before[0].name, set())
    return list(found.values())


def _subsets(parts: list[set[str]]) -> Iterator[tuple[set[str], ...]]:
    for size in range(len(parts) + 1):
        yield from itertools.combinations(parts, size)


def _has_rows(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dim() > 1


def _rows(value: torch.Tensor) -> int:
    """How many rows a value has, by its example."""
    rows = 1
    for size in value.shape[:-1]:
        rows *= size if isinstance(size, int) else size.node.hint
    return rows


# --- what the copies call -------------------------------------------------------------------


def _flat(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, x.shape[-1])


def _as_rows(x: torch.Tensor, dims: int) -> torch.Tensor:
    """Rows as a value of so many dims, the rows in its last but one."""
    return x.reshape(*[1] * (dims - 2), -1, x.shape[-1])


def _own_rows(x: torch.Tensor, rank: int, world_size: int) -> torch.Tensor:
    own = _flat(x).chunk(world_size)[rank]
    return _as_rows(own, x.dim())


def _shaped_like(x: torch.Tensor, whole: torch.Tensor) -> Any:
    return x.reshape(*whole.shape[:-1], x.shape[-1])
