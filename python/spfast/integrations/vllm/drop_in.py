"""spfast's pass for a vLLM that has one of its own (up to 0.31) and has it switched on."""

from __future__ import annotations

import os

from spfast.errors import ConfigError
from spfast.integrations.vllm import plugin
from spfast.integrations.vllm.changes import refusals
from spfast.integrations.vllm.hosts import host_of, vllm_version
from spfast.integrations.vllm.takeover import ENVIRONMENT

__all__ = ["install"]


def install() -> str:
    """Makes a vLLM that has a SequenceParallelismPass (up to 0.31) build spfast's in its place.

    It does not matter what of vLLM was imported before. The call also holds for the workers that
    this process starts, for they load spfast's plugin and inherit the environment. vLLM's own
    switch says whether there is such a pass:
    ``--compilation-config '{"pass_config": {"enable_sp": true}}'``.

    Returns:
        The name of the vLLM module that builds it.

    Raises:
        ConfigError: There is no vLLM, it has no such pass, or it is not as expected.
    """
    version = vllm_version()
    host = host_of(version)
    if version is None:
        raise ConfigError("vLLM cannot be imported: install it in this environment")
    if host is None or not host.own_pass:
        raise ConfigError(
            f"vLLM {version} has no SequenceParallelismPass to replace: switch the plugin on, "
            f"""--additional-config '{{"spfast": {{"enable": true}}}}'"""
        )
    plugin.load()
    if refusals():
        raise ConfigError(f"vLLM {version} is not as expected: {'; '.join(refusals())}")
    os.environ[ENVIRONMENT] = "1"
    from spfast.integrations.vllm.v0_20_to_0_31 import MANAGER

    return MANAGER
