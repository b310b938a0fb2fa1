"""The command line: spfast demo | apply | explain | inspect | bench | doctor.

Exit codes: 0 done, 1 nothing rewritten (or something missing) although --strict asked for it, 2 bad
input, 3 a fault inside spfast. Only this file prints.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spfast.errors import (
    ConfigError,
    FileFormatError,
    InternalError,
    SpfastError,
    VerificationError,
)

if TYPE_CHECKING:
    from torch import fx
    from torch.export import ExportedProgram

    from spfast.config import SequenceParallelConfig

__all__ = ["main"]

DONE, NOTHING_REWRITTEN, BAD_INPUT, FAULT = 0, 1, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments without the program's name; None takes those of the process.

    Returns:
        The exit code.

    Example:
        >>> main(["inspect", "no_such_file.spfx"])
        2
    """
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except (VerificationError, InternalError) as error:
        print(f"spfast: fault: {error}", file=sys.stderr)
        return FAULT
    except (SpfastError, OSError) as error:
        print(f"spfast: error: {error}", file=sys.stderr)
        return BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spfast",
        description="Sequence parallelism for torch.fx graphs, at native speed.",
        epilog="exit codes: 0 done, 1 nothing rewritten with --strict, 2 bad input, 3 a fault",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="rewrite two bundled 80-layer graphs and report")
    demo.set_defaults(run=_demo)

    apply = commands.add_parser("apply", help="rewrite the graph in FILE")
    apply.add_argument("-o", "--output", type=Path, metavar="OUT", help="write the result there")
    apply.add_argument("--plan", action="store_true", help="show every edit")
    apply.add_argument(
        "--strict", action="store_true", help="exit with 1 where nothing was rewritten"
    )
    apply.set_defaults(run=_apply)

    explain = commands.add_parser("explain", help="say for every all_reduce why, or why not")
    explain.add_argument(
        "--strict", action="store_true", help="exit with 1 where nothing would be rewritten"
    )
    explain.set_defaults(run=_explain)

    inspect = commands.add_parser("inspect", help="say what the graph in FILE is made of")
    inspect.set_defaults(run=_inspect)

    bench = commands.add_parser("bench", help="run the benchmark")
    bench.add_argument("--quick", action="store_true", help="less of everything, in a minute")
    bench.set_defaults(run=_bench)

    doctor = commands.add_parser("doctor", help="say what is found of a host, and what is missing")
    doctor.add_argument("host", choices=["vllm"], help="the host to look at")
    doctor.add_argument(
        "--strict", action="store_true", help="exit with 1 where something is missing"
    )
    doctor.set_defaults(run=_doctor)

    for command in (apply, explain, inspect):
        command.add_argument("file", type=Path, metavar="FILE", help="a .spfx table or a .pt2")
    for command in (apply, explain):
        _add_config(command)
    for command in (demo, apply, explain, inspect, bench, doctor):
        command.add_argument("--json", action="store_true", help="write JSON to stdout")
    return parser


def _add_config(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("configuration (what is absent is looked up)")
    group.add_argument("--tp-size", type=int, metavar="N", help="ranks of the group")
    group.add_argument("--tp-rank", type=int, metavar="R", help="this rank, 0 where --tp-size is")
    group.add_argument("--group-name", metavar="NAME", help="only this group's all_reduces")
    group.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="NAME=SIZE:RANK",
        help="ranks of one group, and this rank in it; may be repeated",
    )
    group.add_argument("--divisibility", default="guard", help="guard, prove or assume")
    group.add_argument("--recognise", default="both", help="patterns, rowwise or both")
    group.add_argument("--validate", action="store_true", help="prove the result right")


def _config(arguments: argparse.Namespace) -> SequenceParallelConfig:
    from spfast.config import SequenceParallelConfig

    rank = arguments.tp_rank
    if rank is None and arguments.tp_size is not None:
        rank = 0
    return SequenceParallelConfig(
        tp_size=arguments.tp_size,
        tp_rank=rank,
        group_name=arguments.group_name,
        groups=_groups(arguments.group),
        divisibility=arguments.divisibility,
        recognise=arguments.recognise,
        validate=arguments.validate,
    )


