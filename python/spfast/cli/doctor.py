"""spfast doctor: what is found of torch or of a host, and what is missing."""

from __future__ import annotations

import argparse

from spfast.cli.options import Commands, add_json
from spfast.cli.output import DONE, NOTHING_REWRITTEN, emit

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "doctor", help="say what is found of torch, or of a host, and what is missing"
    )
    parser.add_argument(
        "host", nargs="?", choices=["vllm"], help="the host to look at; without one, torch"
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 where something is missing"
    )
    add_json(parser)
    parser.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    if arguments.host == "vllm":
        from spfast.integrations.vllm.doctor import examine

        host = examine()
        emit(arguments, host.to_json(), str(host))
        problems = host.problems
    else:
        from spfast.base.versions import surroundings

        found = surroundings()
        emit(arguments, found.to_json(), str(found))
        problems = found.problems
    return NOTHING_REWRITTEN if arguments.strict and problems else DONE
