"""What a user can say about the sequence-parallel pass.

Everything is optional: what is not given is looked up from the graph's own process groups when
the pass runs, and what cannot be looked up raises a ConfigError that names the field to pass.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from spfast.base.fields import (
    MOST_RANKS,
    as_dtype,
    as_groups,
    as_replicated,
    as_tuple,
    check_choice,
    check_group_name,
    check_int,
    said,
)
from spfast.errors import ConfigError
from spfast.ranges import Range
from spfast.thresholds import (
    DEFAULT_PAIR_THRESHOLDS,
    DEFAULT_THRESHOLDS,
    DeviceKind,
    PairThreshold,
    Threshold,
)

if TYPE_CHECKING:
    import torch
    from torch import fx

__all__ = [
    "Divisibility",
    "Range",
    "Recognise",
    "Replicated",
    "SequenceParallelConfig",
    "as_config",
]

Divisibility = Literal["guard", "prove", "assume", "pad"]
Recognise = Literal["patterns", "rowwise", "both"]
_SWITCHES = "use_inductor_graph_partition async_tp merge_sums validate gather_quantized".split()
# The field also takes a collection of names of graph inputs, or a predicate of input nodes.
Replicated = Literal["infer", "prove"]


@dataclass(frozen=True)
class SequenceParallelConfig:
    """How the sequence-parallel pass shall work; a frozen value that pickles and compares.

    Attributes:
        tp_size: Ranks of the tensor-parallel group; None looks it up from the graph's groups.
            Given here it wins, and no process group has to exist.
        tp_rank: This process' rank in the group; None looks it up. ``tp_size`` and ``tp_rank`` are
            those of the group that ``group_name`` names, else of the only group that ``groups``
            does not name.
        group_name: Rewrite the all_reduces of this group only; None takes every group.
        groups: (size, rank) of several groups by name, for a graph that reduces over more than one
            of them; a mapping, kept as pairs sorted by name. Other groups are looked up.
        min_token_num: Smallest token count worth the rewrite: graphs that are known to have fewer
            are left. None leaves none, and asks ``thresholds`` for ranges.
        max_num_batched_tokens: The largest token count of a batch; caps ``min_token_num``.
        hidden_size: Features of the residual stream, for the threshold.
        dtype: Its dtype, for the threshold: a torch.dtype or its name.
        device: The device, for the threshold: ``"sm90"``, ``"cuda:0"``, ``"xpu"``, a torch.device,
            or None for this process' accelerator.
        splitting_ops: Ops at which the host splits the graph into pieces.
        use_inductor_graph_partition: Whether Inductor, and not the host, does that splitting.
        divisibility: What to do about a token count that is not known to be a multiple of
            tp_size: ``"guard"`` adds a guard (and leaves an example of one row a rank, which torch
            compiles apart), ``"prove"`` leaves the site, ``"assume"`` trusts the caller, who then
            pads; ``"pad"`` adds rows of zeros before each reduce_scatter and takes them off after
            each all_gather, so that one graph serves every count (but for symbolic ones of one row
            a rank, again). A host that pads its batches does it once, and cheaper.
        recognise: ``"patterns"`` (the registered rules), ``"rowwise"`` (whatever treats every
            token alone), or ``"both"``: patterns name the sites, the row-wise view takes what no
            pattern knows.
        replicated: What may be taken to be the same on every rank. ``"infer"``: what is proved, and
            an input (or what is computed from inputs) that stands where a residual, a weight or a
            scale does, unless the graph itself says that it differs; each is listed in the result.
            ``"prove"``: only what is proved. Names of graph inputs, or a predicate of their nodes:
            what is proved from these inputs. A compile cache cannot be keyed by the answers of a
            predicate, so graphs are then cached for this process alone.
        collective_cost: What one more collective costs besides the bytes that it moves, as the
            number of bytes that could be moved meanwhile. A rewrite never moves more bytes than
            before. It takes more collectives only where each saves as many bytes; an all_reduce
            counts as two. The default is what ``bench/gpu/collective_cost.py`` measured on two
            H200. A stream of fewer than 64 MiB is reckoned as 64 MiB. A sum over all tokens is
            weighed against reading them from memory as well (docs/training.md): its all_reduce, of
            what one token has, may come on top.
        async_tp: Whether to make one operator of a matrix product and the collective beside it, so
            that the product hides the collective (docs/async_tp.md). Needs
            :func:`spfast.enable_async_tp`.
        async_tp_thresholds: From which shapes on to do so; rows as in ``thresholds``. Empty: every
            pair.
        merge_sums: Whether reductions of which only the sum is read are merged into one first
            (docs/training.md). The merged one rounds in another order.
        local_outputs: Places among the graph's results. Where such a result is this rank's rows, it
            may stay so: the caller gathers it. For streams of two dims.
        validate: Prove every rewritten graph with the verifier.
        debug_dump: A folder for the graph before and after and for the patterns; None asks the
            environment variable SPFAST_DEBUG_DUMP.
        gather_bytes: Gather float8 values as bytes, for collectives that take no float8; None does
            so where the backend of a group is gloo.
        gather_quantized: Gather after a quantisation (half the bytes); False leaves quantisations
            outside the sites, so that each gather stands before its quantisation, as vLLM's pass
            left it.
        thresholds: Rows to look ``min_token_num`` up in, the first that covers the device counts.

    Raises:
        ConfigError: A field has a value that cannot be used.

    Example:
        >>> config = SequenceParallelConfig(tp_size=8, tp_rank=3, min_token_num=1024)
        >>> dataclasses.replace(config, tp_rank=4).tp_rank
        4
    """

    tp_size: int | None = None
    tp_rank: int | None = None
    group_name: str | None = None
    groups: Mapping[str, tuple[int, int]] | tuple[tuple[str, tuple[int, int]], ...] = ()
    min_token_num: int | None = None
    max_num_batched_tokens: int | None = None
    hidden_size: int | None = None
    dtype: torch.dtype | str | None = None
    device: str | torch.device | None = None
    splitting_ops: tuple[str, ...] = ()
    use_inductor_graph_partition: bool = False
    divisibility: Divisibility = "guard"
    recognise: Recognise = "both"
    replicated: Replicated | Collection[str] | Callable[[fx.Node], bool] = "infer"
    collective_cost: int = 1_600_000
    async_tp: bool = False
    async_tp_thresholds: tuple[PairThreshold, ...] = DEFAULT_PAIR_THRESHOLDS
    merge_sums: bool = True
    local_outputs: tuple[int, ...] = ()
    validate: bool = False
    debug_dump: str | None = None
    gather_bytes: bool | None = None
    gather_quantized: bool = True
    thresholds: tuple[Threshold, ...] = DEFAULT_THRESHOLDS

    def __post_init__(self) -> None:
        check_int("tp_size", self.tp_size, 1, MOST_RANKS)
        check_int("tp_rank", self.tp_rank, 0, MOST_RANKS)
        check_int("min_token_num", self.min_token_num, minimum=0)
        check_int("max_num_batched_tokens", self.max_num_batched_tokens, minimum=1)
        check_int("hidden_size", self.hidden_size, minimum=1)
        check_int("collective_cost", self.collective_cost, minimum=0, maximum=2**40)
        if self.tp_size is not None and self.tp_rank is not None and self.tp_rank >= self.tp_size:
            raise ConfigError(
                f"tp_rank={self.tp_rank} is outside tp_size={self.tp_size}: "
                f"pass a rank from 0 to {self.tp_size - 1}"
            )
        check_group_name(self.group_name)
        self._set("groups", as_groups(self.groups))
        self._check_group_name()
        check_choice("divisibility", self.divisibility, get_args(Divisibility))
        check_choice("recognise", self.recognise, get_args(Recognise))
        self._set("replicated", as_replicated(self.replicated, get_args(Replicated)))
        for name in _SWITCHES:
            check_choice(name, getattr(self, name), (True, False))
        check_choice("gather_bytes", self.gather_bytes, (True, False, None))
        self._set("local_outputs", as_tuple("local_outputs", self.local_outputs, int))
        if self.local_outputs and self.divisibility == "pad":
            raise ConfigError(
                f'local_outputs={self.local_outputs} with divisibility="pad": whoever takes a '
                f"rank's rows cannot tell which of them were added: pass another divisibility"
            )
        self._set("splitting_ops", as_tuple("splitting_ops", self.splitting_ops, str))
        self._set("thresholds", as_tuple("thresholds", self.thresholds, Threshold))
        pairs = as_tuple("async_tp_thresholds", self.async_tp_thresholds, PairThreshold)
        self._set("async_tp_thresholds", pairs)
        if self.debug_dump is not None:
            try:
                self._set("debug_dump", os.fspath(self.debug_dump))
            except TypeError:
                raise ConfigError(
                    f"debug_dump={self.debug_dump!r} is not a path: pass a folder's name or None"
                ) from None
        if self.dtype is not None:
            self._set("dtype", as_dtype(self.dtype))
        if isinstance(self.device, str):
            DeviceKind.parse(self.device)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"SequenceParallelConfig({said(self)})"

    def names_replicated(self, node: fx.Node) -> bool:
        """Says whether ``replicated`` names a graph input, by its node's name or its target.

        Args:
            node: A placeholder or a get_attr node.

        Example:
            >>> from torch import fx
            >>> weight = fx.Graph().placeholder("weight")
            >>> SequenceParallelConfig(replicated=["weight"]).names_replicated(weight)
            True
            >>> SequenceParallelConfig().names_replicated(weight)
            False
        """
        chosen = self.replicated
        if callable(chosen):
            return bool(chosen(node))
        return not isinstance(chosen, str) and (node.name in chosen or node.target in chosen)

    def inside(self, path: str) -> SequenceParallelConfig:
        """Returns the config for a graph that is called: names lose the path to the graph.

        Args:
            path: What the names of its inputs begin with, such as ``"body."``; empty for the
                graph itself.

        Example:
            >>> SequenceParallelConfig(replicated=["x", "body.y"]).inside("body.").replicated
            ('y',)
        """
        if not path:
            return self
        chosen = self.replicated
        if not isinstance(chosen, str) and not callable(chosen):
            chosen = [name.removeprefix(path) for name in chosen if name.startswith(path)]
        return dataclasses.replace(self, replicated=chosen, local_outputs=())

    def _check_group_name(self) -> None:
        """Checks that two fields that speak of one group say the same."""
        given = dict(self.groups).get(self.group_name or "")
        if given is None:
            return
        for name, value in zip(("tp_size", "tp_rank"), given, strict=True):
            if getattr(self, name) not in (None, value):
                raise ConfigError(
                    f"{name}={getattr(self, name)} contradicts groups[{self.group_name!r}]={given}:"
                    f" pass one of them"
                )

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain data (numbers, strings, lists) in a fixed order.

        Example:
            >>> SequenceParallelConfig(tp_size=8).to_dict()["tp_size"]
            8
        """
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name in ("dtype", "device"):
            fields[name] = None if fields[name] is None else str(fields[name])
        fields["groups"] = {name: list(given) for name, given in dict(self.groups).items()}
        for name in ("splitting_ops", "local_outputs"):
            fields[name] = list(fields[name])
        if callable(self.replicated):
            name = getattr(self.replicated, "__qualname__", type(self.replicated).__qualname__)
            fields["replicated"] = f"{self.replicated.__module__}.{name}"
        elif not isinstance(self.replicated, str):
            fields["replicated"] = list(self.replicated)
        for name in ("thresholds", "async_tp_thresholds"):
            fields[name] = [dataclasses.asdict(row) for row in fields[name]]
        return fields


def as_config(config: object) -> SequenceParallelConfig:
    """Returns a config, the default one for None.

    Raises:
        ConfigError: It is something else.

    Example:
        >>> as_config(None).divisibility
        'guard'
    """
    if config is None:
        return SequenceParallelConfig()
    if not isinstance(config, SequenceParallelConfig):
        raise ConfigError(
            f"config={config!r} is no config: expected a SequenceParallelConfig or None, "
            f"got {type(config).__name__}"
        )
    return config
