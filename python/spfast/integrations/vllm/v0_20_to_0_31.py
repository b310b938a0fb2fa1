"""vLLM 0.20 to 0.31: vLLM has a SequenceParallelismPass and does the rest for it.

Its own switch (``pass_config.enable_sp``) makes vLLM pad every batch to a multiple of tp_size,
compile ranges from the threshold on, and keep the graph whole. Ours only takes the pass's place.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from spfast.config import minimum_tokens
from spfast.integrations.vllm import encoder
from spfast.integrations.vllm.changes import Change
from spfast.integrations.vllm.host_config import config_from_vllm
from spfast.integrations.vllm.hosts import HOSTS
from spfast.integrations.vllm.switch import followed
from spfast.integrations.vllm.takeover import keyed, takes_over

__all__ = ["CHANGES", "MANAGER"]

MANAGER = "vllm.compilation.passes.pass_manager"
_PASS = "SequenceParallelismPass"


def _switch_on(vllm_config: Any) -> None:
    tokens, _ = minimum_tokens(config_from_vllm(vllm_config))
    pass_config = vllm_config.compilation_config.pass_config
    pass_config.enable_sp = True
    pass_config.sp_min_token_num = tokens


def _switch_off(vllm_config: Any) -> None:
    vllm_config.compilation_config.pass_config.enable_sp = False


def _with_our_pass(original: Callable[..., Any]) -> Callable[..., Any]:
    """vLLM's manager looks the class up by name in its module, where some platforms lack it."""

    def configure(self: Any, config: Any) -> None:
        if not takes_over(config):
            original(self, config)
            return
        from spfast.integrations.vllm.sp import SequenceParallelismPass

        names = vars(sys.modules[MANAGER])
        absent = object()
        theirs = names.get(_PASS, absent)
        pads = not encoder.is_compiled()
        names[_PASS] = functools.partial(SequenceParallelismPass, pads=pads)
        try:
            original(self, config)
        finally:
            if theirs is absent:
                del names[_PASS]
            else:
                names[_PASS] = theirs

    return configure


def _never_scattered(original: Callable[..., Any]) -> Callable[..., Any]:
    """Our graphs end in whole values, below the threshold and from it on.

    vLLM takes a stage's residual for one rank's rows at every token count. Told that it is whole,
    it sends each rank's part of it and gathers that part in the next stage, as it does without
    sequence parallelism.
    """

    def is_residual_scattered_for_sp(vllm_config: Any, num_input_tokens: int) -> bool:
        if takes_over(vllm_config):
            return False
        return bool(original(vllm_config, num_input_tokens))

    return is_residual_scattered_for_sp


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
        _never_scattered,
        "pipeline stages exchange the residual whole",
    ),
)
