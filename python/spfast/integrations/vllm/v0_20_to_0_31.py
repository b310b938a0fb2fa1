"""vLLM 0.20 to 0.31: vLLM has a SequenceParallelismPass and does the rest for it.

Its own switch (``pass_config.enable_sp``) makes vLLM pad every batch to a multiple of tp_size,
compile ranges from the threshold on, and keep the graph whole. Ours only takes the pass's place.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from spfast.integrations.vllm import encoder
from spfast.integrations.vllm.changes import Change, is_made
from spfast.integrations.vllm.host_config import threshold
from spfast.integrations.vllm.hosts import HOSTS
from spfast.integrations.vllm.settings import is_enabled
from spfast.integrations.vllm.switch import followed
from spfast.integrations.vllm.takeover import keyed, takes_over

__all__ = ["CHANGES", "MANAGER"]

MANAGER = "vllm.compilation.passes.pass_manager"


def _switch_on(vllm_config: Any) -> None:
    tokens, _ = threshold(vllm_config)
    pass_config = vllm_config.compilation_config.pass_config
    pass_config.enable_sp = True
    pass_config.sp_min_token_num = tokens


def _switch_off(vllm_config: Any) -> None:
    vllm_config.compilation_config.pass_config.enable_sp = False


def _with_our_pass(original: Callable[..., Any]) -> Callable[..., Any]:
    """Puts our classes into the manager's module, where vLLM looks classes up by name.

    On some platforms that module lacks vLLM's own classes.
    """

    def configure(self: Any, config: Any) -> None:
        if not takes_over(config):
            original(self, config)
            return
        names = vars(sys.modules[MANAGER])
        ours = _our_classes(config)
        theirs = {name: names[name] for name in ours if name in names}
        names.update(ours)
        try:
            original(self, config)
        finally:
            for name in ours:
                del names[name]
            names.update(theirs)

    return configure


def _our_classes(vllm_config: Any) -> dict[str, Callable[..., Any]]:
    """Our classes by the names of vLLM's; async TP has a setting of its own."""
    from spfast.integrations.vllm.async_tp import AsyncTPPass
    from spfast.integrations.vllm.sp import SequenceParallelismPass

    pads = not encoder.is_compiled()
    keeps = pads and is_made(*_GATHERS)
    ours: dict[str, Callable[..., Any]] = {
        "SequenceParallelismPass": functools.partial(
            SequenceParallelismPass, pads=pads, keeps_residual=keeps
        )
    }
    if not is_enabled(vllm_config):
        ours["AsyncTPPass"] = functools.partial(AsyncTPPass, pads=pads)
    return ours


# Where a stage gathers what the one before it sent as rows.
_GATHERS = (
    "vllm.v1.worker.gpu_model_runner",
    "GPUModelRunner.sync_and_gather_intermediate_tensors",
)


def _scattered(original: Callable[..., Any]) -> Callable[..., Any]:
    """Whether a stage's residual travels as rows: from the threshold on, where vLLM gathers it.

    vLLM itself takes the residual for one rank's rows at every token count. Where vLLM is told that
    the residual is whole, it sends each rank's part and gathers the parts, as it does without
    sequence parallelism.
    """

    def is_residual_scattered_for_sp(vllm_config: Any, num_input_tokens: int) -> bool:
        found = bool(original(vllm_config, num_input_tokens))
        if found and takes_over(vllm_config):
            return is_made(*_GATHERS) and num_input_tokens >= _scattered_from(vllm_config)
        return found

    return is_residual_scattered_for_sp


def _scattered_from(vllm_config: Any) -> int:
    """The smallest number of tokens for which vLLM compiles with the pass."""
    tokens = vllm_config.compilation_config.pass_config.sp_min_token_num or 1
    return int(min(tokens, vllm_config.scheduler_config.max_num_batched_tokens))


def _whole_as_rows(original: Callable[..., Any]) -> Callable[..., Any]:
    """Takes this rank's rows of a whole residual before vLLM gathers rows.

    A stage whose last site stays returns its residual whole. The shape shows this, whatever the
    other stage did.
    """

    def sync_and_gather_intermediate_tensors(
        self: Any, num_tokens: int, intermediate_tensors: Any, sync_self: bool
    ) -> Any:
        if sync_self and takes_over(self.vllm_config):
            own = self.vllm_config.parallel_config.tensor_parallel_size
            residual = intermediate_tensors.tensors.get("residual")
            if residual is not None and residual.shape[0] != num_tokens // own:
                scattered = sys.modules[_GATHERS[0]].is_residual_scattered_for_sp
                if scattered(self.vllm_config, num_tokens):
                    rank = sys.modules["vllm.distributed.parallel_state"]._TP.rank_in_group
                    rows = residual.narrow(0, rank * (num_tokens // own), num_tokens // own)
                    intermediate_tensors.tensors["residual"] = rows
        return original(self, num_tokens, intermediate_tensors, sync_self)

    return sync_and_gather_intermediate_tensors


CHANGES = (
    Change(
        "vllm.config.vllm",
        "VllmConfig.__post_init__",
        ("self",),
        followed(lambda: HOSTS[0], _switch_on, _switch_off),
        "the flag sets vLLM's own switch and its threshold",
    ),
    Change(
        "vllm.config.vllm",
        "VllmConfig.compute_hash",
        ("self",),
        keyed,
        "vLLM's compile cache tells spfast and its version apart",
    ),
    Change(
        MANAGER,
        "PostGradPassManager.configure",
        ("self", "config"),
        _with_our_pass,
        "spfast's pass stands where vLLM's own would",
    ),
    encoder.NOTED,
    Change(
        "vllm.v1.worker.utils",
        "is_residual_scattered_for_sp",
        ("vllm_config", "num_input_tokens"),
        _scattered,
        "pipeline stages exchange the residual as rows from the threshold on, and else whole",
    ),
    Change(
        *_GATHERS,
        ("self", "num_tokens", "intermediate_tensors", "sync_self"),
        _whole_as_rows,
        "a pipeline stage takes a residual that came whole",
        optional=True,
    ),
)
