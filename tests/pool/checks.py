"""What must hold when the pass has run on a program: each check names its kind when it fails."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch import fx

import spfast
from spfast import Result, SequenceParallelConfig
from tests.pool import metas
from tests.pool.costs import cost, kind_of, value_of
from tests.pool.draw import hint
from tests.pool.evidence import shown
from tests.pool.lockstep import CannotRun, Hang, RowsLost, Run, is_collective, run, tensors
from tests.pool.program import Program, build, build_all, leaves

KINDS = (
    "wrong numbers",
    "wrong numbers, proved",
    "trust against evidence",
    "cannot run",
    "hang",
    "crash",
    "damage",
    "guard",
    "interface",
    "ranks differ",
    "lint",
    "meta",
    "bytes",
    "collectives",
    "recogniser",
    "again",
    "repeat",
    "assumption",
    "unexplained",
    "validate",
)
"""The kinds of failures, the most severe first."""
NUMBERS = KINDS[:5] + ("interface",)


class Failure(AssertionError):
    """Something that must hold does not."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


@dataclass
class Outcome:
    """What a checked program showed.

    Attributes:
        rewritten: sites that were rewritten on each rank.
        proved: whether the verifier proved the result; None if nothing was rewritten.
        said: whether a listed assumption was false in the run, and nothing in the graph told.
        refused: the ConfigError that the pass raised, if it did.
        problem: why the verifier did not prove a right result.
        failures: what does not hold, the most severe first.
    """

    rewritten: int = 0
    proved: bool | None = None
    said: bool = False
    refused: str = ""
    problem: str = ""
    failures: list[Failure] = field(default_factory=list)


@dataclass
class Rewrite:
    """A program, its graphs before and after, and what the pass said."""

    program: Program
    before: list[fx.Graph]
    after: list[fx.Graph]
    configs: list[SequenceParallelConfig]
    results: list[Result] = field(default_factory=list)

    @property
    def assumptions(self) -> list[str]:
        """Names of the values that any rank's rewrite takes to be the same everywhere."""
        return sorted({each.value for result in self.results for each in result.assumptions})


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


def rewritten(program: Program, before: list[fx.Graph]) -> Rewrite:
    """The pass, run on the graph of each rank.

    Raises:
        ConfigError: the pass refuses the config.
        Failure: the pass raises anything else, or leaves a graph changed when it raises.
    """
    made = Rewrite(program, before, [copy.deepcopy(graph) for graph in before], configs_of(program))
    for graph, config in zip(made.after, made.configs, strict=True):
        untouched = picture(graph)
        try:
            made.results.append(spfast.apply(graph, config))
        except Exception as error:
            _expect(picture(graph) == untouched, "damage", f"changed, and then {error!r}")
            if isinstance(error, spfast.ConfigError):
                raise
            raise Failure("crash", f"{type(error).__name__}: {error}") from error
    return made


