"""On a GPU: Inductor with Triton, two gloo ranks that share one device, bf16 and fp8 layers.

Skipped where there is no GPU.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import spfast
from spfast.testing import ops
from spfast.testing.gloo import run_ranks

HIDDEN, INNER, TOKENS = 256, 512, 64
FP8 = torch.float8_e4m3fn

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def all_reduce(x: torch.Tensor) -> torch.Tensor:
    # The stand-in goes through host memory; gloo's functional collectives end in a segmentation
    # fault on a GPU's.
    return torch.ops.vllm.all_reduce(x, "tp:0")


class Linear(nn.Module):
    """A rank's part of a projection, in bf16 or, with static scales, in fp8."""

    def __init__(self, inputs: int, outputs: int, fp8: bool) -> None:
        super().__init__()
        weight = torch.randn(outputs, inputs) * inputs**-0.5
        self.fp8 = fp8
        self.weight = nn.Parameter(
            weight.clamp(-4, 4).to(FP8) if fp8 else weight.bfloat16(), requires_grad=False
        )
        self.register_buffer("scale", torch.tensor(0.05))
        self.register_buffer("one", torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.fp8:
            return nn.functional.linear(x, self.weight)
        limit = torch.finfo(FP8).max
        wide = x.float() / self.scale
        quantised = wide.clamp(-limit, limit).to(FP8)
        return torch._scaled_mm(
            quantised, self.weight.t(), self.scale, self.one, out_dtype=torch.bfloat16
        )


class Layer(nn.Module):
    def __init__(self, ranks: int, fp8: bool) -> None:
        super().__init__()
        self.first = nn.RMSNorm(HIDDEN, eps=1e-5).bfloat16()
        self.second = nn.RMSNorm(HIDDEN, eps=1e-5).bfloat16()
        self.up = Linear(HIDDEN, INNER // ranks, fp8)
        self.down = Linear(INNER // ranks, HIDDEN, False)
        self.gate = Linear(HIDDEN, INNER // ranks, fp8)
        self.out = Linear(INNER // ranks, HIDDEN, False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + all_reduce(self.down(torch.tanh(self.up(self.first(x)))))
        return x + all_reduce(self.out(nn.functional.silu(self.gate(self.second(x)))))


class Model(nn.Module):
    def __init__(self, ranks: int, fp8: bool, layers: int = 2) -> None:
        super().__init__()
        self.embed = Linear(HIDDEN, HIDDEN, False)
        self.layers = nn.ModuleList(Layer(ranks, fp8) for _ in range(layers))
        self.norm = nn.RMSNorm(HIDDEN, eps=1e-5).bfloat16()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = all_reduce(self.embed(x))
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


def compare(rank: int, ranks: int, fp8: bool, dynamic: bool) -> dict[str, Any]:
    """The compiled model with and without the pass, on this rank."""
    import torch._inductor.config as inductor

    torch.cuda.set_device(0)
    ops.declare()
    ops.register_group("tp:0", dist.group.WORLD)
    torch.manual_seed(rank)
    model = Model(ranks, fp8).cuda().eval()
    torch.manual_seed(7)
    x = torch.randn(TOKENS, HIDDEN).bfloat16().cuda()
    with torch.no_grad():
        inductor.force_disable_caches = True
        plain = torch.compile(model, fullgraph=True, dynamic=dynamic)(x)
        torch._dynamo.reset()
        sp = spfast.SequenceParallelismPass(
            spfast.SequenceParallelConfig(tp_size=ranks, tp_rank=rank)
        )
        inductor.post_grad_custom_pre_pass = sp
        rewritten = torch.compile(model, fullgraph=True, dynamic=dynamic)
        found = rewritten(x)
        torch.cuda.reset_peak_memory_stats()
        rewritten(x)
    scale = float(plain.float().abs().max())
    return {
        "sites": sp.matched_count,
        "left": [str(site) for site in sp.result.skipped] if sp.result else [],
        "by_pattern": dict(sp.result.by_pattern) if sp.result else {},
        "error": float((found.float() - plain.float()).abs().max()) / scale,
        "device": torch.cuda.get_device_name(0),
    }


@pytest.mark.timeout(540)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("fp8", [False, True], ids=["bf16", "fp8"])
def test_compiled_model_is_the_same_with_the_pass(fp8: bool, dynamic: bool) -> None:
    for seen in run_ranks(compare, 2, args=(fp8, dynamic), timeout=500):
        assert seen["sites"] == 5, seen
        assert seen["left"] == [], seen
        quantised = sum(n for rule, n in seen["by_pattern"].items() if rule.endswith("_fp8"))
        assert quantised == (4 if fp8 else 0), seen
        # Two addends commute, and the row-wise operators are the same: only where Triton's fusions
        # round in another place may a bit of bf16 differ.
        assert seen["error"] <= 2**-7, seen
