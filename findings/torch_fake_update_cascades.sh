#!/usr/bin/env bash
# torch: a fake value that is updated to an equal one has all that read it run again.
#
# FakeTensorUpdater runs each node that changed and goes on to the readers of what it replaced. A value
# that is fresh, and whose storage nobody else has, is meant to stay, so that the update ends there: the
# last lines of _is_fake_tensor_same say so. But since 2.13 it returns False before, for any other
# storage; and for the same storage the lines that are left return False too. So every value that is
# run is replaced, and one changed node has the whole rest of a graph run.
#
# Seen with torch 2.13.0, and the same with 2.14.1 and 2.15.0: 'updated 41 of 41'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch._inductor.fx_utils import FakeTensorUpdater
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx


def chain(x, y):
    for _ in range(41):
        x = torch.sin(x)
    return x


mode = FakeTensorMode()
with mode:
    x, y = torch.empty(4), torch.empty(4)
gm = make_fx(chain, tracing_mode="real")(x, y)
first, other = gm.graph.find_nodes(op="placeholder")
updater = FakeTensorUpdater(gm)
first.replace_all_uses_with(other)  # of the same size: every value is what it was
with V.set_fake_mode(mode):
    updated = updater.incremental_update()
print("updated", updated, "of 41")
raise SystemExit(updated != 41)
PYTHON
