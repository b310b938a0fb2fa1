"""The all_reduces of one graph: those that a rule may start from, and those that none can."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from spfast.fxgraph.graphs import targets_of
from spfast.fxgraph.in_place import Sharing
from spfast.fxgraph.levels import not_aten, of_other_level
from spfast.fxgraph.targets import target_name

__all__ = ["PLAIN", "AllReduces", "Forms", "find_all_reduces"]

PLAIN, IN_PLACE, COALESCED, COALESCED_IN_PLACE = (
    "plain",
    "in_place",
    "coalesced",
    "coalesced_in_place",
)
# OTHER: an all_reduce that is in no family. WRAPPER: an operator that calls one it is given.
OTHER, WRAPPER = "other", "wrapper"
_NAMED_SO = re.compile("all_?reduce")

NOT_BY_POSITION = "its tensor, its group or its reduce op is not given by position"


@dataclass(frozen=True)
class AllReduces:
    """The all_reduces of one graph.

    Attributes:
        plain: Whether the graph has an all_reduce of one tensor that is not in place.
        listed: Calls in place, or of several tensors, that are like any other all_reduce here.
        left: The all_reduces that no rule can start from, each with the reason.
    """

    plain: bool
    listed: tuple[fx.Node, ...]
    left: Mapping[fx.Node, str]

    def __bool__(self) -> bool:
        return self.plain or bool(self.listed) or bool(self.left)


class Forms:
    """Which operators are all_reduces, and in which form.

    Args:
        forms: One of the constants of this module, by the name of each operator of a family.

    Example:
        >>> forms = Forms({"vllm.all_reduce.default": PLAIN})
        >>> forms.of(torch.ops.aten.add.Tensor) is None
        True
    """

    def __init__(self, forms: Mapping[str, str]) -> None:
        self._forms = forms
        self._known: dict[Any, str] = {}
        self._others: set[Any] = {None}  # no all_reduces

    def among(self, targets: Iterable[Any]) -> list[tuple[Any, str]]:
        """The all_reduces among the targets of ``call_function`` nodes, each with its form."""
        others = self._others
        found = []
        for target in [target for target in targets if target not in others]:
            form = self.of(target)
            if form is not None:
                found.append((target, form))
        return found

    def of(self, target: Any) -> str | None:
        """The form in which a target is an all_reduce; None where it is none."""
        found = self._known.get(target) or self._look_at(target)
        # Operators live as long as torch does; a user's function may not.
        if isinstance(target, (torch._ops.OpOverload, torch._ops.HigherOrderOperator)):
            if found is None:
                self._others.add(target)
            else:
                self._known[target] = found
        return found

    def _look_at(self, target: Any) -> str | None:
        if isinstance(target, torch._ops.HigherOrderOperator):
            return self._forms.get(target_name(target), WRAPPER)
        name = target_name(target)
        return self._forms.get(name, OTHER if is_named_so(target) else None)


def is_named_so(target: Any) -> bool:
    """Whether an operator or function is called an all_reduce, in any library."""
    if isinstance(target, torch._ops.OpOverload):
        return bool(_NAMED_SO.search(target._schema.name.rpartition("::")[2]))
    return bool(_NAMED_SO.search(getattr(target, "__name__", "")))


def find_all_reduces(graph: fx.Graph, forms: Forms) -> AllReduces:
    """Finds every all_reduce; one look-up an operator where there is none.

    Args:
        graph: The graph; it is not changed.
        forms: The operators that are known.

    Example:
        >>> bool(find_all_reduces(fx.Graph(), Forms({})))
        False
    """
    found = forms.among(targets_of(graph))
    if not found:
        return AllReduces(False, (), {})
    plain = False
    sharing = Sharing(graph)
    listed: list[fx.Node] = []
    left: dict[fx.Node, str] = {}
    for target, form in found:
        nodes = graph.find_nodes(op="call_function", target=target, sort=False)
        if form == PLAIN:
            plain = plain or bool(nodes)
            continue
        for node in nodes:
            if form in (OTHER, WRAPPER):
                reason = _why_unknown(node) if form == OTHER else _why_wrapped(node)
            else:
                reason = _why_unlike(node, form, sharing)
                if not reason:
                    listed.append(node)
            if reason:
                left[node] = reason
    return AllReduces(plain, tuple(listed), left)


def _why_unknown(node: fx.Node) -> str:
    target: Any = node.target
    how = not_aten(target)
    if how:
        return of_other_level(how)
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "c10d":
        return (
            f"{target_name(target)} writes to its tensors through a process group object: "
            f"only functional collectives are rewritten"
        )
    return f"no dialect says what becomes of {target_name(target)}"


def _why_wrapped(node: fx.Node) -> str:
    for wrapped in node.args[:2]:
        if isinstance(wrapped, torch._ops.OpOverload) and is_named_so(wrapped):
            return (
                f"{target_name(node.target)} wraps {target_name(wrapped)}: "
                f"only collectives that are called as they are can be rewritten"
            )
    return ""


def _why_unlike(node: fx.Node, form: str, sharing: Sharing) -> str:
    """Why a call in place, or of several tensors, is no all_reduce like any other; "" if it is."""
    given = node.args[0] if node.args else None
    tensors = list(given) if isinstance(given, (list, tuple)) else [given]
    if not all(isinstance(tensor, fx.Node) for tensor in tensors):
        return NOT_BY_POSITION
    if form in (COALESCED, COALESCED_IN_PLACE):
        problem = _why_whole(node, len(tensors))
        if problem:
            return problem
    if form in (IN_PLACE, COALESCED_IN_PLACE):
        return sharing.who_sees(node, tensors)  # type: ignore[arg-type]
    return ""


def _why_whole(node: fx.Node, count: int) -> str:
    """Why the results of a call of several tensors cannot be told apart; "" if they can."""
    taken = set()
    for user in node.users:
        index = user.args[1] if user.target is operator.getitem and len(user.args) == 2 else None
        if type(index) is not int or not 0 <= index < count:
            return f"%{user.name} reads its list of results whole"
        if index in taken:
            return f"%{user.name} takes a result that another node has taken"
        taken.add(index)
    return "" if taken else "nobody reads its results"
