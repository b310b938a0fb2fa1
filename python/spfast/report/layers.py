"""Which layer of the model each node of a graph belongs to."""

from __future__ import annotations

from collections.abc import Sequence

from spfast.report.rows import ALL_REDUCE, WAIT, Row

__all__ = ["layers_after", "layers_before"]

# A layer of a model has at most so many all_reduces.
_LONGEST = 8


def layers_before(before: Sequence[Row]) -> tuple[list[str], dict[str, int]]:
    """Cuts a graph into layers behind its all_reduces.

    A layer has so many all_reduces that the operators between them repeat from layer to layer.
    Where the trace knows modules, a layer has the name of the module that most of its nodes have.

    Returns:
        The layers' names, and the layer of each node but inputs and the output.
    """
    pieces: list[list[Row]] = [[]]
    for row in before:
        if row.op in ("placeholder", "get_attr", "output"):
            continue
        pieces[-1].append(row)
        if row.role == ALL_REDUCE:
            pieces.append([])
    if not pieces[-1] and len(pieces) > 1:
        pieces.pop()
    lead, period = _period([hash(tuple(row.target for row in piece)) for piece in pieces])
    groups = [pieces[:lead]] if lead else []
    groups += [pieces[at : at + period] for at in range(lead, len(pieces), period)]
    names, place = [], {}
    for index, group in enumerate(groups):
        rows = [row for piece in group for row in piece]
        names.append(_name(rows, index))
        place.update({row.name: index for row in rows})
    for row in before:
        if row.role == WAIT and row.inputs[0] in place:
            place[row.name] = place[row.inputs[0]]
    return names, place


def _period(marks: list[int]) -> tuple[int, int]:
    """How many pieces stand before the layers, and how many make one."""
    best = (0, 0, 1)
    for period in range(1, min(_LONGEST, len(marks) // 2) + 1):
        alike = [marks[at] == marks[at + period] for at in range(len(marks) - period)]
        # A longer layer has to explain more than a shorter one does.
        if sum(alike) > best[0]:
            best = (sum(alike), alike.index(True), period)
    return best[1], best[2]


def _name(rows: Sequence[Row], index: int) -> str:
    known = [row.layer for row in rows if row.layer]
    return max(set(known), key=known.count) if known else f"part {index}"


def layers_after(place: dict[str, int], after: Sequence[Row]) -> dict[str, int]:
    """The layer of each node after the rewrite: as it was; of a new node, its operands' last."""
    found = dict(place)
    for row in after:
        if row.name not in found and row.op not in ("placeholder", "get_attr", "output"):
            known = [found[name] for name in row.inputs if name in found]
            found[row.name] = max(known, default=0)
    return {row.name: found[row.name] for row in after if row.name in found}
