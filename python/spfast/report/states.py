"""What each value of a rewritten graph is: whole, one rank's rows, or one rank's part of a sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spfast.report.rows import ALL_GATHER, ALL_REDUCE, COLLECTIVES, REDUCE_SCATTER, WAIT, Row

__all__ = [
    "FULL",
    "GATHERED",
    "INPUT",
    "PARTIAL",
    "SHARD",
    "folds",
    "states_after",
    "states_before",
]

FULL, SHARD, PARTIAL, GATHERED, INPUT = "full", "shard", "partial", "gathered", "input"
# The operator that makes a whole value longer, so that the ranks can share it evenly.
_PADDED = "aten.constant_pad_nd.default"
# Fewer operators than this stay by themselves.
_FOLD_FROM = 2


def states_before(before: Sequence[Row]) -> dict[str, str]:
    """Each value of a graph before the rewrite: whole, but for what is still to be summed."""
    found = {row.name: INPUT if _is_input(row) else FULL for row in before}
    _mark_partial(before, found)
    return found


def states_after(before: Sequence[Row], after: Sequence[Row]) -> dict[str, str]:
    """Each value of a graph after the rewrite.

    A node that is in both graphs is sharded where its shape is not what it was. A new one is what
    its collective makes of it, or what it reads.
    """
    shapes = {row.name: row.shape for row in before}
    found: dict[str, str] = {}
    for row in after:
        if _is_input(row):
            found[row.name] = INPUT
        elif row.name in shapes:
            found[row.name] = FULL if row.shape == shapes[row.name] else SHARD
        elif row.role == ALL_GATHER:
            found[row.name] = GATHERED
        elif row.role == REDUCE_SCATTER:
            found[row.name] = SHARD
        elif row.role == ALL_REDUCE or row.target == _PADDED:
            found[row.name] = FULL
        else:
            # What is made of a gathered value is whole; a cut of a whole value is a shard.
            sources = {found.get(name) for name in row.inputs}
            found[row.name] = GATHERED if GATHERED in sources else SHARD
    _mark_partial(after, found)
    return found


def _is_input(row: Row) -> bool:
    return row.op in ("placeholder", "get_attr")


def _mark_partial(rows: Sequence[Row], found: dict[str, str]) -> None:
    """Marks operands of sums over the ranks, and what they are views of, as one rank's part."""
    by_name = {row.name: row for row in rows}
    for row in rows:
        if row.role in (ALL_REDUCE, REDUCE_SCATTER) and row.inputs:
            name = row.inputs[0]
            while found.get(name) == FULL:
                found[name] = PARTIAL
                made = by_name[name]
                if not made.inputs or not (made.is_view or made.target == _PADDED):
                    break
                name = made.inputs[0]


def folds(rows: Sequence[Row], states: Mapping[str, str]) -> dict[str, str]:
    """Puts operators that are one thing in a picture into one box.

    Neighbours of the same state between the same two collectives share a box, and a collective has
    one with what waits for it. Inputs stand alone.

    Returns:
        The box of each node that is in one: the name of the first node there.
    """
    parent: dict[str, str] = {}
    place: dict[str, int] = {}
    role = {row.name: row.role for row in rows}
    passed = 0
    for row in rows:
        passed += row.role in COLLECTIVES
        place[row.name] = passed
        if states[row.name] == INPUT or row.op == "output":
            continue
        parent[row.name] = row.name
        for name in row.inputs:
            if name not in parent:
                continue
            if row.role == WAIT:
                together = role[name] in COLLECTIVES
            else:
                alone = row.role or role[name]
                together = not alone and states[name] == states[row.name] and place[name] == passed
            if together:
                ends = sorted((_root(parent, name), _root(parent, row.name)), key=place.__getitem__)
                parent[ends[1]] = ends[0]
    boxes: dict[str, list[str]] = {}
    for name in parent:
        boxes.setdefault(_root(parent, name), []).append(name)
    return {
        name: members[0]
        for members in boxes.values()
        if len(members) >= _FOLD_FROM
        for name in members
    }


def _root(parent: dict[str, str], name: str) -> str:
    while parent[name] != name:
        parent[name] = parent[parent[name]]
        name = parent[name]
    return name
