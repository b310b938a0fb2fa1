"""What the plugin finds in this environment's vLLM, without starting an engine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from spfast._core import version
from spfast.integrations.vllm import obstacles
from spfast.integrations.vllm.changes import is_absent, missing
from spfast.integrations.vllm.hosts import FIRST, LAST, host_of, vllm_version
from spfast.integrations.vllm.settings import KEY

__all__ = ["Finding", "Report", "examine"]

_GROUP = "vllm.general_plugins"


@dataclass(frozen=True)
class Finding:
    """One place in vLLM.

    Attributes:
        place: The function that the plugin wraps.
        purpose: What it is wrapped for.
        problem: Why it cannot be wrapped; empty where it can.
    """

    place: str
    purpose: str
    problem: str


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        version: vLLM's version, or None where it cannot be imported.
        known: The range of versions that it is in; empty where in none.
        loaded: Whether vLLM would load the plugin.
        findings: What would be changed, in order.
    """

    version: str | None
    known: str
    loaded: bool
    findings: tuple[Finding, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """What is missing, one sentence each; empty where the flag would do."""
        if self.version is None:
            return ("vLLM cannot be imported here: install it, for instance as spfast[vllm]",)
        if not self.known:
            return (
                f"spfast knows vLLM {FIRST} to {LAST} and would leave vLLM {self.version} as it "
                f"is: install another version of either",
            )
        found = [each.problem for each in self.findings if each.problem]
        if not self.loaded:
            found.append(
                f"vLLM would not load the plugin: install spfast as a package, and name {KEY} in "
                f"VLLM_PLUGINS where that is set"
            )
        found += [str(each) for each in obstacles.in_the_environment()]
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "spfast": version,
            "vllm": self.version,
            "known": self.known,
            "loaded": self.loaded,
            "changes": [vars(each) for each in self.findings],
            "problems": list(self.problems),
        }

    def __str__(self) -> str:
        lines = [f"spfast {version}, vLLM {self.version or 'not found'}"]
        if self.known:
            lines.append(f"what is changed in vLLM {self.known}, where the flag is set:")
        for each in self.findings:
            mark = "missing" if each.problem else "found"
            lines += [f"  {mark:<8}{each.place}", f"          {each.purpose}"]
        lines += [f"problem: {each}" for each in self.problems]
        if not self.problems:
            flag = f"""--additional-config '{{"{KEY}": {{"enable": true}}}}'"""
            lines.append(f"ready: switch it on with {flag}")
        return "\n".join(lines)


def examine() -> Report:
    """Looks at the vLLM that this process would import; runs nothing of it but its version.

    Example:
        >>> isinstance(examine().problems, tuple)
        True
    """
    found = vllm_version()
    host = host_of(found)
    if host is None:
        return Report(found, "", _is_loaded())
    findings = (
        Finding(each.place, each.purpose, missing(each))
        for each in host.changes
        if not is_absent(each)
    )
    return Report(found, str(host), _is_loaded(), tuple(findings))


def _is_loaded() -> bool:
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and KEY not in allowed.split(","):
        return False
    return any(each.name == KEY for each in entry_points(group=_GROUP))
