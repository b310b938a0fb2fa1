"""Graphs to rewrite: built node by node, or captured from transformers models."""

from __future__ import annotations


def declare_ops() -> None:
    """Declares every op that the workloads use, where the real ones are absent."""
    from . import functional, vllm_ir

    vllm_ir.declare_ops()
    functional.declare_ops()
