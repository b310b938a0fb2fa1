"""The thresholds table: which row covers a device, and what it computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from spfast.errors import ConfigError
from spfast.thresholds import (
    DEFAULT_THRESHOLDS,
    DeviceKind,
    Threshold,
    find_threshold,
    threshold_tokens,
)


@pytest.mark.parametrize(
    ("device", "kind"),
    [
        ("sm90", DeviceKind("cuda", (9, 0))),
        ("sm_90a", DeviceKind("cuda", (9, 0))),
        ("sm100", DeviceKind("cuda", (10, 0))),
        ("sm121", DeviceKind("cuda", (12, 1))),
        ("xpu", DeviceKind("xpu")),
        ("xpu:3", DeviceKind("xpu")),
        ("cpu", DeviceKind("cpu")),
        (torch.device("meta"), DeviceKind("meta")),
    ],
)
def test_devices_are_read(device: Any, kind: DeviceKind) -> None:
    assert DeviceKind.parse(device) == kind


@pytest.mark.parametrize("device", ["", "sm", "sm9", "gpu-of-mine", 3.5])
def test_what_is_no_device_is_refused(device: Any) -> None:
    with pytest.raises(ConfigError, match="names no device"):
        DeviceKind.parse(device)


def test_without_a_name_this_process_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    assert DeviceKind.parse(None) is None
    assert DeviceKind.parse("cuda:0") == DeviceKind("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.version, "cuda", "12.9")
    assert DeviceKind.parse(None) == DeviceKind("cuda", (9, 0))


@pytest.mark.parametrize(
    ("kind", "mib"),
    [
        (DeviceKind("cuda", (9, 0)), 8),
        (DeviceKind("cuda", (10, 0)), 32),
        (DeviceKind("cuda", (10, 3)), 32),
        (DeviceKind("xpu"), 8),
        (DeviceKind("cuda", (9, 1)), None),
        (DeviceKind("cuda", (8, 0)), None),
        (DeviceKind("cuda", (12, 0)), None),
        (DeviceKind("cuda"), None),
        (DeviceKind("cpu"), None),
    ],
)
def test_the_default_table(kind: DeviceKind, mib: int | None) -> None:
    row = find_threshold(kind, DEFAULT_THRESHOLDS)
    assert (row.mib_per_gpu if row else None) == mib


def test_the_formula() -> None:
    assert threshold_tokens(8192, 2, 8, DeviceKind("cuda", (9, 0)))[0] == 8 * 2**20 * 8 // 16384
    assert threshold_tokens(10000, 2, 3, DeviceKind("cuda", (9, 0)))[0] == 8 * 2**20 * 3 // 20000


def test_an_unknown_device_has_no_threshold_and_says_what_to_pass() -> None:
    tokens, reason = threshold_tokens(8192, 2, 8, None)
    assert tokens is None and "pass device or min_token_num" in reason


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"minor": 0}, "minor=0 needs a major"),
        ({"mib_per_gpu": 0}, "mib_per_gpu=0 must be at least 1"),
        ({"min_hidden_size": -1}, "min_hidden_size=-1 must be at least 1"),
    ],
)
def test_bad_rows_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Threshold("cuda", **fields)
