"""spfast doctor: what is found of a host, and what is missing."""

from __future__ import annotations

import argparse

from spfast.cli.options import Commands, add_json
from spfast.cli.output import DONE, NOTHING_REWRITTEN, emit

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser("doctor", help="say what is found of a host, and what is missing")
    parser.add_argument("host", choices=["vllm"], help="the host to look at")
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 where something is missing"
    )
    add_json(parser)
    parser.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from spfast.integrations.vllm.doctor import examine

    report = examine()
    emit(arguments, report.to_json(), str(report))
    return NOTHING_REWRITTEN if arguments.strict and report.problems else DONE
