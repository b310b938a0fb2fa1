"""What must hold when the pass has run on a program: each check names its kind when it fails."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

import spfast
from tests.pool import metas
from tests.pool.costs import cost, kind_of, value_of
from tests.pool.kept import hint
from tests.pool.lockstep import is_collective, tensors
from tests.pool.program import Program, build, build_all
from tests.pool.results import guards_hold, right_numbers
from tests.pool.rewrite import KINDS, NUMBERS, Failure, Outcome, Rewrite, expect, picture, rewritten


def check(
    program: Program, kind: str | None = None, values: dict[str, Any] | None = None
) -> Outcome:
    """Rewrites a program on all ranks and checks everything that must hold.

    Args:
        program: what to check.
        kind: the only kind of failure that is asked for, which saves time; None asks for all.
        values: the fake values of its calls, where they are known.

    Raises:
        CannotRun: the program itself cannot be run.
    """
    before = build_all(program, values)
    try:
        return examine(rewritten(program, before), kind)
    except spfast.ConfigError as error:
        outcome = Outcome(refused=str(error))
        if len(_groups(before[0])) < 2:
            outcome.failures.append(Failure("crash", f"ConfigError with one group: {error}"))
        return outcome
    except Failure as failure:
        return Outcome(failures=[failure])


def examine(made: Rewrite, kind: str | None = None) -> Outcome:
    """Checks everything that must hold of a rewrite."""
    outcome = Outcome(made.results[0].matched_count)
    checks: list[tuple[tuple[str, ...], Callable[[], None]]] = [
        (("lint",), lambda: _healthy(made)),
        (("unexplained",), lambda: _explained(made)),
        (("assumption",), lambda: _assumes_what_it_may(made)),
        (("ranks differ",), lambda: _same_structure(made)),
    ]
    if any(result.matched_count or result.merged for result in made.results):
        checks += [
            (("guard",), lambda: guards_hold(made)),
            (NUMBERS, lambda: right_numbers(made, outcome)),
            (("meta",), lambda: _metas(made)),
            (("bytes", "collectives"), lambda: _no_loss(made)),
            (("recogniser",), lambda: _no_worse_than_one(made)),
            (("again", "repeat", "crash"), lambda: _again(made)),
            (("validate", "damage"), lambda: _validated(made, outcome)),
        ]
    else:
        checks.append((("damage",), lambda: _untouched(made)))
    for kinds, each in checks:
        if kind is not None and kind not in kinds:
            continue
        try:
            each()
        except Failure as failure:
            outcome.failures.append(failure)
            if failure.kind == "lint":
                break  # nothing can be said of a graph that is none
    outcome.failures.sort(key=lambda failure: KINDS.index(failure.kind))
    return outcome


def _groups(graph: fx.Graph) -> set[str]:
    return {
        str(node.args[-1])
        for node in graph.nodes
        if node.op == "call_function" and is_collective(node.target)
    }


# --- the rewrite itself --------------------------------------------------------------------------


def _explained(made: Rewrite) -> None:
    """Each all_reduce is rewritten or has a reason; those that finish sums over tokens are new."""
    result, group = made.results[0], made.configs[0].group_name
    names = {node.name for node in made.before[0].nodes}
    reasons = {site.node for site in result.skipped}
    for node in made.after[0].nodes:
        if node.name not in names or node.op != "call_function" or not is_collective(node.target):
            continue
        if kind_of(node.target) == "all_reduce" and (group is None or node.args[-1] == group):
            # Of several tensors at once, each has a line of its own.
            told = {node.name, *(user.name for user in node.users)} & reasons
            expect(bool(told), "unexplained", f"{node.name} ({node.target}) stays")
    for site in result.skipped:
        expect(bool(site.reason.strip()), "unexplained", f"{site.node} has an empty reason")


def _assumes_what_it_may(made: Rewrite) -> None:
    """What is taken on trust is a value of the graph, and nothing is where proofs are asked for."""
    names = {node.name for node in made.before[0].nodes}
    for name in made.assumptions:
        expect(name in names, "assumption", f"{name} is no value of the graph")
    if made.program.config.get("replicated", "infer") != "infer":
        expect(not made.assumptions, "assumption", f"not proved: {made.assumptions}")


def _same_structure(made: Rewrite) -> None:
    by_rank = made.program.by_rank()
    counts = [result.matched_count for result in made.results]
    expect(len(set(counts)) == 1, "ranks differ", f"sites by rank: {counts}")

    def structure(graph: fx.Graph) -> list[Any]:
        return [
            (str(node.target), None if by_rank else node.name, node.args[1:] if joins else None)
            for node in graph.nodes
            if (joins := node.op == "call_function" and is_collective(node.target)) or not by_rank
        ]

    first = structure(made.after[0])
    for rank, graph in enumerate(made.after[1:], start=1):
        other = structure(graph)
        if other != first:
            unlike = [pair for pair in zip(first, other, strict=False) if pair[0] != pair[1]][:1]
            raise Failure("ranks differ", f"rank 0 and rank {rank}: {unlike or 'another length'}")


def _healthy(made: Rewrite) -> None:
    for graph in made.after:
        try:
            graph.lint()
        except Exception as error:
            raise Failure("lint", str(error)) from error


def _untouched(made: Rewrite) -> None:
    for old, new in zip(made.before, made.after, strict=True):
        expect(picture(old) == picture(new), "damage", "no site and no sum, and yet another graph")


# --- what else must hold -------------------------------------------------------------------------


def _metas(made: Rewrite) -> None:
    tp = made.program.world.tp
    if any(size // tp < 2 for size in made.program.symbols.values()):
        return  # a share of one row broadcasts, and the fake run with it
    if made.program.config.get("divisibility") == "assume" and _undivided(made):
        return  # the caller was to pad: at these sizes the values mean nothing
    found = metas.complaints(made.before[-1], made.after[-1])
    expect(not found, "meta", "; ".join(found[:2]))


def _undivided(made: Rewrite) -> bool:
    return any(
        (hint(tensor.shape[0]) or 0) % made.program.world.tp
        for node in made.after[0].nodes
        if node.op == "call_function" and is_collective(node.target)
        if kind_of(node.target) == "reduce_scatter"
        for tensor in tensors(value_of(node.args[0]))
    )


def _no_loss(made: Rewrite) -> None:
    world = made.program.world
    before, after = (
        cost(graph, world, made.before[0]) for graph in (made.before[0], made.after[0])
    )
    if made.program.config.get("recognise") == "patterns":
        return  # the sites are those that the patterns name, as in vLLM's own pass
    allowed = before.bytes * _grown(made)
    expect(after.bytes <= allowed, "bytes", f"{before} became {after}")
    if after.bytes == before.bytes:
        fewer = after.collectives <= before.collectives
        expect(fewer, "collectives", f"{before} became {after}")


def _grown(made: Rewrite) -> float:
    """How many times the rows are of those that were to be shared: more than once where padded."""
    old = {node.name for node in made.before[0].nodes}
    pad = torch.ops.aten.constant_pad_nd.default
    rows = [
        (hint(node.meta["val"].shape[0]) or 1) / (hint(value_of(node.args[0]).shape[0]) or 1)
        for node in made.after[0].find_nodes(op="call_function", target=pad)
        if node.name not in old
    ]
    return max(rows, default=1.0)


def _no_worse_than_one(made: Rewrite) -> None:
    if made.program.config.get("recognise", "both") != "both":
        return
    world = made.program.world
    before, grown = made.before[0], _grown(made)
    after = cost(made.after[0], world, before)
    for alone in ("patterns", "rowwise"):
        graph = copy.deepcopy(before)
        spfast.apply(graph, dataclasses.replace(made.configs[0], recognise=alone))
        single = cost(graph, world, before)
        no_more = after.bytes <= single.bytes * grown
        expect(no_more, "recogniser", f"both: {after}, {alone} alone: {single}")


def _again(made: Rewrite) -> None:
    graph = copy.deepcopy(made.after[0])
    try:
        second = spfast.apply(graph, made.configs[0])
    except Exception as error:
        raise Failure("crash", f"a second run: {type(error).__name__}: {error}") from error
    expect(not second.matched_count, "again", f"a second run rewrites {second.matched_count}")
    expect(picture(graph) == picture(made.after[0]), "again", "a second run changes the graph")
    fresh = copy.deepcopy(made.before[0])
    spfast.apply(fresh, made.configs[0])
    expect(picture(fresh) == picture(made.after[0]), "repeat", "the same graph, another result")


def _validated(made: Rewrite, outcome: Outcome) -> None:
    if made.program.seed % 4:
        return
    graph = build(made.program, 0)
    untouched = picture(graph)
    config = dataclasses.replace(made.configs[0], validate=True)
    try:
        spfast.apply(graph, config)
    except spfast.VerificationError:
        expect(picture(graph) == untouched, "damage", "validate=True left edits behind")
        return
    changed = [node.name for node in graph.nodes]
    expect(
        changed == [node.name for node in made.after[0].nodes] or not outcome.proved,
        "validate",
        "validate=True gives another graph",
    )
