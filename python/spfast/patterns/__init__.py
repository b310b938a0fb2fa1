"""Rules and dialects: what the pass recognises, and how to teach it more.

A rule is a plain function that calls operators by name on symbolic values. Its first parameter is
the value that an all_reduce yields, the others are what a match captures, and it returns the values
that the rewrite keeps. No tensor is made, no GPU is used, and an operator need not exist yet.

A rule of one's own, in a dialect that is known:

    >>> from spfast import patterns
    >>> from spfast.patterns import Rows, ops
    >>> with patterns.default_registry().temporary():
    ...     @patterns.register("my_add_norm", dialect="functional", priority=2)
    ...     def my_add_norm(reduced, residual: Rows, weight, epsilon):
    ...         both = ops.mylib.add_norm(reduced, residual, weight, epsilon)
    ...         return both[0], both[1]
    ...     "my_add_norm" in patterns.default_registry().rules()
    True

A dialect of one's own, whose all_reduce is another operator:

    >>> from spfast.patterns import CollectiveFamily, Dialect
    >>> with patterns.default_registry().temporary() as registry:
    ...     registry.add_dialect(Dialect("mylib", (CollectiveFamily(
    ...         "mylib", all_reduce="mylib.all_reduce.default", wait=None, reduce_op=-1, group=1,
    ...         reduce_scatter="mylib.reduce_scatter.default",
    ...         reduce_scatter_args=("input", 0, "world_size", "group"),
    ...         all_gather="mylib.all_gather.default",
    ...         all_gather_args=("input", 0, "world_size", "group")),)))
    ...     [dialect.name for dialect in registry.dialects()]
    ['vllm_ir', 'vllm_custom_ops', 'functional', 'mylib']

The rules of every dialect start from every all_reduce, so the new dialect has the known norms at
once. :func:`either` is for an operation that may be written in several ways, and
:func:`functionalized` for a mutating operator that was functionalised. ``registry.describe()``
writes every pattern back as such a function.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from spfast.patterns.dialect import CollectiveFamily, Dialect
from spfast.patterns.registry import Registry
from spfast.patterns.rowwise import ATEN, RowRule
from spfast.patterns.vllm_rowwise import VLLM

if TYPE_CHECKING:
    from spfast.patterns.building import either, functionalized
    from spfast.patterns.describing import describe
    from spfast.patterns.model import Pattern
    from spfast.patterns.tracing import trace
    from spfast.patterns.values import (
        Buffer,
        Captures,
        Rows,
        Value,
        default,
        last_dim,
        one_of,
        ops,
    )

__all__ = [
    "Buffer",
    "Captures",
    "CollectiveFamily",
    "Dialect",
    "Pattern",
    "Registry",
    "RowRule",
    "Rows",
    "Value",
    "default",
    "default_registry",
    "describe",
    "either",
    "functionalized",
    "last_dim",
    "one_of",
    "ops",
    "register",
    "register_rowwise",
    "trace",
]

# Only authors of rules need these names. Each is imported when it is first asked for.
_LAZY = {
    "Buffer": "values",
    "Captures": "values",
    "Pattern": "model",
    "Rows": "values",
    "Value": "values",
    "default": "values",
    "describe": "describing",
    "either": "building",
    "functionalized": "building",
    "last_dim": "values",
    "one_of": "values",
    "ops": "values",
    "trace": "tracing",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'spfast.patterns' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"spfast.patterns.{_LAZY[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


F = TypeVar("F", bound=Callable[..., Any])
_lock = threading.Lock()


def default_registry() -> Registry:
    """The registry that the pass uses when it is given none: the four rules in three dialects.

    Example:
        >>> from spfast.patterns import default_registry
        >>> default_registry().rules()  # doctest: +NORMALIZE_WHITESPACE
        ('first_all_reduce_rms_norm', 'middle_all_reduce_rms_norm',
         'first_all_reduce_rms_norm_static_fp8', 'middle_all_reduce_rms_norm_static_fp8')
    """
    with _lock:
        return _default()


@functools.cache
def _default() -> Registry:
    from spfast.patterns import stored

    found = stored.load()
    registry = traced_default() if found is None else Registry.of(found)
    registry.register_rowwise(*ATEN, *VLLM)
    return registry


def traced_default() -> Registry:
    """The default rules, traced here and now; without row-wise operators."""
    from spfast.patterns import functional, vllm_custom_ops, vllm_ir

    registry = Registry()
    for dialect in (vllm_ir, vllm_custom_ops, functional):
        dialect.register(registry)
    return registry


def register(
    name: str,
    *,
    dialect: str,
    priority: int = 0,
    quantises: bool | None = None,
    variant: str = "",
    variants: Mapping[str, Sequence[Any]] | None = None,
    replace: bool = False,
) -> Callable[[F], F]:
    """Registers the decorated function with the default registry: see :meth:`Registry.register`."""
    return default_registry().register(
        name,
        dialect=dialect,
        priority=priority,
        quantises=quantises,
        variant=variant,
        variants=variants,
        replace=replace,
    )


def register_rowwise(*rules: RowRule, replace: bool = False) -> None:
    """Adds to the default registry: see :meth:`Registry.register_rowwise`."""
    default_registry().register_rowwise(*rules, replace=replace)
