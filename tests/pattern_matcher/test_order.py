"""The order in which candidates are tried, what later ones see of earlier rewrites, and errors."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from pattern_matcher.graphs import Inputs, trace, vectors
from pattern_matcher.harness import Spy, agree, subject

aten = torch.ops.aten


def graph(fn: Any, *shape: int) -> Any:
    return lambda: trace(fn, *vectors(2, *shape))


def chain(count: int) -> Any:
    def model(x: Any, y: Any) -> Any:
        for _ in range(count):
            x = aten.relu(aten.add(x, y))
        return x

    return model


def define_rules(*rules: Any, check: Any = None) -> Any:
    """A pass with several replacement rules, each noting which arguments it saw."""

    def define(pm: Any, spy: Any) -> Any:
        matcher = pm.PatternMatcherPass("rules")
        for i, (search, replace) in enumerate(rules):

            def checked(match: Any, i: int = i) -> bool:
                spy.note(i, [str(n.target) for n in match.nodes])
                spy.match(match)
                return True if check is None else check(i, match, spy)

            with Inputs().mode:
                pm.register_replacement(
                    search,
                    replace,
                    [torch.empty(2, 3), torch.empty(2, 3)],
                    pm.fwd_only,
                    matcher,
                    extra_check=checked,
                )
        return matcher

    return define


ADD_RELU = (lambda x, y: aten.relu(aten.add(x, y)), lambda x, y: aten.sigmoid(aten.mul(x, y)))
SIGMOID_MUL = (lambda x, y: aten.sigmoid(aten.mul(x, y)), lambda x, y: aten.tanh(aten.sub(x, y)))


def test_last_node_first() -> None:
    agree(define_rules(ADD_RELU), graph(chain(5)), count=5, spy=True)


def test_overlapping_matches() -> None:
    """Three in a row, a pattern of two: the last two go."""
    double = (lambda x, y: aten.relu(aten.relu(aten.add(x, y))), lambda x, y: aten.add(y, x))

    def model(x: Any, y: Any) -> Any:
        return aten.relu(aten.relu(aten.relu(aten.relu(aten.add(x, y)))))

    agree(define_rules(double), graph(model), count=1, spy=True)
    pairs = (lambda x, y: aten.add(aten.add(x, y), y), lambda x, y: aten.sub(x, y))

    def sums(x: Any, y: Any) -> Any:
        for _ in range(5):
            x = aten.add(x, y)
        return x

    agree(define_rules(pairs), graph(sums), count=2, spy=True)


def test_new_nodes_are_no_candidates() -> None:
    """Candidates are listed before anything is rewritten."""
    grow = (lambda x, y: aten.add(aten.neg(x), y), lambda x, y: aten.add(aten.neg(x), y) * 2)
    agree(define_rules(grow), graph(lambda x, y: aten.add(aten.neg(x), y)), count=1, spy=True)


def test_a_later_candidate_matches_through_a_replaced_node() -> None:
    """The consumer is rewritten first; its producer's rewrite is then seen as its input."""
    rules = (
        (lambda x, y: aten.neg(aten.add(x, y)), lambda x, y: aten.neg(aten.sub(x, y))),
        (lambda x, y: aten.relu(aten.mul(x, y)), lambda x, y: aten.neg(aten.add(x, y))),
    )

    def model(x: Any, y: Any) -> Any:
        return aten.neg(aten.add(aten.relu(aten.mul(x, y)), y))

    agree(define_rules(*rules), graph(model), count=2, spy=True)


def test_replacement_contains_the_pattern_of_an_earlier_candidate() -> None:
    """A candidate further up matches a graph whose users are new nodes."""
    rules = (ADD_RELU, SIGMOID_MUL)

    def model(x: Any, y: Any) -> Any:
        a = aten.sigmoid(aten.mul(x, y))
        b = aten.relu(aten.add(a, y))
        c = aten.sigmoid(aten.mul(b, a))
        return aten.relu(aten.add(c, b)), aten.neg(a)

    agree(define_rules(*rules), graph(model), spy=True)


def test_registration_order_at_one_node() -> None:
    wide = (lambda x, y: aten.relu(aten.add(x, y)), lambda x, y: aten.maximum(x, y))

    def narrow_search(x: Any, y: Any) -> Any:
        return aten.relu(aten.add(aten.neg(x), y))

    narrow = (narrow_search, lambda x, y: aten.minimum(x, y))

    def model(x: Any, y: Any) -> Any:
        return aten.relu(aten.add(aten.neg(x), y))

    first = agree(define_rules(wide, narrow), graph(model), count=1, spy=True)
    second = agree(define_rules(narrow, wide), graph(model), count=1, spy=True)
    assert first.nodes != second.nodes


def test_a_refused_match_leaves_the_node_to_the_next_rule() -> None:
    wide = (lambda x, y: aten.relu(aten.add(x, y)), lambda x, y: aten.minimum(x, y))
    sub = (lambda x, y: aten.relu(aten.sub(x, y)), lambda x, y: aten.maximum(x, y))

    def check(i: int, match: Any, spy: Any) -> bool:
        return i != 0

    def model(x: Any, y: Any) -> Any:
        return aten.relu(aten.add(x, y)), aten.relu(aten.sub(x, y))

    agree(define_rules(wide, sub, check=check), graph(model), count=1, spy=True)


