#!/usr/bin/env bash
# The Python tests against a module built under the address and undefined-behaviour sanitizers.
#
#   tests/sanitize_python.sh [PYTEST ARGUMENT...]        PYTHON=... names the interpreter
#
# Leaks are not looked for: the interpreter keeps much until it ends. Whatever pytest is not told to
# run otherwise is the tests of the rooms that cross between Python and C++. What the sanitizers say
# goes to the process's own stderr, so pytest may not take that: it would be lost with the process.
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
cxx="${CXX:-c++}"
runtime="$("$cxx" -print-file-name=libasan.so)"
[ "$runtime" != libasan.so ] || {
  echo "error: '$cxx' has no libasan.so to load before Python; use g++ (CXX=g++)" >&2
  exit 1
}
build=build/sanitize-python
cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSPFAST_SANITIZE=address,undefined \
  -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" >/dev/null
cmake --build "$build" --parallel 2

# The package as it is, with this module in place of any other.
rm -rf "$build/package"
mkdir -p "$build/package"
cp -r python/spfast "$build/package/spfast"
rm -f "$build"/package/spfast/_core*.so
cp "$build"/_core*.so "$build/package/spfast/"

[ $# -gt 0 ] || set -- tests/api tests/fx tests/passes tests/table tests/patterns tests/models/test_rowwise.py
# The C++ library comes along: the sanitizer looks for its throw before the module brings it.
LD_PRELOAD="$runtime $("$cxx" -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1 \
  PYTHONMALLOC=malloc PYTHONPATH="$PWD/$build/package" \
  "$python" -m pytest -q -p no:cacheprovider --capture=sys "$@"
