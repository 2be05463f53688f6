# `make bench` measures, `make export` exports and gates, `make test` runs the suite's own tests. Each sets up what it needs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SYNTHETIC := .cache/synthetic_bundle
MODELS_ROOT := $(or $(DP_MODELS_ROOT),$(SYNTHETIC))
ARGS ?=
# The oldest ONNX Runtime that an exported file has to load in: the one of Triton 24.08.
OLDEST := .venv-onnxruntime-1.18.1

.PHONY: bench export oldest-env test lint clean

bench: $(READY) $(if $(DP_MODELS_ROOT),,$(SYNTHETIC)/SYNTHETIC.json)
	$(BIN)/python -m pytest bench_tests --models-root "$(MODELS_ROOT)" --benchmark-json=out/benchmark.json $(ARGS)

export: $(READY) $(if $(DP_MODELS_ROOT),,$(SYNTHETIC)/SYNTHETIC.json)
	$(BIN)/python -m pytest export_tests --models-root "$(MODELS_ROOT)" $(ARGS)

oldest-env: $(OLDEST)/bin/python

$(OLDEST)/bin/python:
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check onnxruntime==1.18.1 'numpy<2'

test: $(READY)
	$(BIN)/python -m pytest meta_tests --timeout=600 $(ARGS)

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
	rm -rf $(VENV) $(OLDEST) .cache
