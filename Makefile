# Two commands: `make bench` runs the main job, `make test` the suite's own tests. Both set up what they need.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SYNTHETIC := .cache/synthetic_bundle
MODELS_ROOT := $(or $(DP_MODELS_ROOT),$(SYNTHETIC))
ARGS ?=

.PHONY: bench test lint clean

bench: $(READY) $(if $(DP_MODELS_ROOT),,$(SYNTHETIC)/SYNTHETIC.json)
	$(BIN)/python -m pytest bench_tests --models-root "$(MODELS_ROOT)" --benchmark-json=out/benchmark.json $(ARGS)

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
	rm -rf $(VENV) .cache
