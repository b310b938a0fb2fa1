"""`spfast.pattern_matcher` in place of `torch._inductor.pattern_matcher`, in a pass of your own.

    python examples/drop_in_matcher.py

Only the import differs: a pass that is written for torch's matcher runs on it as it is.
"""

import torch

from spfast import pattern_matcher as pm  # was: import torch._inductor.pattern_matcher as pm


def search(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.relu(x @ weight)


def replacement(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (x @ weight).clamp(min=0)


rules = pm.PatternMatcherPass(pass_name="example")
pm.register_replacement(
    search, replacement, [torch.empty(8, 4), torch.empty(4, 4)], pm.fwd_only, rules
)


def own_pass(graph: torch.fx.Graph) -> None:
    """What Inductor calls with each graph."""
    print(f"{rules.apply(graph)} replaced")


def model(x: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
    for weight in weights:
        x = torch.relu(x @ weight)
    return x


def main() -> None:
    torch.manual_seed(0)
    x, weights = torch.randn(16, 4), [torch.randn(4, 4) for _ in range(8)]
    expected = model(x, weights)
    with torch._inductor.config.patch(post_grad_custom_pre_pass=own_pass, fx_graph_cache=False):
        found = torch.compile(model)(x, weights)
    torch.testing.assert_close(found, expected)
    print("outputs agree")


if __name__ == "__main__":
    main()
