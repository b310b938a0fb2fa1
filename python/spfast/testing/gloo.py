"""Runs a function on N real processes joined by gloo, and brings back what each returned."""

from __future__ import annotations

import multiprocessing.util
import os
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from spfast.errors import SpfastError
from spfast.testing.forks import start_ranks


class RankError(SpfastError, RuntimeError):
    """A rank raised, died or did not end in time; the message carries its traceback."""


def run_ranks(
    function: Callable[..., Any],
    world_size: int,
    args: Sequence[Any] = (),
    timeout: float = 180.0,
    environment: Mapping[str, str] | None = None,
) -> list[Any]:
    """Calls ``function(rank, world_size, *args)`` on processes joined in one gloo group.

    The processes meet through a file in a private folder (no port is taken) and run one thread
    each. They are spawned; on Linux without an accelerator, they are forked from processes that
    imported torch at the first call, which takes a fraction of the time.

    Args:
        function: a function of a module (it is pickled by name); what it returns must pickle.
        world_size: the number of processes.
        args: further arguments; pickled.
        timeout: seconds for the whole run, start-up included, and for each collective.
        environment: variables set in each process before ``function`` is imported there by name.

    Returns:
        What each rank returned, by rank.

    Raises:
        RankError: any rank failed; all are ended before it is raised.

    Example:
        >>> from spfast.testing.gloo import run_ranks
        >>> run_ranks(max, 1)  # max(rank, world_size); a script needs an if __name__ == "__main__"
        [1]
    """
    if world_size < 1:
        raise ValueError(f"world_size is {world_size}: at least one rank is needed")
    deadline = time.monotonic() + timeout
    variables = {**os.environ, **(environment or {})}
    with tempfile.TemporaryDirectory(prefix="spfast-gloo-") as folder:
        payload = pickle.dumps((function, tuple(args)))
        processes = start_ranks(
            _rank_main,
            [(payload, rank, world_size, folder, timeout, variables) for rank in range(world_size)],
        )
        try:
            _wait(processes, Path(folder), deadline)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                process.join()
        return [
            _read(Path(folder), rank, process.exitcode) for rank, process in enumerate(processes)
        ]


def _wait(processes: Sequence[Any], folder: Path, deadline: float) -> None:
    """Waits until all have ended; one that failed ends the wait, for its peers may hang."""
    while any(process.is_alive() for process in processes):
        if time.monotonic() > deadline:
            hanging = [rank for rank, process in enumerate(processes) if process.is_alive()]
            raise RankError(
                f"ranks {hanging} did not end in time: raise the timeout, "
                "or look for a collective that hangs"
            )
        if any(not process.is_alive() and process.exitcode for process in processes):
            # The first failure is the cause; give its peers a moment to report theirs.
            time.sleep(0.5)
            break
        time.sleep(0.02)
    failures = []
    for rank, process in enumerate(processes):
        report = folder / f"error-{rank}.txt"
        if report.exists():
            failures.append(f"rank {rank}:\n{report.read_text()}")
        elif not process.is_alive() and process.exitcode:
            failures.append(f"rank {rank} died with exit code {process.exitcode}")
    if failures:
        raise RankError("\n".join(failures))


def _read(folder: Path, rank: int, exit_code: int | None) -> Any:
    result = folder / f"result-{rank}.pkl"
    if not result.exists():
        raise RankError(f"rank {rank} ended with exit code {exit_code} and no result")
    return pickle.loads(result.read_bytes())


def _rank_main(
    payload: bytes,
    rank: int,
    world_size: int,
    folder: str,
    timeout: float,
    environment: dict[str, str],
) -> None:
    # The process that this one is forked from has the variables of the first call.
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    home = Path(folder)
    try:
        torch.set_num_threads(1)
        function, args = pickle.loads(payload)
        store = vars(torch.distributed)["FileStore"](str(home / "store"), world_size)
        dist.init_process_group(
            "gloo",
            store=store,
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout),
        )
        try:
            result = function(rank, world_size, *args)
            dist.barrier()
        finally:
            dist.destroy_process_group()
        pending = home / f"result-{rank}.tmp"
        pending.write_bytes(pickle.dumps(result))
        pending.rename(home / f"result-{rank}.pkl")
        # The process may hold workers of compilers and threads of backends by now. These may abort
        # when the interpreter is torn down. The result is sent already, so it is not torn down.
        # Only locks are given back, for multiprocessing would warn of their loss.
        multiprocessing.util._run_finalizers(0)  # type: ignore[attr-defined]
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    except BaseException:
        (home / f"error-{rank}.txt").write_text(traceback.format_exc())
        raise SystemExit(1) from None
