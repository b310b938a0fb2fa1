"""vLLM as a host: a plugin that one flag switches on, and a drop-in for vLLM's own pass.

The plugin is off when it is installed. ``--additional-config '{"spfast": {"enable": true}}'``
switches it on, on the command line, in ``LLM(additional_config=...)`` and so in every worker. Up to
0.31 vLLM schedules a SequenceParallelismPass of its own, and the plugin takes the place of that
pass (:func:`install` does so for vLLM's own switch). From 0.32 on vLLM has no such pass, and the
plugin also does what vLLM did for it.

Nothing here imports vLLM. A module of vLLM is looked at when vLLM has imported it, and a config is
read by its attributes alone. One file for each range of versions names what is changed in vLLM.
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

# Every process of vLLM loads the plugin. Only processes that compile with the pass load the pass.
_HOME = {
    "AsyncTPPass": "async_tp",
    "SequenceParallelismPass": "sp",
    "config_from_vllm": "host_config",
    "install": "drop_in",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # No module here has one of these names: an imported module would take the place of the class.
    found = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = found
    return found
