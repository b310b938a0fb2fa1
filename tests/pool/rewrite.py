"""A program with its graphs before and after the pass, and what its checks yield."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from torch import fx

import spfast
from spfast import Result, SequenceParallelConfig
from tests.pool import metas
from tests.pool.program import Program

KINDS = (
    "wrong numbers",
    "wrong numbers, proved",
    "trust against evidence",
    "cannot run",
    "hang",
    "crash",
    "damage",
    "guard",
    "interface",
    "ranks differ",
    "lint",
    "meta",
    "bytes",
    "collectives",
    "recogniser",
    "again",
    "repeat",
    "assumption",
    "unexplained",
    "validate",
)
"""The kinds of failures, the most severe first."""
NUMBERS = KINDS[:5] + ("interface",)


class Failure(AssertionError):
    """Something that must hold does not."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


@dataclass
class Outcome:
    """What a checked program showed.

    Attributes:
        rewritten: sites that were rewritten on each rank.
        proved: whether the verifier proved the result; None if nothing was rewritten.
        said: whether a listed assumption was false in the run, and nothing in the graph told.
        refused: the ConfigError that the pass raised, if it did.
        problem: why the verifier did not prove a right result.
        failures: what does not hold, the most severe first.
    """

    rewritten: int = 0
    proved: bool | None = None
    said: bool = False
    refused: str = ""
    problem: str = ""
    failures: list[Failure] = field(default_factory=list)


@dataclass
class Rewrite:
    """A program, its graphs before and after, and what the pass said."""

    program: Program
    before: list[fx.Graph]
    after: list[fx.Graph]
    configs: list[SequenceParallelConfig]
    results: list[Result] = field(default_factory=list)

    @property
    def assumptions(self) -> list[str]:
        """Names of the values that any rank's rewrite takes to be the same everywhere."""
        return sorted({each.value for result in self.results for each in result.assumptions})


def rewritten(program: Program, before: list[fx.Graph]) -> Rewrite:
    """The pass, run on the graph of each rank.

    Raises:
        ConfigError: the pass refuses the config.
        Failure: the pass raises anything else, or leaves a graph changed when it raises.
    """
    made = Rewrite(program, before, [copy.deepcopy(graph) for graph in before], configs_of(program))
    for graph, config in zip(made.after, made.configs, strict=True):
        untouched = picture(graph)
        try:
            made.results.append(spfast.apply(graph, config))
        except Exception as error:
            expect(picture(graph) == untouched, "damage", f"changed, and then {error!r}")
            if isinstance(error, spfast.ConfigError):
                raise
            raise Failure("crash", f"{type(error).__name__}: {error}") from error
    return made


def configs_of(program: Program, **changes: Any) -> list[SequenceParallelConfig]:
    """The config of each rank."""
    world = program.world
    fields = {**program.config, **changes}
    groups = fields.pop("groups", "tp" if world.dp > 1 else "none")
    if groups == "tp":
        fields["group_name"] = "tp"
    if fields.get("replicated") == "names":
        fields["replicated"] = shared_inputs(program)
    return [
        SequenceParallelConfig(**fields, **_places(program, rank, groups))
        for rank in range(world.size)
    ]


def _places(program: Program, rank: int, groups: str) -> dict[str, Any]:
    """How the config says where a rank stands: in its one group, or in each of several."""
    world = program.world
    if groups != "given":
        return {"tp_size": world.tp, "tp_rank": world.coordinate(rank, "tp")}
    members = {name: world.members(name, rank) for name in world.groups}
    return {"groups": {name: (len(ranks), ranks.index(rank)) for name, ranks in members.items()}}


def shared_inputs(program: Program) -> tuple[str, ...]:
    """The inputs that are the same on every rank of each group that may be rewritten."""
    named = program.config.get("groups", "tp") == "tp"
    groups = {"tp"} if named else set(program.world.axes)
    return tuple(spec.name for spec in program.inputs if not groups & set(spec.differs))


def picture(graph: fx.Graph) -> list[tuple[Any, ...]]:
    """A graph as it is: nodes, operands, values, users, in order."""
    return [
        (
            node.name,
            node.op,
            str(node.target),
            str(node.args),
            str(node.kwargs),
            metas.described(node.meta.get("val")),
            sorted(user.name for user in node.users),
        )
        for node in graph.nodes
    ]


def expect(holds: bool, kind: str, detail: str) -> None:
    if not holds:
        raise Failure(kind, detail)
