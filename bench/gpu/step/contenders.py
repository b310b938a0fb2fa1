"""The ways to have a step: which plan shards the model, and what is put into torch.compile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch._inductor.config as inductor_config
from torch import fx

import spfast
from spfast.integrations.inductor import enable
from spfast.thresholds import DEFAULT_PAIR_THRESHOLDS

c10d = torch.ops._c10d_functional


@dataclass(frozen=True)
class Contender:
    """One way.

    Attributes:
        name: As the table calls it.
        by_hand: Whether the plan has sequence parallelism in it.
        spfast: Whether our pass is put in.
        recompute_gather: With our pass: whether the backward gathers again.
        fuses: Who makes fused operators of products and collectives: "", "inductor" or "spfast".
        limit: Whether collectives are taken out: the step's results are wrong then.
        every_pair: With our fused operators: whether thresholds are left out of account.
        gather_quantized: With our pass: whether float8 values are gathered where it can be.
        kernels: Whose kernels the fused operators have.
    """

    name: str
    by_hand: bool = False
    spfast: bool = False
    recompute_gather: bool = False
    fuses: str = ""
    limit: bool = False
    every_pair: bool = False
    gather_quantized: bool = True
    kernels: str = "torch"

    def suits(self, step: str) -> bool:
        """Whether it can do such a step, and is another there than without its settings."""
        if step == "float8":
            return not self.by_hand and not self.recompute_gather
        if self.every_pair or not self.gather_quantized:
            return False
        return step == "training" or not self.recompute_gather


CONTENDERS = (
    Contender("plain"),
    Contender("plain + Inductor's async TP", fuses="inductor"),
    Contender("sequence parallel by hand", by_hand=True),
    Contender("by hand + Inductor's async TP", by_hand=True, fuses="inductor"),
    Contender("spfast", spfast=True),
    Contender("spfast + its async TP", spfast=True, fuses="spfast", kernels="spfast"),
    Contender(
        "spfast + its async TP, every pair",
        spfast=True,
        fuses="spfast",
        every_pair=True,
        kernels="spfast",
    ),
    Contender("spfast + its async TP, torch's kernels", spfast=True, fuses="spfast"),
    Contender("spfast + Inductor's async TP", spfast=True, fuses="inductor"),
    Contender("spfast, gathers again", spfast=True, recompute_gather=True),
    Contender(
        "spfast + its async TP, every pair, bf16 gathers",
        spfast=True,
        fuses="spfast",
        every_pair=True,
        gather_quantized=False,
        kernels="spfast",
    ),
    Contender("limit: no collectives", limit=True),
)


@dataclass
class Put:
    """What is in torch.compile for a while.

    Attributes:
        seconds: What our pass or the removal took of the compile.
    """

    seconds: float = field(default=0.0)


@contextlib.contextmanager
def put_in(contender: Contender) -> Iterator[Put]:
    """Puts what a contender is into torch.compile while the context lasts."""
    put = Put()

    def timed(call):
        def run(graph: fx.Graph) -> None:
            begin = time.perf_counter()
            call(graph)
            put.seconds += time.perf_counter() - begin

        return run

    settings = {
        "force_disable_caches": True,
        "_micro_pipeline_tp": contender.fuses == "inductor",
    }
    with contextlib.ExitStack() as stack:
        if contender.spfast:
            config = spfast.SequenceParallelConfig(
                async_tp=contender.fuses == "spfast",
                async_tp_thresholds=() if contender.every_pair else DEFAULT_PAIR_THRESHOLDS,
                gather_quantized=contender.gather_quantized,
            )
            enabled = stack.enter_context(
                enable(config, recompute_gather=contender.recompute_gather)
            )
            settings["joint_custom_post_pass"] = timed(enabled.joint)
            settings["post_grad_custom_pre_pass"] = timed(enabled.inference)
        elif contender.limit:
            settings["joint_custom_post_pass"] = timed(take_out)
        stack.enter_context(inductor_config.patch(settings))
        yield put


def take_out(graph: fx.Graph) -> None:
    """What is reduced is taken as it is: the step computes the same, and waits for nobody."""
    for reduced in graph.find_nodes(op="call_function", target=c10d.all_reduce.default):
        for waited in list(reduced.users):
            waited.replace_all_uses_with(reduced.args[0])
            graph.erase_node(waited)
        graph.erase_node(reduced)
