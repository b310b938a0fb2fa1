"""How a command ends, and what it prints."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

__all__ = ["BAD_INPUT", "DONE", "FAULT", "NOTHING_REWRITTEN", "ProgressBar", "emit"]

DONE, NOTHING_REWRITTEN, BAD_INPUT, FAULT = 0, 1, 2, 3


def emit(arguments: argparse.Namespace, record: Any, text: str) -> None:
    """Prints the record as JSON where that was asked for, else the text."""
    print(json.dumps(record, indent=2) if arguments.json else text)


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
