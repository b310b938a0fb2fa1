"""Runs something when a module has been imported, or at once where it has been already."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["when_imported"]

Hook = Callable[[ModuleType], None]


class _Finder(importlib.abc.MetaPathFinder):
    """Finds nothing itself: it lets other finders find, and runs the hooks after the module ran."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[Hook]] = {}
        self._asking: set[str] = set()

    def find_spec(
        self, fullname: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.waiting or fullname in self._asking:
            return None
        self._asking.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asking.discard(fullname)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            for hook in self.waiting.pop(fullname, []):
                hook(module)

        # The loader belongs to this spec alone, and only this one method of it changes.
        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


_finder = _Finder()


def when_imported(name: str, hook: Hook) -> None:
    """Calls ``hook(module)`` after the module ``name`` was imported, once.

    Args:
        name: The module's full name.
        hook: Must not raise: whoever imports the module knows nothing of it.

    Example:
        >>> seen = []
        >>> when_imported("spfast.integrations.vllm.imports", lambda module: seen.append(module))
        >>> seen[0].__name__
        'spfast.integrations.vllm.imports'
    """
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    if module is not None and not getattr(spec, "_initializing", False):
        hook(module)
        return
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    _finder.waiting.setdefault(name, []).append(hook)
