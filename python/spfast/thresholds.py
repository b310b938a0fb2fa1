"""From how many tokens on sequence parallelism is worth its collectives, by device.

The table is data: :data:`DEFAULT_THRESHOLDS` holds what the original pass knows, and a user puts
own rows in front of it with ``SequenceParallelConfig(thresholds=(mine, *DEFAULT_THRESHOLDS))``.
An explicit ``min_token_num`` always wins over the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spfast.errors import ConfigError

if TYPE_CHECKING:
    import torch

__all__ = [
    "DEFAULT_PAIR_THRESHOLDS",
    "DEFAULT_THRESHOLDS",
    "DeviceKind",
    "PairThreshold",
    "Threshold",
    "find_threshold",
    "pair_obstacle",
    "threshold_tokens",
]

_CUDA_ARCH = re.compile(r"sm_?(\d+)(\d)[a-z]?")


@dataclass(frozen=True)
class DeviceKind:
    """What a threshold depends on: the kind of device and, on CUDA, its compute capability.

    Attributes:
        type: The device type as torch names it, such as ``"cuda"`` or ``"xpu"``.
        capability: (major, minor), or None where unknown or meaningless.
    """

    type: str
    capability: tuple[int, int] | None = None

    @classmethod
    def parse(cls, device: str | torch.device | None) -> DeviceKind | None:
        """Reads a device: ``"sm90"``, ``"cuda:0"``, ``"xpu"``, a torch.device, or None.

        ``None`` asks torch for the accelerator of this process. A CUDA device without an
        architecture in its name is asked for its capability; where that is impossible, the
        capability stays unknown.

        Args:
            device: The device to read.

        Returns:
            The kind, or None where this process has no accelerator to ask about.

        Raises:
            ConfigError: The text names no device.

        Example:
            >>> DeviceKind.parse("sm100")
            DeviceKind(type='cuda', capability=(10, 0))
        """
        if isinstance(device, str):
            arch = _CUDA_ARCH.fullmatch(device)
            if arch:
                return cls("cuda", (int(arch[1]), int(arch[2])))
        import torch

        if device is None:
            if torch.cuda.is_available():
                device = "cuda"
            elif torch.xpu.is_available():
                device = "xpu"
            else:
                return None
        try:
            parsed = torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise ConfigError(
                f"device={device!r} names no device: pass an architecture such as 'sm90', "
                f"a torch device such as 'cuda:0' or 'xpu', or None"
            ) from error
        if parsed.type == "cuda" and torch.cuda.is_available() and torch.version.cuda:
            return cls("cuda", torch.cuda.get_device_capability(parsed))
        return cls(parsed.type)

    def __str__(self) -> str:
        if self.capability is None:
            return self.type
        return f"{self.type} {self.capability[0]}.{self.capability[1]}"


@dataclass(frozen=True)
class Threshold:
    """One row of the table: on such a device, from this hidden size on, this many MiB a GPU.

    Attributes:
        device: The device type, such as ``"cuda"``.
        major: The compute capability's first number, or None for any.
        minor: Its second number, or None for the whole family.
        min_hidden_size: Models with a smaller hidden size are left alone.
        mib_per_gpu: MiB of activation a GPU from which on the rewrite is worth it.

    Raises:
        ConfigError: A size is not positive, or ``minor`` is given without ``major``.

    Example:
        >>> Threshold("cuda", 8, 9, min_hidden_size=5120, mib_per_gpu=4).tokens(8192, 2, 2)
        512
    """

    device: str
    major: int | None = None
    minor: int | None = None
    min_hidden_size: int = 8192
    mib_per_gpu: int = 8

    def __post_init__(self) -> None:
        if self.major is None and self.minor is not None:
            raise ConfigError(f"minor={self.minor} needs a major: pass both, or neither")
        for name in ("min_hidden_size", "mib_per_gpu"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"{name}={value!r} must be at least 1: pass a positive number")

    def covers(self, kind: DeviceKind) -> bool:
        """Says whether this row speaks about ``kind``."""
        if kind.type != self.device:
            return False
        if self.major is None:
            return True
        if kind.capability is None or kind.capability[0] != self.major:
            return False
        return self.minor is None or kind.capability[1] == self.minor

    def tokens(self, hidden_size: int, element_size: int, tp_size: int) -> int:
        """The number of tokens at which a rank's activation reaches :attr:`mib_per_gpu`."""
        return self.mib_per_gpu * 2**20 * tp_size // (hidden_size * element_size)


@dataclass(frozen=True)
class PairThreshold:
    """From which shape on a collective is worth hiding behind a matrix product, on one device.

    Attributes:
        device: The device type, such as ``"cuda"``.
        itemsize: Bytes of an element of the product's operands: 2 for bfloat16, 1 for float8.
        min_tokens: Tokens that are gathered or scattered, over all ranks.
        min_hidden_size: Features of the stream: of a gathered value, or of the result of a product
            that is scattered.
        major: The compute capability's first number, or None for any.
        minor: Its second number, or None for the whole family.

    Raises:
        ConfigError: A size is not positive, or ``minor`` is given without ``major``.

    Example:
        >>> PairThreshold("cuda", 2, 4096, 4096, 9, 0).covers(DeviceKind("cuda", (9, 0)), 2)
        True
    """

    device: str
    itemsize: int
    min_tokens: int
    min_hidden_size: int
    major: int | None = None
    minor: int | None = None

    def __post_init__(self) -> None:
        if self.major is None and self.minor is not None:
            raise ConfigError(f"minor={self.minor} needs a major: pass both, or neither")
        for name in ("itemsize", "min_tokens", "min_hidden_size"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"{name}={value!r} must be at least 1: pass a positive number")

    def covers(self, kind: DeviceKind, itemsize: int) -> bool:
        """Says whether this row speaks about products of such elements on ``kind``."""
        row = Threshold(self.device, self.major, self.minor)
        return itemsize == self.itemsize and row.covers(kind)


