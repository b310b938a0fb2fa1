"""Real vLLM engines on the CPU, with the pass and without it: `make test-vllm`.

    python run.py FOLDER PYTHON [SCENARIO...]

PYTHON is that of an environment with vLLM and spfast. A SCENARIO is "start-up" or one of SCENARIOS:
an engine with vLLM's own multiprocess executor and spawned workers; the first of a model runs with
the plugin off, and the others are compared with it, token by token. The models are tiny and random;
their graphs are those that a GPU would compile (``like_gpu/``).
"""

from __future__ import annotations

import functools
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models import KINDS
from prompts import SERVED, TOKENS

HERE = Path(__file__).parent
LIMIT = 1e-5  # of a logprob
START_UP = 50  # milliseconds that the plugin may cost a process while it is off
TIMEOUT = int(os.environ.get("SPFAST_VLLM_TIMEOUT", "1200"))
# Else each process would compile all of vLLM anew.
BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}

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
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    before: str = ""
    cache: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    rewritten: int | None = None
    left: int = 0
    versions: tuple[str, ...] = ("0.31", "0.32")
    kind: str = "llama"

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
    "on": Scenario(on()),
    "two ranges": Scenario({**on(), "compilation_config": TWO_RANGES}, rewritten=2),
    "again": Scenario(on(), cache="on", rewritten=0),
    "another setting": Scenario(on(min_token_num=24), cache="on"),
    "another version": Scenario(on(), cache="on", environment={"ANOTHER_SPFAST": "1"}),
    # vLLM gathers the rows of a residual that a stage returns, or it has to be whole: to gather it
    # beside the last norm would be one gather more than the rewrite saves.
    "two stages, rows": Scenario(TWO_STAGES, rewritten=2, versions=("0.31",)),
    "two stages, whole": Scenario(TWO_STAGES, rewritten=1, left=1, versions=("0.32",)),
    "install()": Scenario(INSTALLED, INSTALL, versions=("0.31",)),
    "install(), two stages": Scenario(
        {**INSTALLED, "pipeline_parallel_size": 2},
        INSTALL,
        rewritten=2,
        versions=("0.31",),
    ),
    "served": Scenario(on()),
}
for kind in KINDS:
    if kind != "llama":
        SCENARIOS[f"{kind} off"] = Scenario(rewritten=0, kind=kind)
        SCENARIOS[f"{kind} on"] = Scenario(on(), kind=kind)


