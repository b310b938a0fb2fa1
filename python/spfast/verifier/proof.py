"""The proof: both graphs are walked with one set of terms, and every result must be the same value.

The original graph gives each of its values a term. The rewritten graph is walked with the same
terms; an all_reduce and the reduce_scatter that takes its place reduce to the same term, one held
whole and one held as this rank's chunk. Operators that treat rows alone carry chunks on, a gather
makes them whole again, and whatever else meets a chunk is an error. What both graphs return, write
and do must then be equal, value by value. Nothing here knows of patterns, sites or plans.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from spfast.config import Replicated, SequenceParallelConfig, as_config
from spfast.ranks.groups import group_name
from spfast.verifier.blame import Blame
from spfast.verifier.called import writes_of_graphs, written_inside
from spfast.verifier.context import Context
from spfast.verifier.crossing import shown_across
from spfast.verifier.dims import Dims
from spfast.verifier.groups import Groups
from spfast.verifier.kinds import COLLECTIVES, Collective, Writes, operator_name
from spfast.verifier.layout import otherwise
from spfast.verifier.metadata import Metadata
from spfast.verifier.ranks import Shown
from spfast.verifier.report import Problem, Verification
from spfast.verifier.snapshot import Entry, Snapshot, snapshot
from spfast.verifier.trust import judge
from spfast.verifier.values import Kind, Store
from spfast.verifier.walk import walk

__all__ = ["verify"]


def verify(
    before: Snapshot | fx.Graph | fx.GraphModule,
    after: fx.Graph | fx.GraphModule,
    config: SequenceParallelConfig | None = None,
    replicated: Replicated | Collection[str] | Callable[[fx.Node], bool] | None = None,
) -> Verification:
    """Proves that a rewritten graph computes on every rank what the original one did.

    Args:
        before: The original graph, or the :func:`snapshot` of it that was taken before it was
            changed in place.
        after: The rewritten graph. The GraphModules that the two call are compared by path.
        config: Says the size of the tensor-parallel group and this process' rank in it, and
            whether token counts may be assumed divisible. What it does not say is asked of
            torch.distributed, and else taken from the rewritten graph, which must then at least
            agree with itself.
        replicated: Takes the place of the config's field of that name. What meets one rank's rows
            (norm weights, scales, residuals) has to be the same on every rank. With ``"infer"``
            this is assumed and listed where it is not proved, unless the original graph contradicts
            it. Otherwise it must be proved from the inputs that are named here. An input of a
            called graph goes by its path and name, such as "body.x".

    Returns:
        The verdict. It holds for every value of the inputs and every size that the graph admits.

    Raises:
        GraphError: One of the two is not a graph.
        ConfigError: ``replicated`` is not what the config's field may be, or the graph reduces over
            several groups, and the config's rank may be of any.

    Example:
        >>> import torch
        >>> from spfast.testing import ops
        >>> _ = ops.declare()
        >>> def graph_with(*calls):
        ...     graph = torch.fx.Graph()
        ...     node = graph.placeholder("x")
        ...     with torch._subclasses.FakeTensorMode():
        ...         node.meta["val"] = torch.empty(4, 8)
        ...         for target, *rest in calls:
        ...             val = target(node.meta["val"], *rest)
        ...             node = graph.call_function(target, (node, *rest))
        ...             node.meta["val"] = val
        ...     _ = graph.output(node)
        ...     return graph
        >>> vllm = torch.ops.vllm
        >>> before = graph_with((vllm.all_reduce.default, "tp:0"))
        >>> scatter = (vllm.reduce_scatter.default, 0, 2, "tp:0")
        >>> gather = (vllm.all_gather.default, 0, 2, "tp:0")
        >>> print(verify(before, graph_with(scatter, gather)))
        proved: 4 nodes, 1 of them hold one rank's rows
        >>> print(verify(before, graph_with(scatter)))
        not proved:
          output: returns 'reduce_scatter_default', which is one rank's chunk [2, 8] of group 'tp:0'
    """
    said = as_config(config)
    if replicated is not None:
        said = dataclasses.replace(said, replicated=replicated)
    was = before if isinstance(before, Snapshot) else snapshot(before)
    now = snapshot(after)
    pairs = [("", was.entries, now.entries)]
    alone: set[str] = set()
    if was.called is not None and now.called is not None:
        alone = was.called.keys() ^ now.called.keys()
        pairs += [
            (f"{path}.", was.called[path].entries, inner.entries)
            for path, inner in now.called.items()
            if path not in alone
        ]
    reduced = {name for _, old, _ in pairs for name in _reduced_over(old)}
    writes = writes_of_graphs(was.called or {})
    shown = shown_across(was, Groups(config, reduced), said, writes) if was.crossings else {}
    verdicts = [
        (
            path,
            _verify(
                old,
                new,
                Groups(config, reduced),
                said.inside(path),
                written_inside(writes, path),
                shown.get(path, Shown()),
            ),
        )
        for path, old, new in pairs
    ]
    other = [Problem(path, "is a graph that one of the two calls alone") for path in sorted(alone)]
    problems = [
        Problem(path + each.node, each.reason)
        for path, verdict in verdicts
        for each in verdict.problems
    ]
    return Verification(
        problems=(*other, *problems),
        assumptions=tuple(
            dataclasses.replace(each, value=path + each.value)
            for path, verdict in verdicts
            for each in verdict.assumptions
        ),
        sharded=sum(verdict.sharded for _, verdict in verdicts),
        nodes=sum(verdict.nodes for _, verdict in verdicts),
    )


def _verify(
    old: Sequence[Entry],
    new: Sequence[Entry],
    groups: Groups,
    said: SequenceParallelConfig,
    called: Mapping[str, Writes],
    shown: Shown,
) -> Verification:
    """Verifies one graph. A graph that it calls counts as the same where it has the same name."""
    store, dims = Store(), Dims()
    infers = said.replicated == "infer"
    kept = _kept_groups(old, new)
    original = Context(store, dims, groups, is_after=False, called=called, kept=kept)
    walk(original, old)
    store.known = len(store.terms)
    rewritten = Context(store, dims, groups, is_after=True, called=called, kept=kept)
    walk(rewritten, new)
    found = dict(rewritten.problems)
    trust = judge(original, old, rewritten, new, said.names_replicated, infers, shown)
    for node, reason in trust.problems:
        found.setdefault(node, reason)
    blame = Blame(original, rewritten, old, new)
    for finding in (
        _inputs(dims, old, new),
        _effects(original, rewritten, blame),
        _outputs(original, rewritten, old, new, blame, said.local_outputs),
        Metadata(dims, old, new).problems(),
    ):
        for node, reason in finding:
            found.setdefault(node, reason)
    order = {entry[0]: place for place, entry in enumerate(new)}
    ordered = sorted(found.items(), key=lambda item: order.get(item[0], len(order)))
    return Verification(
        problems=tuple(Problem(node.name, reason) for node, reason in ordered),
        assumptions=trust.assumptions,
        sharded=sum(value.kind is Kind.SHARD for value in rewritten.values.values()),
        nodes=len(new),
    )


def _reduced_over(entries: Sequence[Entry]) -> set[str]:
    """The groups that a graph reduces over."""
    return {group for what, group in _collectives(entries) if what.what == "reduce"}


def _kept_groups(old: Sequence[Entry], new: Sequence[Entry]) -> set[str]:
    """The groups over which both graphs call the same collectives equally often."""
    were, are = Counter(_collectives(old)), Counter(_collectives(new))
    changed = {call[1] for call in were.keys() | are.keys() if were[call] != are[call]}
    return {group for _, group in were} - changed


def _collectives(entries: Sequence[Entry]) -> Iterator[tuple[Collective, str]]:
    """The collectives that a graph calls, each with its group."""
    for _, _, target, args, _, _ in entries:
        what = COLLECTIVES.get(operator_name(target))
        if what is not None and len(args) > what.group:
            yield what, group_name(args[what.group])


Findings = Iterator[tuple[fx.Node, str]]


def _inputs(dims: Dims, old: Sequence[Entry], new: Sequence[Entry]) -> Findings:
    """Inputs keep their order, shape and dtype."""
    were = [entry for entry in old if entry[1] == "placeholder"]
    are = [entry for entry in new if entry[1] == "placeholder"]
    if len(were) != len(are):
        node = are[-1][0] if are else new[0][0]
        yield node, f"the graph has {len(are)} inputs, where it had {len(were)}"
    for before, after in zip(were, are, strict=False):
        if before[2] != after[2]:
            yield after[0], f"is the input that was {before[2]!r}"
        elif not _is_same_tensor(dims, before[5], after[5]):
            yield after[0], "is an input of another shape or dtype than before"


def _is_same_tensor(dims: Dims, before: Any, after: Any) -> bool:
    if before is after or not isinstance(before, torch.Tensor):
        return True
    if not isinstance(after, torch.Tensor) or before.dtype != after.dtype:
        return False
    was, now = dims.shape_of(before), dims.shape_of(after)
    return was is not None and now is not None and dims.same_shape(was, now)


def _effects(before: Context, after: Context, blame: Blame) -> Findings:
    """Writes and other effects happen in the same order, on the same values."""
    for (was, old), (now, new) in zip(before.effects, after.effects, strict=False):
        if was != now:
            if new in after.problems or blame.reads_reported(new):
                return
            culprit = blame.culprit_of_operands(new)
            if culprit is not None:
                yield culprit, blame.reason(culprit)
            else:
                yield new, f"does not do what {old.name!r} did in its place"
            return
    if len(before.effects) > len(after.effects):
        old = before.effects[len(after.effects)][1]
        yield old, f"what it does ({old.target}) is not done any more"
    elif len(after.effects) > len(before.effects):
        new = after.effects[len(before.effects)][1]
        yield new, f"has an effect ({new.target}) that the original graph does not have"


def _outputs(
    before: Context,
    after: Context,
    old: Sequence[Entry],
    new: Sequence[Entry],
    blame: Blame,
    local: Collection[int],
) -> Findings:
    """Outputs keep their order, shape, dtype and contents; ``local`` may be this rank's rows."""
    returned, returns = _leaves(old), _leaves(new)
    output = new[-1][0]
    if len(returned) != len(returns):
        yield output, f"returns {len(returns)} values, where it returned {len(returned)}"
        return
    for place, (left, right) in enumerate(zip(returned, returns, strict=True)):
        if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
            if left is not right and left != right:
                yield output, f"returns {right!r} as output {place}, where it returned {left!r}"
            continue
        if right not in after.values:
            yield output, f"returns {right.name!r} before it is computed"
            continue
        expected, actual = before.read(left), after.read(right)
        if actual is expected:
            was, now = before.vals.get(left), after.vals.get(right)
            if not _is_same_tensor(after.dims, was, now):
                yield right, f"is output {place} with another shape or dtype than before"
            elif (lie := otherwise(after.dims, was, now)) is not None:
                yield right, f"is output {place} with strides {lie}"
            continue
        if actual.kind is Kind.WRONG:
            continue
        is_rows = actual.kind is Kind.SHARD and not actual.share.is_padded
        if place in local and is_rows and actual.term == expected.term:
            continue
        culprit = blame.culprit(right)
        if actual.kind in (Kind.SHARD, Kind.PADDED, Kind.PART, Kind.PENDING):
            yield output, f"returns {right.name!r}, which is {actual.describe()}"
        elif blame.is_same_elsewhere_shaped(expected, actual):
            yield (
                right,
                f"is output {place}, {actual.describe()}, where it was {expected.describe()}",
            )
        elif culprit is not None:
            if not blame.reads_reported(culprit):
                yield culprit, blame.reason(culprit)
        else:
            yield (
                output,
                f"returns {right.name!r} as output {place}, which holds {blame.origin(right)}, "
                f"where it returned {left.name!r}",
            )


def _leaves(entries: Sequence[Entry]) -> list[Any]:
    """What a graph returns, in order, whatever lists and dicts it is packed in."""
    leaves: list[Any] = []
    stack: list[Any] = [entries[-1][3]] if entries and entries[-1][1] == "output" else []
    while stack:
        item = stack.pop()
        if isinstance(item, (list, tuple)):
            stack.extend(reversed(item))
        elif isinstance(item, dict):
            stack.extend(reversed([item[name] for name in item]))
        else:
            leaves.append(item)
    return leaves
