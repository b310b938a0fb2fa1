"""vLLM 0.32 and 0.33: vLLM has no such pass, and does nothing for one.

So the plugin adds the pass, ends a compile range below its threshold, keeps the graph whole, and
pads every batch to a multiple of tp_size, in both model runners.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from spfast.integrations.vllm import encoder
from spfast.integrations.vllm.changes import Change, is_made
from spfast.integrations.vllm.host_config import threshold
from spfast.integrations.vllm.hosts import HOSTS
from spfast.integrations.vllm.obstacles import is_split
from spfast.integrations.vllm.settings import Settings, is_enabled
from spfast.integrations.vllm.switch import followed
from spfast.integrations.vllm.takeover import keyed

__all__ = ["CHANGES", "pads"]

_CONFIG = "vllm.config.vllm"
_V1 = ("vllm.v1.cudagraph_dispatcher", "CudagraphDispatcher.dispatch")
_V2 = ("vllm.v1.worker.gpu.dp_utils", "dispatch_cg_and_sync_dp")
_BEFORE = "NoOpEliminationPass"


def pads(vllm_config: Any) -> bool:
    """Whether every batch of what is compiled now is a multiple of tp_size."""
    runner = _V2 if getattr(vllm_config, "use_v2_model_runner", False) else _V1
    return is_enabled(vllm_config) and is_made(*runner) and not encoder.is_compiled()


def _tp_size(vllm_config: Any) -> int:
    return int(vllm_config.parallel_config.tensor_parallel_size)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


# --- the config -----------------------------------------------------------------------------


def _switch_on(vllm_config: Any) -> None:
    scheduler = vllm_config.scheduler_config
    # The largest batch is padded like any other, and buffers are made for this many tokens.
    scheduler.max_num_batched_tokens = _round_up(
        scheduler.max_num_batched_tokens, _tp_size(vllm_config)
    )
    compilation = vllm_config.compilation_config
    open_to_us = compilation.splitting_ops is None and not compilation.use_inductor_graph_partition
    if open_to_us and Settings.of(vllm_config).full_graph:
        compilation.splitting_ops = []


def _switch_off(vllm_config: Any) -> None:
    """Undoes nothing: vLLM has worked out the rest from our changes, which are right without us."""


def _from_the_threshold(original: Callable[..., Any]) -> Callable[..., Any]:
    def _set_compile_ranges(self: Any) -> None:
        original(self)
        compilation = self.compilation_config
        if not is_enabled(self) or is_split(compilation):
            return
        tokens, _ = threshold(self)
        ends = set(compilation.compile_ranges_endpoints)
        if tokens is not None and 1 < tokens <= max(ends, default=0):
            compilation.compile_ranges_endpoints = sorted(ends | {tokens - 1})

    return _set_compile_ranges


def _captured_by_all(original: Callable[..., Any]) -> Callable[..., Any]:
    """Captures only sizes that the ranks can share evenly and that decoding can fill."""

    def _set_cudagraph_sizes(self: Any) -> None:
        original(self)
        if not is_enabled(self):
            return
        compilation = self.compilation_config
        multiple = math.lcm(_tp_size(self), getattr(self, "uniform_decode_query_len", 1))
        captured = compilation.cudagraph_capture_sizes
        most = self.scheduler_config.max_num_batched_tokens
        rounded = {size: _round_up(size, multiple) for size in captured}
        kept = sorted({size for size in rounded.values() if size <= most})
        compilation.cudagraph_capture_sizes = kept
        compilation.max_cudagraph_capture_size = kept[-1] if kept else 0
        # A size that is compiled by itself has to be a padded size, for no other one occurs.
        sizes = {rounded.get(size, size) for size in compilation.compile_sizes}
        compilation.compile_sizes = sorted(size for size in sizes if size <= most)

    return _set_cudagraph_sizes


# --- the workers ----------------------------------------------------------------------------


def _with_our_pass(original: Callable[..., Any]) -> Callable[..., Any]:
    """Puts our pass before vLLM's fusion of all_reduces with norms: ours is for long batches."""

    def configure(self: Any, config: Any) -> None:
        original(self, config)
        if not is_enabled(config):
            return
        names = [type(each).__name__ for each in self.passes]
        place = names.index(_BEFORE) + 1 if _BEFORE in names else 0
        self.passes[place:place] = _our_passes(config)

    return configure


def _our_passes(vllm_config: Any) -> list[Any]:
    """Our passes in their order: the one that fuses GEMMs with collectives comes second."""
    from spfast.integrations.vllm.sp import SequenceParallelismPass

    return [SequenceParallelismPass(vllm_config, pads=pads(vllm_config))]


def _padded_v1(original: Callable[..., Any]) -> Callable[..., Any]:
    """Pads batches of model runner V1 and its drafters, which ask here how many tokens they run."""

    def dispatch(self: Any, num_tokens: int, *args: Any, **kwargs: Any) -> Any:
        if is_enabled(self.vllm_config):
            num_tokens = _round_up(num_tokens, _tp_size(self.vllm_config))
        return original(self, num_tokens, *args, **kwargs)

    return dispatch


def _padded_v2(original: Callable[..., Any]) -> Callable[..., Any]:
    """Pads batches of model runner V2, which all ask here, compiled or not.

    Without a manager there is no config. That is the profile run, with max_num_batched_tokens.
    """

    def dispatch_cg_and_sync_dp(
        cudagraph_manager: Any, num_reqs: int, num_tokens: int, *args: Any, **kwargs: Any
    ) -> Any:
        vllm_config = getattr(cudagraph_manager, "vllm_config", None)
        if is_enabled(vllm_config):
            num_tokens = _round_up(num_tokens, _tp_size(vllm_config))
        return original(cudagraph_manager, num_reqs, num_tokens, *args, **kwargs)

    return dispatch_cg_and_sync_dp


CHANGES = (
    Change(
        _CONFIG,
        "VllmConfig.__post_init__",
        ("self",),
        followed(lambda: HOSTS[1], _switch_on, _switch_off),
        "the flag rounds max_num_batched_tokens up and keeps the graph whole",
    ),
    Change(
        _CONFIG,
        "VllmConfig._set_compile_ranges",
        ("self",),
        _from_the_threshold,
        "a compile range ends below the threshold",
    ),
    Change(
        _CONFIG,
        "VllmConfig._set_cudagraph_sizes",
        ("self",),
        _captured_by_all,
        "captured sizes are multiples of tp_size",
    ),
    Change(
        _CONFIG,
        "VllmConfig.compute_hash",
        ("self",),
        keyed,
        "vLLM's compile cache tells spfast and its version apart",
    ),
    Change(
        "vllm.compilation.passes.pass_manager",
        "PostGradPassManager.configure",
        ("self", "config"),
        _with_our_pass,
        f"spfast's pass runs right after {_BEFORE}",
    ),
    encoder.NOTED,
    Change(
        *_V1,
        ("self", "num_tokens"),
        _padded_v1,
        "model runner V1 pads every batch to a multiple of tp_size",
    ),
    Change(
        *_V2,
        ("cudagraph_manager", "num_reqs", "num_tokens"),
        _padded_v2,
        "model runner V2 pads every batch to a multiple of tp_size",
    ),
)
