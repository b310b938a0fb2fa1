"""What is measured: a training step or a prefill, of a model of some shape."""

from __future__ import annotations

from dataclasses import dataclass

from spfast.testing.models.dtensor import Sizes

STEPS = ("training", "prefill", "float8")


@dataclass(frozen=True)
class Case:
    """One model and what is done with it.

    Attributes:
        name: As the table calls it.
        sizes: Of the decoder, which has no vocabulary here.
        step: "training" is forward and backward, "prefill" a forward, both of DTensor's decoder;
            "float8" a forward with static float8 products.
        tokens: Of one sample.
        dtype: Of weights and values.
        device: "cuda" or "cpu".
        iterations: Rounds that are timed; each contender does one step a round.
    """

    name: str
    sizes: Sizes
    step: str = "training"
    tokens: int = 8192
    dtype: str = "bfloat16"
    device: str = "cuda"
    iterations: int = 15


SHAPES = {
    "8B-shaped, 8 layers": Sizes(4096, 14336, 32, 8, layers=8),
    "70B-shaped, 4 layers": Sizes(8192, 28672, 64, 8, layers=4),
}
CASES = tuple(Case(name, sizes, step) for step in STEPS for name, sizes in SHAPES.items())
