"""What vLLM loads as a general plugin, in the driver, the engine core and every worker."""

from __future__ import annotations

import logging

from spfast.integrations.vllm.changes import make
from spfast.integrations.vllm.hosts import FIRST, LAST, host_of, vllm_version

__all__ = ["load"]

logger = logging.getLogger("vllm.spfast")

_warned: set[str | None] = set()


def load() -> None:
    """Prepares the changes to this vLLM; none does anything until a config switches spfast on.

    May be called any number of times. A version that is not known is left as it is.
    """
    version = vllm_version()
    host = host_of(version)
    if host is None:
        if version not in _warned:
            _warned.add(version)
            logger.warning(
                "spfast knows vLLM %s to %s and leaves vLLM %s as it is: "
                "install another version of either",
                FIRST,
                LAST,
                version,
            )
        return
    for change in host.changes:
        make(change)
