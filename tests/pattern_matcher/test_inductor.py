"""torch.compile of real models with our matcher behind Inductor's own passes.

Same outputs, as many matches as without, and no more tracing. How long it takes is for the
benchmark: a clock in a test would only measure the machine.
"""

from __future__ import annotations

import importlib
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pattern_matcher.harness import not_older
from pattern_matcher.rules import register_add_relu
from torch._dynamo.utils import counters
from torch._inductor import pattern_matcher as torch_matcher

from spfast.integrations import inductor

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.skipif(
    shutil.which("c++") is None and shutil.which("g++") is None,
    reason="Inductor needs a C++ compiler for the CPU",
)

SMALL = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1, "vocab_size": 64}


def llama() -> Any:
    config = transformers.LlamaConfig(
        **SMALL, num_key_value_heads=2, intermediate_size=48, attn_implementation="eager"
    )
    return transformers.LlamaForCausalLM(config)


def bert() -> Any:
    sizes = {**SMALL, "num_hidden_layers": 2, "intermediate_size": 48}
    config = transformers.BertConfig(**sizes, attn_implementation="eager")
    return transformers.BertModel(config)


def gpt2() -> Any:
    config = transformers.GPT2Config(
        n_embd=32, n_head=4, n_layer=1, vocab_size=64, n_positions=64, attn_implementation="eager"
    )
    return transformers.GPT2LMHeadModel(config)


MODELS: dict[str, tuple[Callable[[], Any], bool]] = {
    "llama": (llama, False),
    "bert": (bert, False),
    "gpt2, dynamic": (gpt2, True),
}


@dataclass(frozen=True)
class Compiled:
    """What a compilation gave."""

    output: torch.Tensor
    matches: dict[str, int]
    traces: int


def compile_and_run(name: str, monkeypatch: Any) -> Compiled:
    """Compiles a model afresh and runs it."""
    make, dynamic = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    ids = torch.arange(24).reshape(2, 12) % 64
    traces: Counter[str] = Counter()
    for function in ("make_fx", "aot_function"):
        original = getattr(torch_matcher, function)

        def counting(*args: Any, _fn: Any = original, _name: str = function, **kwargs: Any) -> Any:
            traces[_name] += 1
            return _fn(*args, **kwargs)

        monkeypatch.setattr(torch_matcher, function, counting)
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(model, dynamic=dynamic)
    settings = {"fx_graph_cache": False, "fx_graph_remote_cache": False}
    with torch._inductor.config.patch(settings), torch.no_grad():
        found = compiled(input_ids=ids, use_cache=False) if name != "bert" else compiled(ids)
    monkeypatch.undo()
    keys = ("pattern_matcher_count", "pattern_matcher_nodes", "fuse_attention")
    return Compiled(
        output=found[0],
        matches={key: counters["inductor"][key] for key in keys},
        traces=sum(traces.values()),
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_compiles_to_the_same(name: str, monkeypatch: Any) -> None:
    # Inductor fills its passes when they are first used: that is not part of what is compared.
    torch.compile(lambda x: torch.relu(x) + 1, dynamic=False)(torch.ones(3))
    plain = compile_and_run(name, monkeypatch)
    with inductor.patched():
        ours = compile_and_run(name, monkeypatch)
    assert plain.matches["pattern_matcher_count"] > 0
    assert ours.matches == plain.matches
    assert torch.equal(ours.output, plain.output)
    assert ours.traces <= plain.traces


def test_patched_puts_everything_back() -> None:
    before = torch_matcher.PatternMatcherPass.apply
    with pytest.raises(KeyError), inductor.patched():
        assert torch_matcher.PatternMatcherPass.apply is not before
        raise KeyError
    assert torch_matcher.PatternMatcherPass.apply is before


def test_the_environment_switch(monkeypatch: Any) -> None:
    before = torch_matcher.PatternMatcherPass.apply
    with inductor.patched():  # takes back what the switch puts in, too
        torch_matcher.PatternMatcherPass.apply = before  # type: ignore[method-assign]
        importlib.reload(inductor)
        assert torch_matcher.PatternMatcherPass.apply is before
        monkeypatch.setenv("SPFAST_PATTERN_MATCHER", "1")
        importlib.reload(inductor)
        assert torch_matcher.PatternMatcherPass.apply is not before
    assert torch_matcher.PatternMatcherPass.apply is before


@not_older("it traces at each match")
def test_patched_serves_patterns_registered_before() -> None:
    """A pass that torch's own functions filled, applied while ours is in place."""
    from pattern_matcher.graphs import trace, vectors

    aten = torch.ops.aten
    matcher = torch_matcher.PatternMatcherPass("before")
    register_add_relu(torch_matcher, matcher)
    calls: list[int] = []
    original = torch_matcher.make_fx

    def chain(x: Any, y: Any) -> Any:
        for _ in range(5):
            x = aten.relu(aten.add(x, y))
        return x

    gm = trace(chain, *vectors(2))
    with pytest.MonkeyPatch.context() as patch, inductor.patched():
        patch.setattr(
            torch_matcher, "make_fx", lambda *a, **k: (calls.append(1), original(*a, **k))[1]
        )
        assert matcher.apply(gm) == 5
    assert len(calls) == 2, "search and replacement are traced once, not once a match"
