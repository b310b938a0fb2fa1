"""The same edits typed by hand through the FX API, with the same metadata: no matching, no
planning, no safety.

It knows where everything is (a norm follows its all_reduce, a residual comes from the site before)
and is therefore right for these workloads alone. It is the floor that any rewriter through the
public FX API can hope for. Fake values are made by the quickest public way: one FakeTensor around
one new meta tensor; the gathered value takes over the full value that the norm had; local sizes are
computed once.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.fx as fx
from torch._higher_order_ops.auto_functionalize import auto_functionalized
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.passes.shape_prop import _extract_tensor_metadata

from ..workloads import declare_ops
from .peer import Peer, Rewrite, Setting

aten = torch.ops.aten
Collectives = tuple[Any, tuple[Any, ...]]


class _Editor:
    """Edits one graph; holds the sizes that are computed once."""

    def __init__(self, graph: fx.Graph, setting: Setting) -> None:
        self.graph, self.setting = graph, setting
        self.tp, self.group = setting.tp_size, setting.group
        self.local: Any = None
        self.mode: Any = None

    def start(self, full: FakeTensor) -> None:
        """Takes mode, device and the local row count from the first value that is scattered."""
        rows = full.shape[0]
        for size in full.shape[1:-1]:
            rows = rows * size
        self.mode, self.device = full.fake_mode, full.fake_device
        self.rows, self.hidden, self.local = rows, full.shape[-1], rows // self.tp

    def fake(self, shape: tuple[Any, ...], dtype: torch.dtype) -> FakeTensor:
        meta = torch.empty(shape, dtype=dtype, device="meta")
        return FakeTensor(self.mode, meta, self.device)

    def set(self, node: fx.Node, val: Any) -> None:
        """Gives a node another value, and its tensor_meta with it."""
        node.meta["val"] = val
        if "tensor_meta" in node.meta:
            node.meta["tensor_meta"] = _extract_tensor_metadata(val)

    def shard(self, node: fx.Node) -> None:
        """Resizes the value of an interior node to this rank's rows."""
        val = node.meta["val"]
        self.set(node, self.fake((self.local, *val.shape[-1:]), val.dtype))

    def new(self, target: Any, args: tuple[Any, ...], val: Any, like: fx.Node) -> fx.Node:
        node = self.graph.call_function(target, args)
        node.meta = like.meta.copy()
        node.meta["val"] = val
        node.meta.pop("tensor_meta", None)
        return node


def rewrite_vllm_ir(graph: fx.Graph, setting: Setting) -> int:
    """Edits a graph of ``workloads.vllm_ir``."""
    ops, edit = torch.ops.vllm, _Editor(graph, setting)
    sites = 0
    for reduced in graph.find_nodes(op="call_function", target=ops.all_reduce.default):
        if edit.mode is None:
            edit.start(reduced.meta["val"])
        x = reduced.args[0]
        dtype = reduced.meta["val"].dtype
        with graph.inserting_before(reduced):
            scattered = edit.new(
                ops.reduce_scatter.default,
                (x, 0, edit.tp, edit.group),
                edit.fake((edit.local, edit.hidden), dtype),
                reduced,
            )
        reduced.replace_all_uses_with(scattered)
        graph.erase_node(reduced)
        norm = next(iter(scattered.users))
        if norm.target is torch.ops.vllm_ir.rms_norm.default:
            full = norm.meta["val"]
            edit.shard(norm)
            normed = norm
        else:
            a, b = norm.meta["val"]
            values = (
                edit.fake((edit.local, edit.hidden), dtype),
                edit.fake((edit.local, edit.hidden), dtype),
            )
            norm.meta["val"] = values
            full = a
            for item in list(norm.users):
                if item.users:
                    edit.set(item, values[item.args[1]])
                else:
                    graph.erase_node(item)
            normed = next(i for i in norm.users if i.args[1] == 0)
        last = _shard_quant(edit, normed)
        if last is not normed:
            full = last.meta["val"]
            edit.set(last, _local_of_quant(edit, last))
        with graph.inserting_after(last):
            gathered = edit.new(ops.all_gather.default, (last, 0, edit.tp, edit.group), full, last)
        for user in [u for u in last.users if u is not gathered]:
            user.replace_input_with(last, gathered)
        sites += 1
    return sites


def _local_of_quant(edit: _Editor, last: fx.Node) -> FakeTensor:
    if last.target is operator.getitem:  # shares the value with the quant op, as any getitem
        val: FakeTensor = last.args[0].meta["val"][1]
        return val
    return edit.fake((edit.local, edit.hidden), last.meta["val"].dtype)


