"""The command line between pipes, and when it is interrupted."""

from __future__ import annotations

import array
import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from spfast.cli.interrupts import interruptible

RANKS = ("--tp-size", "8")


def _process(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "spfast", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # A shell has what runs in its background ignore interrupts, and children inherit that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def test_a_table_is_read_from_a_pipe(saved: Path) -> None:
    with saved.open("rb") as file:
        out, err = _process("explain", "-", *RANKS, stdin=file).communicate(timeout=120)
    assert out.startswith(b"5 all_reduces, 5 rewritten, 0 left\n") and not err


def test_what_comes_from_a_pipe_and_is_no_table(tmp_path: Path) -> None:
    process = _process("explain", "-", *RANKS, stdin=subprocess.PIPE)
    _, err = process.communicate(b"nothing of the kind", timeout=120)
    assert process.returncode == 2 and b"standard input" in err and b"Traceback" not in err


def test_a_closed_pipe_ends_with_two_and_without_a_word(saved: Path) -> None:
    process = _process("explain", str(saved), *RANKS)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(timeout=120) == 2


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["--help", "--version", "inspect {}"])
def test_output_that_cannot_be_written_ends_with_two(
    command: str, unbuffered: str, saved: Path
) -> None:
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "spfast", *command.format(saved).split()],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert ended.returncode == 2
    assert ended.stderr == b"spfast: error: [Errno 28] No space left on device\n"


def test_an_interrupt_ends_without_a_traceback(saved: Path) -> None:
    process = _process("explain", "-", *RANKS, stdin=subprocess.PIPE)
    assert process.stdin is not None and process.stderr is not None
    process.stdin.write(saved.read_bytes())  # it waits for more
    process.stdin.flush()
    _wait_until_it_reads(process)
    process.send_signal(signal.SIGINT)
    assert process.stderr.read() == b"spfast: interrupted\n" and process.wait(timeout=120) == 130


def _wait_until_it_reads(process: subprocess.Popen[bytes]) -> None:
    """Until the pipe to it is empty: it has started, and has taken what there is."""
    assert process.stdin is not None
    held = array.array("i", [1])
    while held[0]:
        assert process.poll() is None
        time.sleep(0.05)
        fcntl.ioctl(process.stdin.fileno(), termios.FIONREAD, held)


def test_an_interrupt_is_one_whatever_an_import_made_of_it() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    try:
        with pytest.raises(KeyboardInterrupt), interruptible():
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                raise RecursionError("a module is half made") from None
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_error_without_an_interrupt_stays_what_it_is() -> None:
    with pytest.raises(RecursionError), interruptible():
        raise RecursionError("of its own")


@pytest.mark.parametrize("closed", ["stdin", "stdout"])
def test_a_closed_stream_is_no_traceback(saved: Path, closed: str) -> None:
    number, file = {"stdin": (0, "-"), "stdout": (1, str(saved))}[closed]
    script = f"exec {number}>&-; exec {sys.executable} -m spfast explain {file} --tp-size 8"
    ended = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=120)
    if closed == "stdin":
        assert ended.returncode == 2
        assert ended.stderr.startswith("spfast: error: standard input is closed: pass a file")
    else:
        assert (ended.returncode, ended.stderr) == (0, "")
