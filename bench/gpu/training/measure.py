"""Measures each contender: time, memory, collectives, compile, and how far it is from plain."""

from __future__ import annotations

import gc
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch._inductor.config as inductor_config
import torch.distributed as dist
from torch import fx

from spfast.testing.models.dtensor import Sizes, build_decoder

from .contenders import CONTENDERS, Contender, put_in


@dataclass(frozen=True)
class Case:
    """What is trained for one step.

    Attributes:
        name: As the table calls it.
        sizes: Of the decoder, which has no vocabulary here.
        tokens: Of one sample.
        dtype: Of weights and values.
        device: "cuda" or "cpu".
        iterations: Steps that are timed.
    """

    name: str
    sizes: Sizes
    tokens: int = 8192
    dtype: str = "bfloat16"
    device: str = "cuda"
    iterations: int = 15


CASES = (
    Case("8B-shaped, 8 layers", Sizes(4096, 14336, 32, 8, layers=8)),
    Case("70B-shaped, 4 layers", Sizes(8192, 28672, 64, 8, layers=4)),
)

# Makes what torch.compile hands its graphs to; it keeps them in the list it is given.
Backend = Callable[[list[fx.GraphModule]], Any]


def measure(
    case: Case,
    mesh: Any,
    contenders: Sequence[Contender] = CONTENDERS,
    backend: Backend | None = None,
) -> dict[str, Any]:
    """Measures all contenders one after the other; every rank has to.

    Args:
        case: What is trained.
        mesh: A one-dimensional DeviceMesh, the tensor-parallel ranks.
        contenders: Who takes part.
        backend: Of torch.compile; None is Inductor, whose lowered graphs are counted.

    Returns:
        Plain data. A contender that failed has its error in place of figures.
    """
    rows: list[dict[str, Any]] = []
    plain: torch.Tensor | None = None
    for contender in contenders:
        row: dict[str, Any] = {"name": contender.name}
        try:
            found, result = _of_one(case, mesh, contender, backend)
            if plain is None and not contender.by_hand and not contender.limit:
                plain = result
            if plain is not None and not contender.limit:
                row["difference"] = ((result - plain).norm() / plain.norm()).item()
            row |= found
        except Exception as error:  # the others are measured all the same
            row["error"] = f"{type(error).__name__}: {error}"[:300]
        rows.append(row)
    return {"case": asdict(case), "ranks": mesh.size(), "contenders": rows}


def _of_one(
    case: Case, mesh: Any, contender: Contender, backend: Backend | None
) -> tuple[dict[str, Any], torch.Tensor]:
    torch._dynamo.reset()
    gc.collect()
    dtype = getattr(torch, case.dtype)
    model = build_decoder(
        case.sizes, mesh, by_hand=contender.by_hand, dtype=dtype, device=case.device
    )
    generator = torch.Generator(case.device).manual_seed(1)
    x = torch.randn(
        1, case.tokens, case.sizes.hidden, device=case.device, dtype=dtype, generator=generator
    )
    if contender.by_hand:
        x = x.chunk(mesh.size(), 1)[mesh.get_local_rank()].contiguous()
    x.requires_grad_()  # as it is where an embedding learns
    upstream = torch.ones_like(x)
    counter = _Counter()
    kept: list[fx.GraphModule] = []
    with put_in(contender) as put, inductor_config.patch(post_grad_custom_post_pass=counter):
        chosen = "inductor" if backend is None else backend(kept)
        compiled = torch.compile(model, fullgraph=True, backend=chosen)

        def step() -> None:
            x.grad = None
            model.zero_grad(set_to_none=True)
            compiled(x).backward(upstream)

        begin = time.perf_counter()
        step()
        _synchronize(case.device)
        compile_seconds = time.perf_counter() - begin
        # A replicated weight's gradient has all of the step behind it. By hand it is a partial sum.
        gradient = model.layers[0].norm1.weight.grad
        whole = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
        result = whole.detach().float().clone()
        del gradient, whole
        times, peak = _time(step, case)
    for graph in kept:
        counter(graph.graph)
    figures = {
        "median_ms": statistics.median(times),
        "least_ms": min(times),
        "peak_gib": peak,
        "compile_s": compile_seconds,
        "pass_ms": put.seconds * 1e3,
        "collectives": dict(sorted(counter.found.items())),
    }
    return figures, result


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


def _time(step: Callable[[], None], case: Case) -> tuple[list[float], float | None]:
    """Milliseconds of each step, and the peak of memory above what was there before, in GiB."""
    times, peak = [], None
    for _ in range(3):
        step()
    if case.device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    for _ in range(case.iterations):
        dist.barrier()
        if case.device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            step()
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end))
        else:
            start = time.perf_counter()
            step()
            times.append((time.perf_counter() - start) * 1e3)
    if case.device == "cuda":
        peak = (torch.cuda.max_memory_allocated() - before) / 2**30
    return times, peak
