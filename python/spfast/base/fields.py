"""How the fields of a configuration are checked, and brought into one form."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from spfast.errors import ConfigError

if TYPE_CHECKING:
    import torch

__all__ = [
    "MOST_RANKS",
    "as_dtype",
    "as_groups",
    "as_replicated",
    "as_tuple",
    "check_choice",
    "check_group_name",
    "check_int",
    "said",
]

# torch.distributed counts no more ranks than this.
MOST_RANKS = 2**31 - 1


def as_dtype(value: object) -> torch.dtype:
    """A dtype, given as one or by its name."""
    import torch

    found = value
    if isinstance(value, str):
        found = getattr(torch, value.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise ConfigError(
            f"dtype={value!r} is no torch.dtype: pass one, such as torch.bfloat16 or 'bfloat16'"
        )
    return found


def as_groups(value: Any) -> tuple[tuple[str, tuple[int, int]], ...]:
    """(size, rank) of groups, as pairs sorted by name."""
    example = "pass a dict such as {'tp': (8, 0)}"
    try:
        given: dict[Any, Any] = dict(value)
    except (TypeError, ValueError):
        raise ConfigError(
            f"groups={value!r} does not map names to (size, rank): {example}"
        ) from None
    found = []
    for name, pair in given.items():
        if not isinstance(name, str) or not name:
            raise ConfigError(f"groups has the key {name!r}, which is no group's name: {example}")
        where = f"groups[{name!r}]"
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ConfigError(f"{where}={pair!r} is not (size, rank): {example}")
        size, rank = pair
        for part, number, minimum in (("size", size, 1), ("rank", rank, 0)):
            if number is None:
                raise ConfigError(f"{where} has no {part}: {example}")
            check_int(f"the {part} of {where}", number, minimum, MOST_RANKS)
        if rank >= size:
            raise ConfigError(
                f"{where} has rank {rank} of {size}: pass a rank from 0 to {size - 1}"
            )
        found.append((name, (size, rank)))
    return tuple(sorted(found))


def as_replicated(value: object, words: tuple[str, ...]) -> object:
    """Names in one order, so that equal choices are equal; a word or a predicate as it is."""
    if callable(value) or (isinstance(value, str) and value in words):
        return value
    names = None if isinstance(value, str) or not isinstance(value, Iterable) else set(value)
    if names is None or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"replicated={value!r} is unknown: pass 'infer', 'prove', names of graph inputs, "
            f"or a predicate of their nodes"
        )
    return tuple(sorted(names))


def as_tuple(name: str, value: object, kind: type) -> tuple[Any, ...]:
    """Several values of one kind."""
    items = None if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
    if items is None or not all(isinstance(item, kind) for item in items):
        raise ConfigError(f"{name}={value!r} must be a tuple of {kind.__name__}: pass one, or ()")
    return items


def check_group_name(value: object) -> None:
    """Refuses what is no group's name.

    Raises:
        ConfigError: It is neither None nor a string that says something.

    Example:
        >>> check_group_name("tp")
    """
    if value is not None and (not isinstance(value, str) or not value):
        raise ConfigError(
            f"group_name={value!r} is not a group's name: "
            f"pass the string that the graph's all_reduce carries, or None"
        )


def check_int(name: str, value: object, minimum: int, maximum: int = 2**63 - 1) -> None:
    """A whole number, or None where a field may be absent."""
    if value is None and name != "collective_cost" and not name.startswith("Range."):
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{name}={value!r} is not a whole number: pass an int")
    if value < minimum:
        raise ConfigError(f"{name}={value} is too small: pass {minimum} or more")
    if value > maximum:
        raise ConfigError(f"{name}={value} is too large: pass {maximum} or less")


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """One of a few values."""
    if value not in choices or (isinstance(value, int) and not isinstance(value, bool)):
        options = ", ".join(repr(choice) for choice in choices)
        raise ConfigError(f"{name}={value!r} is unknown: pass one of {options}")


def said(data: Any) -> str:
    """The fields of a dataclass that are not what they are by default, as a call would name them.

    Example:
        >>> from spfast.config import SequenceParallelConfig
        >>> said(SequenceParallelConfig(tp_size=8, validate=True))
        'tp_size=8, validate=True'
    """
    shown = []
    for field in dataclasses.fields(data):
        value = getattr(data, field.name)
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        if field.repr and value != default:
            value = dict(value) if isinstance(value, Mapping) else value
            shown.append(f"{field.name}={value!r}")
    return ", ".join(shown)
