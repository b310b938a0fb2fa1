"""Reads the arguments, runs one command, and turns what went wrong into its exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from spfast.cli import apply, doctor, explain, inspect, measure
from spfast.cli.output import BAD_INPUT, FAULT
from spfast.errors import InternalError, SpfastError, VerificationError

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
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except (VerificationError, InternalError) as error:
        print(f"spfast: fault: {error}", file=sys.stderr)
        return FAULT
    except (SpfastError, OSError) as error:
        print(f"spfast: error: {error}", file=sys.stderr)
        return BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spfast",
        description="Sequence parallelism for torch.fx graphs, at native speed.",
        epilog="exit codes: 0 done, 1 nothing rewritten with --strict, 2 bad input, 3 a fault",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (measure, apply, explain, inspect, doctor):
        command.add_to(commands)
    return parser
