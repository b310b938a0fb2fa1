"""Whether spfast's pass runs for a config, and what that adds to vLLM's cache key."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from spfast._core import version
from spfast.integrations.vllm.host_config import switched_on
from spfast.integrations.vllm.settings import is_enabled

__all__ = ["ENVIRONMENT", "identity", "keyed", "takes_over"]

# The variable that install() sets. Workers are other processes, and inherit it.
ENVIRONMENT = "SPFAST_VLLM_INSTALL"


def takes_over(vllm_config: Any) -> bool:
    """Says whether spfast stands where vLLM's own pass would, or where vLLM has none.

    Example:
        >>> from types import SimpleNamespace as Config
        >>> takes_over(Config(additional_config={}))
        False
    """
    if is_enabled(vllm_config):
        return True
    return os.environ.get(ENVIRONMENT) == "1" and switched_on(vllm_config)


def identity() -> str:
    """What decides, besides the config, how a graph is rewritten: the version and the rules."""
    from spfast.patterns import default_registry

    return f"spfast {version} {default_registry().digest()}"


def keyed(original: Any) -> Any:
    """Wraps ``VllmConfig.compute_hash``, so that graphs that another spfast made are not reused."""

    def compute_hash(self: Any, *args: Any, **kwargs: Any) -> str:
        found = str(original(self, *args, **kwargs))
        if not takes_over(self):
            return found
        both = hashlib.sha256(f"{found} {identity()}".encode()).hexdigest()
        return both[: len(found)]

    return compute_hash
