"""The maker of a training step's piece: a norm before column-parallel layers, and its backward."""

from __future__ import annotations

from tests.pool.draw import Draw
from tests.pool.elementwise import Maker
from tests.pool.joins import gemm, reduced, streamlike
from tests.pool.program import V


def backward(d: Draw) -> V:
    """An RMSNorm that 1 to 3 layers read (q, k and v; gate and up), and the gradients of both."""
    x = streamlike(d)
    gain = d.input([d.hidden], d.dtype(x), differs=(), fill="gain", stem="g")
    squared = d.call("aten.pow.Tensor_Scalar", x, 2)
    mean = d.call("aten.mean.dim", squared, [-1], True)
    scale = d.call("aten.rsqrt.default", d.call("aten.add.Tensor", mean, 1e-6))
    normed = d.call("aten.mul.Tensor", x, scale)
    grad = _sent_back(d, d.call("aten.mul.Tensor", normed, gain))
    if d.chance(0.2):
        d.keep(grad)
    _of_gain(d, d.call("aten.mul.Tensor", grad, normed))
    inner = d.call("aten.mul.Tensor", grad, gain)
    into = _of_norm_by_formula if d.chance(0.5) else _of_norm_by_chain_rule
    grad = into(d, x, normed, scale, inner)
    if d.chance(0.6):  # what came past the norm, on the residual stream
        grad = d.call("aten.add.Tensor", streamlike(d), grad)
    return d.keep(grad)


def _sent_back(d: Draw, out: V) -> V:
    """The gradient of what the layers read: each sends its own, reduced by itself."""
    far = d.some_axes()
    width = d.choose([3, 4, 6])
    how = ("tp", "sum") if d.chance(0.9) else (None, None)
    total: V | None = None
    for _ in range(d.choose([1, 2, 2, 3])):
        weight = d.input([d.hidden, width], differs=far, fill="small", stem="up")
        y = gemm(d, out, weight)
        if d.chance(0.5):  # from the layer behind, through its row-parallel product
            down = d.input([d.hidden, width], differs=far, fill="small", stem="down")
            grad = d.call("aten.mul.Tensor", gemm(d, streamlike(d), down), y)
        else:
            grad = d.input((*d.rows, width), d.dtype(y), differs=far, stem="grad")
        if d.chance(0.5):
            d.keep(_of_weight(d, out, grad))
        sent = reduced(d, gemm(d, grad, d.call("aten.t.default", weight)), *how)
        total = sent if total is None else d.call("aten.add.Tensor", total, sent)
    assert total is not None
    return total


def _of_weight(d: Draw, out: V, grad: V) -> V:
    """A product that contracts over the tokens."""
    flat = [_flat(d, each) for each in (out, grad)]
    return d.call("aten.mm.default", d.call("aten.t.default", flat[0]), flat[1])


def _flat(d: Draw, x: V) -> V:
    return x if d.dims(x) == 2 else d.call("aten.view.default", x, [-1, d.size(x, -1)])


def _of_gain(d: Draw, product: V) -> None:
    """A sum over the tokens."""
    lead = list(range(len(d.rows)))
    if d.chance(0.3):
        d.keep(d.call("aten.sum.dim_IntList", product, lead))
        return
    total = d.call("aten.sum.dim_IntList", product, lead, True)
    d.keep(d.call("aten.view.default", total, [d.hidden]))


def _of_norm_by_formula(d: Draw, x: V, normed: V, scale: V, grad: V) -> V:
    mean = d.call("aten.mean.dim", d.call("aten.mul.Tensor", grad, normed), [-1], True)
    rest = d.call("aten.sub.Tensor", grad, d.call("aten.mul.Tensor", normed, mean))
    return d.call("aten.mul.Tensor", rest, scale)


def _of_norm_by_chain_rule(d: Draw, x: V, normed: V, scale: V, grad: V) -> V:
    """As autograd leaves it."""
    total = d.call("aten.sum.dim_IntList", d.call("aten.mul.Tensor", grad, x), [-1], True)
    half = d.call("aten.mul.Scalar", total, -0.5)
    cubed = d.call("aten.pow.Tensor_Scalar", scale, 3)
    shape = [*d.rows_operand(), d.hidden]
    wide = d.call("aten.expand.default", d.call("aten.mul.Tensor", half, cubed), shape)
    mean = d.call("aten.div.Scalar", wide, d.hidden)
    double = d.call("aten.mul.Scalar", d.call("aten.pow.Tensor_Scalar", x, 1.0), 2.0)
    direct = d.call("aten.mul.Tensor", grad, scale)
    return d.call("aten.add.Tensor", direct, d.call("aten.mul.Tensor", mean, double))


MAKERS: tuple[tuple[float, Maker], ...] = ((2, backward),)
__all__ = ["MAKERS", "backward"]
