"""The default rules as data: what is in the package is what tracing makes, or is not used."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from spfast import _core, patterns
from spfast.patterns import Registry, Value, ops, stored, traced_default, tracing
from spfast.patterns.dumping import dump
from spfast.run import rules


@pytest.fixture(scope="module")
def traced() -> Registry:
    registry = traced_default()
    registry.register_rowwise(*patterns.ATEN, *patterns.VLLM)
    return registry


def read(file: Path = stored.FILE) -> Registry:
    found = stored.load(file)
    assert found is not None
    registry = Registry.of(found)
    registry.register_rowwise(*patterns.ATEN, *patterns.VLLM)
    return registry


def test_the_file_is_what_tracing_makes(traced: Registry) -> None:
    assert stored.FILE.read_bytes() == dump(traced), (
        "the default rules changed; write them anew:\n"
        "python -m spfast.patterns python/spfast/patterns/default_rules.json"
    )


def test_what_is_read_is_what_was_traced(traced: Registry) -> None:
    registry = read()
    assert registry.stored() is not None and traced.stored() is None
    assert registry.digest() == traced.digest()
    assert registry.dialects() == traced.dialects()
    assert registry.variants() == traced.variants()
    assert registry.patterns() == traced.patterns()
    assert repr(registry.patterns()) == repr(traced.patterns())  # 2 equals 2.0


@pytest.mark.parametrize("quantised", [False, True])
def test_the_core_reads_the_same_from_rows(traced: Registry, quantised: bool) -> None:
    from_rows = rules.rules_of(read(), quantised=quantised)
    from_objects = rules.rules_of(traced, quantised=quantised)
    assert from_rows.to_string() == from_objects.to_string()
    assert len(from_rows) == len(from_objects)


def other_sources(text: bytes) -> bytes:
    header, _, body = text.partition(b"\n")
    changed = {**json.loads(header), "sources": "0" * 64}
    return json.dumps(changed).encode() + b"\n" + body


def flipped(text: bytes) -> bytes:
    return text[:-1000] + bytes([text[-1000] ^ 1]) + text[-999:]


@pytest.mark.parametrize(
    "spoil",
    [
        other_sources,
        flipped,
        lambda text: text[: len(text) // 2],
        lambda text: text.partition(b"\n")[0],
        lambda text: b"\xff" + text,
        lambda text: b"[]\n" + text,
        lambda text: b"",
    ],
    ids="sources flipped cut header binary list empty".split(),
)
def test_another_file_is_refused(
    spoil: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "rules.json"
    file.write_bytes(spoil(stored.FILE.read_bytes()))
    with caplog.at_level(logging.INFO, "spfast"):
        assert stored.load(file) is None
    assert "the stored default rules are not used, and traced anew: " in caplog.text


def test_a_refused_file_costs_no_rule(monkeypatch: pytest.MonkeyPatch, traced: Registry) -> None:
    monkeypatch.setattr(stored, "load", lambda: None)
    registry = patterns._default.__wrapped__()
    assert registry.stored() is None
    assert registry.digest() == traced.digest()


def test_rows_that_do_not_fit_together_are_refused() -> None:
    found = stored.load()
    assert found is not None
    for table, row, message in (
        ("Pattern", ["rule", 0, [10_000], []], "a stored pattern refers to a row"),
        ("Pattern", ["rule", 0], "a stored pattern lacks a field"),
        ("Form", "no list", "a stored pattern is no list"),
    ):
        tables = {**found.tables, table: [row]}
        with pytest.raises(patterns.registry.PatternError, match=message):
            _core.Rules([0], (), (), True, tables)


def test_ones_own_rule_is_all_that_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    trace = tracing.trace

    def counted(function: object, rule: str, *rest: object) -> object:
        names.append(rule)
        return trace(function, rule, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(tracing, "trace", counted)
    registry = read()

    @registry.register("mine", dialect="functional")
    def mine(reduced: Value, by: Value) -> Value:
        return ops.mylib.scale(reduced, by)

    assert registry.stored() is None
    assert len(rules.rules_of(registry)) == 5
    assert registry.digest() != read().digest()
    assert names == ["mine"]
    registry.unregister("mine")
    assert registry.digest() == read().digest()


def test_a_rule_that_went_is_gone() -> None:
    registry = read()
    with registry.temporary():
        registry.unregister("middle_all_reduce_rms_norm", dialect="vllm_ir")
        assert registry.stored() is None
        text = rules.rules_of(registry).to_string()
    assert registry.stored() is not None
    assert text != rules.rules_of(registry).to_string()
    copied = pickle.loads(pickle.dumps(registry))
    assert copied.digest() == registry.digest()
    assert rules.rules_of(copied).to_string() == rules.rules_of(registry).to_string()


FIRST_CALL = """
import sys
import torch
before = set(sys.modules)
import spfast
print([name for name in LATER if name in sys.modules and name not in before])
spfast.SequenceParallelismPass(spfast.SequenceParallelConfig(tp_size=2, tp_rank=0)).uuid()
from spfast.testing import ops
ops.declare()
graph = torch.fx.Graph()
x, w = graph.placeholder("x"), graph.placeholder("w")
reduced = graph.call_function(torch.ops.vllm.all_reduce.default, (x, "tp:0"))
normed = graph.call_function(torch.ops.vllm_ir.rms_norm.default, (reduced, w, 1e-6))
for node in (x, reduced, normed):
    node.meta["val"] = torch.empty(16, 64, device="meta")
w.meta["val"] = torch.empty(64, device="meta")
graph.output((normed,))
print(spfast.apply(graph, spfast.SequenceParallelConfig(tp_size=2, tp_rank=0)).matched_count)
print([name for name in TRACERS if name in sys.modules])
"""


def test_a_process_traces_nothing_and_loads_little() -> None:
    later = (
        "sympy torch._inductor torch._dynamo torch.fx.experimental.symbolic_shapes "
        "spfast.verifier spfast.table spfast.passes spfast.consistency spfast.explanation"
    ).split()
    tracers = [f"spfast.patterns.{name}" for name in ("tracing", "functional", "model")]
    code = FIRST_CALL.replace("LATER", repr(later)).replace("TRACERS", repr(tracers))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split("\n") == ["[]", "1", "[]", ""]
