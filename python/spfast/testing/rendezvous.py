"""Where processes wait for each other without a collective, so that one that fails lets all go on.

A collective hangs where one rank never comes. Here each rank writes to the store of
torch.distributed how far it is, and looks how far the others are. A rank that raises writes this.
"""

from __future__ import annotations

import base64
import pickle
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch.distributed as dist

from spfast.errors import RankMismatchError

__all__ = ["PeerEnded", "Rendezvous"]


class PeerEnded(RankMismatchError):
    """Another rank has ended, and will not come to a collective that this rank is about to call."""


class Rendezvous:
    """The meeting place of some ranks for one purpose.

    Args:
        store: Any store of torch.distributed that all the ranks share.
        name: Tells this meeting from others; the same on all ranks.
        rank: This rank.
        ranks: All ranks that take part.
        timeout: Seconds after which a rank that does not come is given up.

    Example:
        >>> alone = Rendezvous(dist.HashStore(), "example", 0, [0], timeout=1.0)
        >>> alone.gate("tp", [0])
        >>> alone.exchange("done")
        {0: 'done'}
    """

    def __init__(
        self, store: Any, name: str, rank: int, ranks: Sequence[int], timeout: float
    ) -> None:
        distributed: Any = dist
        self._store = distributed.PrefixStore(f"spfast/{name}", store)
        self._rank = rank
        self._ranks = list(ranks)
        self._timeout = timeout
        self._passed: Counter[str] = Counter()

    def gate(self, name: str, ranks: Sequence[int]) -> None:
        """Returns when all of ``ranks`` are at this gate as often as this rank is.

        Raises:
            PeerEnded: One of them has called :meth:`exchange`, or does not come in time.
        """
        count = self._passed[name]
        self._passed[name] += 1
        self._store.set(f"{self._rank}/{name}/{count}", "here")
        for peer in ranks:
            if peer != self._rank and peer in self._ranks:
                self._wait(peer, f"{peer}/{name}/{count}")

    def exchange(self, said: Any) -> Mapping[int, Any]:
        """Ends this rank's part, and returns what each rank said when it ended.

        Args:
            said: Anything that pickles.

        Raises:
            RankMismatchError: A rank does not end in time.
        """
        self._store.set(f"{self._rank}/end", base64.b64encode(pickle.dumps(said)).decode())
        heard = {}
        for peer in self._ranks:
            self._wait(peer, f"{peer}/end")
            heard[peer] = pickle.loads(base64.b64decode(self._store.get(f"{peer}/end")))
        return heard

    def _wait(self, peer: int, key: str) -> None:
        end = f"{peer}/end"
        deadline = time.monotonic() + self._timeout
        pause = 0.0002
        while not self._store.check([key]):
            if key != end and self._store.check([end]):
                if self._store.check([key]):
                    return  # it came, and ended since
                raise PeerEnded(f"rank {peer} has ended before the collective that is due")
            if time.monotonic() > deadline:
                kind = RankMismatchError if key == end else PeerEnded
                raise kind(f"rank {peer} did not come within {self._timeout:g} seconds")
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
