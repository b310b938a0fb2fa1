"""The pass itself: the five verbs in order, and the answers to what the core asks in between."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, overload

from torch import fx

from spfast.async_tp import has_collectives
from spfast.config import SequenceParallelConfig, as_config
from spfast.fxgraph.graphs import called_graphs, graph_of
from spfast.fxgraph.journal import undo_all
from spfast.fxgraph.levels import without_all_reduces
from spfast.fxgraph.programs import OutputNames, is_exported, is_program
from spfast.pairs import AsyncTP
from spfast.patterns import Registry, default_registry
from spfast.ranks.groups import resolve_groups
from spfast.recent import tell
from spfast.result import Merged, Result, SkippedSite, Timings
from spfast.run.all_reduces import AllReduces, find_all_reduces
from spfast.run.merging import Sums, merge_edited, merge_sums
from spfast.run.outlook import Outlook
from spfast.run.own_values import tell_across
from spfast.run.pairing import foresee, fuse_all
from spfast.run.rules import forms_of
from spfast.run.run import STAGES, Report, Run, collector_off
from spfast.sums.merger import merger_of

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from spfast.report import Drawing
    from spfast.verifier import Snapshot

__all__ = ["Outlook", "Report", "apply", "plan_graph", "preview"]


@overload
def apply(
    graph: fx.Graph | fx.GraphModule,
    config: SequenceParallelConfig | None = None,
    *,
    registry: Registry | None = None,
    record_plan: bool = False,
    async_tp: bool | None = None,
) -> Result: ...


@overload
def apply(
    graph: ExportedProgram,
    config: SequenceParallelConfig | None = None,
    *,
    registry: Registry | None = None,
    record_plan: bool = False,
    async_tp: bool | None = None,
) -> ExportedProgram: ...


def apply(
    graph: fx.Graph | fx.GraphModule | ExportedProgram,
    config: SequenceParallelConfig | None = None,
    *,
    registry: Registry | None = None,
    record_plan: bool = False,
    async_tp: bool | None = None,
) -> Result | ExportedProgram:
    """Rewrites the all_reduces of a tensor-parallel graph to sequence parallelism, in place.

    ``x -> all_reduce -> [+ residual] -> rms_norm [-> fp8 quant]`` becomes ``x -> reduce_scatter ->
    [+ local residual] -> rms_norm [-> fp8 quant] -> all_gather`` wherever that is proved to compute
    the same on every rank; everything else stays as it is, with its reason. A GraphModule is not
    recompiled: call its ``recompile()`` afterwards. The GraphModules that it calls, or passes to
    operators such as ``torch.cond``, are rewritten likewise, and are recompiled.

    Args:
        graph: The graph that this rank compiles; values of shape [tokens, features] or
            [batch, sequence, features], with fake tensors in ``meta["val"]``. An
            exported program, too, is rewritten in place. As nobody checks a guard of one,
            ``divisibility="guard"`` is then ``"prove"``.
        config: What is not given is looked up from the graph's process groups.
        registry: The rules to use; None takes those of ``spfast.patterns``.
        record_plan: Whether the result's ``plan`` lists every edit, and its ``report`` can draw the
            graph.
        async_tp: Whether to make, after the rewrite, one operator of each collective and the matrix
            products beside it; None asks the config.

    Returns:
        What was rewritten, what was left and why, and how long each stage took. For an exported
        program the program itself, which saves, loads and runs.

    Raises:
        GraphError: ``graph`` is not a graph, or is not well formed.
        ConfigError: A process group cannot be looked up, or the config gives one rank and the graph
            reduces over several groups.
        VerificationError: ``config.validate`` is set and the result could not be proved right.

        Whatever is raised, the graph is exactly as it was.

    Example:
        >>> from spfast.testing import ops
        >>> _ = ops.declare()
        >>> graph = fx.Graph()
        >>> x, w = graph.placeholder("x"), graph.placeholder("w")
        >>> x.meta["val"] = torch.empty(16, 64, device="meta")
        >>> w.meta["val"] = torch.empty(64, device="meta")
        >>> reduced = graph.call_function(torch.ops.vllm.all_reduce.default, (x, "tp:0"))
        >>> normed = graph.call_function(
        ...     torch.ops.vllm_ir.rms_norm.default, (reduced, w, 1e-6)
        ... )
        >>> reduced.meta["val"] = normed.meta["val"] = x.meta["val"]
        >>> _ = graph.output((normed,))
        >>> int(apply(graph, SequenceParallelConfig(tp_size=8, tp_rank=0)))
        1
    """
    if async_tp is not None:
        config = replace(as_config(config), async_tp=async_tp)
    result = _apply(graph, config, registry, record_plan)
    tell(result)
    if is_program(graph):
        graph.graph_module.recompile()
        return graph
    return result


def _apply(
    graph: fx.Graph | fx.GraphModule | ExportedProgram,
    config: SequenceParallelConfig | None,
    registry: Registry | None,
    record_plan: bool,
) -> Result:
    start = time.perf_counter()
    begun = _begin(graph, config, registry)
    if begun is None:
        note = without_all_reduces(graph_of(graph))
        return Result(timings=Timings(total=time.perf_counter() - start), note=note)
    drawing = begun.draw() if record_plan else None
    with collector_off():
        result, runs, reports = _rewrite(begun, record_plan)
    total = time.perf_counter() - start
    seconds = {stage: sum(run.seconds[stage] for run in runs) for stage in STAGES}
    result = replace(result, timings=Timings(**seconds, total=total))
    if drawing is not None:
        result = replace(result, drawing=drawing.end(begun.graphs(), begun.registry, reports))
    return result


def _rewrite(begun: _Begun, record_plan: bool) -> tuple[Result, list[Run], list[Report]]:
    """Merges, plans and commits; whatever is raised, the graphs are as they were."""
    before = None
    if begun.config.validate:
        from spfast.verifier import snapshot

        before = snapshot(begun.graph)
    names = OutputNames(begun.graph) if begun.exported else None
    sums = begun.merge()
    try:
        runs = begun.runs()
        reports = [report for run in runs for report in run.reports()]
        result = _result(runs, reports, record_plan)
    except BaseException:
        sums.undo()
        raise
    later, pairs = _commit(begun, runs, sums, before, names)
    return replace(result, merged=(*sums.merged, *later), async_tp=pairs), runs, reports


def plan_graph(
    graph: fx.Graph | fx.GraphModule | ExportedProgram,
    config: SequenceParallelConfig | None = None,
    *,
    registry: Registry | None = None,
) -> Outlook:
    """Does everything that :func:`apply` does except the edits, and raises the same errors."""
    begun = _begin(graph, config, registry)
    if begun is None:
        return Outlook(note=without_all_reduces(graph_of(graph)))
    sums = begun.merge()
    try:
        runs = begun.runs()
        later, pairs = foresee(runs, begun.graphs(), begun.config, begun.registry)
        return Outlook(
            tuple(report for run in runs for report in run.reports()),
            tuple(each for run in runs for each in run.assumptions()),
            _plan_text(runs),
            (*sums.merged, *later),
            totals=tuple(name for run in runs for name in run.totals()),
            async_tp=pairs,
            padded=tuple(each for run in runs for each in run.padded()),
        )
    finally:
        sums.undo()


@dataclass(frozen=True)
class _Begun:
    """The graphs of one call, and how they are to be rewritten.

    Attributes:
        graph: The graph that was given.
        exported: Whether it is an exported program's.
        config: The configuration.
        registry: The rules.
        found: The graphs with something to do, by path, each with its module (but for the given
            graph): all_reduces, reduce_scatters whose sum may be read, or pairs that may be fused.
        others: The other graphs, where there are several: values go through them.
    """

    graph: fx.Graph
    exported: bool
    config: SequenceParallelConfig
    registry: Registry
    found: Mapping[str, tuple[fx.Graph, fx.GraphModule | None, AllReduces]]
    others: Mapping[str, tuple[fx.Graph, AllReduces]]

    def merge(self) -> Sums:
        """Merges the sums of reductions in all graphs, if the config asks for it."""
        return merge_sums(self.graphs(), self.registry) if self.config.merge_sums else Sums()

    def graphs(self) -> dict[str, fx.Graph]:
        """The graphs with collectives, by path."""
        return {path: graph for path, (graph, _, _) in self.found.items()}

    def draw(self) -> Drawing:
        """Takes the graphs down as they are now."""
        from spfast.report import Drawing

        return Drawing.begin(self.graphs(), self.registry)

    def runs(self) -> list[Run]:
        """One run for each graph, planned once all their groups are known."""
        runs = [
            Run(graph, self.config, self.registry, found, path, module)
            for path, (graph, module, found) in self.found.items()
        ]
        # These graphs have nothing to rewrite, but the values that go through them are followed.
        passed = [
            Run(graph, self.config, self.registry, found, path)
            for path, (graph, found) in self.others.items()
        ]
        everywhere = [*runs, *passed]
        groups = [group for run in everywhere for group in run.native.groups()]
        others = [name for run in everywhere for name in run.native.other_groups()]
        resolved = resolve_groups(groups, self.config, others)
        reduced, rest = iter(resolved), iter(resolved[len(groups) :])
        for run in everywhere:
            here = [next(reduced) for _ in run.native.groups()]
            run.set_groups(here + [next(rest) for _ in run.native.other_groups()])
        if len(everywhere) > 1:
            tell_across(everywhere)
        for run in runs:
            run.plan()
        return runs


def preview(
    graph: fx.Graph | fx.GraphModule | ExportedProgram,
    config: SequenceParallelConfig | None = None,
    *,
    registry: Registry | None = None,
) -> fx.Graph:
    """Returns a copy of a graph as :func:`apply` would make it; nothing is guarded or proved.

    Raises:
        GraphError: As :func:`apply`.
        ConfigError: As :func:`apply`.

    Example:
        >>> len(preview(fx.Graph()).nodes)
        0
    """
    copied = copy.deepcopy(graph_of(graph))
    begun = _begin(copied, config, registry, is_exported(graph))
    if begun is not None:
        with collector_off():
            begun.merge()
            runs = begun.runs()
            edited = [run for run in runs if run.native.planned_sites()]
            for run in edited:
                run.edit()
            merge_edited(edited, begun.config, begun.registry)
            fuse_all(begun.graphs(), begun.config, begun.registry)
    return copied


def _begin(
    graph: fx.Graph | fx.GraphModule | ExportedProgram,
    config: SequenceParallelConfig | None,
    registry: Registry | None,
    exported: bool = False,
) -> _Begun | None:
    """Looks for something to do; returns None, at next to no cost, where there is nothing."""
    given = graph_of(graph)
    registry = registry if registry is not None else default_registry()
    config = as_config(config)
    exported = exported or is_exported(graph)
    if exported and config.divisibility == "guard":
        config = replace(config, divisibility="prove")
    forms, merger = forms_of(registry), merger_of(registry)
    found: dict[str, tuple[fx.Graph, fx.GraphModule | None, AllReduces]] = {}
    others: dict[str, tuple[fx.Graph, AllReduces]] = {}
    modules = called_graphs(given)
    for path, each in {"": given, **{path: one.graph for path, one in modules.items()}}.items():
        here = find_all_reduces(each, forms)
        if (
            here
            or (config.merge_sums and merger.has_scatters(each))
            or (config.async_tp and has_collectives(each, registry))
        ):
            found[path] = (each, modules.get(path), here)
        else:
            others[path] = (each, here)
    return _Begun(given, exported, config, registry, found, others) if found else None


def _result(runs: Sequence[Run], reports: Sequence[Report], record_plan: bool) -> Result:
    """What will have been done once the plans are committed."""
    rewritten: Counter[str] = Counter()
    skipped = []
    for one in reports:
        if one.rewritten:
            rewritten[one.rule] += 1
        else:
            skipped.append(SkippedSite(one.node, one.reason, one.nearest))
    return Result(
        matched_count=sum(rewritten.values()),
        by_pattern=rewritten,
        skipped=tuple(skipped),
        assumptions=tuple(each for run in runs for each in run.assumptions()),
        plan=_plan_text(runs) if record_plan else "",
        totals=tuple(name for run in runs for name in run.totals()),
        padded=tuple(each for run in runs for each in run.padded()),
    )


def _plan_text(runs: Sequence[Run]) -> str:
    """Every edit, one a line; the edits of a called graph stand under its path."""
    texts = [(run.path, run.native.plan_text()) for run in runs]
    return "\n".join(f"in {path}:\n{text}" if path else text for path, text in texts if text)


def _commit(
    begun: _Begun,
    runs: Sequence[Run],
    sums: Sums,
    before: Snapshot | None,
    names: OutputNames | None,
) -> tuple[tuple[Merged, ...], AsyncTP | None]:
    """Makes the edits of all runs, then merges the sums and fuses the pairs that they leave.

    Takes everything back, and the sums that were merged before, if it is not proved right.
    """
    edited = [run for run in runs if run.native.planned_sites()]
    guarded = [run for run in runs if run in edited or run.left_as_odd]
    journals = list(sums.journals.values())
    compiled: list[fx.GraphModule] = []
    try:
        for run in edited:
            journals.append(run.edit())
        later = merge_edited(edited, begun.config, begun.registry)
        journals += later.journals.values()
        pairs = fuse_all(begun.graphs(), begun.config, begun.registry)
        journals += pairs.journals.values()
        if names is not None and journals:
            journals.append(names.keep())
        for run in guarded:  # a guard cannot be taken back: the edits come first
            run.guard()
        changed = {*(run.path for run in edited), *sums.journals, *pairs.journals}
        for run in runs:
            if run.module is not None and run.path in changed:
                compiled.append(run.module)
                run.module.recompile()
        if before is not None and (guarded or changed):
            from spfast.verifier import verify

            verify(before, begun.graph, begun.config).raise_if_failed()
    except BaseException:
        undo_all(journals)
        for module in compiled:
            module.recompile()
        raise
    return later.merged, pairs.found
