"""Real vLLM engines on the CPU, with the pass and without it: `make test-vllm`.

    python run.py FOLDER PYTHON [--keep] [SCENARIO...]

PYTHON is that of an environment with vLLM and spfast. A SCENARIO is "start-up" or one of
``scenarios.py``: an engine with vLLM's own multiprocess executor. The first of a model runs with
the plugin off, and the others are compared with it, token by token. The models are tiny and random;
their graphs are those that a GPU would compile (``like_gpu/``). With --keep, the results go into
the table of docs/vllm.md (``table.py``).
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from prompts import SERVED, TOKENS
from scenarios import COMPILATION, SCENARIOS, Scenario
from table import Found, keep

HERE = Path(__file__).parent
LIMIT = 1e-5  # of a logprob
START_UP = 50  # milliseconds that the plugin may cost a process while it is off
TIMEOUT = int(os.environ.get("SPFAST_VLLM_TIMEOUT", "1200"))
# Names a build by what pip wrote down of the package's files.
BUILD = """
import hashlib, importlib.metadata
kept = [f"{each} {each.hash.value}" for each in importlib.metadata.files("spfast")
        if each.hash and each.parts[0] == "spfast" and each.parts[1] != "_suite"]
print(hashlib.sha256(" ".join(sorted(kept)).encode()).hexdigest()[:12])
"""
# Else each process would compile all of vLLM anew.
BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}


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
        self.build = self._ask(BUILD)

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
        cache = self._cache(name)
        return {
            **os.environ,
            "LIKE_GPU": "1",
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(HERE / "like_gpu"), os.environ.get("PYTHONPATH")])
            ),
            "CXX": str(HERE / "c++"),
            "KERNELS": str(self._made("kernels")),
            **BYTECODE,
            "VLLM_CACHE_ROOT": str(cache),
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
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
        """The folder for what vLLM and Inductor keep of a scenario.

        What vLLM knows of a model's class is for all engines.
        """
        # Inductor's command lines take no spaces in a path.
        cache = self._made(re.sub(r"\W+", "_", f"{self.version} {SCENARIOS[name].cache or name}"))
        known = self._made(f"{self.version}_modelinfos")
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

    def run(self, name: str) -> Found:
        """Runs a scenario: what was rewritten, and what the comparison said.

        Raises:
            AssertionError: It is not as it has to be.
        """
        scenario = SCENARIOS[name]
        log = self.folder / f"{self.version} {name}.log"
        if not scenario.cache:
            shutil.rmtree(self._cache(name))  # of an earlier run, which compiled all of it
        if name == "served":
            return self._serve(scenario, log)
        out = self.folder / f"{self.version} {name}.json"
        out.unlink(missing_ok=True)
        if scenario.spawned:
            self._spawn(name, out, log)
        else:
            self._fork(name, out, log)
        said = self._rewritten(scenario, log.read_text(errors="replace"))
        code = [path.read_text() for path in self._cache(name).rglob("*.py")]
        assert any(re.search(scenario.compiled, each) for each in ("", *code)), (
            f"no code has {scenario.compiled!r}"
        )
        if scenario.is_base:
            return Found(rewritten=said, compared="")
        compared = compare(self._said(scenario.base), self._said(name))
        return Found(rewritten=said, compared=compared)

    def _spawn(self, name: str, out: Path, log: Path) -> None:
        scenario = SCENARIOS[name]
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

    def _fork(self, name: str, out: Path, log: Path) -> None:
        scenario = SCENARIOS[name]
        job = {
            "folder": str(self.folder),
            "out": str(out),
            "arguments": self.arguments(scenario),
            "environment": self.environment(name),
            "log": str(log),
            "limit": TIMEOUT,
        }
        preloaded = self._preloaded
        assert preloaded.stdin is not None and preloaded.stdout is not None
        preloaded.stdin.write(json.dumps(job) + "\n")
        preloaded.stdin.flush()
        code = preloaded.stdout.readline().strip()
        assert code == "0", f"exit code {code}"

    @functools.cached_property
    def _preloaded(self) -> subprocess.Popen[str]:
        """A process that has imported vLLM; it ends when nobody asks it any more."""
        return subprocess.Popen(
            [self.python, str(HERE / "preloaded.py")],
            env=self.environment("off"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _asked(self, script: str) -> dict[str, Any]:
        """What a script beside this one prints."""
        source = f"import runpy; runpy.run_path({str(HERE / script)!r}, run_name='__main__')"
        return dict(json.loads(self._ask(source)))

    def start_up(self) -> Found:
        """Measures what the plugin costs while it is off: the least of three fresh processes."""
        took = [self._asked("startup.py") for _ in range(3)]
        least = {name: min(each[name] for each in took) for name in took[0]}
        said = f"{least['spfast']:.0f} ms, beside {least['vllm']:.0f} ms of vLLM's own imports"
        assert least["spfast"] < START_UP, said
        return Found(rewritten="", compared=said)

    def _said(self, name: str) -> list[dict[str, Any]]:
        """What the engine of a scenario answered to each prompt."""
        return list(json.loads((self.folder / f"{self.version} {name}.json").read_text()))

    def _rewritten(self, scenario: Scenario, log: str) -> str:
        lines = re.findall(r"\d+ of \d+ all_reduces rewritten in the graph .*", log)
        left = sum(line.startswith("0 ") for line in lines)
        rewritten = len(lines) - left
        assert left == scenario.left, lines
        if scenario.rewritten is None:
            assert rewritten, "no graph was rewritten"
        else:
            assert rewritten == scenario.rewritten, lines
        assert re.search(scenario.says, log), f"the log does not say {scenario.says!r}"
        return ", ".join(map(_shortened, lines)) or "none"

    def _serve(self, scenario: Scenario, log: Path) -> Found:
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
        return Found(rewritten=said, compared=f"{len(answer)} tokens served, equal")


def _shortened(line: str) -> str:
    """What the plugin did to a graph, without what is the same for all graphs of an engine."""
    done, _, rest = line.partition(" rewritten in the graph ")
    return "; ".join([done, *re.findall(r"; (\d+ (?:left: |of )[^;]*)", rest)])


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


def main(folder: str, python: str, *options: str) -> int:
    engines = Engines(Path(folder), python)
    names = [each for each in options if each != "--keep"]
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
            found = checks[name]()
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            failed += 1
            found = Found(rewritten="", compared=f"FAILED: {error}".splitlines()[0])
        if "--keep" in options:
            keep(engines.build, engines.version, name, found)
        said = "; ".join(filter(None, found.values()))
        seconds = time.monotonic() - start
        print(f"| {engines.version} | {name} | {said} | {seconds:.0f} s |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
