"""spfast completion: a script with which a shell completes the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from spfast.cli.options import Commands
from spfast.cli.output import DONE
from spfast.errors import ConfigError

__all__ = ["add_to"]


def add_to(commands: Commands, parser: Callable[[], argparse.ArgumentParser]) -> None:
    """Adds the command.

    Args:
        commands: What it is added to.
        parser: Makes the parser of the whole command line.
    """
    command = commands.add_parser("completion", help="print what makes a shell complete spfast")
    command.add_argument("shell", choices=["bash", "zsh", "tcsh"], help="the shell")
    command.set_defaults(run=lambda arguments: _completion(arguments, parser()))


def _completion(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    try:
        import shtab
    except ImportError:
        raise ConfigError(
            "completion needs shtab, which is missing: pip install 'spfast[completion]'"
        ) from None
    print(shtab.complete(parser, shell=arguments.shell))
    return DONE
