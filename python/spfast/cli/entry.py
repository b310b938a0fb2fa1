"""Reads the arguments, runs one command, and turns what went wrong into its exit code."""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from spfast._core import version
from spfast.base.versions import found_torch
from spfast.cli import apply, completion, doctor, explain, inspect, measure, report
from spfast.cli.interrupts import interruptible
from spfast.cli.output import BAD_INPUT, DONE, FAULT, INTERRUPTED
from spfast.errors import ConfigError, InternalError, SpfastError, VerificationError

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments without the program's name; None takes those of the process.

    Returns:
        The exit code.

    Example:
        >>> main(["inspect", "no_such_file.spfx"])
        2
    """
    if sys.stdout is None:  # it was closed before the process began
        sys.stdout = open(os.devnull, "w")
    code = _guarded(argv)
    try:
        sys.stdout.flush()
    except OSError:
        # The exit code says so. Python flushes again when it ends; that has to go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _guarded(argv: Sequence[str] | None) -> int:
    try:
        with interruptible():
            code = _run(argv)
            sys.stdout.flush()  # an error of writing has to come up before the exit code is chosen
            return code
    except (VerificationError, InternalError) as error:
        return _end(FAULT, f"fault: {error}")
    except ConfigError as error:
        return _end(BAD_INPUT, f"error: {_with_flags(str(error))}")
    except BrokenPipeError:  # the reader has closed the pipe
        return BAD_INPUT
    except (SpfastError, OSError) as error:
        return _end(BAD_INPUT, f"error: {error}")
    except KeyboardInterrupt:
        return _end(INTERRUPTED, "interrupted")


def _run(argv: Sequence[str] | None) -> int:
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as end:  # the parser has said what is wrong, or what was asked for
        return int(end.code or DONE)
    return int(arguments.run(arguments))


def _end(code: int, message: str) -> int:
    print(f"spfast: {message}", file=sys.stderr)
    return code


def _with_flags(message: str) -> str:
    """A message about a config, in the words of the command line."""
    message = message.replace(" in the config", "")
    message = re.sub(r"\bgroups\['([^']*)'\]", r"--group \1", message)
    fields = "tp_size|tp_rank|group_name|divisibility|recognise"

    def flag(match: re.Match[str]) -> str:
        return f"--{match[1].replace('_', '-')}{' ' if match[2] else ''}"

    return re.sub(rf"(?<![-\w])({fields})(=?)\b", flag, message)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage before it; its commands do so too."""

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        print(self.format_help(), end="", file=file)  # argparse would hide an error of writing

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        # argparse would hand a command's unknown arguments up, and point to the help of spfast.
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        self.exit(BAD_INPUT, f"spfast: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="spfast",
        description="Sequence parallelism for torch.fx graphs, at native speed.",
        epilog="exit codes: 0 done, 1 nothing rewritten with --strict, 2 bad input, 3 a fault, "
        "130 interrupted",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="say the version, and torch's")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (measure, apply, explain, report, inspect, doctor):
        command.add_to(commands)
    completion.add_to(commands, _parser)
    return parser


class _Version(argparse.Action):
    """Says the versions, of torch as well: what a bug report needs."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"spfast {version} (torch {found_torch()}, Python {platform.python_version()})")
        parser.exit()
