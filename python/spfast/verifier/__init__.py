"""An independent proof that a rewritten graph computes what the original one did.

It shares no code with the pass: both graphs are read anew, each value is followed through the
operators' own meaning (whole, this rank's chunk, or an unfinished collective), and every output and
effect must be the value that it was.
"""

from spfast.verifier.proof import verify
from spfast.verifier.report import Problem, Verification
from spfast.verifier.snapshot import Snapshot, snapshot

__all__ = ["Problem", "Snapshot", "Verification", "snapshot", "verify"]
