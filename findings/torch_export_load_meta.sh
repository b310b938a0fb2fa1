#!/usr/bin/env bash
# torch.export: what a program's graph module says of itself is lost by saving and loading it.
#
# `ep.graph_module.meta` of a program with a dynamic dim has the ranges of its sizes under
# "inline_constraints". The same program, saved and loaded, has them in `ep.range_constraints` alone:
# the key is gone, and no error says so. Who tells an exported graph by its meta does not know it
# again after a load.
#
# Seen with torch 2.13.0: before has inline_constraints, after loading has it not
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import io

import torch

class Double(torch.nn.Module):
    def forward(self, x):
        return x * 2

print("torch", torch.__version__)
rows = torch.export.Dim("rows", min=2, max=64)
program = torch.export.export(Double(), (torch.ones(8, 4),), dynamic_shapes={"x": {0: rows}})
file = io.BytesIO()
torch.export.save(program, file)
file.seek(0)
loaded = torch.export.load(file)
before, after = ("inline_constraints" in each.graph_module.meta for each in (program, loaded))
print("before has inline_constraints:", before, "- after loading:", after)
print("ranges before and after:", len(program.range_constraints), len(loaded.range_constraints))
assert before and not after, "torch behaves otherwise now"
assert len(program.range_constraints) == len(loaded.range_constraints) == 1
PYTHON
