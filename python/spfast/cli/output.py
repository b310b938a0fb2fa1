"""How a command ends, and what it prints."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from spfast.errors import FileFormatError

__all__ = [
    "BAD_INPUT",
    "DONE",
    "FAULT",
    "INTERRUPTED",
    "NOTHING_REWRITTEN",
    "ProgressBar",
    "check_output",
    "emit",
]

DONE, NOTHING_REWRITTEN, BAD_INPUT, FAULT = 0, 1, 2, 3
INTERRUPTED = 130  # as shells have it: 128 and the signal's number


def check_output(output: Path, *endings: str) -> None:
    """Refuses a file that cannot be written, or is not named as one of its kind, before any work.

    Raises:
        OSError: It is a folder, it may not be written, or its folder is not there.
        FileFormatError: Its name has none of the endings.
    """
    if output.is_dir():
        raise IsADirectoryError(f"-o {output} is a folder: pass the name of a file")
    if not output.parent.is_dir():
        raise FileNotFoundError(
            f"-o {output} cannot be written: there is no folder {output.parent}"
        )
    if not os.access(output if output.exists() else output.parent, os.W_OK):
        raise PermissionError(f"-o {output} cannot be written: permission is denied")
    if output.suffix not in endings:
        raise FileFormatError(
            f"-o {output} cannot be written: pass a name that ends in {' or '.join(endings)}"
        )


def emit(arguments: argparse.Namespace, record: Any, text: str) -> None:
    """Prints the record as JSON where that was asked for, else the text."""
    if arguments.json:
        print(json.dumps(record, indent=2))
    elif not sys.stdout.isatty() or not _in_colour(text):
        print(text)


# What words mean, in the colours of a terminal.
_COLOURS = {
    r"\brewritten\b": "green",
    r"\bleft\b": "yellow",
    r"\bproblem\b": "red",
    r"%\w+": "cyan",
    r"\b\d[\d,.]*\b": "bold",
}


def _in_colour(text: str) -> bool:
    """Prints a text for a terminal, as wide as it is; False without rich, which does that."""
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        return False
    styled = Text(text)
    for pattern, colour in _COLOURS.items():
        styled.highlight_regex(pattern, colour)
    Console().print(styled)
    return True


class ProgressBar:
    """One line on a terminal's stderr, once the work has taken longer than a second."""

    WIDTH = 24

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._shown = False

    def show(self, share: float, what: str) -> None:
        """Draws the bar anew."""
        if not sys.stderr.isatty() or time.monotonic() - self._start < 1.0:
            return
        self._shown = True
        filled = round(share * self.WIDTH)
        bar = "#" * filled + "." * (self.WIDTH - filled)
        print(f"\r\x1b[K[{bar}] {share:4.0%} {what}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Takes the bar off the screen."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
