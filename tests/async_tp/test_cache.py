"""A compile cache serves a fresh process that enables the group, and no other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.fresh_compile import fresh_compile

PROGRAM = """
import sys, torch
import torch._inductor.config as inductor_config
from torch._dynamo.utils import counters
import spfast
from spfast.testing import async_tp_stand_in
from spfast.testing.models.capture import fake_process_group
from spfast.testing.models.families import build
both = spfast.SequenceParallelismPass(
    spfast.SequenceParallelConfig(async_tp=True, async_tp_thresholds=())
)
with fake_process_group(2) as mesh, torch.no_grad(), async_tp_stand_in():
    if sys.argv[1] == "enabled":
        spfast.enable_async_tp(mesh)
    model = build("tp_flat", mesh, layers=1)
    with inductor_config.patch(post_grad_custom_pre_pass=both, fx_graph_cache=True):
        torch.compile(model.module, fullgraph=True)(model.example(1, 16))
found = counters["inductor"]
print(found["fxgraph_cache_hit"], found["fxgraph_cache_miss"], int(both.result.async_tp or 0))
"""


@pytest.mark.skipif(not os.environ.get("SPFAST_LONG"), reason="compiles three times: SPFAST_LONG=1")
def test_a_fresh_process_enables_its_group(tmp_path: Path) -> None:
    assert fresh_compile(PROGRAM, "enabled", tmp_path) == (0, 1, 4)
    assert fresh_compile(PROGRAM, "enabled", tmp_path) == (1, 0, 0)
    # What is kept is for groups that are enabled: it is not served, whatever this process may do.
    assert fresh_compile(PROGRAM, "not enabled", tmp_path) == (0, 1, 4)
