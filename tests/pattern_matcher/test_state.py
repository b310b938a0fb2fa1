"""Functions and settings that change between matches: the graph is torch's at any time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pattern_matcher.graphs import trace, vectors
from pattern_matcher.harness import not_older, subject
from torch._inductor import pattern_matcher as torch_matcher
from torch.overrides import TorchFunctionMode

from spfast import pattern_matcher as pm
from spfast.pattern_matcher.splice import REPLACES_AS_KNOWN

aten = torch.ops.aten
STATE: dict[str, Any] = {}
LEVEL = 1


def graph() -> Any:
    def model(x: Any) -> Any:
        for factor in (2, 3, 4):
            x = aten.mul(aten.relu(x), factor)
        return x

    return trace(model, *vectors(1))


def passes(
    matcher: Any, replacement: Callable[..., Any], search: Any = None, **options: Any
) -> Callable[[], list[Any]]:
    """Applies the rule to a fresh graph; returns what was added in each match."""
    rules = matcher.PatternMatcherPass("state")
    matcher.register_replacement(
        search or (lambda x: aten.relu(x)),
        replacement,
        vectors(1),
        matcher.fwd_only,
        rules,
        **options,
    )

    def run() -> list[Any]:
        gm = graph()
        rules.apply(gm)
        run.rules = rules  # type: ignore[attr-defined]
        return [n.args[1] for n in gm.graph.nodes if n.target is aten.add.Tensor]

    return run


class Settings:
    kind = 1

    def __init__(self, level: int) -> None:
        self.level = level
        self.unused: Any = torch.empty(1)

    @property
    def doubled(self) -> int:
        return 2 * self.level

    def method(self, x: Any) -> Any:
        return aten.add(x, self.level)

    def __call__(self, x: Any) -> Any:
        return self.method(x)


def _cell() -> tuple[Any, Callable[[int], None]]:
    level = 1

    def set_level(value: int) -> None:
        nonlocal level
        level = value

    return (lambda x: aten.add(x, level)), set_level


def _global() -> tuple[Any, Callable[[int], None]]:
    return (lambda x: aten.add(x, LEVEL)), lambda value: globals().update(LEVEL=value)


def _called() -> tuple[Any, Callable[[int], None]]:
    def helper(x: Any) -> Any:
        return [aten.add(y, STATE["level"]) for y in (x,)][0]

    return (lambda x: helper(x)), lambda value: STATE.update(level=value)


def _nested() -> tuple[Any, Callable[[int], None]]:
    levels = [[1]]
    return (lambda x: aten.add(x, levels[0][0])), lambda value: levels[0].__setitem__(0, value)


def _attribute() -> tuple[Any, Callable[[int], None]]:
    settings = Settings(1)
    return (lambda x: aten.add(x, settings.level)), functools.partial(setattr, settings, "level")


def _property() -> tuple[Any, Callable[[int], None]]:
    settings = Settings(1)
    return (lambda x: aten.add(x, settings.doubled)), functools.partial(setattr, settings, "level")


def _class_attribute() -> tuple[Any, Callable[[int], None]]:
    return (lambda x: aten.add(x, Settings.kind)), functools.partial(setattr, Settings, "kind")


def _bound_method() -> tuple[Any, Callable[[int], None]]:
    settings = Settings(1)
    return settings.method, functools.partial(setattr, settings, "level")


def _default() -> tuple[Any, Callable[[int], None]]:
    def helper(x: Any, level: int = 1) -> Any:
        return aten.add(x, level)

    def set_level(value: int) -> None:
        helper.__defaults__ = (value,)

    return (lambda x: helper(x)), set_level


def _namespace() -> tuple[Any, Callable[[int], None]]:
    space = SimpleNamespace(level=1)
    return (lambda x: aten.add(x, vars(space)["level"])), functools.partial(setattr, space, "level")


READERS = [
    *(_cell, _global, _called, _nested, _attribute, _property, _class_attribute, _bound_method),
    *(_default, _namespace),
]


@pytest.mark.parametrize("reader", READERS)
def test_what_a_replacement_reads_is_compared(reader: Any) -> None:
    STATE["level"] = 1
    seen = []
    for matcher in (torch_matcher, subject()):
        replacement, set_level = reader()
        run = passes(matcher, replacement)
        found = []
        for level in (1, 1, 5, 7):
            set_level(level)
            found.append(run())
        seen.append(found)
        set_level(1)
    assert seen[0] == seen[1]
    # While nothing changes the trace serves: at the second run, and within each.
    if REPLACES_AS_KNOWN:
        assert "0 checked by torch" in run.rules.describe()  # type: ignore[attr-defined]


def test_what_a_search_reads_is_compared() -> None:
    """A search function that looks for another operator each time."""
    if hasattr(torch_matcher, "_SpecificPatternCache"):
        pytest.skip("this torch itself keeps what it traced")
    found = []
    for matcher in (torch_matcher, subject()):
        STATE["op"] = aten.relu
        run = passes(matcher, lambda x: aten.add(x, 1), lambda x: STATE["op"](x))
        found.append([run()])
        STATE["op"] = aten.neg
        found[-1].append(run())
    assert found[0] == found[1] == [[1, 1, 1], []]


def _counter() -> Any:
    def replacement(x: Any) -> Any:
        STATE["count"] += 1
        return aten.add(x, STATE["count"])

    return replacement, {}


def _told_by_the_check() -> Any:
    def check(match: Any) -> bool:
        STATE["count"] = next(iter(match.output_node().users)).args[1]
        return True

    return (lambda x: aten.add(x, STATE["count"])), {"extra_check": check}


def _iterator() -> Any:
    numbers = iter(range(10))
    return (lambda x: aten.add(x, next(numbers))), {}


@pytest.mark.parametrize("made", [_counter, _told_by_the_check, _iterator])
def test_what_changes_from_match_to_match(made: Any) -> None:
    found = []
    for matcher in (torch_matcher, subject()):
        STATE["count"] = 0
        replacement, options = made()
        run = passes(matcher, replacement, **options)
        found.append([run(), run()])
    assert found[0] == found[1]
    assert len(set(found[0][0])) == 3


def test_reasons_are_told() -> None:
    scale = torch.ones(1)

    def reads_a_tensor(x: Any) -> Any:
        return aten.add(x, len(scale))

    run = passes(pm, reads_a_tensor)
    run()
    assert "the replacement is traced for each match: it reads a value of type torch.Tensor" in (
        run.rules.describe()  # type: ignore[attr-defined]
    )
    run = passes(pm, _counter()[0])
    STATE["count"] = 0
    run()
    text = run.rules.describe()  # type: ignore[attr-defined]
    assert "the replacement is traced for each match: it changes what it reads" in text
    run = passes(pm, lambda x: aten.add(x, id(x) % 1))
    run()
    text = run.rules.describe()  # type: ignore[attr-defined]
    assert "traced for each match: it calls 'id' of builtins" in text


@not_older("it traces at each match")
def test_the_user_may_decide() -> None:
    calls: list[int] = []

    def counted(x: Any) -> Any:
        calls.append(1)
        return aten.add(x, 1)

    for policy, expected in (("always", 3), ("proved", 3), ("once", 1)):
        calls.clear()
        assert passes(pm, counted, trace=policy)() == [1, 1, 1]
        assert len(calls) == expected, policy
    with pytest.raises(ValueError, match="trace must be one of .* but got 'never'"):
        passes(pm, counted, trace="never")


class Swap(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (torch.tanh if func is torch.sigmoid else func)(*args, **(kwargs or {}))


@contextmanager
def _default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast to half": lambda: torch.autocast("cpu", dtype=torch.float16),
    "a function mode": Swap,
    "a default device": lambda: torch.device("meta"),
    "a default dtype": _default_dtype,
    "inference mode": torch.inference_mode,
}


@pytest.mark.parametrize("name", CONTEXTS)
def test_ambient_state(name: str) -> None:
    """Under a context and without it, in turn, on one pass."""
    found = []
    for matcher in (torch_matcher, subject()):
        rules = matcher.PatternMatcherPass("ambient")
        with torch.no_grad():
            matcher.register_replacement(
                lambda x, y: torch.relu(x @ y),
                lambda x, y: torch.sigmoid(x @ y) + torch.ones(4),
                [torch.empty(4, 4), torch.empty(4, 4)],
                matcher.fwd_only,
                rules,
            )
        seen = []
        for context in (torch.no_grad, CONTEXTS[name], torch.no_grad):
            gm = trace(lambda x, y: torch.relu(x @ y), *vectors(2, 4, 4))
            try:
                with context():
                    count: Any = rules.apply(gm)
            except Exception as error:
                count = str(error)
            dtypes = [str(n.kwargs) + str(n.meta.get("val")) for n in gm.graph.nodes]
            seen.append((count, [str(n.target) for n in gm.graph.nodes], dtypes))
        found.append(seen)
    assert found[0] == found[1]
    assert found[0][0] == found[0][2] and found[0][0] != found[0][1] or name == "inference mode"