def _groups(texts: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Each NAME=SIZE:RANK; a name may hold any character."""
    found: dict[str, tuple[int, int]] = {}
    for text in texts:
        name, _, numbers = text.rpartition("=")
        size, _, rank = numbers.partition(":")
        try:
            given = (int(size), int(rank))
        except ValueError:
            raise ConfigError(
                f"--group {text} is not NAME=SIZE:RANK: pass one such as tp=8:0"
            ) from None
        if name in found:
            raise ConfigError(f"--group {text} names a group twice: pass it once")
        found[name] = given
    return found


# --- commands ---------------------------------------------------------------------------------


def _demo(arguments: argparse.Namespace) -> int:
    from spfast import demo

    bar = _ProgressBar()
    try:
        report = demo.run(bar.show)
    finally:
        bar.clear()
    _emit(arguments, report.to_json(), str(report))
    return DONE


def _apply(arguments: argparse.Namespace) -> int:
    import spfast

    _check_output(arguments.file, arguments.output)
    graph, program = _load(arguments.file)
    result = spfast.apply(graph, _config(arguments), record_plan=arguments.plan)
    if arguments.output is not None:
        _save(arguments.output, graph, program)
    timings = {
        stage: getattr(result.timings, stage)
        for stage in ("encode", "match", "plan", "commit", "meta", "total")
    }
    record = {
        "file": str(arguments.file),
        "output": str(arguments.output) if arguments.output else None,
        "matched_count": result.matched_count,
        "by_pattern": dict(result.by_pattern),
        "skipped": [
            {"node": site.node, "reason": site.reason, "nearest": site.nearest}
            for site in result.skipped
        ],
        "timings": timings,
    }
    lines = [f"{arguments.file}: {result.matched_count} sites rewritten"]
    lines += [f"  {count:>6,}  {rule}" for rule, count in sorted(result.by_pattern.items())]
    lines += [f"  left as it was: {site.node}: {site.reason}" for site in result.skipped]
    lines += [f"  {stage:<7} {seconds * 1e3:>9.3f} ms" for stage, seconds in timings.items()]
    if arguments.output is not None:
        lines.append(f"  written to {arguments.output}")
    if arguments.plan:
        record["plan"] = result.plan
        lines.append(result.plan)
    _emit(arguments, record, "\n".join(lines))
    return NOTHING_REWRITTEN if arguments.strict and not result.matched_count else DONE


def _explain(arguments: argparse.Namespace) -> int:
    import spfast

    graph, _ = _load(arguments.file)
    explanation = spfast.explain(graph, _config(arguments))
    _emit(arguments, explanation.to_json(), str(explanation))
    rewritten = any(entry.rewritten for entry in explanation.entries)
    return NOTHING_REWRITTEN if arguments.strict and not rewritten else DONE


def _inspect(arguments: argparse.Namespace) -> int:
    from spfast.targets import target_name

    graph, _ = _load(arguments.file)
    ops = Counter(target_name(node.target) for node in graph.nodes if node.op == "call_function")
    kinds = Counter(node.op for node in graph.nodes)
    outputs = len(graph.output_node().all_input_nodes)
    record = {
        "file": str(arguments.file),
        "bytes": arguments.file.stat().st_size,
        "nodes": len(graph.nodes),
        "inputs": kinds["placeholder"],
        "outputs": outputs,
        "ops": dict(ops.most_common()),
    }
    lines = [
        f"{arguments.file}: {record['bytes']:,} bytes",
        f"  {record['nodes']:,} nodes, {record['inputs']:,} inputs, {outputs:,} outputs",
    ]
    lines += [f"  {count:>6,}  {target}" for target, count in ops.most_common()]
    _emit(arguments, record, "\n".join(lines))
    return DONE


def _bench(arguments: argparse.Namespace) -> int:
    from spfast import bench

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    print(bench.run(quick=arguments.quick, json=arguments.json, say=say))
    return DONE


def _doctor(arguments: argparse.Namespace) -> int:
    from spfast.integrations.vllm.doctor import examine

    report = examine()
    _emit(arguments, report.to_json(), str(report))
    return NOTHING_REWRITTEN if arguments.strict and report.problems else DONE


# --- files ------------------------------------------------------------------------------------


def _load(path: Path) -> tuple[fx.Graph, ExportedProgram | None]:
    if path.is_dir() or not path.exists():
        raise FileNotFoundError(f"{path} is not a file: pass a .spfx table or a .pt2 program")
    if path.suffix == ".spfx":
        from spfast import NodeTable
        from spfast.testing import ops

        # A file may come from a machine that has vLLM: declare its operators where it is not.
        ops.declare()
        return NodeTable.load(path).to_graph(), None
    if path.suffix == ".pt2":
        program = _load_program(path)
        return program.graph_module.graph, program
    raise FileFormatError(f"{path} is of no kind that is known: pass a .spfx table or a .pt2")


def _load_program(path: Path) -> ExportedProgram:
    import torch

    # Registers the collectives that an exported program may call.
    import torch.distributed._functional_collectives  # noqa: F401

    try:
        return torch.export.load(path)
    except Exception as error:  # torch.export raises whatever its reader stumbled over
        raise FileFormatError(
            f"{path} is no exported program that torch {torch.__version__} can read "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason'})"
        ) from error


def _check_output(source: Path, output: Path | None) -> None:
    """Refuses an impossible -o before any work is done."""
    if output is None or output.suffix == ".spfx":
        return
    if output.suffix == ".pt2" and source.suffix == ".pt2":
        return
    raise FileFormatError(
        f"{output} cannot be written from {source}: pass a name that ends in .spfx"
        f"{' or .pt2' if source.suffix == '.pt2' else ''}"
    )


def _save(output: Path, graph: fx.Graph, program: ExportedProgram | None) -> None:
    if output.suffix == ".spfx":
        from spfast import NodeTable

        NodeTable.from_graph(graph).save(str(output))
        return
    import torch

    assert program is not None
    program.graph_module.recompile()
    torch.export.save(program, output)


# --- output -----------------------------------------------------------------------------------


def _emit(arguments: argparse.Namespace, record: Any, text: str) -> None:
    print(json.dumps(record, indent=2) if arguments.json else text)


class _ProgressBar:
    """One line on a terminal's stderr, once the work has taken longer than a second."""

    WIDTH = 24

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._shown = False

    def show(self, share: float, what: str) -> None:
        if not sys.stderr.isatty() or time.monotonic() - self._start < 1.0:
            return
        self._shown = True
        filled = round(share * self.WIDTH)
        bar = "#" * filled + "." * (self.WIDTH - filled)
        print(f"\r\x1b[K[{bar}] {share:4.0%} {what}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
