"""Checks on real ranks that values which a graph takes on trust are really the same."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import fx

from spfast.api import apply
from spfast.config import SequenceParallelConfig
from spfast.errors import ConfigError, RankMismatchError
from spfast.passes import SequenceParallelismPass
from spfast.testing.checksums import listen, tap
from spfast.testing.equivalence import copy_graph
from spfast.testing.rendezvous import PeerEnded, Rendezvous
from spfast.trust import Assumption
from spfast.verifier import verify

__all__ = ["AssumptionCheck", "check_assumptions"]

_numbers = itertools.count()


@dataclass(frozen=True)
class AssumptionCheck:
    """What was found to be the same on every rank.

    Attributes:
        values: Each value that was compared, as "name in graph N", in the order of the step.
        graphs: How many graphs were compiled with the pass.
        ranks: How many ranks took part.

    Example:
        >>> print(AssumptionCheck(("weight in graph 0",), graphs=1, ranks=4))
        1 values taken on trust in 1 graphs are the same on the ranks that share them (4 ranks)
    """

    values: tuple[str, ...]
    graphs: int
    ranks: int

    def __str__(self) -> str:
        return (
            f"{len(self.values)} values taken on trust in {self.graphs} graphs are the same "
            f"on the ranks that share them ({self.ranks} ranks)"
        )


def check_assumptions(
    step: Callable[..., Any],
    *args: Any,
    config: SequenceParallelConfig | None = None,
    group: dist.ProcessGroup | None = None,
    tolerance: float = 0.0,
    timeout: float = 600.0,
    **kwargs: Any,
) -> AssumptionCheck:
    """Runs one step of a compiled model, and compares what the pass takes on trust over the ranks.

    The step is compiled anew, with the collectives that it had before the pass, and runs once.
    Every value that the pass would take to be the same on every rank is compared as it is then.
    Every rank must call this. It makes no collective of its own. Each collective of the step first
    waits for all ranks: if a rank raises, or compiles something else, the others go on.

    Args:
        step: What to run: a model compiled by ``torch.compile``, or a function that calls one,
            backward pass and all.
        args: What to call it with.
        config: How the pass works; None takes the pass that Inductor's config has, or a host's.
        group: The ranks that take part; None takes all. Values are compared among the ranks that
            share them, by the groups that the graphs name.
        tolerance: How far two ranks' values may be apart, relative to their root mean square; 0.0
            asks for the same bits.
        timeout: Seconds to wait for a rank that does not come.
        kwargs: What else to call it with.

    Returns:
        What was compared.

    Raises:
        RankMismatchError: A value is not the same on every rank that should share it, the ranks
            take other values on trust, or one of them raised. Raised on every rank, with the same
            message, that names the first such value.
        ConfigError: torch.distributed is not initialised, or no graph was compiled with the pass.

    Example:
        >>> from torch.distributed._functional_collectives import all_reduce
        >>> def step(x, residual):
        ...     return torch.relu(all_reduce(x, "sum", dist.group.WORLD) + residual)
        >>> dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
        >>> found = check_assumptions(torch.compile(step), torch.ones(4, 8), torch.ones(4, 8))
        >>> found.ranks
        1
        >>> dist.destroy_process_group()
    """
    if not dist.is_available() or not dist.is_initialized():
        raise ConfigError(
            "torch.distributed is not initialised, so there is no rank to compare with: "
            "call init_process_group first"
        )
    ranks = dist.get_process_group_ranks(group if group is not None else dist.group.WORLD)
    c10d: Any = dist.distributed_c10d
    me = dist.get_rank()
    name = f"assumptions/{'-'.join(map(str, ranks))}/{next(_numbers)}"
    meeting = Rendezvous(c10d._get_default_store(), name, me, ranks, timeout)
    check = _Check(meeting, ranks)
    raised: BaseException | None = None
    try:
        with _compiled_anew(check, config), listen(check):
            step(*args, **kwargs)
    except Exception as error:
        raised = error
    heard = meeting.exchange(check.summary(raised))
    _raise_first(heard, tolerance, raised)
    if not check.graphs:
        raise ConfigError(
            "no graph was compiled with the pass: pass a step that calls a model compiled by "
            "torch.compile(backend='inductor')"
        )
    return AssumptionCheck(tuple(value.label for value in check.values), check.graphs, len(ranks))


# --- one rank ---


@dataclass(frozen=True)
class _Value:
    """One value that was taken on trust, as one rank had it."""

    label: str
    ranks: tuple[int, ...]
    digest: int
    samples: torch.Tensor


@dataclass(frozen=True)
class _Summary:
    """What one rank has to say in the end."""

    values: tuple[_Value, ...]
    error: str
    is_cause: bool


@dataclass
class _Check:
    """One check on one rank; it listens to the graphs while they run."""

    meeting: Rendezvous
    ranks: Sequence[int]
    values: list[_Value] = field(default_factory=list)
    tapped: list[tuple[Assumption, ...]] = field(default_factory=list)

    @property
    def graphs(self) -> int:
        return len(self.tapped)

    def compile(self, sp: SequenceParallelismPass, graph: fx.Graph, rules: Any) -> None:
        """Stands in for the pass: finds out what it would trust, and leaves the graph as it was."""
        rewritten = copy_graph(graph)
        sp.result = apply(rewritten, sp.config, registry=rules)
        proof = verify(graph, rewritten, sp.config)
        proof.raise_if_failed()
        told: Sequence[Assumption] = getattr(sp.result, "assumptions", ())
        known = {node.name for node in graph.nodes}
        trusted = {one.value: one for one in (*told, *proof.assumptions) if one.value in known}
        self.tapped.append(tuple(trusted.values()))
        tap(graph, self.tapped[-1], len(self.tapped) - 1)

    def at_collective(self, group: str) -> None:
        """Waits until all ranks of a group are at their next collective."""
        self.meeting.gate(group, _ranks_of(group) or ())

    def collected(self, graph: int, sums: Sequence[torch.Tensor]) -> None:
        """Keeps the checksums of one run of a graph."""
        for assumption, numbers in zip(self.tapped[graph], sums, strict=True):
            here = numbers.cpu()
            samples = here[1:].to(torch.int32).view(torch.float32)
            shared = _ranks_of(assumption.group) or tuple(self.ranks)
            label = f"{assumption.value} in graph {graph}"
            self.values.append(_Value(label, shared, int(here[0]), samples))

    def summary(self, raised: BaseException | None) -> _Summary:
        """What the other ranks need to know."""
        error = "" if raised is None else f"{type(raised).__name__}: {_first_line(raised)}"
        return _Summary(tuple(self.values), error, not _is_echo(raised))


def _ranks_of(group: str) -> tuple[int, ...] | None:
    """The ranks of a group by its name; None where neither torch.distributed nor vLLM knows it."""
    c10d: Any = dist.distributed_c10d
    try:
        return tuple(dist.get_process_group_ranks(c10d._resolve_process_group(group)))
    except Exception:  # an unknown name raises whatever the C++ registry does
        state = sys.modules.get("vllm.distributed.parallel_state")
        reference = getattr(state, "_groups", {}).get(group)
        found = reference() if reference is not None else None
        return None if found is None else tuple(found.ranks)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def _is_echo(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is only that another rank has ended."""
    while error is not None:
        if isinstance(error, PeerEnded) or PeerEnded.__name__ in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def _compiled_anew(check: _Check, config: SequenceParallelConfig | None) -> Iterator[None]:
    """Has everything compiled again, with the check in the place of the pass."""
    import torch._functorch.config as functorch_config
    import torch._inductor.config as inductor_config

    def stand_in(self: SequenceParallelismPass, graph: fx.Graph) -> None:
        check.compile(self, graph, self._registry)

    # Nothing that was compiled for the check may be found by others, nor the other way round.
    patches: dict[str, Any] = {"fx_graph_cache": False, "triton.cudagraphs": False}
    present = inductor_config.post_grad_custom_pre_pass
    if config is not None or present is None:
        patches["post_grad_custom_pre_pass"] = SequenceParallelismPass(config)
    torch._dynamo.reset()
    try:
        with (
            mock.patch.object(SequenceParallelismPass, "__call__", stand_in),
            inductor_config.patch(patches),
            functorch_config.patch(enable_autograd_cache=False),
        ):
            yield
    finally:
        torch._dynamo.reset()


