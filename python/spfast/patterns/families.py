"""Whether a dialect describes its collectives so that they can be rewritten."""

from __future__ import annotations

from dataclasses import replace

from spfast.errors import PatternError
from spfast.patterns.dialect import CollectiveFamily, Dialect

__all__ = ["check_dialect", "check_spelling"]

_SLOTS = ("input", "world_size", "group", "reduce_op")


def check_dialect(dialect: Dialect) -> None:
    """Checks each family of collectives by itself.

    Raises:
        PatternError: One cannot be rewritten as it is described; the message names it.
    """
    for family in dialect.families:
        problem = _problem(family)
        if problem:
            raise PatternError(
                f"dialect '{dialect.name}', collectives of {family.all_reduce}: {problem}"
            )


def _problem(family: CollectiveFamily) -> str:
    if family.group is not None and not _is_position(family.group):
        return (
            f"group={family.group!r} is no position: pass that of the group among the arguments, "
            f"or None where the all_reduce carries none"
        )
    if family.reduce_op != -1 and not _is_position(family.reduce_op):
        return f"reduce_op={family.reduce_op!r} is no position: pass it, or -1 for sums alone"
    for name in ("reduce_scatter_args", "all_gather_args"):
        args = getattr(family, name)
        for arg in args:
            if isinstance(arg, str) and arg not in _SLOTS:
                return f"{name} has {arg!r}: pass a number or one of {', '.join(_SLOTS)}"
            if not isinstance(arg, str) and not _is_number(arg):
                return f"{name} has {arg!r}: pass a number that fits 64 bits"
        if "input" not in args:
            return f"{name} lacks 'input', the value that is moved"
        if "group" in args and family.group is None:
            return f"{name} has 'group', and group=None says that there is none to pass on"
    # A reduce_scatter that is not given the reduce op would make a sum of a maximum.
    if ("reduce_op" in family.reduce_scatter_args) != (family.reduce_op != -1):
        return (
            f"reduce_op={family.reduce_op} and reduce_scatter_args={family.reduce_scatter_args!r} "
            f"do not agree: pass the reduce op on where the all_reduce has one, and nowhere else"
        )
    if "reduce_op" in family.all_gather_args:
        return "all_gather_args has 'reduce_op', and nothing is reduced there"
    return ""


def _is_number(value: object) -> bool:
    return type(value) is int and -(1 << 63) <= value < 1 << 63


def _is_position(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 31


def check_spelling(new: Dialect, known: Dialect) -> None:
    """Checks that two dialects give the same description of each collective that both have.

    Raises:
        PatternError: Their descriptions differ.
    """
    for family in new.families:
        for other in known.families:
            spelled = replace(family, name="") == replace(other, name="")
            if family.all_reduce == other.all_reduce and not spelled:
                raise PatternError(
                    f"dialects '{new.name}' and '{known.name}' spell the collectives of "
                    f"{family.all_reduce} differently"
                )
