"""Inductor's async tensor parallelism: the same fusions with both matchers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives
from pattern_matcher.test_inductor_passes import compiled, same
from torch.distributed._symmetric_memory import _test_mode
from torch.testing._internal.distributed.fake_pg import FakeStore

LEFT, RIGHT = torch.rand(4, 8), torch.rand(8, 6)


@pytest.fixture(autouse=True)
def _two_ranks(monkeypatch: Any) -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)  # asked, and never used here
    try:
        yield
    finally:
        dist.destroy_process_group()


def _gathered(x: torch.Tensor, dim: int = 0) -> torch.Tensor:
    assert dist.group.WORLD is not None
    return collectives.all_gather_tensor(x, dim, dist.group.WORLD)


def _scattered(x: torch.Tensor, dim: int = 0) -> torch.Tensor:
    assert dist.group.WORLD is not None
    return collectives.reduce_scatter_tensor(x, "sum", dim, dist.group.WORLD)


def _gather_three(x: torch.Tensor, w: torch.Tensor) -> Any:
    full = _gathered(x)
    return full @ w, full @ (w + 1), full @ (w * 2)


FUSIONS: dict[str, tuple[Callable[..., Any], str | None]] = {
    "a gather and a product": (lambda x, w: _gathered(x) @ w, "fused_all_gather_matmul"),
    "a gather and three products": (_gather_three, "fused_all_gather_matmul"),
    "a gather read besides": (
        lambda x, w: (full := _gathered(x), full @ w),
        "fused_all_gather_matmul",
    ),
    "a product and a scatter": (lambda x, w: _scattered(x @ w), "fused_matmul_reduce_scatter"),
    "a scatter of columns": (lambda x, w: _scattered(x @ w, 1), "fused_matmul_reduce_scatter"),
    "a narrow gather of columns": (lambda x, w: _gathered(x[:, :4], 1) @ w, None),
    "a product read besides": (lambda x, w: (y := x @ w, _scattered(y)), None),
}


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("name", FUSIONS)
def test_products_beside_collectives(name: str, enabled: bool) -> None:
    if name == "a narrow gather of columns" and torch.__version__ < "2.13":
        pytest.skip("this torch cannot compile it")
    function, fused = FUSIONS[name]
    settings = {"_micro_pipeline_tp": True}
    with _test_mode() if enabled else contextlib.nullcontext():
        same(function, [LEFT, RIGHT], **settings)
        seen = compiled(function, [LEFT, RIGHT], contextlib.nullcontext, **settings)
    targets = [entry["target"] for graph in seen.graphs for entry in graph]
    found = [target for target in targets if target.startswith("symm_mem.")]
    assert len(found) == (enabled and fused is not None)
    assert all(fused is not None and fused in target for target in found)
