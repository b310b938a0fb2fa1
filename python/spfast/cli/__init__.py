"""The command line: spfast apply | explain | report | inspect | demo | bench | doctor.

Exit codes: 0 done, 1 nothing rewritten (or something missing) although --strict asked for it, 2 bad
input, 3 a fault inside spfast. Only this package prints. A command is a file here that adds itself
to the parser.
"""

from spfast.cli.entry import main
from spfast.cli.output import BAD_INPUT, DONE, FAULT, INTERRUPTED, NOTHING_REWRITTEN

__all__ = ["BAD_INPUT", "DONE", "FAULT", "INTERRUPTED", "NOTHING_REWRITTEN", "main"]
