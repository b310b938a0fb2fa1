#!/usr/bin/env bash
# torch.export: a graph's namespace keeps other names for its inputs than the nodes have.
#
# One would take `graph._graph_namespace`, which makes names unique, to know each node by its name.
# After torch.export of a module with a parameter the parameter's placeholder is called p_weight, and
# the namespace still has it as arg0_1: export renames the node without it. Who frees a name by what
# the namespace says frees another one.
#
# Seen with torch 2.13.0: name p_weight, in the namespace arg0_1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import torch

class Scale(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))

    def forward(self, x):
        return x * self.weight

print("torch", torch.__version__)
graph = torch.export.export(Scale(), (torch.ones(2, 4),)).graph
node = next(iter(graph.nodes))
known = graph._graph_namespace._obj_to_name[node]
print(f"name {node.name}, in the namespace {known}")
assert (node.name, known) == ("p_weight", "arg0_1"), "torch behaves otherwise now"
PYTHON
