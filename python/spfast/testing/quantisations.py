"""Stand-ins for vLLM's quantisations: plain CPU implementations, one for each of its schemas.

Every scheme is written down once, as a function of the rows. The operators write its results where
their schemas say. The layout in memory is that of a GPU; the rounding of a number need not be.
"""

from __future__ import annotations

import torch

__all__ = ["PLAIN", "WRITING", "swizzled"]

_FP8_MAX = torch.finfo(torch.float8_e4m3fn).max
_FP8_LEAST_SCALE = 1.0 / (_FP8_MAX * 512.0)
_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_FP4_GROUP = 16
_TILE = 128  # rows of a tile of swizzled scales, of which a column has four bytes


def _grouped(input: torch.Tensor, size: int) -> torch.Tensor:
    """Each row's features in groups: a dim more."""
    return input.float().reshape(*input.shape[:-1], -1, size)


def _write_fp8(result: torch.Tensor, scaled: torch.Tensor) -> None:
    result.copy_(scaled.clamp(-_FP8_MAX, _FP8_MAX).to(result.dtype))


def _write_int8(result: torch.Tensor, scaled: torch.Tensor) -> None:
    result.copy_(scaled.round().clamp(-128, 127).to(result.dtype))


# --- float8 -------------------------------------------------------------------------------------


def _dynamic_scaled_fp8_quant(
    result: torch.Tensor, input: torch.Tensor, scale: torch.Tensor
) -> None:
    """One scale of all tokens."""
    wide = input.float()
    scale.copy_((wide.abs().amax() / _FP8_MAX).clamp(min=_FP8_LEAST_SCALE))
    _write_fp8(result, wide / scale)


def _dynamic_per_token_scaled_fp8_quant(
    result: torch.Tensor,
    input: torch.Tensor,
    scale: torch.Tensor,
    scale_ub: torch.Tensor | None,
) -> None:
    wide = input.float()
    most = wide.abs().amax(dim=-1, keepdim=True)
    if scale_ub is not None:
        most = most.clamp(max=scale_ub)
    scale.copy_((most / _FP8_MAX).clamp(min=_FP8_LEAST_SCALE))
    _write_fp8(result, wide / scale)


def _per_token_group_fp8_quant(
    input: torch.Tensor,
    output_q: torch.Tensor,
    output_s: torch.Tensor,
    group_size: int,
    eps: float,
    fp8_min: float,
    fp8_max: float,
    scale_ue8m0: bool,
    dummy_is_scale_transposed: bool = False,
    dummy_is_tma_aligned: bool = False,
) -> None:
    groups = _grouped(input, group_size)
    scale = groups.abs().amax(dim=-1).clamp(min=eps) / fp8_max
    if scale_ue8m0:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    output_s.copy_(scale)
    scaled = (groups / scale.unsqueeze(-1)).clamp(fp8_min, fp8_max)
    output_q.copy_(scaled.flatten(-2).to(output_q.dtype))


# --- int8 ---------------------------------------------------------------------------------------


def _static_scaled_int8_quant(
    result: torch.Tensor, input: torch.Tensor, scale: torch.Tensor, azp: torch.Tensor | None
) -> None:
    _write_int8(result, input.float() / scale + (0 if azp is None else azp))


def _dynamic_scaled_int8_quant(
    result: torch.Tensor, input: torch.Tensor, scale: torch.Tensor, azp: torch.Tensor | None
) -> None:
    wide = input.float()
    if azp is None:
        scale.copy_(wide.abs().amax(dim=-1, keepdim=True) / 127.0)
        _write_int8(result, wide / scale)
        return
    least, most = wide.amin(dim=-1, keepdim=True), wide.amax(dim=-1, keepdim=True)
    scale.copy_((most - least) / 255.0)
    azp.copy_((-128.0 - least / scale).round().to(azp.dtype))
    _write_int8(result, wide / scale + azp)


def _per_token_group_quant_int8(
    input: torch.Tensor,
    output_q: torch.Tensor,
    output_s: torch.Tensor,
    group_size: int,
    eps: float,
    int8_min: float,
    int8_max: float,
) -> None:
    groups = _grouped(input, group_size)
    scale = groups.abs().amax(dim=-1).clamp(min=eps) / int8_max
    output_s.copy_(scale)
    scaled = (groups / scale.unsqueeze(-1)).round().clamp(int8_min, int8_max)
    output_q.copy_(scaled.flatten(-2).to(output_q.dtype))


# --- NVFP4 --------------------------------------------------------------------------------------


