"""The peer that people use today: torch._inductor.pattern_matcher, with equivalent rules.

Each rule is registered once per epsilon, as vLLM's pass does. At every match torch traces the
search function again with the real shapes, matches again, and traces the replacement: that is its
design, not our choice.
"""

from __future__ import annotations

import torch.fx as fx
from torch._inductor import pattern_matcher as pm
from torch._subclasses.fake_tensor import FakeTensorMode

from .peer import Peer, Rewrite, Setting
from .rules import cleanup, rules, undecomposed


def prepare(setting: Setting) -> Rewrite:
    """Registers the rules in one PatternMatcherPass."""
    matcher = pm.PatternMatcherPass(pass_name="sequence_parallelism_peer")
    with FakeTensorMode():
        for rule in rules(setting):
            pm.register_replacement(
                rule.search,
                rule.replace,
                rule.inputs(),
                pm.fwd_only,
                matcher,
                skip_duplicates=True,
                **undecomposed(pm.register_replacement),
            )

    def rewrite(graph: fx.Graph) -> int:
        count = matcher.apply(graph)
        cleanup(graph)
        return count

    return rewrite


PEER = Peer("PatternMatcherPass", prepare)