DEFAULT_THRESHOLDS: tuple[Threshold, ...] = (
    Threshold("cuda", 9, 0, min_hidden_size=8192, mib_per_gpu=8),
    Threshold("cuda", 10, None, min_hidden_size=8192, mib_per_gpu=32),
    Threshold("xpu", None, None, min_hidden_size=4096, mib_per_gpu=8),
)


# From these shapes on, both pairs of an MLP were faster than their parts on two H200 with the
# kernels here (bench/results/gpu_pairs.json). Smaller pairs lost, or gained less than the noise.
# Pairs on another device, or of another dtype, stay: they were not measured.
DEFAULT_PAIR_THRESHOLDS: tuple[PairThreshold, ...] = (
    PairThreshold("cuda", 2, min_tokens=16384, min_hidden_size=2048, major=9, minor=0),
    PairThreshold("cuda", 2, min_tokens=4096, min_hidden_size=4096, major=9, minor=0),
    PairThreshold("cuda", 2, min_tokens=2048, min_hidden_size=8192, major=9, minor=0),
    PairThreshold("cuda", 1, min_tokens=16384, min_hidden_size=4096, major=9, minor=0),
    PairThreshold("cuda", 1, min_tokens=4096, min_hidden_size=8192, major=9, minor=0),
)


def find_threshold(kind: DeviceKind, table: Iterable[Threshold]) -> Threshold | None:
    """Returns the first row of ``table`` that covers ``kind``, or None.

    Example:
        >>> find_threshold(DeviceKind("cuda", (10, 3)), DEFAULT_THRESHOLDS).mib_per_gpu
        32
    """
    return next((row for row in table if row.covers(kind)), None)


def threshold_tokens(
    hidden_size: int,
    element_size: int,
    tp_size: int,
    kind: DeviceKind | None,
    table: Iterable[Threshold] = DEFAULT_THRESHOLDS,
) -> tuple[int | None, str]:
    """Computes the smallest token count for which the rewrite is worth it, and says why.

    Args:
        hidden_size: Features of the residual stream.
        element_size: Bytes of one of its elements.
        tp_size: Ranks of the tensor-parallel group.
        kind: The device, or None where unknown.
        table: Rows to look in, the first that covers the device counts.

    Returns:
        The token count and the reason, or None and the reason why there is no count.

    Example:
        >>> threshold_tokens(8192, 2, 8, DeviceKind("cuda", (9, 0)))
        (4096, '8 MiB a GPU on cuda 9.0')
    """
    if kind is None:
        return None, "no accelerator was found: pass device or min_token_num"
    row = find_threshold(kind, table)
    if row is None:
        return None, f"no threshold is known for {kind}: pass min_token_num or a row for it"
    if hidden_size < row.min_hidden_size:
        return None, (
            f"hidden_size={hidden_size} is below {row.min_hidden_size}, from which on it pays "
            f"on {kind}: pass min_token_num to apply it all the same"
        )
    tokens = row.tokens(hidden_size, element_size, tp_size)
    return tokens, f"{row.mib_per_gpu} MiB a GPU on {kind}"


def pair_obstacle(
    kind: DeviceKind,
    itemsize: int,
    tokens: int,
    hidden_size: int,
    table: tuple[PairThreshold, ...] = DEFAULT_PAIR_THRESHOLDS,
) -> str:
    """Says why a collective is not worth hiding behind a matrix product; empty where it is.

    Args:
        kind: The device.
        itemsize: Bytes of an element of the product's operands.
        tokens: Tokens over all ranks; for a symbolic number the least it can be, or its example.
        hidden_size: Features of the stream.
        table: Rows to look in. Only rows that cover device and dtype count, and a shape pays if one
            of them allows it. An empty table takes every pair.

    Example:
        >>> pair_obstacle(DeviceKind("cuda", (9, 0)), 1, 8192, 2048)
        'a hidden size of 2048 is below 4096, from which on 1-byte products gain on cuda 9.0'
        >>> pair_obstacle(DeviceKind("cuda", (9, 0)), 2, 2048, 8192)
        ''
        >>> pair_obstacle(DeviceKind("cpu"), 2, 1, 1, table=())
        ''
    """
    if not table:
        return ""
    rows = [row for row in table if row.covers(kind, itemsize)]
    if not rows:
        return (
            f"nobody measured whether {itemsize}-byte products gain on {kind}: "
            f"pass async_tp_thresholds, or () to fuse every pair"
        )
    gain = f"from which on {itemsize}-byte products gain on {kind}"
    wide = [row for row in rows if hidden_size >= row.min_hidden_size]
    if not wide:
        width = min(row.min_hidden_size for row in rows)
        return f"a hidden size of {hidden_size} is below {width}, {gain}"
    least = min(row.min_tokens for row in wide)
    return f"a token count of {tokens} is below {least}, {gain}" if tokens < least else ""