def examine(made: Rewrite, kind: str | None = None) -> Outcome:
    """Checks everything that must hold of a rewrite."""
    outcome = Outcome(made.results[0].matched_count)
    checks: list[tuple[tuple[str, ...], Callable[[], None]]] = [
        (("lint",), lambda: _healthy(made)),
        (("unexplained",), lambda: _explained(made)),
        (("assumption",), lambda: _assumes_what_it_may(made)),
        (("ranks differ",), lambda: _same_structure(made)),
    ]
    if outcome.rewritten:
        checks += [
            (("guard",), lambda: _guards_hold(made)),
            (NUMBERS, lambda: _numbers(made, outcome)),
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


def configs_of(program: Program, **changes: Any) -> list[SequenceParallelConfig]:
    """The config of each rank."""
    world = program.world
    fields = {**program.config, **changes}
    groups = fields.pop("groups", "tp" if world.dp > 1 else "none")
    if groups == "tp":
        fields["group_name"] = "tp"
    if fields.get("replicated") == "names":
        fields["replicated"] = shared_inputs(program)
    return [
        SequenceParallelConfig(**fields, **_places(program, rank, groups))
        for rank in range(world.size)
    ]


def _places(program: Program, rank: int, groups: str) -> dict[str, Any]:
    """How the config says where a rank stands: in its one group, or in each of several."""
    world = program.world
    if groups != "given":
        return {"tp_size": world.tp, "tp_rank": world.coordinate(rank, "tp")}
    members = {name: world.members(name, rank) for name in world.groups}
    return {"groups": {name: (len(ranks), ranks.index(rank)) for name, ranks in members.items()}}


def shared_inputs(program: Program) -> tuple[str, ...]:
    """The inputs that are the same on every rank of each group that may be rewritten."""
    named = program.config.get("groups", "tp") == "tp"
    groups = {"tp"} if named else set(program.world.axes)
    return tuple(spec.name for spec in program.inputs if not groups & set(spec.differs))


def picture(graph: fx.Graph) -> list[tuple[Any, ...]]:
    """A graph as it is: nodes, operands, values, users, in order."""
    return [
        (
            node.name,
            node.op,
            str(node.target),
            str(node.args),
            str(node.kwargs),
            metas.described(node.meta.get("val")),
            sorted(user.name for user in node.users),
        )
        for node in graph.nodes
    ]


def _expect(holds: bool, kind: str, detail: str) -> None:
    if not holds:
        raise Failure(kind, detail)


def _run(program: Program, graphs: list[fx.Graph], feeds: list[list[Any]], **more: Any) -> Run:
    ran = run(graphs, feeds, program.world, same_random=program.same_random, **more)
    ran.outputs = [[each, _tensors_of(feed)] for each, feed in zip(ran.outputs, feeds, strict=True)]
    return ran


def _tensors_of(feed: list[Any]) -> list[Any]:
    return [each for each in feed if isinstance(each, torch.Tensor)]


def _groups(graph: fx.Graph) -> set[str]:
    return {
        str(node.args[-1])
        for node in graph.nodes
        if node.op == "call_function" and is_collective(node.target)
    }


# --- the rewrite itself --------------------------------------------------------------------------


def _explained(made: Rewrite) -> None:
    """Each all_reduce is rewritten or has a reason."""
    result, group = made.results[0], made.configs[0].group_name
    reasons = {site.node for site in result.skipped}
    for node in made.after[0].nodes:
        if node.op != "call_function" or not is_collective(node.target):
            continue
        if kind_of(node.target) == "all_reduce" and (group is None or node.args[-1] == group):
            # Of several tensors at once, each has a line of its own.
            told = {node.name, *(user.name for user in node.users)} & reasons
            _expect(bool(told), "unexplained", f"{node.name} ({node.target}) stays")
    for site in result.skipped:
        _expect(bool(site.reason.strip()), "unexplained", f"{site.node} has an empty reason")


def _assumes_what_it_may(made: Rewrite) -> None:
    """What is taken on trust is a value of the graph, and nothing is where proofs are asked for."""
    names = {node.name for node in made.before[0].nodes}
    for name in made.assumptions:
        _expect(name in names, "assumption", f"{name} is no value of the graph")
    if made.program.config.get("replicated", "infer") != "infer":
        _expect(not made.assumptions, "assumption", f"not proved: {made.assumptions}")


def _same_structure(made: Rewrite) -> None:
    by_rank = made.program.by_rank()
    counts = [result.matched_count for result in made.results]
    _expect(len(set(counts)) == 1, "ranks differ", f"sites by rank: {counts}")

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
        _expect(picture(old) == picture(new), "damage", "no site, and yet another graph")


def _guards_hold(made: Rewrite) -> None:
    for graph in made.after:
        for guard, holds in _guards_at(graph, made.program.symbols):
            _expect(holds, "guard", f"{guard} does not hold at {made.program.symbols}")


def _guards_at(graph: fx.Graph, sizes: dict[str, int]) -> list[tuple[str, bool]]:
    env = None
    for node in graph.nodes:
        for value in leaves(node.meta.get("val")):
            mode = getattr(value, "fake_mode", None)
            env = mode.shape_env if mode is not None else env
    if env is None:
        return []
    known = {
        symbol: sizes[source.name if isinstance(source.name, str) else source.name()]
        for symbol, sources in env.var_to_sources.items()
        for source in sources[:1]
        if (source.name if isinstance(source.name, str) else source.name()) in sizes
    }
    found = []
    for guard in env.guards:
        try:
            value = guard.expr.xreplace(known)
        except ZeroDivisionError:
            found.append((str(guard.expr), False))
            continue
        if value in (sympy.true, sympy.false):
            found.append((str(guard.expr), bool(value)))
    return found


# --- numbers -------------------------------------------------------------------------------------


def _numbers(made: Rewrite, outcome: Outcome) -> None:
    program = made.program
    wanted = _run(program, made.before, program.feeds())
    trouble = _unlike_runs(made, program, wanted)
    if trouble is not None and trouble[0] == "wrong numbers":
        # Rounding may tip a comparison: what is wrong is wrong for other numbers as well.
        for seed in (1, 2):
            other = dataclasses.replace(program, seed=program.seed + seed * 1000003)
            trouble = _unlike_runs(made, other) or trouble if trouble else None
            if trouble is None or _unlike_runs(made, other) is None:
                trouble = None
                break
    verdicts = [
        spfast.verify(made.before[rank], made.after[rank], made.configs[rank])
        for rank in (0, program.world.size - 1)
    ]
    outcome.proved = all(bool(verdict) for verdict in verdicts)
    outcome.problem = next((str(v.problems[0]) for v in verdicts if v.problems), "")
    if trouble is None:
        _other_sizes(made)
        return
    kind, detail = trouble
    false = _false_assumptions(made)
    if false and program.config.get("replicated", "infer") == "infer":
        evident = shown(made.before[0], made.configs[0].group_name or "tp")
        told = [name for name in false if name in evident]
        if told:
            raise Failure("trust against evidence", f"{told[0]} is taken on trust; {detail}")
        outcome.said = True
        _right_if_true(made, detail)
        known = shared_inputs(program)
        if all(
            spfast.verify(made.before[rank], made.after[rank], made.configs[rank], known)
            for rank in (0, program.world.size - 1)
        ):
            raise Failure("wrong numbers, proved", f"from the inputs that are shared: {detail}")
        return
    if outcome.proved and kind == "wrong numbers":
        kind = "wrong numbers, proved"
    raise Failure(kind, detail)


def _unlike_runs(
    made: Rewrite, program: Program, wanted: Run | None = None, sizes: dict[str, int] | None = None
) -> tuple[str, str] | None:
    """The kind and the detail of the first difference between before and after."""
    if wanted is None:
        try:
            wanted = _run(program, made.before, program.feeds(sizes))
        except (CannotRun, Hang):
            return None  # these inputs are not for this graph
    try:
        got = _run(program, made.after, program.feeds(sizes))
    except Hang as error:
        return "hang", str(error)
    except RowsLost as error:
        if program.config.get("divisibility") == "assume":
            return None  # the caller was to pad
        return "cannot run", str(error)
    except CannotRun as error:
        return "cannot run", str(error)
    tolerance = tolerance_of(made.before[0])
    for rank in range(program.world.size):
        text = unlike(wanted.outputs[rank], got.outputs[rank], tolerance)
        if text:
            kind = "wrong numbers" if "by" in text else "interface"
            return kind, f"rank {rank}, {text}"
    return None


def tolerance_of(graph: fx.Graph) -> float:
    """How far results may be apart, by the coarsest type that the graph computes in."""
    tolerance = 1e-9
    for node in graph.nodes:
        if str(node.target).startswith(("vllm", "_C", "auto_functionalized")):
            tolerance = max(tolerance, 1e-4)
        for value in tensors(node.meta.get("val")):
            if value.dtype.is_floating_point and value.dtype != torch.float64:
                tolerance = max(tolerance, {4: 1e-4, 2: 6e-2, 1: 0.2}[value.dtype.itemsize])
    return tolerance


def unlike(wanted: Any, got: Any, tolerance: float) -> str:
    """What differs between two results; empty if nothing does."""
    these, those = list(leaves(wanted)), list(leaves(got))
    if len(these) != len(those):
        return f"{len(those)} results in place of {len(these)}"
    for place, (a, b) in enumerate(zip(these, those, strict=True)):
        if not isinstance(a, torch.Tensor):
            if a != b:
                return f"result {place} is {b} in place of {a}, off by something"
            continue
        if a.shape != b.shape:
            return f"result {place} has shape {tuple(b.shape)} in place of {tuple(a.shape)}"
        if a.dtype != b.dtype:
            return f"result {place} has {b.dtype} in place of {a.dtype}"
        x, y = a.to(torch.float64), b.to(torch.float64)
        if not torch.allclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True):
            apart = float((x - y).abs().nan_to_num(1e9).max())
            return f"result {place} differs by {apart:.3g}"
    return ""


