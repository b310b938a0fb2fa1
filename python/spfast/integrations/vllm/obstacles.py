"""Why the pass cannot apply to a config, and what a user changes so that it can."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from spfast.integrations.vllm.changes import missing, refusals
from spfast.integrations.vllm.host_config import read, threshold
from spfast.integrations.vllm.hosts import Host
from spfast.integrations.vllm.settings import Settings

__all__ = [
    "Obstacle",
    "in_the_config",
    "in_the_environment",
    "in_the_result",
    "is_split",
]


@dataclass(frozen=True)
class Obstacle:
    """One reason.

    Attributes:
        reason: What stands in the way.
        remedy: What to change, by the name of the flag.
    """

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.remedy}"


def in_the_config(vllm_config: Any, host: Host) -> Obstacle | None:
    """What stands in the way before vLLM has worked out its config; None where nothing does."""
    problems = list(refusals()) or [found for found in map(missing, host.changes) if found]
    if problems:
        return Obstacle(
            f"this vLLM is not as expected ({'; '.join(problems)})",
            "install another version of vLLM or of spfast",
        )
    if read(vllm_config, "parallel_config", "tensor_parallel_size") == 1:
        return Obstacle("there is one tensor-parallel rank", "pass --tensor-parallel-size")
    for obstacle in in_the_environment():
        return obstacle
    if read(vllm_config, "model_config", "enforce_eager"):
        return Obstacle("nothing is compiled", "leave --enforce-eager out")
    if read(vllm_config, "parallel_config", "use_ubatching"):
        return Obstacle(
            "microbatches are cut at token counts that not every rank can share",
            "leave --enable-dbo out",
        )
    if read(vllm_config, "speculative_config", "num_speculative_tokens_per_batch_size"):
        return Obstacle(
            "dynamic speculative decoding captures token counts that not every rank can share",
            "leave num_speculative_tokens_per_batch_size out of --speculative-config",
        )
    step = 1 + (read(vllm_config, "speculative_config", "num_speculative_tokens") or 0)
    tp_size = read(vllm_config, "parallel_config", "tensor_parallel_size")
    if host.own_pass and max(step, tp_size) % min(step, tp_size):
        return Obstacle(
            f"vLLM {host} captures no token count for both {step} tokens a speculative step and "
            f"{tp_size} ranks",
            "change num_speculative_tokens in --speculative-config",
        )
    in_the_runner = _in_the_runner(vllm_config, host) if host.own_pass else None
    if in_the_runner is not None:
        return in_the_runner
    tokens, reason = threshold(vllm_config)
    if tokens is None:
        return Obstacle(reason, 'set "min_token_num" beside "enable"')
    return None


def _in_the_runner(vllm_config: Any, host: Host) -> Obstacle | None:
    """What makes vLLM use model runner V2: it pads no batch, and vLLM then refuses to start."""
    v2 = f"vLLM {host} pads no batch in model runner V2"
    if _is_set("VLLM_USE_V2_MODEL_RUNNER"):
        return Obstacle(v2, "unset VLLM_USE_V2_MODEL_RUNNER")
    pass_config = vllm_config.compilation_config.pass_config
    given = pass_config.enable_sp
    pass_config.enable_sp = True  # with its own switch on, vLLM takes V1 wherever it can
    try:
        if read(vllm_config, "use_v2_model_runner"):
            return Obstacle(f"{v2}, and this model or its options need it", _NEWER)
        unsupported = read(vllm_config, "_get_v1_model_runner_unsupported_features")
        missing_in_v1 = unsupported() if unsupported is not None else ()
    except Exception:
        return None  # vLLM asks the same, and says itself what is wrong
    finally:
        pass_config.enable_sp = given
    if missing_in_v1:
        return Obstacle(f"{v2}, and V1 does not support {', '.join(missing_in_v1)}", _NEWER)
    return None


_NEWER = "take vLLM 0.32 or 0.33"


def in_the_environment() -> tuple[Obstacle, ...]:
    """What stands in the way of every config of this process."""
    if _is_set("VLLM_BATCH_INVARIANT"):
        reason = "a reduce_scatter's order is not batch invariant"
        return (Obstacle(reason, "unset VLLM_BATCH_INVARIANT"),)
    return ()


def in_the_result(vllm_config: Any) -> Obstacle | None:
    """What stands in the way of the config that vLLM has worked out."""
    compilation = read(vllm_config, "compilation_config")
    mode = getattr(compilation.mode, "name", compilation.mode)
    if mode != "VLLM_COMPILE":
        if _is_set("VLLM_USE_BREAKABLE_CUDAGRAPH"):
            remedy = "set VLLM_USE_BREAKABLE_CUDAGRAPH=0"
        else:
            remedy = "pass -O2, and no --compilation-config with another mode"
        return Obstacle(f"compilation mode {mode} runs no pass", remedy)
    if read(compilation, "backend") not in ("inductor", "", None):
        return Obstacle(
            f"backend {compilation.backend!r} runs no pass",
            "leave backend out of --compilation-config",
        )
    if is_split(compilation) and not read(compilation, "compile_sizes"):
        settings = Settings.of(vllm_config)
        return Obstacle(
            f"splitting_ops={list(compilation.splitting_ops)} cuts the graph into pieces",
            'leave "full_graph" out'
            if not settings.full_graph
            else "leave splitting_ops out of --compilation-config, or set "
            "use_inductor_graph_partition there",
        )
    return None


def _is_set(name: str) -> bool:
    return os.environ.get(name, "0") not in ("", "0")


def is_split(compilation: Any) -> bool:
    """Whether vLLM itself cuts the graph into pieces."""
    return bool(compilation.splitting_ops) and not compilation.use_inductor_graph_partition
