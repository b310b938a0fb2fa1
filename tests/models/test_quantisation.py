"""vLLM's quantisations of each token: made on a rank's rows, and gathered as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import fx

import spfast
from spfast import SequenceParallelConfig
from spfast.patterns import RowRule, default_registry
from spfast.testing import assert_same, clone_inputs, copy_graph, ops, run_lockstep, run_ranks
from spfast.testing.builder import GraphBuilder
from spfast.verifier import snapshot, verify

from .cpu_operators import int8
from .quantised_layers import PER_TOKEN, SWIZZLED, WIDTH, column_major, layer, per_tensor, static

RANKS = 4
GATHER = torch.ops.vllm.all_gather.default
aten, c10d = torch.ops.aten, torch.ops._c10d_functional
INT8, BFLOAT16 = ("torch.int8", True), ("torch.bfloat16", True)
WIDE = (torch.bfloat16, torch.float16)


def config(rank: int, **fields: Any) -> SequenceParallelConfig:
    return SequenceParallelConfig(tp_size=RANKS, tp_rank=rank, **fields)


def inputs(build: GraphBuilder, tokens: int) -> list[list[Any]]:
    return [[spec.make(rank, tokens, 0) for spec in build.inputs] for rank in range(RANKS)]


def gathered(graph: fx.Graph) -> list[torch.dtype]:
    """Of what is as wide as the stream or half of it; beside it, a few numbers of each token."""
    values = [
        node.args[0].meta["val"] for node in graph.find_nodes(op="call_function", target=GATHER)
    ]
    return [value.dtype for value in values if value[0].numel() >= WIDTH // 2]


def rewritten(build: GraphBuilder, tokens: int, **fields: Any) -> fx.Graph:
    """Both sites are, it is proved, and every rank computes what it computed; rank 0's graph."""
    graphs = [copy_graph(build.graph) for _ in range(RANKS)]
    for rank, graph in enumerate(graphs):
        result = spfast.apply(graph, config(rank, **fields))
        assert (result.matched_count, result.skipped) == (2, ()), result
        graph.lint()
        proof = verify(snapshot(build.graph), graph, config(rank, **fields))
        assert proof, proof
    given = inputs(build, tokens)
    groups = {"tp:0": tuple(range(RANKS))}
    before = run_lockstep([build.graph] * RANKS, [clone_inputs(g) for g in given], groups=groups)
    after = run_lockstep(graphs, [clone_inputs(g) for g in given], groups=groups)
    for rank, (expected, found) in enumerate(zip(before, after, strict=True)):
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            raw = [each.contiguous().view(torch.uint8) for each in (one, other)]
            assert raw[0].equal(raw[1]), (rank, index)
    return graphs[0]


@pytest.mark.parametrize("name", PER_TOKEN)
@pytest.mark.parametrize("dynamic", [False, True])
def test_what_is_made_of_each_token_is_gathered_quantised(name: str, dynamic: bool) -> None:
    graph = rewritten(layer(PER_TOKEN[name], 8, dynamic), 8)
    found = gathered(graph)
    assert len(found) == 2 and not {*WIDE} & {*found}, found


@pytest.mark.parametrize("name", PER_TOKEN)
def test_where_quantised_values_are_not_to_be_gathered(name: str) -> None:
    graph = rewritten(layer(PER_TOKEN[name], 8), 8, gather_quantized=False)
    assert gathered(graph) == [torch.bfloat16] * 2


@pytest.mark.parametrize("name", SWIZZLED)
def test_swizzled_scales_are_gathered_where_each_rank_has_whole_tiles(name: str) -> None:
    graph = rewritten(layer(SWIZZLED[name], 128 * RANKS), 128 * RANKS)
    assert gathered(graph) == [torch.uint8] * 2
    assert len(graph.find_nodes(op="call_function", target=GATHER)) == 4