def _other_sizes(made: Rewrite) -> None:
    """The same at other sizes, where the guards of the rewritten graph let them in."""
    symbols = made.program.symbols
    if not symbols:
        return
    tp = made.program.world.tp
    tried = [{name: size + tp * (2 + place) for place, (name, size) in enumerate(symbols.items())}]
    tried.append({name: size + 1 + place for place, (name, size) in enumerate(symbols.items())})
    if made.program.may_be_zero:
        tried += [dict.fromkeys(symbols, 0), dict.fromkeys(symbols, 1)]
    if made.program.config.get("divisibility") == "assume":
        tried = [each for each in tried if not any(size % tp for size in each.values())]
    for sizes in tried:
        if not all(holds for _, holds in _guards_at(made.after[0], sizes)):
            continue
        trouble = _unlike_runs(made, made.program, None, sizes)
        if trouble and trouble[0] == "wrong numbers" and _false_assumptions(made):
            continue
        _expect(
            trouble is None, *((trouble[0], f"at {sizes}: {trouble[1]}") if trouble else ("", ""))
        )


def _false_assumptions(made: Rewrite) -> list[str]:
    """The values taken on trust that differ, in the run of the original, over a group."""
    names = made.assumptions
    if not names:
        return []
    ran = _run(made.program, made.before, made.program.feeds(), watch=names)
    feeds = made.program.feeds()
    for place, spec in enumerate(made.program.inputs):
        if spec.name in names:
            ran.watched[spec.name] = [feed[place] for feed in feeds]
    world, false = made.program.world, []
    groups = [made.configs[0].group_name] if made.configs[0].group_name else world.groups
    for name in names:
        values = ran.watched[name]
        for group in groups:
            if any(
                unlike(values[world.members(group, rank)[0]], values[rank], 1e-12)
                for rank in range(world.size)
            ):
                false.append(name)
                break
    return false