def swizzled(scales: torch.Tensor) -> torch.Tensor:
    """Scales as tensor cores read them.

    Args:
        scales: [rows, columns], one byte each.

    Returns:
        int32 [rows rounded up to 128, columns rounded up to 4 / 4]: tiles of 128 rows and four
        columns follow each other row by row of tiles; in a tile, row r of 32 has the four bytes of
        rows r, r + 32, r + 64 and r + 96. What is no scale is zero.

    Example:
        >>> swizzled(torch.ones(96, 4, dtype=torch.uint8)).shape
        torch.Size([128, 1])
    """
    rows, columns = scales.shape
    down, across = -(-rows // _TILE), -(-columns // 4)
    padded = scales.new_zeros(down * _TILE, across * 4)
    padded[:rows, :columns] = scales
    tiles = padded.view(down, 4, 32, across, 4).permute(0, 3, 2, 1, 4)
    return tiles.contiguous().view(down * _TILE, across * 4).view(torch.int32)


def _fp4(
    input: torch.Tensor, input_scale: torch.Tensor, is_sf_swizzled_layout: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    flat = input.reshape(-1, input.shape[-1])
    groups = _grouped(flat, _FP4_GROUP)
    wanted = input_scale.float().reshape(()) * groups.abs().amax(dim=-1) / _FP4[-1]
    scales = wanted.to(torch.float8_e4m3fn)
    back = scales.float().unsqueeze(-1) / input_scale.float().reshape(())
    scaled = torch.where(back == 0, torch.zeros_like(groups), groups / back).flatten(-2)
    levels = torch.tensor(_FP4, device=input.device)
    nearest = (scaled.abs().unsqueeze(-1) - levels).abs().argmin(dim=-1)
    codes = (nearest + 8 * scaled.signbit()).to(torch.uint8)
    packed = codes[:, 0::2] | codes[:, 1::2] << 4
    raw = scales.view(torch.uint8)
    return packed, swizzled(raw) if is_sf_swizzled_layout else raw


def _fp4_fake(
    input: torch.Tensor, input_scale: torch.Tensor, is_sf_swizzled_layout: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    width = input.shape[-1]
    rows, columns = input.numel() // width, width // _FP4_GROUP
    packed = input.new_empty((rows, width // 2), dtype=torch.uint8)
    if not is_sf_swizzled_layout:
        return packed, input.new_empty((rows, columns), dtype=torch.uint8)
    down = (rows + _TILE - 1) // _TILE * _TILE
    return packed, input.new_empty((down, (columns + 3) // 4), dtype=torch.int32)


def _fp4_out(
    input: torch.Tensor,
    input_scale: torch.Tensor,
    is_sf_swizzled_layout: bool,
    *,
    output: torch.Tensor,
    output_scale: torch.Tensor,
) -> None:
    packed, scales = _fp4(input, input_scale, is_sf_swizzled_layout)
    output.copy_(packed)
    output_scale.copy_(scales)


# --- schemas ------------------------------------------------------------------------------------

_GROUPS = "Tensor input, Tensor(a!) output_q, Tensor(b!) output_s, int group_size, float eps, "
_TO = "Tensor(a!) result, Tensor input, "
_FROM = "Tensor input, Tensor input_scale, bool is_sf_swizzled_layout"

# Of the namespace _C: what writes to its arguments, and what returns its results.
WRITING = (
    (f"dynamic_scaled_fp8_quant({_TO}Tensor(b!) scale) -> ()", _dynamic_scaled_fp8_quant),
    (
        f"dynamic_per_token_scaled_fp8_quant({_TO}Tensor(b!) scale, Tensor? scale_ub) -> ()",
        _dynamic_per_token_scaled_fp8_quant,
    ),
    (
        f"per_token_group_fp8_quant({_GROUPS}float fp8_min, float fp8_max, bool scale_ue8m0, "
        "bool dummy_is_scale_transposed=False, bool dummy_is_tma_aligned=False) -> ()",
        _per_token_group_fp8_quant,
    ),
    (
        f"static_scaled_int8_quant({_TO}Tensor scale, Tensor? azp) -> ()",
        _static_scaled_int8_quant,
    ),
    (
        f"dynamic_scaled_int8_quant({_TO}Tensor(b!) scale, Tensor(c!)? azp) -> ()",
        _dynamic_scaled_int8_quant,
    ),
    (
        f"per_token_group_quant_int8({_GROUPS}float int8_min, float int8_max) -> ()",
        _per_token_group_quant_int8,
    ),
    (
        f"scaled_fp4_quant.out({_FROM}, *, Tensor(a!) output, Tensor(b!) output_scale) -> ()",
        _fp4_out,
    ),
)
PLAIN = ((f"scaled_fp4_quant({_FROM}) -> (Tensor, Tensor)", _fp4, _fp4_fake),)
