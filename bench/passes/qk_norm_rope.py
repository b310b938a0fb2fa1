"""The norms of query and key heads followed by the rotary embedding, as one op on qkv."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch._higher_order_ops.auto_functionalize import auto_functionalized

from .fusion import EPSILONS, HIDDEN, Fusion, Rule, empty
from .norm_quant import Norm
from .ops import BF16, declare

ops, aten = declare(), torch.ops.aten
HEAD, Q_HEADS, KV_HEADS = 128, 32, 8
Q, KV = HEAD * Q_HEADS, HEAD * KV_HEADS


class QKNormRope:
    """split -> rms_norm by head of q and k -> rotary embedding."""

    def __init__(self, epsilon: float, is_neox: bool) -> None:
        self.epsilon, self.is_neox = epsilon, is_neox
        self.norm = Norm(epsilon, False)

    def by_head(self, x: Any, weight: Any) -> Any:
        heads = x.view(x.shape[0], x.shape[1] // HEAD, HEAD)
        normed, _ = self.norm(torch.empty(heads.shape, dtype=heads.dtype), heads, None, weight)
        return normed.view(x.shape)

    def pattern(
        self, qkv: Any, positions: Any, q_weight: Any, k_weight: Any, cos_sin_cache: Any
    ) -> Any:
        q, k, v = aten.split_with_sizes.default(qkv, [Q, KV, KV], -1)
        rotated = auto_functionalized(
            ops.rotary_embedding.default,
            positions=positions,
            query=self.by_head(q, q_weight),
            key=self.by_head(k, k_weight),
            head_size=HEAD,
            cos_sin_cache=cos_sin_cache,
            is_neox=self.is_neox,
        )
        return rotated[1], rotated[2], v

    def replacement(
        self, qkv: Any, positions: Any, q_weight: Any, k_weight: Any, cos_sin_cache: Any
    ) -> Any:
        done = auto_functionalized(
            ops.fused_qk_norm_rope.default,
            qkv=qkv,
            num_heads_q=Q_HEADS,
            num_heads_kv=KV_HEADS,
            head_dim=HEAD,
            eps=self.epsilon,
            q_weight=q_weight,
            k_weight=k_weight,
            cos_sin_cache=cos_sin_cache,
            is_neox=self.is_neox,
            positions=positions,
        )
        return aten.split_with_sizes.default(done[1], [Q, KV, KV], -1)

    def inputs(self) -> list[Any]:
        cache = empty(4096, HEAD)
        positions = torch.empty(5, dtype=torch.int64)
        return [empty(5, Q + 2 * KV), positions, empty(HEAD), empty(HEAD), cache]


def _rules(layers: int) -> Iterator[Rule]:
    for epsilon in EPSILONS:
        for is_neox in (True, False):
            fused = QKNormRope(epsilon, is_neox)
            yield Rule(fused.pattern, fused.replacement, fused.inputs)


def _layer(rows: Any, x: Any, up: Any, q_weight: Any, k_weight: Any, cache: Any, down: Any) -> Any:
    positions = torch.arange(rows)
    fused = QKNormRope(EPSILONS[0], True)
    q, k, v = fused.pattern(aten.mm(x, up), positions, q_weight, k_weight, cache)
    gate = aten.sum(aten.mul(k, v), [1], True)
    return aten.mm(aten.mul(q, gate), down)


FUSIONS = (
    Fusion(
        "qk_norm + rope",
        _rules,
        _layer,
        (
            ((HIDDEN, Q + 2 * KV), BF16),
            ((HEAD,), BF16),
            ((HEAD,), BF16),
            ((4096, HEAD), BF16),
            ((Q, HIDDEN), BF16),
        ),
    ),
)
