"""Writes down which names a version of vLLM has, from its unpacked source.

    python tests/hosts/vllm/read_facts.py SOURCE VERSION

SOURCE holds the folder ``vllm`` of an sdist or a wheel. Only names are kept: of functions, of their
parameters, and of the annotated fields of classes.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

# What the plugin changes, asks, or hands something to: a whole class, or one method of it.
NAMES = {
    "vllm.config.vllm": ("VllmConfig",),
    "vllm.config.compilation": ("CompilationConfig", "PassConfig"),
    "vllm.config.parallel": ("ParallelConfig",),
    "vllm.config.scheduler": ("SchedulerConfig",),
    "vllm.compilation.backends": ("VllmBackend",),
    "vllm.compilation.passes.inductor_pass": ("InductorPass", "PassContext", "pass_context"),
    "vllm.compilation.passes.pass_manager": ("PostGradPassManager",),
    "vllm.v1.cudagraph_dispatcher": ("CudagraphDispatcher",),
    "vllm.v1.worker.utils": ("is_residual_scattered_for_sp",),
    "vllm.v1.worker.gpu_model_runner": ("GPUModelRunner.sync_and_gather_intermediate_tensors",),
    "vllm.v1.worker.gpu.dp_utils": ("dispatch_cg_and_sync_dp",),
    "vllm.v1.worker.gpu.cudagraph_utils": ("CudaGraphManager",),
}


def parameters(function: ast.FunctionDef) -> list[str]:
    given = function.args
    return [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]


def facts_of(module: ast.Module, names: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    alone = dict(name.split(".") for name in names if "." in name)
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name in names:
            found[node.name] = parameters(node)
        elif isinstance(node, ast.ClassDef) and node.name in alone:
            found[node.name] = {
                "fields": [],
                "methods": {
                    each.name: parameters(each)
                    for each in node.body
                    if isinstance(each, ast.FunctionDef) and each.name == alone[node.name]
                },
                "properties": [],
            }
        elif isinstance(node, ast.ClassDef) and node.name in names:
            found[node.name] = {
                "fields": [
                    each.target.id
                    for each in node.body
                    if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
                ],
                "methods": {
                    each.name: parameters(each)
                    for each in node.body
                    if isinstance(each, ast.FunctionDef)
                },
                "properties": [
                    each.name
                    for each in node.body
                    if isinstance(each, ast.FunctionDef)
                    and any(ast.unparse(one) == "property" for one in each.decorator_list)
                ],
            }
    return found


def imported(module: ast.Module) -> list[str]:
    """The classes that a module imports from beside it, under whatever condition."""
    return sorted(
        {
            alias.asname or alias.name
            for node in ast.walk(module)
            if isinstance(node, ast.ImportFrom) and node.level
            for alias in node.names
            if alias.name.endswith("Pass")
        }
    )


def main(source: str, version: str) -> None:
    facts: dict[str, Any] = {"version": version, "modules": {}, "passes": []}
    for name, names in NAMES.items():
        path = Path(source, *name.split(".")).with_suffix(".py")
        if path.exists():
            tree = ast.parse(path.read_text(encoding="utf-8"))
            facts["modules"][name] = facts_of(tree, names)
            if name.endswith("pass_manager"):
                facts["passes"] = imported(tree)
    target = HERE / "facts" / f"{version}.json"
    modules = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(found)}" for name, found in facts["modules"].items()
    )
    target.write_text(
        f'{{\n "version": {json.dumps(version)},\n "passes": {json.dumps(facts["passes"])},\n'
        f' "modules": {{\n{modules}\n }}\n}}\n'
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
