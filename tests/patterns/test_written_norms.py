"""Norms and quantisations as people write them, as Inductor's post-grad hook shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._inductor.config as inductor_config
import torch.nn.functional as F
from torch import Tensor, fx, nn

import spfast

TOKENS, WIDTH, TP_SIZE = 8, 16, 2
F32, FP8 = torch.float32, torch.float8_e4m3fn
LIMIT = torch.finfo(FP8).max
# Since this torch a float of the model's own is an input of a dynamic graph.
FLOATS_ARE_INPUTS = "2.15"


def hugging_face(x: Tensor, w: Tensor, eps: float) -> Tensor:
    wide = x.to(F32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return w * wide.to(x.dtype)


def squared_by_product(x: Tensor, w: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt((wide * wide).mean(-1, keepdim=True) + eps)).to(x.dtype) * w


def gemma(x: Tensor, w: Tensor, eps: float) -> Tensor:
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (wide * (1.0 + w.float())).type_as(x)


def unweighted(x: Tensor, w: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def torch_rms_norm(x: Tensor, w: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, (WIDTH,), w, eps)


def no_quant(x: Tensor, s: Tensor) -> Tensor:
    return x


def divided(x: Tensor, s: Tensor) -> Tensor:
    return (x.float() / s).clamp(-LIMIT, LIMIT).to(FP8)


def times_reciprocal(x: Tensor, s: Tensor) -> Tensor:
    return (x.float() * s.reciprocal()).clamp(-LIMIT, LIMIT).to(FP8)


def scaled_narrow(x: Tensor, s: Tensor) -> Tensor:
    return torch.clamp(x / s, min=-LIMIT, max=LIMIT).to(FP8)


NORMS = (hugging_face, squared_by_product, gemma, unweighted, torch_rms_norm)
QUANTS = (no_quant, divided, times_reciprocal, scaled_narrow)


class Sites(nn.Module):
    """One site for each norm and quantisation, each with an all_reduce of its own."""

    def __init__(self, middle: bool, eps: float) -> None:
        super().__init__()
        self.middle, self.eps = middle, eps

    def forward(self, x: Tensor, residual: Tensor, w: Tensor, s: Tensor) -> list[Tensor]:
        out = []
        for norm in NORMS:
            for quant in QUANTS:
                x = torch.sin(x)
                reduced = torch.ops.vllm.all_reduce(x, "tp:0")
                total = residual + reduced if self.middle else reduced
                out += [quant(norm(total, w, self.eps), s), total]
        return out


def vllm_native(x: Tensor, residual: Tensor, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    wide = x.to(F32) + residual
    residual = wide.to(x.dtype)
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return normed.to(x.dtype) * w, residual


class NativeLayers(nn.Module):
    """vLLM's own norm in a chain, its sum taken in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("share", torch.eye(WIDTH))

    def forward(self, x: Tensor, residual: Tensor, w: Tensor, s: Tensor) -> list[Tensor]:
        for _ in range(3):
            # Each rank's share of the work: what all ranks have alone is not summed over them.
            partial = torch.sin(x) @ self.share.to(x.dtype)
            reduced = torch.ops.vllm.all_reduce(partial, "tp:0")
            x, residual = vllm_native(reduced, residual, w, 1e-6)
        return [x]


class _Captured(Exception):
    pass


def capture(module: nn.Module, dtype: torch.dtype, dynamic: bool = False) -> fx.Graph:
    """The graph that Inductor hands to its post-grad custom pass."""
    graphs: list[fx.Graph] = []

    def record(graph: fx.Graph) -> None:
        graphs.append(graph)
        raise _Captured

    x, residual = torch.randn(2, TOKENS, WIDTH, dtype=dtype)
    inputs = (x, residual, torch.ones(WIDTH, dtype=dtype), torch.tensor(0.1))
    torch._dynamo.reset()
    patches: dict[str, Any] = {"post_grad_custom_pre_pass": record, "fx_graph_cache": False}
    with inductor_config.patch(patches), torch.no_grad(), pytest.raises(Exception):  # noqa: B017
        torch.compile(module, fullgraph=True, dynamic=dynamic)(*inputs)
    return graphs[0]


