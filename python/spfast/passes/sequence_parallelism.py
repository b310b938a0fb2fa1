"""The sequence-parallel pass as Inductor takes it."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import replace
from typing import Any

from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass

from spfast import _core
from spfast.api import apply
from spfast.applicability import Applicability, applicability
from spfast.async_tp import enabled_groups
from spfast.config import Range, SequenceParallelConfig, as_config
from spfast.errors import ConfigError
from spfast.passes.base import Dump
from spfast.patterns import Registry, default_registry
from spfast.ranks.groups import known_groups
from spfast.recent import UNKNOWN, arrived, awaited, expect
from spfast.result import Result

__all__ = ["SequenceParallelismPass"]


class SequenceParallelismPass(CustomGraphPass):
    """Sequence parallelism as a ``torch._inductor`` custom graph pass.

    Set it as ``torch._inductor.config.post_grad_custom_pre_pass``. Calling it applies it, but to
    graphs of fewer tokens than a given ``min_token_num``; whether it is worth applying to a range
    of token counts is asked by whoever schedules it. It pickles; what it knows of the last graph
    does not travel.

    Attributes:
        config: How it works.
        pass_name: The name under which it shows up in logs and dumps.
        matched_count: Sites that the latest call rewrote.
        result: What the latest call did; None before the first compile. Where a compile has asked
            for the cache key since and not called the pass, its graph came from a cache, and the
            ``note`` says that what was done to it is not known.

    Args:
        config: None looks everything up from each graph's process groups.
        registry: The rules; None takes those of ``spfast.patterns`` at each call.

    Raises:
        ConfigError: ``config`` is no config, or ``registry`` no registry.

    Example:
        >>> sp = SequenceParallelismPass(SequenceParallelConfig(tp_size=8, min_token_num=1024))
        >>> sp.is_applicable_for_range(Range(1024, 8192))
        True
    """

    pass_name = "sequence_parallelism"

    def __init__(
        self, config: SequenceParallelConfig | None = None, registry: Registry | None = None
    ) -> None:
        self.config = as_config(config)
        if registry is not None and not isinstance(registry, Registry):
            raise ConfigError(
                f"registry={registry!r} is no registry: expected a spfast.patterns.Registry or "
                f"None, got {type(registry).__name__}"
            )
        self._result: Result | None = None
        self._registry = registry
        self._uuid: tuple[Any, str] | None = None

    def __repr__(self) -> str:
        if self._result is None:
            done = "not called yet"
        else:
            left = len(self._result.skipped)
            done = f"latest: {self._result.matched_count} rewritten, {left} left"
        return f"<{type(self).__name__} with {self.config!r}; {done}>"

    @property
    def result(self) -> Result | None:
        """What the latest call did, and whether a compile since then is not known."""
        if not awaited(self):
            return self._result
        return replace(self._result or Result(), note=UNKNOWN)

    @result.setter
    def result(self, result: Result | None) -> None:
        self._result = result
        arrived(self)

    @property
    def matched_count(self) -> int:
        """Sites that the latest call rewrote."""
        return self._result.matched_count if self._result is not None else 0

    def __call__(self, graph: fx.Graph) -> None:
        """Rewrites ``graph`` in place; see :func:`spfast.apply` for what it raises."""
        dump = Dump(self.config.debug_dump, self.pass_name)
        dump.graph(graph, "before")
        result = apply(graph, self.config, registry=self._registry, record_plan=dump.active)
        self.result = result
        if dump.active:
            dump.graph(graph, "after")
            dump.report(result)
            dump.text("plan.txt", result.plan)
            dump.text("result.txt", f"{result}\n")
            dump.text("patterns.py", self._rules().describe())

    def uuid(self) -> str:
        """Returns what Inductor puts into its cache key for this pass.

        It changes with the version of the package, the rules and the config, and with the groups
        that this rank is in and may fuse collectives of: ranks share a cache, but not the rows that
        they keep. The name of a predicate does not tell its answers. So with a predicate no other
        process gets the same key.
        """
        expect(self)
        registry = self._rules()
        state = (registry.version, known_groups(), enabled_groups())
        if self._uuid is None or self._uuid[0] != state:
            parts = [_core.version, registry.digest(), json.dumps(self.config.to_dict())]
            parts.append(repr(state[1:]))
            if callable(self.config.replicated):
                parts.append(uuid.uuid4().hex)
            digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
            self._uuid = (state, f"spfast.{self.pass_name}.{digest}")
        return self._uuid[1]

    def applicability(self, range: Range) -> Applicability:
        """Decides whether the pass is worth applying to graphs of ``range``, with the reason."""
        return applicability(self.config, range)

    def is_applicable_for_range(self, range: Range) -> bool:
        """Says whether the pass is worth applying to graphs of ``range``."""
        return bool(self.applicability(range))

    def _rules(self) -> Registry:
        return self._registry if self._registry is not None else default_registry()

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "registry": self._registry}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["config"], state["registry"])  # type: ignore[misc]
