"""How vLLM writes its float8 in plain torch, compiled: the widest thing that ranks then gather.

    python quantised.py

It prints a dtype for each form. Nothing runs: what is compiled is looked at where a pass is.
"""

from __future__ import annotations

import json
from typing import Any

WIDTH, GROUP = 256, 64
RANKS = 4


class Seen(Exception):
    """The graph was looked at, and need not be compiled any further."""


def forms() -> dict[str, dict[str, Any]]:
    from vllm.model_executor.layers.quantization.utils.quant_utils import GroupShape

    group = GroupShape(1, GROUP)
    return {
        "per token": {"static": False, "group_shape": GroupShape.PER_TOKEN},
        "per group": {"static": False, "group_shape": group},
        "per group, powers of two": {"static": False, "group_shape": group, "use_ue8m0": True},
        "per group, columns": {"static": False, "group_shape": group, "column_major_scales": True},
        "static": {"static": True, "group_shape": GroupShape.PER_TENSOR},
        "per tensor": {"static": False, "group_shape": GroupShape.PER_TENSOR},
    }


def gathered(how: dict[str, Any], dynamic: bool) -> str:
    """The dtype of what is gathered between a norm and a product, behind each of two sites."""
    import torch
    from torch._inductor import config
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.quantization.input_quant_fp8 import QuantFP8

    import spfast

    found: list[torch.dtype] = []

    def look(graph: torch.fx.Graph) -> None:
        ranks = spfast.SequenceParallelConfig(
            tp_size=RANKS, tp_rank=1, divisibility="assume", min_token_num=1, validate=True
        )
        assert int(spfast.apply(graph, ranks)) == 2
        gather = torch.ops.vllm.all_gather.default
        for node in graph.find_nodes(op="call_function", target=gather):
            value = node.args[0].meta["val"]
            if value[0].numel() >= WIDTH // 2:  # beside it, the scales of each token
                found.append(value.dtype)
        raise Seen

    with set_current_vllm_config(VllmConfig()):
        quantise = QuantFP8(**how).forward_native
    scale = torch.full((1,), 0.02) if how["static"] else None

    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * weight

    def layer(
        x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, matrix: torch.Tensor
    ) -> list[torch.Tensor]:
        outputs = []
        stream = torch.zeros_like(x)
        for each in (x, y):
            stream = torch.ops.vllm.all_reduce.default(each, "tp:0") + stream
            quantised, scales = quantise(norm(stream, weight), scale)
            outputs += [quantised.float() @ matrix, scales]
        return outputs

    given = [torch.randn(32, WIDTH, dtype=torch.bfloat16) for _ in range(2)]
    for each in given if dynamic else ():
        torch._dynamo.mark_dynamic(each, 0)
    torch._dynamo.reset()
    with config.patch(post_grad_custom_post_pass=look, fx_graph_cache=False):
        try:
            torch.compile(layer)(
                *given, torch.ones(WIDTH, dtype=torch.bfloat16), torch.randn(WIDTH, 8)
            )
        except Exception:
            if not found:
                raise
    (dtype,) = {str(each).partition(".")[2] for each in found}
    return dtype


if __name__ == "__main__":
    from vllm.distributed import parallel_state  # noqa: F401  which declares vllm.all_reduce

    print(
        json.dumps(
            {
                f"{name}, {'any number of' if dynamic else '32'} tokens": gathered(how, dynamic)
                for name, how in forms().items()
                for dynamic in (False, True)
            }
        )
    )
