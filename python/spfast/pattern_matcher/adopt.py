"""Entries that torch's own `register_replacement` made, served by the cache as well.

Torch keeps what was registered in the closure of the entry's check. Where the closure holds every
part by the name that is expected, the entry gets a cached twin; otherwise it stays as it is.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch._inductor.pattern_matcher as stock
import torch.utils._pytree as pytree

from spfast.pattern_matcher.entry import ReplacementEntry
from spfast.pattern_matcher.shelf import shelf_of
from spfast.pattern_matcher.trace import ReplacementSpec

__all__ = ["adopt", "pattern_cache"]

_PARTS = (
    "argnames_static",
    "exclusive_arg_names",
    "extra_check",
    "get_decomp_fn",
    "initial_arg_info",
    "replace_fn",
    "requires_grad",
    "scalar_workaround",
    "search_fn",
    "trace_fn",
)


def adopt(entry: Any) -> Any:
    """The entry to use in the place of `entry`: a cached twin of torch's, or `entry` itself."""
    if type(entry) is not stock.ReplacementPatternEntry:
        return entry
    shelf = shelf_of(entry)
    # An entry may be changed after it was registered.
    parts = (entry.pattern, entry.extra_check, entry.normalize_args)
    if shelf.twin is None or any(a is not b for a, b in zip(shelf.twin[1], parts, strict=True)):
        spec = _spec(entry)
        shelf.twin = (entry if spec is None else ReplacementEntry(entry, spec), parts)
    return shelf.twin[0]


def pattern_cache(entry: stock.ReplacementPatternEntry) -> Any:
    """Torch's own cache of the exact patterns of an entry, or None where it has none."""
    check = entry.extra_check
    if not inspect.isfunction(check) or check.__module__ != stock.__name__:
        return None
    return inspect.getclosurevars(check).nonlocals.get("specific_pattern_cache")


def _spec(entry: stock.ReplacementPatternEntry) -> ReplacementSpec | None:
    check = entry.extra_check
    if not inspect.isfunction(check) or check.__module__ != stock.__name__:
        return None
    parts = inspect.getclosurevars(check).nonlocals
    if any(name not in parts for name in _PARTS):
        return None
    info = parts["initial_arg_info"]
    argnames = tuple(parts["argnames_static"])
    extra_check = parts["extra_check"]
    return ReplacementSpec(
        search_fn=parts["search_fn"],
        replace_fn=parts["replace_fn"],
        trace_fn=parts["trace_fn"],
        argnames=argnames,
        flat_argnames=tuple(info.flat_argnames),
        arg_specs=tuple(info.arg_specs[name] for name in argnames),
        requires_grad=tuple(pytree.tree_leaves(parts["requires_grad"])),
        extra_check=None if extra_check is stock._return_true else extra_check,
        scalar_workaround=dict(parts["scalar_workaround"]),
        exclusive_arg_names=tuple(parts["exclusive_arg_names"]),
        # Since torch 2.15 the closure of the check does not hold the pattern.
        search_fn_pattern=parts.get("search_fn_pattern"),
        get_decomp_fn=parts["get_decomp_fn"],
        name=getattr(entry, "pattern_name", None) or parts["search_fn"].__name__,
        leaf_names=tuple(tuple(info.arg_flat_names[name]) for name in argnames),
        cache=parts.get("specific_pattern_cache"),
    )
