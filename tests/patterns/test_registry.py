"""Rules and dialects: registering, replacing, undoing, and what the pass then does."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from spfast import _core, patterns
from spfast.errors import PatternError
from spfast.patterns import Dialect, Registry, Rows, Value, ops
from spfast.patterns.vllm_ir import COLLECTIVES
from spfast.run.rules import rules_of

RULES = (
    "first_all_reduce_rms_norm",
    "middle_all_reduce_rms_norm",
    "first_all_reduce_rms_norm_static_fp8",
    "middle_all_reduce_rms_norm_static_fp8",
)


@pytest.fixture
def registry() -> Registry:
    fresh = Registry()
    fresh.add_dialect(Dialect("mine", (COLLECTIVES,)))
    return fresh


def relu(x: Value) -> Value:
    return ops.aten.relu(x)


def scaled(x: Value, scale: Value) -> Value:
    return ops.aten.mul.Tensor(x, scale)


# --- the default registry -------------------------------------------------------------------------


def test_the_four_rules_exist_in_every_dialect() -> None:
    default = patterns.default_registry()
    assert [each.name for each in default.dialects()] == [
        "vllm_ir",
        "vllm_custom_ops",
        "functional",
    ]
    for dialect in default.dialects():
        assert default.rules([dialect.name]) == RULES


def test_quantised_beats_plain_and_middle_beats_first() -> None:
    priority = {each.rule: each.priority for each in patterns.default_registry().patterns()}
    assert sorted(priority, key=priority.__getitem__) == list(RULES)


def test_dialects_that_share_collectives_count_them_once() -> None:
    families = patterns.default_registry().families()
    assert [each.all_reduce for each in families] == [
        "vllm.all_reduce.default",
        "_c10d_functional.all_reduce.default",
    ]


def test_patterns_of_one_rule_have_the_same_parameters() -> None:
    parameters = {(each.rule, each.parameters) for each in patterns.default_registry().patterns()}
    assert len(parameters) == len(RULES)


# --- registering ----------------------------------------------------------------------------------


def test_the_decorator_returns_the_function_itself(registry: Registry) -> None:
    assert registry.register("relu", dialect="mine")(relu) is relu


def test_a_name_is_taken_once(registry: Registry) -> None:
    registry.register("rule", dialect="mine")(relu)
    with pytest.raises(PatternError) as caught:
        registry.register("rule", dialect="mine")(scaled)
    assert str(caught.value) == (
        "rule 'rule' is registered already for dialect 'mine': choose another name, "
        "name a variant, or pass replace=True"
    )
    assert len(registry.patterns()) == 1
    assert registry.patterns()[0].parameters == ()


def test_replacing(registry: Registry) -> None:
    registry.register("rule", dialect="mine")(relu)
    registry.register("rule", dialect="mine", priority=3, replace=True)(scaled)
    (pattern,) = registry.patterns()
    assert pattern.priority == 3
    assert [each.name for each in pattern.parameters] == ["scale"]


def test_variants_share_a_rule_and_its_parameters(registry: Registry) -> None:
    registry.register("rule", dialect="mine")(relu)
    registry.register("rule", dialect="mine", variant="scaled")(scaled)
    assert registry.rules() == ("rule",)
    assert [len(each.parameters) for each in registry.patterns()] == [1, 1]
    assert [len(each.parameters) for each in registry.variants()] == [0, 1]


@pytest.mark.parametrize("quantises", [True, False])
def test_a_rule_says_whether_it_quantises(registry: Registry, quantises: bool) -> None:
    registry.register("rule_fp8", dialect="mine", quantises=quantises)(relu)
    assert [each.quantises for each in registry.patterns()] == [quantises]
    assert len(rules_of(registry)) == 1
    assert len(rules_of(registry, quantised=False)) == 1 - quantises


def test_a_name_still_says_it_and_warns(registry: Registry) -> None:
    with pytest.warns(FutureWarning) as caught:
        registry.register("to_int8", dialect="mine")(relu)
    assert [str(each.message) for each in caught] == [
        "rule 'to_int8' is taken to end in a quantisation for its name: say quantises=True, "
        "or quantises=False"
    ]
    assert caught[0].filename == __file__
    assert [each.quantises for each in registry.patterns()] == [True]


def test_variants_must_agree_about_quantising(registry: Registry) -> None:
    registry.register("rule", dialect="mine")(relu)
    with pytest.raises(PatternError) as caught:
        registry.register("rule", dialect="mine", variant="b", quantises=True)(scaled)
    assert str(caught.value) == (
        "rule 'rule' quantises in one variant and not in another: give all the same"
    )


def test_variants_must_agree_about_priority(registry: Registry) -> None:
    registry.register("rule", dialect="mine")(relu)
    with pytest.raises(PatternError) as caught:
        registry.register("rule", dialect="mine", variant="b", priority=1)(scaled)
    assert str(caught.value) == (
        "rule 'rule' has priority 0 in one variant and 1 in another: give all the same"
    )


def test_variants_must_agree_about_roles(registry: Registry) -> None:
    def rows(x: Value, scale: Rows) -> Value:
        return ops.aten.add.Tensor(x, scale)

    registry.register("rule", dialect="mine")(scaled)
    with pytest.raises(PatternError) as caught:
        registry.register("rule", dialect="mine", variant="rows")(rows)
    assert str(caught.value) == (
        "rule 'rule' has a parameter 'scale' that is replicated in one variant and rows in another"
    )


@pytest.mark.parametrize("name", [None, 3, ""])
def test_a_name_that_is_none(registry: Registry, name: Any) -> None:
    with pytest.raises(PatternError) as caught:
        registry.register(name, dialect="mine")
    assert str(caught.value) == f"the name of a rule is a text, not {name!r}"


def test_an_unknown_dialect(registry: Registry) -> None:
    with pytest.raises(PatternError) as caught:
        registry.register("rule", dialect="yours")(relu)
    assert str(caught.value) == "there is no dialect 'yours': add it first (known: mine)"
    with pytest.raises(PatternError) as caught:
        registry.patterns(["yours"])
    assert str(caught.value) == "there is no dialect 'yours' (known: mine)"


def test_a_dialect_is_added_once(registry: Registry) -> None:
    with pytest.raises(PatternError) as caught:
        registry.add_dialect(Dialect("mine"))
    assert str(caught.value) == (
        "dialect 'mine' is registered already: choose another name or pass replace=True"
    )
    registry.add_dialect(Dialect("mine"), replace=True)
    assert registry.families() == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"group": -1},
            "group=-1 is no position: pass that of the group among the arguments, "
            "or None where the all_reduce carries none",
        ),
        (
            {"group": True},
            "group=True is no position: pass that of the group among the arguments, "
            "or None where the all_reduce carries none",
        ),
        (
            {"group": None},
            "reduce_scatter_args has 'group', and group=None says that there is none to pass on",
        ),
        (
            {"reduce_op": 2**31},
            "reduce_op=2147483648 is no position: pass it, or -1 for sums alone",
        ),
        (
            {"reduce_op": 1},
            "reduce_op=1 and reduce_scatter_args=('input', 0, 'world_size', 'group') do not agree: "
            "pass the reduce op on where the all_reduce has one, and nowhere else",
        ),
        (
            {"all_gather_args": ("input", "ranks")},
            "all_gather_args has 'ranks': "
            "pass a number or one of input, world_size, group, reduce_op",
        ),
        (
            {"all_gather_args": ("input", 2**63)},
            "all_gather_args has 9223372036854775808: pass a number that fits 64 bits",
        ),
        (
            {"all_gather_args": ("input", "reduce_op")},
            "all_gather_args has 'reduce_op', and nothing is reduced there",
        ),
        (
            {"reduce_scatter_args": ("group",)},
            "reduce_scatter_args lacks 'input', the value that is moved",
        ),
    ],
)
def test_a_family_that_cannot_be_rewritten_is_refused(fields: Any, message: str) -> None:
    registry = Registry()
    with pytest.raises(PatternError) as caught:
        registry.add_dialect(Dialect("mine", (replace(COLLECTIVES, **fields),)))
    where = "dialect 'mine', collectives of vllm.all_reduce.default: "
    assert str(caught.value) == where + message
    assert registry.dialects() == ()


@pytest.mark.parametrize("priority", [2**31, 1.5])
def test_a_priority_is_a_number_that_the_core_holds(registry: Registry, priority: Any) -> None:
    with pytest.raises(PatternError) as caught:
        registry.register("rule", dialect="mine", priority=priority)(relu)
    assert str(caught.value) == (
        f"rule 'rule' has priority {priority!r}: pass a whole number below 2**31"
    )
    registry.register("rule", dialect="mine", priority=1 - 2**31)(relu)
    assert len(rules_of(registry)) == 1


def test_a_constant_that_fits_no_64_bits_is_refused_where_it_is_registered(
    registry: Registry,
) -> None:
    def huge(x: Value) -> Value:
        return ops.aten.add.Scalar(x, 10**40)

    with pytest.raises(PatternError) as caught:
        registry.register("huge", dialect="mine")(huge)
    assert str(caught.value) == (
        "pattern 'huge': a number of 133 bits is no constant that a pattern can hold, "
        "for it does not fit 64: capture it as a parameter"
    )
    assert registry.patterns() == ()


def test_a_pattern_made_by_hand_still_names_its_rule() -> None:
    pattern = patterns.trace(lambda x: ops.mylib.op(x, 1), "mine")
    huge = replace(pattern, priority=2**40)
    with pytest.raises(PatternError) as caught:
        _core.Rules([huge], ())
    assert str(caught.value) == (
        "rule 'mine' holds a name or a number that a compiled pattern cannot hold"
    )


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"position": 2**31}, "2147483648"),
        ({"default_dim": 0.5}, "0.5"),
        ({"rows": (2**40,)}, "1099511627776"),
    ],
)
def test_a_row_wise_rule_has_positions_that_the_core_holds(fields: Any, shown: str) -> None:
    rule = patterns.RowRule("mylib.op.default", **{"family": "rows", "rows": (0,), **fields})
    with pytest.raises(PatternError) as caught:
        Registry().register_rowwise(rule)
    assert str(caught.value) == (
        f"the row-wise rule of 'mylib.op.default' has {shown} where a position or a dim is "
        f"expected: pass a whole number"
    )


def test_dialects_must_spell_a_family_alike(registry: Registry) -> None:
    registry.add_dialect(Dialect("alike", (replace(COLLECTIVES, name="other name"),)))
    with pytest.raises(PatternError) as caught:
        registry.add_dialect(Dialect("unlike", (replace(COLLECTIVES, group=2),)))
    assert str(caught.value) == (
        "dialects 'unlike' and 'mine' spell the collectives of vllm.all_reduce.default differently"
    )


def test_unregistering(registry: Registry) -> None:
    registry.register("a", dialect="mine")(relu)
    registry.register("b", dialect="mine")(scaled)
    registry.unregister("a")
    assert registry.rules() == ("b",)
    with pytest.raises(PatternError) as caught:
        registry.unregister("a", dialect="mine")
    assert str(caught.value) == "there is no rule 'a' in dialect 'mine'"


def test_a_function_that_is_no_pattern_changes_nothing(registry: Registry) -> None:
    version = registry.version
    with pytest.raises(PatternError, match="pattern 'bad': it takes the truth of a value"):
        registry.register("bad", dialect="mine")(lambda x: ops.aten.relu(x) if x else x)
    assert registry.version == version
    assert registry.rules() == ()


# --- versions and digests -------------------------------------------------------------------------


def test_every_change_gives_a_new_version(registry: Registry) -> None:
    seen = [registry.version, Registry().version]
    registry.register("a", dialect="mine")(relu)
    seen.append(registry.version)
    registry.register("a", dialect="mine", replace=True)(scaled)
    seen.append(registry.version)
    registry.unregister("a")
    seen.append(registry.version)
    assert len(set(seen)) == len(seen)


def test_temporary_changes_are_undone_also_after_an_error(registry: Registry) -> None:
    before = registry.version, registry.digest()
    with pytest.raises(KeyError), registry.temporary():
        registry.register("a", dialect="mine")(relu)
        registry.add_dialect(Dialect("other"))
        assert registry.version != before[0]
        assert registry.digest() != before[1]
        raise KeyError
    assert (registry.version, registry.digest()) == before
    assert registry.rules() == ()
    assert [each.name for each in registry.dialects()] == ["mine"]


def test_a_copy_is_independent(registry: Registry) -> None:
    other = registry.copy()
    other.register("a", dialect="mine")(relu)
    assert registry.rules() == () and other.rules() == ("a",)


def test_pickling_keeps_the_content_and_takes_a_new_version(registry: Registry) -> None:
    registry.register("a", dialect="mine")(relu)
    other = pickle.loads(pickle.dumps(registry))
    assert other.digest() == registry.digest()
    assert other.version != registry.version


def test_who_reads_while_rules_are_added_sees_the_rules_as_they_were(registry: Registry) -> None:
    registry.register("a", dialect="mine")(relu)
    state = registry.copy()
    registry.register("b", dialect="mine")(relu)
    registry.unregister("a")
    assert state.rules() == ("a",)


def test_threads_get_the_same_default_registry() -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: patterns.default_registry(), range(64)))
    assert len(set(map(id, found))) == 1


def test_the_digest_tells_content_and_nothing_else(registry: Registry) -> None:
    registry.register("a", dialect="mine")(relu)
    other = Registry()
    other.add_dialect(Dialect("mine", (COLLECTIVES,)))
    other.register("a", dialect="mine")(lambda y: ops.aten.relu.default(y))
    assert registry.digest() == other.digest()
    other.register("a", dialect="mine", priority=1, replace=True)(relu)
    assert registry.digest() != other.digest()


def test_the_digest_is_the_same_in_another_process() -> None:
    code = "from spfast import patterns; print(patterns.default_registry().digest())"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "7"},
    )
    assert run.stdout.strip() == patterns.default_registry().digest()
