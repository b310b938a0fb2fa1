"""What `make test-vllm` runs: one engine each, and what is to be seen of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# What the CPU needs on top of the flag: one fusion is on by default that only CUDA has.
COMPILATION = {"compile_sizes": [], "pass_config": {"fuse_rope_kvcache_cat_mla": False}}


def on(**settings: Any) -> dict[str, Any]:
    return {"additional_config": {"spfast": {"enable": True, "min_token_num": 16, **settings}}}


VERSIONS = ("0.31.0", "0.32.0")


@dataclass(frozen=True)
class Scenario:
    """One engine.

    Attributes:
        title: What the documentation calls it.
        arguments: What LLM() gets beside what all get.
        before: A statement that the driver runs first.
        cache: The scenario whose compile cache it starts from.
        environment: Variables of its own.
        rewritten: How many graphs rank 0 of each stage says it rewrote; None: at least one.
        left: How many graphs it says it left, all of each.
        versions: Which vLLM it is for.
        kind: The model.
        says: What the log must say, as a regular expression.
        compiled: What Inductor's code must have, likewise, in one file.
        spawned: Whether engine and workers import all anew, as a user's do; else they are forked.
    """

    title: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    before: str = ""
    cache: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    rewritten: int | None = None
    left: int = 0
    versions: tuple[str, ...] = ("0.31", "0.32")
    kind: str = "llama"
    says: str = ""
    compiled: str = ""
    spawned: bool = False

    @property
    def base(self) -> str:
        """The scenario that it is compared with, which has the plugin off."""
        if self.environment == PRODUCTS:
            return "off, products"
        return "off" if self.kind == "llama" else f"{self.kind} off"

    @property
    def is_base(self) -> bool:
        """Whether others are compared with it."""
        return not self.title


TWO_RANGES = {**COMPILATION, "compile_ranges_endpoints": [32]}
OWN_SWITCH = {**COMPILATION["pass_config"], "enable_sp": True, "sp_min_token_num": 16}
INSTALLED = {"compilation_config": {**COMPILATION, "pass_config": OWN_SWITCH}}
TWO_STAGES = {**on(), "pipeline_parallel_size": 2}
INSTALL = "from spfast.integrations import vllm; vllm.install()"
PIECES = {**COMPILATION, "splitting_ops": ["vllm::unified_attention_with_output"]}
IN_PIECES = {**on(), "compilation_config": {**PIECES, "compile_sizes": [32]}}
# Matrix products are operators of vLLM's own on a CPU: no pair would be found beside them.
PRODUCTS = {"PRODUCTS_LIKE_GPU": "1"}
SCENARIOS = {
    "off": Scenario(rewritten=0),
    "on": Scenario("on, from 16 of 64 tokens on", on(), spawned=True),
    "two ranges": Scenario(
        "two ranges that are applicable",
        {**on(), "compilation_config": TWO_RANGES},
        rewritten=2,
    ),
    "again": Scenario(
        "a second start, which loads what the first one compiled",
        on(),
        cache="on",
        rewritten=0,
        says="Directly load (the compiled graph|AOT compilation)",
    ),
    "another setting": Scenario(
        "another setting, on the same cache", on(min_token_num=24), cache="on"
    ),
    "another version": Scenario(
        "another version of spfast, on the same cache",
        on(),
        cache="on",
        environment={"ANOTHER_SPFAST": "1"},
        spawned=True,
    ),
    # vLLM gathers the rows of a residual that a stage returns, or it has to be whole: to gather it
    # beside the last norm would be one gather more than the rewrite saves.
    "two stages, rows": Scenario(
        "TP 2 x PP 2", TWO_STAGES, rewritten=2, versions=("0.31",), spawned=True
    ),
    "two stages, whole": Scenario(
        "TP 2 x PP 2", TWO_STAGES, rewritten=1, left=1, versions=("0.32",), spawned=True
    ),
    "install()": Scenario(
        "vLLM's own switch and `install()`",
        INSTALLED,
        INSTALL,
        versions=("0.31",),
        spawned=True,
    ),
    "install(), two stages": Scenario(
        "the same, TP 2 x PP 2",
        {**INSTALLED, "pipeline_parallel_size": 2},
        INSTALL,
        rewritten=2,
        versions=("0.31",),
        spawned=True,
    ),
    "served": Scenario("`vllm serve`, one request of 37 tokens", on()),
    # A CPU has no symmetric memory: each pair stays, and says why.
    "off, products": Scenario(rewritten=0, environment=PRODUCTS),
    "async TP": Scenario(
        '`"async_tp": true`',
        on(async_tp=True),
        environment=PRODUCTS,
        says=r"0 of [1-9]\d* pairs fused; \d+ left: ",
    ),
    # Up to 0.31 vLLM itself takes the cuts back, for its own switch is on.
    "pieces, taken back": Scenario(
        "cut at each attention, which vLLM takes back, 32 tokens compiled by themselves",
        IN_PIECES,
        rewritten=2,
        versions=("0.31",),
        says="Setting splitting_ops to an empty list",
    ),
    # Of three pieces, the last one gets no more collectives than it had.
    "pieces": Scenario(
        "cut at each attention, 32 tokens compiled by themselves",
        IN_PIECES,
        rewritten=1,
        left=2,
        versions=("0.32",),
    ),
    "partitions": Scenario(
        "`use_inductor_graph_partition`",
        {**on(), "compilation_config": {**COMPILATION, "use_inductor_graph_partition": True}},
    ),
}
TITLES = {
    "qwen3": "Qwen3, with its norms of q and k",
    "gemma2": "Gemma 2, with a norm before each addition, too",
    "gemma3": "Gemma 3, likewise",
    "mixtral": "Mixtral",
    "qwen3_moe": "Qwen3-MoE, its experts one operator",
    "deepseek_v2": "DeepSeek-V2 (MLA)",
    "llama_int8": "Llama, int8: weights by channel, activations by token",
    "llama_fp8": "Llama, float8 likewise",
}
# What is gathered of a quantised model is quantised: the very buffer that the operator fills.
INT8 = r"(?s)(buf\d+) = empty_strided_cpu\([^\n]*, torch\.int8\).*\ball_gather\.default\(\1,"
for kind, title in TITLES.items():
    compiled = INT8 if kind == "llama_int8" else ""
    SCENARIOS[f"{kind} off"] = Scenario(rewritten=0, kind=kind)
    SCENARIOS[f"{kind} on"] = Scenario(title, on(), kind=kind, compiled=compiled)
