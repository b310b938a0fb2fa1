"""Starts the processes of ranks: forked from processes that have imported torch already.

Each rank is forked from a process of its own. So ranks hash strings differently, and the order of a
set differs from rank to rank, as it does where nothing is forked.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from multiprocessing import forkserver, popen_forkserver
from multiprocessing.context import ForkServerProcess, SpawnProcess
from multiprocessing.process import BaseProcess
from typing import Any
from unittest import mock

import torch

__all__ = ["start_ranks"]

# What ranks need before they do anything else.
_PRELOADED = ["spfast.testing.gloo", "torch._inductor.compile_fx"]

# The process that rank i is forked from; each ends with this process.
_servers: list[forkserver.ForkServer] = []


class _ForkedRank(ForkServerProcess):
    """A process that is forked from its rank's server, not from the one that all share."""

    def __init__(self, rank: int, target: Callable[..., Any], args: tuple[Any, ...]) -> None:
        super().__init__(target=target, args=args, daemon=False)
        self.rank = rank

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        connect = _servers[process_obj.rank].connect_to_new_process
        with mock.patch.object(forkserver, "connect_to_new_process", connect):
            return popen_forkserver.Popen(process_obj)


def start_ranks(
    target: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
) -> list[BaseProcess]:
    """Starts ``target(*arguments[rank])`` in a process for each rank.

    They are forked on Linux, and spawned elsewhere: a device's driver may not outlive a fork, nor
    may macOS's own libraries.
    """
    ranks: list[BaseProcess]
    if sys.platform == "linux" and not torch.accelerator.is_available():
        # All servers begin to import before this waits for the first one.
        for rank in range(len(arguments)):
            if rank == len(_servers):
                _servers.append(forkserver.ForkServer())
                _servers[rank].set_forkserver_preload(_PRELOADED)
            _servers[rank].ensure_running()
        ranks = [_ForkedRank(rank, target, args) for rank, args in enumerate(arguments)]
    else:
        ranks = [SpawnProcess(target=target, args=args, daemon=False) for args in arguments]
    for process in ranks:
        process.start()
    return ranks
