"""The tests' own surroundings: nothing is asked of another machine."""

from __future__ import annotations

import socket

import pytest


def test_other_machines_are_out_of_reach() -> None:
    with socket.socket() as asking, pytest.raises(OSError, match="tests run without a network"):
        asking.connect(("192.0.2.1", 80))  # reserved for documentation: nobody is there


def test_this_machine_is_within_reach() -> None:
    with socket.socket() as listening, socket.socket() as asking:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        asking.connect(listening.getsockname())
