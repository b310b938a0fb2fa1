"""spfast apply: rewrites the graph in a file."""

from __future__ import annotations

import argparse

from spfast.cli.files import load, save, written_as
from spfast.cli.options import Commands, a_path, add_config, add_file, add_json, config_of
from spfast.cli.output import DONE, NOTHING_REWRITTEN, check_output, emit

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser("apply", help="rewrite the graph in FILE")
    parser.add_argument("-o", "--output", type=a_path, metavar="OUT", help="write the result there")
    parser.add_argument("--plan", action="store_true", help="show every edit")
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 where nothing was rewritten"
    )
    add_file(parser)
    add_config(parser)
    add_json(parser)
    parser.set_defaults(run=_apply)


def _apply(arguments: argparse.Namespace) -> int:
    import spfast

    if arguments.output is not None:
        check_output(arguments.output, *written_as(arguments.file))
    graph, program = load(arguments.file)
    result = spfast.apply(graph, config_of(arguments), record_plan=arguments.plan)
    if arguments.output is not None:
        save(arguments.output, graph, program)
    given = result.to_dict()
    del given["skipped_count"]
    record = {
        "file": str(arguments.file),
        "output": str(arguments.output) if arguments.output else None,
        "rewritten": given.pop("matched_count"),
        "left": given.pop("skipped"),
        **given,
    }
    lines = [f"{arguments.file}: {result}"]
    stages = {**result.timings.stages(), "total": result.timings.total}
    lines += [f"  {stage:<10} {seconds * 1e3:>9.3f} ms" for stage, seconds in stages.items()]
    if arguments.output is not None:
        lines.append(f"  written to {arguments.output}")
    if arguments.plan:
        record["plan"] = result.plan
        lines.append(result.plan)
    emit(arguments, record, "\n".join(lines))
    return NOTHING_REWRITTEN if arguments.strict and not result.matched_count else DONE
