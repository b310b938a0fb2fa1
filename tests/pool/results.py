"""Whether the ranks compute what they did, at the drawn sizes and others, on trust or without."""

from __future__ import annotations

import dataclasses
from typing import Any

import sympy
import torch
from torch import fx

import spfast
from tests.pool.evidence import shown
from tests.pool.lockstep import CannotRun, Hang, RowsLost, Run, run, tensors
from tests.pool.program import Program, leaves
from tests.pool.rewrite import Failure, Outcome, Rewrite, expect, shared_inputs


def _run(program: Program, graphs: list[fx.Graph], feeds: list[list[Any]], **more: Any) -> Run:
    ran = run(graphs, feeds, program.world, same_random=program.same_random, **more)
    ran.outputs = [[each, _tensors_of(feed)] for each, feed in zip(ran.outputs, feeds, strict=True)]
    return ran


def _tensors_of(feed: list[Any]) -> list[Any]:
    return [each for each in feed if isinstance(each, torch.Tensor)]


def guards_hold(made: Rewrite) -> None:
    for graph in made.after:
        for guard, holds in guards_at(graph, made.program.symbols):
            expect(holds, "guard", f"{guard} does not hold at {made.program.symbols}")


def guards_at(graph: fx.Graph, sizes: dict[str, int]) -> list[tuple[str, bool]]:
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


def right_numbers(made: Rewrite, outcome: Outcome) -> None:
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
        other_sizes(made)
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


def other_sizes(made: Rewrite) -> None:
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
        if not all(holds for _, holds in guards_at(made.after[0], sizes)):
            continue
        trouble = _unlike_runs(made, made.program, None, sizes)
        if trouble and trouble[0] == "wrong numbers" and _false_assumptions(made):
            continue
        expect(
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
