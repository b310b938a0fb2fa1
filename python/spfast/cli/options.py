"""The options that say which ranks a graph is for, and how it is rewritten."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, get_args

from spfast.config import Divisibility, Recognise
from spfast.errors import ConfigError

if TYPE_CHECKING:
    from spfast.config import SequenceParallelConfig

__all__ = ["Commands", "a_path", "add_config", "add_file", "add_json", "config_of"]

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def a_path(text: str) -> Path:
    """A path from its text. An empty text is refused, for it would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got ''")
    return Path(text)


def add_file(command: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Adds the file that a command reads."""
    command.add_argument(
        "file",
        type=a_path,
        metavar="FILE",
        nargs="?" if optional else None,
        help="a .spfx table or a .pt2; - reads a table from standard input",
    )


def add_json(command: argparse.ArgumentParser) -> None:
    """Adds --json."""
    command.add_argument("--json", action="store_true", help="write JSON to stdout")


def add_config(command: argparse.ArgumentParser) -> None:
    """Adds what becomes a config."""
    group = command.add_argument_group("configuration (what is absent is looked up)")
    group.add_argument("--tp-size", type=int, metavar="N", help="ranks of the group")
    group.add_argument("--tp-rank", type=int, metavar="R", help="this rank, 0 where --tp-size is")
    group.add_argument("--group-name", metavar="NAME", help="only this group's all_reduces")
    group.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="NAME=SIZE:RANK",
        help="ranks of one group, and this rank in it; may be repeated",
    )
    group.add_argument(
        "--divisibility",
        default="guard",
        choices=get_args(Divisibility),
        help="what is done where the ranks may not share the tokens evenly (guard)",
    )
    group.add_argument(
        "--recognise",
        default="both",
        choices=get_args(Recognise),
        help="who finds the sites (both)",
    )
    group.add_argument("--validate", action="store_true", help="prove the result right")


def config_of(arguments: argparse.Namespace) -> SequenceParallelConfig:
    """Returns the config that the options make."""
    from spfast.config import SequenceParallelConfig

    rank = arguments.tp_rank
    if rank is None and arguments.tp_size is not None:
        rank = 0
    return SequenceParallelConfig(
        tp_size=arguments.tp_size,
        tp_rank=rank,
        group_name=arguments.group_name,
        groups=_groups(arguments.group),
        divisibility=arguments.divisibility,
        recognise=arguments.recognise,
        validate=arguments.validate,
    )


def _groups(texts: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Each NAME=SIZE:RANK; a name may hold any character."""
    found: dict[str, tuple[int, int]] = {}
    for text in texts:
        name, _, numbers = text.rpartition("=")
        size, _, rank = numbers.partition(":")
        try:
            given = (int(size), int(rank))
        except ValueError:
            raise ConfigError(
                f"--group {text} is not NAME=SIZE:RANK: pass one such as tp=8:0"
            ) from None
        if name in found:
            raise ConfigError(f"--group {text} names a group twice: pass it once")
        found[name] = given
    return found
