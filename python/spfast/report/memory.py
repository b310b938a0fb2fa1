"""How many bytes of computed values live at each node of a graph."""

from __future__ import annotations

from collections.abc import Sequence

from spfast.report.rows import Row

__all__ = ["live_bytes", "returned_bytes"]


def live_bytes(rows: Sequence[Row]) -> list[int]:
    """Returns the bytes that live while each node runs.

    A value lives from the node that makes it to the last node that reads it or a view of it. A
    value that the graph returns lives to the end. Inputs are not counted, nor is memory that an
    operator needs inside. This is what a compiler that reuses all memory would need without fusion.

    Example:
        >>> live_bytes([])
        []
    """
    owner = _owners(rows)
    last = {row.name: at for at, row in enumerate(rows)}
    for at, row in enumerate(rows):
        for name in row.inputs:
            last[owner[name]] = at if row.op != "output" else len(rows)
    ends = [0] * (len(rows) + 1)
    live, found = 0, []
    for at, row in enumerate(rows):
        if _owns(row):
            live += row.bytes
            ends[min(last[row.name], len(rows))] += row.bytes
        found.append(live)
        live -= ends[at]
    return found


def returned_bytes(rows: Sequence[Row]) -> int:
    """Returns the bytes of the values that a graph computes and returns, each once.

    Of a training forward these are its results and what it saves for its backward.
    """
    owner, by_name = _owners(rows), {row.name: row for row in rows}
    kept = {owner[name] for row in rows if row.op == "output" for name in row.inputs}
    return sum(by_name[name].bytes for name in kept if _owns(by_name[name]))


def _owns(row: Row) -> bool:
    return not row.is_view and row.op not in ("placeholder", "get_attr", "output")


def _owners(rows: Sequence[Row]) -> dict[str, str]:
    """Whose memory each value is in."""
    found: dict[str, str] = {}
    for row in rows:
        view = row.is_view and row.inputs
        found[row.name] = found[row.inputs[0]] if view else row.name
    return found
