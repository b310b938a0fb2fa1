"""spfast report: one page about the rewrite of a graph, or about a whole run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from spfast.cli.files import load
from spfast.cli.options import Commands, a_path, add_config, add_file, config_of
from spfast.cli.output import DONE, check_output
from spfast.errors import ConfigError, FileFormatError

if TYPE_CHECKING:
    from spfast.report import Drawing

__all__ = ["add_to"]

# What SPFAST_DEBUG_DUMP leaves for this.
_DRAWINGS = "*.drawing.json"


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "report", help="draw a graph before and after as one HTML page, with every reason"
    )
    add_file(parser, optional=True)
    parser.add_argument(
        "--run",
        dest="run_folder",
        type=a_path,
        metavar="DIR",
        help="instead of FILE: the folder that SPFAST_DEBUG_DUMP filled while a model ran",
    )
    parser.add_argument(
        "-o", "--output", type=a_path, metavar="OUT", required=True, help="the page, an .html file"
    )
    parser.add_argument("--title", metavar="TEXT", help="what the page is called")
    add_config(parser)
    parser.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    from spfast.report.page import write_page

    if (arguments.file is None) == (arguments.run_folder is None):
        got = "neither" if arguments.file is None else "both"
        raise ConfigError(f"report is of FILE or of --run DIR, and got {got}: pass one of them")
    check_output(arguments.output, ".html", ".htm")
    if arguments.run_folder is not None:
        drawing, name = _of_run(arguments.run_folder), arguments.run_folder.name
    else:
        drawing, name = _of_file(arguments), arguments.file.name
    write_page(drawing, arguments.output, arguments.title or name)
    done = sum(site[1] for site in drawing.sites)
    print(f"{arguments.output}: {done} of {len(drawing.sites)} all_reduces rewritten")
    return DONE


def _of_file(arguments: argparse.Namespace) -> Drawing:
    import spfast

    graph, _ = load(arguments.file)
    drawing = spfast.apply(graph, config_of(arguments), record_plan=True).drawing
    if drawing is None:
        raise ConfigError(f"{arguments.file} has no all_reduce: there is nothing to draw")
    return drawing


def _of_run(folder: Path) -> Drawing:
    from spfast.report import Drawing

    if not folder.is_dir():
        raise FileNotFoundError(f"--run {folder} is not a folder: pass one that a run has filled")
    files = sorted(folder.glob(_DRAWINGS))
    if not files:
        raise FileFormatError(
            f"--run {folder} has no {_DRAWINGS}: "
            f"run the model with SPFAST_DEBUG_DUMP={folder} first"
        )
    whole = Drawing({}, {}, ())
    for file in files:
        name = file.name.removesuffix(_DRAWINGS[1:])
        try:
            whole = whole.joined(Drawing.from_json(file.read_bytes()), name)
        except FileFormatError as error:
            raise FileFormatError(f"{file}: {error}") from None
    return whole
