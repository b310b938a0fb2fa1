#!/usr/bin/env bash
# aten: operators that return their operand, though their schemas promise a tensor of its own.
#
# A schema says "Tensor(a)" of a result that shares an operand's memory. Some operators, where nothing
# is left to be done, return what they were given and say "Tensor" all the same. Whoever follows
# memory through a graph by schemas alone (a graph of torch.export before decompositions has such
# operators) takes a write to the result for a write to something else.
#
# Seen with torch 2.13.0: all of the operators below share memory, and none of their schemas says so
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import torch

print("torch", torch.__version__)
aten = torch.ops.aten
x = torch.ones(4, 4)
calls = {
    aten.type_as.default: (x, x),
    aten.dropout.default: (x, 0.5, False),
    aten.feature_dropout.default: (x, 0.5, False),
    aten.einsum.default: ("ij->ij", [x]),
    aten.atleast_2d.default: (x,),
    aten.broadcast_tensors.default: ([x],),
    aten.sum_to_size.default: (x, [4, 4]),
    aten.conj_physical.default: (x,),
    aten.lift.default: (x,),
    aten.unsafe_split.Tensor: (x, 2),
}
for operator, args in calls.items():
    result = operator(*args)
    first = result[0] if isinstance(result, (tuple, list)) else result
    shares = first.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    says = any(each.alias_info is not None for each in operator._schema.returns)
    print(f"{operator}: shares memory: {shares}, its schema says so: {says}")
    assert shares and not says, "torch behaves otherwise now"
PYTHON
