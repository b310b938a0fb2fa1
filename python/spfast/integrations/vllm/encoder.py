"""Whether vLLM is compiling a multi-modal encoder.

An encoder runs over as many tokens as an image has patches. Only batches of the language model are
padded.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from spfast.integrations.vllm.changes import Change

__all__ = ["NOTED", "is_compiled"]

_now: ContextVar[bool] = ContextVar("encoder", default=False)


def is_compiled() -> bool:
    """Says whether the passes that are configured now are an encoder's.

    Example:
        >>> is_compiled()
        False
    """
    return _now.get()


def _noted(original: Callable[..., Any]) -> Callable[..., Any]:
    def configure_post_pass(self: Any) -> None:
        token = _now.set(bool(getattr(self, "is_encoder", False)))
        try:
            original(self)
        finally:
            _now.reset(token)

    return configure_post_pass


NOTED = Change(
    "vllm.compilation.backends",
    "VllmBackend.configure_post_pass",
    ("self",),
    _noted,
    "an encoder's batches are not taken for padded",
)
