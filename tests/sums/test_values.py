"""What a sum is read as, its reduction's result is: views of it share that memory, and no other."""

from __future__ import annotations

import pytest
import torch
from sums.builder import Sums
from sums.test_merge import MERGE, rewrite
from torch import fx

aten = torch.ops.aten


def storage_of(node: fx.Node) -> int:
    return node.meta["val"].untyped_storage()._cdata


@pytest.mark.parametrize("dialect", ["functional", "vllm"])
@pytest.mark.parametrize("name", [name for name in MERGE if "around" not in name])
def test_a_view_of_the_sum_is_one_of_what_was_reduced(name: str, dialect: str) -> None:
    build = Sums(dialect)
    total = MERGE[name][0](build)
    columns = total.meta["val"].numel() // 4
    view = build.call(aten.view.default, total, [4, columns])
    # A product over the tokens: the reduction itself stays.
    build.output(
        [build.call(aten.mm.default, build.call(aten.permute.default, view, [1, 0]), view)]
    )
    result = rewrite(build.graph, validate=True)
    assert result.merged
    sharing = [
        node
        for node in build.graph.nodes
        if "val" in node.meta and storage_of(node) == storage_of(view)
    ]
    beside_residual = name == "copied beside a residual"
    assert sharing[0] is (total if beside_residual else view.args[0])
    assert sharing[0].target is not aten.add.Tensor or beside_residual
