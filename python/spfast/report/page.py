"""The page itself: the data of a drawing, and the files that show it, in one."""

from __future__ import annotations

import html
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from spfast import _core
from spfast.base.files import replaced
from spfast.report.drawing import Drawing
from spfast.report.layers import layers_after, layers_before
from spfast.report.memory import live_bytes, returned_bytes
from spfast.report.rows import COLLECTIVES, Row
from spfast.report.states import folds, states_after, states_before

__all__ = ["data_of", "page", "write_page"]

# At most so many points of a curve are drawn.
_POINTS = 600
# In the order in which a page has to load them.
_SCRIPTS = (
    "vendor/cytoscape.min.js",
    "vendor/cytoscape-dagre.min.js",
    "page/model.js",
    "page/labels.js",
    "page/graph.js",
    "page/charts.js",
    "page/main.js",
)


def write_page(drawing: Drawing, path: str | os.PathLike[str], title: str = "spfast") -> None:
    """Writes the page, whole or not at all.

    Args:
        drawing: What is shown.
        path: The file; one that is there is replaced.
        title: What it is called.

    Raises:
        OSError: It cannot be written.
    """
    text = page(drawing, title)
    with replaced(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def page(drawing: Drawing, title: str) -> str:
    """Returns the whole page as HTML.

    Args:
        drawing: What is shown.
        title: What it is called.
    """
    shell = _file("page/page.html")
    data = json.dumps(data_of(drawing, title), separators=(",", ":"))
    parts = {
        "title": html.escape(title),
        "style": _file("page/page.css"),
        # Nothing in a string may end the element that holds it.
        "data": data.replace("<", "\\u003c"),
        "scripts": "\n".join(f"<script>{_script(name)}</script>" for name in _SCRIPTS),
    }
    for name, part in parts.items():
        shell = shell.replace(f"<!-- {name} -->", part)
    return shell


def data_of(drawing: Drawing, title: str) -> dict[str, Any]:
    """Returns what the page shows, as plain data."""
    return {
        "title": title,
        "version": _core.version,
        "sites": [
            {"node": node, "rewritten": done, "rule": rule, "reason": reason, "nearest": nearest}
            for node, done, rule, reason, nearest in drawing.sites
        ],
        "graphs": [
            _graph(path, before, drawing.after[path]) for path, before in drawing.before.items()
        ],
    }


def _graph(path: str, before: Sequence[Row], after: Sequence[Row]) -> dict[str, Any]:
    names, place = layers_before(before)
    placed = layers_after(place, after)
    ahead = states_before(before)
    become = states_after(before, after)
    # Values that will be sharded are folded apart from whole ones, so that both pictures are alike.
    foretold = {
        name: become[name] if become.get(name) == "shard" else state
        for name, state in ahead.items()
    }
    return {
        "path": path,
        "layers": names,
        "named": any(row.layer for row in before),
        "before": _side(before, ahead, foretold, place),
        "after": _side(after, become, become, placed),
    }


def _side(
    rows: Sequence[Row],
    states: Mapping[str, str],
    folded_by: Mapping[str, str],
    layer: Mapping[str, int],
) -> dict[str, Any]:
    index = {row.name: at for at, row in enumerate(rows)}
    boxes = folds(rows, folded_by)
    live = live_bytes(rows)
    return {
        "nodes": [
            {
                "n": row.name,
                "t": row.target if row.op == "call_function" else row.op,
                "i": [index[name] for name in row.inputs],
                "v": row.shape,
                "b": row.bytes,
                "s": states[row.name],
                "r": row.role,
                "l": layer.get(row.name, -1),
                "f": index[boxes[row.name]] if row.name in boxes else -1,
            }
            for row in rows
        ],
        "collectives": [
            {"at": index[row.name], "role": row.role, "bytes": _moved(row, rows, index)}
            for row in rows
            if row.role in COLLECTIVES
        ],
        "counts": dict(Counter(row.role for row in rows if row.role in COLLECTIVES)),
        "states": dict(Counter(states.values())),
        "peak": max(live, default=0),
        "mean": sum(live) // max(1, len(live)),
        "returned": returned_bytes(rows),
        "live": _thin(live),
    }


def _moved(row: Row, rows: Sequence[Row], index: Mapping[str, int]) -> int:
    """Bytes that a rank sends, but for the factor (ranks - 1) / ranks.

    A ring sends the whole value once to scatter its sum, once to gather it, and twice for an
    all_reduce, which is both.
    """
    if row.role == "all_reduce":
        return 2 * row.bytes
    if row.role == "all_gather" or not row.inputs:
        return row.bytes
    return rows[index[row.inputs[0]]].bytes


def _thin(values: Sequence[int]) -> list[int]:
    """The curve in few points: the highest of each stretch."""
    step = max(1, -(-len(values) // _POINTS))
    return [max(values[at : at + step]) for at in range(0, len(values), step)]


def _script(name: str) -> str:
    return _file(name).replace("</script", "<\\/script")


def _file(name: str) -> str:
    return resources.files("spfast").joinpath("report", *name.split("/")).read_text("utf-8")
