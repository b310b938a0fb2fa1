"""Runs the command line as ``python -m spfast``."""

import sys

from spfast.cli import main

if __name__ == "__main__":
    sys.exit(main())
