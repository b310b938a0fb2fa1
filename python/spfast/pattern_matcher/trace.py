"""Tracing a pattern's functions for the arguments of one match, as the stock matcher does.

This is the slow step (5 to 25 ms) that the cache in `variants` does once per distinct metadata. It
must give what torch's own check would give for the same arguments, so it refreshes the arguments,
passes symbolic sizes as extra inputs and converts the traced graph with torch's `fx_to_pattern`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch._guards import detect_fake_mode
from torch._inductor.pattern_matcher import (
    PatternExpr,
    fx_to_pattern,
)
from torch._inductor.pattern_matcher import register_replacement as torch_register_replacement
from torch._prims_common import is_integer_dtype
from torch.fx.experimental.symbolic_shapes import statically_known_true

from spfast.pattern_matcher.proof import Policy
from spfast.pattern_matcher.search import Search

__all__ = ["ReplacementSpec", "parameter_names", "trace_replacement", "trace_search"]

# torch.compile's matcher before 2.12 has no decomposition argument.
TAKES_DECOMPOSITIONS = "get_decomp_fn" in inspect.signature(torch_register_replacement).parameters

# Since 2.15 the exact pattern also tells what each node's value must look like. It is then traced
# even where a pattern was given, and whatever the search function raises means "does not fit".
_MATCHES_META = "match_node_meta" in inspect.signature(fx_to_pattern).parameters
_META_TOO: dict[str, Any] = {"match_node_meta": True} if _MATCHES_META else {}
_DOES_NOT_FIT = Exception if _MATCHES_META else RuntimeError


@dataclass(frozen=True)
class ReplacementSpec:
    """What a user registered: the two functions and how to trace them.

    Attributes:
        argnames: The parameters of the search function.
        flat_argnames: The same after nested arguments are flattened: the pattern's keyword names.
        arg_specs: For each parameter, how its leaves nest.
        requires_grad: For each leaf, whether the example input required a gradient.
        extra_check: The user's check; None if there is none.
        leaf_names: For each parameter, the keyword names of its leaves.
        policy: How long a trace is kept; see `Proof`.
        cache: Torch's own cache of exact patterns for this registration, where it has one (since
            2.15): it is read and filled as torch does, stale patterns included.
    """

    search_fn: Callable[..., Any]
    replace_fn: Callable[..., Any]
    trace_fn: Callable[..., Any]
    argnames: tuple[str, ...]
    flat_argnames: tuple[str, ...]
    arg_specs: tuple[Any, ...]
    requires_grad: tuple[bool, ...]
    extra_check: Callable[[Any], Any] | None
    scalar_workaround: dict[str, Any]
    exclusive_arg_names: tuple[str, ...]
    search_fn_pattern: PatternExpr | None
    get_decomp_fn: Callable[..., Any] | None
    name: str
    leaf_names: tuple[tuple[str, ...], ...]
    policy: Policy = "proved"
    cache: Any = None

    def __deepcopy__(self, _memo: Any) -> ReplacementSpec:
        """Returns itself: torch's entry, too, shares the user's functions with its copies."""
        return self

    def unflatten(self, leaves: Sequence[Any]) -> list[Any]:
        """One value for each parameter from the flat leaves."""
        found: list[Any] = []
        position = 0
        for spec in self.arg_specs:
            count = spec.num_leaves
            found.append(pytree.tree_unflatten(list(leaves[position : position + count]), spec))
            position += count
        return found

    def structured(self, kwargs: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
        """A match's keyword arguments, nested again; what the match lacks comes from `defaults`.

        Raises:
            RuntimeError: The match lacks an argument that has no default.
        """
        rest = dict(kwargs)
        found: dict[str, Any] = {}
        for name, spec, leaves in zip(self.argnames, self.arg_specs, self.leaf_names, strict=True):
            present = [leaf for leaf in leaves if leaf in rest]
            if len(present) == len(leaves):
                found[name] = pytree.tree_unflatten([rest.pop(leaf) for leaf in leaves], spec)
            elif name in defaults and not present:
                found[name] = defaults[name]
            else:
                missing = [leaf for leaf in leaves if leaf not in rest]
                raise RuntimeError(
                    f"pattern {self.name!r} does not capture {missing} of its argument {name!r}; "
                    "is the argument unused in the search function?"
                )
        found.update(rest)
        return found

    def trace(self, fn: Callable[..., Any], args: Sequence[Any]) -> torch.fx.GraphModule:
        """The traced graph of a function for these arguments."""
        if self.get_decomp_fn is not None and TAKES_DECOMPOSITIONS:
            traced = self.trace_fn(fn, list(args), get_decomp_fn=self.get_decomp_fn)
        else:
            traced = self.trace_fn(fn, list(args))
        if not isinstance(traced, torch.fx.GraphModule):
            raise TypeError(
                f"trace_fn of pattern {self.name!r} returned a {type(traced).__name__}; "
                "return a torch.fx.GraphModule"
            )
        return traced


def parameter_names(
    argnames: Sequence[str], args: Sequence[Any]
) -> tuple[tuple[tuple[str, ...], ...], tuple[Any, ...]]:
    """The keyword names of each parameter's leaves, and the nesting of each parameter.

    A parameter that is one leaf keeps its name; the leaves of a list are numbered.
    """
    used: set[str] = set()

    def unique(name: str) -> str:
        found, count = name, 0
        while found in used:
            found, count = f"{name}_{count}", count + 1
        used.add(found)
        return found

    names: list[tuple[str, ...]] = []
    specs: list[Any] = []
    for name, arg in zip(argnames, args, strict=True):
        leaves, spec = pytree.tree_flatten(arg)
        wanted = [name] if len(leaves) == 1 else [f"{name}_{i}" for i in range(len(leaves))]
        names.append(tuple(unique(leaf) for leaf in wanted))
        specs.append(spec)
    return tuple(names), tuple(specs)


def refresh(spec: ReplacementSpec, values: Sequence[Any]) -> list[Any] | None:
    """Fresh tensors with the metadata of `values`; None if the pattern cannot take them."""
    fresh: list[Any] = []
    for value, grad in zip(values, spec.requires_grad, strict=True):
        if not isinstance(value, torch.Tensor):
            fresh.append(value)
            continue
        if grad and is_integer_dtype(value.dtype):
            return None
        fresh.append(
            torch.empty_strided(
                value.size(),
                value.stride(),
                dtype=value.dtype,
                device=value.device,
                requires_grad=grad,
            )
        )
    return fresh


def symbolic_sizes(values: Sequence[Any]) -> list[torch.SymInt]:
    """The distinct symbolic sizes of tensors, in order of occurrence."""
    found: list[torch.SymInt] = []
    for value in values:
        if not isinstance(value, torch.Tensor):
            continue
        for size in (*value.shape, *value.stride()):
            if isinstance(size, torch.SymInt) and all(
                statically_known_true(size != other) for other in found
            ):
                found.append(size)
    return found


def trace_search(spec: ReplacementSpec, values: Sequence[Any]) -> Search:
    """The exact search pattern for these argument values. Call it under the graph's fake mode.

    Args:
        spec: The registered pattern.
        values: Meta values of the flat arguments.

    Returns:
        One without a pattern if the search function cannot run on such arguments: nothing matches.
    """
    fresh = refresh(spec, values)
    if fresh is None:
        return Search(None)
    if spec.search_fn_pattern is not None and not _MATCHES_META:
        return Search(spec.search_fn_pattern)
    args = spec.unflatten(fresh)
    slot = _slot(spec, args)
    if slot is not None and slot[1] in slot[0]:
        return Search(slot[0][slot[1]])
    sizes = symbolic_sizes(fresh)
    search: Callable[..., Any] = spec.search_fn
    if sizes:
        # Symbolic sizes are inputs of their own. Otherwise the trace would read them off the
        # tensors, and these reads would be part of the pattern.
        def search_with_sizes(*inputs: Any, **_: Any) -> Any:
            return spec.search_fn(*inputs[len(sizes) :])

        search = search_with_sizes
    try:
        traced = spec.trace(search, [*sizes, *args])
    except _DOES_NOT_FIT as error:
        return Search(None, str(error))
    sym_names: tuple[str, ...] = ()
    if sizes:
        placeholders = [node for node in traced.graph.nodes if node.op == "placeholder"]
        sym_names = tuple(str(node.target) for node in placeholders[: len(sizes)])
        wanted = placeholders[len(sizes) : len(sizes) + len(spec.flat_argnames)]
        for node, name in zip(wanted, spec.flat_argnames, strict=False):
            _rename_placeholder(traced.graph, node, name)
    pattern = fx_to_pattern(
        traced,
        argnames=[*sym_names, *spec.flat_argnames],
        exclusive_arg_names=spec.exclusive_arg_names,
        scalar_workaround=spec.scalar_workaround,
        **_META_TOO,
    )
    if slot is not None:
        slot[0][slot[1]] = pattern
    return Search(pattern)


def _slot(spec: ReplacementSpec, args: Sequence[Any]) -> Any:
    """The table and the key under which torch keeps the pattern for such arguments, or None."""
    if spec.cache is None:
        return None
    mode = detect_fake_mode(args)
    return None if mode is None else spec.cache.lookup(args, mode.shape_env)


def _rename_placeholder(graph: torch.fx.Graph, node: torch.fx.Node, name: str) -> None:
    with graph.inserting_after(node):
        renamed = graph.placeholder(name)
        renamed.target = renamed.name
    node.replace_all_uses_with(renamed)
    graph.erase_node(node)


def trace_replacement(spec: ReplacementSpec, values: Sequence[Any]) -> torch.fx.GraphModule:
    """The replacement graph for these argument values. Call it under the graph's fake mode.

    Raises:
        Whatever the user's function raises.
    """
    fresh = refresh(spec, values)
    assert fresh is not None, "a replacement is traced only after its search was"
    return spec.trace(spec.replace_fn, spec.unflatten(fresh))
