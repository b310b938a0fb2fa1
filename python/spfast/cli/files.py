"""The graphs in files: tables and exported programs."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from spfast.base.files import replaced
from spfast.errors import FileFormatError

if TYPE_CHECKING:
    from torch import fx
    from torch.export import ExportedProgram

__all__ = ["load", "save", "written_as"]

_STDIN = Path("-")
# What an archive begins with, and torch.export saves programs as one.
_ARCHIVE = b"PK\x03\x04"


def load(path: Path) -> tuple[fx.Graph, ExportedProgram | None]:
    """Reads the graph in a file, and the program that it is part of; ``-`` is standard input."""
    if path == _STDIN:
        return _load_piped(), None
    if path.is_dir() or not path.exists():
        raise FileNotFoundError(f"{path} is not a file: pass a .spfx table or a .pt2 program")
    if path.suffix == ".spfx":
        from spfast import NodeTable
        from spfast.testing import ops

        # A file may come from a machine that has vLLM: declare its operators where it is not.
        ops.declare()
        return NodeTable.load(path).to_graph(), None
    if path.suffix == ".pt2":
        program = _load_program(path)
        return program.graph_module.graph, program
    raise FileFormatError(f"{path} is of no kind that is known: pass a .spfx table or a .pt2")


def _load_piped() -> fx.Graph:
    """A table from standard input."""
    from spfast import NodeTable
    from spfast.base.table_files import unpack
    from spfast.testing import ops

    if sys.stdin is None:
        raise FileFormatError("standard input is closed: pass a file, or a table through a pipe")
    ops.declare()
    try:
        return NodeTable.from_bytes(unpack(sys.stdin.buffer)).to_graph()
    except FileFormatError as error:
        raise FileFormatError(f"standard input: {error}") from None


def _load_program(path: Path) -> ExportedProgram:
    with path.open("rb") as file:
        if file.read(len(_ARCHIVE)) != _ARCHIVE:
            raise FileFormatError(
                f"{path} is no exported program: it is no archive such as torch.export.save writes"
            )
    import torch

    # Registers the collectives that an exported program may call.
    import torch.distributed._functional_collectives  # noqa: F401

    with _held_back(logging.getLogger("torch.export")) as records:
        try:
            return torch.export.load(path)
        except Exception as error:  # torch.export raises whatever its reader stumbled over
            # After a first failure torch logs it, tries an older format, and raises for that one.
            told = [each.exc_info[1] for each in records if each.exc_info and each.exc_info[1]]
            records.clear()
            first = (told or [error])[0]
            reason = (str(first).splitlines() or ["no reason"])[0]
            raise FileFormatError(
                f"{path} is no exported program that torch {torch.__version__} can read "
                f"({type(first).__name__}: {reason})"
            ) from error


@contextlib.contextmanager
def _held_back(logger: logging.Logger) -> Iterator[list[logging.LogRecord]]:
    """Keeps what a logger is told until the end, when what is left of it is logged."""
    records: list[logging.LogRecord] = []

    def hold(record: logging.LogRecord) -> bool:
        records.append(record)
        return False

    logger.addFilter(hold)
    try:
        yield records
    finally:
        logger.removeFilter(hold)
        for record in records:
            logger.handle(record)


def written_as(source: Path) -> tuple[str, ...]:
    """What the name of a file may end in that is written from another: a table is no program."""
    return (".spfx", ".pt2") if source.suffix == ".pt2" else (".spfx",)


def save(output: Path, graph: fx.Graph, program: ExportedProgram | None) -> None:
    """Writes what :func:`load` read."""
    if output.suffix == ".spfx":
        from spfast import NodeTable

        NodeTable.from_graph(graph).save(str(output))
        return
    import torch

    assert program is not None
    program.graph_module.recompile()
    with replaced(output) as scratch:
        torch.export.save(program, scratch)
