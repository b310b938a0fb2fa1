"""On real ranks: the untouched graph against the rewritten and fused one, on gloo."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from async_tp.forms import Pairs

import spfast
from spfast.testing import async_tp_stand_in, run_ranks

aten = torch.ops.aten


def _layer(b: Pairs, ranks: int, group: str) -> None:
    """Two layers that begin and end with a collective, as a rewritten MLP does."""
    c10d = torch.ops._c10d_functional
    x = b.placeholder("x", (16 // ranks, 32), b.dtype, "per_rank")
    for layer in range(2):
        call = b.call(c10d.all_gather_into_tensor.default, x, ranks, group)
        whole = b.call(c10d.wait_tensor.default, call)
        gate = b.mm(whole, b.weight(f"gate{layer}", 32, 16))
        up = b.mm(whole, b.weight(f"up{layer}", 32, 16))
        active = b.call(aten.mul.Tensor, b.call(aten.relu.default, gate), up)
        part = b.mm(active, b.weight(f"down{layer}", 16, 32))
        call = b.call(c10d.reduce_scatter_tensor.default, part, "sum", ranks, group)
        x = b.call(aten.add.Tensor, x, b.call(c10d.wait_tensor.default, call))
    b.output([x])


def errors(rank: int, ranks: int) -> list[tuple[str, int, float, float]]:
    """For each dtype: the pairs fused, the error of the unfused graph and of the fused one."""
    import torch.distributed as dist

    group = dist.group.WORLD.group_name
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        outputs, pairs = [], 0
        for kind in ("reference", "plain", "fused"):
            b = Pairs(dtype=dtype if kind != "reference" else torch.float64)
            _layer(b, ranks, group)
            inputs = [dataclasses.replace(spec, dtype=dtype).make(rank, 16, 0) for spec in b.inputs]
            inputs = [value.to(b.dtype) for value in inputs]
            graph = torch.fx.GraphModule({}, b.graph)
            with async_tp_stand_in():
                if kind == "fused":
                    config = spfast.SequenceParallelConfig(async_tp_thresholds=())
                    result = spfast.apply(graph, config, async_tp=True).async_tp
                    assert result is not None and not result.left
                    pairs = len(result.fused)
                    graph.recompile()
                outputs.append(graph(*inputs)[0].double())
        scale = outputs[0].abs().max()
        plain, fused = ((each - outputs[0]).abs().max() / scale for each in outputs[1:])
        found.append((str(dtype), pairs, float(plain), float(fused)))
    return found


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_error_against_float64_is_no_larger(ranks: int) -> None:
    for rows in run_ranks(errors, ranks, timeout=280):
        for dtype, pairs, plain, fused in rows:
            assert pairs == 4
            limit = 1e-6 if "32" in dtype else 2e-2
            assert plain < limit and fused <= max(1.5 * plain, limit / 4), (dtype, plain, fused)