@pytest.mark.parametrize("name", SWIZZLED)
@pytest.mark.parametrize(
    ("tokens", "dynamic", "named"), [(64 * RANKS, False, "[256]"), (128 * RANKS, True, "[s")]
)
def test_swizzled_scales_of_parts_of_tiles_are_made_of_all_tokens(
    name: str, tokens: int, dynamic: bool, named: str
) -> None:
    build = layer(SWIZZLED[name], tokens, dynamic)
    assert gathered(rewritten(build, tokens)) == [torch.bfloat16] * 2
    for entry in spfast.explain(build.graph, config(0)).entries:
        assert "lays its result out in blocks of 128 tokens, and a rank's share of " in str(entry)
        assert f"{named}" in str(entry) and "is not known to be whole blocks" in str(entry)


def test_the_verifier_knows_tiles_by_itself() -> None:
    build = layer(SWIZZLED["plain"], 64 * RANKS)
    registry = default_registry().copy()
    careless = RowRule("_C.scaled_fp4_quant.default", "rows", rows=(0,))
    registry.register_rowwise(careless, replace=True)
    graph = copy_graph(build.graph)
    spfast.apply(graph, config(1), registry=registry)
    assert torch.int32 in {
        node.args[0].meta["val"].dtype
        for node in graph.find_nodes(op="call_function", target=GATHER)
    }
    proof = verify(snapshot(build.graph), graph, config(1))
    assert not proof and "needs whole blocks of 128 rows" in str(proof)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("schema", "as_is", "told"),
    [
        ("Tensor! result, Tensor input, Tensor! scale, Tensor!? azp", INT8, INT8),
        ("Tensor! out, Tensor input, Tensor! scale, Tensor!? azp", INT8, INT8),
        ("Tensor! other, Tensor input, Tensor! scale, Tensor!? azp", BFLOAT16, (INT8[0], False)),
        ("Tensor! scale, Tensor input, Tensor! out, Tensor!? azp", (INT8[0], False), None),
    ],
)
def test_int8_by_the_names_of_a_gpu_or_a_cpu_and_by_no_others(
    schema: str, as_is: tuple[str, bool], told: tuple[str, bool] | None, version: int
) -> None:
    """The verifier trusts no rule: it asks the operator's own schema what is written, in order."""
    (found,) = run_ranks(int8, 1, (schema, version))
    assert found == {"as is": as_is, "told": told or as_is}


def test_a_scale_of_all_tokens_is_never_one_ranks_alone() -> None:
    assert gathered(rewritten(layer(per_tensor, 8), 8)) == [torch.bfloat16] * 2


def test_scales_that_lie_column_by_column_are_made_of_all_tokens() -> None:
    assert gathered(rewritten(layer(column_major, 8), 8)) == [torch.bfloat16] * 2


@pytest.mark.parametrize(
    ("group", "scales", "dtype"),
    [
        (None, 1, torch.float8_e4m3fn),
        ([-1, -1], 1, torch.float8_e4m3fn),  # as vLLM writes it
        ([-1, 1], WIDTH, torch.float8_e4m3fn),
        ([1, -1], WIDTH, torch.bfloat16),  # one a token, of as many tokens as features
    ],
)
def test_static_scales_are_the_same_for_every_token_or_not(
    group: list[int] | None, scales: int, dtype: torch.dtype
) -> None:
    build = layer(static(group, scales), WIDTH)
    assert gathered(rewritten(build, WIDTH)) == [dtype] * 2


def scaled_back(read_in_full: bool) -> GraphBuilder:
    """The scale of each token is read again behind the next all_reduce, where rows are cut."""
    build = GraphBuilder(8, False)
    x = build.placeholder("x", (8, WIDTH), torch.bfloat16, "per_rank")
    y = build.placeholder("y", (8, WIDTH), torch.bfloat16, "per_rank")
    weight = build.placeholder("weight", (WIDTH,), torch.bfloat16, "gain")
    reduced = build.call(torch.ops.vllm.all_reduce.default, x, "tp:0")
    normed = build.call(torch.ops.vllm_ir.rms_norm.default, reduced, weight, 1e-6)
    quantised, scale = PER_TOKEN["fp8 per token, v1"](build, normed, weight)
    second = build.call(torch.ops.vllm.all_reduce.default, y, "tp:0")
    scaled = build.call(torch.ops.aten.mul.Tensor, second, scale)
    back = build.call(torch.ops.prims.convert_element_type.default, scaled, torch.bfloat16)
    last = build.call(torch.ops.vllm_ir.rms_norm.default, back, weight, 1e-6)
    build.output([quantised, last, *([scale] if read_in_full else [])])
    return build