class Engines:
    """The engines of one environment."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.python = python
        self.version = self._ask(
            "import importlib.metadata as packages;"
            "print(packages.version(packages.packages_distributions()['vllm'][0]))"
        )

    def _ask(self, source: str) -> str:
        done = subprocess.run(
            [self.python, "-c", source],
            env={**os.environ, **BYTECODE},
            check=True,
            capture_output=True,
        )
        return done.stdout.decode().strip().splitlines()[-1] if done.stdout.strip() else ""

    def environment(self, name: str) -> dict[str, str]:
        scenario = SCENARIOS[name]
        # Inductor's command lines take no spaces in a path.
        cache = re.sub(r"\W+", "_", f"{self.version} {scenario.cache or name}")
        return {
            **os.environ,
            "LIKE_GPU": "1",
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(HERE / "like_gpu"), os.environ.get("PYTHONPATH")])
            ),
            "CXX": str(HERE / "c++"),
            "KERNELS": str(self._made("kernels")),
            **BYTECODE,
            "VLLM_CACHE_ROOT": str(self._cache(cache)),
            "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "inductor"),
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_NO_USAGE_STATS": "1",
            "OMP_NUM_THREADS": "1",
            "ATEN_CPU_CAPABILITY": "default",
            "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            **scenario.environment,
        }

    def _made(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(exist_ok=True)
        return path

    def _cache(self, name: str) -> Path:
        """The folder for what vLLM keeps; what it knows of a model's class is for all engines."""
        known, cache = self._made(f"{self.version}_modelinfos"), self._made(name)
        if not (cache / "modelinfos").exists():
            (cache / "modelinfos").symlink_to(known)
        return cache

    def arguments(self, scenario: Scenario) -> dict[str, Any]:
        return {
            "tensor_parallel_size": 2,
            "distributed_executor_backend": "mp",
            "compilation_config": COMPILATION,
            "kind": scenario.kind,
            **scenario.arguments,
        }

    def run(self, name: str) -> str:
        """Runs a scenario; the answer is what there is to say of it.

        Raises:
            AssertionError: It is not as it has to be.
        """
        scenario = SCENARIOS[name]
        log = self.folder / f"{self.version} {name}.log"
        if name == "served":
            return self._serve(scenario, log)
        out = self.folder / f"{self.version} {name}.json"
        command = [self.python, str(HERE / "generate.py"), str(self.folder), str(out)]
        command += [json.dumps(self.arguments(scenario)), *filter(None, [scenario.before])]
        with log.open("w") as stream:
            subprocess.run(
                command,
                env=self.environment(name),
                stdout=stream,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT,
                check=True,
            )
        said = self._rewritten(scenario, log.read_text(errors="replace"))
        if name == scenario.base:
            return said
        return f"{said}; {compare(self._said(scenario.base), self._said(name))}"

    def _asked(self, script: str) -> dict[str, Any]:
        """What a script beside this one prints."""
        source = f"import runpy; runpy.run_path({str(HERE / script)!r}, run_name='__main__')"
        return dict(json.loads(self._ask(source)))

    def start_up(self) -> str:
        """Measures what the plugin costs while it is off: the least of three fresh processes."""
        took = [self._asked("startup.py") for _ in range(3)]
        least = {name: min(each[name] for each in took) for name in took[0]}
        said = f"{least['spfast']:.0f} ms, beside {least['vllm']:.0f} ms of vLLM's own imports"
        assert least["spfast"] < START_UP, said
        return said

    def _said(self, name: str) -> list[dict[str, Any]]:
        """What the engine of a scenario answered to each prompt."""
        return list(json.loads((self.folder / f"{self.version} {name}.json").read_text()))

    def _rewritten(self, scenario: Scenario, log: str) -> str:
        lines = re.findall(r"(\d+) of (\d+) all_reduces rewritten in the graph", log)
        left = [asked for done, asked in lines if done == "0"]
        rewritten = len(lines) - len(left)
        assert len(left) == scenario.left, lines
        if scenario.rewritten is None:
            assert rewritten, "no graph was rewritten"
        else:
            assert rewritten == scenario.rewritten, lines
        return ", ".join(f"{done} of {asked} all_reduces" for done, asked in lines) or "none"

    def _serve(self, scenario: Scenario, log: Path) -> str:
        """`vllm serve` with nothing but the documented flag, and one request."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._ask(
            f"import sys, pathlib; sys.path.insert(0, {str(HERE)!r}); import models;"
            f"models.make_model(pathlib.Path({str(self.folder)!r}), {scenario.kind!r})"
        )
        settings = json.dumps(scenario.arguments["additional_config"])
        command = [self.python, "-m", "vllm.entrypoints.cli.main", "serve"]
        command += [str(self.folder / "tiny-llama"), "--tensor-parallel-size", "2"]
        command += ["--port", str(port), "--dtype", "float32", "--generation-config", "vllm"]
        command += ["--max-model-len", "256", "--max-num-batched-tokens", "64"]
        command += ["--max-num-seqs", "8", "--compilation-config", json.dumps(COMPILATION)]
        command += ["--additional-config", settings]
        environment = {**self.environment("served"), "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
        with log.open("w") as stream:
            server = subprocess.Popen(
                command, env=environment, stdout=stream, stderr=subprocess.STDOUT
            )
        try:
            answer = _ask_server(server, port, str(self.folder / "tiny-llama"))
        finally:
            server.terminate()
            server.wait()
        said = self._rewritten(scenario, log.read_text(errors="replace"))
        alone = [each["ids"] for each in self._said("off") if each["prompt"] == SERVED]
        assert alone == [answer], f"{alone} without the pass, {answer} served"
        return f"{said}; {len(answer)} tokens served, equal"


def _ask_server(server: subprocess.Popen[bytes], port: int, model: str) -> list[int]:
    url = f"http://127.0.0.1:{port}/v1/completions"
    body = {
        "model": model,
        "prompt": SERVED,
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    end = time.monotonic() + TIMEOUT
    while True:
        assert server.poll() is None, "the server ended"
        assert time.monotonic() < end, "the server did not come up"
        try:
            with urllib.request.urlopen(request) as response:
                return list(json.load(response)["choices"][0]["token_ids"])
        except ConnectionError:
            time.sleep(2)
        except urllib.error.URLError as error:
            if isinstance(error, urllib.error.HTTPError):
                raise
            time.sleep(2)


def compare(base: list[dict[str, Any]], found: list[dict[str, Any]]) -> str:
    """Asserts that two engines said the same."""
    worst = 0.0
    for one, other in zip(base, found, strict=True):
        assert one["prompt"] == other["prompt"]
        assert one["ids"] == other["ids"], (
            f"{len(one['prompt'])} tokens: {one['ids']} {other['ids']}"
        )
        for step, same in zip(one["logprobs"], other["logprobs"], strict=True):
            assert step.keys() == same.keys()
            worst = max([worst, *(abs(step[token] - same[token]) for token in step)])
    assert worst <= LIMIT, f"logprobs differ by {worst}"
    return f"{len(base)} requests equal, logprobs to {worst:.1g}"


def main(folder: str, python: str, *names: str) -> int:
    engines = Engines(Path(folder), python)
    checks = {"start-up": engines.start_up}
    for name in SCENARIOS:
        checks[name] = functools.partial(engines.run, name)
    assert set(names) <= set(checks), f"there are: {', '.join(checks)}"
    failed = 0
    for name in names or checks:
        if name in SCENARIOS and not engines.version.startswith(SCENARIOS[name].versions):
            continue
        start = time.monotonic()
        try:
            said = checks[name]()
        except (AssertionError, subprocess.SubprocessError) as error:
            failed, said = failed + 1, f"FAILED: {error}"
        seconds = time.monotonic() - start
        print(f"| {engines.version} | {name} | {said} | {seconds:.0f} s |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
