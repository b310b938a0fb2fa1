"""Where a step's time goes: kernels by kind, and the time in which nothing is computed."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable

import torch

KINDS = (
    ("nccl", re.compile("nccl", re.I)),
    ("signal", re.compile("signal|barrier", re.I)),
    ("copy", re.compile("memcpy", re.I)),
    ("attention", re.compile("flash|fmha|attention", re.I)),
    ("product", re.compile("gemm|nvjet|cutlass|cublas|splitk", re.I)),
)
MOVING = ("nccl", "signal", "copy")  # the rest computes

Span = tuple[float, float]


def exposed(step: Callable[[], object]) -> dict[str, object]:
    """Profiles one step on the GPU of this rank, the second of two.

    Args:
        step: Makes one; every rank has to make this call.

    Returns:
        Milliseconds from the first kernel to the last ("span"), in which something computes
        ("computes"), the difference ("exposed"), of each kind of kernel ("busy"), and of the
        longest kernels by name ("longest").
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        step()  # to which the ranks come one after the other; the next they begin together
        torch.cuda.synchronize()
        begun = time.time_ns()
        step()
        torch.cuda.synchronize()
    busy: Counter[str] = Counter()
    names: Counter[str] = Counter()
    spans: list[tuple[str, Span]] = []
    for event in profiler.profiler.kineto_results.events():
        if "CUDA" not in str(event.device_type()) or event.duration_ns() <= 0:
            continue
        if event.start_ns() < begun:
            continue
        if event.name().startswith(("gpu_", "## ", "Context Sync", "Event")):
            continue
        kind = next((kind for kind, words in KINDS if words.search(event.name())), "rows")
        begin = event.start_ns() / 1e6
        spans.append((kind, (begin, begin + event.duration_ns() / 1e6)))
        busy[kind] += event.duration_ns() / 1e6
        names[event.name()[:90]] += event.duration_ns() / 1e6
    if not spans:
        return {}
    span = max(end for _, (_, end) in spans) - min(begin for _, (begin, _) in spans)
    computes = covered(each for kind, each in spans if kind not in MOVING)
    return {
        "span": span,
        "computes": computes,
        "exposed": span - computes,
        "busy": dict(sorted(busy.items())),
        "longest": dict(names.most_common(14)),
    }


def covered(spans: Iterable[Span]) -> float:
    """The length of what is in at least one of the spans.

    >>> covered([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0)])
    4.0
    """
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
