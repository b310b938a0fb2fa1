"""What all tests share: helpers of this folder can be imported, custom ops are declared."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import torch  # noqa: E402

from spfast.testing import ops  # noqa: E402

torch.set_num_threads(1)
ops.declare()


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)
