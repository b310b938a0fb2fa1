"""That every contender does the same work: same sites, same graph up to names, same metadata."""

from __future__ import annotations

from collections.abc import Sequence

from .equal import assert_same
from .harness import Contender
from .workloads.catalogue import Workload


def assert_agreement(workload: Workload, who: Sequence[Contender], layers: int) -> None:
    """Raises unless all contenders make the same graph of ``layers`` layers.

    Raises:
        AssertionError: naming the contender that differs from the first one, and where.
    """
    first = None
    for contender in who:
        graph = workload.fresh(layers)
        sites = contender.run(graph)
        if sites != workload.sites(layers):
            raise AssertionError(
                f"{workload.name}: {contender.name} found {sites} sites, not "
                f"{workload.sites(layers)}"
            )
        graph.lint()
        if first is None:
            first = contender.name, graph
        else:
            name, expected = first
            names = (name, contender.name)
            assert_same(expected, graph, workload.setting.tp_size, names)