@pytest.mark.parametrize("read_in_full", [False, True])
def test_a_scale_whose_reader_takes_a_ranks_rows_is_not_gathered_for_it(read_in_full: bool) -> None:
    graph = rewritten(scaled_back(read_in_full), 8)
    values = [
        node.args[0].meta["val"] for node in graph.find_nodes(op="call_function", target=GATHER)
    ]
    assert [value.shape[-1] for value in values].count(1) == int(read_in_full)
    assert len(values) == 2 + int(read_in_full)
    (multiply,) = graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor)
    assert "all_gather" not in str(multiply.args), "it reads its own rows"


def run_nvfp4(rank: int, world_size: int) -> list[tuple[str, int]]:
    """Each form of NVFP4 on a real rank; raises where an output differs."""
    ops.declare()
    ops.register_group("tp:0", dist.group.WORLD)
    counts = []
    tokens = 128 * world_size
    for name, quantise in SWIZZLED.items():
        build = layer(quantise, tokens)
        graph = copy_graph(build.graph)
        found = spfast.apply(graph, config(rank)).matched_count
        counts.append((name, found))
        given = [spec.make(rank, tokens, 0) for spec in build.inputs]
        one, other = (
            fx.Interpreter(fx.GraphModule(torch.nn.Module(), each)).run(*clone_inputs(given))
            for each in (build.graph, graph)
        )
        assert_same(other, one, 0.0, f"{name} on rank {rank}")
    return counts


def test_nvfp4_on_four_real_ranks() -> None:
    """First and Middle; whoever took the first rank's rows everywhere would fail on the others."""
    for counts in run_ranks(run_nvfp4, RANKS):
        assert counts == [(name, 2) for name in SWIZZLED]


def test_limits_that_are_inputs_of_the_graph() -> None:
    """As torch.compile(dynamic=True) makes of a float that is an attribute, or a global."""
    build = GraphBuilder(8, False)
    x = build.placeholder("x", (8, WIDTH), torch.float32, "per_rank")
    limit = build.placeholder("limit", (), torch.float64, "constant", 448.0)
    scale = build.placeholder("scale", (1,), torch.float32, "constant", 0.02)
    matrix = build.placeholder("matrix", (WIDTH, 4), torch.float32)
    minus = build.call(aten.full.default, [], -1.0, dtype=torch.float64, device="cpu")
    lowest, highest = (
        build.call(aten._to_copy.default, each, dtype=torch.float32)
        for each in (build.call(aten.mul.Tensor, minus, limit), limit)
    )
    reduced = build.call(
        c10d.wait_tensor.default, build.call(c10d.all_reduce.default, x, "sum", "0")
    )
    normed = build.call(aten.rms_norm.default, reduced, [WIDTH], None, 1e-6)
    scaled = build.call(aten.div.Tensor, normed, scale)
    above = build.call(aten.clamp_min.Tensor, scaled, lowest)
    clamped = build.call(aten.clamp_max.Tensor, above, highest)
    quantised = build.call(aten._to_copy.default, clamped, dtype=torch.float8_e4m3fn)
    wide = build.call(aten._to_copy.default, quantised, dtype=torch.float32)
    build.output([build.call(aten.mm.default, wide, matrix)])
    graphs = [copy_graph(build.graph) for _ in range(RANKS)]
    for rank, graph in enumerate(graphs):
        assert int(spfast.apply(graph, config(rank, validate=True))) == 1
        (gather,) = graph.find_nodes(op="call_function", target=c10d.all_gather_into_tensor.default)
        assert gather.args[0].meta["val"].dtype == torch.float8_e4m3fn
    given = inputs(build, 8)
    before = run_lockstep([build.graph] * RANKS, [clone_inputs(g) for g in given])
    after = run_lockstep(graphs, given)
    assert all(one[0].equal(other[0]) for one, other in zip(before, after, strict=True))