def _shard_quant(edit: _Editor, normed: fx.Node) -> fx.Node:
    """Resizes the quantisation after a norm, if there is one; returns the value to gather."""
    users = list(normed.users)
    if len(users) != 1:
        return normed
    user = users[0]
    if user.target is auto_functionalized:
        out = user.kwargs["result"]
        sizes = list(out.args[0])
        with edit.graph.inserting_before(out):
            sizes[0] = _local_size(edit, sizes[0])
        out.args = (sizes,)
        edit.set(out, edit.fake((edit.local, edit.hidden), out.meta["val"].dtype))
        item = next(i for i in user.users if i.args[1] == 1)
        user.meta["val"] = (None, edit.fake((edit.local, edit.hidden), item.meta["val"].dtype))
        return item
    if user.target is aten._to_copy.default and user.kwargs["dtype"] is torch.float32:
        while user.target is not aten._to_copy.default or user.meta["val"].dtype is torch.float32:
            edit.shard(user)
            user = next(iter(user.users))
        return user
    return normed


def _local_size(edit: _Editor, size: Any) -> Any:
    if not isinstance(size, fx.Node):
        return edit.local
    node = edit.graph.call_function(operator.floordiv, (size, edit.tp))
    node.meta["val"] = edit.local
    return node


def rewrite_functional(graph: fx.Graph, setting: Setting) -> int:
    """Edits a graph of ``workloads.functional`` or a captured Llama."""
    ops, edit = torch.ops._c10d_functional, _Editor(graph, setting)
    cast = torch.ops.prims.convert_element_type.default
    sites = 0
    for reduced in graph.find_nodes(op="call_function", target=ops.all_reduce.default):
        if edit.mode is None:
            edit.start(reduced.meta["val"])
        wait = next(iter(reduced.users))
        x, kind, group = reduced.args
        dtype, shape = reduced.meta["val"].dtype, (edit.local, edit.hidden)
        with graph.inserting_before(reduced):
            x = _rows_of(edit, x)
            scattered = edit.new(
                ops.reduce_scatter_tensor.default,
                (x, kind, edit.tp, group),
                edit.fake(shape, dtype),
                reduced,
            )
            arrived = edit.new(ops.wait_tensor.default, (scattered,), edit.fake(shape, dtype), wait)
        wait.replace_all_uses_with(arrived)
        graph.erase_node(wait)
        graph.erase_node(reduced)
        stream = arrived
        first = next(iter(arrived.users))
        if first.target is aten.add.Tensor:
            edit.shard(first)
            stream = first
        wide = next(u for u in stream.users if u.target is cast)
        normed = _shard_norm(edit, wide)
        full = normed.meta["val"]
        edit.shard(normed)
        _gather(edit, normed, full, group)
        sites += 1
    return sites


def _rows_of(edit: _Editor, x: fx.Node) -> fx.Node:
    """The 2D rows that a 3D value was made from, or a reshape to them."""
    if len(x.meta["val"].shape) == 2:
        return x
    source = x.args[0] if x.target is aten.reshape.default else None
    if isinstance(source, fx.Node) and len(source.meta["val"].shape) == 2:
        return source
    val = edit.fake((edit.rows, edit.hidden), x.meta["val"].dtype)
    return edit.new(aten.reshape.default, (x, [-1, edit.hidden]), val, x)


def _shard_norm(edit: _Editor, wide: fx.Node) -> fx.Node:
    """Resizes a decomposed RMSNorm but its last multiplication, which is returned."""
    edit.shard(wide)
    square = next(u for u in wide.users if u.target is aten.pow.Tensor_Scalar)
    node = square
    while node.target is not aten.rsqrt.default:
        edit.shard(node)
        node = next(iter(node.users))
    edit.shard(node)
    scaled = next(iter(node.users))
    edit.shard(scaled)
    narrow = next(iter(scaled.users))
    edit.shard(narrow)
    return next(iter(narrow.users))


def _gather(edit: _Editor, normed: fx.Node, full: FakeTensor, group: str) -> None:
    """One all_gather for all consumers: 2D for those that reshaped, 3D again for the others."""
    ops, graph = torch.ops._c10d_functional, edit.graph
    users = list(normed.users)
    dtype = normed.meta["val"].dtype
    shape = (edit.rows, edit.hidden)
    flat = len(full.shape) == 2
    with graph.inserting_after(normed):
        started = edit.new(
            ops.all_gather_into_tensor.default,
            (normed, edit.tp, group),
            full if flat else edit.fake(shape, dtype),
            normed,
        )
    with graph.inserting_after(started):
        gathered = edit.new(ops.wait_tensor.default, (started,), edit.fake(shape, dtype), normed)
    restored: fx.Node | None = None
    for user in users:
        if not flat and user.target is aten.reshape.default and len(user.meta["val"].shape) == 2:
            user.replace_all_uses_with(gathered)
            graph.erase_node(user)
            continue
        if flat:
            user.replace_input_with(normed, gathered)
            continue
        if restored is None:
            with graph.inserting_after(gathered):
                sizes = [d if isinstance(d, int) else -1 for d in full.shape]
                restored = edit.new(aten.reshape.default, (gathered, sizes), full, normed)
        user.replace_input_with(normed, restored)


def prepare(setting: Setting) -> Rewrite:
    """The edits of the setting's dialect."""
    declare_ops()
    edit = rewrite_vllm_ir if setting.dialect == "vllm_ir" else rewrite_functional

    def rewrite(graph: fx.Graph) -> int:
        return edit(graph, setting)

    return rewrite


PEER = Peer("edits by hand", prepare)
