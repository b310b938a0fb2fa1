"""The command line; see the package's own words."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

import spfast
from spfast.testing.models.dtensor import Sizes

from .cases import CASES, SHAPES, STEPS, Case
from .contenders import CONTENDERS
from .measure import measure
from .table import draw, markdown


def main() -> None:
    """Measures on every rank; the first writes the files and prints the table."""
    parser = argparse.ArgumentParser(prog="bench.gpu.step")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--step", nargs="*", choices=STEPS, default=STEPS)
    parser.add_argument("--shape", nargs="*", choices=SHAPES, default=[*SHAPES])
    parser.add_argument("--sizes", type=int, nargs=5, metavar=("H", "I", "HEADS", "KV", "LAYERS"))
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--iterations", type=int, default=15)
    parser.add_argument("--only", nargs="*", help="names of contenders; all of them by default")
    parser.add_argument("--profile", action="store_true", help="look at kernels, too")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    given = parser.parse_args()

    cuda = given.device == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo")
    mesh = init_device_mesh(given.device, (dist.get_world_size(),), mesh_dim_names=("tp",))
    if cuda:
        spfast.enable_async_tp()
    if given.sizes is None:
        cases = [case for case in CASES if case.step in given.step and case.name in given.shape]
    else:
        cases = [Case("as asked", Sizes(*given.sizes), step) for step in given.step]
    shared = {name: getattr(given, name) for name in ("device", "tokens", "dtype", "iterations")}
    chosen = [each for each in CONTENDERS if not given.only or each.name in given.only]
    record: dict[str, Any] = {
        "where": {
            "device": torch.cuda.get_device_name() if cuda else "CPU",
            "ranks": mesh.size(),
            "torch": torch.__version__,
            "spfast": spfast.__version__,
            "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        },
        "cases": [],
    }
    first = dist.get_rank() == 0
    given.out.mkdir(parents=True, exist_ok=True)
    for case in cases:
        measured = measure(replace(case, **shared), mesh, chosen, profile=given.profile)
        measured["when"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
        record["cases"].append(measured)
        if first:  # written after each case: a run that is stopped has what it measured
            (given.out / "gpu_step.json").write_text(json.dumps(record, indent=1) + "\n")
            print(markdown({**record, "cases": [measured]}), flush=True)
    if first:
        (given.out / "gpu_step.md").write_text(markdown(record))
        draw(record, given.out / "gpu_step.png")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
