"""A pair stays where it must, is said why, and whatever is raised leaves the graph as it was."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from async_tp.forms import RANKS, Body, Pairs, build, gathered, scattered
from async_tp.test_forms import CONFIG, fuse
from support.faults import at_each_edit
from torch import fx

import spfast
from spfast.testing import async_tp_stand_in
from spfast.thresholds import DEFAULT_PAIR_THRESHOLDS, DeviceKind, PairThreshold, pair_obstacle

aten = torch.ops.aten
c10d = torch.ops._c10d_functional


def last_gather(b: Pairs) -> Any:
    return b.gather(b.shard("x"))


def sum_of_no_product(b: Pairs) -> Any:
    return b.scatter(b.call(aten.relu.default, b.whole("x")))


def sum_of_what_is_made_of_a_product(b: Pairs) -> Any:
    return b.scatter(b.call(aten.relu.default, b.mm(b.whole("x"), b.weight("w"))))


def sum_of_more_rows_than_a_product_has(b: Pairs) -> Any:
    rows = b.call(aten.slice.Tensor, b.mm(b.whole("x"), b.weight("w")), 0, 0, RANKS)
    return b.scatter(b.call(aten.constant_pad_nd.default, rows, [0, 0, 0, RANKS]))


def product_read_twice(b: Pairs) -> Any:
    product = b.mm(b.whole("x"), b.weight("w"))
    return b.scatter(product), b.call(aten.relu.default, product)


def _two_products(b: Pairs) -> tuple[fx.Node, ...]:
    return tuple(b.mm(b.whole(x, 24), b.weight(w, 24)) for x, w in (("x", "w"), ("y", "u")))


def sum_of_wide_and_narrow_products(b: Pairs) -> Any:
    one = b.mm(b.whole("x", 48), b.weight("w", 48))
    other = b.mm(b.whole("y", 16), b.weight("u", 16))
    return b.scatter(b.call(aten.add.Tensor, one, other))


def wide_sum_of_wide_products(b: Pairs) -> Any:
    cast = torch.ops.prims.convert_element_type.default
    one, other = (b.mm(b.whole(x), b.weight(w)) for x, w in (("x", "w"), ("y", "u")))
    total = b.call(cast, b.call(aten.add.Tensor, one, other), torch.float64)
    return b.call(cast, b.scatter(total), b.dtype)


def sum_with_a_residual(b: Pairs) -> Any:
    product, _ = _two_products(b)
    return b.scatter(b.call(aten.add.Tensor, product, b.whole("r", 48)))


def sum_scaled(b: Pairs) -> Any:
    one, other = _two_products(b)
    return b.scatter(b.call(aten.add.Tensor, one, other, alpha=2))


def sum_read_twice(b: Pairs) -> Any:
    total = b.call(aten.add.Tensor, *_two_products(b))
    return b.scatter(total), b.call(aten.relu.default, total)


def sum_of_a_product_read_twice(b: Pairs) -> Any:
    one, other = _two_products(b)
    return b.scatter(b.call(aten.add.Tensor, one, other)), b.call(aten.relu.default, other)


def sum_written_to(b: Pairs) -> Any:
    one, other = _two_products(b)
    b.call(aten.relu_.default, other.args[0])
    return b.scatter(b.call(aten.add.Tensor, one, other))


def largest(b: Pairs) -> Any:
    return b.scatter(b.mm(b.whole("x"), b.weight("w")), "max")


def with_addend(b: Pairs) -> Any:
    bias = b.placeholder("bias", (48,), b.dtype)
    return b.scatter(b.call(aten.addmm.default, bias, b.whole("x"), b.weight("w")))


def contracted(b: Pairs) -> Any:
    """Only dW = X^T dY reads it: tokens are what is summed over."""
    x = b.gather(b.shard("x"))
    dy = b.placeholder("dy", (32, 8), b.dtype, "per_rank")
    return b.mm(b.call(aten.permute.default, x, [1, 0]), dy)


def wider(b: Pairs) -> Any:
    x = b.gather(b.shard("x", dtype=torch.bfloat16))
    cast = torch.ops.prims.convert_element_type.default
    return b.mm(b.call(cast, x, torch.float32), b.weight("w"))


def transposed_rows(b: Pairs) -> Any:
    rows = b.placeholder("x", (32, 16), b.dtype, "per_rank")
    return b.mm(b.gather(b.call(aten.permute.default, rows, [1, 0])), b.weight("w"))


def written(b: Pairs) -> Any:
    x, weight = b.whole("x"), b.weight("w")
    product = b.mm(x, weight)
    b.call(aten.relu_.default, x)
    return b.scatter(product)


def unread_wait(b: Pairs) -> Any:
    call = b.call(c10d.reduce_scatter_tensor.default, b.whole("x"), "sum", RANKS, "0")
    both = b.call(c10d.wait_tensor.default, call), b.call(c10d.wait_tensor.default, call)
    return both


LEFT: dict[Body, str] = {
    last_gather: "no matrix product reads what it gathers",
    sum_of_no_product: "what it sums is no matrix product",
    sum_of_what_is_made_of_a_product: "what it sums is no matrix product",
    sum_of_more_rows_than_a_product_has: "what it sums is no matrix product",
    product_read_twice: "its product is read elsewhere, too",
    sum_of_wide_and_narrow_products: (
        "joining its products would copy more than it hides, and one is too small to hide one"
    ),
    wide_sum_of_wide_products: "its product is cast before it is summed",
    sum_with_a_residual: "what it sums is no sum of plain matrix products",
    sum_scaled: "what it sums is no matrix product",
    sum_read_twice: "its product is read elsewhere, too",
    sum_of_a_product_read_twice: "its product is read elsewhere, too",
    sum_written_to: "'y', which it reads, is written to in place",
    largest: "its reduce op is max, and a fused operator has sum and avg",
    with_addend: "its product has an addend, which is summed over the ranks, too",
    contracted: "no matrix product reads what it gathers",
    wider: "no matrix product reads what it gathers",
    transposed_rows: "the rows that it gathers do not lie one after the other",
    written: "'x', which it reads, is written to in place",
    unread_wait: "its unfinished result is read by something else than one wait",
}


def picture(graph: fx.Graph) -> Any:
    nodes = list(graph.nodes)
    return (
        [(node.name, str(node.args), str(node.kwargs), [*node.users]) for node in nodes],
        [{key: id(value) for key, value in node.meta.items()} for node in nodes],
        (len(graph.nodes), set(graph._graph_namespace._used_names)),
        {key: list(found) for key, found in graph._find_nodes_lookup_table.table.items() if found},
    )


@pytest.mark.parametrize("body", LEFT, ids=lambda body: body.__name__)
def test_it_stays_and_is_said_why(body: Body) -> None:
    graph = build(body).graph
    before = picture(graph)
    found = fuse(graph)
    assert found.fused == () and [pair.reason for pair in found.left] == [LEFT[body]]
    assert picture(graph) == before


@pytest.mark.parametrize("body", [gathered, scattered])
def test_without_a_group_it_stays(body: Body) -> None:
    graph = build(body).graph
    found = spfast.apply(graph, CONFIG).async_tp
    assert found is not None and not found.fused
    assert (
        found.left[0].reason
        == "process group '0' is not known to torch.distributed in this process"
    )


def test_rows_that_are_no_multiple_stay() -> None:
    b = Pairs()
    x = b.placeholder("x", (15, 32), torch.float32, "per_rank")
    product = b.mm(x, b.weight("w"))
    scatter = b.graph.call_function(
        c10d.reduce_scatter_tensor.default, (product, "sum", RANKS, "0")
    )
    scatter.meta["val"] = product.meta["val"].new_empty(7, 48)
    wait = b.graph.call_function(c10d.wait_tensor.default, (scatter,))
    wait.meta["val"] = scatter.meta["val"].new_empty(7, 48)
    b.output([wait])
    (left,) = fuse(b.graph).left
    assert left.reason == "the 15 rows of its product are no multiple of 2 ranks"


def test_an_operator_that_is_not_there_is_never_called(monkeypatch: pytest.MonkeyPatch) -> None:
    from spfast.async_tp import operators

    monkeypatch.setattr(operators, "fused_operator", lambda name: None)
    for body, name in ((gathered, "fused_all_gather_matmul"), (scattered, "fused_matmul_reduce")):
        (left,) = fuse(build(body).graph).left
        assert left.reason.startswith(f"this torch has no operator symm_mem.{name}")


# "2.9.1" is what torch 2.9.1, 2.10.0, 2.13.0, 2.14.1 and 2.15.0 declare; the others are not.
SCHEMAS = {
    "numbers alone": "(Tensor A, Tensor B, Tensor A_scale, Tensor B_scale, str reduce_op, "
    "int orig_scatter_dim, int scatter_dim_after_maybe_reshape, str group_name, "
    "int[]? output_shape, Tensor? bias = None, Tensor? result_scale = None, "
    "ScalarType? out_dtype = None, bool use_fast_accum = False) -> Tensor",
    "2.9.1": "(Tensor A, Tensor B, Tensor A_scale, Tensor B_scale, str reduce_op, "
    "int orig_scatter_dim, int scatter_dim_after_maybe_reshape, str group_name, "
    "SymInt[]? output_shape, Tensor? bias = None, Tensor? result_scale = None, "
    "ScalarType? out_dtype = None, bool use_fast_accum = False) -> Tensor",
    "older": "(Tensor A, Tensor B, Tensor A_scale, Tensor B_scale, str reduce_op, "
    "int scatter_dim, str group_name, Tensor? bias = None) -> Tensor",
    "other": "(Tensor A, Tensor B, Tensor A_scale, Tensor B_scale, str reduce_op, "
    "int orig_scatter_dim, int scatter_dim_after_maybe_reshape, str group_name, "
    "SymInt[]? output_shape, int chunks, ScalarType? out_dtype = None, "
    "bool use_fast_accum = False) -> Tensor",
}


@pytest.mark.parametrize("torch_version", SCHEMAS)
def test_the_schema_decides(torch_version: str) -> None:
    from spfast.async_tp.operators import _SCALED_SCATTER, layout, takes_symbols

    name = f"scatter_{torch_version.replace('.', '_').replace(' ', '_')}"
    make: Any = torch.library.Library
    library = make("spfast_schemas", "FRAGMENT")
    library.define(name + SCHEMAS[torch_version])
    target = getattr(torch.ops.spfast_schemas, name).default
    fits = layout(target, _SCALED_SCATTER) is not None
    assert fits is (torch_version in ("numbers alone", "2.9.1"))
    assert takes_symbols(target, "output_shape") is (torch_version in ("2.9.1", "other"))


def test_thresholds_say_what_was_measured() -> None:
    hopper = DeviceKind("cuda", (9, 0))
    assert pair_obstacle(hopper, 2, 8192, 4096) == ""
    assert pair_obstacle(hopper, 1, 8192, 8192) == ""
    assert pair_obstacle(hopper, 2, 2048, 8192) == ""
    assert pair_obstacle(hopper, 1, 16384, 4096) == ""
    # The more features, the fewer tokens: the row that allows least says why.
    assert "8192 is below 16384" in pair_obstacle(hopper, 1, 8192, 4096)
    assert "2048 is below 4096" in pair_obstacle(hopper, 2, 2048, 4096)
    assert "hidden size of 2048 is below 4096" in pair_obstacle(hopper, 1, 16384, 2048)
    assert "nobody measured" in pair_obstacle(DeviceKind("cuda", (10, 0)), 2, 8192, 8192)
    assert pair_obstacle(DeviceKind("cpu"), 2, 1, 1, ()) == ""
    assert all(row.device == "cuda" for row in DEFAULT_PAIR_THRESHOLDS)


def test_below_the_threshold_a_pair_stays() -> None:
    rows = (PairThreshold("cpu", 4, min_tokens=17, min_hidden_size=1),)
    for body, reason in ((scattered, "a token count of 16 is below 17"), (gathered, "")):
        found = fuse(build(body).graph, async_tp_thresholds=rows)
        assert [pair.reason.split(",")[0] for pair in found.left] == [reason] * bool(reason)
        assert len(found.fused) == (not reason)


def test_a_fault_at_each_edit_leaves_the_graph_as_it_was() -> None:
    from async_tp.forms import scales_by_row, several_readers, through_views

    for body in (several_readers, through_views, scales_by_row):
        graph = build(body).graph
        assert at_each_edit(partial(fuse, graph), partial(picture, graph)) > 5


def test_a_product_between_two_collectives_hides_the_gather() -> None:
    b = Pairs()
    b.output([b.scatter(b.mm(b.gather(b.shard("x")), b.weight("w")))])
    found = fuse(b.graph)
    assert [pair.operator for pair in found.fused] == ["fused_all_gather_matmul"]
    assert [pair.reason for pair in found.left] == ["its product hides an all_gather already"]


def test_explain_says_it_and_changes_nothing() -> None:
    graph = build(gathered).graph
    before = picture(graph)
    with async_tp_stand_in():
        text = str(spfast.explain(graph, CONFIG))
    assert "1 pairs fused, 0 left" in text and "as fused_all_gather_matmul" in text
    assert picture(graph) == before


def test_a_node_without_a_value_is_no_matter_where_nothing_depends_on_it() -> None:
    b = Pairs()
    part = b.mm(b.whole("x"), b.weight("w"))
    b.output([b.scatter(part)])
    for node in part.args:
        del node.meta["val"]  # type: ignore[union-attr]
    assert len(fuse(b.graph).fused) == 1
    again = build(scattered).graph
    for node in again.nodes:
        node.meta.pop("val", None)
    (left,) = fuse(again).left
    assert left.reason == "the shape of what it moves is not known"
