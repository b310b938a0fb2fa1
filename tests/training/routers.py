"""Inputs of which a narrow dtype sends each token to the experts that a wide one sends it to."""

from __future__ import annotations

import torch

from spfast.testing.models.families import SmallModel

# Of the spread of a router's logits. bfloat16 moves them by a hundredth of it.
MARGIN = 0.04
DRAWS = 400


def settled(model: SmallModel) -> torch.Tensor:
    """An input of a model; where it has routers, one of which no token is between two experts.

    A token that rounding sends elsewhere has other gradients altogether: their difference would
    say nothing of how exactly they were computed.
    """
    margins: list[float] = []

    def look(router: torch.nn.Module, _: object, found: tuple[torch.Tensor, ...]) -> None:
        logits = found[0].float()
        best = logits.topk(router.top_k + 1, dim=-1).values  # type: ignore[operator]
        margins.append(((best[:, -2] - best[:, -1]).min() / logits.std()).item())

    routers = [each for each in model.module.modules() if type(each).__name__.endswith("Router")]
    if not routers:
        return model.example(2, 64)
    hooks = [router.register_forward_hook(look) for router in routers]
    try:
        for _ in range(DRAWS):
            margins.clear()
            value = model.example(2, 8)
            with torch.no_grad():
                model.module(value)
            if min(margins) > MARGIN:
                return value
    finally:
        for hook in hooks:
            hook.remove()
    raise AssertionError(f"of {DRAWS} inputs each has a token between two experts")
