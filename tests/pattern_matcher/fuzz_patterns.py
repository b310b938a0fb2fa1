"""Random patterns, cut out of random graphs and changed a little, with handlers that rewrite."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.fx as fx
from pattern_matcher.fuzz_graphs import BINARY, LITERALS, UNARY

aten = torch.ops.aten


class PatternDrawer:
    """Turns nodes of a graph into a pattern.

    Args:
        pm: the matcher module whose expressions are used.
        rng: the source of choices.
        wild: how often something is changed; 0 gives patterns that match where they were cut out.
    """

    def __init__(self, pm: Any, rng: random.Random, wild: float) -> None:
        self.pm, self.rng, self.wild = pm, rng, wild
        self.made: dict[fx.Node, Any] = {}
        self.names: dict[fx.Node, str] = {}

    def odd(self, share: float = 1.0) -> bool:
        return self.rng.random() < self.wild * share

    def root(self, node: fx.Node) -> Any:
        pattern = self.call(node, self.rng.randint(1, 4))
        if node.target is operator.getitem and self.rng.random() < 0.3:
            return self.pm.RepeatedExpr(pattern)
        return pattern

    def roots(self, nodes: list[fx.Node]) -> Any:
        """A pattern with several outputs that may share parts."""
        outputs: list[Any] = [self.call(n, self.rng.randint(1, 3)) for n in nodes]
        if self.rng.random() < 0.15:
            outputs.insert(1, None)
        return self.pm.MultiOutputPattern(outputs)

    def call(self, node: fx.Node, depth: int) -> Any:
        if node in self.made:
            return self.made[node]
        pm = self.pm
        method = node.op == "call_method"
        users = len(node.users) if self.rng.random() < 0.6 else pm.MULTIPLE
        if self.odd(0.3):
            users = self.rng.choice((1, 2, 3))
        if self.odd(0.3):
            make = pm.CallMethodVarArgs if method else pm.CallFunctionVarArgs
            pattern = make(self.target(node), users)
        else:
            args = [self.value(a, depth - 1) for a in node.args]
            kwargs = {k: self.value(v, depth - 1) for k, v in node.kwargs.items()}
            if kwargs and self.odd(0.7):
                kwargs.popitem()
            if args and self.odd(0.1):
                args.pop()
            if node.target in BINARY and not kwargs and self.odd(0.3):
                kwargs["alpha"] = self.rng.choice((1, 2, pm.KeywordArg("alpha")))
            make = pm.CallMethod if method else pm.CallFunction
            pattern = make(self.target(node), *args, _users=users, **kwargs)
        self.made[node] = pattern
        return pattern

    def target(self, node: fx.Node) -> Any:
        if node.op == "call_method" or node.target is operator.getitem:
            return node.target
        for family in (UNARY, BINARY):
            if node.target in family and self.odd(0.8):
                return [node.target, self.rng.choice(family)]
        if isinstance(node.target, torch._ops.OpOverload) and self.odd(0.3):
            return node.target.overloadpacket
        return node.target

    def value(self, value: Any, depth: int) -> Any:
        if isinstance(value, fx.Node):
            inner = value.op in ("call_function", "call_method")
            if inner and (depth > 0 or value in self.made) and not self.odd(0.4):
                return self.call(value, depth)
            return self.leaf(value)
        if isinstance(value, (list, tuple)):
            return self.listed(value, depth)
        if self.odd():
            changed = self.rng.choice(LITERALS)
            return self.rng.choice((self.pm.Ignored(), self.pm.KeywordArg("literal"), changed))
        return value

    def listed(self, values: Any, depth: int) -> Any:
        if self.odd(0.6):
            return self.rng.choice((self.pm.Ignored(), self.pm.KeywordArg("values"), self.pm.Arg()))
        nodes = [v for v in values if isinstance(v, fx.Node)]
        if len(nodes) == len(values) and self.rng.random() < 0.4:
            inner = self.rng.choice(nodes)
            return self.pm.ListOf(self.value(inner, depth), partial=self.rng.random() < 0.4)
        return [self.value(v, depth) for v in values]

    def leaf(self, node: fx.Node) -> Any:
        pm, kind = self.pm, self.rng.random()
        if kind < 0.25:
            return pm.Arg()
        if kind < 0.35:
            return pm.Ignored()
        if self.odd(0.3):
            return pm.KeywordArg("a0")
        name = self.names.setdefault(node, f"a{len(self.names)}")
        return pm.ExclusiveKeywordArg(name) if kind < 0.45 else pm.KeywordArg(name)


def random_pass(seed: int, source: Callable[[], fx.GraphModule]) -> Callable[[Any, Any], Any]:
    """A pass with one to four patterns cut out of ``source()``, the same for each module."""

    def define(pm: Any, spy: Any) -> Any:
        rng = random.Random(seed)
        matcher = pm.PatternMatcherPass("fuzz")
        calls = [n for n in source().graph.nodes if n.op in ("call_function", "call_method")]
        for number in range(rng.randint(1, 4)):
            drawer = PatternDrawer(pm, rng, rng.choice((0.0, 0.0, 0.1, 0.3)))
            root = rng.choice(calls)
            if rng.random() < 0.3 and root.op == "call_function":
                related = [n for n in calls if _share(n, root)] or [root]
                others = [n for n in rng.sample(related, min(2, len(related))) if n is not root]
                pattern = drawer.roots([root, *others[: rng.randint(1, 2)]])
            else:
                pattern = drawer.root(root)
            _register(pm, spy, matcher, pattern, number, rng)
        return matcher

    return define


def _share(node: fx.Node, other: fx.Node) -> bool:
    inputs = set(other.all_input_nodes)
    return node is not other and any(i in inputs for i in node.all_input_nodes)


def _register(
    pm: Any, spy: Any, matcher: Any, pattern: Any, number: int, rng: random.Random
) -> None:
    refuse = rng.choice((0, 2, 3))
    action = rng.choice((watch, put_sigmoid, put_first_argument, erase_only))
    prepend = rng.random() < 0.2
    tried = [0]

    def check(match: Any) -> bool:
        tried[0] += 1
        spy.note(number)
        spy.match(match)
        return not refuse or tried[0] % refuse != 0

    def handler(match: Any, *args: Any, **kwargs: Any) -> None:
        spy.note(len(args), sorted(kwargs))
        action(match)

    pm.register_graph_pattern(pattern, extra_check=check, pass_dict=matcher, prepend=prepend)(
        handler
    )


def watch(match: Any) -> None:
    """Leaves the graph as it is."""


def erase_only(match: Any) -> None:
    """Takes away what has no users."""
    match.erase_nodes()


def put_sigmoid(match: Any) -> None:
    """Puts an op over the outputs' first operands in their places."""
    for node in match.output_nodes():
        if node is None or not node.all_input_nodes:
            continue
        with match.graph.inserting_before(node):
            new = match.graph.call_function(aten.sigmoid.default, (node.all_input_nodes[0],))
            new.meta.update(node.meta)
        node.replace_all_uses_with(new)
    match.erase_nodes()


def put_first_argument(match: Any) -> None:
    """Takes each output out of the graph: its users read its first operand."""
    for node in match.output_nodes():
        if node is not None and node.all_input_nodes:
            node.replace_all_uses_with(node.all_input_nodes[0])
    match.erase_nodes()
