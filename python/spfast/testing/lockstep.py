"""Multi-rank semantics on one machine: run all ranks in lockstep, compare two versions."""

from spfast.testing.collectives import CollectiveCall
from spfast.testing.equivalence import assert_equivalent, assert_same, clone_inputs, copy_graph
from spfast.testing.interpreter import GroupMap, LockstepError, run_lockstep

__all__ = [
    "CollectiveCall",
    "GroupMap",
    "LockstepError",
    "assert_equivalent",
    "assert_same",
    "clone_inputs",
    "copy_graph",
    "run_lockstep",
]
