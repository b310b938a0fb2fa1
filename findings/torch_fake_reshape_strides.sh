#!/usr/bin/env bash
# FakeTensorMode: a reshape of a single row has other strides than eager torch gives it.
#
# A row of a wider tensor, [1, 1, 16] with strides (48, 16, 1), reshaped to [1, 16]: eager torch says
# (16, 1), FakeTensorMode says (48, 1). The dim has one element, so that both are right; who compares
# metadata with a run, or two ways to compute it, by strides sees a difference.
#
# Seen with torch 2.13.0: eager (16, 1), fake (48, 1)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

def strides():
    row = torch.randn(2, 48)[:1, :16].unsqueeze(1)
    return torch.ops.aten.reshape.default(row, [1, 16]).stride()

print("torch", torch.__version__)
eager = strides()
with FakeTensorMode():
    fake = strides()
print("eager", eager, "- fake", fake)
assert eager == (16, 1) and fake == (48, 1), "torch behaves otherwise now"
PYTHON
