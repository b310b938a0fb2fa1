"""Measures the contenders in turn: time, memory, collectives, compile, and how exact they are."""

from __future__ import annotations

import gc
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch._inductor.config as inductor_config
import torch.distributed as dist
from torch import fx

import spfast

from ..clock import timed
from .cases import Case
from .contenders import CONTENDERS, Contender, put_in
from .exposed import exposed
from .models import Step, exact_result, make_step

# Makes what torch.compile hands its graphs to; it keeps them in the list it is given.
Backend = Callable[[list[fx.GraphModule]], Any]
WARM_ROUNDS = 3


@dataclass
class _Ready:
    """A contender whose step is compiled.

    Attributes:
        step: Makes one.
        contender: Who it is.
        row: What is known of it so far.
        times: Milliseconds of each step.
        host: Milliseconds that the host took to ask for it; near the step's own, the host is what
            the devices wait for.
    """

    step: Step
    contender: Contender
    row: dict[str, Any]
    times: list[float] = field(default_factory=list)
    host: list[float] = field(default_factory=list)


def measure(
    case: Case,
    mesh: Any,
    contenders: Sequence[Contender] = CONTENDERS,
    backend: Backend | None = None,
    profile: bool = False,
) -> dict[str, Any]:
    """Compiles all contenders, then times them in turn; every rank has to.

    Args:
        case: What is done.
        mesh: A one-dimensional DeviceMesh, the tensor-parallel ranks.
        contenders: Who takes part, of those that suit the case.
        backend: Of torch.compile; None is Inductor, whose lowered graphs are counted.
        profile: Whether each contender's kernels are looked at, too.

    Returns:
        Plain data. A contender that failed has its error in place of figures.
    """
    torch._dynamo.reset()
    gc.collect()
    rows: list[dict[str, Any]] = []
    ready: list[_Ready] = []
    exact = exact_result(case, mesh) if case.device == "cuda" else None
    plain: torch.Tensor | None = None
    with torch._dynamo.config.patch(recompile_limit=len(contenders) + 8):
        for contender in contenders:
            if not contender.suits(case.step):
                continue
            row: dict[str, Any] = {"name": contender.name}
            rows.append(row)
            try:
                step, found, result = _compile(case, mesh, contender, backend)
            except Exception as error:  # the others are measured all the same
                row["error"] = f"{type(error).__name__}: {error}"[:300]
                continue
            if plain is None and not contender.by_hand and not contender.limit:
                plain = result
            if not contender.limit:
                row["difference"] = None if plain is None else _far(result, plain)
                row["error_f64"] = None if exact is None else _far(result, exact)
            row |= found
            ready.append(_Ready(step, contender, row))
        for round_ in range(WARM_ROUNDS + case.iterations):
            for each in ready:
                _prepare(each.contender, case.device)
                milliseconds, host = _time(each.step, case.device)
                if round_ >= WARM_ROUNDS:
                    each.times.append(milliseconds)
                    each.host.append(host)
        for each in ready:
            _prepare(each.contender, case.device)
            times = _of_slowest(each.times, case.device)
            each.row["median_ms"] = statistics.median(times)
            each.row["least_ms"] = min(times)
            each.row["host_ms"] = statistics.median(_of_slowest(each.host, case.device))
            each.row["peak_gib"] = _peak(each.step) if case.device == "cuda" else None
            if profile:
                each.row["profile"] = exposed(each.step)
        if case.device == "cuda" and case.step != "training":
            _time_graphs(ready, case.iterations)
    return {"case": asdict(case), "ranks": mesh.size(), "contenders": rows}


def _far(one: torch.Tensor, other: torch.Tensor) -> float:
    """The norm of the difference, as a share of the other's norm."""
    return ((one - other).norm() / other.norm()).item()


def _compile(
    case: Case, mesh: Any, contender: Contender, backend: Backend | None
) -> tuple[Step, dict[str, Any], torch.Tensor]:
    """The compiled step, what its compilation says, and what it yields."""
    counter = _Counter()
    kept: list[fx.GraphModule] = []
    _prepare(contender, case.device)
    with put_in(contender) as put, inductor_config.patch(post_grad_custom_post_pass=counter):
        chosen = "inductor" if backend is None else backend(kept)
        step = make_step(case, mesh, contender.by_hand, chosen)
        begin = time.perf_counter()
        step()
        _synchronize(case.device)
        compile_seconds = time.perf_counter() - begin
    result = step.result()
    for graph in kept:
        counter(graph.graph)
    figures = {
        "compile_s": compile_seconds,
        "pass_ms": put.seconds * 1e3,
        "collectives": dict(sorted(counter.found.items())),
    }
    return step, figures, result


class _Counter:
    """Counts collectives and fused operators of what is lowered, small sums aside.

    A sum of a weight's gradient is one row; what the table counts has a row a token.
    """

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()

    def __call__(self, graph: fx.Graph) -> None:
        for node in graph.nodes:
            namespace, _, name = str(node.target).partition(".")
            if node.op != "call_function" or namespace not in ("_c10d_functional", "symm_mem"):
                continue
            value = node.meta.get("val")
            if "wait" in name or (isinstance(value, torch.Tensor) and value.dim() < 2):
                continue
            self.found[name.removesuffix(".default")] += 1

    def uuid(self) -> None:
        """Nothing is cached."""


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _time(step: Step, device: str) -> tuple[float, float]:
    """Milliseconds of one step that all ranks begin together, and of asking for it."""
    dist.barrier()
    start = time.perf_counter()
    if device != "cuda":
        step()
        host = (time.perf_counter() - start) * 1e3
        return host, host
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    start = time.perf_counter()
    step()
    host = (time.perf_counter() - start) * 1e3
    end.record()
    torch.cuda.synchronize()
    step.forget()
    return begin.elapsed_time(end), host


def _of_slowest(times: list[float], device: str) -> list[float]:
    """Of each round, the rank's that took longest: ranks that exchange nothing drift apart."""
    found = torch.tensor(times, dtype=torch.float64, device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return found.tolist()


def _prepare(contender: Contender, device: str) -> None:
    """Puts a contender's kernels behind the fused operators."""
    if device == "cuda":
        spfast.enable_async_tp(kernels=contender.kernels)


def _time_graphs(ready: Sequence[_Ready], iterations: int) -> None:
    """Times the steps as CUDA graphs, in turn: what is left where the host asks for nothing."""
    graphs = []
    for each in ready:
        _prepare(each.contender, "cuda")
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                each.step()
        except Exception as error:  # of all ranks alike: the others are timed all the same
            each.row["graph_error"] = f"{type(error).__name__}: {error}"[:300]
        else:
            graphs.append((each.row, graph, list[float]()))
    for round_ in range(WARM_ROUNDS + iterations):
        for _, graph, times in graphs:
            milliseconds = timed(graph.replay, 1, 1) / 1e3
            if round_ >= WARM_ROUNDS:
                times.append(milliseconds)
    for row, _, times in graphs:
        row["graph_ms"] = statistics.median(_of_slowest(times, "cuda"))


def _peak(step: Step) -> float:
    """GiB that one step needs at once, above what was there before it.

    Symmetric memory's own buffers are kept from step to step, and are not in it.
    """
    step.forget()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    peak = (torch.cuda.max_memory_allocated() - before) / 2**30
    step.forget()
    return peak
