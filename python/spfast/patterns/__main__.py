"""``python -m spfast.patterns FILE`` traces the default rules and writes them to a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from spfast.patterns import traced_default
from spfast.patterns.dumping import dump


def main() -> None:
    """Traces the default rules and writes them to the file that is named."""
    parser = argparse.ArgumentParser(
        prog="python -m spfast.patterns", description="Write the default rules anew."
    )
    parser.add_argument("file", type=Path, help="the file to write")
    parser.parse_args().file.write_bytes(dump(traced_default()))


if __name__ == "__main__":
    main()
