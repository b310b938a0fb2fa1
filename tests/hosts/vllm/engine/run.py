"""Real vLLM engines on the CPU, with the pass and without it: `make test-vllm`.

    python run.py FOLDER PYTHON [SCENARIO...]

PYTHON is that of an environment with vLLM and spfast. Each scenario is an engine with vLLM's own
multiprocess executor and spawned workers; the first runs with the plugin off, and the others are
compared with it, token by token. The model is tiny and random; its graph is the one that a GPU
would compile (``like_gpu/``).
"""

from __future__ import annotations

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

HERE = Path(__file__).parent
LIMIT = 1e-5  # of a logprob
TIMEOUT = int(os.environ.get("SPFAST_VLLM_TIMEOUT", "1200"))

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
        rewritten: How many graphs rank 0 of each stage says it rewrote; None: at least one.
        versions: Which vLLM it is for.
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    before: str = ""
    cache: str = ""
    rewritten: int | None = None
    versions: tuple[str, ...] = ("0.31", "0.32")


OWN_SWITCH = {**COMPILATION["pass_config"], "enable_sp": True, "sp_min_token_num": 16}
INSTALLED = {"compilation_config": {**COMPILATION, "pass_config": OWN_SWITCH}}
INSTALL = "from spfast.integrations import vllm; vllm.install()"
SCENARIOS = {
    "off": Scenario(rewritten=0),
    "on": Scenario(on()),
    "again": Scenario(on(), cache="on", rewritten=0),
    "another setting": Scenario(on(min_token_num=24), cache="on"),
    "two stages": Scenario({**on(), "pipeline_parallel_size": 2}, rewritten=2),
    "install()": Scenario(INSTALLED, INSTALL, versions=("0.31",)),
    "install(), two stages": Scenario(
        {**INSTALLED, "pipeline_parallel_size": 2},
        INSTALL,
        rewritten=2,
        versions=("0.31",),
    ),
    "served": Scenario(on()),
}


class Engines:
    """The engines of one environment."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.python = python
        self.version = self._ask("import vllm.version as v; print(v.__version__)")
        self._ask(
            f"import sys, pathlib; sys.path.insert(0, {str(HERE)!r}); import generate;"
            f"generate.make_model(pathlib.Path({str(self.folder)!r}))"
        )

    def _ask(self, source: str) -> str:
        done = subprocess.run([self.python, "-c", source], check=True, capture_output=True)
        return done.stdout.decode().strip().splitlines()[-1] if done.stdout.strip() else ""

    def environment(self, cache: str) -> dict[str, str]:
        return {
            **os.environ,
            "LIKE_GPU": "1",
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(HERE / "like_gpu"), os.environ.get("PYTHONPATH")])
            ),
            "CXX": str(HERE / "c++"),
            # Inductor's command lines take no spaces in a path.
            "VLLM_CACHE_ROOT": str(self.folder / re.sub(r"\W+", "_", f"{self.version} {cache}")),
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
        }

    def arguments(self, scenario: Scenario) -> dict[str, Any]:
        return {
            "tensor_parallel_size": 2,
            "distributed_executor_backend": "mp",
            "compilation_config": COMPILATION,
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
                env=self.environment(scenario.cache or name),
                stdout=stream,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT,
                check=True,
            )
        said = self._rewritten(scenario, log.read_text(errors="replace"))
        if name == "off":
            return said
        base = json.loads((self.folder / f"{self.version} off.json").read_text())
        return f"{said}; {compare(base, json.loads(out.read_text()))}"

    def _rewritten(self, scenario: Scenario, log: str) -> str:
        lines = re.findall(r"(\d+) of (\d+) all_reduces rewritten in the graph", log)
        assert all(done != "0" for done, _ in lines), lines
        if scenario.rewritten is None:
            assert lines, "no graph was rewritten"
        else:
            assert len(lines) == scenario.rewritten, lines
        return ", ".join(f"{done} of {asked} all_reduces" for done, asked in lines) or "none"

    def _serve(self, scenario: Scenario, log: Path) -> str:
        """`vllm serve` with nothing but the documented flag, and one request."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
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
        return f"{said}; {len(answer)} tokens served"


def _ask_server(server: subprocess.Popen[bytes], port: int, model: str) -> list[int]:
    url = f"http://127.0.0.1:{port}/v1/completions"
    body = {
        "model": model,
        "prompt": list(range(3, 40)),
        "max_tokens": 4,
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


def compare(base: dict[str, Any], found: dict[str, Any]) -> str:
    """Asserts that two engines said the same."""
    worst = 0.0
    for one, other in zip(base["requests"], found["requests"], strict=True):
        assert one["ids"] == other["ids"], f"{one['length']} tokens: {one['ids']} {other['ids']}"
        for step, same in zip(one["logprobs"], other["logprobs"], strict=True):
            assert step.keys() == same.keys()
            worst = max([worst, *(abs(step[token] - same[token]) for token in step)])
    assert worst <= LIMIT, f"logprobs differ by {worst}"
    return f"{len(base['requests'])} requests equal, logprobs to {worst:.1g}"


def main(folder: str, python: str, *names: str) -> int:
    engines = Engines(Path(folder), python)
    failed = 0
    for name, scenario in SCENARIOS.items():
        wanted = not names or name in names
        if not wanted or not engines.version.startswith(scenario.versions):
            continue
        start = time.monotonic()
        try:
            said = engines.run(name)
        except (AssertionError, subprocess.SubprocessError) as error:
            failed, said = failed + 1, f"FAILED: {error}"
        seconds = time.monotonic() - start
        print(f"| {engines.version} | {name} | {said} | {seconds:.0f} s |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
