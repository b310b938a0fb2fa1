"""What `make test-vllm` runs: one engine each, and what is to be seen of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from models import KINDS

# What the CPU needs on top of the flag: one fusion is on by default that only CUDA has.
COMPILATION = {"compile_sizes": [], "pass_config": {"fuse_rope_kvcache_cat_mla": False}}


def on(**settings: Any) -> dict[str, Any]:
    return {"additional_config": {"spfast": {"enable": True, "min_token_num": 16, **settings}}}


@dataclass(frozen=True)
class Scenario:
    """One engine.

    Attributes:
        arguments: What LLM() gets beside what all get.
        before: A statement that the driver runs first.
        cache: The scenario whose compile cache it starts from.
        environment: Variables of its own.
        rewritten: How many graphs rank 0 of each stage says it rewrote; None: at least one.
        left: How many graphs it says it left, all of each.
        versions: Which vLLM it is for.
        kind: The model.
        spawned: Whether engine and workers import all anew, as a user's do; else they are forked.
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    before: str = ""
    cache: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    rewritten: int | None = None
    left: int = 0
    versions: tuple[str, ...] = ("0.31", "0.32")
    kind: str = "llama"
    spawned: bool = False

    @property
    def base(self) -> str:
        """The scenario that it is compared with, which has the plugin off."""
        return "off" if self.kind == "llama" else f"{self.kind} off"


TWO_RANGES = {**COMPILATION, "compile_ranges_endpoints": [32]}
OWN_SWITCH = {**COMPILATION["pass_config"], "enable_sp": True, "sp_min_token_num": 16}
INSTALLED = {"compilation_config": {**COMPILATION, "pass_config": OWN_SWITCH}}
TWO_STAGES = {**on(), "pipeline_parallel_size": 2}
INSTALL = "from spfast.integrations import vllm; vllm.install()"
SCENARIOS = {
    "off": Scenario(rewritten=0),
    "on": Scenario(on(), spawned=True),
    "two ranges": Scenario({**on(), "compilation_config": TWO_RANGES}, rewritten=2),
    "again": Scenario(on(), cache="on", rewritten=0),
    "another setting": Scenario(on(min_token_num=24), cache="on"),
    "another version": Scenario(
        on(), cache="on", environment={"ANOTHER_SPFAST": "1"}, spawned=True
    ),
    # vLLM gathers the rows of a residual that a stage returns, or it has to be whole: to gather it
    # beside the last norm would be one gather more than the rewrite saves.
    "two stages, rows": Scenario(TWO_STAGES, rewritten=2, versions=("0.31",), spawned=True),
    "two stages, whole": Scenario(
        TWO_STAGES, rewritten=1, left=1, versions=("0.32",), spawned=True
    ),
    "install()": Scenario(INSTALLED, INSTALL, versions=("0.31",), spawned=True),
    "install(), two stages": Scenario(
        {**INSTALLED, "pipeline_parallel_size": 2},
        INSTALL,
        rewritten=2,
        versions=("0.31",),
        spawned=True,
    ),
    "served": Scenario(on()),
}
for kind in KINDS:
    if kind != "llama":
        SCENARIOS[f"{kind} off"] = Scenario(rewritten=0, kind=kind)
        SCENARIOS[f"{kind} on"] = Scenario(on(), kind=kind)
