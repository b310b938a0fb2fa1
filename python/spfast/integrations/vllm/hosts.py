"""Which vLLM is there, and what the plugin changes in it."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import dataclass

from spfast.integrations.vllm.changes import Change

__all__ = ["FIRST", "HOSTS", "LAST", "Host", "host_of", "vllm_version"]

FIRST, LAST = "0.20", "0.33"


@dataclass(frozen=True)
class Host:
    """A range of vLLM's versions.

    Attributes:
        first: (major, minor) of its first version.
        last: (major, minor) of its last.
        module: The file that names what is changed.
        own_pass: Whether vLLM has a SequenceParallelismPass, and so pads, splits and compiles
            ranges for it. Else the plugin does this.
    """

    first: tuple[int, int]
    last: tuple[int, int]
    module: str
    own_pass: bool

    @property
    def changes(self) -> tuple[Change, ...]:
        """What is changed in vLLM, in the order in which it is described."""
        module = importlib.import_module(f"spfast.integrations.vllm.{self.module}")
        return tuple(module.CHANGES)

    def __str__(self) -> str:
        return f"{self.first[0]}.{self.first[1]} to {self.last[0]}.{self.last[1]}"


HOSTS = (
    Host((0, 20), (0, 31), "v0_20_to_0_31", own_pass=True),
    Host((0, 32), (0, 33), "v0_32_to_0_33", own_pass=False),
)


def vllm_version() -> str | None:
    """The version of the vLLM of this process, or None where it cannot be imported."""
    name = "vllm.version"
    try:
        module = sys.modules.get(name) or importlib.import_module(name)
    except ImportError:
        return None
    return str(getattr(module, "__version__", "unknown"))


def host_of(version: str | None) -> Host | None:
    """The range that ``version`` is in; None where it is in none that is known.

    Example:
        >>> str(host_of("0.32.0+cpu"))
        '0.32 to 0.33'
        >>> host_of("0.34.0") is None
        True
    """
    found = re.match(r"v?(\d+)\.(\d+)(?:\.|$|\+|rc|a|b)", version or "")
    if found is None:
        return None
    number = (int(found[1]), int(found[2]))
    return next((host for host in HOSTS if host.first <= number <= host.last), None)
