"""A vLLM of a given version that has nothing but the names that the version has.

Every class, function, parameter and field comes from ``facts/``; what a body does is a model, in
our own words, of what vLLM does with what the plugin changes. A name that a version lacks is
lacking here, so that code which counts on it fails.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

FACTS = {path.stem: path for path in sorted((Path(__file__).parent / "facts").glob("*.json"))}
VERSIONS = tuple(sorted(FACTS, key=lambda version: [int(part) for part in version.split(".")]))
OLD = [version for version in VERSIONS if version < "0.32"]  # which have a pass of their own
NEW = [version for version in VERSIONS if version >= "0.32"]

ON = {"enable": True, "min_token_num": 1024}
OURS = "spfast.SequenceParallelismPass"  # as the stub names the passes that it runs

# What runs of each function; what is not here does nothing.
BODIES = {
    "VllmConfig.__post_init__": """
        compilation = self.compilation_config
        if self.model_config is None:
            return
        if self.model_config.enforce_eager:
            compilation.mode = Mode.NONE
        if compilation.mode is None:
            compilation.mode = Mode.VLLM_COMPILE
        self._set_cudagraph_sizes()
        self._set_compile_ranges()
        compilation.set_splitting_ops_for_v1("naive")
        """,
    "VllmConfig._set_cudagraph_sizes": """
        compilation = self.compilation_config
        most = self.scheduler_config.max_num_batched_tokens
        if compilation.cudagraph_capture_sizes is None:
            compilation.cudagraph_capture_sizes = [n for n in (1, 2, 4, 8, 16) if n <= most]
        compilation.max_cudagraph_capture_size = compilation.cudagraph_capture_sizes[-1]
        compilation.compile_sizes = list(compilation.compile_sizes or ())
        """,
    "VllmConfig._set_compile_ranges": """
        compilation = self.compilation_config
        ends = {self.scheduler_config.max_num_batched_tokens}
        ends |= set(compilation.compile_ranges_endpoints or ())
        if getattr(compilation.pass_config, "enable_sp", False):
            ends.add(compilation.pass_config.sp_min_token_num - 1)
        compilation.compile_ranges_endpoints = sorted(ends)
        """,
    "VllmConfig.compute_hash": """
        return hashlib.sha256(json.dumps(self.additional_config).encode()).hexdigest()[:10]
        """,
    "VllmConfig.uniform_decode_query_len": """
        return 1 + getattr(self.speculative_config, "num_speculative_tokens", 0)
        """,
    "ParallelConfig.use_ubatching": "return bool(self.enable_dbo)",
    "VllmConfig.use_v2_model_runner": """
        if getattr(self.model_config, "is_diffusion", False):
            return True
        rows = getattr(self.compilation_config.pass_config, "enable_sp", False)
        return getattr(self.model_config, "is_newer", False) and not rows
        """,
    "VllmConfig._get_v1_model_runner_unsupported_features": """
        late = self.scheduler_config.async_scheduling
        return ["pipeline parallelism with async scheduling"] if late else []
        """,
    "CompilationConfig.set_splitting_ops_for_v1": """
        whole = getattr(self.pass_config, "enable_sp", False)
        if getattr(self.mode, "name", self.mode) != "VLLM_COMPILE" or whole:
            self.splitting_ops = self.splitting_ops or []
        elif self.splitting_ops is None:
            self.splitting_ops = ["vllm::unified_attention_with_output"]
        """,
    "PostGradPassManager.__init__": """
        self.passes = []
        """,
    "PostGradPassManager.configure": """
        self.pass_config = config.compilation_config.pass_config
        if self.pass_config.eliminate_noops:
            self.passes += [NoOpEliminationPass(config)]
        if getattr(self.pass_config, "enable_sp", False):
            self.passes += [SequenceParallelismPass(config)]
            if self.pass_config.fuse_gemm_comms:
                self.passes += [AsyncTPPass(config)]
        if self.pass_config.fuse_allreduce_rms:
            self.passes += [AllReduceFusionPass(config)]
        """,
    "VllmBackend.configure_post_pass": """
        self.pass_manager.configure(self.vllm_config)
        """,
    "PassContext.__init__": """
        self.compile_range = compile_range
        """,
    "CudagraphDispatcher.__init__": """
        self.vllm_config = vllm_config
        """,
    "CudagraphDispatcher.dispatch": """
        return "NONE", num_tokens
        """,
    "is_residual_scattered_for_sp": """
        return bool(vllm_config.compilation_config.pass_config.enable_sp)
        """,
    "GPUModelRunner.sync_and_gather_intermediate_tensors": """
        residual = intermediate_tensors.tensors["residual"]
        if is_residual_scattered_for_sp(self.vllm_config, num_tokens):
            ranks = self.vllm_config.parallel_config.tensor_parallel_size
            return self.all_gather(residual[: num_tokens // ranks])
        return residual
        """,
    "dispatch_cg_and_sync_dp": """
        return num_tokens, None
        """,
}

HEAD = """
import contextlib
import enum
import hashlib
import json


class Mode(enum.Enum):
    NONE = 0
    VLLM_COMPILE = 3

"""

# What a module has beside what the facts say: an instance of what it imports.
TAILS = {
    "vllm.compilation.passes.inductor_pass": """
import abc

_pass_context = None
InductorPass = abc.ABCMeta("InductorPass", (), {})
""",
    "vllm.v1.worker.utils": "",
}


def write(folder: Path, version: str, leave_out: str = "", spoil: str = "") -> None:
    """Writes the package ``vllm`` of ``version`` into ``folder``.

    Args:
        folder: Where to; put it on ``sys.path``.
        version: One of :data:`VERSIONS`, or another whose names are the last one's.
        leave_out: A qualified name that this vLLM shall not have.
        spoil: A qualified name whose parameters shall be others.
    """
    facts = json.loads(FACTS.get(version, FACTS[VERSIONS[-1]]).read_text())
    modules = {
        name: _module(name, found, leave_out, spoil) for name, found in facts["modules"].items()
    }
    manager = "vllm.compilation.passes.pass_manager"
    modules[manager] = _pass_classes(facts["passes"]) + modules[manager]
    modules["vllm.version"] = f"__version__ = {version!r}\n"
    runner = "vllm.v1.worker.gpu_model_runner"
    modules[runner] = modules.get(runner, "") + "".join(
        f"from {module} import {name}\n"
        for module, name in (("vllm.v1.worker.utils", "is_residual_scattered_for_sp"),)
        if name in facts["modules"][module] and name != leave_out
    )
    for name, source in modules.items():
        path = folder.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        for parent in path.parents:
            if parent == folder:
                break
            (parent / "__init__.py").touch()


def _module(name: str, found: dict[str, Any], leave_out: str, spoil: str) -> str:
    parts = [HEAD]
    for key, value in found.items():
        if key == leave_out:
            continue
        if isinstance(value, list):
            parts.append(_function(key, key, ["other"] if key == spoil else value))
            continue
        parts.append(f"class {key}:\n")
        parts += [f"    {field} = None\n" for field in value["fields"]]
        if value["fields"]:
            parts.append(textwrap.indent(_take_fields(), "    "))
        for method, names in value["methods"].items():
            full = f"{key}.{method}"
            if full == leave_out or method.startswith("__") and full not in BODIES:
                continue
            names = ["other", *names] if full == spoil else names
            decorated = "@property\n" if method in value["properties"] else ""
            parts.append(textwrap.indent(decorated + _function(full, method, names), "    "))
        parts.append("    pass\n\n")
    return "".join(parts) + TAILS.get(name, "")


def _take_fields() -> str:
    return (
        "def __init__(self, **given):\n"
        "    for name, value in given.items():\n"
        "        assert hasattr(type(self), name), name\n"
        "        setattr(self, name, value)\n"
        "    if type(self).__name__ == 'VllmConfig':\n"
        "        self.__post_init__()\n"
    )


def _function(full: str, name: str, parameters: list[str]) -> str:
    bare = [each if index == 0 else f"{each}=None" for index, each in enumerate(parameters)]
    body = textwrap.indent(textwrap.dedent(BODIES.get(full, "pass")).strip(), "    ")
    return f"def {name}({', '.join(bare)}):\n{body}\n"


def _pass_classes(names: list[str]) -> str:
    made = "".join(
        f"class {name}:\n    def __init__(self, config=None):\n        pass\n\n"
        for name in names
        if name not in ("InductorPass", "CustomGraphPass")
    )
    return "from vllm.compilation.passes.inductor_pass import InductorPass\n\n" + made


class Group:
    """What vLLM's parallel_state has as _TP."""

    unique_name = "tp:0"

    def __init__(self, rank: int) -> None:
        self.rank_in_group = rank
