"""One step of a tensor-parallel decoder, every way to have it, in one run.

    torchrun --nproc-per-node 2 -m bench.gpu.step                      # all cases
    torchrun --nproc-per-node 2 -m bench.gpu.step --step prefill float8

Any number of GPUs; ``--device cpu`` tries it on gloo, without fused operators. Rank 0 leaves
gpu_step.json, gpu_step.md and gpu_step.png in ``--out``.
"""
