"""The pass itself: the five verbs in order, and the answers to what the core asks in between."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from spfast import _core
from spfast.config import SequenceParallelConfig
from spfast.divisibility import Decision, decide
from spfast.graphs import graph_of
from spfast.groups import Group, resolve_group
from spfast.meta import MissingValue, TokenShare, make_values
from spfast.patterns import Registry, default_registry
from spfast.result import Result, SkippedSite, Timings
from spfast.rules import anchors_in, rules_of
from spfast.tensor_meta import tensor_metas

__all__ = ["Report", "apply", "plan_graph"]

logger = logging.getLogger("spfast")

# (node, rewritten, rule, reason, nearest) of one all_reduce, as the core reports it.
Report = tuple[str, bool, str, str, str]


def apply(
    graph: fx.Graph | fx.GraphModule,
    config: SequenceParallelConfig | None = None,
    *,
    registry: Registry | None = None,
    record_plan: bool = False,
) -> Result:
    """Rewrites the all_reduces of a tensor-parallel graph to sequence parallelism, in place.

    ``x -> all_reduce -> [+ residual] -> rms_norm [-> fp8 quant]`` becomes ``x -> reduce_scatter ->
    [+ local residual] -> rms_norm [-> fp8 quant] -> all_gather`` wherever that is proved to compute
    the same on every rank; everything else stays as it is, with its reason. A GraphModule is not
    recompiled: call its ``recompile()`` afterwards.

    Args:
        graph: The graph that this rank compiles; values of shape [tokens, features] or
            [batch, sequence, features], with fake tensors in ``meta["val"]``.
        config: What is not given is looked up from the graph's process groups.
        registry: The rules to use; None takes those of ``spfast.patterns``.
        record_plan: Whether the result's ``plan`` lists every edit.

    Returns:
        What was rewritten, what was left and why, and how long each stage took.

    Raises:
        GraphError: ``graph`` is not a graph, or is not well formed.
        ConfigError: A process group cannot be looked up.
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
    start = time.perf_counter()
    begun = _begin(graph, config, registry)
    if begun is None:
        result = Result(timings=Timings(total=time.perf_counter() - start))
        _tell(result)
        return result
    with _collector_off():
        run = _Run(*begun)
        run.plan()
        result = run.result(record_plan=record_plan)
        if run.job.planned_sites():
            run.commit()
    total = time.perf_counter() - start
    result = replace(result, timings=Timings(**run.seconds, total=total))
    _tell(result)
    return result


def plan_graph(
    graph: fx.Graph | fx.GraphModule,
    config: SequenceParallelConfig | None = None,
    *,
    registry: Registry | None = None,
) -> tuple[list[Report], str]:
    """Does all that :func:`apply` does but the edits.

    Returns:
        A report for each all_reduce, in graph order, and every edit that would be made.

    Raises:
        GraphError: As :func:`apply`.
        ConfigError: As :func:`apply`.
    """
    begun = _begin(graph, config, registry)
    if begun is None:
        return [], ""
    run = _Run(*begun)
    run.plan()
    return run.job.reports(), run.job.plan_text()


