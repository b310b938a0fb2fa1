"""Follows the flag through the making of a VllmConfig, in every version alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spfast.integrations.vllm import obstacles, said
from spfast.integrations.vllm.host_config import config_from_vllm
from spfast.integrations.vllm.hosts import Host
from spfast.integrations.vllm.settings import KEY, Settings, is_enabled

__all__ = ["followed"]


def followed(
    host: Callable[[], Host],
    switch_on: Callable[[Any], None],
    switch_off: Callable[[Any], None],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Wraps ``VllmConfig.__post_init__``, which works out whatever the user left open.

    Args:
        host: The range of versions of this vLLM.
        switch_on: Called before it, where nothing is known to stand in the way.
        switch_off: Called after it, where something turns out to stand in the way.
    """

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def __post_init__(self: Any, *args: Any, **kwargs: Any) -> None:
            Settings.of(self)  # a key that is not known is an error even where nothing is enabled
            if not is_enabled(self) or self.model_config is None:
                original(self, *args, **kwargs)
                return
            obstacle = obstacles.in_the_config(self, host())
            if obstacle is not None:
                _disable(self, obstacle)
                original(self, *args, **kwargs)
                return
            switch_on(self)
            original(self, *args, **kwargs)
            obstacle = obstacles.in_the_result(self)
            if obstacle is None:
                said.on(config_from_vllm(self), self.compilation_config.compile_ranges_endpoints)
                return
            switch_off(self)
            _disable(self, obstacle)

        return __post_init__

    return wrap


def _disable(vllm_config: Any, obstacle: obstacles.Obstacle) -> None:
    """Lets every other process read that the pass is off; the user's own object stays as it is."""
    said.off(obstacle)
    own = {**vllm_config.additional_config[KEY], "enable": False}
    vllm_config.additional_config = {**vllm_config.additional_config, KEY: own}
