# `make bench` measures, `make export` exports and gates, `make serve` proves what a server serves, `make test` runs the
# suite's own tests, `make test-floor` and `make test-newest` a smoke of every room with other versions. Each sets up
# what it needs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SYNTHETIC := .cache/synthetic_bundle
MODELS_ROOT := $(or $(DP_MODELS_ROOT),$(SYNTHETIC))
ARGS ?=
# Numbers of GPUs, such as 0,1: `make bench` measures on all of them at once.
GPUS ?=
BENCH := $(if $(GPUS),tools.run_shards --gpus "$(GPUS)" --,pytest) bench_tests
# The oldest ONNX Runtime that an exported file has to load in: the one of Triton 24.08.
OLDEST := .venv-onnxruntime-1.18.1
# PyPI's tritonserver. Of its package only the binary is wanted: what it would install beside it is for its Python API.
# Of all modules only those are compiled that the backend imports, which saves a quarter of the CPU seconds.
SERVER := .venv-triton
ifeq ($(shell command -v nvidia-smi),)
SERVER_ONNXRUNTIME := onnxruntime
else
SERVER_ONNXRUNTIME := onnxruntime-gpu[cuda,cudnn]
endif
# The pip of the first environment installs into it: one of its own would take three of ten CPU seconds.
INTO_SERVER := $(BIN)/python -m pip --python $(SERVER)/bin/python install --quiet --disable-pip-version-check \
	--no-compile -c constraints-server.txt

# The lowest versions that pyproject.toml allows, on the oldest Python; and the newest ones, on the newest Python of
# this machine that torch has wheels for.
FLOOR := .venv-floor
NEWEST := .venv-newest
# The first of some versions of Python that starts here: on the path, or among pyenv's.
first_python = $(shell for version in $(1); do for python in python$$version \
	$${PYENV_ROOT:-$$HOME/.pyenv}/versions/$$version.*/bin/python3; do \
	"$$python" -c "" 2>/dev/null && echo "$$python" && exit; done; done)
OLDEST_PYTHON ?= $(call first_python,3.11)
NEWEST_PYTHON ?= $(call first_python,3.14 3.13 3.12)
SMOKE := -m pytest smoke_tests -p no:cacheprovider

.PHONY: bench export serve oldest-env serve-env test test-floor test-newest lint clean

bench: $(READY) $(if $(DP_MODELS_ROOT),,$(SYNTHETIC)/SYNTHETIC.json)
	$(BIN)/python -m $(BENCH) --models-root "$(MODELS_ROOT)" --benchmark-json=out/benchmark.json $(ARGS)

export: $(READY) $(if $(DP_MODELS_ROOT),,$(SYNTHETIC)/SYNTHETIC.json)
	$(BIN)/python -m pytest export_tests --models-root "$(MODELS_ROOT)" $(ARGS)

serve: $(READY) $(SERVER)/.ready $(if $(DP_MODELS_ROOT),,$(SYNTHETIC)/SYNTHETIC.json)
	$(BIN)/python -m pytest serve_tests --models-root "$(MODELS_ROOT)" $(ARGS)

oldest-env: $(OLDEST)/bin/python

serve-env: $(SERVER)/.ready

$(SERVER)/.ready: constraints-server.txt | $(READY)
	$(PYTHON) -m venv --without-pip $(SERVER)
	$(INTO_SERVER) "$(SERVER_ONNXRUNTIME)" onnx numpy
	$(INTO_SERVER) --no-deps nvidia-pytriton
	PYTHONDONTWRITEBYTECODE= $(SERVER)/bin/python -c "import onnx, onnxruntime"
	touch $(SERVER)/.ready

$(OLDEST)/bin/python:
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check onnxruntime==1.18.1 'numpy<2'

# Where the server cannot be installed, the tests that need it are skipped, with the reason. A file's tests stay in one
# process, because they share what is expensive to make, and so do all files that need a server or fork sessions
# (meta_tests/scheduling.py). Each of the two has a core: threads of both on all cores would wait for each other, which
# took half as long again. Freed memory is kept for the next network instead of being given back and cleared anew: half
# of the system time of loading weights. Modules and tests are compiled once, also where the environment asks for no
# bytecode: that takes a process 4 CPU seconds. No test reads log records; pytest would hook into the sixty loggers of
# torch six times a test.
test: $(READY)
	-$(MAKE) --no-print-directory serve-env
	OMP_NUM_THREADS=1 MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_MMAP_THRESHOLD_=1073741824 PYTHONDONTWRITEBYTECODE= \
		$(BIN)/python -m pytest meta_tests -p no:logging -n 2 --dist loadfile --no-loadscope-reorder --timeout=1800 $(ARGS)

test-floor: $(FLOOR)/.ready
	$(FLOOR)/bin/python $(SMOKE) $(ARGS)

test-newest: $(NEWEST)/.ready
	$(NEWEST)/bin/python $(SMOKE) $(ARGS)

# uv, because pip has no lowest resolution.
$(FLOOR)/.ready: pyproject.toml
	rm -rf $(FLOOR)
	$(or $(OLDEST_PYTHON),$(error test-floor needs Python 3.11)) -m venv $(FLOOR)
	$(FLOOR)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(FLOOR)/bin/uv pip install --quiet --python $(FLOOR)/bin/python --resolution lowest-direct -r pyproject.toml
	touch $(FLOOR)/.ready

$(NEWEST)/.ready: pyproject.toml constraints.txt
	rm -rf $(NEWEST)
	$(or $(NEWEST_PYTHON),$(error test-newest needs a Python newer than 3.11)) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $(NEWEST)/.ready

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

$(SYNTHETIC)/SYNTHETIC.json: $(READY)
	@echo "DP_MODELS_ROOT is not set: making a synthetic bundle. Latencies count, outputs mean nothing."
	rm -rf $(SYNTHETIC)
	$(BIN)/python -m tools.make_bundle --out $(SYNTHETIC) --seed 0

clean:
	rm -rf $(VENV) $(OLDEST) $(SERVER) $(FLOOR) $(NEWEST) .cache
