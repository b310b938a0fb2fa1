"""Right results, made wrong in one place: each is caught, at the right node, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.goldens import load_golden
from torch import fx

from bench.peers import hand_edits
from bench.workloads.catalogue import WORKLOADS
from spfast.config import SequenceParallelConfig
from spfast.verifier import Snapshot, snapshot, verify

aten, vllm, funcol = torch.ops.aten, torch.ops.vllm, torch.ops._c10d_functional


class Graph:
    """A right result that can be spoilt: nodes by name, and the edits that bugs would make."""

    def __init__(self, source: str) -> None:
        self.rank = 0
        if source == "no_first":
            golden = load_golden("no_first_rank3_static_2layer")
            self.before: Snapshot | fx.Graph = golden.before
            self.after, self.rank = golden.after, golden.tp_rank
            return
        workload = WORKLOADS[source]
        self.after = workload.build(1)
        self.before = snapshot(self.after)
        hand_edits.prepare(workload.setting)(self.after)

    def __getitem__(self, name: str) -> fx.Node:
        return next(node for node in self.after.nodes if node.name == name)

    def argument(self, name: str, place: int, value: Any) -> None:
        node = self[name]
        args = list(node.args)
        args[place] = self[value] if isinstance(value, str) and value in self else value
        node.args = tuple(args)

    def __contains__(self, name: str) -> bool:
        return any(node.name == name for node in self.after.nodes)

    def drop(self, name: str) -> None:
        """Lets the users of a node read its operand instead."""
        node = self[name]
        node.replace_all_uses_with(node.args[0])
        self.after.erase_node(node)

    def insert(self, after: str, target: Any, *args: Any, val: Any = None) -> fx.Node:
        """Puts an operator on a node, before all its other users."""
        source = self[after]
        with self.after.inserting_after(source):
            node = self.after.call_function(target, (source, *args))
        source.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node)
        node.meta["val"] = val if val is not None else self.fresh(source)
        return node

    def fresh(self, node: fx.Node, shape: tuple[int, ...] | None = None, **options: Any) -> Any:
        value = node.meta["val"]
        options.setdefault("dtype", value.dtype)
        with value.fake_mode:
            return torch.empty(value.shape if shape is None else shape, **options)

    def check(self) -> dict[str, str]:
        config = SequenceParallelConfig(tp_size=8, tp_rank=self.rank, divisibility="assume")
        return {p.node: p.reason for p in verify(self.before, self.after, config).problems}


NO_FIRST = "no_first"
IR = "vLLM IR bf16, static"
FP8 = "vLLM IR FP8 op, static"
NATIVE = "vLLM IR FP8 native, static"
PLAIN = "functional 2D, static"
HF = "functional 3D, static"
DYNAMIC = "vLLM IR FP8 op, dynamic"

Mutation = Callable[[Graph], Any]
MUTANTS: list[tuple[str, str, Mutation, str, str]] = []


def mutant(source: str, node: str, reason: str) -> Callable[[Mutation], Mutation]:
    def add(mutation: Mutation) -> Mutation:
        MUTANTS.append((mutation.__name__, source, mutation, node, reason))
        return mutation

    return add


# --- rows ---


@mutant(
    NO_FIRST,
    "fused_add_rms_norm_default_3",
    "reads rows 0:512 of 4096 in 'slice_tensor_3', but rank 3 of group 'tp:0' needs rows 1536:2048",
)
def residual_with_the_rows_of_rank_0(g: Graph) -> None:
    g.argument("slice_tensor_3", 2, 0)
    g.argument("slice_tensor_3", 3, 512)


@mutant(NO_FIRST, "fused_add_rms_norm_default_3", "reads rows 1535:2047 of 4096")
def residual_off_by_one_row(g: Graph) -> None:
    g.argument("slice_tensor_3", 2, 1535)
    g.argument("slice_tensor_3", 3, 2047)


@mutant(NO_FIRST, "fused_add_rms_norm_default_3", "reads a full value [4096, 8192] in 'arg0_1'")
def residual_not_sliced(g: Graph) -> None:
    g.drop("slice_tensor_3")


@mutant(NO_FIRST, "slice_tensor_3", "takes rows 512:512 of one rank's chunk [512, 8192]")
def residual_sliced_although_it_is_a_shard(g: Graph) -> None:
    g.argument("slice_tensor_3", 0, "reduce_scatter_default_3")


@mutant(IR, "fused_add_rms_norm_default", "reads 'reduce_scatter_default_1'")
def residual_of_another_site(g: Graph) -> None:
    g.argument("fused_add_rms_norm_default", 1, "reduce_scatter_default_1")


# --- gathers ---


@mutant(IR, "mm_default", "needs a full value, but 'rms_norm_default' is one rank's chunk")
def all_gather_dropped(g: Graph) -> None:
    g.drop("all_gather_default")


@mutant(IR, "output", "returns 'getitem_4', which is one rank's chunk [512, 8192]")
def last_all_gather_dropped(g: Graph) -> None:
    g.drop("all_gather_default_2")


@mutant(PLAIN, "output", "returns 'all_gather_into_tensor_default_2', which is an unfinished")
def last_wait_dropped(g: Graph) -> None:
    g.drop("wait_tensor_default_8")


@mutant(PLAIN, "mm_default", "'all_gather_into_tensor_default' is an unfinished collective")
def wait_dropped(g: Graph) -> None:
    g.drop("wait_tensor_default_4")


@mutant(IR, "mm_default", "which holds what 'all_reduce_default' held, where it read 'rms_norm")
def gather_of_the_wrong_value(g: Graph) -> None:
    g.argument("all_gather_default", 0, "reduce_scatter_default")


@mutant(IR, "all_gather_default", "gathers over group 'other:0' (8 ranks) one rank's chunk")
def gather_over_another_group(g: Graph) -> None:
    g.argument("all_gather_default", 3, "other:0")


@mutant(IR, "all_gather_default", "group 'tp:0' has 8 ranks by the config, not 4")
def gather_over_fewer_ranks(g: Graph) -> None:
    g.argument("all_gather_default", 2, 4)


@mutant(IR, "all_gather_default", "along dim 1, not along the tokens")
def gather_along_features(g: Graph) -> None:
    g.argument("all_gather_default", 1, 1)


@mutant(IR, "all_gather_default_3", "gathers 'all_gather_default', which every rank already holds")
def gathered_twice(g: Graph) -> None:
    val = g.fresh(g["all_gather_default"], (8 * 4096, 8192))
    g.insert("all_gather_default", vllm.all_gather.default, 0, 8, "tp:0", val=val)


@mutant(FP8, "all_gather_default", "")
def gather_before_the_quant_only_in_name(g: Graph) -> None:
    g.argument("all_gather_default", 0, "rms_norm_default")


@mutant(NATIVE, "amax_default", "needs a full value, but 'rms_norm_default' is one rank's chunk")
def per_tensor_dynamic_maximum_of_a_shard(g: Graph) -> None:
    norm = g["rms_norm_default"]
    with g.after.inserting_after(norm):
        peak = g.after.call_function(aten.amax.default, (norm,))
    peak.meta["val"] = g.fresh(norm, ())
    cast = next(user for user in norm.users if user is not peak)
    with g.after.inserting_after(cast):
        scaled = g.after.call_function(aten.div.Tensor, (cast, peak))
    scaled.meta["val"] = g.fresh(cast)
    cast.replace_all_uses_with(scaled, delete_user_cb=lambda user: user is not scaled)


# --- scatters ---


@mutant(PLAIN, "reduce_scatter_tensor_default_1", "")
def wrong_reduce_op(g: Graph) -> None:
    g.argument("reduce_scatter_tensor_default_1", 1, "avg")


@mutant(IR, "fused_add_rms_norm_default", "mixes rows of group 'other:0' with rows of group 'tp:0'")
def scatter_over_another_group(g: Graph) -> None:
    g.argument("reduce_scatter_default_1", 3, "other:0")


@mutant(IR, "reduce_scatter_default_1", "computes something that the original graph does not")
def scatter_of_the_wrong_value(g: Graph) -> None:
    g.argument("reduce_scatter_default_1", 0, "all_gather_default")


@mutant(IR, "reduce_scatter_default_1", "along dim 1")
def scatter_along_features(g: Graph) -> None:
    g.argument("reduce_scatter_default_1", 1, 1)


@mutant(IR, "reduce_scatter_default", "scatters the 4095 rows of 'slice_tensor' over 8 ranks")
def rows_that_do_not_divide(g: Graph) -> None:
    relu = g["relu_default"]
    g.insert("relu_default", aten.slice.Tensor, 0, 0, 4095, val=g.fresh(relu, (4095, 8192)))


@mutant(IR, "reduce_scatter_default_3", "reduces one rank's chunk [512, 8192]")
def scattered_twice(g: Graph) -> None:
    val = g.fresh(g["reduce_scatter_default"], (64, 8192))
    g.insert("reduce_scatter_default", vllm.reduce_scatter.default, 0, 8, "tp:0", val=val)


@mutant(HF, "reduce_scatter_tensor_default", "scatters the 1 rows of 'relu_default' over 8 ranks")
def stream_not_flattened(g: Graph) -> None:
    g.argument("reduce_scatter_tensor_default", 0, "relu_default")


# --- operators ---


@mutant(IR, "rms_norm_default", "has other literals")
def another_epsilon(g: Graph) -> None:
    g.argument("rms_norm_default", 2, 1e-6)


@mutant(
    IR,
    "fused_add_rms_norm_default",
    "needs one row for every token in 'arg2_1': a full value [8192, 1024]",
)
def matrix_for_a_weight(g: Graph) -> None:
    g.argument("fused_add_rms_norm_default", 2, "arg2_1")


@mutant(IR, "fused_add_rms_norm_default", "reads 'arg1_1', which holds what 'arg1_1' held, where")
def weight_of_another_norm(g: Graph) -> None:
    g.argument("fused_add_rms_norm_default", 2, "arg1_1")


@mutant(IR, "mm_default", "needs a full value, but 'rms_norm_default' is one rank's chunk")
def matmul_fed_a_shard(g: Graph) -> None:
    g.argument("mm_default", 0, "rms_norm_default")


@mutant(HF, "mm_default", "needs a full value, but 'mul_tensor_1' is one rank's chunk [512, 8192]")
def one_of_three_consumers_fed_a_shard(g: Graph) -> None:
    g.argument("mm_default", 0, "mul_tensor_1")


@mutant(PLAIN, "mean_dim", "of group '0' in 'pow_tensor_scalar' over dim 0")
def mean_over_tokens(g: Graph) -> None:
    g.argument("mean_dim", 1, [0])


@mutant(IR, "rms_norm_default", "reads 'reduce_scatter_default' before it is computed")
def use_before_definition(g: Graph) -> None:
    g["mm_default"].append(g["reduce_scatter_default"])


@mutant(FP8, "auto_functionalized", "to the buffer 'empty_memory_format' of shape [4096, 8192]")
def buffer_of_the_full_size(g: Graph) -> None:
    g.argument("empty_memory_format", 0, [4096, 8192])
    g["empty_memory_format"].meta["val"] = g.fresh(g["empty_memory_format"], (4096, 8192))


@mutant(HF, "reshape_default_8", "is output 0, a full value [2, 2048, 8192], where it was a full")
def three_dims_in_the_wrong_shape(g: Graph) -> None:
    g.argument("reshape_default_8", 1, [2, -1, 8192])
    g["reshape_default_8"].meta["val"] = g.fresh(g["reshape_default_8"], (2, 2048, 8192))


@mutant(IR, "mm_default_2", "holds what 'getitem_1' held, where it read 'getitem'")
def parts_of_a_norm_swapped(g: Graph) -> None:
    g.argument("getitem", 1, 1)
    g.argument("getitem_1", 1, 0)


# --- the interface ---


@mutant(IR, "output", "returns 2 values, where it returned 1")
def one_output_more(g: Graph) -> None:
    g["output"].args = ((g["all_gather_default_2"], g["all_gather_default"]),)


@mutant(IR, "output", "as output 0, which holds what 'getitem' held, where it returned 'getitem_4'")
def another_output(g: Graph) -> None:
    g["output"].args = ((g["all_gather_default_1"],),)


@mutant(IR, "arg6_1", "the graph has 7 inputs, where it had 8")
def input_lost(g: Graph) -> None:
    g["arg7_1"].replace_all_uses_with(g["arg6_1"])
    g.after.erase_node(g["arg7_1"])


# --- metadata ---


@mutant(IR, "reduce_scatter_default", "carries bfloat16[4096, 8192]")
def stale_shape(g: Graph) -> None:
    g["reduce_scatter_default"].meta["val"] = g.fresh(g["relu_default"])


@mutant(IR, "rms_norm_default", "carries float32[512, 8192]")
def stale_dtype(g: Graph) -> None:
    node = g["rms_norm_default"]
    node.meta["val"] = g.fresh(node, dtype=torch.float32)


@mutant(IR, "all_gather_default", "carries strides [1, 4096], but has [8192, 1]")
def stale_strides(g: Graph) -> None:
    node = g["all_gather_default"]
    with node.meta["val"].fake_mode:
        node.meta["val"] = torch.empty(8192, 4096, dtype=torch.bfloat16).t()


@mutant(DYNAMIC, "floordiv", "carries (s")
def stale_size(g: Graph) -> None:
    g["floordiv"].meta["val"] = g["arg0_1"].meta["val"] // 4


@mutant(IR, "all_gather_default", "has no meta['val']")
def no_value(g: Graph) -> None:
    del g["all_gather_default"].meta["val"]


@mutant(
    IR, "rms_norm_default", "shares the storage of its meta['val'] with 'reduce_scatter_default'"
)
def shared_storage(g: Graph) -> None:
    g["rms_norm_default"].meta["val"] = g["reduce_scatter_default"].meta["val"]


@mutant(FP8, "getitem", "carries float8_e4m3fn[4096, 8192]")
def item_that_is_not_what_its_tuple_holds(g: Graph) -> None:
    g["getitem"].meta["val"] = g.fresh(g["getitem"], (4096, 8192))


@pytest.mark.parametrize(
    ("source", "mutation", "node", "reason"),
    [entry[1:] for entry in MUTANTS],
    ids=[entry[0] for entry in MUTANTS],
)
def test_every_mutant_is_caught_at_its_node(
    source: str, mutation: Mutation, node: str, reason: str
) -> None:
    graph = Graph(source)
    bare = "has no meta['val']"
    assert [why for why in graph.check().values() if why != bare] == []
    mutation(graph)
    found = graph.check()
    assert node in found and reason in found[node], found
