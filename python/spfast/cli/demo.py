"""What `spfast demo` shows: the pass on two bundled 80-layer graphs, counted and timed as it runs.

Nothing in the report is a recorded figure: every number is measured or counted in the run that
prints it, on the machine it runs on.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib import resources
from typing import TYPE_CHECKING, Any

from spfast.config import SequenceParallelConfig
from spfast.explanation import RECOGNISERS

if TYPE_CHECKING:
    from torch import fx

__all__ = ["CAPTURES", "Capture", "DemoReport", "GraphReport", "run"]

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Capture:
    """A bundled graph.

    Attributes:
        file: Its name in spfast/data.
        title: What it is, for the report.
        tp_size: Ranks of its tensor-parallel group.
    """

    file: str
    title: str
    tp_size: int


CAPTURES: tuple[Capture, ...] = (
    Capture(
        "hf_llama70b_80layer_static.spfx",
        "Hugging Face Llama, 70B-shaped, 80 layers, at Inductor's post-grad stage",
        8,
    ),
    Capture(
        "vllm_ir_fp8_custom_80layer.spfx",
        "vLLM-IR dialect, 70B-shaped, 80 layers, FP8",
        8,
    ),
)

# Timed runs of the pass; each gets a graph of its own, decoded outside the clock.
REPEATS = 5


@dataclass(frozen=True)
class GraphReport:
    """What the pass did to one graph.

    Attributes:
        title: What the graph is.
        tp_size: Ranks of the group.
        nodes_before: Nodes of the graph before the pass.
        nodes_after: And after it.
        sites: all_reduces of the graph before the pass.
        rewritten: Rewritten sites by the rule's name.
        left: Sites left as they were, by reason.
        recognised: Sites that each recogniser rewrites alone.
        collectives: Collective to (count before, count after).
        stages: Seconds by stage, and in between them, of the run with the median total: their sum
            is the total.
        total: Median seconds of the whole pass.
        reference: Seconds of the pure-Python reference on the same graph, one run.
        bytes_before: Bytes of all residual and norm activations that a rank computes before the
            pass, each site's counted: what training saves, and no peak.
        bytes_after: And after it.
        peak_before: The most bytes of computed values that live at once before the pass, if the
            graph runs node by node and memory is reused at once; inputs are not counted.
        peak_after: And after it.
    """

    title: str
    tp_size: int
    nodes_before: int
    nodes_after: int
    sites: int
    rewritten: dict[str, int]
    left: dict[str, int]
    recognised: dict[str, int]
    collectives: dict[str, tuple[int, int]]
    stages: dict[str, float]
    total: float
    reference: float
    bytes_before: int
    bytes_after: int
    peak_before: int
    peak_after: int


@dataclass(frozen=True)
class DemoReport:
    """The reports of all bundled graphs."""

    graphs: tuple[GraphReport, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the report as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n\n".join("\n".join(_lines(graph)) for graph in self.graphs)


def run(progress: Progress | None = None, captures: tuple[Capture, ...] = CAPTURES) -> DemoReport:
    """Applies the pass to bundled graphs and reports what happened.

    Args:
        progress: Called with the share done (0 to 1) and what is being done.
        captures: The graphs to show.

    Returns:
        The report; ``str()`` renders it.

    Example:
        >>> small = Capture("vllm_ir_bf16_2layer.spfx", "two layers", tp_size=8)
        >>> run(captures=(small,)).graphs[0].sites
        5
    """
    steps = _Steps(len(captures) * (REPEATS + 3), progress or (lambda share, what: None))
    return DemoReport(tuple(_report(capture, steps) for capture in captures))


class _Steps:
    """Counts steps for the progress callback."""

    def __init__(self, total: int, tell: Progress) -> None:
        self._total, self._tell, self._done = total, tell, 0

    def next(self, what: str) -> None:
        self._tell(min(self._done / self._total, 1.0), what)
        self._done += 1


def _report(capture: Capture, steps: _Steps) -> GraphReport:
    from spfast import NodeTable, apply, reference
    from spfast.testing import ops

    ops.declare()
    config = SequenceParallelConfig(tp_size=capture.tp_size, tp_rank=0)
    name = capture.file.removesuffix(".spfx")
    steps.next(f"{name}: loading")
    with resources.as_file(resources.files("spfast") / "data" / capture.file) as path:
        table = NodeTable.load(str(path))

    timed = []
    for repeat in range(REPEATS):
        steps.next(f"{name}: rewriting, run {repeat + 1} of {REPEATS}")
        graph = table.to_graph()
        before = _collectives(graph)
        nodes_before, peak_before = len(graph.nodes), _peak(graph)
        timed.append(apply(graph, config))
    middle = sorted(timed, key=lambda result: result.timings.total)[REPEATS // 2]

    steps.next(f"{name}: the same in pure Python")
    other = table.to_graph()
    start = time.perf_counter()
    expected = reference.apply(other, config)
    reference_seconds = time.perf_counter() - start
    if int(expected) != int(middle):
        raise AssertionError(
            f"the reference rewrote {int(expected)} sites and the pass {int(middle)}"
        )

    steps.next(f"{name}: counting")
    local = _activation_bytes(graph)
    after = _collectives(graph)
    return GraphReport(
        title=capture.title,
        tp_size=capture.tp_size,
        nodes_before=nodes_before,
        nodes_after=len(graph.nodes),
        sites=before["all_reduce"],
        rewritten=dict(middle.by_pattern),
        left=dict(Counter(site.reason for site in middle.skipped)),
        recognised={
            recognise: int(apply(table.to_graph(), replace(config, recognise=recognise)))
            for recognise in RECOGNISERS
        },
        collectives={kind: (before[kind], after[kind]) for kind in _KINDS},
        stages=middle.timings.stages(),
        total=middle.timings.total,
        reference=reference_seconds,
        bytes_before=local * capture.tp_size,
        bytes_after=local,
        peak_before=peak_before,
        peak_after=_peak(graph),
    )


_KINDS = ("all_reduce", "reduce_scatter", "all_gather")


def _kind(node: fx.Node) -> str | None:
    """The collective that a node is, whatever its dialect calls it."""
    if node.op != "call_function":
        return None
    name = str(node.target).split(".")
    if len(name) < 2 or name[0] not in ("vllm", "_c10d_functional"):
        return None
    return next((kind for kind in _KINDS if name[1].startswith(kind)), None)


def _collectives(graph: fx.Graph) -> Counter[str]:
    return Counter(kind for node in graph.nodes if (kind := _kind(node)))


def _activation_bytes(graph: fx.Graph) -> int:
    """Bytes of a rank's own rows of every residual and every normed value in a rewritten graph.

    A normed value is what a gather reads. A residual is what is added to a scattered value, and
    the scattered value itself where nothing is added to it.
    """
    values: set[fx.Node] = set()
    for node in graph.nodes:
        kind = _kind(node)
        if kind == "reduce_scatter":
            values.update(_residuals(node))
        elif kind == "all_gather" and _from_a_scatter(node):
            values.update(node.all_input_nodes)
    return sum(_bytes(node) for node in values)


def _peak(graph: fx.Graph) -> int:
    """The most bytes of computed values that live at once."""
    from spfast.patterns import default_registry
    from spfast.report.memory import live_bytes
    from spfast.report.rows import rows_of

    return max(live_bytes(rows_of(graph, default_registry())), default=0)


def _residuals(scatter: fx.Node) -> Iterator[fx.Node]:
    local = next(iter(scatter.users)) if _waited(scatter) else scatter
    added = False
    for user in local.users:
        if "add" in str(user.target):
            others = [
                n for n in user.all_input_nodes if n is not local and _shape(n) == _shape(local)
            ]
            added = added or bool(others)
            yield from others
    if not added:
        yield local


def _from_a_scatter(gather: fx.Node, depth: int = 24) -> bool:
    """Whether a gather's operand has a scattered value upstream within one site's length."""
    frontier = list(gather.all_input_nodes)
    for _ in range(depth):
        if any(_kind(node) == "reduce_scatter" for node in frontier):
            return True
        frontier = [source for node in frontier for source in node.all_input_nodes]
    return False


def _waited(node: fx.Node) -> bool:
    users = list(node.users)
    return len(users) == 1 and "wait_tensor" in str(users[0].target)


def _shape(node: fx.Node) -> tuple[Any, ...] | None:
    value: Any = node.meta.get("val")
    return tuple(value.shape) if hasattr(value, "shape") else None


def _bytes(node: fx.Node) -> int:
    value = node.meta["val"]
    return int(value.numel()) * int(value.element_size())


def _lines(report: GraphReport) -> Iterator[str]:
    done = sum(report.rewritten.values())
    yield f"{report.title}; {report.tp_size} ranks"
    yield f"  nodes            {report.nodes_before:>7,} -> {report.nodes_after:,}"
    yield f"  sites            {report.sites:>7,}"
    yield f"    rewritten      {done:>7,}"
    for rule, count in sorted(report.rewritten.items()):
        yield f"                   {count:>7,}  {rule}"
    yield f"    left           {sum(report.left.values()):>7,}"
    for reason, count in sorted(report.left.items()):
        yield f"                   {count:>7,}  {reason}"
    alone = ", ".join(f"{name} {count:,}" for name, count in report.recognised.items())
    yield f"  by one recogniser alone: {alone}"
    yield "  collectives       before   after"
    for kind, (before, after) in report.collectives.items():
        yield f"    {kind:<14} {before:>7,} {after:>7,}"
    yield f"  whole pass       {_ms(report.total)}  (median of {REPEATS})"
    for stage, seconds in report.stages.items():
        yield f"    {stage:<14} {_ms(seconds)}"
    ratio = report.reference / report.total if report.total else float("inf")
    yield f"  in pure Python   {_ms(report.reference)}  ({ratio:.0f} times as long, one run)"
    yield "  memory of a rank  before   after"
    for what, before, after in (
        ("at its peak", report.peak_before, report.peak_after),
        ("of all sites", report.bytes_before, report.bytes_after),
    ):
        yield f"    {what:<14} {_gib(before)} {_gib(after)}"
    yield "    (peak: values that live at once, before fusion; of all sites: every residual and"
    yield "    normed value together, as training saves them, which inference never holds at once)"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:>10.3f} ms"


def _gib(count: int) -> str:
    return f"{count / 2**30:>7.2f} GiB"
