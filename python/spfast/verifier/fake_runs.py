"""What operators yield on given shapes, by FakeTensorMode; kept from one verification to the next.

Layers are alike, and so are the graphs of one model: nearly every operator that a verification asks
for has been run on the same shapes before. Running it costs some 100 us, looking it up under one.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

__all__ = ["FakeRuns"]

# After so many results all are forgotten. A model has some tens of them.
_AT_MOST = 2048

# Objects of other types are not kept alive for a key's sake (a process group, say).
_PLAIN = (
    str,
    int,
    float,
    complex,
    type,
    type(None),
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
)


class FakeRuns(threading.local):
    """A fake mode, its tensors and what operators made of them, for each thread its own.

    Only results are kept: an operator that fails may have got a shape rule by the next time.
    """

    def __init__(self) -> None:
        self._mode = FakeTensorMode()
        self._tensors: dict[Hashable, FakeTensor] = {}
        self._results: dict[Hashable, Any] = {}

    def tensor(self, described: tuple[Any, ...]) -> FakeTensor:
        """Returns a fake tensor of a (shape, stride, dtype, device)."""
        found = self._tensors.get(described)
        if found is None:
            shape, stride, dtype, device = described
            meta = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
            found = self._tensors[described] = FakeTensor(self._mode, meta, device)
        return found

    def kept(self, key: Hashable) -> Any:
        """Returns what was computed under a key; None when nothing was."""
        return self._results.get((torch.get_default_dtype(), key))

    def run(
        self, key: Hashable, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Computes and keeps what ``target`` yields.

        Args:
            key: The target with what describes its arguments wholly.
            target: An operator.
            args: Its arguments, with tensors of :meth:`tensor`.
            kwargs: Likewise.

        Raises:
            Exception: Whatever the operator's shape rule raises.
        """
        with self._mode:
            result = target(*args, **kwargs)
        if isinstance(target, torch._ops.OpOverload) and _is_plain(key):
            if len(self._results) >= _AT_MOST:
                self._results.clear()
                self._tensors.clear()
            self._results[torch.get_default_dtype(), key] = result
        return result


def _is_plain(key: Any) -> bool:
    if isinstance(key, tuple):
        return all(map(_is_plain, key))
    return isinstance(key, (*_PLAIN, torch._ops.OpOverload))
