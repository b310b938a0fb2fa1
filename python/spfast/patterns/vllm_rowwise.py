"""Which of vLLM's operators treat every token alone: its norms and its quantisations.

They serve where no pattern covers what surrounds them. A quantisation whose scale is taken over
all tokens (``dynamic_scaled_fp8_quant``) is not here: it needs them all.
"""

from __future__ import annotations

from spfast.patterns.rowwise import RowRule

__all__ = ["VLLM"]

# Operators that write to their arguments, each with the arguments that get a row for each token.
# Operators for a GPU call such an argument "result", and those for a CPU call it "out".
_WRITING = (
    ("rms_norm.default", ("result", "out")),
    ("static_scaled_fp8_quant.default", ("result",)),
    ("dynamic_per_token_scaled_fp8_quant.default", ("result", "scale")),
    ("per_token_group_fp8_quant.default", ("output_q", "output_s")),
    ("static_scaled_int8_quant.default", ("result", "out")),
    ("dynamic_scaled_int8_quant.default", ("result", "out", "scale", "azp")),
    ("per_token_group_quant_int8.default", ("output_q", "output_s")),
)

# The scales of NVFP4, where they are swizzled, lie in tiles of 128 tokens: that is how the tensor
# cores of Blackwell read them.
_TILE = 128
_SWIZZLED = "is_sf_swizzled_layout"


def _functionalized(name: str, buffers: tuple[str, ...], block: int = 1) -> tuple[RowRule, ...]:
    """The operator as either version of auto_functionalized leaves it."""
    return tuple(
        RowRule(
            f"higher_order.{version}[_C.{name}]",
            "rows",
            rows=("input",),
            buffers=buffers,
            groups="group_shape" if "static_scaled_fp8" in name else "",
            block=block,
            block_if=(_SWIZZLED,) if block > 1 else (),
        )
        for version in ("auto_functionalized", "auto_functionalized_v2")
    )


VLLM: tuple[RowRule, ...] = (
    RowRule("vllm_ir.rms_norm.default", "rows", rows=(0,)),
    RowRule("vllm_ir.fused_add_rms_norm.default", "rows", rows=(0, 1)),
    *(rule for name, buffers in _WRITING for rule in _functionalized(name, buffers)),
    *_functionalized("scaled_fp4_quant.out", ("output", "output_scale"), _TILE),
    RowRule(
        "_C.scaled_fp4_quant.default",
        "rows",
        rows=(0, "input"),
        block=_TILE,
        block_if=(2, _SWIZZLED),
    ),
)
