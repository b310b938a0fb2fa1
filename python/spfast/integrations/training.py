"""Sequence parallelism where torch.compile plans a training step: on the joint graph.

There forward and backward are one graph. So only this rank's rows are saved for the backward, and
gradients that are reduced one by one and then summed are in one graph with their sum.
"""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType
from typing import Any
from weakref import WeakSet

import torch._inductor.config as inductor_config
from torch import fx
from torch._guards import CompileContext

from spfast.base.fields import check_choice
from spfast.config import SequenceParallelConfig, as_config
from spfast.errors import ConfigError
from spfast.fxgraph.graphs import graph_of
from spfast.integrations.recompute import GATHER, gather_again, is_tangent, norm_again
from spfast.passes.sequence_parallelism import SequenceParallelismPass
from spfast.patterns import Registry
from spfast.recent import arrived
from spfast.run.pairing import fuse

__all__ = ["Enabled", "enable"]

# The mark on nodes of a joint graph that the pass has seen; it survives the partitioner.
_DONE = "spfast_joint"
_HOOKS = ("joint_custom_post_pass", "post_grad_custom_pre_pass")


class _JointPass(SequenceParallelismPass):
    """The pass on joint graphs; graphs for inference are left to the other pass."""

    pass_name = "joint_sequence_parallelism"

    def __init__(
        self,
        config: SequenceParallelConfig | None = None,
        registry: Registry | None = None,
        recompute_gather: bool = False,
    ) -> None:
        super().__init__(config, registry)
        check_choice("recompute_gather", recompute_gather, (True, False))
        self.recompute_gather = recompute_gather
        # The compiles that called this pass. The objects are kept, for a compile's name may come
        # again.
        self._compiles: WeakSet[CompileContext] = WeakSet()

    def __call__(self, graph: fx.Graph) -> None:
        arrived(self)
        compile = CompileContext.try_get()
        if compile is not None:
            self._compiles.add(compile)
        given = graph_of(graph)
        if not any(is_tangent(node) for node in given.nodes):
            return
        before = set(given.find_nodes(op="call_function", target=GATHER))
        super().__call__(given)
        norm_again(given, before)
        if self.recompute_gather:
            gather_again(given, before)
        for node in given.nodes:
            node.meta[_DONE] = True

    def uuid(self) -> str:
        """The key of the pass, and whether gathers are made again, for that changes the graph."""
        key = f"{super().uuid()}.{'again' if self.recompute_gather else 'saved'}"
        if CompileContext.try_get() in self._compiles:
            arrived(
                self
            )  # the key of a part: the pass was called for the whole, and is not called again
        return key

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "recompute_gather": self.recompute_gather}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


class _InferencePass(SequenceParallelismPass):
    """The pass on graphs that are no part of a joint graph; in parts of one it fuses the pairs.

    A value that is fused before a joint graph is divided would be saved whole between the parts.
    """

    def __call__(self, graph: fx.Graph) -> None:
        arrived(self)
        if not any(_DONE in node.meta for node in graph.nodes if node.op == "call_function"):
            super().__call__(graph)
        elif self.config.async_tp:
            self.result = fuse(graph, self.config, self._rules())


class Enabled:
    """The pass in torch.compile; made by :func:`enable`, and left by :meth:`disable` or ``with``.

    Attributes:
        joint: The pass on the joint graph of a training step; its ``result`` says what it did.
        inference: The pass on all other graphs; with ``async_tp`` it fuses the pairs of the two
            that a joint graph is divided into as well.
    """

    def __init__(
        self,
        config: SequenceParallelConfig | None = None,
        registry: Registry | None = None,
        recompute_gather: bool = False,
    ) -> None:
        planned = replace(as_config(config), async_tp=False)
        self.joint = _JointPass(planned, registry, recompute_gather)
        self.inference = _InferencePass(config, registry=registry)
        self._before: tuple[Any, ...] | None = None
        settings: Any = inductor_config
        for name in _HOOKS:
            if getattr(settings, name) is not None:
                raise ConfigError(
                    f"torch._inductor.config.{name} is set already: call the passes of "
                    f"spfast.passes from yours, or unset it"
                )
        settings.joint_custom_post_pass = self.joint
        settings.post_grad_custom_pre_pass = self.inference

    def disable(self) -> None:
        """Takes the passes out of torch.compile; what is compiled stays as it is."""
        settings: Any = inductor_config
        for name, mine in zip(_HOOKS, (self.joint, self.inference), strict=True):
            if getattr(settings, name) is mine:
                setattr(settings, name, None)

    def __enter__(self) -> Enabled:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.disable()


def enable(
    config: SequenceParallelConfig | None = None,
    *,
    registry: Registry | None = None,
    recompute_gather: bool = False,
) -> Enabled:
    """Has torch.compile rewrite every tensor-parallel graph from now on, training steps included.

    A training step is rewritten as one graph, before it is divided into forward and backward: what
    is saved between the two is one rank's rows. Every other graph is rewritten as
    :class:`spfast.SequenceParallelismPass` does.

    Args:
        config: As for :func:`spfast.apply`.
        registry: As for :func:`spfast.apply`.
        recompute_gather: Whether the backward gathers again what it reads of the forward's
            gathers: it then keeps one rank's rows of them, for one more collective each. False
            keeps the gathered values.

    Returns:
        The two passes, which say what they did, and the way back; as a context manager it goes
        back by itself.

    Raises:
        ConfigError: Another pass has one of the two places in ``torch._inductor.config``, or
            ``recompute_gather`` is no bool.

    Example:
        >>> with enable() as enabled:  # torch.compile(model)(x).sum().backward()
        ...     enabled.joint.matched_count
        0
    """
    return Enabled(config, registry, recompute_gather)
