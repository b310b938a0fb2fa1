"""Inductor's graph cache serves a second process, and not one with another config."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.fresh_compile import fresh_compile

PROGRAM = """
import sys, torch
import torch._inductor.config as inductor_config
from torch._dynamo.utils import counters
from spfast import SequenceParallelConfig, SequenceParallelismPass
from spfast.testing.models.capture import fake_process_group
from spfast.testing.models.families import build
sp = SequenceParallelismPass(SequenceParallelConfig(recognise=sys.argv[1]))
with fake_process_group(2) as mesh, torch.no_grad():
    model = build("tp_flat", mesh, layers=1)
    with inductor_config.patch(post_grad_custom_pre_pass=sp, fx_graph_cache=True):
        torch.compile(model.module, fullgraph=True)(model.example(1, 16))
found = counters["inductor"]
print(found["fxgraph_cache_hit"], found["fxgraph_cache_miss"], sp.matched_count,
    int("came from a cache" in sp.result.note))
"""


@pytest.mark.skipif(not os.environ.get("SPFAST_LONG"), reason="compiles three times: SPFAST_LONG=1")
def test_hit_in_a_second_process_and_miss_with_another_config(tmp_path: Path) -> None:
    assert fresh_compile(PROGRAM, "both", tmp_path) == (0, 1, 3, 0)
    assert fresh_compile(PROGRAM, "both", tmp_path) == (1, 0, 0, 1)
    assert fresh_compile(PROGRAM, "patterns", tmp_path) == (0, 1, 3, 0)
