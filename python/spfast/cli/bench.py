"""What `spfast bench` runs: the benchmark suite, installed beside the package.

The suite is the repository's ``bench`` folder; an installation has it as
``spfast._suite.bench``.
"""

from __future__ import annotations

import importlib
import json as jsonlib
import logging
import sys
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

from spfast.errors import ConfigError

__all__ = ["run"]

logger = logging.getLogger("spfast")


def run(
    *, quick: bool = False, json: bool = False, say: Callable[[str], None] = logger.info
) -> str:
    """Runs the benchmark and returns its report.

    Args:
        quick: Less of everything, in under a minute; results are asserted, times are not.
        json: Whether the report is JSON.
        say: Is told of the progress, a line at a time.

    Raises:
        AssertionError: Two contenders that should do the same work did not.
        ConfigError: The suite is not installed, or the whole of it was asked for and what draws its
            pictures is missing.
    """
    if quick:
        suite = _suite("quick")
        record = suite.measure(say)
        return jsonlib.dumps(record, indent=2) if json else str(suite.text(record))
    if util.find_spec("matplotlib") is None:
        raise ConfigError(
            "the whole benchmark draws pictures, and matplotlib is missing: "
            "pip install 'spfast[bench]', or pass --quick"
        )
    whole = _suite("run")
    record = whole.measure(_suite("experiments").Scale(), say)
    files = whole.write(record, Path("spfast-bench"))
    return jsonlib.dumps(record, indent=2) if json else "\n".join(map(str, files))


def _suite(module: str) -> Any:
    if util.find_spec("spfast._suite") is not None:
        return importlib.import_module(f"spfast._suite.bench.{module}")
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "bench" / f"{module}.py").is_file():
        raise ConfigError(
            "the benchmark suite is not installed with this spfast: run it in a checkout, by "
            "'make bench'"
        )
    if str(checkout) not in sys.path:
        sys.path.append(str(checkout))
    return importlib.import_module(f"bench.{module}")
