"""All fusion passes by name."""

from __future__ import annotations

from . import activation_quant, collectives, norm_quant, qk_norm_rope
from .fusion import Fusion

FUSIONS: dict[str, Fusion] = {
    fusion.name: fusion
    for module in (norm_quant, activation_quant, collectives, qk_norm_rope)
    for fusion in module.FUSIONS
}