def _begin(
    graph: fx.Graph | fx.GraphModule,
    config: SequenceParallelConfig | None,
    registry: Registry | None,
) -> tuple[fx.Graph, SequenceParallelConfig, Registry] | None:
    """What a run is of; None, at next to no cost, for a graph without any all_reduce."""
    found = graph_of(graph)
    registry = registry if registry is not None else default_registry()
    if not anchors_in(found, registry):
        return None
    return found, config if config is not None else SequenceParallelConfig(), registry


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    """Keeps Python's garbage collector out of the few milliseconds that a rewrite takes.

    A graph's many new objects set off full collections, each of which looks at everything that the
    process holds and finds nothing: with a large model loaded they take longer than all the rest.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Run:
    """One run over one graph that has all_reduces.

    Attributes:
        job: The native side.
        seconds: Seconds by stage so far.
    """

    def __init__(self, graph: fx.Graph, config: SequenceParallelConfig, registry: Registry) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(
            ("encode", "match", "plan", "commit", "meta"), 0.0
        )
        self._graph = graph
        self._config = config
        rules = rules_of(registry, quantised=config.gather_quantized)
        clock = time.perf_counter()
        self.job = _core.Job(graph, rules)
        self.seconds["encode"] = time.perf_counter() - clock
        self._groups: list[Group] = []
        self._decisions: list[Decision] = []
        # Of created nodes, of resized ones, and tensor_meta of the latter.
        self._values: tuple[list[Any], list[Any], list[Any]] = ([], [], [])

    def plan(self) -> None:
        """Matches, plans and makes the new values; nothing in the graph is changed."""
        job = self.job
        self._groups = [resolve_group(group, self._config) for group in job.groups()]
        job.set_groups([(group.size, group.rank, group.problem) for group in self._groups])
        clock = time.perf_counter()
        recognise, as_bytes = self._config.recognise, self._config.gather_bytes
        if as_bytes is None:
            as_bytes = not all(group.takes_float8 for group in self._groups)
        job.match(
            patterns=recognise != "rowwise",
            rowwise=recognise != "patterns",
            gather_bytes=as_bytes,
        )
        self._count("match", clock)
        while True:
            clock = time.perf_counter()
            job.examine()
            shares = self._share_tokens()
            job.plan()
            self._count("plan", clock)
            clock = time.perf_counter()
            try:
                created, resized = job.value_specs()
                values = make_values(created, resized, shares)
                described = tensor_metas((spec[1] for spec in resized), values[1])
                self._values = *values, described
                return
            except MissingValue as missing:
                # Its site stays, and the plan is made anew without it.
                if not job.refuse_node(missing.node):
                    raise
            finally:
                self._count("meta", clock)

    def _share_tokens(self) -> list[TokenShare | None]:
        """Decides for each number of tokens whether it can be shared, and refuses the others."""
        self._decisions = []
        shares: list[TokenShare | None] = []
        refused = False
        for index, (tokens, group) in enumerate(self.job.classes()):
            shares.append(None)
            size = self._groups[group].size
            if tokens is None or not size:
                continue
            decision = decide(tokens, size, self._config.divisibility)
            self._decisions.append(decision)
            if decision.refused:
                self.job.refuse_class(index, decision.refused)
                refused = True
            else:
                shares[index] = TokenShare.of(tokens, size)
        if refused:
            self.job.examine()
        return shares

    def result(self, record_plan: bool) -> Result:
        """What will have been done once the plan is committed."""
        rewritten: Counter[str] = Counter()
        skipped = []
        for node, done, rule, reason, nearest in self.job.reports():
            if done:
                rewritten[rule] += 1
            else:
                skipped.append(SkippedSite(node, reason, nearest))
        return Result(
            matched_count=sum(rewritten.values()),
            by_pattern=rewritten,
            skipped=tuple(skipped),
            plan=self.job.plan_text() if record_plan else "",
        )

    def commit(self) -> None:
        """Makes the edits; with ``validate``, takes them back where they cannot be proved right."""
        before = self._snapshot()
        clock = time.perf_counter()
        journal = self.job.commit(*self._values)
        try:
            for decision in self._decisions:  # a guard cannot be taken back: the edits come first
                decision.commit()
            self._count("commit", clock)
            if before is not None:
                self._verify(before)
        except BaseException:
            journal.undo()
            raise

    def _snapshot(self) -> Any:
        if not self._config.validate:
            return None
        from spfast.verifier import snapshot

        return snapshot(self._graph)

    def _verify(self, before: Any) -> None:
        from spfast.verifier import verify

        verify(before, self._graph, self._config).raise_if_failed()

    def _count(self, stage: str, clock: float) -> None:
        self.seconds[stage] += time.perf_counter() - clock


def _tell(result: Result) -> None:
    """One line a graph: what was asked for, what was done, what was left and why."""
    asked = result.matched_count + len(result.skipped)
    if logger.isEnabledFor(logging.INFO):
        rules = ", ".join(f"{n} {rule}" for rule, n in sorted(result.by_pattern.items()))
        reasons = Counter(site.reason for site in result.skipped)
        left = "; ".join(f"{n} left: {reason}" for reason, n in reasons.most_common(3))
        logger.info(
            "sequence parallelism: %d all_reduces, %d rewritten%s%s, %.3f ms",
            asked,
            result.matched_count,
            f" ({rules})" if rules else "",
            f", {left}" if left else "",
            result.timings.total * 1e3,
        )
    torch_logging: Any = torch._logging
    handlers = torch_logging._internal.trace_log.handlers
    # A record takes longer to make than the rewrite; torch's own handler writes nothing without a
    # folder (TORCH_TRACE).
    if asked and any(getattr(handler, "root_dir", handler) is not None for handler in handlers):
        torch_logging.trace_structured(
            "artifact",
            metadata_fn=lambda: {"name": "spfast_sequence_parallelism", "encoding": "string"},
            payload_fn=lambda: str(result),
        )
