"""One training step of a tensor-parallel decoder, every way to have it, in one run.

    torchrun --nproc-per-node 2 -m bench.gpu.training

Any number of GPUs; ``--device cpu`` tries it on gloo, without fused operators. Rank 0 leaves
training.json, training.md and training.png in ``--out``.
"""
