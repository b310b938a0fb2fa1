"""A norm of your own, made known to spfast by one plain function.

    python examples/own_rule.py

Without the rule the all_reduce in front of the norm stays, and the reason names the operator.
"""

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol

import spfast
from spfast.patterns import ops, register
from spfast.testing.gloo import run_ranks


@torch.library.custom_op("mylib::scaled_norm", mutates_args=())
def scaled_norm(x: torch.Tensor, weight: torch.Tensor, scale: float) -> torch.Tensor:
    """Each token by itself: the rows of a rank are enough for it."""
    return torch.nn.functional.normalize(x, dim=-1) * weight * scale


@scaled_norm.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, scale: float) -> torch.Tensor:
    return torch.empty_like(x)


def all_reduce_scaled_norm(x, weight, scale):  # type: ignore[no-untyped-def]
    """What the rule matches: `x` is what the all_reduce yields."""
    return ops.mylib.scaled_norm(x, weight, scale)


def example(rank: int, world_size: int) -> str:
    """What one rank does."""
    torch.manual_seed(rank)
    x, first = torch.randn(16, 32), torch.randn(32, 32)
    torch.manual_seed(0)
    weight, second = torch.rand(32), torch.randn(32, 32)

    def model(x: torch.Tensor) -> torch.Tensor:
        reduced = funcol.all_reduce(x @ first, "sum", dist.group.WORLD)
        return scaled_norm(reduced, weight, 2.0) @ second

    def compiled() -> tuple[torch.Tensor, spfast.Result]:
        torch._dynamo.reset()
        sp = spfast.SequenceParallelismPass()
        # A graph from a cache is not rewritten again, and there would be nothing to tell of it.
        settings = {"post_grad_custom_pre_pass": sp, "fx_graph_cache": False}
        with torch._inductor.config.patch(settings), torch.no_grad():
            found = torch.compile(model, fullgraph=True)(x)
        assert sp.result is not None
        return found, sp.result

    expected, before = compiled()
    register("all_reduce_scaled_norm", dialect="functional")(all_reduce_scaled_norm)
    found, after = compiled()

    torch.testing.assert_close(found, expected)
    assert int(before) == 0 and int(after) == 1
    dist.barrier()
    return f"without the rule: {before.skipped[0]}\nwith it: {after}"


if __name__ == "__main__":
    print(run_ranks(example, 2)[0])
