"""vLLM as a host: a plugin that one flag switches on, and a drop-in for vLLM's own pass.

Installed means off. ``--additional-config '{"spfast": {"enable": true}}'`` switches it on, on the
command line, in ``LLM(additional_config=...)`` and so in every worker. Up to 0.31 vLLM schedules a
SequenceParallelismPass of its own, and the plugin takes that one's place (:func:`install` does so
for vLLM's own switch); from 0.32 on vLLM has none, and the plugin does what vLLM did for it.

Nothing here imports vLLM: what vLLM imports is looked at when it is there, and a config is read by
its attributes alone. What is changed in vLLM is named in one file a version range.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spfast.integrations.vllm.async_tp import AsyncTPPass
    from spfast.integrations.vllm.drop_in import install
    from spfast.integrations.vllm.host_config import config_from_vllm
    from spfast.integrations.vllm.sp import SequenceParallelismPass

__all__ = ["AsyncTPPass", "SequenceParallelismPass", "config_from_vllm", "install"]

# The plugin is loaded by every process of every vLLM; the pass by those that compile with it.
_HOME = {
    "AsyncTPPass": "async_tp",
    "SequenceParallelismPass": "sp",
    "config_from_vllm": "host_config",
    "install": "drop_in",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # No module here has one of these names: importing it would put it in the place of the other.
    found = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = found
    return found
