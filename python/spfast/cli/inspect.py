"""spfast inspect: what a graph in a file is made of."""

from __future__ import annotations

import argparse
from collections import Counter

from spfast.cli.files import load
from spfast.cli.options import Commands, add_file, add_json
from spfast.cli.output import DONE, emit

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser("inspect", help="say what the graph in FILE is made of")
    add_file(parser)
    add_json(parser)
    parser.set_defaults(run=_inspect)


def _inspect(arguments: argparse.Namespace) -> int:
    from spfast.fxgraph.targets import target_name

    graph, _ = load(arguments.file)
    ops = Counter(target_name(node.target) for node in graph.nodes if node.op == "call_function")
    kinds = Counter(node.op for node in graph.nodes)
    outputs = len(graph.output_node().all_input_nodes)
    record = {
        "file": str(arguments.file),
        "bytes": arguments.file.stat().st_size if arguments.file.exists() else None,
        "nodes": len(graph.nodes),
        "inputs": kinds["placeholder"],
        "outputs": outputs,
        "ops": dict(ops.most_common()),
    }
    size = f"{record['bytes']:,} bytes" if record["bytes"] is not None else "from a pipe"
    lines = [
        f"{arguments.file}: {size}",
        f"  {record['nodes']:,} nodes, {record['inputs']:,} inputs, {outputs:,} outputs",
    ]
    lines += [f"  {count:>6,}  {target}" for target, count in ops.most_common()]
    emit(arguments, record, "\n".join(lines))
    return DONE
