"""Token counts in any order: each kind gets the graph that is right for it, and no more graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch._inductor.config as inductor_config
from torch import fx

import spfast
from spfast.testing.models.capture import fake_process_group

c10d = torch.ops._c10d_functional


class Counted(spfast.SequenceParallelismPass):
    """The pass, which notes what it rewrote in each graph."""

    def __init__(self, **given: Any) -> None:
        super().__init__(spfast.SequenceParallelConfig(tp_size=2, tp_rank=0, **given))
        self.counts: list[int] = []

    def __call__(self, graph: fx.Graph) -> None:
        super().__call__(graph)
        self.counts.append(self.matched_count)


def layer(x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    total = residual + c10d.wait_tensor(c10d.all_reduce(torch.sin(x), "sum", "0"))
    return total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + 1e-6), total


def test_an_odd_count_first_keeps_no_even_one_out() -> None:
    counted = Counted()
    given = {"post_grad_custom_pre_pass": counted, "fx_graph_cache": False}
    torch._dynamo.reset()
    with fake_process_group(2), torch.no_grad(), inductor_config.patch(given):
        compiled = torch.compile(layer, fullgraph=True)
        for tokens in (63, 64, 128, 65):
            inputs = [torch.randn(tokens, 32), torch.randn(tokens, 32)]
            for each in inputs:
                torch._dynamo.mark_dynamic(each, 0)
            compiled(*inputs)
    assert counted.counts == [0, 1]


def test_one_row_a_rank_first_keeps_no_more_out() -> None:
    """A graph for exactly that many is not what who marked the tokens as dynamic asked for."""
    counted = Counted()
    given = {"post_grad_custom_pre_pass": counted, "force_disable_caches": True}
    torch._dynamo.reset()
    with fake_process_group(2), torch.no_grad(), inductor_config.patch(given):
        compiled = torch.compile(layer, fullgraph=True)
        for tokens in (2, 3, 4, 64, 5, 2):
            inputs = [torch.randn(tokens, 32), torch.randn(tokens, 32)]
            for each in inputs:
                torch._dynamo.mark_dynamic(each, 0)
            compiled(*inputs)
    assert counted.counts == [0, 1, 0]


def test_a_width_that_is_symbolic_too() -> None:
    """With dynamic=True no size is a number, the width included."""
    counted = Counted()
    given = {"post_grad_custom_pre_pass": counted, "fx_graph_cache": False}
    torch._dynamo.reset()
    with fake_process_group(2), torch.no_grad(), inductor_config.patch(given):
        compiled = torch.compile(layer, fullgraph=True, dynamic=True)
        for tokens in (63, 64, 128, 65):
            compiled(torch.randn(tokens, 32), torch.randn(tokens, 32))
    assert counted.counts == [0, 1]


@pytest.mark.parametrize("mark", ["mark_dynamic", "mark_unbacked"])
def test_padding_makes_one_graph_for_every_count(mark: str) -> None:
    """One without an example value, too. One row a rank is a size of its own to torch."""
    counted = Counted(divisibility="pad", validate=True)
    given = {"post_grad_custom_pre_pass": counted, "force_disable_caches": True}
    torch._dynamo.reset()
    with fake_process_group(2), torch.no_grad(), inductor_config.patch(given):
        compiled = torch.compile(layer, fullgraph=True)
        for tokens in (7, 8, 9, 2, 3, 64, 65, 2):
            inputs = [torch.randn(tokens, 32), torch.randn(tokens, 32)]
            for each in inputs:
                getattr(torch._dynamo.decorators, mark)(each, 0)
            normed, total = compiled(*inputs)
            assert normed.shape == total.shape == (tokens, 32)
    assert counted.counts == ([1] if mark == "mark_unbacked" else [1, 0])
