"""The torch and Python that this version was tried with, and what is said of others."""

from __future__ import annotations

import platform
import re
import sys
import sysconfig
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from spfast._core import version

__all__ = ["NEWEST", "OLDEST", "Surroundings", "check_torch", "found_torch", "surroundings"]

# The first and the last minor version of torch that was tried; docs/versions.md says how far.
OLDEST, NEWEST = (2, 11), (2, 15)


def found_torch() -> str:
    """The version of torch: of the one that is loaded, else of the one that would be.

    torch itself is loaded only where its file of versions does not say what it is.

    Raises:
        ImportError: There is no torch.

    Example:
        >>> import torch
        >>> found_torch() == torch.__version__
        True
    """
    loaded = getattr(sys.modules.get("torch"), "__version__", None)
    if loaded is not None:
        return str(loaded)
    there = find_spec("torch")
    if there is not None and there.origin is not None:
        # The package's metadata may leave out which build it is.
        file = Path(there.origin).with_name("version.py")
        text = file.read_text() if file.exists() else ""
        said = re.search(r"^__version__ = ['\"](.+)['\"]", text, re.MULTILINE)
        if said is not None:
            return said[1]
    import torch

    return torch.__version__


def check_torch(found: str) -> None:
    """Refuses a torch that is too old, and warns of one that is newer than any that was tried.

    Args:
        found: The version of torch, as ``torch.__version__`` has it.

    Raises:
        ImportError: It is older than :data:`OLDEST`.

    Example:
        >>> check_torch("2.13.0+cpu")
    """
    minor = _minor(found)
    if minor is None:
        return
    if minor < OLDEST:
        raise ImportError(
            f"spfast {version} needs torch {_text(OLDEST)} or newer and found {found}: "
            f"pip install 'torch>={_text(OLDEST)}'"
        )
    if minor > NEWEST:
        warnings.warn(
            f"spfast {version} was tried with torch {_text(OLDEST)} to {_text(NEWEST)} and found "
            f"{found}: set validate=True to have each result proved, or install a newer spfast",
            stacklevel=3,
        )


def _minor(found: str) -> tuple[int, int] | None:
    match = re.match(r"(\d+)\.(\d+)", found)
    return (int(match[1]), int(match[2])) if match else None


def _text(minor: tuple[int, int]) -> str:
    return f"{minor[0]}.{minor[1]}"


@dataclass(frozen=True)
class Surroundings:
    """What spfast runs in.

    Attributes:
        python: The interpreter's version.
        torch: torch's version.
        machine: The operating system and processor.
        matcher: Whether Inductor's matcher is replaced in this process.
        problems: What is wrong, one sentence each.
    """

    python: str
    torch: str
    machine: str
    matcher: bool
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {"spfast": version, **vars(self), "problems": list(self.problems)}

    def __str__(self) -> str:
        lines = [
            f"spfast {version}",
            f"  Python   {self.python}",
            f"  torch    {self.torch} (tried: {_text(OLDEST)} to {_text(NEWEST)})",
            f"  machine  {self.machine}",
            f"  Inductor's matcher is {'replaced' if self.matcher else 'its own'}",
            *(f"problem: {each}" for each in self.problems),
        ]
        if not self.problems:
            lines.append("ready: spfast.apply(graph), or see spfast doctor vllm")
        return "\n".join(lines)


def surroundings() -> Surroundings:
    """Looks at the process that it is called in.

    Example:
        >>> isinstance(surroundings().problems, tuple)
        True
    """
    import torch

    problems = []
    minor = _minor(torch.__version__)
    if minor is not None and minor > NEWEST:
        problems.append(f"torch {torch.__version__} is newer than any that was tried")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        problems.append("this Python runs without its lock, with which spfast was not tried")
    if not torch.distributed.is_available():
        problems.append("this torch has no torch.distributed: pass tp_size and tp_rank")
    return Surroundings(
        python=platform.python_version(),
        torch=torch.__version__,
        machine=f"{platform.system()} {platform.machine()}",
        matcher="spfast.integrations.inductor" in sys.modules,
        problems=tuple(problems),
    )
