"""vLLM's own SequenceParallelismPass, from the source tree that the environment variable VLLM_SRC
names.

Nothing of vLLM is in this repository; bench/README.md says how to get a tree. Its rules are
registered as vLLM does, the two epsilons and the quantised forms among them, and what is timed is
the pass's own ``__call__``: the matcher and its no-op elimination.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch.fx as fx

from ..workloads import declare_ops
from .peer import Peer, Rewrite, Setting
from .vllm_source import load_pass


def source() -> Path | None:
    """The tree that VLLM_SRC names, if it is set."""
    named = os.environ.get("VLLM_SRC")
    return Path(named) if named else None


def version() -> str:
    """The tree's version, as its folder or its PKG-INFO says."""
    tree = source()
    if tree is None:
        return ""
    info = tree / "PKG-INFO"
    found = re.search(r"^Version: (\S+)", info.read_text(), re.M) if info.is_file() else None
    return found.group(1) if found else tree.name


def supports(setting: Setting) -> str:
    """Why the pass cannot run here, if so."""
    if source() is None:
        return "VLLM_SRC is not set"
    if setting.dialect != "vllm_ir":
        return "knows vLLM's ops only"
    if setting.quantised == "native":
        # Traced with the decompositions that torch selects, its rule says
        # prims.convert_element_type where the graph says aten._to_copy; so the plain rule matches.
        return "gathers before it quantises, which is another result"
    return ""


def prepare(setting: Setting) -> Rewrite:
    """Builds the pass, which registers and traces its rules."""
    declare_ops()
    tree = source()
    assert tree is not None
    sequence_parallelism = load_pass(tree, setting)

    def rewrite(graph: fx.Graph) -> int:
        sequence_parallelism(graph)
        count: int = sequence_parallelism.matched_count
        return count

    return rewrite


PEER = Peer("vLLM's own pass", prepare, supports)
