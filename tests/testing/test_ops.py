"""The stand-in ops: declared once, with the shapes and the values that they promise."""

from __future__ import annotations

import pytest
import torch
from torch._higher_order_ops.auto_functionalize import auto_functionalized
from torch._subclasses.fake_tensor import FakeTensorMode

from spfast.testing import ops


def test_declaring_twice_declares_nothing() -> None:
    ops.declare()
    assert ops.declare() == ()
    for entry in ops.DECLARATIONS:
        assert ops._exists(entry)


def test_norms_agree_with_torch() -> None:
    x, residual, weight = torch.randn(5, 16), torch.randn(5, 16), torch.randn(16)
    expected = torch.nn.functional.rms_norm(x + residual, (16,), weight, 3e-6)
    normed, summed = torch.ops.vllm_ir.fused_add_rms_norm(x, residual, weight, 3e-6)
    torch.testing.assert_close(normed, expected)
    assert torch.equal(summed, x + residual)
    torch.testing.assert_close(torch.ops.vllm_ir.rms_norm(summed, weight, 3e-6), expected)
    op = torch.ops._C.fused_add_rms_norm.default
    _, again, same = auto_functionalized(
        op, input=x, residual=residual, weight=weight, epsilon=3e-6
    )
    torch.testing.assert_close(again, expected)
    assert torch.equal(same, summed)


def test_norm_over_a_part_of_the_row() -> None:
    x = torch.randn(3, 8)
    expected = x * torch.rsqrt(x[:, :4].pow(2).mean(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(torch.ops.vllm_ir.rms_norm(x, None, 1e-6, 4), expected)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float32])
def test_quantisation_scales_and_clamps(dtype: torch.dtype) -> None:
    x = torch.tensor([[1.0, -2.0, 1000.0, -1000.0]])
    _, result = auto_functionalized(
        torch.ops._C.static_scaled_fp8_quant.default,
        result=torch.empty(1, 4, dtype=dtype),
        input=x,
        scale=torch.tensor([0.5]),
    )
    assert result.dtype == dtype
    assert result.to(torch.float32).tolist() == [[2.0, -4.0, 448.0, -448.0]]


def test_shapes_under_a_fake_mode() -> None:
    with FakeTensorMode():
        x = torch.empty(8, 4, dtype=torch.bfloat16)
        assert torch.ops.vllm.all_reduce(x, "g").shape == (8, 4)
        assert torch.ops.vllm.reduce_scatter(x, 0, 4, "g").shape == (2, 4)
        assert torch.ops.vllm.all_gather(x, 0, 4, "g").shape == (32, 4)
        assert torch.ops.vllm_ir.rms_norm(x, None, 1e-5).dtype == torch.bfloat16
        assert [
            value.shape for value in torch.ops.vllm_ir.fused_add_rms_norm(x, x, None, 1e-5)
        ] == [(8, 4)] * 2


def test_an_unknown_group_is_named() -> None:
    with pytest.raises(ValueError, match="no process group is called 'nowhere:0'"):
        torch.ops.vllm.all_reduce(torch.ones(2), "nowhere:0")