def _right_if_true(made: Rewrite, detail: str) -> None:
    """With every input the same everywhere, a result that rests on trust is right."""
    shared = dataclasses.replace(
        made.program,
        inputs=tuple(dataclasses.replace(spec, differs=()) for spec in made.program.inputs),
        same_random=True,
    )
    other = Rewrite(shared, made.before, made.after, made.configs, made.results)
    trouble = _unlike_runs(other, shared)
    if trouble is not None and not _false_assumptions(other):
        raise Failure(trouble[0], f"{trouble[1]}, with nothing false taken on trust ({detail})")


# --- what else must hold -------------------------------------------------------------------------


def _metas(made: Rewrite) -> None:
    tp = made.program.world.tp
    if any(size // tp < 2 for size in made.program.symbols.values()):
        return  # a share of one row broadcasts, and the fake run with it
    if made.program.config.get("divisibility") == "assume" and _undivided(made):
        return  # the caller was to pad: at these sizes the values mean nothing
    found = metas.complaints(made.before[-1], made.after[-1])
    _expect(not found, "meta", "; ".join(found[:2]))


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
    before, after = cost(made.before[0], world), cost(made.after[0], world)
    _expect(after.bytes <= before.bytes, "bytes", f"{before} became {after}")
    if after.bytes == before.bytes:
        fewer = after.collectives <= before.collectives
        _expect(fewer, "collectives", f"{before} became {after}")


def _no_worse_than_one(made: Rewrite) -> None:
    if made.program.config.get("recognise", "both") != "both":
        return
    world = made.program.world
    after = cost(made.after[0], world)
    for alone in ("patterns", "rowwise"):
        graph = copy.deepcopy(made.before[0])
        spfast.apply(graph, dataclasses.replace(made.configs[0], recognise=alone))
        single = cost(graph, world)
        _expect(
            after.bytes <= single.bytes, "recogniser", f"both: {after}, {alone} alone: {single}"
        )


def _again(made: Rewrite) -> None:
    graph = copy.deepcopy(made.after[0])
    try:
        second = spfast.apply(graph, made.configs[0])
    except Exception as error:
        raise Failure("crash", f"a second run: {type(error).__name__}: {error}") from error
    _expect(not second.matched_count, "again", f"a second run rewrites {second.matched_count}")
    _expect(picture(graph) == picture(made.after[0]), "again", "a second run changes the graph")
    fresh = copy.deepcopy(made.before[0])
    spfast.apply(fresh, made.configs[0])
    _expect(picture(fresh) == picture(made.after[0]), "repeat", "the same graph, another result")


def _validated(made: Rewrite, outcome: Outcome) -> None:
    if made.program.seed % 4:
        return
    graph = build(made.program, 0)
    untouched = picture(graph)
    config = dataclasses.replace(made.configs[0], validate=True)
    try:
        spfast.apply(graph, config)
    except spfast.VerificationError:
        _expect(picture(graph) == untouched, "damage", "validate=True left edits behind")
        return
    changed = [node.name for node in graph.nodes]
    _expect(
        changed == [node.name for node in made.after[0].nodes] or not outcome.proved,
        "validate",
        "validate=True gives another graph",
    )


def example_sizes(graph: fx.Graph) -> dict[str, Any]:
    """The example shape of each value, for messages."""
    return {
        node.name: [hint(size) for size in node.meta["val"].shape]
        for node in graph.nodes
        if isinstance(node.meta.get("val"), torch.Tensor)
    }