# --- all ranks ---


def _raise_first(
    heard: Mapping[int, _Summary], tolerance: float, raised: BaseException | None
) -> None:
    """Raises for the first thing that is wrong on any rank: the same on all of them."""
    failed = [(not said.is_cause, rank) for rank, said in heard.items() if said.error]
    if failed:
        _, rank = min(failed)
        raise RankMismatchError(
            f"rank {rank} did not end the step, so nothing was compared: {heard[rank].error}"
        ) from raised
    shared = {value.ranks for said in heard.values() for value in said.values}
    for ranks in sorted(shared):
        values = {
            rank: [value for value in heard[rank].values if value.ranks == ranks]
            for rank in ranks
            if rank in heard
        }
        _compare(values, tolerance)


def _compare(values: Mapping[int, Sequence[_Value]], tolerance: float) -> None:
    first = min(values)
    places = itertools.zip_longest(*values.values())
    for row in places:
        by_rank = dict(zip(values, row, strict=True))
        expected = by_rank[first]
        for rank, value in by_rank.items():
            if expected is None or value is None or value.label != expected.label:
                ours = "no further value" if expected is None else expected.label
                theirs = "no further value" if value is None else value.label
                raise RankMismatchError(
                    f"the ranks take other values on trust: rank {first} takes {ours}, where "
                    f"rank {rank} takes {theirs}: ask check_ranks_agree which graphs differ"
                )
            if value.digest != expected.digest:
                apart = _apart(expected.samples, value.samples)
                if apart > tolerance or tolerance == 0:
                    raise RankMismatchError(
                        f"{value.label} is taken to be the same on every rank, but it differs "
                        f"between rank {first} and rank {rank}, by up to {apart:.2g} of its root "
                        f"mean square: name the inputs that are the same in "
                        f"SequenceParallelConfig(replicated=[...]), and only what follows from "
                        f"them is used"
                    )


def _apart(left: torch.Tensor, right: torch.Tensor) -> float:
    """The largest difference of two values' samples, relative to their root mean square."""
    if torch.equal(left.isnan(), right.isnan()):
        left, right = left.nan_to_num(), right.nan_to_num()
    scale = max(float(left.square().mean().sqrt()), float(right.square().mean().sqrt()), 1e-30)
    apart = float((left - right).abs().max()) / scale
    return apart if apart == apart else float("inf")