def test_a_dead_match() -> None:
    """A site whose result nobody uses matches as well."""

    def model(x: Any, y: Any) -> Any:
        aten.relu(aten.add(x, y))
        return aten.neg(x)

    agree(define_rules(ADD_RELU), graph(model), spy=True)


def test_one_argument_given_twice() -> None:
    agree(define_rules(ADD_RELU), graph(lambda x, y: aten.relu(aten.add(x, x))), count=1, spy=True)


def test_the_replacement_is_one_of_its_arguments() -> None:
    drop = (lambda x, y: aten.relu(aten.add(x, y)), lambda x, y: y)
    agree(define_rules(drop), graph(chain(3)), count=3, spy=True)


# --- errors -----------------------------------------------------------------------------------


def raising_check(at: int, kind: type[Exception]) -> Any:
    calls = itertools.count()

    def check(i: int, match: Any, spy: Any) -> bool:
        if next(calls) == at:
            raise kind("from the check")
        return True

    return check


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("kind", [KeyError, RuntimeError, AssertionError])
def test_an_error_in_extra_check(at: int, kind: type[Exception]) -> None:
    """It propagates; earlier matches are rewritten, this one is untouched."""

    def define(pm: Any, spy: Any) -> Any:
        return define_rules(ADD_RELU, check=raising_check(at, kind))(pm, spy)

    outcome = agree(define, graph(chain(3)), error=(kind.__name__, "from the check"), spy=True)
    done = [n for n in outcome.nodes if n["target"] == "aten.sigmoid.default"]
    assert len(done) == at


@pytest.mark.parametrize("kind", [KeyError, RuntimeError, ZeroDivisionError])
def test_an_error_in_replace_fn(kind: type[Exception]) -> None:
    """A replacement that fails for some sizes: what came before stays, this match is untouched."""

    def replace(x: Any, y: Any) -> Any:
        if x.shape[0] == 2:
            raise kind("from the replacement")
        return aten.sigmoid(aten.mul(x, y))

    def model(x: Any, y: Any) -> Any:
        a = aten.relu(aten.add(aten.slice(x, 0, 0, 2), aten.slice(y, 0, 0, 2)))
        return aten.relu(aten.add(aten.cat([a, a], 0), y))

    define = define_rules((ADD_RELU[0], replace))
    outcome = agree(define, graph(model), error=(kind.__name__, "from the replacement"), spy=True)
    targets = [n["target"] for n in outcome.nodes]
    assert targets.count("aten.sigmoid.default") == 1 and targets.count("aten.relu.default") == 1


def test_a_search_that_fails_for_some_sizes_is_no_match() -> None:
    """Torch takes a RuntimeError while tracing the search for a mismatch."""

    def search(x: Any, y: Any) -> Any:
        if x.shape[0] == 2:
            raise RuntimeError("not for me")
        return aten.relu(aten.add(x, y))

    def model(x: Any, y: Any) -> Any:
        a = aten.relu(aten.add(aten.slice(x, 0, 0, 2), aten.slice(y, 0, 0, 2)))
        return aten.relu(aten.add(aten.cat([a, a], 0), y))

    def define(pm: Any, spy: Any) -> Any:
        matcher = pm.PatternMatcherPass("rules")
        with Inputs().mode:
            pm.register_replacement(
                search, ADD_RELU[1], [torch.empty(4, 3), torch.empty(4, 3)], pm.fwd_only, matcher
            )
        return matcher

    agree(define, graph(model), count=1, spy=True)


def test_an_error_in_a_handler() -> None:
    def define(pm: Any, spy: Any) -> Any:
        matcher = pm.PatternMatcherPass("handler")

        @pm.register_graph_pattern(pm.CallFunction(aten.relu.default, pm.Arg()), pass_dict=matcher)
        def handler(match: Any, x: Any) -> None:
            spy.match(match)
            if x.target is aten.add.Tensor and x.args[0].op == "placeholder":
                raise LookupError("no further")
            match.replace_by_example(lambda x: aten.sigmoid(x), [x])

        return matcher

    agree(define, graph(chain(3)), error=("LookupError", "no further"), spy=True)


def test_a_pass_can_be_applied_again() -> None:
    """Nothing of the first graph stays behind in the pass."""

    class Twice:
        def __init__(self, matcher: Any) -> None:
            self.matcher = matcher

        def apply(self, gm: Any) -> int:
            other = graph(chain(2), 5, 7)()
            return 10 * self.matcher.apply(other) + self.matcher.apply(gm)

    def define(pm: Any, spy: Any) -> Any:
        return Twice(define_rules(ADD_RELU)(pm, spy))

    agree(define, graph(chain(3)), count=23, spy=True)


def test_an_empty_pass_and_other_inputs() -> None:
    pm = subject()
    matcher = pm.PatternMatcherPass("empty")
    assert matcher.apply(graph(chain(1))()) == 0
    matcher = define_rules(ADD_RELU)(pm, Spy())
    with pytest.raises(RuntimeError, match="GraphModule or a.*Graph.*str"):
        matcher.apply("a graph")
    assert matcher.apply(graph(chain(1))().graph) == 1
    matcher.clear()
    assert matcher.apply(graph(chain(1))()) == 0
