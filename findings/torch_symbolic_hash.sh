#!/usr/bin/env bash
# torch: to hash a symbolic float makes the graph hold for its example value alone.
#
# A SymInt refuses to be hashed, so that nobody asks for its value by accident. One would expect the
# same of its siblings. A SymFloat is hashed: that adds the guard that it equals its example. A SymBool
# is hashed too, and adds the guard that it holds. Who keeps such values in a set, or as a part of a
# key, gets a graph that holds for less, without a word.
#
# Seen with torch 2.13.0: SymInt TypeError, no guard; SymBool 1, guards 's > 4';
# SymFloat 576460752303423488, guards 'Eq(s, 0.25)'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import re

import torch
from torch._dynamo.source import ConstantSource
from torch.fx.experimental.sym_node import SymNode
from torch.fx.experimental.symbolic_shapes import ShapeEnv


def symbolic(kind, hint):
    env = ShapeEnv()
    symbol = env.create_symbol(hint, source=ConstantSource("given"), do_not_specialize_zero_one=True)
    return SymNode(symbol, env, kind, hint), env


def hashed(value, env):
    try:
        outcome = hash(value)
    except TypeError as error:
        outcome = type(error).__name__
    guards = [re.sub(r"\bz?[sf]+\d+", "s", str(guard.expr)) for guard in env.guards]
    print(type(value).__name__, outcome, guards)
    return outcome, guards


print("torch", torch.__version__)
node, env = symbolic(int, 8)
assert hashed(torch.SymInt(node), env) == ("TypeError", []), "torch behaves otherwise now"
assert hashed(torch.SymInt(node) > 4, env) == (1, ["s > 4"]), "torch behaves otherwise now"
node, env = symbolic(float, 0.25)
found = hashed(torch.SymFloat(node), env)
assert found == (hash(0.25), ["Eq(s, 0.25)"]), "torch behaves otherwise now"
PYTHON
