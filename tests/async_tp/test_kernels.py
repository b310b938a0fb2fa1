"""Our kernels of the fused operators: every rank's rows are where they belong.

The ranks are threads; what only GPUs have, tests/gpu runs.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from async_tp.threads import LOCAL, Exchange, on_threads, ranks_of

import spfast
from spfast.async_tp import exchange, kernels
from spfast.errors import ConfigError

FP8 = torch.float8_e4m3fn


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "Exchange", Exchange)
    monkeypatch.setattr(kernels, "ranks_of", ranks_of)


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape).to(dtype)


@pytest.mark.parametrize("returns", [True, False])
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_gathered_rows_are_multiplied(ranks: int, dim: int, returns: bool) -> None:
    torch.manual_seed(0)
    shards = [drawn(4, 6, 16) for _ in range(ranks)]
    rights = [drawn(16, 8), drawn(16, 24)]
    whole = torch.cat(shards, dim)
    kernel = kernels._KERNELS["fused_all_gather_matmul"]
    found = on_threads(ranks, lambda rank: kernel(shards[rank], rights, dim, "g", return_A=returns))
    for left, outs in found:
        assert (left is not None) is returns
        assert not returns or torch.equal(left, whole)
        for out, right in zip(outs, rights, strict=True):
            torch.testing.assert_close(out, whole @ right)
            # In the strides that torch's own kernel gives, which a compiler counts on.
            assert out.movedim(dim, 0).is_contiguous()


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("op", ["sum", "avg"])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_sums_of_products_are_scattered(ranks: int, op: str, dim: int) -> None:
    torch.manual_seed(0)
    lefts, rights = [drawn(12, 24, 16) for _ in range(ranks)], [drawn(16, 8) for _ in range(ranks)]
    total = sum(left @ right for left, right in zip(lefts, rights, strict=True))
    expected = (total / ranks if op == "avg" else total).chunk(ranks, dim)
    kernel = kernels._KERNELS["fused_matmul_reduce_scatter"]
    found = on_threads(ranks, lambda rank: kernel(lefts[rank], rights[rank], op, dim, "g"))
    for mine, want in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, want.contiguous())
        assert mine.is_contiguous()


def products(rows: torch.Tensor, right: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (rows.double() * scale.double()) @ right.double()


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("ranks", [2, 3])
def test_scales_go_with_their_rows(ranks: int, by_row: bool) -> None:
    if by_row and torch.__version__ < "2.13":
        pytest.skip("this torch multiplies float8 by one scale alone on the CPU")
    torch.manual_seed(0)
    one = torch.ones((1, 32) if by_row else ())
    right = drawn(32, 32, dtype=FP8).t()  # as the products of the CPU and the GPU both take it
    whole = drawn(16 * ranks, 32, dtype=FP8)
    scale = torch.rand(16 * ranks, 1) + 0.5 if by_row else torch.tensor(0.5)
    scales = scale.chunk(ranks) if by_row else [scale] * ranks
    gather = kernels._KERNELS["fused_all_gather_scaled_matmul"]
    found: list[Any] = on_threads(
        ranks,
        lambda rank: gather(
            *(whole.chunk(ranks)[rank], [right], scales[rank], [one], 0, "g"),
            *([None], [None], [torch.bfloat16], [False]),
        ),
    )
    want = products(whole, right, scale)
    for left, (out,) in found:
        assert torch.equal(left.float(), whole.float()) and out.dtype == torch.bfloat16
        torch.testing.assert_close(out.double(), want, rtol=1e-2, atol=1e-2)
    scatter = kernels._KERNELS["fused_scaled_matmul_reduce_scatter"]
    found = on_threads(
        ranks,
        lambda rank: scatter(
            *(whole, right, scale, one, "sum", 0, 0, "g", [16 * ranks, 32]),
            out_dtype=torch.bfloat16,
        ),
    )
    for mine, part in zip(found, want.chunk(ranks), strict=True):
        torch.testing.assert_close(mine.double(), part * ranks, rtol=2e-2, atol=2e-2)


def test_one_use_waits_for_the_last() -> None:
    """A rank that is ahead must not write over what another still reads."""
    torch.manual_seed(0)
    shards = [[drawn(4, 16) for _ in range(2)] for _ in range(6)]
    right = drawn(16, 8)
    kernel = kernels._KERNELS["fused_all_gather_matmul"]

    def run(rank: int) -> list[torch.Tensor]:
        return [kernel(each[rank], [right], 0, "g", return_A=False)[1][0] for each in shards]

    for found in on_threads(2, run):
        for out, each in zip(found, shards, strict=True):
            torch.testing.assert_close(out, torch.cat(each) @ right)


def test_a_gather_does_not_begin_beside_its_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """A barrier that a product keeps from running keeps the rows from being sent, too."""
    multiply = kernels._Plain.__call__

    def noted(self: Any, left: Any, out: torch.Tensor) -> None:
        LOCAL.said.append("product")
        multiply(self, left, out)

    monkeypatch.setattr(kernels._Plain, "__call__", noted)
    x, w = drawn(4, 16), drawn(16, 8)

    def said(name: str, *rest: Any, **more: Any) -> list[str]:
        kernels._KERNELS[name](x, *rest, "g", **more)
        return list(LOCAL.said)

    for found in on_threads(2, lambda rank: said("fused_all_gather_matmul", [w], 0)):
        assert found == ["barrier", "barrier aside", "product", "product"]
    # Nothing is to be sent before the first product ends: its barrier hides behind it.
    for found in on_threads(2, lambda rank: said("fused_matmul_reduce_scatter", w, "sum", 0)):
        assert found == ["barrier aside", "product", "barrier aside", "product"]


def test_marks_of_one_use_are_events_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Event:
        def record(self, stream: Any) -> None:
            self.stream = stream

    monkeypatch.setattr(exchange, "_Event", Event)
    monkeypatch.setattr(exchange, "_Stream", lambda device, priority: "aside")
    side = exchange._Side(0)

    def use() -> list[Any]:
        one = object.__new__(exchange.Exchange)
        one._side, one._marks = side, 0
        return [one.mark() for _ in range(3)]

    first, second = use(), use()
    assert len(set(first)) == 3 and first == second  # what was made is kept
    assert all(each.stream == "aside" for each in first)


def test_what_a_kernel_cannot_do_is_left_to_torchs() -> None:
    scatter = kernels._KERNELS["fused_matmul_reduce_scatter"]
    gather = kernels._KERNELS["fused_all_gather_matmul"]
    x, w = drawn(4, 16), drawn(16, 8)
    assert on_threads(2, lambda rank: scatter(x, w, "sum", 1, "g")) == [None, None]
    assert on_threads(2, lambda rank: scatter(x, w, "max", 0, "g")) == [None, None]
    assert on_threads(2, lambda rank: scatter(x[:3], w, "sum", 0, "g")) == [None, None]
    assert on_threads(2, lambda rank: scatter(x, w[:, :1], "sum", 0, "g")) == [None, None]
    assert on_threads(2, lambda rank: gather(x, [w], 1, "g")) == [None, None]
    asked = []

    def theirs(*args: Any) -> str:
        asked.append(args)
        return "theirs"

    run = kernels._or_theirs(scatter, theirs)
    assert run(x, w, "sum", 0, "a group that did not ask") == "theirs" and len(asked) == 1


def test_the_dispatcher_asks_ours_for_groups_that_want_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if not kernels.install():
        pytest.skip("this torch has no such operators, or lets nobody override their kernels")
    operator = torch.ops.symm_mem.fused_all_gather_matmul.default
    on_cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    torch.manual_seed(0)
    shards, right = [drawn(4, 16) for _ in range(2)], drawn(16, 8)

    def run(rank: int) -> torch.Tensor:
        return operator.redispatch(on_cuda, shards[rank], [right], 0, "ours", return_A=True)[1][0]

    with pytest.raises(Exception, match="ours"):  # torch's kernel asks for a group of this name
        run(0)
    kernels.use_kernels("ours", True)
    try:
        for out in on_threads(2, run):
            torch.testing.assert_close(out, torch.cat(shards) @ right)
    finally:
        kernels.use_kernels("ours", False)


def test_the_operators_of_this_torch_are_known() -> None:
    for name, arguments in kernels._KNOWN.items():
        operator = getattr(torch.ops.symm_mem, name, None)
        if operator is None:
            pytest.skip("this torch has no such operators")
        known = [each.name for each in operator.default._schema.arguments]
        if torch.__version__ >= "2.9":
            assert known == arguments.split()


def test_kernels_of_nobody() -> None:
    with pytest.raises(ConfigError, match="kernels='ours'"):
        spfast.enable_async_tp(kernels="ours")
