"""What a page is drawn from: the graphs of one call before and after, and the fate of each site."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

from torch import fx

from spfast._core import Report
from spfast.errors import FileFormatError
from spfast.patterns import Registry
from spfast.report.rows import Row, rows_of

__all__ = ["Drawing", "SiteReport"]


class SiteReport(NamedTuple):
    """What became of one all_reduce: a report, as plain data."""

    node: str
    rewritten: bool
    rule: str
    reason: str
    nearest: str


@dataclass(frozen=True)
class Drawing:
    """Both states of every graph of a call, as plain rows.

    Attributes:
        before: The rows of each graph before the rewrite, by the path under which it is called; the
            graph that was given has the empty path.
        after: Likewise after it.
        sites: What became of each all_reduce, in graph order.
    """

    before: Mapping[str, tuple[Row, ...]]
    after: Mapping[str, tuple[Row, ...]]
    sites: tuple[SiteReport, ...]

    @classmethod
    def begin(cls, graphs: Mapping[str, fx.Graph], registry: Registry) -> Drawing:
        """Takes down graphs that are about to be rewritten."""
        return cls({path: rows_of(graph, registry) for path, graph in graphs.items()}, {}, ())

    def end(
        self, graphs: Mapping[str, fx.Graph], registry: Registry, reports: Iterable[Report]
    ) -> Drawing:
        """Takes down the same graphs afterwards."""
        after = {path: rows_of(graph, registry) for path, graph in graphs.items()}
        sites = tuple(
            SiteReport(one.node, one.rewritten, one.rule, one.reason, one.nearest)
            for one in reports
        )
        return Drawing(self.before, after, sites)

    def to_json(self) -> str:
        """Returns it as text that :meth:`from_json` reads."""
        return json.dumps(
            {
                "before": {
                    path: [astuple(row) for row in rows] for path, rows in self.before.items()
                },
                "after": {
                    path: [astuple(row) for row in rows] for path, rows in self.after.items()
                },
                "sites": self.sites,
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Drawing:
        """Reads what :meth:`to_json` wrote.

        Raises:
            FileFormatError: It is something else.
        """
        try:
            data = json.loads(text)
            before, after = (
                {path: tuple(map(_row, rows)) for path, rows in data[side].items()}
                for side in ("before", "after")
            )
            return cls(before, after, tuple(map(_site, data["sites"])))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise FileFormatError(f"this is no drawing that spfast wrote ({error!r})") from None

    def joined(self, other: Drawing, at: str) -> Drawing:
        """Returns one drawing of both, the other's graphs and sites under the path ``at``."""

        def under(path: str) -> str:
            return f"{at}.{path}" if path else at

        return Drawing(
            {**self.before, **{under(path): rows for path, rows in other.before.items()}},
            {**self.after, **{under(path): rows for path, rows in other.after.items()}},
            (*self.sites, *(site._replace(node=under(site.node)) for site in other.sites)),
        )


def _row(fields: Sequence[Any]) -> Row:
    name, op, target, inputs, *rest = fields
    shape, size, role, layer, is_view = rest
    return Row(name, op, target, tuple(inputs), shape, size, role, layer, is_view)


def _site(fields: Sequence[Any]) -> SiteReport:
    name, done, rule, reason, nearest = fields
    return SiteReport(name, done, rule, reason, nearest)
