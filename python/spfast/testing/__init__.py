"""A kit for testing rewrites of tensor-parallel graphs without accelerators or process groups.

- :func:`run_lockstep` runs every rank's graph in one process, on real tensors.
- :func:`assert_equivalent` compares a graph with its rewritten copies, on every rank.
- :func:`seeded_case` and :func:`cases` (for hypothesis) draw small irregular tensor-parallel graphs
  with inputs for every rank.
- :mod:`spfast.testing.brute_force` finds out by running which sites of such a graph could be
  rewritten at all, and with how few all_gathers.
- :func:`check_assumptions` compares what a compiled model takes on trust over real ranks.
- :func:`run_ranks` runs a function on real processes joined by gloo.
- :func:`declare` stands in for vLLM's ops where vLLM is not installed.
- :func:`async_tp_stand_in` stands in for the fused operators where there is no NVLink.

Example:
    A rewrite of your own, checked on three drawn graphs::

        for seed in range(3):
            case = seeded_case(seed)
            assert_equivalent(
                case.graph,
                lambda graph, rank: my_rewrite(graph, rank, case.world_size),
                case.inputs(),
                case.world_size,
                rtol=case.rtol,
                groups=case.groups,
            )
"""

from spfast.testing.assumptions import AssumptionCheck, check_assumptions
from spfast.testing.equivalence import assert_equivalent, assert_same, clone_inputs, copy_graph
from spfast.testing.fused import async_tp_stand_in
from spfast.testing.gloo import RankError, run_ranks
from spfast.testing.graphs import GraphOptions, TensorParallelCase, cases, seeded_case
from spfast.testing.interpreter import GroupMap, LockstepError, run_lockstep
from spfast.testing.ops import declare, register_group

__all__ = [
    "AssumptionCheck",
    "GraphOptions",
    "GroupMap",
    "LockstepError",
    "RankError",
    "TensorParallelCase",
    "assert_equivalent",
    "assert_same",
    "async_tp_stand_in",
    "cases",
    "check_assumptions",
    "clone_inputs",
    "copy_graph",
    "declare",
    "register_group",
    "run_lockstep",
    "run_ranks",
    "seeded_case",
]
