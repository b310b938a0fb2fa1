"""spfast demo and spfast bench: what the pass does on this machine, and how long it takes."""

from __future__ import annotations

import argparse
import sys

from spfast.cli.options import Commands, add_json
from spfast.cli.output import DONE, ProgressBar, emit

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Adds the commands."""
    demo = commands.add_parser("demo", help="rewrite two bundled 80-layer graphs and report")
    add_json(demo)
    demo.set_defaults(run=_demo)
    bench = commands.add_parser("bench", help="run the benchmark")
    bench.add_argument("--quick", action="store_true", help="less of everything, in a minute")
    add_json(bench)
    bench.set_defaults(run=_bench)


def _demo(arguments: argparse.Namespace) -> int:
    from spfast.cli import demo

    bar = ProgressBar()
    try:
        report = demo.run(bar.show)
    finally:
        bar.clear()
    emit(arguments, report.to_json(), str(report))
    return DONE


def _bench(arguments: argparse.Namespace) -> int:
    from spfast.cli import bench

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    print(bench.run(quick=arguments.quick, json=arguments.json, say=say))
    return DONE
