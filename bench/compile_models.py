"""Six model families of transformers in small, with random weights, and the graphs of a compile.

What Inductor's FX passes get is caught where they would run: once traced, a graph can be copied
and given to them as often as a measurement needs.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch._inductor.compile_fx as compile_fx
from torch.fx._lazy_graph_module import _LazyGraphModule

__all__ = ["FAMILIES", "Mode", "Stage", "build", "copied", "stages"]

_WIDTHS = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
_TEXT = {**_WIDTHS, "vocab_size": 256, "use_cache": False}
_EXPERTS = {"num_local_experts": 4, "experts_implementation": "grouped_mm"}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {**_TEXT, "num_key_value_heads": 2}),
    "qwen3": ("Qwen3", {**_TEXT, "num_key_value_heads": 2, "head_dim": 16}),
    "gpt_neox": ("GPTNeoX", _TEXT),
    "bert": ("Bert", {**_TEXT, "attention_probs_dropout_prob": 0.1}),
    "vit": ("ViT", {**_WIDTHS, "image_size": 64, "patch_size": 16}),
    "mixtral": ("Mixtral", {**_TEXT, "num_key_value_heads": 2, **_EXPERTS}),
}


class _First(torch.nn.Module):
    """A model as a function of one tensor to its last hidden state."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model(x)[0]
        return found


def build(family: str, layers: int, training: bool) -> tuple[torch.nn.Module, torch.Tensor]:
    """A model in bfloat16 and an example of its input: ids [2, 32] or pixels [2, 3, 64, 64]."""
    import transformers

    name, fields = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**fields, num_hidden_layers=layers)
    model = getattr(transformers, f"{name}Model")(config).to(torch.bfloat16)
    if family == "vit":
        return _First(model).train(training), torch.randn(2, 3, 64, 64, dtype=torch.bfloat16)
    return _First(model).train(training), torch.randint(0, 256, (2, 32))


@dataclass(frozen=True)
class Mode:
    """How a model is compiled.

    Attributes:
        training: Whether a loss is taken backwards.
        dynamic: Whether sizes are symbols.
        frozen: Whether weights are constants of the graph (Inductor's ``freezing``).
    """

    training: bool = False
    dynamic: bool = False
    frozen: bool = False


@dataclass(frozen=True)
class Stage:
    """One call of Inductor's FX passes in a compile.

    Attributes:
        name: ``joint`` or ``post_grad``.
        graph: What it was called with.
        arguments: What it was called with besides.
        fake_mode: The mode that is current meanwhile.
        takes_real: Whether that mode takes real tensors, as it does while weights are frozen.
    """

    name: str
    graph: torch.fx.GraphModule
    arguments: tuple[Any, ...]
    fake_mode: Any
    takes_real: bool

    def run(self, graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
        """Runs the passes on a graph, in place; returns what they return."""
        from torch._inductor.virtualized import V

        takes_real = patch.object(self.fake_mode, "allow_non_fake_inputs", self.takes_real)
        with takes_real, V.set_fake_mode(self.fake_mode):
            if self.name == "joint":
                return compile_fx._recursive_joint_graph_passes(graph, *self.arguments)
            compile_fx._recursive_post_grad_passes(graph, *self.arguments)
        return graph


def copied(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """A graph module with nodes and meta of its own, and the values and subgraphs of `module`."""
    graph = torch.fx.Graph()
    nodes: dict[torch.fx.Node, torch.fx.Node] = {}
    for node in module.graph.nodes:
        nodes[node] = graph.node_copy(node, nodes.__getitem__)
        nodes[node].meta = copy.copy(node.meta)
    # A lazy module makes its code when it is called, which here never happens.
    lazy = isinstance(module, _LazyGraphModule)
    made = (_LazyGraphModule if lazy else torch.fx.GraphModule)(module, graph)
    made.meta.update(module.meta)
    for name, child in module.named_children():
        if isinstance(child, torch.fx.GraphModule):
            setattr(made, name, copied(child))
    return made


def stages(family: str, layers: int, mode: Mode) -> list[Stage]:
    """The calls of Inductor's FX passes in a compile for the processor, with nothing lowered.

    Args:
        family: One of FAMILIES.
        layers: Of the model.
        mode: How it is compiled.
    """
    found: list[Stage] = []
    model, example = build(family, layers, mode.training)
    with _caught(found), torch._inductor.config.patch(freezing=mode.frozen):
        torch._dynamo.reset()
        compiled = torch.compile(model, backend=_backend, dynamic=mode.dynamic, fullgraph=True)
        with contextlib.nullcontext() if mode.training else torch.no_grad():
            out = compiled(example)
            if mode.training:
                out.float().sum().backward()
    return found


def _backend(gm: torch.fx.GraphModule, example: list[Any]) -> Any:
    made: Any = compile_fx.compile_fx(gm, example, inner_compile=_inner)
    return made


def _inner(gm: torch.fx.GraphModule, example: list[Any], **kwargs: Any) -> Any:
    """In the place of code generation: the graph as it is runs node by node."""
    from torch._inductor.fx_passes.post_grad import view_to_reshape
    from torch._inductor.virtualized import V
    from torch._subclasses.fake_tensor import FakeTensorMode

    original = copied(gm)
    view_to_reshape(gm)  # type: ignore[no-untyped-call]
    mode = torch._guards.detect_fake_mode(example) or FakeTensorMode()
    with V.set_fake_mode(mode):
        compile_fx._recursive_post_grad_passes(gm, bool(kwargs.get("is_inference", False)))

    def call(arguments: list[Any]) -> Any:
        return original(*arguments)

    call._boxed_call = True  # type: ignore[attr-defined]
    return call


def _stage(name: str, gm: torch.fx.GraphModule, arguments: tuple[Any, ...]) -> Stage:
    """A call that is about to be made."""
    from torch._inductor.virtualized import V

    mode = V.fake_mode
    return Stage(name, copied(gm), arguments, mode, mode.allow_non_fake_inputs)


@contextlib.contextmanager
def _caught(found: list[Stage]) -> Iterator[None]:
    joint, post = compile_fx._recursive_joint_graph_passes, compile_fx._recursive_post_grad_passes
    inside = False

    def first_joint(gm: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        if not inside:
            arguments = (*args, *kwargs.values())
            found.append(_stage("joint", gm, arguments))
        inside, outer = True, inside
        try:
            return joint(gm, *args, **kwargs)
        finally:
            inside = outer

    def first_post(gm: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal inside
        if not inside:
            found.append(_stage("post_grad", gm, (*args, *kwargs.values())))
        inside, outer = True, inside
        try:
            post(gm, *args, **kwargs)
        finally:
            inside = outer

    compile_fx._recursive_joint_graph_passes = first_joint
    compile_fx._recursive_post_grad_passes = first_post
    try:
        yield
    finally:
        compile_fx._recursive_joint_graph_passes = joint
        compile_fx._recursive_post_grad_passes = post
