"""Registration by torch's own code; a cached entry then takes the place of torch's.

Torch's entry traces for each match, and the cached one does not. Torch's code decides everything
that can go wrong at registration: duplicates, signatures, bound methods, scalar workarounds.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch._inductor.pattern_matcher as stock
import torch.utils._pytree as pytree
from torch._inductor.decomposition import select_decomp_table

from spfast.pattern_matcher.adopt import pattern_cache
from spfast.pattern_matcher.entry import ReplacementEntry
from spfast.pattern_matcher.proof import POLICIES, Policy
from spfast.pattern_matcher.trace import TAKES_DECOMPOSITIONS, ReplacementSpec, parameter_names

__all__ = ["gen_register_replacement", "register_replacement"]

# Torch's functions are kept at import, for `patched()` puts those of this file in their place.
_torch_register = stock.register_replacement
_torch_gen_register = stock.gen_register_replacement
_TAKES_NAME = "pattern_name" in inspect.signature(_torch_register).parameters


def _always(_match: Any) -> bool:
    return True


def register_replacement(
    search_fn: Callable[..., Any],
    replace_fn: Callable[..., Any],
    example_inputs: Sequence[Any],
    trace_fn: Callable[..., Any],
    pass_dicts: Any,
    extra_check: Callable[[stock.Match], Any] = _always,
    scalar_workaround: dict[str, Any] | None = None,
    exclusive_arg_names: Sequence[str] = (),
    search_fn_pattern: stock.PatternExpr | None = None,
    skip_duplicates: bool = False,
    pattern_name: str | None = None,
    get_decomp_fn: Callable[..., Any] = select_decomp_table,
    *,
    trace: Policy = "proved",
) -> Any:
    """Registers a search and a replacement function, as torch's function of the same name does.

    The search function is traced once here. Search and replacement are traced once more for each
    distinct metadata of a match's arguments, instead of for each match. What the two functions read
    elsewhere (closures, globals, defaults, attributes) is compared before each use. Where it
    changed, they are traced anew. Where that cannot be told, they are traced for each match.

    Args:
        search_fn: Traced to the pattern. A bound method is fine.
        replace_fn: Traced to the replacement, with the same arguments.
        example_inputs: Arguments for the first trace, one for each parameter that has no scalar
            workaround.
        trace_fn: `fwd_only`, `joint_fwd_bwd` or a function like them.
        pass_dicts: A PatternMatcherPass, a dict of lists, or a sequence of these.
        extra_check: Called with the exact Match of each candidate; false leaves it alone.
        scalar_workaround: Scalars that stand for parameters in the first trace.
        exclusive_arg_names: Parameters that must not be bound to the same node as another one.
        search_fn_pattern: A pattern to use instead of tracing the search function.
        skip_duplicates: Whether a pattern that is already there is skipped rather than an error.
        pattern_name: A name for counters and provenance.
        get_decomp_fn: Gives the decompositions for tracing.
        trace: "always" traces for each match, as torch does; "once" keeps traces without a proof,
            for functions that read nothing that changes, although no proof shows it.

    Returns:
        The pattern, or False if nothing was registered.

    Raises:
        RuntimeError: The pattern is registered twice and `skip_duplicates` is not set.
        TypeError: `example_inputs` is no list or tuple.
        ValueError: `trace` is none of the three words.

    Example:
        >>> import torch
        >>> from spfast import pattern_matcher as pm
        >>> rules = pm.PatternMatcherPass()
        >>> pattern = pm.register_replacement(
        ...     lambda x: torch.relu(torch.neg(x)),
        ...     lambda x: torch.sigmoid(x),
        ...     [torch.empty(4)],
        ...     pm.fwd_only,
        ...     rules,
        ... )
        >>> len(rules.patterns)
        1
    """
    if trace not in POLICIES:
        raise ValueError(f"trace must be one of {POLICIES}, but got {trace!r}")
    options: dict[str, Any] = {}
    if _TAKES_NAME:
        options["pattern_name"] = pattern_name
    if TAKES_DECOMPOSITIONS:
        options["get_decomp_fn"] = get_decomp_fn
    registered = _torch_register(
        search_fn,
        replace_fn,
        example_inputs,  # type: ignore[arg-type] # torch says which are wrong
        trace_fn,
        pass_dicts,
        extra_check,
        scalar_workaround,
        exclusive_arg_names,
        search_fn_pattern,
        skip_duplicates,
        **options,
    )
    if isinstance(registered, stock.PatternExpr):
        spec = _spec(
            search_fn,
            replace_fn,
            example_inputs,
            trace_fn,
            None if extra_check in (_always, stock._return_true) else extra_check,
            scalar_workaround or {},
            tuple(exclusive_arg_names),
            search_fn_pattern,
            pattern_name,
            get_decomp_fn,
            trace,
        )
        _swap(pass_dicts, registered, spec, {})
    return registered


def gen_register_replacement(
    unique_name: str,
    search_fn: Callable[..., Any],
    replace_fn: Callable[..., Any],
    example_inputs: Iterable[Any],
    trace_fn: Callable[..., Any],
    pass_dicts: Any,
    *args: Any,
    trace: Policy = "proved",
    **kwargs: Any,
) -> None:
    """Registers a pattern that torch ships serialised, as torch's function of that name does.

    `trace` is what it is for `register_replacement`.
    """
    previous = stock.register_replacement
    own: Any = functools.partial(register_replacement, trace=trace)
    stock.register_replacement = own  # torch's function looks it up there
    try:
        _torch_gen_register(
            unique_name,
            search_fn,
            replace_fn,
            example_inputs,
            trace_fn,
            pass_dicts,
            *args,
            **kwargs,
        )
    finally:
        stock.register_replacement = previous


def _spec(
    search_fn: Callable[..., Any],
    replace_fn: Callable[..., Any],
    example_inputs: Sequence[Any],
    trace_fn: Callable[..., Any],
    extra_check: Callable[[Any], Any] | None,
    scalar_workaround: dict[str, Any],
    exclusive_arg_names: tuple[str, ...],
    search_fn_pattern: stock.PatternExpr | None,
    pattern_name: str | None,
    get_decomp_fn: Callable[..., Any],
    policy: Policy,
) -> ReplacementSpec:
    argnames = tuple(inspect.signature(search_fn).parameters)
    examples = iter(example_inputs)
    initial = [
        scalar_workaround[name] if name in scalar_workaround else next(examples)
        for name in argnames
    ]
    leaf_names, arg_specs = parameter_names(argnames, initial)
    return ReplacementSpec(
        search_fn=_function(search_fn),
        replace_fn=_function(replace_fn),
        trace_fn=trace_fn,
        argnames=argnames,
        flat_argnames=tuple(name for names in leaf_names for name in names),
        arg_specs=arg_specs,
        requires_grad=tuple(
            isinstance(leaf, torch.Tensor) and leaf.requires_grad
            for leaf in pytree.tree_leaves(initial)
        ),
        extra_check=extra_check,
        scalar_workaround=scalar_workaround,
        exclusive_arg_names=exclusive_arg_names,
        search_fn_pattern=search_fn_pattern,
        get_decomp_fn=get_decomp_fn,
        name=pattern_name or str(getattr(search_fn, "__name__", type(search_fn).__name__)),
        leaf_names=leaf_names,
        policy=policy,
    )


def _function(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A bound method as a function without `self`, which tracing would take for an input."""
    if not inspect.ismethod(fn):
        return fn

    def call(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    call.__name__ = fn.__name__
    call.__signature__ = inspect.signature(fn)  # type: ignore[attr-defined]
    return call


def _swap(
    pass_dicts: Any,
    pattern: stock.PatternExpr,
    spec: ReplacementSpec,
    made: dict[int, ReplacementEntry],
) -> None:
    """Puts our entry where torch has just put its own for this pattern."""
    if not isinstance(pass_dicts, (dict, stock.PatternMatcherPass)):
        for item in pass_dicts:
            _swap(item, pattern, spec, made)
        return
    for target in pattern.fns:  # type: ignore[attr-defined]
        entries = pass_dicts[(pattern.op, target)]  # type: ignore[attr-defined]
        for i, entry in enumerate(entries):
            if type(entry) is stock.ReplacementPatternEntry and entry.pattern is pattern:
                if id(entry) not in made:
                    own = dataclasses.replace(spec, cache=pattern_cache(entry))
                    made[id(entry)] = ReplacementEntry(entry, own)
                entries[i] = made[id(entry)]
