"""What the collectives of a graph are and move, for whom, and the memory of its values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from spfast.report.memory import live_bytes, returned_bytes
from spfast.report.rows import ALL_GATHER, ALL_REDUCE, COLLECTIVES, REDUCE_SCATTER, WAIT, Row

__all__ = ["Traffic", "traffic_of"]


@dataclass(frozen=True)
class Traffic:
    """The collectives of one state of a graph.

    Attributes:
        counts: How many there are of each kind.
        bytes: What they move: an all_reduce its value twice, a reduce_scatter what it reads, an
            all_gather what it yields. Each of n ranks sends and receives (n - 1) / n of it.
        readers: The operators that read gathered values, with how many values each reads.
        peak: The most bytes of computed values that live at once, before anything is fused.
        returned: The bytes of the values that are computed and returned: of a training forward,
            with what it saves for its backward.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    bytes: int = 0
    readers: Mapping[str, int] = field(default_factory=dict)
    peak: int = 0
    returned: int = 0


def traffic_of(rows: Sequence[Row], called: Sequence[Row] = ()) -> Traffic:
    """Counts the collectives of a graph and of those that it calls.

    Args:
        rows: Its nodes, as :func:`spfast.report.rows.rows_of` gives them.
        called: Those of the graphs that it calls, of which the memory is not counted.

    Example:
        >>> traffic_of([]).bytes
        0
    """
    every = [*rows, *called]
    size = {row.name: row.bytes for row in every}
    counts: Counter[str] = Counter()
    moved = 0
    names: dict[str, str] = {}  # of a gathered value: the gather
    readers: Counter[str] = Counter()
    for row in every:
        gathers = {names[name] for name in row.inputs if name in names}
        if gathers and (row.role == WAIT or row.is_view):
            names[row.name] = next(iter(gathers))
        elif gathers:
            readers[row.target] += len(gathers)
        if row.role not in COLLECTIVES:
            continue
        counts[row.role] += 1
        if row.role == ALL_GATHER:
            names[row.name] = row.name
            moved += row.bytes
        elif row.role == ALL_REDUCE:
            moved += 2 * row.bytes
        elif row.role == REDUCE_SCATTER:
            moved += sum(size[name] for name in row.inputs)
    return Traffic(
        dict(counts),
        moved,
        dict(readers.most_common()),
        max(live_bytes(rows), default=0),
        returned_bytes(rows),
    )
