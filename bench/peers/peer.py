"""What a peer is: a name, and a function that prepares a rewriter for one kind of workload."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch.fx as fx

Dialect = Literal["vllm_ir", "functional"]
Rewrite = Callable[[fx.Graph], int]


@dataclass(frozen=True)
class Setting:
    """What a rewriter is told about the graphs that it will get.

    Attributes:
        dialect: which collectives and norms the graphs are written with.
        tp_size: ranks.
        tp_rank: this rank.
        group: name of the process group in the graphs.
        quantised: "custom_op", "native", or None.
        three_d: whether the residual stream is [batch, sequence, hidden].
        dynamic: whether a size is symbolic.
        epsilon: of the norms in the graphs.
    """

    dialect: Dialect
    tp_size: int = 8
    tp_rank: int = 0
    group: str = "tp:0"
    quantised: str | None = None
    three_d: bool = False
    dynamic: bool = False
    epsilon: float = 1e-5


@dataclass(frozen=True)
class Peer:
    """A rewriter under a name.

    Attributes:
        name: as the tables and plots call it.
        prepare: does what is done once a process (registering, tracing, compiling patterns),
            outside the clock, and returns the function that is timed: it rewrites a graph in
            place and returns the number of sites.
        supports: an empty string, or the reason why this peer cannot do that setting.
    """

    name: str
    prepare: Callable[[Setting], Rewrite]
    supports: Callable[[Setting], str] = lambda _: ""