def apply(graph: fx.Graph) -> spfast.Result:
    config = spfast.SequenceParallelConfig(
        tp_size=TP_SIZE, tp_rank=0, divisibility="assume", recognise="patterns"
    )
    return spfast.apply(graph, config)


def gathered(graph: fx.Graph) -> list[torch.dtype]:
    target = torch.ops.vllm.all_gather.default
    return [node.meta["val"].dtype for node in graph.find_nodes(op="call_function", target=target)]


@pytest.mark.parametrize(
    ("dtype", "middle", "dynamic"),
    [(torch.bfloat16, False, False), (torch.bfloat16, True, True), (F32, True, False)],
)
def test_norms_and_quantisations_are_recognised(
    dtype: torch.dtype, middle: bool, dynamic: bool
) -> None:
    graph = capture(Sites(middle, eps=3e-6), dtype, dynamic)
    result = apply(graph)
    rule = f"{'middle' if middle else 'first'}_all_reduce_rms_norm"
    # The limit is a global: a dynamic graph of a newer torch has it as an input, not a number.
    known = len(QUANTS) - 1 if not dynamic or torch.__version__ < FLOATS_ARE_INPUTS else 0
    quantised, plain = known * len(NORMS), (len(QUANTS) - known) * len(NORMS)
    rules = {rule: plain, f"{rule}_static_fp8": quantised}
    assert result.by_pattern == {name: count for name, count in rules.items() if count}
    # Each site gathers its total, and its end: the quantised values in one byte an element.
    assert sorted(map(str, gathered(graph))) == sorted(
        [str(dtype)] * (len(NORMS) * len(QUANTS) + plain) + [str(FP8)] * quantised
    )


class Limited(nn.Module):
    """One site that is quantised within a limit of the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.limit, self.eps = LIMIT, 3e-6

    def forward(self, x: Tensor, residual: Tensor, w: Tensor, s: Tensor) -> list[Tensor]:
        total = residual + torch.ops.vllm.all_reduce(torch.sin(x), "tp:0")
        normed = hugging_face(total, w, self.eps)
        return [(normed.float() / s).clamp(-self.limit, self.limit).to(FP8)]


def test_a_limit_that_is_an_attribute_keeps_the_gather_in_float8() -> None:
    """What no rule knows where it is an input of the graph, the row-wise recogniser does."""
    graph = capture(Limited(), torch.bfloat16, dynamic=True)
    config = spfast.SequenceParallelConfig(tp_size=TP_SIZE, tp_rank=0, divisibility="assume")
    assert int(spfast.apply(graph, config)) == 1
    assert gathered(graph) == [FP8]


def test_a_chain_of_native_norms_stays_sharded() -> None:
    graph = capture(NativeLayers(), torch.bfloat16)
    result = apply(graph)
    assert result.by_pattern == {"middle_all_reduce_rms_norm": 3}, result.skipped
    assert gathered(graph) == [torch.bfloat16] * 3  # one normed value a layer, no residual


SLOPPY: list[Callable[[Tensor, Tensor, float], Tensor]] = [
    lambda x, w, eps: w * (x * torch.rsqrt(x.pow(3).mean(-1, keepdim=True) + eps)),
    lambda x, w, eps: w * (x * torch.rsqrt(x.pow(2).mean(0, keepdim=True) + eps)),
    lambda x, w, eps: w * (x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + eps)),
    lambda x, w, eps: w * (x * torch.rsqrt(x.mean(-1, keepdim=True).pow(2) + eps)),
    lambda x, w, eps: w * (w * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)),
    lambda x, w, eps: F.layer_norm(x, (WIDTH,), w, None, eps),
]


@pytest.mark.parametrize("norm", SLOPPY)
def test_what_is_almost_a_norm_is_not(norm: Callable[..., Tensor]) -> None:
    class Module(nn.Module):
        def forward(self, x: Tensor, residual: Tensor, w: Tensor, s: Tensor) -> Tensor:
            return norm(torch.ops.vllm.all_reduce(x, "tp:0"), w, 1e-6)

    graph = capture(Module(), F32)
    assert apply(graph).matched_count == 0
    assert not gathered(graph)
