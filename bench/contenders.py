"""Who takes part, in the order of the tables."""

from __future__ import annotations

from .harness import Contender
from .peers import (
    hand_edits,
    pattern_matcher,
    pattern_matcher_cached,
    reference,
    spfast_peer,
    subgraph_rewriter,
    vllm_pass,
)
from .peers.peer import Peer
from .workloads.catalogue import Workload

SPFAST = spfast_peer.PEER
HAND = hand_edits.PEER
MATCHER = pattern_matcher.PEER
VLLM = vllm_pass.PEER
PEERS: tuple[Peer, ...] = (
    SPFAST,
    HAND,
    VLLM,
    MATCHER,
    pattern_matcher_cached.PEER,
    subgraph_rewriter.PEER,
    reference.PEER,
)


def contenders(workload: Workload, peers: tuple[Peer, ...] = PEERS) -> list[Contender]:
    """The peers that can do a workload, ready to run; preparing them is not timed."""
    return [
        Contender(peer.name, peer.prepare(workload.setting))
        for peer in peers
        if not peer.supports(workload.setting)
    ]


def absent(workload: Workload, peers: tuple[Peer, ...] = PEERS) -> dict[str, str]:
    """Why the others cannot."""
    reasons = {peer.name: peer.supports(workload.setting) for peer in peers}
    return {name: reason for name, reason in reasons.items() if reason}
