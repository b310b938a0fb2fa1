"""spfast explain: what would be rewritten, and why the rest stays."""

from __future__ import annotations

import argparse

from spfast.cli.files import load
from spfast.cli.options import Commands, add_config, add_file, add_json, config_of
from spfast.cli.output import DONE, NOTHING_REWRITTEN, emit

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser("explain", help="say for every all_reduce why, or why not")
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 where nothing would be rewritten"
    )
    parser.add_argument(
        "--all", action="store_true", help="a line for each all_reduce, alike or not"
    )
    add_file(parser)
    add_config(parser)
    add_json(parser)
    parser.set_defaults(run=_explain)


def _explain(arguments: argparse.Namespace) -> int:
    import spfast

    graph, _ = load(arguments.file)
    explanation = spfast.explain(graph, config_of(arguments))
    emit(arguments, explanation.to_json(), explanation.text(verbose=arguments.all))
    rewritten = any(entry.rewritten for entry in explanation.entries)
    return NOTHING_REWRITTEN if arguments.strict and not rewritten else DONE
