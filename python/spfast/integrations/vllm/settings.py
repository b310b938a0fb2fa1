"""What a user says in vLLM's ``additional_config`` under ``"spfast"``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from spfast.errors import ConfigError

__all__ = ["KEY", "Settings", "is_enabled"]

KEY = "spfast"


@dataclass(frozen=True)
class Settings:
    """The settings of the plugin; each name is a key of the JSON object.

    Attributes:
        enable: Whether the plugin does anything.
        min_token_num: The smallest number of tokens from which on graphs are rewritten; None takes
            spfast's table by device and hidden size.
        full_graph: Whether the plugin may leave vLLM's graph whole (``splitting_ops=[]``) where
            the user has not said how to split it. A graph in pieces gains nothing.
        recognise: As in :class:`spfast.SequenceParallelConfig`.
        validate: As there.
        debug_dump: As there.
        gather_bytes: As there.
        gather_quantized: As there.
        async_tp: As there; the plugin enables symmetric memory for the tensor-parallel group.

    Example:
        >>> Settings.parse({"enable": True, "min_token_num": 1024}).min_token_num
        1024
    """

    enable: bool = False
    min_token_num: int | None = None
    full_graph: bool = True
    recognise: str = "both"
    validate: bool = False
    debug_dump: str | None = None
    gather_bytes: bool | None = None
    gather_quantized: bool = True
    async_tp: bool = False

    def __post_init__(self) -> None:
        for name in ("enable", "full_graph"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(
                    f'additional_config["{KEY}"]: {name}={getattr(self, name)!r} is neither true '
                    f"nor false"
                )

    @classmethod
    def parse(cls, found: object) -> Settings:
        """Reads the object under ``"spfast"``; None counts as not given.

        Raises:
            ConfigError: It is no object, or has a key or a value that is not known.
        """
        if found is None:
            return cls()
        if not isinstance(found, dict):
            raise ConfigError(
                f'additional_config["{KEY}"] is {found!r}: pass an object, such as '
                f'{{"enable": true}}'
            )
        known = [field.name for field in dataclasses.fields(cls)]
        for name in found:
            if name not in known:
                raise ConfigError(
                    f'additional_config["{KEY}"] has no key {name!r}: pass one of '
                    f"{', '.join(known)}"
                )
        return cls(**found)

    @classmethod
    def of(cls, vllm_config: Any) -> Settings:
        """Reads a VllmConfig's settings; defaults where there are none."""
        additional = getattr(vllm_config, "additional_config", None)
        return cls.parse(additional.get(KEY) if isinstance(additional, dict) else None)

    def pass_fields(self) -> dict[str, Any]:
        """The fields that go into a SequenceParallelConfig as they are."""
        own = ("enable", "min_token_num", "full_graph")
        names = [field.name for field in dataclasses.fields(self) if field.name not in own]
        return {name: getattr(self, name) for name in names}


def is_enabled(vllm_config: Any) -> bool:
    """Says whether the plugin is on, cheaply: it is asked at every step of an engine.

    Example:
        >>> from types import SimpleNamespace as Config
        >>> is_enabled(Config(additional_config={"spfast": {"enable": True}}))
        True
    """
    additional = getattr(vllm_config, "additional_config", None)
    if not isinstance(additional, dict):
        return False
    own = additional.get(KEY)
    return isinstance(own, dict) and own.get("enable") is True
