"""A drop-in for `torch._inductor.pattern_matcher` that traces once and rewrites from templates.

Write `from spfast import pattern_matcher as pm` for `import torch._inductor.pattern_matcher as pm`:
passes run unchanged and give the same graphs. What is not listed here is torch's own object.

Example:
    >>> import torch
    >>> from spfast import pattern_matcher as pm
    >>> pm.MULTIPLE is torch._inductor.pattern_matcher.MULTIPLE
    True
"""

from __future__ import annotations

from typing import Any

import torch._inductor.pattern_matcher as _stock

from spfast.pattern_matcher.passes import PatternMatcherPass
from spfast.pattern_matcher.register import gen_register_replacement, register_replacement

_OWN = ("PatternMatcherPass", "gen_register_replacement", "register_replacement")

globals().update(
    {
        name: getattr(_stock, name)
        for name in dir(_stock)
        if not name.startswith("_") and name not in _OWN and name != "annotations"
    }
)

__all__ = sorted(  # noqa: PLE0605 - as many names as the installed torch has
    {*_OWN, *(name for name in dir(_stock) if not name.startswith("_"))}
)


def __getattr__(name: str) -> Any:
    """Names that begin with an underscore are torch's too."""
    return getattr(_stock, name)


_ = (PatternMatcherPass, gen_register_replacement, register_replacement)
