"""What the passes share: dumps of graphs before and after."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from torch import fx

if TYPE_CHECKING:
    from spfast.result import Result

__all__ = ["Dump"]

ENVIRONMENT = "SPFAST_DEBUG_DUMP"

_counter = itertools.count()


class Dump:
    """Writes a graph before and after a pass, and what else the pass has to show, to a folder.

    Args:
        folder: Where to; None asks the environment variable SPFAST_DEBUG_DUMP, and where that is
            not set either, nothing is written.
        pass_name: Begins each file's name.

    Example:
        >>> Dump(None, "noop").active
        False
    """

    def __init__(self, folder: str | None, pass_name: str) -> None:
        chosen = folder or os.environ.get(ENVIRONMENT)
        self._folder = Path(chosen) if chosen else None
        self._name = f"{pass_name}.{os.getpid()}.{next(_counter)}" if chosen else pass_name

    @property
    def active(self) -> bool:
        """Whether there is a folder to write to."""
        return self._folder is not None

    def graph(self, graph: fx.Graph, when: str) -> None:
        """Writes the graph as readable Python."""
        if self._folder is None:
            return
        self.text(f"{when}.py", graph.python_code("self", verbose=True).src)

    def report(self, result: Result) -> None:
        """Writes the result's page, and what it is drawn from: ``spfast report --run`` reads it."""
        if self._folder is None or result.drawing is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        result.report(self._folder / f"{self._name}.report.html", self._name)
        self.text("drawing.json", result.drawing.to_json())

    def text(self, name: str, content: str) -> None:
        """Writes one file whose name ends in ``name``."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / f"{self._name}.{name}").write_text(content)
